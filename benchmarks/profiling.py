"""Where the time of a replayed step goes, call by call: ``python -m benchmarks --profile``."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from benchmarks.measure import failures
from benchmarks.pool import workers
from benchmarks.report import titled
from benchmarks.workloads import Workload

WORKLOADS = (
    "step-784-50-10", "step-784-100-100-10", "step-784-1024-1024-10",
    "step-784-2048-2048-2048-10", "step-cnn",
)  # fmt: skip
IMPLEMENTATIONS = ("xplayers-numba",)
STEPS = 5  # before the first is looked at: two are recorded
LEAST = 0.01  # of the step; what takes less is added up in one row


def entries(
    chosen: Sequence[Workload],
    implementations: Sequence[str],
    *,
    threads: int,
    seconds: float,
    say: Callable[[str], None],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Profile steps, each in a new process, and yield the workloads' names and entries."""
    for workload in chosen:
        with failures(workload.title) as entry:
            entry |= {"not_run": {}, "implementations": {}}
            for name in implementations:
                say(f"{workload.name}: {name}")
                with workers([name], threads) as (process,):
                    reply = process.ask("profile", workload=asdict(workload), seconds=seconds)
                if "calls" in reply:
                    entry["implementations"][name] = reply["calls"]
                else:
                    entry["not_run"][name] = reply.get("not_run", "its steps are not replayed")
        yield workload.name, entry


def calls(step: Any, x: Any, t: Any, seconds: float) -> list[dict[str, Any]] | None:
    """Return the calls of a step's replay in their order, each with its median time.

    None where the step is not replayed.
    """
    for _ in range(STEPS):
        step(x, t)
    taker = step._compiled.get(type(x))
    replays = [*taker.replays.replays.values()] if hasattr(taker, "replays") else []
    if not replays:
        return None
    (replay,) = replays
    lines = [line.strip() for line in replay.source.split("\n")[1:-1]]
    times: list[list[float]] = [[] for _ in lines]
    timed = _timed(replay, lines, times)
    inputs = x, t, step.optimizer.lr, *taker.sources.numbers.values()
    arguments = inputs[: replay.__code__.co_argcount]
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop or len(times[0]) < 10:
        timed(*arguments)
    return [
        {"call": _readable(line, replay.__globals__), "seconds": median(of_line)}
        for line, of_line in zip(lines, times, strict=True)
    ]


def _timed(replay: Any, lines: list[str], times: list[list[float]]) -> Callable[..., None]:
    """Return a function that does what `replay` does, and adds the time of each line to `times`."""
    defined = {**replay.__globals__, "clock": time.perf_counter}
    count = replay.__code__.co_argcount
    source = [f"def timed({', '.join(f'a{i}' for i in range(count))}):"]
    for i, line in enumerate(lines):
        defined[f"keep{i}"] = times[i].append
        source += ["    start = clock()", f"    {line}", f"    keep{i}(clock() - start)"]
    exec("\n".join(source), defined)
    return defined["timed"]


def _readable(line: str, defined: dict[str, Any]) -> str:
    """Return a line with functions by name and arrays by shape in the place of its names."""

    def described(match: re.Match[str]) -> str:
        value = defined[match[0]]
        if isinstance(getattr(value, "shape", None), tuple):
            return f"[{' x '.join(map(str, value.shape))}]"
        name = getattr(value, "__name__", type(value).__name__).strip("_")
        return "matmul" if name == "dot" else name  # which is how NumPy's replays call it

    return re.sub(r"\bg\d+\b", described, line)


def table(name: str, entry: dict[str, Any]) -> str:
    return titled(name, entry, _rows)


def _rows(entry: dict[str, Any]) -> Iterator[str]:
    for name, rows in entry["implementations"].items():
        total = sum(row["seconds"] for row in rows)
        products = sum(row["seconds"] for row in rows if _is_product(row["call"]))
        yield (
            f"  {name}: {total * 1e6:.0f} us in {len(rows)} calls, of which matrix products "
            f"{products * 1e6:.0f} us"
        )
        small = [row["seconds"] for row in rows if row["seconds"] < LEAST * total]
        for row in rows:
            if row["seconds"] >= LEAST * total:
                yield f"  {row['seconds'] * 1e6:>10.1f} us   {row['call']}"
        yield f"  {sum(small) * 1e6:>10.1f} us   in {len(small)} other calls"
    for name, reason in entry["not_run"].items():
        yield f"  {name:<22}not run: {reason}"


def _is_product(call: str) -> bool:
    return re.match(r"(matmul|mm)\(", call) is not None
