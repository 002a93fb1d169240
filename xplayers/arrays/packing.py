"""Arrays as `pickle` and `copy.deepcopy` see them: alone, and shared where they are shared.

A tensor of PyTorch that is a part of a flat buffer would take the whole buffer along into a pickle,
and NumPy makes arrays of their own of an array and its transpose. An object that keeps arrays gives
`Packed` in the place of its dicts of them; what is unpickled are plain dicts and arrays.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from xplayers.arrays.namespaces import Array


class Packed:
    """A dict of arrays, an array, or the memory of one. It is made once while it is held."""

    def __init__(self, value: Any, flat: bool = False) -> None:
        self.value, self.flat = value, flat

    def __reduce__(self) -> tuple[Any, tuple]:
        value = self.value
        if self.flat:
            return _itself, (_flat(value),)
        if isinstance(value, dict):
            return _itself, ({k: packed(v) for k, v in value.items()},)
        return _laid, (_once(_memory_of(value), value, flat=True), *_layout(value))


# By what they stand for. A pickler holds what it has written, so the same array is the same object
# to it; the arrays, which these hold, are read when they are written.
_packed: weakref.WeakValueDictionary[Any, Packed] = weakref.WeakValueDictionary()


def packed(value: Any) -> Any:
    """Return what stands for a dict (of dicts) of arrays or for an array; else `value` itself."""
    if type(value) is dict or _is_dense(value):
        return _once(id(value), value)
    return value


def unpacked(value: Any) -> Any:
    """Return what `packed` was given: a shallow copy gets it as it is."""
    return value.value if isinstance(value, Packed) else value


def _once(key: Any, value: Any, *, flat: bool = False) -> Packed:
    wrapper = _packed.get(key)
    if wrapper is None:
        wrapper = _packed[key] = Packed(value, flat)
    return wrapper


def _itself(value: Any) -> Any:
    return value


def _strides(a: Array) -> tuple[int, ...]:
    """Return the strides in elements."""
    if isinstance(a, np.ndarray):
        return tuple([s // a.itemsize for s in a.strides])
    return tuple(a.stride())


def _is_dense(a: Any) -> bool:
    """Whether it is an array of NumPy or PyTorch whose elements lie in some order without gaps."""
    if type(a) is np.ndarray:
        if a.dtype.hasobject or any(s % a.itemsize for s in a.strides):
            return False
    elif type(a).__module__ != "torch" or not _is_strided(a):
        return False
    n = 1
    for step, length in sorted(zip(map(abs, _strides(a)), a.shape, strict=True)):
        if length != 1:
            if step != n:
                return False
            n *= length
    return n > 0


def _is_strided(a: Any) -> bool:
    return str(getattr(a, "layout", "")) == "torch.strided" and not a.requires_grad


def _layout(a: Array) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return the shape in the order of memory, where its axes are, and which of them go back."""
    strides = _strides(a)
    order = sorted(range(len(strides)), key=lambda i: -abs(strides[i]))
    axes = tuple([order.index(i) for i in range(len(order))])
    back = tuple([i for i, s in enumerate(strides) if s < 0 and a.shape[i] > 1])
    return tuple([a.shape[i] for i in order]), axes, back


def _first(a: Array) -> Array:
    """Return `a` from its first element in memory on."""
    if isinstance(a, np.ndarray):
        return a[..., *[slice(None, None, -1 if s < 0 else None) for s in a.strides]]
    return a


def _memory_of(a: Array) -> tuple:
    """Return what an array and its transpose have in common. It lasts as long as one of them."""
    if isinstance(a, np.ndarray):
        return "numpy", _first(a).ctypes.data, a.size, a.dtype
    return "torch", str(a.device), a.data_ptr(), a.numel(), a.dtype


def _flat(a: Array) -> Array:
    """Return the elements as they lie in memory; of PyTorch in memory of their own."""
    if isinstance(a, np.ndarray):
        a = _first(a)
        return a.transpose(sorted(range(a.ndim), key=lambda i: -a.strides[i])).reshape(-1)
    return a.as_strided((a.numel(),), (1,)).clone()


def _laid(flat: Array, shape: Sequence[int], axes: Sequence[int], back: Sequence[int]) -> Array:
    """Return the array of this memory."""
    a = flat.reshape(shape)
    a = a.transpose(axes) if isinstance(a, np.ndarray) else a.permute(axes)
    if back:
        a = a[*[slice(None, None, -1 if i in back else None) for i in range(len(axes))]]
    return a
