"""Normalization over the batch on NumPy, beside the portable body in `normalizing`.

A mean that was rounded is wrong by as much as the values differ, where they are far from 0 and near
to each other. There what is left of the mean after it was subtracted is subtracted too.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from xplayers._memory import empty
from xplayers._recording import StandIn, whole
from xplayers._sums import UNITS, channel_sums, rows_added

# Places of a channel whose squares are added up by BLAS, without memory for these: with fewer that
# takes longer, with more it loses digits.
FEWEST, MOST = 16, 1024
FAR = 4.0  # so many deviations from 0 a mean has few digits left for the differences

Results = tuple[np.ndarray, ...]


def takes(x: Any) -> bool:
    """Whether `normalized` computes with such an array: one of NumPy."""
    x = x.value if isinstance(x, StandIn) else x
    return type(x) is np.ndarray and x.size > 0 and x.dtype.name in UNITS


@whole
def normalized(x: np.ndarray, eps: float) -> Results:
    """Return ``xh``, ``r``, mean and variance, of the channels."""
    with np.errstate(over="ignore", invalid="ignore"):
        xh, mean, var = _centred(x, eps)
        r = 1.0 / np.sqrt(var + eps)
    if 0.0 < np.min(r) <= np.max(r) < math.inf:
        xh *= r
        return xh, r, mean, var
    # A square was no number of the dtype, or a value is none.
    unit = _unit(x)
    scaled: Any = eps * unit * unit
    xh, mean, var = _centred(x * unit, scaled)
    r = 1.0 / np.sqrt(np.maximum(var + scaled, np.finfo(x.dtype).tiny))
    xh *= r
    with np.errstate(over="ignore"):
        return xh, r * unit, mean / unit, var / unit / unit


def _centred(x: np.ndarray, eps: Any) -> Results:
    """Return the values less their mean, that and their variance."""
    count, column = x.size // x.shape[1], (1, x.shape[1], *(1,) * (x.ndim - 2))
    mean = channel_sums(x).reshape(column) / count
    xh = np.subtract(x, mean, out=empty(x.shape, x.dtype))
    var = _sums_of_squares(xh).reshape(column) / count
    if np.any(mean * mean > FAR**2 * (var + eps)):
        rest = channel_sums(xh).reshape(column) / count
        xh -= rest
        mean += rest
        var = np.maximum(var - rest * rest, 0.0)
    return xh, mean, var


def _sums_of_squares(a: np.ndarray) -> np.ndarray:
    n, c, places = a.shape[0], a.shape[1], math.prod(a.shape[2:])
    if not FEWEST <= places <= MOST:
        return channel_sums(a * a)
    rows = a.reshape(n, c, places)
    return rows_added(np.vecdot(rows, rows))


def _unit(x: np.ndarray) -> np.ndarray:
    """Return for each channel what its values are multiplied by, lest their squares overflow."""
    _, _, high, down = UNITS[x.dtype.name]
    axes = (0, *range(2, x.ndim))
    largest = np.max(np.abs(x), axis=axes, keepdims=True)
    return np.where(largest > high, down, 1.0).astype(x.dtype)
