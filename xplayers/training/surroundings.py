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
    """Whether somebody looks at `file` while it is written: a terminal or a notebook."""
    with contextlib.suppress(Exception):  # it was closed, or is no such file
        return bool(file.isatty()) or notebook()
    return False


def warn(message: str) -> None:
    """Warn of what does not end a run, and do not end it where stderr was closed."""
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=4)
    except ValueError:  # "I/O operation on closed file", which Python does not expect there
        return
