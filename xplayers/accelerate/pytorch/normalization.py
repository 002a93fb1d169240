"""Normalization by PyTorch's kernels: one pass forward, one or two backward.

On the CPU a look at the statistics tells where a mean is so far from 0 that it has few digits left
for the differences, or where powers of ``r`` are no numbers of the dtype; there rows are computed
in float64, and batches by the portable body. On CUDA nothing is looked at.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from xplayers.accelerate.host.normalization import FAR, largest, least
from xplayers.accelerate.pytorch.plain import aten, in_order, is_plain, laid_as
from xplayers.arrays.namespaces import Array, dtype_name, is_half, is_traced, namespace, upcast
from xplayers.arrays.operation import portable_body
from xplayers.arrays.values import host_values
from xplayers.layers import batch_normalization as of_batches

LARGEST_ROOT = 2.0**30


def batch_normalization(x: Array, gamma: Array, beta: Array, eps: float) -> Any:
    """Return ``y``, None, ``r``, mean and variance."""
    channels = x.shape[1]
    n = x.numel() // channels if channels else 0
    wide, bias = upcast(namespace(x), gamma), upcast(namespace(x), beta)
    if n < 2 or is_traced() or not _fit(x, wide):
        return NotImplemented
    torch, x = _torch(), in_order(x)
    if is_plain(x) and x.is_cpu and x.ndim > 2 and x.is_contiguous() and x.dtype == wide.dtype:
        y, mean, r, var = _in_two_passes(x, wide, bias, eps)
    elif is_plain(x):
        # The running statistics of a first batch with a momentum of 1 are its own, of which the
        # variance divides by n - 1.
        mean, var = wide.new_zeros(channels), wide.new_zeros(channels)
        y, mean, r = torch.native_batch_norm(x, wide, bias, mean, var, True, 1.0, eps)
        var *= (n - 1) / n
    else:  # gradients are recorded, and nothing can be written in a transformation
        y, mean, r = torch.native_batch_norm(x, wide, bias, None, None, True, 0.0, eps)
        var = r**-2 - eps
    if not _are_sure(mean, r, eps):
        y, _, *statistics = portable_body(of_batches.batch_normalization)(x, gamma, beta, eps)
        return y, None, *statistics
    column = (1, channels, *(1,) * (x.ndim - 2))
    return y, None, r.view(column), mean.view(column), var.view(column)


def _in_two_passes(x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, ...]:
    """Return `y`, mean, ``r`` and variance of the channels of `x`, contiguous and with places.

    PyTorch's own statistics take one value at a time there: these vectorized passes and its
    inference take a third of the time. `y` is written where the squares were.
    """
    axes, column = (0, *range(2, x.ndim)), (-1, *(1,) * (x.ndim - 2))
    mean = x.mean(axes)
    squares = x - mean.view(column)
    squares.square_()
    var = squares.mean(axes)
    empty = mean.new_empty(0)
    y, _, _ = aten().native_batch_norm.out(
        *(x, gamma, beta, mean, var, False, 0.0, eps),
        out=squares,
        save_mean=empty,
        save_invstd=empty,
    )
    return y, mean, (var + eps).rsqrt(), var


def batch_normalization_gradient(
    dy: Array, x: Array, gamma: Array, xh: Array | None, mean: Array, r: Array
) -> Any:
    """Return the gradients of `x`, `gamma` and beta."""
    if xh is not None or dy.dtype != x.dtype:
        return NotImplemented
    wide, mean, r = upcast(namespace(x), gamma), mean.view(-1), r.view(-1)
    x = in_order(x)
    dy = laid_as(dy, x)
    grads = aten().native_batch_norm_backward.default(
        dy, x, wide, None, None, mean, r, True, 0.0, _ALL
    )
    return grads if x.dtype is wide.dtype else tuple([g.to(x.dtype) for g in grads])


def layer_normalization(x: Array, gamma: Array, beta: Array, eps: float) -> Any:
    """Return ``y``, None, ``r`` and the mean of each row, of float32 or 16-bit values."""
    wide, bias = upcast(namespace(x), gamma), upcast(namespace(x), beta)
    if not x.numel() or dtype_name(wide.dtype) != "float32" or is_traced() or not _fit(x, wide):
        return NotImplemented
    normalize = _torch().native_layer_norm
    y, mean, r = _rows(lambda x, w, b: normalize(x, gamma.shape, w, b, eps), x, wide, bias, eps)
    return y, None, r, mean


def layer_normalization_gradient(
    dy: Array, x: Array, gamma: Array, xh: Array | None, mean: Array, r: Array
) -> Any:
    """Return the gradients of `x`, `gamma` and beta."""
    if xh is not None or dy.dtype != x.dtype:
        return NotImplemented
    dy, values, wide, mean, r = _surely(dy, x, gamma, mean, r)
    backward = aten().native_layer_norm_backward.default
    grads = backward(dy, values, gamma.shape, mean, r, wide, wide, _ALL)
    return tuple([g.to(x.dtype) for g in grads])


def group_normalization(x: Array, gamma: Array, beta: Array, groups: int, eps: float) -> Any:
    """Return ``y``, None, ``r`` and the mean of each group, of float32 or 16-bit values."""
    wide, bias = upcast(namespace(x), gamma), upcast(namespace(x), beta)
    if not x.numel() or dtype_name(wide.dtype) != "float32" or is_traced() or not _fit(x, wide):
        return NotImplemented
    x, sizes = in_order(x.contiguous()), (*_sizes(x), groups)
    normalize = _torch().native_group_norm
    y, mean, r = _rows(lambda x, w, b: normalize(x, w, b, *sizes, eps), x, wide, bias, eps)
    return y, None, r.unsqueeze(-1), mean.unsqueeze(-1)


def group_normalization_gradient(
    dy: Array, x: Array, gamma: Array, xh: Array | None, mean: Array, r: Array
) -> Any:
    """Return the gradients of `x`, `gamma` and beta."""
    if xh is not None or dy.dtype != x.dtype:
        return NotImplemented
    dy, x = in_order(dy.contiguous()), in_order(x.contiguous())
    dy, values, wide, mean, r = _surely(dy, x, gamma, mean.squeeze(-1), r.squeeze(-1))
    backward = aten().native_group_norm_backward.default
    grads = backward(dy, values, mean, r, wide, *_sizes(x), r.shape[1], _ALL)
    return tuple([g.to(x.dtype) for g in grads])


def _rows(
    normalize: Callable[..., Any], x: Array, gamma: Array, beta: Array, eps: float
) -> tuple[Array, Array, Array]:
    """Return ``normalize(x, gamma, beta)``: `y`, means and roots; in float64 where unsure."""
    y, mean, r = normalize(x, gamma, beta)
    if not _are_sure(mean, r, eps):
        values, first = _exactly(x, r)
        exact, mean, r = normalize(values, gamma.double(), beta.double())
        y, mean, r = exact.to(x.dtype), (mean + first).float(), r.float()
    return y, mean, r


def _surely(dy: Array, x: Array, gamma: Array, mean: Array, r: Array) -> tuple[Array, ...]:
    """Return the arguments of a gradient, in float64 where those of its forward were so."""
    wide = upcast(namespace(x), gamma)
    if _are_sure(mean, r):
        return dy, x, wide, mean, r
    values, _ = _exactly(x, r)
    mean = values.reshape(*r.shape, -1).mean(-1)
    return dy.double(), values, wide.double(), mean, r.double()


def _exactly(x: Array, r: Array) -> tuple[Array, Array]:
    """Return the values of each row less its first one, in float64, and that: equal ones are 0."""
    rows = x.double().reshape(*r.shape, -1)
    first = rows[..., :1]
    return (rows - first).reshape(x.shape), first[..., 0]


def _sizes(x: Array) -> tuple[int, int, int]:
    """Return the numbers of samples, channels and places."""
    return x.shape[0], x.shape[1], x.shape[2:].numel()


def _fit(x: Array, gamma: Array) -> bool:
    """Whether PyTorch's kernels take `x` with a `gamma` of at least float32."""
    return is_half(x) or x.dtype == gamma.dtype


def _are_sure(mean: Array, r: Array, eps: float = 0.0) -> bool:
    """Whether means are near beside the deviations, and third powers of `r` numbers.

    With an `eps` also that no row is of equal values, which have to become 0, not rounding. True
    where there is nothing to look at.
    """
    means, roots = host_values(mean), host_values(r)
    if means is None or roots is None:
        return True
    low, high = least(roots), largest(roots)
    if not (low > 1.0 / LARGEST_ROOT and high < LARGEST_ROOT):  # NaN is neither
        return False
    with np.errstate(all="ignore"):
        far = means * roots
    if not (least(far) >= -FAR and largest(far) <= FAR):
        return False
    equal = (1.0 - 1e-6) / math.sqrt(eps) if eps > 0.0 else math.inf  # the root of equal values
    return high < equal or not np.any(far[roots >= equal])


_ALL = [True, True, True]  # gradients


def _torch() -> Any:
    return sys.modules["torch"]
