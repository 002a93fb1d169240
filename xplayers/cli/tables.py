"""Tables in text files (CSV): their columns become samples and labels.

The first line names the columns. Numbers are numbers; text is taken as categories where that is
asked for, each of which becomes a value of 0 or 1. A missing value has no number, so it is refused.
"""

from __future__ import annotations

import contextlib
import csv
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np

from xplayers.cli.messages import UsageError
from xplayers.models.columns import Columns
from xplayers.saving.files import opened
from xplayers.saving.kinds import START, kind_of

DELIMITERS = ",;\t|"
MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}  # in lower case
MOST_CATEGORIES = 1000
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
INTEGER = re.compile(r"[+-]?\d+")
WHAT = "drop these rows, or fill in values that make sense there"


class Table(NamedTuple):
    """A table of texts: values by column, and the line that each row begins in."""

    path: str
    columns: dict[str, list[str]]
    lines: list[int]

    def refuse(self, row: int, column: str, fault: str) -> NoReturn:
        """Raise the error for a value."""
        message = f"{self.path}: line {self.lines[row]}, column {column}: {fault}"
        raise UsageError(message)


def is_table(path: str) -> bool:
    """Whether a file is text, by its beginning."""
    with contextlib.suppress(OSError, ValueError), opened(path) as file:
        start = file.read(START)
        return kind_of(start).startswith("a text")
    return False


def read_table(path: str) -> Table:
    """Read a text file with a line of names and lines of as many values."""
    if not is_table(path):
        with opened(path) as file:
            kind = kind_of(file.read(START))
        message = f"{path} is {kind or 'something else'}; --target goes with a table (CSV)"
        raise UsageError(message)
    with open(path, encoding="utf-8-sig", newline="") as file:
        try:
            first = file.readline()
            file.seek(0)
            rows = csv.reader(file, delimiter=max(DELIMITERS, key=first.count), strict=True)
            header, values, lines = _parsed(path, rows)
        except UnicodeDecodeError as error:
            message = f"{path} is not UTF-8: byte {error.start} is {error.object[error.start]:#x}"
            raise UsageError(message) from error
    columns = [list(column) for column in zip(*values, strict=True)]
    return Table(path, dict(zip(header, columns, strict=True)), lines)


def _parsed(path: str, rows: Any) -> tuple[list[str], list[list[str]], list[int]]:
    """Return the names of the columns, the rows, and the lines that these begin in."""
    try:
        header = [name.strip() for name in next(rows)]
        _check_header(path, header)
        return header, *_values(path, rows, len(header))
    except csv.Error as error:
        message = f"{path}: line {rows.line_num}: {error}"
        raise UsageError(message) from error


def _check_header(path: str, header: Sequence[str]) -> None:
    twice = [name for i, name in enumerate(header) if name in header[:i]]
    fault = ""
    if twice:
        fault = f"has two columns called {twice[0]!r}"
    elif "" in header:
        fault = f"has no name for column {header.index('') + 1}"
    elif all(_is_number(name) for name in header):
        fault = f"begins with the numbers {', '.join(header[:3])}"
    if fault:
        message = f"{path} {fault}; expected a different name for each column in the first line"
        raise UsageError(message)


def _values(path: str, rows: Any, n: int) -> tuple[list[list[str]], list[int]]:
    values, lines, line = [], [], rows.line_num + 1
    for row in rows:
        if row and len(row) != n:
            message = f"{path}: line {line} has {len(row)} values; the first line names {n} columns"
            raise UsageError(message)
        if row:  # not an empty line
            values.append([value.strip() for value in row])
            lines.append(line)
        line = rows.line_num + 1
    if not values:
        message = f"{path} has a line of names, and no row"
        raise UsageError(message)
    return values, lines


def columns_of(table: Table, target: str, categories: Sequence[str]) -> Columns:
    """Return the columns of a training set: all but the target become samples."""
    _check_names(table, [target], "--target")
    _check_names(table, categories, "--categories")
    if target in categories:
        message = f"--categories: {target} is the target, whose different values are the classes"
        raise UsageError(message)
    names = tuple(name for name in table.columns if name != target)
    if not names:
        message = f"{table.path} has no column but the target {target}"
        raise UsageError(message)
    known = {}
    for name in categories:
        values = sorted(set(_present(table, name)))
        if len(values) > MOST_CATEGORIES:
            message = (
                f"--categories: {name} has {len(values)} different values, at most "
                f"{MOST_CATEGORIES} are taken; is it a name or a number of each row?"
            )
            raise UsageError(message)
        known[name] = tuple(values)
    return Columns(names, known, target)


def _check_names(table: Table, names: Sequence[str], what: str) -> None:
    for name in names:
        if name not in table.columns:
            shown = ", ".join([*table.columns][:20]) + (", ..." if len(table.columns) > 20 else "")
            message = f"{what}: {table.path} has no column {name}; it has {shown}"
            raise UsageError(message)


def samples(table: Table, columns: Columns) -> np.ndarray:
    """Return the columns as samples, ``(n, len(columns.features))`` of float64."""
    _check_names(table, columns.names, "the model")
    parts: list[np.ndarray] = []
    for name in columns.names:
        if name in columns.categories:
            parts.append(_one_hot(table, name, columns.categories[name]))
        else:
            parts.append(_numbers(table, name)[:, None])
    return np.concatenate(parts, axis=1)


def labels(table: Table, columns: Columns) -> np.ndarray:
    """Return the target: integers where all values are, else texts."""
    _check_names(table, [columns.target], "the model")
    values = list(_present(table, columns.target))
    if all(map(INTEGER.fullmatch, values)):
        return np.asarray([int(value) for value in values])
    return np.asarray(values)


def numbers(table: Table, columns: Columns) -> np.ndarray:
    """Return the target of a regression, numbers ``(n,)``."""
    _check_names(table, [columns.target], "the model")
    return _numbers(table, columns.target)


def _present(table: Table, name: str) -> Iterator[str]:
    for row, value in enumerate(table.columns[name]):
        if value.lower() in MISSING:
            table.refuse(row, name, f"the value is missing ({value!r}); {WHAT}")
        yield value


def _numbers(table: Table, name: str) -> np.ndarray:
    values = table.columns[name]
    with contextlib.suppress(ValueError):
        numbers = np.asarray(values).astype(np.float64)
        if np.isfinite(numbers).all() and not any("_" in value for value in values):
            return numbers
    for row, value in enumerate(_present(table, name)):
        if not _is_number(value):
            fault = f"{value!r} is not a number"
            if DECIMAL_COMMA.fullmatch(value):
                fault += ": write a decimal point, as " + value.replace(",", ".")
            elif not any(map(_is_number, values)):
                fault = f"{value!r} is text; --categories {name} takes its values as categories"
            table.refuse(row, name, fault)
        if not np.isfinite(float(value)):
            table.refuse(row, name, f"{value!r} is not finite")
    return np.asarray([float(value) for value in values])


def _one_hot(table: Table, name: str, categories: Sequence[str]) -> np.ndarray:
    known = {category: i for i, category in enumerate(categories)}
    x = np.zeros((len(table.lines), len(categories)))
    for row, value in enumerate(_present(table, name)):
        if value not in known:
            some = ", ".join(categories[:10]) + (", ..." if len(categories) > 10 else "")
            table.refuse(row, name, f"{value!r} is none of the categories of the training: {some}")
        x[row, known[value]] = 1.0
    return x


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # which only Python takes
