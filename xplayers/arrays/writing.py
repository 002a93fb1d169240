"""New values in the arrays that are there, which may be each other's old values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from xplayers.arrays.namespaces import Array, namespace


def write_over(pairs: Iterable[tuple[Array, Array]]) -> None:
    """Write the second array of each pair into the first."""
    for old, new in apart(pairs):
        old[...] = new


def written(old: Mapping[str, Array], new: Mapping[str, Array]) -> dict[str, Array]:
    """Return `new`, in the arrays of `old` where these can be written to."""
    names = [name for name, a in new.items() if a is not old[name]]
    result = dict(new)
    if not names:  # as is common
        return result
    for name, (a, value) in zip(names, apart([(old[n], new[n]) for n in names]), strict=True):
        try:
            a[...] = value
        except (TypeError, ValueError, RuntimeError):  # a library without mutation; read-only
            result[name] = value
        else:
            result[name] = a
    return result


def apart(pairs: Iterable[tuple[Array, Array]]) -> list[tuple[Array, Array]]:
    """Return the pairs with copies of what lies in the memory of an array that is written to."""
    pairs = list(pairs)
    owners = {owner(old) for old, _ in pairs}
    return [(old, _copied(new) if owner(new) in owners else new) for old, new in pairs]


def writable(a: Array) -> Array:
    """Return a temporary, or a copy of it where the autograd of PyTorch needs it as it is."""
    return a.clone() if getattr(a, "requires_grad", False) else a


def owner(a: Any) -> int:
    """Return what tells the memory of an array from that of others, while both are alive."""
    if hasattr(a, "untyped_storage"):
        return a.untyped_storage().data_ptr()
    base = getattr(a, "base", None)
    return id(a if base is None else base)


def _copied(a: Array) -> Array:
    return np.array(a) if isinstance(a, np.ndarray) else namespace(a).asarray(a, copy=True)
