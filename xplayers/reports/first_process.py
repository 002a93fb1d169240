"""Callbacks of one process of many: progress, logs and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xplayers.reports.events import Event


class OfFirst:
    """A callback of the first process alone; where that is lost, of the next one from then on."""

    def __init__(self, callback: Callable[[Event], Any]) -> None:
        self.callback, self.began = callback, False

    def __call__(self, event: Event) -> None:
        """Pass an event on; to who has become the first, the begin of the run before it."""
        if event.trainer.train_step.rank:
            return
        if event.kind == "regroup" and not self.began:
            event = event._replace(kind="begin")
        self.began = self.began or event.kind == "begin"
        if self.began:
            self.callback(event)
