"""The log of a run: the rows of its history as JSON lines."""

from __future__ import annotations

import xplayers as xl
from xplayers.cli.messages import print_warning
from xplayers.saving.files import append


class Log:
    """A callback that writes each row of the history as a JSON line to a file, which it overwrites.

    Rows are written whole; one that does not fit on a full disk is written with a later one.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._waiting: list[str] = []

    def __call__(self, event: xl.Event) -> None:
        if event.kind == "begin":
            event.history.to_jsonl(self.path)  # the rows of a resumed run
        elif event.kind == "epoch" and event.row is not None:
            self._waiting += xl.History([event.row])._lines()
        if event.kind in ("epoch", "end") and self._waiting:
            try:
                append(self.path, "\n".join(self._waiting))
                self._waiting = []
            except OSError as error:  # a full disk must not end a long run
                print_warning(f"epoch {event.epoch} is not in the log: {error}")
