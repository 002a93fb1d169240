"""Plans that are made when a call is met for the first time, and not while a graph is captured.

A library names several algorithms for a call, in the order that it expects of their speed; the
first ones are timed, and the first that is as fast as any is kept.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

ROUNDS = 5  # in which each algorithm is timed once; the least counts
CALLS = 20  # of a short one in a graph, where it waits for no launch and for no Python
LONG = 1.0  # milliseconds that those calls take, or one call more
WARM = 20.0  # milliseconds of work before the clock of a GPU is what it stays at
WITHIN = 1.03  # times that differ by less are the same

T = TypeVar("T")


class NotPlanned(RuntimeError):
    """A call was met in a capture whose plan was not made before."""


class NoAlgorithm(RuntimeError):
    """The library has no algorithm for a call."""


class Planner:
    """What makes plans for its calls and keeps them."""

    _frozen = False  # whether it makes no new ones

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Make no new plans meanwhile, as in a capture: a call without one is an error."""
        self._frozen = True
        try:
            yield
        finally:
            self._frozen = False


def fastest(candidates: Sequence[T], milliseconds: Callable[[], Sequence[float]]) -> T:
    """Return the first candidate that is as fast as any; one alone is not timed."""
    if len(candidates) == 1:
        return candidates[0]
    times = milliseconds()
    limit = WITHIN * min(times)  # infinite where all have failed
    return next(c for c, time in zip(candidates, times, strict=True) if time <= limit)


def milliseconds(cuda: Any, functions: Sequence[Callable[[], None]]) -> list[float]:
    """Return the time of each function on the device of ``cupy.cuda``; infinity where it fails.

    Called one by one, short functions would take the time of their launches, and of Python. So what
    is timed are replays of graphs, in rounds, with a clock that has come up.
    """
    stream = cuda.Stream(non_blocking=True)  # one that can capture
    stream.wait_event(cuda.get_current_stream().record())
    times = [math.inf] * len(functions)
    with stream:
        graphs = {i: g for i, f in enumerate(functions) if (g := _graph_of(cuda, stream, f))}
        passed = 0.0
        while graphs and passed < WARM:
            passed += sum(_elapsed(cuda, graph.launch) for graph, _ in graphs.values())
        for _ in range(ROUNDS):
            for i, (graph, calls) in graphs.items():
                times[i] = min(times[i], _elapsed(cuda, graph.launch) / calls)
    return times


def _graph_of(cuda: Any, stream: Any, function: Callable[[], None]) -> tuple[Any, int] | None:
    """Return a graph of calls of a function, and how many; None where it fails."""
    try:
        function()
        once = _elapsed(cuda, function)
        calls = max(1, min(CALLS, int(LONG / max(once, 1e-6))))
        stream.begin_capture()
        try:
            for _ in range(calls):
                function()
        finally:
            graph = stream.end_capture()
    except Exception:  # of the library: another algorithm may do
        return None
    return graph, calls


def _elapsed(cuda: Any, function: Callable[[], None]) -> float:
    start, end = cuda.Event(), cuda.Event()
    start.record()
    function()
    end.record()
    end.synchronize()
    return cuda.get_elapsed_time(start, end)
