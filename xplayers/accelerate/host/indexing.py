"""One value of each row of the last axis on NumPy: a position costs less than a mask."""

from __future__ import annotations

import functools

import numpy as np

from xplayers._recording import over_operands


@functools.lru_cache(maxsize=64)
def firsts(n: int, classes: int) -> np.ndarray:
    """Return where in flat rows each of them begins."""
    begins = np.arange(0, n * classes, classes or 1)
    begins.flags.writeable = False
    return begins


def taken_along_last(x: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return one value of each row."""
    where = firsts(index.size, x.shape[-1]) + index.reshape(-1)
    return x.reshape(-1)[where].reshape(index.shape)


@over_operands
def put_along_last(
    x: np.ndarray, index: np.ndarray, value: np.ndarray, out: np.ndarray | None = None
) -> np.ndarray:
    """Return `x` with other values, in row-major order; `out` may be it, or `value`."""
    value = value.reshape(-1)
    if out is None:
        out = x.copy(order="C")
    elif out is not x:
        value = value.copy()
        out[...] = x
    out.reshape(-1)[firsts(index.size, x.shape[-1]) + index.reshape(-1)] = value
    return out
