"""Our rows against those of another checkout: ``python -m benchmarks --against CHECKOUT``.

The benchmarks are the same on both sides, the package is the checkout's. Each implementation has
several processes for a side, one pair after the other, and the two of a pair take short turns. What
a row says is the ratio of the least times: on a machine that others use a median is the neighbours'
as much as ours, and processes differ in where their memory lies. What is asked of a change is a
ratio of at most `LIMIT`; where it is above, there are further pairs, since least times only fall.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import OtherLoad
from benchmarks.measure import DISTURBED, failures, started, summary
from benchmarks.pool import Process, workers
from benchmarks.report import duration, load_lines, titled
from benchmarks.workloads import Workload

LIMIT = 1.03  # what is below may be noise; a row above it fails
PAIRS, MOST_PAIRS = 4, 12  # of processes, for each implementation; the most are for slower rows
SIDES = ("before", "after")

Turns = dict[str, tuple[list[float], list[float]]]  # least times before and after, by figure


def entries(
    chosen: Sequence[Workload],
    implementations: Sequence[str],
    *,
    checkout: Path,
    threads: int,
    rounds: int,
    say: Callable[[str], None],
    seconds: float,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure each implementation of each workload in both checkouts, and yield the entries."""
    for workload in chosen:
        with failures(workload.title) as entry:
            entry |= {"not_run": {}, "implementations": {}}
            others: list[float] = []
            for name in implementations:
                turns: Turns = {}
                for number in range(MOST_PAIRS):
                    if number >= PAIRS and all(_ratio(*least) <= LIMIT for least in turns.values()):
                        break
                    say(f"{workload.name}: {name}, pair {number + 1} of processes")
                    with workers([name, name], threads, [checkout, None]) as pair:
                        if len(started(workload, pair, entry["not_run"])) < len(SIDES):
                            break
                        share = _take_turns(pair, turns, -(-rounds // PAIRS), seconds)
                    others += [] if share is None else [share]
                for figure, (before, after) in turns.items():
                    row = name + (f", {figure}" if figure else "")
                    entry["implementations"][row] = _row(before, after)
            entry["others"] = summary(others) if others else None
            entry["beside_load"] = bool(others) and median(others) > DISTURBED
        slow = [n for n, row in entry.get("implementations", {}).items() if row["ratio"] > LIMIT]
        yield workload.name, entry | {"slower": slow}


def _take_turns(pair: Sequence[Process], turns: Turns, rounds: int, seconds: float) -> float | None:
    """Add the least times of the turns of two workers; return what others took meanwhile."""
    for worker in pair:
        worker.ask("prepare", seconds=seconds)
    load, own = OtherLoad(), 0.0
    for number, i in itertools.product(range(rounds), range(len(SIDES))):
        side = (i + number) % len(SIDES)  # so that neither always follows the other
        pair[side].rest()
        reply = pair[side].ask("time")
        own += reply["cpu_seconds"]
        figures = {figure: us * 1e-6 for figure, us in reply.get("figures", {}).items()}
        for figure, least in (figures or {"": reply["least"]}).items():
            turns.setdefault(figure, ([], []))[side].append(least)
    return load.share(own)


def _row(before: list[float], after: list[float]) -> dict[str, Any]:
    return {
        "before": {"median": median(before), "min": min(before), "rounds": before},
        "after": {"median": median(after), "min": min(after), "rounds": after},
        "ratio": _ratio(before, after),
    }


def _ratio(before: list[float], after: list[float]) -> float:
    return min(after) / min(before)


def table(name: str, entry: dict[str, Any]) -> str:
    return "\n".join([titled(name, entry, _lines), *load_lines(entry)])


def _lines(entry: dict[str, Any]) -> Iterator[str]:
    yield f"  {'':<42}{'before':>10}{'after':>10}{'after / before':>16}"
    for name, row in entry["implementations"].items():
        before, after = (duration(row[side]["min"]) for side in SIDES)
        mark = "  slower" if name in entry["slower"] else ""
        yield f"  {name:<42}{before:>10}{after:>10}{row['ratio']:>16.3f}{mark}"
    for name, reason in entry["not_run"].items():
        yield f"  {name:<42}not run: {reason}"
