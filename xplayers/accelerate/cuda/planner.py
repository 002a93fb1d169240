"""Plans that are made when a call is met for the first time, and not while a graph is captured.

A library names several algorithms for a call, in the order that it expects of their speed; the
first ones are timed, and the fastest is kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

REPEATS = 5  # how often an algorithm is timed

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


def fastest(candidates: Sequence[T], time: Callable[[T], float]) -> T:
    """Return the candidate that takes the least time; one is not timed."""
    return candidates[0] if len(candidates) == 1 else min(candidates, key=time)


def milliseconds(cuda: Any, function: Callable[[], None]) -> float:
    """Return the time of a call on the device of ``cupy.cuda``, after one that is not counted."""
    start, end = cuda.Event(), cuda.Event()
    function()
    start.record()
    for _ in range(REPEATS):
        function()
    end.record()
    end.synchronize()
    return cuda.get_elapsed_time(start, end) / REPEATS
