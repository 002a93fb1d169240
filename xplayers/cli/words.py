"""What the command says: lines on stdout; errors and warnings on stderr, each in one line."""

from __future__ import annotations

import sys
from typing import Any

from xplayers.training.guard import NonFiniteLoss, is_out_of_memory

INTERRUPTED = 130  # exit code, as of a process that SIGINT ends
PIPE_CLOSED = 141  # and SIGPIPE


class Mistake(Exception):
    """What the user can mend."""


def say(line: str) -> None:
    """Print a line at once: where output is a pipe, progress would come all at the end."""
    print(line, flush=True)


def complain(kind: str, words: str) -> None:
    """Print an ``error`` or a ``warning``."""
    line = " ".join(line.strip() for line in words.splitlines())
    print(f"xplayers: {kind}: {line}", file=sys.stderr)


def warn(message: Any, *where: Any, **more: Any) -> None:
    """Print a warning without the place in the code, in the manner of `warnings.showwarning`."""
    complain("warning", str(message))


def in_words(error: Exception) -> str:
    """Return what an error says, with what to do about it in the options of the command."""
    if is_out_of_memory(error):
        # A trainer speaks of its own arguments; the error behind it is that of the library.
        return f"out of memory ({error.__cause__ or error}); take a smaller --batch-size or network"
    if isinstance(error, NonFiniteLoss):
        what = str(error).removeprefix("Trainer: ").partition(" Take a smaller learning rate")[0]
        return f"{what} Take a smaller --lr."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, Mistake | ValueError | OSError | ImportError):
        return str(error)
    return f"{type(error).__name__}: {error} (with --debug: where)"
