"""The peak memory of a training step: the report of ``python -m benchmarks --memory``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from benchmarks import workloads
from benchmarks.measure import check_agreement, failures
from benchmarks.networks import LayerData
from benchmarks.pool import workers
from benchmarks.report import titled
from benchmarks.workloads import Workload

WORKLOADS = ("step-784-1024-1024-10", "step-784-2048-2048-2048-10", "step-cnn")
IMPLEMENTATIONS = (
    "xplayers-numpy", "xplayers-numpy-step", "xplayers-torch", "xplayers-jax",
    "book", "torch-eager", "jax",
)  # fmt: skip
REFERENCE = "torch-eager"
FIGURES = ("level", "first", "step")


def entries(
    chosen: Sequence[Workload], implementations: Sequence[str], **options: Any
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure the memory of steps, and yield the workloads' names and entries of the JSON."""
    for workload in chosen:
        with failures(workload.title) as entry:
            entry |= run(workload, implementations, **options)
        yield workload.name, entry


def run(
    workload: Workload,
    implementations: Sequence[str],
    *,
    threads: int,
    rounds: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Measure a workload: each implementation has a new process in each of the rounds."""
    values, replies, not_run = {}, {}, {}
    for _, name in itertools.product(range(rounds), implementations):
        say(f"{workload.name}: {name}")
        with workers([name], threads) as (process,):
            reply = process.ask("memory", workload=asdict(workload))
        if "not_run" in reply:
            not_run[name] = reply["not_run"]
        elif "skipped" not in reply:
            values[name] = reply["values"]
            replies.setdefault(name, []).append(reply)
    check_agreement(workload.name, values)
    rows = {
        name: {figure: median(reply[figure] for reply in of_rounds) for figure in FIGURES}
        | {"rounds": [{figure: reply[figure] for figure in FIGURES} for reply in of_rounds]}
        for name, of_rounds in replies.items()
    }
    for row in rows.values():
        if REFERENCE in rows:
            row["over_torch"] = above(row, "step") / above(rows[REFERENCE], "step")
    return {"state": state(workload), "not_run": not_run, "implementations": rows}


def state(workload: Workload) -> int:
    """Return the bytes of parameters, gradients and the two moments of Adam."""
    layers: list[LayerData] = workloads.data(workload)["layers"]
    return 4 * sum(a.nbytes for layer in layers for a in layer.arrays.values())


def above(row: dict[str, Any], figure: str) -> float:
    return row[figure] - row["level"]


def table(name: str, entry: dict[str, Any]) -> str:
    return titled(name, entry, _rows)


def _rows(entry: dict[str, Any]) -> Iterator[str]:
    yield f"  {'MiB':<22}{'imported':>10}{'two steps':>13}{'later steps':>13}{'/ torch':>10}"
    rows = entry["implementations"]
    for name in sorted(rows, key=lambda name: above(rows[name], "step")):
        row = rows[name]
        ratio = f"{row['over_torch']:.2f}" if "over_torch" in row else ""
        yield (
            f"  {name:<22}{_mib(row['level']):>10}{'+' + _mib(above(row, 'first')):>13}"
            f"{'+' + _mib(above(row, 'step')):>13}{ratio:>10}"
        )
    for name, reason in entry["not_run"].items():
        yield f"  {name:<22}not run: {reason}"
    yield f"  parameters, gradients and moments are {_mib(entry['state'])} MiB of it"


def _mib(n: float) -> str:
    return f"{n / 2**20:.1f}"
