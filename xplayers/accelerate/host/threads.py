"""Parts of a piece of work that threads share out among themselves."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from xplayers.accelerate.host.libc import of_c

Part = TypeVar("Part")
SUMS = 16  # at most so many partial sums of a result are kept, to be added at the end


def share(run: Callable[[Iterator[Part]], Any], parts: Iterable[Part]) -> None:
    """Call ``run(parts)`` in every thread; each part goes to one of them, when it asks for it.

    Who is kept waiting (by the threads of BLAS, which spin for 100 ms after a product, or by other
    programs) takes fewer parts. So a result must not depend on which thread computes it.
    """
    todo = list(parts)
    if getattr(_here, "is_worker", False):  # all others may be waiting for this one
        run(iter(todo))
        return
    todo.reverse()

    def taken() -> Iterator[Part]:
        while True:
            try:
                part = todo.pop()
            except IndexError:
                return
            yield part

    def run_elsewhere(core: int) -> None:
        _here.is_worker = True
        _leave(core)
        run(taken())

    others, core = [], _this_core()
    with contextlib.suppress(RuntimeError):  # the interpreter ends: there are no new threads
        for _ in range(min(usable_cores(), len(todo)) - 1):
            context = contextvars.copy_context()  # numpy.errstate too
            others.append(_pool().submit(context.run, run_elsewhere, core))
    try:
        run(taken())
    finally:
        todo.clear()  # after an error nobody begins another part
        errors = [other.exception() for other in others]  # waits: they write to the results
    for error in filter(None, errors):
        raise error


def in_runs(parts: Sequence[Part]) -> list[Sequence[Part]]:
    """Return `parts` in at most `SUMS` runs, each of which is summed up before all sums are."""
    step = -(-len(parts) // SUMS)
    return [parts[i : i + step] for i in range(0, len(parts), step)]


@functools.cache
def usable_cores() -> int:
    """Return how many threads compute at once: all cores, or as many as BLAS is told to use."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return max(1, min(cores, int(limit))) if limit.isdigit() else cores


def _leave(core: int) -> None:
    """Keep this thread, which is one of the pool's, off the core of the one that waits for it.

    Where all other cores are busy, if only with the spinning threads of BLAS, Linux lets a thread
    begin on the core of the one that has woken it, and the two would take turns.
    """
    if core >= 0:
        others = os.sched_getaffinity(os.getpid()) - {core}
        with contextlib.suppress(OSError):  # where a container forbids it
            os.sched_setaffinity(0, others)  # an error too if there are none


def _this_core() -> int:
    """Return the core that this thread runs on; -1 where that is not known."""
    get = of_c("sched_getcpu") if hasattr(os, "sched_setaffinity") else None
    return -1 if get is None else get()


_here = threading.local()
_threads: Any = None  # concurrent.futures takes 10 ms to import, and most never need it
_lock = threading.Lock()


def _pool() -> Any:
    from concurrent.futures import ThreadPoolExecutor

    global _threads
    with _lock:
        if _threads is None:
            _threads = ThreadPoolExecutor(usable_cores() - 1, thread_name_prefix="xplayers")
        return _threads


def _forget_pool() -> None:
    global _threads, _lock
    _threads, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=_forget_pool)
