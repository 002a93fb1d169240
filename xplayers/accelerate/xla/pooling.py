"""The gradient of max pooling where windows do not overlap."""

from __future__ import annotations

import math
from typing import Any

from xplayers.arrays.namespaces import Array, namespace
from xplayers.layers.windows import Window

ELEMENTS = 6  # of a window; beyond it the portable body may be faster; measured


def max_pooling_gradient(x: Array, y: Array, dy: Array, window: Window) -> Any:
    """Return the gradient of `x`: the pieces of all windows side by side, in one pass of XLA.

    The portable body writes rows and columns one after the other.
    """
    apart = window.stride == window.size and not any(map(any, window.padding))
    if 0 in y.shape or not apart or math.prod(window.size) > ELEMENTS:
        return NotImplemented
    xp = namespace(x)
    pieces, free = [], None  # free: windows whose maximum is still to come
    for values in window.slices(x):
        is_max = values == y
        pieces.append(xp.where(is_max if free is None else is_max & free, dy, 0.0))
        free = ~is_max if free is None else free & ~is_max
    lead, axes, outputs = x.shape[:2], window.axes, y.shape[2:]
    stacked = xp.stack(pieces, axis=-1).reshape(*lead, *outputs, *window.size)
    order = [2 + axis + part for axis in range(axes) for part in (0, axes)]
    covered = [n * size for n, size in zip(outputs, window.size, strict=True)]
    dx = xp.permute_dims(stacked, (0, 1, *order)).reshape(*lead, *covered)
    rest = [(0, n - size) for n, size in zip(x.shape[2:], covered, strict=True)]
    return xp.pad(dx, [(0, 0), (0, 0), *rest]) if any(map(any, rest)) else dx
