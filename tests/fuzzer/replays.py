"""How many steps are replayed: the proof that replays are tried at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xplayers.accelerate import patience
from xplayers.accelerate.replay import steps


class Counting:
    """Counts, while it is entered, the replays of each world."""

    def __init__(self) -> None:
        self.of: Any = None  # the world whose turn it is

    def __enter__(self) -> Counting:
        self._before, self._longest = steps.compiled, patience.LONGEST
        steps.compiled = self._compiled
        patience.LONGEST = 0  # whatever changes, replays are tried again at once
        return self

    def __exit__(self, *error: object) -> None:
        steps.compiled, patience.LONGEST = self._before, self._longest

    def _compiled(self, *arguments: Any) -> Callable[..., Any]:
        replay = self._before(*arguments)

        def counted(*batch: Any) -> Any:
            value = replay(*batch)
            self.of.replayed += 1
            return value

        return counted
