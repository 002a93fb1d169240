"""Plans that are made when a call is met for the first time, and not while a graph is captured."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


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
