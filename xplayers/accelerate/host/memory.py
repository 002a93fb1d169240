"""Memory of large NumPy arrays, which is used again when nobody holds them any more.

A fresh array of megabytes comes as pages that the system has to clear first, which takes as long as
the arithmetic that fills it. A training loop needs arrays of the same sizes again and again.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from xplayers.accelerate.host.libc import of_c

SMALLEST = 1 << 20  # bytes; the C library keeps smaller arrays itself
LINE = 64  # bytes; an array that begins with a line of the cache is read and written faster
MOST = 128 << 20  # bytes that are kept though nobody uses them

# By size. What is handed out are views of these arrays, and a view holds a reference to its array:
# an array to which there is no other reference than the one in here is free.
_pool: dict[int, list[np.ndarray]] = {}
_lock = threading.Lock()


def empty(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """Return an array with any values, as `numpy.empty` does."""
    dtype = np.dtype(dtype)
    n = math.prod(shape) * dtype.itemsize
    if n < SMALLEST or not _COUNTED:
        return np.empty(shape, dtype)
    with _lock:
        arrays = _pool.setdefault(n, [])
        for i in range(len(arrays)):
            if _references(arrays, i) == _FREE:
                break
        else:
            i = len(arrays)
            _make_room(n)
            arrays.append(np.empty(n + LINE, np.uint8))
        start = -arrays[i].ctypes.data % LINE
        return arrays[i][start : start + n].view(dtype).reshape(shape)


def let_go() -> None:
    """Let go of all that nobody uses."""
    with _lock:
        _make_room(MOST)


def trim() -> None:
    """Let go of all that nobody uses, down to what the C library has kept of it.

    The larger the heap, the longer that takes: it is no call for every step.
    """
    let_go()
    give_back = of_c("malloc_trim")  # of glibc: without it, a piece in use keeps all below it
    if give_back is not None:
        give_back(0)


def _make_room(n: int) -> None:
    """Let go of free arrays, first of the sizes that were asked for first, until `n` bytes fit."""
    too_many = n - MOST
    for size, arrays in _pool.items():
        too_many += size * sum(_references(arrays, i) == _FREE for i in range(len(arrays)))
    for size, arrays in _pool.items():
        for i in reversed(range(len(arrays))):
            if too_many > 0 and _references(arrays, i) == _FREE:
                del arrays[i]
                too_many -= size


def _references(arrays: list[np.ndarray], i: int) -> int:
    return sys.getrefcount(arrays[i])


_FREE = _references([np.empty(1)], 0)
# Without the global lock of the interpreter a count may be behind.
_COUNTED = getattr(sys, "_is_gil_enabled", lambda: True)()


def _forget_lock() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # a thread that holds it does not survive a fork
    os.register_at_fork(after_in_child=_forget_lock)
