"""One value of each row of the last axis: taken, and put there."""

from __future__ import annotations

from xplayers._arrays import Array, device, namespace
from xplayers.arrays.operation import operation


@operation
def taken_along_last(x: Array, index: Array) -> Array:
    """Return ``take_along_axis(x, index, axis=-1)`` for 64-bit indices ``(..., 1)`` in range."""
    return namespace(x).take_along_axis(x, index, axis=-1)


@operation
def put_along_last(x: Array, index: Array, value: Array) -> Array:
    """Return `x` with `value` ``(..., 1)`` at the 64-bit indices `index` ``(..., 1)``."""
    xp = namespace(x)
    return xp.where(index == xp.arange(x.shape[-1], device=device(x)), value, x)
