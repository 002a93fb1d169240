"""Training as it is seen: a bar in terminals and notebooks, lines elsewhere."""

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

MOST_LINES = 20  # about, of a run whose epochs are short
LONGEST_SILENCE = 60.0  # seconds, in an epoch that is long


class Progress:
    """A callback that shows how training goes: loss, metrics, samples a second and time left.

    Parameters
    ----------
    style : {"auto", "bar", "lines"}
        A bar needs tqdm. ``"auto"``: a bar in a terminal or a notebook if tqdm is installed, else
        lines, about 20 a run, and in long epochs one a minute.
    file : text file, optional
        Where to write; by default ``sys.stderr``, as it is then. Where it is closed, missing or
        full, training goes on in silence.

    Raises
    ------
    ValueError
        If the style is none of those.
    TypeError
        If `file` cannot be written to.
    ImportError
        At the start of training, if a bar is asked for and tqdm is not installed.
    """

    def __init__(self, style: str = "auto", file: TextIO | None = None) -> None:
        self.style = choice("Progress", "style", style, ("auto", "bar", "lines"))
        if file is not None and not hasattr(file, "write"):
            message = f"Progress: file is {shown(file)}; expected an open text file."
            raise TypeError(message)
        self.file = file
        self._bar: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_bar": None, "_file": None}  # what is open is no part of a copy

    def __call__(self, event: Event) -> None:
        if event.kind == "begin":
            self._begin(event)
        elif event.kind in ("losses", "epoch"):
            if event.losses is not None:
                self._loss = f"loss {text(float(event.losses[-1]))}"
            if self._bar is None:
                self._line(event)
            else:
                self._move(event)
        elif event.kind == "end" and self._bar is not None:
            self._bar.close()
            self._bar = None

    def _begin(self, event: Event) -> None:
        file = sys.stderr if self.file is None else self.file
        self._file = Stream(file)
        self._start, self._before = time.perf_counter(), event.samples
        self._said = self._start
        self._loss = self._row = ""
        bar = None
        if self.style == "bar" or (self.style == "auto" and is_interactive(file)):
            bar = _tqdm()
        if bar is None and self.style == "bar":
            message = "Progress: a bar needs tqdm: pip install tqdm; or style='lines'."
            raise ImportError(message)
        if file is None or not is_writable(file, sys.stdout, sys.stderr):  # which a bar flushes too
            bar = None
        if bar is not None:
            self._bar = bar(
                total=event.total_samples, initial=event.samples, unit=" samples",
                unit_scale=True, dynamic_ncols=True, file=None if in_notebook() else self._file,
            )  # fmt: skip

    def _move(self, event: Event) -> None:
        bar = self._bar
        if event.kind == "epoch":
            self._row = _of(event.row, skip=("loss",))
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
            words = _of(event.row)
        elif now - self._said < LONGEST_SILENCE:
            return
        else:
            words = self._loss
        self._said = now
        rate = (event.samples - self._before) / max(now - self._start, 1e-9)
        line = f"epoch {_epoch(event)}  {words}  {text(rate)} samples/s"
        if event.total_samples is not None and rate > 0:
            line += f"  {clock((event.total_samples - event.samples) / rate)} left"
        self._file.write(line + "\n")
        self._file.flush()  # where output is a pipe, progress would come all at the end


def _epoch(event: Event) -> str:
    epochs = str(event.trainer.epochs)
    return f"{event.epoch:{len(epochs)}}/{epochs}"


def _of(row: Any, skip: tuple[str, ...] = ()) -> str:
    """Return losses and metrics of a row in words."""
    skip = (*skip, *MEASURES)
    return "  ".join(f"{name} {text(value)}" for name, value in row.items() if name not in skip)


def clock(seconds: float) -> str:
    """Return a time as ``0:05``, ``12:34`` or ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _tqdm() -> Any:
    """Return the class of bars for where we are, None without tqdm."""
    try:
        if in_notebook():
            from tqdm.auto import tqdm
        else:
            from tqdm import tqdm
    except ImportError:
        return None
    return tqdm
