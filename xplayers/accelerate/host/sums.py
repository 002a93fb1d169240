"""Sums of columns and of channels on NumPy, whose own lose digits, and products in kept memory.

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

from xplayers.accelerate.host.memory import empty
from xplayers.arrays.namespaces import dtype_name, is_half, namespace, upcast
from xplayers.arrays.units import UNITS

_reduce: Any = np.add.reduce
FEW = 32  # rows that NumPy adds up one after the other as well, and faster
PART = 64  # rows that are added up one after the other, or in a few lanes
# Values side by side that are added up by BLAS: with fewer that takes longer, with more it loses
# digits.
FEWEST, MOST = 16, 1024
# Elements in one product of BLAS. That has no temporary array, but adds up long sums, which round
# more than NumPy's by halves; so it gets parts of the arrays.
SQUARES = 1 << 17
SMALL = 1 << 16  # values of a product whose memory the C library keeps itself


def product(a: np.ndarray, b: np.ndarray, bias: np.ndarray | None = None) -> Any:
    """Return ``a @ b`` of two matrices, plus a bias for each column, in memory that is kept."""
    if type(a) is not np.ndarray or a.dtype != b.dtype:
        return NotImplemented
    (n, k), m = a.shape, b.shape[1]
    multiply: Any = np.multiply if k == 1 else np.matmul
    if n * m > SMALL:
        y = multiply(a, b, out=empty((n, m), a.dtype))
    elif min(n, k, m) > 1 and _by_blas(a) and _by_blas(b):
        y = np.dot(a, b)  # the same call of BLAS as of `numpy.matmul`, in half the time
    else:
        y = multiply(a, b)
    if bias is not None:
        y += bias
    return y


def _by_blas(a: np.ndarray) -> bool:
    """Whether BLAS takes a matrix as it lies."""
    return a.flags.forc and a.dtype.char in "fd"


def column_sums(a: np.ndarray, out: np.ndarray | None = None) -> Any:
    """Return the sum over the first axis."""
    if a.dtype.char not in "fd":
        return _of_halves(rows_added, a, out)
    return _reduce(a, 0, None, out) if a.ndim == 2 and len(a) <= FEW else rows_added(a, out)


def channel_sums(x: np.ndarray, out: np.ndarray | None = None) -> Any:
    """Return the sum over all axes but axis 1."""
    return channels_added(x, out) if x.dtype.char in "fd" else _of_halves(channels_added, x, out)


def channel_products(a: np.ndarray, b: np.ndarray) -> Any:
    """Return ``channel_sums(a * b)``."""
    if a.dtype.char not in "fd" or a.dtype != b.dtype:
        return NotImplemented
    if a.ndim == 2:
        return rows_added(a * b)
    return rows_added(position_products_added(_by_position(a), _by_position(b)))


def _of_halves(add: Callable[[np.ndarray], np.ndarray], a: np.ndarray, out: Any) -> Any:
    if not is_half(a):
        return NotImplemented
    total = add(upcast(namespace(a), a)).astype(a.dtype)
    if out is None:
        return total
    out[...] = total
    return out


def channels_added(a: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return the sums of the channels, in `out` if that is given."""
    return rows_added(a if a.ndim == 2 else positions_added(_by_position(a)), out)


def _by_position(a: np.ndarray) -> np.ndarray:
    # Of values that do not lie side by side, sums have other last digits.
    return np.ascontiguousarray(a).reshape(*a.shape[:2], math.prod(a.shape[2:]))


def positions_added(a: np.ndarray) -> np.ndarray:
    """Return the sum over the last axis of an array of NumPy."""
    n = a.shape[-1]
    if FEWEST <= n <= MOST:
        return np.vecdot(a, _ones(n, a.dtype))
    return np.add.reduce(a, -1)  # values that lie side by side, of which NumPy takes halves


def position_products_added(a: np.ndarray, b: np.ndarray) -> np.ndarray:
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


def sum_of_squares(arrays: list[np.ndarray]) -> tuple[Any, Any, Any]:
    """Return the sum of all squares, and two units: a look tells that they are 1, as mostly."""
    arrays = [upcast(namespace(a), a) for a in arrays if a.size]
    dtype = np.result_type(*{a.dtype for a in arrays})
    one = dtype.type(1.0)
    low, up, high, down = UNITS[dtype_name(dtype)]
    flat = [a.reshape(-1) for a in arrays]
    total = _sum_of_products(flat, dtype)
    if low**2 < total < high**2:
        return total, one, one
    largest = max(np.max(np.abs(a), initial=0.0) for a in flat)
    up, down = up * one if largest < low else one, down * one if largest > high else one
    if up * down != one:
        total = _sum_of_products([a.astype(dtype, copy=False) * (up * down) for a in flat], dtype)
    return total, up, down


def _sum_of_products(arrays: list[np.ndarray], dtype: Any) -> Any:
    arrays = [a if a.dtype == dtype else a.astype(dtype) for a in arrays]
    parts = (a[i : i + SQUARES] for a in arrays for i in range(0, a.size, SQUARES))
    with np.errstate(all="ignore"):
        sums = [np.dot(part, part) for part in parts]
        return np.add.reduce(np.asarray(sums, dtype))
