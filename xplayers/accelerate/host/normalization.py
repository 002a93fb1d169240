"""Normalization on NumPy, over the batch and of rows.

A mean that was rounded is wrong by as much as the values differ, where they are far from 0 and near
to each other. There what is left of the mean after it was subtracted is subtracted too.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from xplayers.accelerate.host.memory import empty
from xplayers.accelerate.host.sums import (
    channel_products,
    channels_added,
    place_products_added,
    places_added,
)
from xplayers.arrays.operation import portable_body
from xplayers.arrays.units import UNITS
from xplayers.layers import normalization as portable

BLOCK = 32_768  # elements that stay in the cache
FAR = 4.0  # so many deviations from 0 a mean has few digits left for the differences

Results = tuple[Any, ...]


def normalized_channels(x: np.ndarray, eps: float) -> Results:
    """Return ``xh``, ``r``, mean and variance, of the channels."""
    with np.errstate(all="ignore"):
        if x.dtype.char not in "fd" or not x.size:
            return portable_body(portable.normalized_channels)(x, eps)
        xh, mean, var = _centred(x, eps)
        r = var + eps
        if least(r) > 0.0 and _largest(r) < math.inf:
            np.sqrt(r, r)
            np.divide(1.0, r, r)
            xh *= r
            return xh, r, mean, var
        # A square was no number of the dtype, or a value is none.
        unit = _unit(x)
        scaled: Any = eps * unit * unit
        xh, mean, var = _centred(x * unit, scaled)
        r = 1.0 / np.sqrt(np.maximum(var + scaled, np.finfo(x.dtype).tiny))
        xh *= r
        return xh, r * unit, mean / unit, var / unit / unit


def _centred(x: np.ndarray, eps: Any) -> Results:
    """Return the values less their mean, that and their variance."""
    count, column = x.size // x.shape[1], (1, x.shape[1], *(1,) * (x.ndim - 2))
    mean = channels_added(x).reshape(column)
    mean /= count
    xh: np.ndarray = np.subtract(x, mean, empty(x.shape, x.dtype))
    var = channel_products(xh, xh).reshape(column)
    var /= count
    square = mean * mean
    near = _largest(square) <= FAR**2 * least(var)  # of all channels, which is quicker to say
    if not near and np.any(square > FAR**2 * (var + eps)):
        rest = channels_added(xh).reshape(column)
        rest /= count
        xh -= rest
        mean += rest
        var = np.maximum(var - rest * rest, 0.0)
    return xh, mean, var


def normalized_rows(
    x: np.ndarray, axes: tuple[int, ...], eps: float, centred: bool = True
) -> Results:
    """Return ``xh`` and ``r`` over the last axes."""
    if not x.size:
        return x, np.ones((*x.shape[: -len(axes)], *(1 for _ in axes)), x.dtype)
    plain = _plain_rows(x, len(axes), eps, centred) if x.dtype.char in "fd" else None
    return plain or portable_body(portable.normalized_rows)(x, axes, eps, centred)


def _plain_rows(x: np.ndarray, axes: int, eps: float, centred: bool) -> Results | None:
    """Return ``xh`` and ``r`` over so many last axes; None if a square is no number of the dtype.

    As the portable body, for a few rows after the other, which stay in the cache.
    """
    shape = (*x.shape[:-axes], *(1,) * axes)
    n = math.prod(shape)
    features = x.size // n
    whole_x, xh = x.reshape(n, features), empty((n, features), x.dtype)
    whole_r, step = np.empty((n, 1), x.dtype), max(BLOCK // features, 1)
    with np.errstate(all="ignore"):
        for start in range(0, n, step):
            part = slice(start, start + step)
            given, h, r = whole_x[part], xh[part], whole_r[part]
            if centred:
                given = np.subtract(given, given[:, :1], h)
                mean = places_added(h)[:, None]
                mean /= features
                h -= mean
            np.divide(place_products_added(given, given)[:, None], features, r)
            r += eps
            np.sqrt(r, r)
            np.divide(1.0, r, r)
            np.multiply(given, r, h)
        if least(whole_r) > 0.0 and _largest(whole_r) < 2.0**60:
            return xh.reshape(x.shape), whole_r.reshape(shape)
    return None


def normalized_rows_gradient(
    h: np.ndarray, xh: np.ndarray, r: np.ndarray, axes: tuple[int, ...], centred: bool = True
) -> Any:
    """Return the gradient of the input of `normalized_rows`, for the gradient `h` of ``xh``."""
    if h.dtype.char not in "fd" or not h.size:
        return NotImplemented
    shape, n = h.shape, r.size
    features = h.size // n
    h, xh, r = h.reshape(n, features), xh.reshape(n, features), r.reshape(n, 1)
    step = min(max(BLOCK // features, 1), n)
    dx, scratch = empty((n, features), h.dtype), np.empty((step, features), h.dtype)
    for start in range(0, n, step):
        part = slice(start, start + step)
        given, out = h[part], dx[part]
        mean = place_products_added(given, xh[part])[:, None]
        mean /= features
        along = np.multiply(xh[part], mean, scratch[: len(given)])
        if centred:
            mean = places_added(given)[:, None]
            mean /= features
            given = np.subtract(given, mean, out)
        np.subtract(given, along, out)
        out *= r[part]
    return dx.reshape(shape)


# Without the function around a reduction, which takes as long. NaN is both.
def least(a: np.ndarray) -> float:
    """Return the smallest value, or one that is NaN."""
    return a.item(a.argmin())


def _largest(a: np.ndarray) -> float:
    return a.item(a.argmax())


def _unit(x: np.ndarray) -> np.ndarray:
    """Return for each channel what its values are multiplied by, lest their squares overflow."""
    _, _, high, down = UNITS[x.dtype.name]
    axes = (0, *range(2, x.ndim))
    largest = np.max(np.abs(x), axis=axes, keepdims=True)
    return np.where(largest > high, down, 1.0).astype(x.dtype)
