"""Arrays put together from others, on CuPy without a transfer."""

from __future__ import annotations

from collections.abc import Sequence

from xplayers.arrays.namespaces import Array, Namespace, library_name

__all__ = ["concat", "stack"]

# CuPy joins more than eight small arrays by one kernel, for which it brings a table of their
# addresses to the device. A CUDA graph has no such transfers, and they would be of old addresses.
# So there they are joined by eights, which costs a copy more.
_FEW = 8


def concat(xp: Namespace, arrays: Sequence[Array], axis: int) -> Array:
    """Return ``xp.concat(arrays, axis=axis)``."""
    arrays = list(arrays)
    if len(arrays) <= _FEW or library_name(xp) != "cupy":
        return xp.concat(arrays, axis=axis)
    groups = [arrays[i : i + _FEW] for i in range(0, len(arrays), _FEW)]
    parts = [xp.concat(group, axis=axis) for group in groups]
    return concat(xp, parts, axis)


def stack(xp: Namespace, arrays: Sequence[Array], axis: int = 0) -> Array:
    """Return ``xp.stack(arrays, axis=axis)``."""
    if len(arrays) <= _FEW or library_name(xp) != "cupy":
        return xp.stack(list(arrays), axis=axis)
    return concat(xp, [xp.expand_dims(a, axis=axis) for a in arrays], axis)
