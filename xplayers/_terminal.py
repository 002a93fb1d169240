"""Interactive terminals, notebooks, and output streams that may fail."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from typing import Any


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    return "ipykernel" in sys.modules


def is_interactive(file: Any) -> bool:
    """Whether `file` is interactive: a terminal or a notebook."""
    with contextlib.suppress(Exception):  # closed, or not a stream
        return bool(file.isatty()) or in_notebook()
    return False


def has_colour(file: Any) -> bool:
    """Whether `file` is a terminal that shows colours, and nobody has asked for none."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"  # no-color.org
    with contextlib.suppress(Exception):
        return not plain and bool(file.isatty())
    return False


def is_writable(*files: Any) -> bool:
    """Whether flushing the streams succeeds; None is skipped."""
    try:
        for file in files:
            getattr(file, "flush", bool)()
    except Exception:  # closed, a broken pipe, a full disk
        return False
    return True


def warn(message: str) -> None:
    """Issue a RuntimeWarning; do nothing if stderr is closed."""
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=4)
    except ValueError:  # "I/O operation on closed file", which `warnings` does not catch
        return


def notify(message: str) -> None:
    """Write an informational line to stderr."""
    stream = Stream(sys.stderr)
    stream.write(f"{message}\n")
    stream.flush()


class Stream:
    """A text stream that ignores errors.

    A closed or missing stderr, a full disk or a broken pipe must not end a run. After a write that
    failed, the next one begins on a new line. Other attributes are those of `file`, which may be
    None.
    """

    def __init__(self, file: Any) -> None:
        self.file = file
        self._failed = False

    def write(self, text: str) -> None:
        """Write, if possible."""
        try:
            encoding = getattr(self.file, "encoding", None) or "utf-8"
            text = text.encode(encoding, "backslashreplace").decode(encoding)
            self.file.write("\n" + text if self._failed else text)
            self._failed = False
        except Exception:  # a custom stream may raise anything
            self._failed = True

    def flush(self) -> None:
        """Flush, if possible."""
        try:
            getattr(self.file, "flush", bool)()
        except Exception:
            self._failed = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __eq__(self, other: object) -> bool:  # tqdm compares the streams of its bars
        return self.file is (other.file if isinstance(other, Stream) else other)

    def __hash__(self) -> int:
        return id(self.file)
