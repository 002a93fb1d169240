"""Batch normalization over the batches of all processes, while their step is computed.

The operations of `BatchNormalization` get other bodies, in the context of the step alone: sums over
the batch are sums over the ranks too. Each rank has the gradient of the loss of the whole batch
with respect to its samples, so that the sums of the backward are those of one process.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any

from xplayers.arrays.namespaces import (
    Array,
    device,
    downcast_like,
    dtype_name,
    namespace,
    upcast,
)
from xplayers.arrays.operation import using
from xplayers.arrays.products import channel_products, channel_sums
from xplayers.arrays.units import UNITS
from xplayers.arrays.values import quiet
from xplayers.training.exchange import Exchange, number, over_ranks

_LESS = 2.0**-30  # sums of so many values fit


@contextlib.contextmanager
def synchronized(exchange: Exchange, x: Array) -> Iterator[None]:
    """Let `BatchNormalization` take the statistics of the batches of all ranks, if it is to."""
    if not exchange.synchronized:
        yield
        return
    bodies = {
        "batch_normalization": functools.partial(_normalized, exchange=exchange),
        "batch_normalization_gradient": functools.partial(_gradient, exchange=exchange),
    }
    with using(type(x), bodies):
        yield


def _normalized(
    x: Array, gamma: Array, beta: Array, eps: float, exchange: Exchange
) -> tuple[Any, ...]:
    """Return what the operation does: ``y``, ``xh``, ``r``, mean and variance.

    With sums over all ranks ``mean = sum(x) / n`` and ``var = sum((x - mean)^2) / n``. That mean is
    rounded, so what is left of it is subtracted from both: ``rest = sum(x - mean) / n``, and its
    square. A channel with large values anywhere is multiplied by a power of two, lest squares
    overflow; then only the variance is infinite, and eps is negligible.
    """
    xp, wide, column = namespace(x), upcast(namespace(x), x), _column(x)
    _, _, high, down = UNITS[dtype_name(wide.dtype)]
    smallest = 2.0**-1022 if dtype_name(wide.dtype) == "float64" else 2.0**-126
    with quiet(x):
        # Sums of values that are not multiplied by something first may overflow, too.
        total, large, n = _sums(wide, [channel_sums(wide * _LESS), _large(wide, high)], exchange)
        unit = xp.where(large > 0, down * xp.ones_like(large), xp.ones_like(large))
        mean = total / n * (unit / _LESS)
        xh = wide * xp.reshape(unit, column)
        xh -= xp.reshape(mean, column)
        along, square, n = _sums(wide, [channel_sums(xh), channel_products(xh, xh)], exchange)
        rest = along / n
        xh -= xp.reshape(rest, column)
        scaled = xp.maximum(square / n - rest * rest, xp.zeros_like(rest))
        mean, var = (mean + rest) / unit, scaled / unit / unit
        tiny = smallest * xp.ones_like(var)
        most = 1.0 / xp.sqrt(xp.maximum(scaled, tiny))
        r = xp.where(var < math.inf, 1.0 / xp.sqrt(xp.maximum(var + eps, tiny)), unit * most)
        xh *= xp.reshape(xp.minimum(r / unit, most), column)
    y = xh * xp.reshape(upcast(xp, gamma), column)
    y += xp.reshape(upcast(xp, beta), column)
    return downcast_like(y, x), xh, *(xp.reshape(a, column) for a in (r, mean, var))


def _large(x: Array, high: float) -> Array:
    """Return 1 for each channel with a value above `high`, in the dtype of `x`, else 0."""
    xp = namespace(x)
    if 0 in x.shape:
        return channel_sums(x)
    most = xp.max(xp.abs(x), axis=(0, *range(2, len(x.shape))))
    return xp.astype(most > high, x.dtype)


def _gradient(
    dy: Array, x: Array, gamma: Array, xh: Array, mean: Array, r: Array, exchange: Exchange
) -> tuple[Array, Array, Array]:
    """Return the gradients of `x`, and this rank's shares of those of `gamma` and beta.

    ``dx = gamma * r * (dy - sum(dy) / n - xh * sum(dy * xh) / n)``, the sums over all ranks; those
    over this one are its shares of dbeta and dgamma.
    """
    xp, wide, column = namespace(x), upcast(namespace(x), dy), _column(x)
    dgamma, dbeta = channel_products(wide, xh), channel_sums(wide)
    along, total, n = _sums(wide, [dgamma, dbeta], exchange)
    dx = wide - xp.reshape(total / n, column) - xh * xp.reshape(along / n, column)
    dx *= xp.reshape(upcast(xp, gamma), column) * r
    return downcast_like(dx, x), downcast_like(dgamma, x), downcast_like(dbeta, x)


def _sums(x: Array, own: list[Array], exchange: Exchange) -> list[Array]:
    """Return the sums of vectors over the ranks, and of the values that a channel of `x` has."""
    xp, c = namespace(x), x.shape[1]
    count = number(xp, math.prod(x.shape) // max(c, 1), x.dtype, device(x))
    sums = over_ranks([*own, count], exchange)
    n = sums[len(own) * c]
    return [*(sums[i * c : (i + 1) * c] for i in range(len(own))), xp.maximum(n, xp.ones_like(n))]


def _column(x: Array) -> tuple[int, ...]:
    return (1, x.shape[1], *(1 for _ in x.shape[2:]))
