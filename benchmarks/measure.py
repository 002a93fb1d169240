"""One workload: let the workers build it and agree, time them by turns, and sum up."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from statistics import median, quantiles
from typing import Any

from benchmarks.implementations import LIMITS
from benchmarks.machine import OtherLoad
from benchmarks.pool import Process, WorkerFailed, workers
from benchmarks.workloads import Workload

TOLERANCE = 1e-3
DISTURBED = 0.05  # share of the cores that others took; such a turn is taken again
REFERENCE = "book"


class Disagreement(Exception):
    """Two implementations of a workload do not compute the same thing."""


def entries(
    chosen: Sequence[Workload],
    implementations: Sequence[str],
    *,
    threads: int,
    fresh: bool,
    say: Callable[[str], None],
    **options: Any,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure workloads, and yield their names and entries of the JSON.

    With `fresh` each has new workers; else they are the same for all, which saves the time in which
    libraries are imported, until one of them has failed. The rest as in `run`.
    """
    remaining = list(chosen)
    while remaining:
        with workers(implementations, threads) as processes:
            while remaining:
                workload = remaining.pop(0)
                with failures(workload.title) as entry:
                    entry |= run(
                        workload, processes, say=lambda text, w=workload: say(f"{w.name}: {text}"),
                        **options,
                    )  # fmt: skip
                yield workload.name, entry
                if fresh or "failed" in entry:
                    break


@contextlib.contextmanager
def failures(title: str) -> Iterator[dict[str, Any]]:
    """Give an entry to fill, in which it is said if workers fail or disagree."""
    entry: dict[str, Any] = {"title": title}
    try:
        yield entry
    except (Disagreement, WorkerFailed) as error:
        entry["failed"] = str(error)


def run(
    workload: Workload,
    processes: Sequence[Process],
    *,
    rounds: int,
    seconds: float,
    attempts: int = 1,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure a workload, and return what its entry of the JSON has beside the title.

    Parameters
    ----------
    workload : Workload
        What to measure.
    processes : sequence of Process
        Whom to measure.
    rounds : int
        How often each worker has its turn.
    seconds : float
        Length of a turn, about.
    attempts : int
        How often a turn is taken while others disturb it; the calmest one counts.
    say : callable
        Takes progress messages.
    """
    entry: dict[str, Any] = {"not_run": {}}
    say("starting and checking")
    ready = started(workload, processes, entry["not_run"])
    for worker in ready:  # one after the other from here on
        say(f"preparing {worker.name}")
        worker.ask("prepare", seconds=seconds)
    replies: dict[str, list[dict[str, Any]]] = {worker.name: [] for worker in ready}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        # Each round begins with another worker, so that none always follows the same one.
        for i in range(len(ready)):
            worker = ready[(i + number) % len(ready)]
            replies[worker.name].append(turn(worker, attempts))
    others = [reply["others"] for turns in replies.values() for reply in turns]
    entry["others"] = None if None in others or not others else summary(others)
    entry["beside_load"] = bool(entry["others"]) and entry["others"]["median"] > DISTURBED
    if workload.kind == "shell":
        entry["microseconds"] = {
            name: summary([reply["figures"][name] for reply in turns])
            for turns in replies.values()
            for name in turns[0]["figures"]
        }
        return entry
    times = {name: [reply["seconds"] for reply in turns] for name, turns in replies.items()}
    entry |= compared(times)
    for name, turns in replies.items():
        entry["implementations"][name]["min"] = min(reply["least"] for reply in turns)
    return entry


def turn(worker: Process, attempts: int) -> dict[str, Any]:
    """Let a worker time a batch; `others` of its reply is what other processes took meanwhile."""
    turns = []
    for _ in range(attempts):
        worker.rest()
        load = OtherLoad()
        reply = worker.ask("time")
        others = load.share(reply["cpu_seconds"])
        turns.append(reply | {"others": others})
        if others is None or others < DISTURBED:
            break
    return min(turns, key=lambda reply: reply["others"] or 0.0)


def started(
    workload: Workload, processes: Sequence[Process], not_run: dict[str, str]
) -> list[Process]:
    """Return the workers that have something to run; the reasons of others go to `not_run`."""
    for process in processes:
        process.send("start", workload=asdict(workload))
    ready, values = [], {}
    for process in processes:
        reply = process.receive()
        if "not_run" in reply:
            not_run[process.name] = reply["not_run"]
        elif "skipped" not in reply:
            ready.append(process)
        if "values" in reply:
            values[process.name] = reply["values"]
    check_agreement(workload.name, values)
    return ready


def check_agreement(workload: str, values: dict[str, list[tuple[float, float]]]) -> None:
    """Raise `Disagreement` unless all implementations have computed the same numbers."""
    if not values:
        return
    reference = REFERENCE if REFERENCE in values else next(iter(values))
    expected = values[reference]
    for name, results in values.items():
        pairs = list(zip(results, expected, strict=False))
        wrong = [(a, b) for (a, _), (b, scale) in pairs if not abs(a - b) <= TOLERANCE * scale]
        if wrong or len(results) != len(expected):
            a, b = wrong[0] if wrong else (len(results), len(expected))
            message = (
                f"{workload}: {name} does not compute what {reference} computes: "
                f"{a:.6g} instead of {b:.6g} ({len(wrong)} of {len(expected)} numbers differ by "
                f"more than {TOLERANCE}). Nothing is reported for this workload."
            )
            raise Disagreement(message)


def compared(times: dict[str, list[float]]) -> dict[str, Any]:
    """Return times and ratios by implementation, and the two ratios of the workload.

    A ratio is the median of the ratios of the rounds: what slows the machine down for a while slows
    both sides of it.
    """
    ours = [name for name in times if name.startswith("xplayers")]
    peers = [name for name in times if name not in ours and name not in LIMITS]
    fastest = min(peers, key=lambda name: median(times[name]), default=None)
    entry: dict[str, Any] = {"implementations": {}, "ratios": {}}
    for name, rounds in times.items():
        row = entry["implementations"][name] = summary(rounds) | {"rounds": rounds}
        if fastest:
            row["over_fastest_peer"] = ratio(rounds, times[fastest])
        if "book" in times:
            row["book_over_this"] = ratio(times["book"], rounds)
    if ours and fastest:
        best = min(ours, key=lambda name: median(times[name]))
        entry["ratios"] = {
            "ours": best,
            "fastest_peer": fastest,
            "ours_over_fastest_peer": ratio(times[best], times[fastest]),
        }
        if "book" in times:
            entry["ratios"]["book_over_ours"] = ratio(times["book"], times[best])
    return entry


def ratio(a: Sequence[float], b: Sequence[float]) -> float:
    return median(x / y for x, y in zip(a, b, strict=True))


def summary(values: Sequence[float]) -> dict[str, Any]:
    low, high = min(values), max(values)
    if len(values) > 1:
        low, _, high = quantiles(values, n=4, method="inclusive")
    return {
        "median": median(values),
        "min": min(values),
        "max": max(values),
        "quartiles": [low, high],
    }
