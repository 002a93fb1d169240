"""Sums of columns and of channels, of which NumPy's own lose digits; and squares that fit.

NumPy adds up the rows of a matrix one after the other: the sum of a million values of 0.1 is wrong
in the third digit in float32. Here parts of the rows are products with ones, by BLAS, and so are
their sums. That is faster too. The other libraries add up by halves, or in parallel.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from xplayers._arrays import Array, as_plain, is_half, namespace, widened
from xplayers._recording import StandIn, whole
from xplayers.cuda.switch import is_fused

FEW = 32  # rows that NumPy adds up one after the other as well, and faster
PART = 64  # rows that are added up one after the other, or in a few lanes
# Values side by side that are added up by BLAS: with fewer that takes longer, with more it loses
# digits.
FEWEST, MOST = 16, 1024

# Squares of large values overflow, those of small ones are 0. So values are multiplied by a power
# of two, which changes no digit, where the largest is below the first of these or above the third:
# (low, times, high, times), by dtype of the squares.
UNITS = {
    "float32": (2.0**-40, 2.0**90, 2.0**40, 2.0**-80),
    "float64": (2.0**-400, 2.0**650, 2.0**400, 2.0**-700),
}


def column_sums(a: Array) -> Array:
    """Return the sum over the first axis, of columns; 16-bit values are summed in float32."""
    if type(a) is np.ndarray and a.dtype.char in "fd":  # the common case, in few calls
        return rows_added(a)
    return _summed(a, (0,), "column_sums", rows_added)


def channel_sums(x: Array) -> Array:
    """Return the sum over all axes but axis 1, of channels; 16-bit values as in `column_sums`."""
    if type(x) is np.ndarray and x.dtype.char in "fd":
        return channels_added(x)
    if len(x.shape) == 2:
        return column_sums(x)
    return _summed(x, (0, *range(2, len(x.shape))), "channel_sums", channels_added)


def _summed(
    a: Array, axes: tuple[int, ...], kernel: str, on_numpy: Callable[[np.ndarray], np.ndarray]
) -> Array:
    """Return the sum over `axes`, by a kernel of that name where it is asked for."""
    xp = namespace(a)
    if is_fused(xp):
        from xplayers.cuda import sums

        total = getattr(sums, kernel)(a)
        if total is not None:
            return total
    wide = widened(xp, a)
    few = len(wide.shape) == 2 and wide.shape[0] <= FEW  # which NumPy's own sum adds up, too
    add = None if few else _on_numpy(wide, on_numpy)
    axis = axes if len(axes) > 1 else axes[0]
    total = xp.sum(wide, axis=axis) if add is None else add(wide)
    return xp.astype(total, a.dtype) if is_half(a) else total


def channel_products(a: Array, b: Array) -> Array:
    """Return ``channel_sums(a * b)``; `a` and `b` are in at least float32."""
    multiply = _on_numpy(a, channel_products_added)
    return channel_sums(a * b) if multiply is None else multiply(a, b)


def _on_numpy(a: Array, function: Callable[..., Any]) -> Callable[..., Any] | None:
    """Return what computes with `a` if that is NumPy's: `function`, or what writes it down."""
    if isinstance(a, StandIn):
        return whole(function) if isinstance(a.value, np.ndarray) else None
    return function if type(as_plain(a)) is np.ndarray else None


def channels_added(a: np.ndarray) -> np.ndarray:
    """Return the sums of the channels of an array of NumPy."""
    return rows_added(a if a.ndim == 2 else places_added(_in_places(a)))


def channel_products_added(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the sums of the channels of ``a * b``."""
    if a.ndim == 2:
        return rows_added(a * b)
    return rows_added(place_products_added(_in_places(a), _in_places(b)))


def _in_places(a: np.ndarray) -> np.ndarray:
    # Of values that do not lie side by side, sums have other last digits.
    return np.ascontiguousarray(a).reshape(*a.shape[:2], math.prod(a.shape[2:]))


def places_added(a: np.ndarray) -> np.ndarray:
    """Return the sum over the last axis of an array of NumPy."""
    n = a.shape[-1]
    if FEWEST <= n <= MOST:
        return np.vecdot(a, _ones(n, a.dtype))
    return np.add.reduce(a, -1)  # values that lie side by side, of which NumPy takes halves


def place_products_added(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the sum of ``a * b`` over the last axis, without memory for that where it pays."""
    return np.vecdot(a, b) if FEWEST <= a.shape[-1] <= MOST else np.add.reduce(a * b, -1)


def rows_added(a: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return the sum of the rows of an array of NumPy, in `out` if that is given."""
    n = a.shape[0]
    if a.ndim == 2 and n <= FEW:
        reduce: Any = np.add.reduce
        return reduce(a, 0, None, out)
    shape = a.shape[1:]
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
