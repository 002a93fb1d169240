"""The log of a run: the rows of its history as JSON lines, as they come."""

from __future__ import annotations

import xplayers as xl
from xplayers.cli.messages import complain
from xplayers.saving.files import append


class Log:
    """A callback that writes the rows of the history as they come, as JSON lines.

    A row that a full disk does not take leaves nothing of itself, and comes with a later one.

    Parameters
    ----------
    path : str
        The file; what was in it is lost.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._waiting: list[str] = []

    def __call__(self, event: xl.Event) -> None:
        if event.kind == "begin":
            event.history.to_jsonl(self.path)  # the rows of a run that goes on
        elif event.kind == "epoch" and event.row is not None:
            self._waiting += xl.History([event.row])._lines()
        if event.kind in ("epoch", "end") and self._waiting:
            try:
                append(self.path, "\n".join(self._waiting))
                self._waiting = []
            except OSError as error:  # a full disk must not end a night's work
                complain("warning", f"epoch {event.epoch} is not in the log: {error}")
