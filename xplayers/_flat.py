"""Arrays side by side in one flat buffer, so that one call does something to all of them."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from xplayers._arrays import Array, DType, device, namespace
from xplayers._memory import LINE, empty

Shapes = Sequence[tuple[int, ...]]


# The buffers that were made here, by the id of what owns their memory: what somebody else has put
# side by side has no padding at its end.
_BUFFERS: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


def side_by_side(shapes: Shapes, dtype: DType, like: Array) -> tuple[Array, list[Array]]:
    """Return a flat buffer of the library and on the device of `like`, and its parts.

    Every part is a view of its shape and begins at a line of the cache; what lies between the parts
    is 0, so that what is computed with all of the buffer stays finite.
    """
    xp = namespace(like)
    if isinstance(like, np.ndarray):
        step = LINE // np.dtype(dtype).itemsize
        flat = empty((sum(_length(s, step) for s in shapes),), dtype)
    else:
        step = LINE // dtype.itemsize
        n = sum(_length(s, step) for s in shapes)
        flat = xp.empty((n,), dtype=dtype, device=device(like))
    flat[...] = 0
    owner = _owner(flat)
    _BUFFERS[id(owner)] = owner
    parts, start = [], 0
    for shape in shapes:
        parts.append(xp.reshape(flat[start : start + math.prod(shape)], shape))
        start += _length(shape, step)
    return flat, parts


def whole(parts: Sequence[Array]) -> Array | None:
    """Return the buffer of `side_by_side` whose parts these are, one after the other; else None."""
    first = parts[0]
    start = address(first)
    if start is None or id(_owner(first)) not in _BUFFERS:
        return None
    item = first.dtype.itemsize
    step, at = LINE // item, 0
    for a in parts:
        if a.dtype != first.dtype or address(a) != (start[0], start[1] + at * item):
            return None
        at += _length(a.shape, step)
    if isinstance(first, np.ndarray):
        return np.lib.stride_tricks.as_strided(first, (at,), (item,))
    return first.as_strided((at,), (1,))  # of torch


def flattened(arrays: Sequence[Array]) -> list[Array]:
    """Return `arrays`, of one dtype, side by side; themselves if they are so already."""
    if whole(arrays) is not None:
        return list(arrays)
    _, parts = side_by_side([tuple(a.shape) for a in arrays], arrays[0].dtype, arrays[0])
    for part, a in zip(parts, arrays, strict=True):
        part[...] = a
    return parts


def _owner(a: Array) -> Any:
    if isinstance(a, np.ndarray):
        return a if a.base is None else a.base
    return a if a._base is None else a._base


def _length(shape: tuple[int, ...], step: int) -> int:
    return -(-math.prod(shape) // step) * step


def address(a: Array) -> tuple[int, int] | None:
    """Return what owns the memory of a contiguous array, and where in the machine it begins."""
    if isinstance(a, np.ndarray):
        return (id(a.base), a.ctypes.data) if a.flags.c_contiguous and a.base is not None else None
    if hasattr(a, "untyped_storage") and a.is_contiguous():
        return a.untyped_storage().data_ptr(), a.data_ptr()
    return None
