"""Where a program runs, for what people look at."""

from __future__ import annotations

import contextlib
import sys
import warnings
from typing import Any


def notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    return "ipykernel" in sys.modules


def watched(file: Any) -> bool:
    """Whether `file` is interactive: a terminal or a notebook."""
    with contextlib.suppress(Exception):  # it was closed, or is no such file
        return bool(file.isatty()) or notebook()
    return False


def writable(*files: Any) -> bool:
    """Whether streams can be written to, as far as they know; None is passed over."""
    try:
        for file in files:
            getattr(file, "flush", bool)()
    except Exception:  # it was closed, nobody reads, the disk is full
        return False
    return True


def warn(message: str) -> None:
    """Warn of what does not end a run, and do not end it where stderr was closed."""
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=4)
    except ValueError:  # "I/O operation on closed file", which Python does not expect there
        return


def say(message: str) -> None:
    """Write a line to stderr: what is no fault, and what people want to know."""
    stream = Stream(sys.stderr)
    stream.write(f"{message}\n")
    stream.flush()


class Stream:
    """A text stream for what somebody may look at: where nothing can be written, nothing is.

    A closed stderr, none at all, a full disk or a reader who has gone must not end a run. What a
    write that failed has left of a line is ended before the next one.

    Parameters
    ----------
    file : text file or None
        Where to write; all but `write` and `flush` is asked of it.
    """

    def __init__(self, file: Any) -> None:
        self.file = file
        self._half = False

    def write(self, text: str) -> None:
        """Write, if that is possible."""
        try:
            encoding = getattr(self.file, "encoding", None) or "utf-8"
            text = text.encode(encoding, "backslashreplace").decode(encoding)
            self.file.write("\n" + text if self._half else text)
            self._half = False
        except Exception:  # whatever a file of ones own raises
            self._half = True

    def flush(self) -> None:
        """Bring to the reader what was written, if that is possible."""
        try:
            getattr(self.file, "flush", bool)()
        except Exception:
            self._half = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __eq__(self, other: object) -> bool:  # bars ask whether they are on the same stream
        return self.file is (other.file if isinstance(other, Stream) else other)

    def __hash__(self) -> int:
        return id(self.file)
