"""Arrays put together from others, on CuPy without a transfer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xplayers._arrays import Array, Namespace, device, library_name

__all__ = ["concat", "stack"]

# CuPy joins more than eight small arrays by one kernel, for which it brings a table of their
# addresses to the device. A CUDA graph has no such transfers, and they would be of old addresses.
_FEW = 8


def concat(xp: Namespace, arrays: Sequence[Array], axis: int) -> Array:
    """Return ``xp.concat(arrays, axis=axis)``; on CuPy arrays have one dtype and a length."""
    if len(arrays) <= _FEW or library_name(xp) != "cupy":
        return xp.concat(list(arrays), axis=axis)
    lengths = [a.shape[axis] for a in arrays]
    shape = list(arrays[0].shape)
    shape[axis] = sum(lengths)
    out, start = _empty(xp, arrays[0], shape), 0
    for a, length in zip(arrays, lengths, strict=True):
        out[_along(axis, len(shape), slice(start, start + length))] = a
        start += length
    return out


def stack(xp: Namespace, arrays: Sequence[Array], axis: int = 0) -> Array:
    """Return ``xp.stack(arrays, axis=axis)``; on CuPy arrays have one dtype."""
    if len(arrays) <= _FEW or library_name(xp) != "cupy":
        return xp.stack(list(arrays), axis=axis)
    shape = list(arrays[0].shape)
    shape.insert(axis, len(arrays))
    out = _empty(xp, arrays[0], shape)
    for i, a in enumerate(arrays):
        out[_along(axis, len(shape), i)] = a
    return out


def _empty(xp: Namespace, like: Array, shape: Sequence[int]) -> Array:
    return xp.empty(tuple(shape), dtype=like.dtype, device=device(like))


def _along(axis: int, axes: int, index: Any) -> tuple[Any, ...]:
    """Return the full index that is `index` on one axis and everything on the others."""
    return (*(slice(None),) * (axis % axes), index, ...)
