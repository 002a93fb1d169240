"""The command: sections in processes of their own, each with its time; a table; JSON."""

from __future__ import annotations

import argparse
import datetime
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.worker import SECTIONS
from benchmarks.machine import ROOT, usable_cores, versions, worker_environment
from xplayers.arrays import devices

TOTAL = 460.0  # seconds; the command has to end within eight minutes
BUDGET = {  # seconds after which a section is ended
    "correctness": 60.0, "on_device": 20.0, "replay": 25.0, "gemm": 30.0, "cudnn": 30.0,
    "bandwidth": 20.0, "products": 20.0, "xplayers": 30.0, "xplayers-graph": 35.0,
    "xplayers-fused": 35.0, "xplayers-fused-10": 35.0, "xplayers-cudnn": 25.0, "torch": 25.0,
    "torch-graph": 25.0, "torch-compile": 90.0, "jax": 40.0,
}  # fmt: skip
LEAST = 5.0  # seconds; with less left a section is not begun
ON_CPU = ("correctness", "xplayers", "torch", "jax")
AGREE = {"bfloat16": 5e-2}  # relative; of losses, by what the name of a workload says
CLOSE = 5e-3


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m benchmarks gpu", description="Check and time the GPU path."
    )
    p.add_argument("--json", metavar="PATH", type=Path, help="write the results there")
    p.add_argument("--only", metavar="REGEX", default="", help="the sections whose name matches")
    p.add_argument("--list", action="store_true", help="list the sections")
    p.add_argument("--seconds", type=float, default=0.5, help="length of a measurement (0.5)")
    p.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda",
        help="cpu: tiny steps on the CPU, to try this command out",
    )  # fmt: skip
    return p


def main(arguments: Sequence[str]) -> int:
    args = parser().parse_args(arguments)
    chosen = [s for s in SECTIONS if re.search(args.only, s)]
    if args.device == "cpu":
        chosen = [s for s in chosen if s in ON_CPU]
    if args.list or not chosen:
        print(f"sections: {', '.join(SECTIONS)}")
        return 0 if args.list else 2
    device = "the CPU"
    if args.device == "cuda":
        cupy = devices.look("cupy")
        if cupy.why:
            print(f"benchmarks gpu: {cupy}; {cupy.fix}.", file=sys.stderr)
            return 1
        device = cupy.devices[0]
    results: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "device": device,
        "versions": versions() | {"cupy": devices.look("cupy").version or "not installed"},
        "seconds": args.seconds,
        "sections": {},
    }
    print(f"{results['date']}, {device}", flush=True)
    end = time.monotonic() + TOTAL
    for section in chosen:
        left = min(BUDGET[section], end - time.monotonic())
        results["sections"][section] = rows = run(section, args.device, args.seconds, left)
        compare(results["sections"])
        print("\n".join(["", section, *map(line, rows)]), flush=True)
        if args.json:  # after each section: a run that is broken off has not been for nothing
            args.json.write_text(json.dumps(results, indent=1) + "\n")
    results["ratios"] = ratios(results["sections"])
    print("\n".join(["", *(f"{name} = {value:.2f}" for name, value in results["ratios"].items())]))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    return int(any("error" in row for rows in results["sections"].values() for row in rows))


def run(section: str, device: str, seconds: float, limit: float) -> list[dict[str, Any]]:
    """Run a section, and return its rows; what goes wrong is a row."""
    if limit < LEAST:
        return [{"row": section, "error": "not run: the time of the whole command is up"}]
    env = worker_environment(usable_cores())
    if device == "cuda":
        del env["JAX_PLATFORMS"]
        env["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.gpu.worker", section, device, str(seconds)],
        cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    late = ""
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        late = f"ended after {limit:.0f} s"
    rows = [json.loads(text) for text in out.splitlines() if text.endswith("}")]
    if late:
        rows.append({"row": section, "error": late})
    elif process.returncode:
        last = (err.strip().splitlines() or ["no words"])[-1]
        rows.append({"row": section, "error": f"status {process.returncode}: {last}"})
    return rows


def compare(sections: Mapping[str, list[dict[str, Any]]]) -> None:
    """Make an error of losses that are not those of the first implementation of a workload."""
    first: dict[str, list[float]] = {}
    for rows in sections.values():
        for row in rows:
            if "losses" not in row:
                continue
            expected = first.setdefault(row["row"], row["losses"])
            tolerance = next((t for word, t in AGREE.items() if word in row["row"]), CLOSE)
            for a, b in zip(row["losses"], expected, strict=True):
                if not math.isclose(a, b, rel_tol=tolerance):
                    row["error"] = f"loss {a:.6g}, and the first implementation has {b:.6g}"


def ratios(sections: Mapping[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Return what is to be reached, as far as its rows are there: medians over medians."""
    times = {
        name: {row["row"]: row["time"]["median"] for row in rows if "time" in row}
        for name, rows in sections.items()
    }
    quotients: dict[str, float] = {}
    workloads = {w: None for name in times for w in times[name] if SECTIONS[name]}
    for workload in workloads:
        ours = [n for n in times if n.startswith("xpl") and workload in times[n]]
        # One step a launch beside the same of others; PyTorch's graph could be of ten steps too.
        mine = [times[n][workload] for n in ours if not n.endswith("-10")]
        if not mine:
            continue
        peers = [n for n in ("torch", "torch-compile", "jax") if workload in times.get(n, {})]
        if peers:
            fastest = min(peers, key=lambda n: times[n][workload])
            quotients[f"{workload}: xplayers / {fastest}"] = min(mine) / times[fastest][workload]
        for other in ("torch-graph", "products"):
            if workload in times.get(other, {}):
                quotients[f"{workload}: xplayers / {other}"] = min(mine) / times[other][workload]
    return quotients


def line(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    text = f"  {row['row']:<36}"
    if "time" in row:
        low, high = row["time"]["quartiles"]
        spread = f"{duration(low)} to {duration(high)}"
        text += (
            f"{duration(row['time']['median']):>10}{duration(row['time']['min']):>10}{spread:>24}"
        )
    if "error" in row:
        return f"{text}  FAILED: {row['error']}"
    return f"{text}  {row.get('value', '')}".rstrip()


def duration(seconds: float) -> str:
    if seconds >= 1.0:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"
