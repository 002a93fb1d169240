"""Progress of training: a bar in terminals and notebooks, else lines."""

from __future__ import annotations

import importlib.util
import itertools
import math
import sys
import time
from typing import Any, TextIO

from xplayers._checks import choice, shown
from xplayers._terminal import Stream, has_colour, in_notebook, is_interactive, is_writable
from xplayers._text import columns
from xplayers.reports.columns import MEASURES
from xplayers.reports.events import Event
from xplayers.reports.history import text

__all__ = ["Progress"]

MOST_LINES = 20  # about; of a run of short epochs
# Of a bar, from the most to the least; None is tqdm's own, with the speed.
FORMATS = (
    None,
    "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
    "{desc}: {percentage:3.0f}%|{bar}| {remaining}{postfix}",
    "{desc}: {percentage:3.0f}%{postfix}",
)
MOST_SECONDS = 60.0  # between two lines, in a long epoch


class Progress:
    """A callback that shows the progress: loss, metrics, samples per second and time left.

    Parameters
    ----------
    style : {"auto", "bar", "lines"}
        A bar needs tqdm; it shows what the width allows, losses and metrics first, above it a line
        for each epoch. ``"auto"``: a bar in a terminal or a notebook if tqdm is installed, else
        lines, about 20 per run, and in long epochs one per minute. The loss is that of the last
        step; at the end of an epoch its mean, as in the history.
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

    Examples
    --------
    >>> import io
    >>> import numpy as np, xplayers as xl
    >>> x, t = np.eye(4, dtype="float32"), np.arange(4)
    >>> net, loss, file = xl.mlp([4, 4], rng=0), xl.SoftmaxWithLoss(), io.StringIO()
    >>> show = xl.Progress("lines", file=file)
    >>> trainer = xl.Trainer(net, loss, xl.SGD(), epochs=3, callbacks=[show], progress=False)
    >>> history = trainer.fit(x, t)
    >>> for line in file.getvalue().splitlines():
    ...     print(line[:21].rstrip())
    epoch 1/3  loss 1.432
    epoch 2/3  loss 1.43
    epoch 3/3  loss 1.427
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
                self._loss = {"loss": float(event.losses[-1])}
            if self._bar is None:
                self._line(event)
            else:
                self._update_bar(event)
        elif event.kind == "end":
            if self._bar is not None:
                self._bar.close()
                self._bar = None
            if event.history.stopped == "patience":
                best, trainer = event.history.best_epoch, event.trainer
                end = f"; epoch {best} is restored" if trainer.restore_best and best else ""
                self._say(f"stopped early: no improvement for {trainer.patience} epochs{end}")

    def _begin(self, event: Event) -> None:
        file = sys.stderr if self.file is None else self.file
        self._file = Stream(file)
        self._start, self._initial_samples = time.perf_counter(), event.samples
        self._last_line = self._start
        self._loss, self._row = {}, {}  # of the last step, and of the last epoch
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
                colour="green" if has_colour(file) else None,
            )  # fmt: skip

    def _update_bar(self, event: Event) -> None:
        bar = self._bar
        if event.row is not None:
            self._row = _measures(event.row)
            self._loss = {"loss": self._row["loss"]}
            bar.clear()
            self._say(_within(bar.format_dict["ncols"], f"epoch {_epoch(event)}", self._row))
        bar.total = event.total_samples
        bar.set_description_str(f"epoch {_epoch(event)}", refresh=False)
        self._fit_bar({**self._row, **self._loss})
        bar.update(event.samples - bar.n)
        if event.row is not None:
            bar.refresh()

    def _fit_bar(self, measures: dict[str, Any]) -> None:
        """Show what the width allows: of the measures at least the first and the last one."""
        bar = self._bar
        for some, bar.bar_format in itertools.product((measures, _ends(measures)), FORMATS):
            bar.set_postfix_str(_format(some), refresh=False)
            now = bar.format_dict
            width, least = now["ncols"], bar.format_meter(**{**now, "ncols": None, "colour": None})
            if not width or columns(least) <= width:
                return

    def _line(self, event: Event) -> None:
        now, epochs = time.perf_counter(), event.trainer.epochs
        every = math.ceil(epochs / MOST_LINES)
        if event.kind == "epoch":
            if event.epoch % every and event.epoch != epochs:
                return
            measures = _format(_measures(event.row))
        elif now - self._last_line < MOST_SECONDS:
            return
        else:
            measures = _format(self._loss)
        self._last_line = now
        rate = (event.samples - self._initial_samples) / max(now - self._start, 1e-9)
        line = f"epoch {_epoch(event)}  {measures}  {text(rate)} samples/s"
        if event.total_samples is not None and rate > 0:
            line += f"  {clock((event.total_samples - event.samples) / rate)} left"
        self._say(line)

    def _say(self, line: str) -> None:
        self._file.write(line + "\n")
        self._file.flush()  # pipes are block-buffered


def _epoch(event: Event) -> str:
    epochs = str(event.trainer.epochs)
    return f"{event.epoch:{len(epochs)}}/{epochs}"


def _measures(row: Any) -> dict[str, Any]:
    """Return losses and metrics of a row."""
    return {name: value for name, value in row.items() if name not in MEASURES}


def _format(measures: dict[str, Any]) -> str:
    return "  ".join(f"{name} {text(value)}" for name, value in measures.items())


def _ends(measures: dict[str, Any]) -> dict[str, Any]:
    """Return the first and the last one."""
    return dict([*measures.items()][:: max(len(measures) - 1, 1)])


def _within(width: int | None, epoch: str, measures: dict[str, Any]) -> str:
    """Return the line of an epoch with what the width allows, at least the ends."""
    line = ""
    for some, gap in itertools.product((measures, _ends(measures)), ("  ", " ")):
        line = gap.join([epoch, *_format(some).split("  ")])
        if not width or columns(line) <= width:
            break
    return line


def clock(seconds: float) -> str:
    """Format a duration as ``0:05``, ``12:34`` or ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _tqdm() -> Any:
    """Return the class of bars for terminals or notebooks; None without tqdm."""
    try:
        # Without ipywidgets, tqdm's bar of notebooks would be a warning, and that of terminals.
        if in_notebook() and importlib.util.find_spec("ipywidgets"):
            from tqdm.auto import tqdm
        else:
            from tqdm import tqdm
    except ImportError:
        return None
    return tqdm
