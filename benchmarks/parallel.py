"""A step in two processes beside one: ``python -m benchmarks --parallel``; needs an ``mpiexec``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, worker_environment

SIZES, BATCH = (784, 1024, 1024, 10), 512
STEPS, TURNS = 6, 4  # steps in a turn, of which the fastest counts
# What the machine allows: each with its part of the batch, at the same time, and with no sum.
APART = "two apart"
# The rows: processes, and the threads of each. Ratios are those of the last to the others.
ROWS = {"one thread": (1, 1), "two threads": (1, 2), APART: (2, 1), "two processes": (2, 1)}
AIMS = {"one thread": 0.6, "two threads": 1.0}  # of these ratios, at most


def main(rounds: int) -> int:
    """Measure the rows by turns, and print the fastest steps."""
    launcher = _mpiexec()
    if launcher is None:
        print('--parallel needs an mpiexec: pip install "xplayers[mpi]" mpich', file=sys.stderr)
        return 2
    print(f"A step of {'-'.join(map(str, SIZES))} with Adam, batch {BATCH}, NumPy")
    best: dict[str, dict[str, Any]] = {}
    for _ in range(rounds):
        for name, (processes, threads) in ROWS.items():
            entry = _measured(launcher, processes, threads, name == APART)
            best[name] = min(entry, best.get(name, entry), key=lambda e: e["step"])
    for name, entry in best.items():
        print(f"{name:<16}{1e3 * entry['step']:7.1f} ms{_share(entry)}")
    *others, last = best
    for name in others:
        ratio, aim = best[last]["step"] / best[name]["step"], AIMS.get(name)
        met = "" if aim is None else f" (aim: {aim}, {'met' if ratio <= aim else 'missed'})"
        limit = ""
        if APART in best and aim is not None:
            limit = f"; with no sum at all {best[APART]['step'] / best[name]['step']:.2f}"
        print(f"{last} / {name}: {ratio:.2f}{met}{limit}")
    return int(not all(entry["replayed"] for entry in best.values()))


def _share(entry: dict[str, Any]) -> str:
    """Return the share of a step of its sum, and of that what is not waiting for the others."""
    if not entry["sum"]:
        return ""
    inside, alone = (entry[key] / entry["step"] for key in ("sum", "alone"))
    return f", of which {inside:.0%} in the sum over the processes, which alone takes {alone:.0%}"


def _mpiexec() -> str | None:
    own = Path(sys.executable).with_name("mpiexec")  # of a wheel
    return str(own) if own.exists() else shutil.which("mpiexec")


def _measured(launcher: str, processes: int, threads: int, apart: bool) -> dict[str, Any]:
    """Return what rank 0 of a worker prints."""
    numbers = map(str, (STEPS, TURNS, int(apart)))
    command = [sys.executable, "-m", "benchmarks.parallel", *numbers]
    if processes > 1:
        command = [launcher, "-n", str(processes), *command]
    ran = subprocess.run(
        command, cwd=ROOT, env=worker_environment(threads), check=True, stdout=subprocess.PIPE
    )
    return json.loads(ran.stdout)


def worker(steps: int, turns: int, apart: int = 0) -> dict[str, Any]:
    """Return the seconds of the fastest step of this process, and those of its sum.

    `apart` processes only begin each turn together.
    """
    import numpy as np

    import xplayers as xl

    group, waited, lengths = xl.parallel.group(), [0.0], [0]
    if group.size > 1:
        own = group.sum_

        def sum_(flat: Any) -> None:
            start = time.perf_counter()
            own(flat)
            waited[0] += time.perf_counter() - start
            lengths.append(len(flat))

        group.sum_ = sum_
    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCH, SIZES[0]), "float32")
    t = rng.integers(0, SIZES[-1], BATCH)
    ((x, t),) = xl.minibatches(x, t, BATCH, group=group)
    net, of_step = xl.mlp(SIZES, rng=0), None if apart else group
    step = xl.TrainStep(net, xl.SoftmaxWithLoss(), xl.Adam(), group=of_step)
    for _ in range(4):  # two are recorded
        step(x, t)
    times = []
    for _ in range(turns):
        group.barrier()
        waited[0], start = 0.0, time.perf_counter()
        for _ in range(steps):
            step(x, t)
        times.append(((time.perf_counter() - start) / steps, waited[0] / steps))
    (take,) = step._compiled.values()
    seconds, waiting = min(times)
    if apart:
        waiting, lengths = 0.0, [0]
    flat, alone = np.zeros(lengths[-1], "float32"), []
    for _ in range(steps * turns):
        group.barrier()
        start = time.perf_counter()
        group.sum_(flat)
        alone.append(time.perf_counter() - start)
    return {
        "rank": group.rank, "step": seconds, "sum": waiting, "alone": min(alone),
        "replayed": bool(take.replays.replays),
    }  # fmt: skip


if __name__ == "__main__":
    result = worker(*map(int, sys.argv[1:]))
    if result["rank"] == 0:
        print(json.dumps(result))
