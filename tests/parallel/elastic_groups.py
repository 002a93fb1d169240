"""Groups of threads of which some are killed, and the others go on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from groups import TIMEOUT

from xplayers.arrays.namespaces import namespace
from xplayers.parallel import RanksLost


class Killed(BaseException):
    """Ends a thread as a signal ends a process."""


class Room:
    """Where threads meet: what each brings, and whether all that are alive have come."""

    def __init__(self, size: int) -> None:
        self.alive, self.changed = list(range(size)), threading.Condition()
        self.here: dict[int, Any] = {}
        self.lost = False  # since they met last
        self.meetings, self.outcome = 0, ([], None)

    def leave(self, number: int) -> None:
        with self.changed:
            self.alive.remove(number)
            self.lost = True
            self._meet()

    def meet(self, number: int, value: Any) -> Any:
        """Return who is there, and what they have brought; None where somebody was lost."""
        with self.changed:
            meeting = self.meetings
            self.here[number] = value
            self._meet()
            while meeting == self.meetings:
                assert self.changed.wait(TIMEOUT), "nobody comes"
            return self.outcome

    def _meet(self) -> None:
        if self.alive and self.here.keys() >= set(self.alive):
            self.outcome = list(self.alive), None if self.lost else dict(self.here)
            self.here, self.lost = {}, False
            self.meetings += 1
            self.changed.notify_all()


class ElasticThreadGroup:
    """One thread of several as an elastic group."""

    elastic = True

    def __init__(self, number: int, size: int, room: Room) -> None:
        self.number = self.rank = number
        self.size, self.lost, self._room = size, (), room

    def _all(self, value: Any) -> list[Any]:
        alive, values = self._room.meet(self.number, value)
        if values is None:
            before = range(self.size + len(self.lost))
            self.lost = tuple(n for n in before if n not in alive)
            self.rank, self.size = alive.index(self.number), len(alive)
            raise RanksLost(self.lost, self.size)
        return [values[n] for n in sorted(values)]

    def sum_(self, flat: Any) -> None:
        first, *others = self._all(namespace(flat).asarray(flat, copy=True))
        assert all(a.shape == first.shape for a in others), "sums of different lengths"
        for a in others:
            first = first + a
        self._all(None)  # has read
        flat[...] = first

    def broadcast_(self, flat: Any) -> None:
        first = self._all(namespace(flat).asarray(flat, copy=True))[0]
        self._all(None)
        flat[...] = first

    def barrier(self) -> None:
        self._all(None)

    def abort(self, code: int = 1) -> None:
        raise SystemExit(code)


def survivors(size: int, work: Callable[[Any], Any]) -> list[Any]:
    """Return ``work(group)`` of the ranks that have not been killed, each in a thread."""
    room = Room(size)

    def rank(group: ElasticThreadGroup) -> Any:
        try:
            return work(group)
        except Killed:
            return Killed
        finally:
            room.leave(group.number)  # and nobody waits for who has ended

    with ThreadPoolExecutor(size) as pool:
        groups = [ElasticThreadGroup(i, size, room) for i in range(size)]
        results = [f.result() for f in [pool.submit(rank, group) for group in groups]]
    return [r for r in results if r is not Killed]
