"""Arrays side by side in one flat buffer, so that one call does something to all of them."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from xplayers.accelerate.host.memory import LINE, empty
from xplayers.accelerate.replay.recording import is_ordered
from xplayers.arrays.namespaces import Array, DType, device, namespace

Shapes = Sequence[tuple[int, ...]]
LARGE = 1 << 18  # elements, from which on memory is what an update waits for


class _Part(NamedTuple):
    """Where in which buffer a part lies. It goes when the part goes."""

    of: weakref.ref[Array]
    flat: Array
    start: int
    stop: int  # with the padding


# The parts that were made here, by their id: they alone, the very objects. What else lies in the
# memory of a buffer, a view of a part or what comes after it, has no padding at its end.
_parts: dict[int, _Part] = {}


def side_by_side(shapes: Shapes, dtype: DType, like: Array) -> tuple[Array, list[Array]]:
    """Return a flat buffer of the library and on the device of `like`, and its parts.

    Every part is a view of its shape and begins at a line of the cache; what lies between the parts
    is 0, so that what is computed with all of the buffer stays finite.
    """
    xp = namespace(like)
    on_numpy = isinstance(like, np.ndarray)
    step = LINE // (np.dtype(dtype) if on_numpy else dtype).itemsize
    n = sum(_length(s, step) for s in shapes)
    flat = empty((n,), dtype) if on_numpy else xp.empty((n,), dtype=dtype, device=device(like))
    flat[...] = 0
    parts, start = [], 0
    for shape in shapes:
        part = xp.reshape(flat[start : start + math.prod(shape)], shape)
        stop = start + _length(shape, step)
        _parts[id(part)] = _Part(weakref.ref(part, _forgetting(id(part))), flat, start, stop)
        parts.append(part)
        start = stop
    return flat, parts


def _forgetting(name: int, parts: dict[int, _Part] = _parts) -> Callable[[Any], Any]:
    return lambda _: parts.pop(name, None)


def buffer_of(parts: Sequence[Array]) -> Array | None:
    """Return the buffer of `side_by_side` whose parts these are, one after the other; else None."""
    entries = [_parts.get(id(a)) for a in parts]
    first, last = entries[0], entries[-1]
    if first is None or last is None:
        return None
    at = first.start
    for a, part in zip(parts, entries, strict=True):
        if part is None or part.of() is not a or part.flat is not first.flat or part.start != at:
            return None
        at = part.stop
    return first.flat[first.start : last.stop]


def flattened(arrays: Sequence[Array]) -> list[Array]:
    """Return `arrays`, of one dtype, side by side; themselves if they are so already."""
    if buffer_of(arrays) is not None:
        return list(arrays)
    _, parts = side_by_side([tuple(a.shape) for a in arrays], arrays[0].dtype, arrays[0])
    for part, a in zip(parts, arrays, strict=True):
        part[...] = a
    return parts


def _length(shape: tuple[int, ...], step: int) -> int:
    return -(-math.prod(shape) // step) * step


def address(a: Array) -> tuple[int, int] | None:
    """Return what owns the memory of a contiguous array, and where in the machine it begins."""
    if isinstance(a, np.ndarray):
        return (id(a.base), a.ctypes.data) if a.flags.c_contiguous and a.base is not None else None
    if hasattr(a, "untyped_storage") and a.is_contiguous():
        return a.untyped_storage().data_ptr(), a.data_ptr()
    return None


def is_large(shape: tuple[int, ...]) -> bool:
    """Whether PyTorch's fused kernels of optimizers take an array.

    They round the last elements, which fill no vector, otherwise than the others.
    """
    n = math.prod(shape)
    return n >= LARGE and n % LINE == 0


def lay_flat(arrays: dict[str, Array]) -> None:
    """Put the arrays of each dtype side by side, where that changes no bits of what is computed.

    Large ones are apart from the others: what updates them may round otherwise.
    A product may round otherwise where an array lies in another order, or does not begin where
    PyTorch's vector instructions do: such arrays stay where they are.
    """
    kinds: dict[tuple[DType, bool], list[str]] = {}
    for name, a in arrays.items():
        host = isinstance(a, np.ndarray | np.generic)
        if is_ordered(a) and (host or a.data_ptr() % 16 == 0):
            kinds.setdefault((a.dtype, is_large(a.shape)), []).append(name)
    for names in kinds.values():
        arrays |= zip(names, flattened([arrays[name] for name in names]), strict=True)
