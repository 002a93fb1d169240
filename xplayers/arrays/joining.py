"""Arrays put together from others and taken apart; on CuPy without a transfer."""

from __future__ import annotations

from collections.abc import Sequence

from xplayers.arrays.namespaces import Array, Namespace, device, library_name

__all__ = ["concat", "stack", "unstack", "zeros"]

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


# In a transformation of ``torch.func``, what is made of an array has its hidden axis, and a new one
# has none: nothing could be added to it in place.


def unstack(xp: Namespace, a: Array) -> Sequence[Array]:
    """Return ``xp.unstack(a)``."""
    return a.unbind(0) if hasattr(a, "unbind") else xp.unstack(a)


def zeros(xp: Namespace, shape: tuple[int, ...], like: Array) -> Array:
    """Return zeros of the dtype and on the device of an array."""
    if hasattr(like, "new_zeros"):
        return like.new_zeros(shape)
    return xp.zeros(shape, dtype=like.dtype, device=device(like))
