"""Softmax cross entropy of labels on NumPy, beside the portable code in `softmax`.

It gives the same bits with fewer calls, which is what small batches wait for: the softmax becomes
the gradient where it lies, and labels are an index in the place of one-hot vectors.
"""

from __future__ import annotations

import functools

import numpy as np

from xplayers._arrays import Array, is_integer
from xplayers._memory import empty
from xplayers._recording import over_operands, whole

FEW = 32  # classes, up to which NumPy finds the largest sooner in a copy by classes; measured


def takes(x: Array, labels: Array) -> bool:
    """Whether `of_labels` computes with such arrays."""
    floats = (np.float32, np.float64)
    arrays = type(x) is np.ndarray and type(labels) is np.ndarray
    return arrays and x.dtype in floats and is_integer(labels)


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
