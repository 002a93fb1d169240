"""Windows on CuPy, where each slice is a launch.

With writes in place and strided views, padding is two launches, columns are a copy or none, and
sums are one launch for each position in a window.
"""

from __future__ import annotations

import math
from typing import Any

from xplayers.arrays.namespaces import Array, namespace
from xplayers.layers.windows import Window, along, full


def pad_windows(x: Array, window: Window, value: float) -> Array:
    """Return `x` padded with `value`."""
    xp = namespace(x)
    sizes = x.shape[2:]
    whole = [n + sum(p) for n, p in zip(sizes, window.padding, strict=True)]
    out = full(xp, x, (*x.shape[:2], *whole), value)
    inner = [slice(p[0], p[0] + n) for n, p in zip(sizes, window.padding, strict=True)]
    out[(..., *inner)] = x
    return out


def window_columns(x: Any, window: Window, axis: int) -> Array:
    """Return the windows of padded `x`, with the positions in a window as a new axis."""
    xp = namespace(x)
    counts, steps = window._counts(x.shape[2:]), x.strides[2:]
    inside = [d * s for d, s in zip(window.dilation, steps, strict=True)]
    between = [n * s for n, s in zip(window.stride, steps, strict=True)]
    view = xp.lib.stride_tricks.as_strided(
        x,
        (*x.shape[:axis], *window.size, *x.shape[axis:2], *counts),
        (*x.strides[:axis], *inside, *x.strides[axis:2], *between),
    )
    positions = math.prod(window.size)
    return xp.reshape(view, (*x.shape[:axis], positions, *x.shape[axis:2], *counts))


def scatter_windows(pieces: Array, window: Window, axis: int, size: int) -> Array:
    """Sum over the positions in a window along one axis."""
    xp = namespace(pieces)
    stride, dim = window.stride[axis], 2 + 2 * axis
    shape = [*pieces.shape[: 2 + axis], *pieces.shape[3 + axis :]]
    count, shape[dim] = shape[dim], size
    total = full(xp, pieces, shape, 0.0)
    for offset in range(window.size[axis]):
        first = offset * window.dilation[axis] - window.padding[axis][0]  # of the first window
        start, stop = max(0, -(first // stride)), min(count, (size - 1 - first) // stride + 1)
        if stop > start:
            elements = slice(first + start * stride, first + (stop - 1) * stride + 1, stride)
            target = total[along(dim, elements)]
            target += pieces[along(2 + axis, offset)][along(dim, slice(start, stop))]
    return total
