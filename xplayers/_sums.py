"""Sums of columns and of channels, of which NumPy's own lose digits; and squares that fit.

NumPy adds up the rows of a matrix one after the other: the sum of a million values of 0.1 is wrong
in the third digit in float32. Here parts of the rows are products with ones, by BLAS, and so are
their sums. That is faster too. The other libraries add up by halves, or in parallel.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from xplayers._arrays import Array, is_half, library_name, namespace, widened
from xplayers._recording import StandIn, whole
from xplayers.cuda.switch import is_fused

FEW = 32  # rows that NumPy adds up one after the other as well, and faster
PART = 64  # rows that are added up one after the other, or in a few lanes

# Squares of large values overflow, those of small ones are 0. So values are multiplied by a power
# of two, which changes no digit, where the largest is below the first of these or above the third:
# (low, times, high, times), by dtype of the squares.
UNITS = {
    "float32": (2.0**-40, 2.0**90, 2.0**40, 2.0**-80),
    "float64": (2.0**-400, 2.0**650, 2.0**400, 2.0**-700),
}


def column_sums(a: Array) -> Array:
    """Return the sum over the first axis, of columns; 16-bit values are summed in float32."""
    xp = namespace(a)
    if is_fused(xp):
        from xplayers.cuda import sums

        total = sums.column_sums(a)
        if total is not None:
            return total
    wide = widened(xp, a)
    if type(a) is np.ndarray or _computes_as_numpy(a):
        total = rows_added(wide)
    elif isinstance(a, StandIn) and library_name(xp) == "numpy":
        total = _rows_added(wide)
    else:
        total = xp.sum(wide, axis=0)
    return xp.astype(total, a.dtype) if is_half(a) else total


def _computes_as_numpy(a: Array) -> bool:
    """Whether it is of a subclass of NumPy's arrays which leaves the arithmetic to NumPy."""
    return isinstance(a, np.ndarray) and type(a).__array_ufunc__ is np.ndarray.__array_ufunc__


def channel_sums(x: Array) -> Array:
    """Return the sum over all axes but axis 1, of channels; 16-bit values as in `column_sums`."""
    if len(x.shape) == 2:
        return column_sums(x)
    xp = namespace(x)
    if is_fused(xp):
        from xplayers.cuda import sums

        total = sums.channel_sums(x)
        if total is not None:
            return total
    wide = widened(xp, x)
    if library_name(xp) == "numpy":
        n, c = x.shape[:2]
        places = xp.reshape(wide, (n, c, math.prod(x.shape[2:])))
        total = column_sums(xp.sum(places, axis=2))  # places lie side by side: NumPy takes halves
    else:
        total = xp.sum(wide, axis=(0, *range(2, len(x.shape))))
    return xp.astype(total, x.dtype) if is_half(x) else total


def rows_added(a: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return the sum of the rows of an array of NumPy, in `out` if that is given."""
    n, shape = a.shape[0], a.shape[1:]
    if a.ndim == 2 and n <= FEW:
        reduce: Any = np.add.reduce
        return reduce(a, 0, None, out)
    if a.ndim == 2 and n <= 2 * PART and shape[0] > 1:
        return np.matmul(_ones(n, a.dtype), a, out=out)
    flat = a if a.ndim == 2 else a.reshape(n, math.prod(shape))
    # One column lies side by side, which NumPy adds up by halves.
    total = np.add.reduce(flat, axis=0) if flat.shape[1] == 1 else _columns_added(flat)
    total = total if a.ndim == 2 else total.reshape(shape)
    if out is None:
        return total
    out[...] = total
    return out


_rows_added = whole(rows_added)


def _columns_added(a: np.ndarray) -> np.ndarray:
    n, columns = a.shape
    if n <= 2 * PART:
        return _ones(n, a.dtype) @ a
    many = n // PART
    parts = a[: many * PART].reshape(many, PART, columns)
    total = _columns_added(np.matmul(_ones(PART, a.dtype)[None], parts).reshape(many, columns))
    left = n - many * PART
    if left:
        total += _ones(left, a.dtype) @ a[n - left :]
    return total


@functools.lru_cache(maxsize=256)
def _ones(n: int, dtype: np.dtype) -> np.ndarray:
    ones = np.ones(n, dtype)
    ones.flags.writeable = False
    return ones
