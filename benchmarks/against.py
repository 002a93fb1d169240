"""Our rows against those of another checkout: ``python -m benchmarks --against CHECKOUT``.

The benchmarks are the same on both sides, the package is the checkout's: two processes for each
implementation, by turns. What is asked of a change is a ratio of at most `LIMIT`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import failures, ratio, started, turn
from benchmarks.pool import Process, workers
from benchmarks.report import duration, titled
from benchmarks.workloads import Workload

LIMIT = 1.03  # what is below may be noise; a row above it fails
SIDES = ("before", "after")


def entries(
    chosen: Sequence[Workload],
    implementations: Sequence[str],
    *,
    checkout: Path,
    threads: int,
    rounds: int,
    attempts: int,
    say: Callable[[str], None],
    seconds: float,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure each implementation of each workload in both checkouts, and yield the entries."""
    for workload in chosen:
        with failures(workload.title) as entry:
            entry |= {"not_run": {}, "implementations": {}}
            for name in implementations:
                say(f"{workload.name}: {name}")
                both: list[Process]
                with workers([name, name], threads, [checkout, None]) as both:
                    ready = started(workload, both, entry["not_run"])
                    if len(ready) == len(SIDES):
                        rows = _rows_of(both, rounds, attempts, seconds)
                        entry["implementations"] |= {
                            f"{name}{figure and ', '}{figure}": row for figure, row in rows.items()
                        }
        slow = [n for n, row in entry.get("implementations", {}).items() if row["ratio"] > LIMIT]
        yield workload.name, entry | {"slower": slow}


def _rows_of(
    both: Sequence[Process], rounds: int, attempts: int, seconds: float
) -> dict[str, dict[str, Any]]:
    """Time two workers by turns, and return rows by the name of a figure, of times by ''."""
    for worker in both:
        worker.ask("prepare", seconds=seconds)
    replies: list[list[dict[str, Any]]] = [[], []]
    for number in range(rounds):
        for side in (0, 1) if number % 2 else (1, 0):
            replies[side].append(turn(both[side], attempts))
    figures = replies[0][0].get("figures", {"": None})
    rows = {}
    for figure in figures:
        before, after = (
            [reply["figures"][figure] * 1e-6 if figure else reply["seconds"] for reply in side]
            for side in replies
        )
        rows[figure] = {
            "before": {"median": median(before), "min": min(before), "rounds": before},
            "after": {"median": median(after), "min": min(after), "rounds": after},
            "ratio": ratio(after, before),
            "ratio_of_minima": min(after) / min(before),
        }
    return rows


def table(name: str, entry: dict[str, Any]) -> str:
    return titled(name, entry, _lines)


def _lines(entry: dict[str, Any]) -> Iterator[str]:
    yield f"  {'':<42}{'before':>10}{'after':>10}{'after / before':>16}{'of minima':>11}"
    for name, row in entry["implementations"].items():
        before, after = (duration(row[side]["median"]) for side in SIDES)
        mark = "  slower" if name in entry["slower"] else ""
        yield (
            f"  {name:<42}{before:>10}{after:>10}{row['ratio']:>16.3f}"
            f"{row['ratio_of_minima']:>11.3f}{mark}"
        )
    for name, reason in entry["not_run"].items():
        yield f"  {name:<42}not run: {reason}"
