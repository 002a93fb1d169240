"""The history of a training run: a table with one row per epoch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np

from xplayers._calls import explained
from xplayers._checks import shown
from xplayers._drawing import table
from xplayers._text import aligned
from xplayers.saving.files import AnyPath, in_full, write_text

__all__ = ["History"]

Number = int | float
Row = dict[str, Number]

MOST_ROWS = 20  # printed rows; of a longer table the first and the last ones

# JSON has no numbers for these three; they are written as strings.
_NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class History:
    """A table of numbers with named columns, one row per epoch.

    Parameters
    ----------
    rows : iterable of mapping of str to number
        The rows; missing values are NaN.

    Attributes
    ----------
    columns : tuple of str
        Names of the columns, in order of first appearance.
    stopped : str
        Why the run ended: ``"finished"``; ``"patience"``, for early stopping; ``"interrupted"``;
        ``"callback"``, for `Trainer.stop`; ``"nonfinite"``; ``""`` while it is running. Not part
        of the table.
    best_epoch : int or None
        The epoch with the best value of the monitored column. Not part of the table.

    Notes
    -----
    A `Trainer` writes the columns ``epoch`` (from 1), ``step`` (updates so far), ``loss`` (mean
    over the samples of the epoch, while the parameters change), training metrics if requested,
    ``val_loss`` and ``val_`` metrics (after the epoch, over the whole validation set), ``lr`` (of
    the last step), ``seconds`` (of the epoch) and ``samples_per_s`` (of its training only).

    Examples
    --------
    >>> history = History([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}])
    >>> history
    epoch  loss
        1   0.5
        2  0.25
    >>> history["loss"]
    array([0.5 , 0.25])
    >>> history[-1]
    {'epoch': 2, 'loss': 0.25}
    """

    def __init__(self, rows: Iterable[Mapping[str, Number]] = ()) -> None:
        # Columns rather than rows: a long run has as many rows as epochs, and a dict is 200 bytes.
        self._columns: dict[str, list[Number | None]] = {}
        self._length = 0
        self.stopped = ""
        self.best_epoch: int | None = None
        if isinstance(rows, str | Mapping) or not isinstance(rows, Iterable):
            message = f"History: rows is {shown(rows)}; expected a list of dicts of numbers."
            raise TypeError(message)
        for row in rows:
            self.append(row)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self._columns)

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the run."""
        return self.stopped == "interrupted"

    @explained()
    def append(self, row: Mapping[str, Number]) -> None:
        """Append a row.

        Parameters
        ----------
        row : mapping of str to number
            Integers stay integers.

        Raises
        ------
        TypeError
            If a value is not a number.
        """
        if not isinstance(row, Mapping):
            message = f"History: a row is {shown(row)}; expected a dict of numbers."
            raise TypeError(message)
        for name, value in row.items():
            if not isinstance(name, str):
                message = f"History: a row has the column {shown(name)}; expected a string."
                raise TypeError(message)
            if isinstance(value, bool) or not isinstance(value, int | float | np.number):
                message = (
                    f"History: {name} is a {type(value).__name__}; expected a number. "
                    "Convert a 0-d array by float()."
                )
                raise TypeError(message)
        for name, value in row.items():
            number = value.item() if isinstance(value, np.number) else value
            self._columns.setdefault(name, [None] * self._length).append(number)
        self._length += 1
        for values in self._columns.values():
            if len(values) < self._length:
                values.append(None)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Row]:
        return (self[i] for i in range(self._length))

    @overload
    def __getitem__(self, key: str) -> np.ndarray: ...
    @overload
    def __getitem__(self, key: int) -> Row: ...
    def __getitem__(self, key: str | int) -> np.ndarray | Row:
        """Return a column by name, as a new array, or a row by index, as a dict."""
        if isinstance(key, str):
            if key not in self._columns:
                message = f"no column {key!r}; there are {', '.join(self._columns) or 'none'}"
                raise KeyError(message)
            return np.asarray([math.nan if v is None else v for v in self._columns[key]])
        if not hasattr(key, "__index__"):
            message = f"History: [{key}]; expected the name of a column or the index of a row."
            raise TypeError(message)
        if not -self._length <= key < self._length:
            message = f"History: row {key} of {self._length}."
            raise IndexError(message)
        row = {name: values[key] for name, values in self._columns.items()}
        return {name: value for name, value in row.items() if value is not None}

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __eq__(self, other: object) -> bool:
        # As text, because NaN is not equal to itself.
        return isinstance(other, History) and self._lines() == other._lines()

    __hash__ = None  # type: ignore[assignment]  # mutable

    def to_pandas(self) -> Any:
        """Return the table as a ``pandas.DataFrame``.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            message = "History.to_pandas needs pandas: pip install pandas."
            raise ImportError(message) from error
        return pd.DataFrame({name: self[name] for name in self._columns})

    @explained()
    def to_jsonl(self, path: AnyPath) -> None:
        """Write the table as JSON lines: one object per row, in UTF-8.

        Numbers are restored exactly; non-finite ones are the strings ``"NaN"``, ``"Infinity"`` and
        ``"-Infinity"``.

        Parameters
        ----------
        path : path
            The file; ``~`` is the home directory. It is replaced atomically.

        Raises
        ------
        OSError
            If it cannot be written; then an existing file is unchanged.
        """
        path = in_full(path, "History.to_jsonl")
        write_text(path, "".join(f"{line}\n" for line in self._lines()))

    @classmethod
    @explained()
    def from_jsonl(cls, path: AnyPath) -> History:
        """Read a table written by `to_jsonl`.

        Parameters
        ----------
        path : path
            The file; ``~`` is the home directory.

        Raises
        ------
        OSError
            If it cannot be read.
        ValueError
            If a line is not a JSON object of numbers; the message has its number.
        """
        history, path = cls(), in_full(path, "History.from_jsonl")
        with open(path, encoding="utf-8") as file:
            try:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        history.append(_row(line, f"{path}, line {number}"))
            except UnicodeDecodeError as error:
                message = f"History.from_jsonl: {path} is not UTF-8 text: {error}."
                raise ValueError(message) from error
        return history

    def plot(self, path: AnyPath | None = None) -> Any:
        """Plot the losses and metrics, as `plot_curves`.

        Parameters
        ----------
        path : path, optional
            Write the figure to this file; the suffix selects the format.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from xplayers.reports.plots import plot_curves

        columns = {name: self[name] for name in self._columns}
        return plot_curves(columns, path, best_epoch=self.best_epoch)

    def _lines(self) -> list[str]:
        names = {repr(value): name for name, value in _NONFINITE.items()}
        return [
            json.dumps({column: names.get(repr(value), value) for column, value in row.items()})
            for row in self
        ]

    def _table(self) -> list[Sequence[str]]:
        """Return names and values as text; of a long table the first and the last rows."""
        half = MOST_ROWS // 2
        numbers = list(range(self._length))
        if self._length > MOST_ROWS:
            numbers = [*numbers[:half], *numbers[-half:]]
        values = self._columns.values()
        return [self.columns, *([text(column[i]) for column in values] for i in numbers)]

    def __repr__(self) -> str:
        if not self._length:
            return "History()"
        rows = aligned(self._table())
        if self._length > MOST_ROWS:
            rows.insert(MOST_ROWS // 2 + 1, f"... {self._length - MOST_ROWS} more rows ...")
        return "\n".join(rows)

    def _repr_html_(self) -> str:
        rows = self._table()
        if self._length > MOST_ROWS:
            rows.insert(MOST_ROWS // 2 + 1, ["\N{HORIZONTAL ELLIPSIS}"] * len(self.columns))
        return table(rows)


def text(value: Number | None) -> str:
    """Format a number for a table: four digits, and large ones in full."""
    if value is None:
        return ""
    if isinstance(value, int):
        return str(value)
    return f"{value:.0f}" if 1e3 <= abs(value) < 1e12 else f"{value:.4g}"


def _row(line: str, location: str) -> Row:
    """Parse a line; `location` is for the errors."""
    try:
        cells = json.loads(line)
    except (ValueError, RecursionError) as error:
        message = f"History.from_jsonl: {location} is not JSON: {error}."
        raise ValueError(message) from error
    if not isinstance(cells, dict):
        message = f"History.from_jsonl: {location} is a JSON {type(cells).__name__}, not an object."
        raise ValueError(message)
    row: Any = {k: _NONFINITE.get(v, v) if isinstance(v, str) else v for k, v in cells.items()}
    for name, value in row.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            message = f"History.from_jsonl: {location}: {name} is {value!r}; expected a number."
            raise ValueError(message)
    return row
