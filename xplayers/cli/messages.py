"""Output of the command: results on stdout; errors and warnings on stderr, one line each.

Both streams may be closed, missing or full, or have an encoding that lacks a character. Output on
stderr may be lost. Output on stdout is the result of a command, unless that is in files.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from typing import Any

from xplayers._terminal import has_colour
from xplayers._text import truncate_uniquely
from xplayers.training.failures import NonFiniteLoss, is_out_of_memory

INTERRUPTED = 130  # exit code, as after SIGINT
PIPE_CLOSED = 141  # and after SIGPIPE

RED, YELLOW = 31, 33  # of terminals
WIDEST = 40  # maximum width of the name of a class, in columns of a terminal


class UsageError(Exception):
    """An error that the user can correct."""


class Stdout:
    """The current standard output.

    If it is `required`, write errors are errors of the command; else output is dropped, because the
    results are in files.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Reset at the beginning of a command."""
        self.required, self._escaped = True, False
        self.silent = False  # as all but the first of several processes
        self._error: Exception | None = None

    def check(self) -> None:
        """Raise the first write error again if the output is required; it may have been caught."""
        if self._error is not None and self.required:
            raise self._error

    def write(self, text: str) -> None:
        """Write a text; characters that the encoding lacks are escaped."""
        if self.silent:
            return
        self.check()
        if self._error is not None:
            return
        try:
            if sys.stdout is None or getattr(sys.stdout, "closed", False):
                message = "the standard output is closed"
                raise UsageError(message)
            encoding = _write(sys.stdout, text)
            # UTF-8 only lacks surrogates, from names of files that are not UTF-8.
            if encoding.lower() not in ("", "utf-8") and not self._escaped:
                self._escaped = True
                print_warning(
                    f"the standard output is {encoding}: other characters are escaped; "
                    "PYTHONIOENCODING=utf-8 has all"
                )
        except (OSError, ValueError, UsageError) as error:  # ValueError: closed or detached
            self._fail(error)

    def flush(self) -> None:
        """Flush the output."""
        self.check()
        if self._error is not None or sys.stdout is None or getattr(sys.stdout, "closed", False):
            return
        try:
            getattr(sys.stdout, "flush", bool)()
        except (OSError, ValueError) as error:
            self._fail(error)

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return is_terminal(sys.stdout)

    def _fail(self, error: Exception) -> None:
        redirect_to_null(sys.stdout)
        self._error = error
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            self._error = UsageError(f"the standard output: {error.strerror or error}")
            if not self.required:
                print_warning(f"{self._error}; the command continues")
        self.check()


stdout = Stdout()


def print_line(line: str) -> None:
    """Print a line and flush: pipes are block-buffered."""
    stdout.write(f"{line}\n")
    stdout.flush()


def print_error(text: str) -> None:
    """Print an error in one line."""
    write_stderr(f"xplayers: {_coloured('error:', RED)} {_one_line(text)}")


def print_warning(text: str) -> None:
    """Print a warning in one line."""
    print_note(f"{_coloured('warning:', YELLOW)} {_one_line(text)}")


def _coloured(text: str, colour: int) -> str:
    return f"\x1b[1;{colour}m{text}\x1b[0m" if has_colour(sys.stderr) else text


def _one_line(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines())


def print_note(line: str) -> None:
    """Print a message on stderr."""
    if not stdout.silent:
        write_stderr(f"xplayers: {line}")


def write_stderr(line: str) -> None:
    """Write a line to stderr, ignoring errors."""
    try:
        if sys.stderr is not None:
            _write(sys.stderr, f"{line}\n")
            getattr(sys.stderr, "flush", bool)()
    except (OSError, ValueError, AttributeError):
        redirect_to_null(sys.stderr)


def is_terminal(stream: Any) -> bool:
    """Whether a stream, which may be None or closed, is a terminal."""
    try:
        return bool(stream.isatty())
    except (AttributeError, OSError, ValueError):
        return False


def _write(stream: Any, text: str) -> str:
    """Write a text, and return the encoding if characters had to be escaped, else ""."""
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = getattr(stream, "encoding", None) or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return encoding
    return ""


def redirect_to_null(stream: Any) -> None:
    """Redirect a stream to the null device, so that flushing it at exit does not fail."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        number, null = stream.fileno(), os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)


def warn(message: Any, *where: Any, **more: Any) -> None:
    """Print a warning without the source line; replaces `warnings.showwarning`."""
    print_warning(str(message))


def error_text(error: Exception) -> str:
    """Return the message of an error, with hints in terms of the options of the command."""
    if is_out_of_memory(error):
        # The message of a trainer has hints on its arguments; its cause is the library's error.
        return f"out of memory ({error.__cause__ or error}); use a smaller --batch-size or network"
    if isinstance(error, NonFiniteLoss):
        text = str(error).removeprefix("Trainer: ").partition(" Use a smaller learning rate")[0]
        return f"{text} Use a smaller --lr."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, UsageError | ValueError | OSError | ImportError):
        return str(error)
    return f"{type(error).__name__}: {error} (with --debug: where)"


def display_names(names: Iterable[object]) -> list[str]:
    """Return names of classes for tables: in one line, truncated, and still different."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    texts = [str(name).encode(encoding, "backslashreplace").decode(encoding) for name in names]
    return truncate_uniquely(texts, WIDEST)
