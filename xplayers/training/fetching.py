"""Transfer of many scalars from the device at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xplayers.arrays.namespaces import namespace
from xplayers.arrays.transfer import to_numpy

BLOCK = 128  # maximum number of scalars kept on the device


def fetched(values: Sequence[Any]) -> np.ndarray:
    """Return the values of 0-d arrays of one device, and of numbers, as float64 on the host.

    Arrays of the same library and dtype are stacked on the device, for a single synchronization.
    """
    numbers = np.empty(len(values))
    groups: dict[Any, list[int]] = {}
    for i, value in enumerate(values):
        if isinstance(value, float):
            numbers[i] = value
        else:
            groups.setdefault((type(value), value.dtype), []).append(i)
    for indices in groups.values():
        arrays = [values[i] for i in indices]
        # JAX compiles the stacking for each length, so it is padded to a power of two.
        padding = (1 << (len(arrays) - 1).bit_length()) - len(arrays)
        stacked = to_numpy(namespace(arrays[0]).stack(arrays + arrays[-1:] * padding))
        numbers[indices] = stacked[: len(indices)]
    return numbers
