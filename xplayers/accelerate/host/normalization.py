"""Normalization on NumPy, over the batch and of rows.

A mean that was rounded is wrong by as much as the values differ, where they are far from 0 and near
to each other. There what is left of the mean after it was subtracted is subtracted too.

Large arrays of float32 are left to kernels, where there are such. They have float64 statistics, and
recompute ``xh`` in the place of keeping it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from xplayers.accelerate.host.kernels import normalization as kernels
from xplayers.accelerate.host.kernels.kernel import are_usable, laid
from xplayers.accelerate.host.memory import empty
from xplayers.accelerate.host.sums import (
    channel_products,
    channels_added,
    position_products_added,
    positions_added,
    rows_added,
)
from xplayers.arrays.operation import portable_body
from xplayers.arrays.units import UNITS
from xplayers.layers import batch_normalization as of_channels
from xplayers.layers import layer_normalization as of_rows
from xplayers.layers import normalization as portable

BLOCK = 65_536  # elements that stay in the cache
LARGE = 8 * BLOCK  # elements, from which on memory takes longer than calls; measured
SUMS = 1 << 17  # elements of rows, of which there is one row of sums
FAR = 4.0  # so many deviations from 0 a mean has few digits left for the differences

Results = tuple[Any, ...]


def normalized_channels(x: np.ndarray, eps: float) -> Results:
    """Return ``xh``, ``r``, mean and variance, of the channels."""
    with np.errstate(all="ignore"):
        if x.dtype.char not in "fd" or not x.size:
            return portable_body(portable.normalized_channels)(x, eps)
        xh, mean, var = _centred(x, eps)
        r = var + eps
        if least(r) > 0.0 and largest(r) < math.inf:
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
    near = largest(square) <= FAR**2 * least(var)  # of all channels, which is quicker to say
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
            rows, h, r = whole_x[part], xh[part], whole_r[part]
            if centred:
                rows = np.subtract(rows, rows[:, :1], h)
                mean = positions_added(h)[:, None]
                mean /= features
                h -= mean
            np.divide(position_products_added(rows, rows)[:, None], features, r)
            r += eps
            np.sqrt(r, r)
            np.divide(1.0, r, r)
            np.multiply(rows, r, h)
        if least(whole_r) > 0.0 and largest(whole_r) < 2.0**60:
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
        _gradient_of_rows(h[part], xh[part], r[part], centred, scratch, dx[part])
    return dx.reshape(shape)


def _gradient_of_rows(
    h: np.ndarray, xh: np.ndarray, r: np.ndarray, centred: bool, scratch: np.ndarray, dx: np.ndarray
) -> None:
    mean = position_products_added(h, xh)[:, None]
    mean /= h.shape[1]
    along = np.multiply(xh, mean, scratch[: len(h)])
    if centred:
        mean = positions_added(h)[:, None]
        mean /= h.shape[1]
        h = np.subtract(h, mean, dx)
    np.subtract(h, along, dx)
    dx *= r


# Without the function around a reduction, which takes as long. NaN is both.
def least(a: np.ndarray) -> float:
    """Return the smallest value, or one that is NaN."""
    return a.item(a.argmin())


def largest(a: np.ndarray) -> float:
    """Return the largest value, or one that is NaN."""
    return a.item(a.argmax())


def _unit(x: np.ndarray) -> np.ndarray:
    """Return for each channel what its values are multiplied by, lest their squares overflow."""
    _, _, high, down = UNITS[x.dtype.name]
    axes = (0, *range(2, x.ndim))
    most = np.max(np.abs(x), axis=axes, keepdims=True)
    return np.where(most > high, down, 1.0).astype(x.dtype)


def _is_for_kernels(x: np.ndarray, gamma: np.ndarray) -> bool:
    return x.dtype == gamma.dtype == np.float32 and x.size > 0 and are_usable(x.size)


def layer_normalization(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float) -> Any:
    """Return ``y``, None, ``r`` and the mean of each row."""
    return _rows(x, gamma, beta, eps, True) if _is_for_kernels(x, gamma) else NotImplemented


def rms_normalization(x: np.ndarray, gamma: np.ndarray, eps: float) -> Any:
    """Return ``y``, None and ``r`` of each row."""
    if not _is_for_kernels(x, gamma):
        return NotImplemented
    y, _, r, _ = _rows(x, gamma, np.zeros_like(gamma), eps, False)
    return y, None, r


def _rows(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float, centred: bool) -> Results:
    shape = (*x.shape[: -gamma.ndim], *(1,) * gamma.ndim)
    n = math.prod(shape)
    y, mean, r = empty((n, gamma.size), x.dtype), np.empty(n), np.empty(n)
    kernels.rows.share(
        laid(x).reshape(y.shape), laid(gamma).reshape(-1), laid(beta).reshape(-1), eps, centred,
        y, mean, r, n=n, size=gamma.size,
    )  # fmt: skip
    return y.reshape(x.shape), None, r.reshape(shape), mean.reshape(shape)


def layer_normalization_gradient(
    dy: np.ndarray, x: np.ndarray, gamma: np.ndarray, xh: Any, mean: Any, r: np.ndarray
) -> Any:
    """Return the gradients of `x`, `gamma` and beta."""
    if xh is not None or r.dtype != np.float64:  # the forward was another's
        return _rows_gradient_in_blocks(dy, gamma, xh, r, True)
    if dy.dtype != x.dtype:
        xh = _recomputed(x, mean, r)
        return portable_body(of_rows.layer_normalization_gradient)(dy, x, gamma, xh, None, r)
    return _rows_gradient(dy, x, gamma, mean, r, True)


def rms_normalization_gradient(
    dy: np.ndarray, x: np.ndarray, gamma: np.ndarray, xh: Any, r: np.ndarray
) -> Any:
    """Return the gradients of `x` and `gamma`."""
    if xh is not None or r.dtype != np.float64:  # the forward was another's
        return _rows_gradient_in_blocks(dy, gamma, xh, r, False)
    if dy.dtype != x.dtype:
        xh = _recomputed(x, 0.0, r)
        return portable_body(of_rows.rms_normalization_gradient)(dy, x, gamma, xh, r)
    return _rows_gradient(dy, x, gamma, np.zeros_like(r), r, False)[:2]


def _rows_gradient_in_blocks(
    dy: np.ndarray, gamma: np.ndarray, xh: Any, r: np.ndarray, centred: bool
) -> Any:
    """Return the gradients of input, `gamma` and, if `centred`, beta: sums of sums of blocks."""
    if xh is None or dy.size < LARGE or dy.dtype.char not in "fd":
        return NotImplemented
    if not dy.dtype == gamma.dtype == xh.dtype == r.dtype:
        return NotImplemented
    n, features = r.size, gamma.size
    step = min(max(BLOCK // features, 1), n)
    dx = empty((n, features), dy.dtype)
    sums = np.empty((1 + centred, -(-n // step), features), dy.dtype)
    h, scratch = np.empty((2, step, features), dy.dtype)
    dys, xhs, rs = dy.reshape(n, features), xh.reshape(n, features), r.reshape(n, 1)
    for i, start in enumerate(range(0, n, step)):
        part = slice(start, start + step)
        rows, out = dys[part], dx[part]
        rows_added(np.multiply(rows, xhs[part], out), sums[0, i])
        if centred:
            rows_added(rows, sums[1, i])
        products = np.multiply(rows, gamma.reshape(-1), h[: len(rows)])
        _gradient_of_rows(products, xhs[part], rs[part], centred, scratch, out)
    return dx.reshape(dy.shape), *[rows_added(a).reshape(gamma.shape) for a in sums]


def _recomputed(x: np.ndarray, mean: Any, r: np.ndarray) -> np.ndarray:
    return ((x - mean) * r).astype(x.dtype)


def _rows_gradient(
    dy: np.ndarray, x: np.ndarray, gamma: np.ndarray, mean: np.ndarray, r: np.ndarray, centred: bool
) -> Results:
    n, features = r.size, gamma.size
    step = max(SUMS // features, 1)  # not of threads: who adds up what changes digits
    parts = -(-n // step)
    dx, dgamma, dbeta = empty((n, features), x.dtype), *np.empty((2, parts, features))
    kernels.rows_gradient.share(
        laid(dy).reshape(dx.shape), laid(x).reshape(dx.shape), laid(gamma).reshape(-1),
        mean.reshape(-1), r.reshape(-1), centred, dx, dgamma, dbeta, step,
        n=parts, size=step * features,
    )  # fmt: skip
    return dx.reshape(x.shape), _summed(dgamma, gamma), _summed(dbeta, gamma)


def _summed(parts: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Return the sums of the parts."""
    with np.errstate(all="ignore"):
        return np.add.reduce(parts, axis=0).astype(like.dtype).reshape(like.shape)


def group_normalization(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, groups: int, eps: float
) -> Any:
    """Return ``y``, None, ``r`` and the mean of each group."""
    if not _is_for_kernels(x, gamma):
        return NotImplemented
    shape = _of_groups(x, groups)
    y, mean, r = empty(shape, x.dtype), *np.empty((2, *shape[:2]))
    kernels.groups.share(
        laid(x).reshape(shape), laid(gamma).reshape(shape[1:3]), laid(beta).reshape(shape[1:3]),
        eps, y, mean, r, n=shape[0], size=math.prod(shape[1:]),
    )  # fmt: skip
    return y.reshape(x.shape), None, r[..., None], mean[..., None]


def group_normalization_gradient(
    dy: np.ndarray, x: np.ndarray, gamma: np.ndarray, xh: Any, mean: Any, r: np.ndarray
) -> Any:
    """Return the gradients of `x`, `gamma` and beta, after a kernel."""
    if xh is not None or r.dtype != np.float64:  # the forward was another's
        return NotImplemented
    shape = _of_groups(x, r.shape[1])
    if dy.dtype != x.dtype:
        xh = _recomputed(x.reshape(*shape[:2], -1), mean, r)
        of_groups = portable_body(of_channels.group_normalization_gradient)
        return of_groups(dy, x, gamma, xh, None, r)
    dx, dgamma, dbeta = empty(shape, x.dtype), *np.empty((2, *shape[:3]))
    kernels.groups_gradient.share(
        laid(dy).reshape(shape), laid(x).reshape(shape), laid(gamma).reshape(shape[1:3]),
        mean[..., 0], r[..., 0], dx, dgamma, dbeta, n=shape[0], size=math.prod(shape[1:]),
    )  # fmt: skip
    return dx.reshape(x.shape), _summed(dgamma, gamma), _summed(dbeta, gamma)


def _of_groups(x: np.ndarray, groups: int) -> tuple[int, ...]:
    return x.shape[0], groups, x.shape[1] // groups, math.prod(x.shape[2:])


def batch_normalization(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float) -> Any:
    """Return ``y``, None, ``r``, mean and variance of the channels."""
    if not _is_for_kernels(x, gamma):
        return NotImplemented
    kernel, shape, n = _of_columns(kernels.channels, kernels.columns, x)
    y, mean, var, r = empty(shape, x.dtype), *np.empty((3, x.shape[1]))
    inputs = laid(x).reshape(shape), laid(gamma), laid(beta), eps
    kernel.share(*inputs, y, mean, var, r, n=n, size=x.size // n)
    with np.errstate(over="ignore"):
        var = var.astype(x.dtype)
    column = (1, x.shape[1], *(1,) * (x.ndim - 2))
    return (y.reshape(x.shape), None, *[a.reshape(column) for a in (r, mean, var)])


def batch_normalization_gradient(
    dy: np.ndarray, x: np.ndarray, gamma: np.ndarray, xh: Any, mean: np.ndarray, r: np.ndarray
) -> Any:
    """Return the gradients of `x`, `gamma` and beta, after a kernel."""
    if xh is not None or r.dtype != np.float64:  # the forward was another's
        return NotImplemented
    if dy.dtype != x.dtype:
        xh = _recomputed(x, mean, r)
        of_batches = portable_body(of_channels.batch_normalization_gradient)
        return of_batches(dy, x, gamma, xh, mean, r)
    kernel, shape, n = _of_columns(kernels.channels_gradient, kernels.columns_gradient, x)
    dx, dgamma, dbeta = empty(shape, x.dtype), *np.empty((2, x.shape[1]))
    inputs = laid(dy).reshape(shape), laid(x).reshape(shape), laid(gamma)
    statistics = mean.reshape(-1), r.reshape(-1)
    kernel.share(*inputs, *statistics, dx, dgamma, dbeta, n=n, size=x.size // n)
    with np.errstate(over="ignore"):
        return dx.reshape(x.shape), dgamma.astype(x.dtype), dbeta.astype(x.dtype)


def _of_columns(of_places: Any, of_columns: Any, x: np.ndarray) -> Results:
    """Return the kernel for the channels of `x`, the shape that it takes, and pieces of work."""
    n, channels, *positions = x.shape
    if math.prod(positions) == 1:
        return of_columns, (n, channels), -(-channels // kernels.WIDTH)
    return of_places, (n, channels, math.prod(positions)), channels
