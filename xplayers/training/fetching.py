"""The numbers of many steps in one transfer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xplayers.arrays.namespaces import namespace, to_numpy

BLOCK = 128  # numbers that wait on the device at most


def fetched(values: Sequence[Any]) -> np.ndarray:
    """Return the values of 0-d arrays of one device, and of numbers, as float64 on the host.

    Those of one library and dtype are stacked where they are, so that the device is waited for
    once, and what is an integer stays one.
    """
    numbers = np.empty(len(values))
    alike: dict[Any, list[int]] = {}
    for i, value in enumerate(values):
        if isinstance(value, float):
            numbers[i] = value
        else:
            alike.setdefault((type(value), value.dtype), []).append(i)
    for indices in alike.values():
        arrays = [values[i] for i in indices]
        # JAX compiles the stacking for each length: powers of two are few.
        padding = (1 << (len(arrays) - 1).bit_length()) - len(arrays)
        stacked = to_numpy(namespace(arrays[0]).stack(arrays + arrays[-1:] * padding))
        numbers[indices] = stacked[: len(indices)]
    return numbers
