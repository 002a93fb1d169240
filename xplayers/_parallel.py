"""Blocks of work that the threads of the elementwise engine share out among themselves."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from xplayers.elementwise import _pool, _usable_cores

Part = TypeVar("Part")


def share(run: Callable[[Iterator[Part]], Any], parts: Iterable[Part]) -> None:
    """Call ``run(parts)`` in every thread; each part goes to one of them, when it asks for it.

    Who is kept waiting (by the threads of BLAS, which spin for a while after a product, or by other
    programs) takes fewer parts. So a result must not depend on which thread computes it.
    """
    todo = list(parts)
    todo.reverse()

    def taken() -> Iterator[Part]:
        while True:
            try:
                part = todo.pop()
            except IndexError:
                return
            yield part

    others = []
    for _ in range(min(_usable_cores(), len(todo)) - 1):
        context = contextvars.copy_context()  # numpy.errstate too
        others.append(_pool().submit(context.run, run, taken()))
    try:
        run(taken())
    finally:
        todo.clear()  # after an error nobody begins another part
        errors = [other.exception() for other in others]  # waits: they write to the results
    for error in filter(None, errors):
        raise error
