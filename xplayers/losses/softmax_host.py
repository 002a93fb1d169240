"""Softmax cross entropy of labels on NumPy, beside the portable code in `softmax`.

It gives the same bits with fewer calls, which is what small batches wait for: the softmax becomes
the gradient where it lies, and labels are an index in the place of one-hot vectors. Small tensors
of PyTorch on the CPU are computed here too: a call of NumPy takes a third of the time of one of
PyTorch.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from xplayers._arrays import Array, is_integer
from xplayers._memory import empty
from xplayers._recording import StandIn, over_operands, whole
from xplayers.elementwise import as_given, seen_now

FEW = 32  # classes, up to which NumPy finds the largest sooner in a copy by classes; measured
LARGEST = 16_384  # scores, up to which NumPy is faster than PyTorch and its threads; measured


def fitting(x: Array, labels: Array) -> Any:
    """Return what computes as `of_labels` with such arrays, None if nothing does."""
    if type(x) is np.ndarray:
        fit = type(labels) is np.ndarray and x.dtype.char in "fd" and is_integer(labels)
        return of_labels if fit else None
    scores, numbers = [seen_now(a.value if isinstance(a, StandIn) else a) for a in (x, labels)]
    if scores is None or numbers is None or isinstance(getattr(x, "value", None), np.ndarray):
        return None
    fit = scores.size <= LARGEST and scores.dtype.char in "fd" and is_integer(numbers)
    return _of_labels_of_tensors if fit else None


@whole
def _of_labels_of_tensors(x: Array, labels: Array) -> tuple[Array, Array]:
    rows, e = of_labels(seen_now(x), seen_now(labels))
    return as_given(rows, x), as_given(e, x)


def of_labels(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the losses of the scores `x` ``(..., c)``, ``(...)``, and their gradient.

    ``loss = log(sum(exp(z))) - z[label]`` with ``z = x - max(x)``, and ``dx = softmax(x)``, less 1
    at the label; with that 1 left out of the sum, which takes the last digits of the others.
    """
    rows = x.reshape(-1, x.shape[-1])
    one = _firsts(labels.size, rows.shape[1]) + labels.reshape(-1).astype(np.int64, copy=False)
    if 0 < rows.shape[1] <= FEW:
        largest = np.maximum.reduce(rows.T.copy(), axis=0)[:, None]
    else:
        largest = np.maximum.reduce(rows, axis=1, keepdims=True)
    z = np.subtract(rows, largest, out=empty(rows.shape, x.dtype))
    flat = z.reshape(-1)
    scores = flat[one]
    less = np.expm1(scores)
    np.exp(z, out=z)
    flat[one] = less
    rest = np.add.reduce(z, axis=1, keepdims=True)
    flat[one] = less - rest[:, 0]
    z /= 1.0 + rest
    loss = np.log1p(rest[:, 0]) - scores
    return loss.reshape(labels.shape), z.reshape(x.shape)


# For the portable code, whose replays they are a part of: a position costs less than a mask.


@whole
def positions(at: np.ndarray, classes: int) -> np.ndarray:
    """Return where the classes `at` ``(..., 1)`` are in flat scores, one position a sample."""
    return _firsts(at.size, classes) + at.reshape(-1)


@functools.lru_cache(maxsize=64)
def _firsts(n: int, classes: int) -> np.ndarray:
    """Return where in flat scores the samples begin."""
    firsts = np.arange(0, n * classes, classes or 1)
    firsts.flags.writeable = False
    return firsts


@whole
def taken(x: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return the scores at the positions, ``(..., 1)``."""
    return x.reshape(-1)[where].reshape(*x.shape[:-1], 1)


@whole
@over_operands
def put(
    x: np.ndarray, where: np.ndarray, value: np.ndarray, out: np.ndarray | None = None
) -> np.ndarray:
    """Return `x` with `value` ``(..., 1)`` at the positions, in row-major order."""
    value = value.reshape(-1)
    if out is None:
        out = x.copy(order="C")
    elif out is not x:
        value = value.copy()  # `out` may be it
        out[...] = x
    out.reshape(-1)[where] = value
    return out
