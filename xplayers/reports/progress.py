"""Progress of training: a bar in terminals and notebooks, else lines."""

from __future__ import annotations

import math
import sys
import time
from typing import Any, TextIO

from xplayers._checks import choice, shown
from xplayers._terminal import Stream, in_notebook, is_interactive, is_writable
from xplayers.reports.columns import MEASURES
from xplayers.reports.events import Event
from xplayers.reports.history import text

__all__ = ["Progress"]

MOST_LINES = 20  # about; of a run of short epochs
MOST_SECONDS = 60.0  # between two lines, in a long epoch


class Progress:
    """A callback that shows the progress: loss, metrics, samples per second and time left.

    Parameters
    ----------
    style : {"auto", "bar", "lines"}
        A bar needs tqdm. ``"auto"``: a bar in a terminal or a notebook if tqdm is installed, else
        lines, about 20 per run, and in long epochs one per minute.
    file : text file, optional
        The output; by default the ``sys.stderr`` of that time. If writing fails, because it is
        closed, missing or full, training continues without output.

    Raises
    ------
    ValueError
        If the style is unknown.
    TypeError
        If `file` has no method `write`.
    ImportError
        At the start of training, if a bar is requested and tqdm is not installed.
    """

    def __init__(self, style: str = "auto", file: TextIO | None = None) -> None:
        self.style = choice("Progress", "style", style, ("auto", "bar", "lines"))
        if file is not None and not hasattr(file, "write"):
            message = f"Progress: file is {shown(file)}; expected an open text file."
            raise TypeError(message)
        self.file = file
        self._bar: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_bar": None, "_file": None}  # copies do not share open files

    def __call__(self, event: Event) -> None:
        if event.kind == "begin":
            self._begin(event)
        elif event.kind in ("losses", "epoch"):
            if event.losses is not None:
                self._loss = f"loss {text(float(event.losses[-1]))}"
            if self._bar is None:
                self._line(event)
            else:
                self._update_bar(event)
        elif event.kind == "end" and self._bar is not None:
            self._bar.close()
            self._bar = None

    def _begin(self, event: Event) -> None:
        file = sys.stderr if self.file is None else self.file
        self._file = Stream(file)
        self._start, self._initial_samples = time.perf_counter(), event.samples
        self._last_line = self._start
        self._loss = self._row = ""
        bar = None
        if self.style == "bar" or (self.style == "auto" and is_interactive(file)):
            bar = _tqdm()
        if bar is None and self.style == "bar":
            message = "Progress: a bar needs tqdm: pip install tqdm; or style='lines'."
            raise ImportError(message)
        if file is None or not is_writable(file, sys.stdout, sys.stderr):  # tqdm flushes all three
            bar = None
        if bar is not None:
            self._bar = bar(
                total=event.total_samples, initial=event.samples, unit=" samples",
                unit_scale=True, dynamic_ncols=True, file=None if in_notebook() else self._file,
            )  # fmt: skip

    def _update_bar(self, event: Event) -> None:
        bar = self._bar
        if event.kind == "epoch":
            self._row = _format_row(event.row, skip=("loss",))
        bar.total = event.total_samples
        bar.set_description_str(f"epoch {_epoch(event)}", refresh=False)
        bar.set_postfix_str(f"{self._loss}  {self._row}".strip(), refresh=False)
        bar.update(event.samples - bar.n)

    def _line(self, event: Event) -> None:
        now, epochs = time.perf_counter(), event.trainer.epochs
        every = math.ceil(epochs / MOST_LINES)
        if event.kind == "epoch":
            if event.epoch % every and event.epoch != epochs:
                return
            measures = _format_row(event.row)
        elif now - self._last_line < MOST_SECONDS:
            return
        else:
            measures = self._loss
        self._last_line = now
        rate = (event.samples - self._initial_samples) / max(now - self._start, 1e-9)
        line = f"epoch {_epoch(event)}  {measures}  {text(rate)} samples/s"
        if event.total_samples is not None and rate > 0:
            line += f"  {clock((event.total_samples - event.samples) / rate)} left"
        self._file.write(line + "\n")
        self._file.flush()  # pipes are block-buffered


def _epoch(event: Event) -> str:
    epochs = str(event.trainer.epochs)
    return f"{event.epoch:{len(epochs)}}/{epochs}"


def _format_row(row: Any, skip: tuple[str, ...] = ()) -> str:
    """Return losses and metrics of a row as text."""
    skip = (*skip, *MEASURES)
    return "  ".join(f"{name} {text(value)}" for name, value in row.items() if name not in skip)


def clock(seconds: float) -> str:
    """Format a duration as ``0:05``, ``12:34`` or ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _tqdm() -> Any:
    """Return the class of bars for terminals or notebooks; None without tqdm."""
    try:
        if in_notebook():
            from tqdm.auto import tqdm
        else:
            from tqdm import tqdm
    except ImportError:
        return None
    return tqdm
