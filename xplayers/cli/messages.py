"""What the command says: lines on stdout; errors and warnings on stderr, each in one line.

Both streams may be closed, missing, full, or of an encoding that lacks a character. What is said on
stderr can be lost. What is said on stdout is the result of a command, unless that is in files.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from typing import Any

from xplayers._text import truncate_uniquely
from xplayers.training.failures import NonFiniteLoss, is_out_of_memory

INTERRUPTED = 130  # exit code, as of a process that SIGINT ends
PIPE_CLOSED = 141  # and SIGPIPE

WIDEST = 40  # columns of a terminal for the name of a class


class Mistake(Exception):
    """What the user can mend."""


class Stdout:
    """The standard output: as it is when something is written.

    Attributes
    ----------
    needed : bool
        Whether an error is one of the command; else what cannot be written is left out, since the
        results are in files.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begin a command, whose results are on the standard output until it says otherwise."""
        self.needed, self._escaped = True, False
        self._lost: Exception | None = None

    def check(self) -> None:
        """Raise what went wrong before, where the output is needed: others may have passed it."""
        if self._lost is not None and self.needed:
            raise self._lost

    def write(self, text: str) -> None:
        """Write a text; characters that the encoding lacks are escaped."""
        self.check()
        if self._lost is not None:
            return
        try:
            if sys.stdout is None or getattr(sys.stdout, "closed", False):
                message = "the standard output is closed"
                raise Mistake(message)
            lacking = _put(sys.stdout, text)
            # What UTF-8 lacks is no text, as a name of a file that is none.
            if lacking.lower() not in ("", "utf-8") and not self._escaped:
                self._escaped = True
                what = f"the standard output is {lacking}: what that lacks is escaped"
                complain("warning", f"{what}; PYTHONIOENCODING=utf-8 has all")
        except (OSError, ValueError, Mistake) as error:  # ValueError: it was closed or detached
            self._lose(error)

    def flush(self) -> None:
        """Bring to its reader what was written."""
        self.check()
        if self._lost is not None or sys.stdout is None or getattr(sys.stdout, "closed", False):
            return
        try:
            getattr(sys.stdout, "flush", bool)()
        except (OSError, ValueError) as error:
            self._lose(error)

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return is_terminal(sys.stdout)

    def _lose(self, error: Exception) -> None:
        abandon(sys.stdout)
        self._lost = error
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            self._lost = Mistake(f"the standard output: {error.strerror or error}")
            if not self.needed:
                complain("warning", f"{self._lost}; the work goes on")
        self.check()


stdout = Stdout()


def say(line: str) -> None:
    """Print a line at once: where output is a pipe, progress would come all at the end."""
    stdout.write(f"{line}\n")
    stdout.flush()


def complain(kind: str, words: str) -> None:
    """Print an ``error`` or a ``warning``."""
    line = " ".join(line.strip() for line in words.splitlines())
    note(f"{kind}: {line}")


def note(line: str) -> None:
    """Print what is to be known beside the results."""
    print_error(f"xplayers: {line}")


def print_error(line: str) -> None:
    """Print a line on stderr; where it cannot be written, there is nobody to tell."""
    try:
        if sys.stderr is not None:  # else print would take stdout
            _put(sys.stderr, f"{line}\n")
            getattr(sys.stderr, "flush", bool)()
    except (OSError, ValueError, AttributeError):
        abandon(sys.stderr)


def is_terminal(stream: Any) -> bool:
    """Whether a stream, which may be none or closed, is a terminal."""
    try:
        return bool(stream.isatty())
    except (AttributeError, OSError, ValueError):
        return False


def _put(stream: Any, text: str) -> str:
    """Write a text, and return the encoding for which characters had to be escaped, or none."""
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = getattr(stream, "encoding", None) or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return encoding
    return ""


def abandon(stream: Any) -> None:
    """Let what is still to be written go nowhere; the interpreter would complain at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        number, nowhere = stream.fileno(), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def warn(message: Any, *where: Any, **more: Any) -> None:
    """Print a warning without the place in the code, in the manner of `warnings.showwarning`."""
    complain("warning", str(message))


def in_words(error: Exception) -> str:
    """Return what an error says, with what to do about it in the options of the command."""
    if is_out_of_memory(error):
        # A trainer speaks of its own arguments; the error behind it is that of the library.
        return f"out of memory ({error.__cause__ or error}); take a smaller --batch-size or network"
    if isinstance(error, NonFiniteLoss):
        what = str(error).removeprefix("Trainer: ").partition(" Use a smaller learning rate")[0]
        return f"{what} Use a smaller --lr."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, Mistake | ValueError | OSError | ImportError):
        return str(error)
    return f"{type(error).__name__}: {error} (with --debug: where)"


def named(names: Iterable[object]) -> list[str]:
    """Return names of classes as they stand in tables: in one line, not too long, and apart."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    texts = [str(name).encode(encoding, "backslashreplace").decode(encoding) for name in names]
    return truncate_uniquely(texts, WIDEST)
