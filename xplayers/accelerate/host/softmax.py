"""Softmax and its cross entropy on NumPy.

It gives the same bits with fewer calls, which is what small batches wait for: the softmax becomes
the gradient where it lies, and labels are an index in the place of a mask. Small tensors of PyTorch
on the CPU are computed here too: a call of NumPy takes a third of the time of one of PyTorch.
Where there are kernels, they take large arrays of float32, and the softmax without a loss too.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from xplayers.accelerate.host.indexing import firsts
from xplayers.accelerate.host.kernels import exponentials as kernels
from xplayers.accelerate.host.kernels.kernel import are_usable, laid
from xplayers.accelerate.host.memory import empty
from xplayers.arrays.namespaces import Array, namespace
from xplayers.arrays.operation import portable_body
from xplayers.arrays.values import host_values
from xplayers.losses import softmax

_UNITS = {char: np.ones((), char) for char in "fd"}  # a ufunc takes a number in twice the time
FEW = 32  # classes, up to which NumPy finds the largest sooner in a copy by classes; measured


def cross_entropy_of_labels(x: np.ndarray, labels: np.ndarray, out: Any = (None, None)) -> Any:
    """Return losses and gradient of the scores `x` ``(..., c)``, in `out` if that is given."""
    if x.dtype.char not in "fd":
        return NotImplemented
    if is_for_kernels(x):
        return _kernel_of_labels(x, labels, *out)
    loss, z = out
    rows = x.reshape(-1, x.shape[-1])
    one = (firsts(x.shape) + labels[..., None].astype(np.int64, copy=False)).reshape(-1)
    if rows.shape[1] <= FEW:
        largest = np.maximum.reduce(rows.T.copy(), axis=0)[:, None]
    else:
        largest = np.maximum.reduce(rows, axis=1, keepdims=True)
    z = empty(x.shape, x.dtype) if z is None else z
    e = np.subtract(rows, largest, z.reshape(rows.shape))
    flat = e.reshape(-1)
    scores = flat[one]
    unit = _UNITS[x.dtype.char]
    less = np.exp(scores)
    less -= unit
    np.exp(e, e)
    flat[one] = less
    rest = np.add.reduce(e, 1)
    less -= rest
    flat[one] = less
    e /= (rest + unit)[:, None]
    loss = np.empty(labels.shape, x.dtype) if loss is None else loss
    np.subtract(np.log1p(rest), scores, loss.reshape(-1))
    return loss, z


def is_for_kernels(x: np.ndarray) -> bool:
    """Whether a kernel of exponentials takes an array."""
    return x.dtype == np.float32 and x.size > 0 and are_usable(x.size)


def _kernel_of_labels(x: np.ndarray, labels: np.ndarray, loss: Any, dx: Any) -> Any:
    loss = np.empty(labels.shape, x.dtype) if loss is None else loss
    dx = empty(x.shape, x.dtype) if dx is None else dx
    classes = x.shape[-1]
    kernels.cross_entropy_of_labels.share(
        _rows(x), laid(labels.astype(np.int64, copy=False)).reshape(-1), loss.reshape(-1),
        dx.reshape(-1, classes), n=labels.size, size=classes,
    )  # fmt: skip
    return loss, dx


def _rows(x: np.ndarray) -> np.ndarray:
    return laid(x).reshape(-1, x.shape[-1])


def softmax_along(x: np.ndarray, axis: int) -> Any:
    """Return the softmax, along the last axis."""
    if not is_for_kernels(x) or axis not in (-1, x.ndim - 1):
        return NotImplemented
    y = empty(x.shape, x.dtype)
    kernels.softmax.share(_rows(x), _rows(y), n=x.size // x.shape[-1], size=x.shape[-1])
    return y


def softmax_gradient(dy: np.ndarray, y: np.ndarray, axis: int) -> Any:
    """Return ``y * (dy - sum(dy * y))``, the sum along the last axis."""
    if not is_for_kernels(dy) or y.dtype != dy.dtype or axis not in (-1, y.ndim - 1):
        return NotImplemented
    dx = empty(y.shape, y.dtype)
    rows = y.size // y.shape[-1]
    kernels.softmax_gradient.share(_rows(y), _rows(dy), _rows(dx), n=rows, size=y.shape[-1])
    return dx


def attention_weights(scores: np.ndarray, key_mask: np.ndarray | None, causal: bool) -> Any:
    """Return the softmax over the keys, of which a causal half is not looked at."""
    if not is_for_kernels(scores):
        return NotImplemented
    *_, time, keys = scores.shape
    mask = np.empty((0, keys), np.bool_) if key_mask is None else laid(key_mask != 0)
    y = empty(scores.shape, scores.dtype)
    rows = scores.size // keys
    kernels.attention_weights.share(_rows(scores), mask, causal, time, _rows(y), n=rows, size=keys)
    return y


def cross_entropy_of_targets(x: Array, t: Array) -> Any:
    """Return losses and gradient; a look tells that there is nothing to select, as mostly."""
    xp = namespace(x)
    total = xp.sum(t, axis=-1, keepdims=True)
    if not _are_above(total, 0.0):
        return portable_body(softmax.cross_entropy_of_targets)(x, t)
    z = x - xp.max(x, axis=-1, keepdims=True)
    if not _are_above(z, -math.inf):
        return portable_body(softmax.cross_entropy_of_targets)(x, t)
    e = xp.exp(z)
    s = xp.sum(e, axis=-1, keepdims=True)
    rows = xp.log(s) * total - xp.sum(t * z, axis=-1, keepdims=True)
    e *= total / s
    e -= t
    return rows[..., 0], e


def _are_above(a: Array, low: float) -> bool:
    """Whether values may be looked at, and all are above `low`."""
    seen = host_values(a)
    return seen is not None and seen.size > 0 and seen.item(seen.argmin()) > low
