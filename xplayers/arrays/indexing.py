"""One value of each row of the last axis: taken, and put there."""

from __future__ import annotations

from xplayers.arrays.namespaces import Array, device, namespace
from xplayers.arrays.operation import operation


@operation
def positions(x: Array, index: Array) -> Array:
    """Return where the 64-bit indices ``(...)`` lead in `x` ``(..., c)``, for `taken` and `put`."""
    return index[..., None]


@operation
def taken(x: Array, at: Array) -> Array:
    """Return the values of `x` at these positions, ``(..., 1)``."""
    return namespace(x).take_along_axis(x, at, axis=-1)


@operation
def put(x: Array, at: Array, value: Array) -> Array:
    """Return `x` with `value` ``(..., 1)`` at these positions."""
    xp = namespace(x)
    return xp.where(at == xp.arange(x.shape[-1], device=device(x)), value, x)
