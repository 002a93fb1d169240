"""Groups of threads, which behave as processes do, and what they train."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from xplayers.arrays.namespaces import namespace

TIMEOUT = 20.0  # seconds after which the others are gone


class ThreadGroup:
    """One thread of several as a group, with shared memory for messages."""

    synchronized = False

    def __init__(self, rank: int, size: int, barrier: Any, board: list[Any]) -> None:
        self.rank, self.size = rank, size
        self._barrier, self._board = barrier, board
        self.sums = 0  # calls so far

    def _all(self, value: Any) -> list[Any]:
        """Return the values of all ranks."""
        self._board[self.rank] = value
        self._barrier.wait(TIMEOUT)
        values = list(self._board)
        self._barrier.wait(TIMEOUT)
        return values

    def sum_(self, flat: Any) -> None:
        self.sums += 1
        assert len(flat.shape) == 1
        first, *others = self._all(namespace(flat).asarray(flat, copy=True))
        assert all(a.shape == first.shape for a in others), "sums of different lengths"
        for a in others:
            first = first + a
        flat[...] = first

    def broadcast_(self, flat: Any) -> None:
        flat[...] = self._all(namespace(flat).asarray(flat, copy=True))[0]

    def barrier(self) -> None:
        self._all(None)

    def abort(self, code: int = 1) -> None:
        self._barrier.abort()
        raise SystemExit(code)


def together(size: int, work: Callable[[Any], Any], synchronized: bool = False) -> list[Any]:
    """Return ``work(group)`` of all ranks, each in a thread of its own."""
    barrier, board = threading.Barrier(size), [None] * size

    def rank(group: ThreadGroup) -> Any:
        group.synchronized = synchronized
        try:
            return work(group)
        except BaseException:
            barrier.abort()  # the others need not wait
            raise

    with ThreadPoolExecutor(size) as pool:
        groups = [ThreadGroup(i, size, barrier, board) for i in range(size)]
        futures = [pool.submit(rank, group) for group in groups]
        errors = [f.exception() for f in futures]
        for error in errors:
            if error is not None and not isinstance(error, threading.BrokenBarrierError):
                raise error
        return [f.result() for f in futures]


def part_of(group: Any, n: int) -> slice:
    """Return which of `n` samples a rank takes."""
    rank, size = (0, 1) if group is None else (group.rank, group.size)
    return slice(-(-n * rank // size), -(-n * (rank + 1) // size))
