"""Where a program runs, for what people look at."""

from __future__ import annotations

import sys
from typing import TextIO


def notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    return "ipykernel" in sys.modules


def watched(file: TextIO) -> bool:
    """Whether somebody looks at `file` while it is written: a terminal or a notebook."""
    return file.isatty() or notebook()
