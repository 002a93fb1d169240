"""Functions of the C library that Python does not have."""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def of_c(name: str) -> Any:
    """Return the function of that name, of ints; None where the system has no such thing."""
    try:
        import ctypes

        return getattr(ctypes.CDLL(None), name, None)
    except (ImportError, OSError, TypeError):  # Python was built without it; Windows
        return None
