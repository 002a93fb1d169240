"""The numbers of many steps in one transfer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xplayers._arrays import Array, namespace, to_numpy

BLOCK = 128  # numbers that wait on the device at most


def fetched(values: Sequence[Array]) -> np.ndarray:
    """Return the values of 0-d arrays of one library, device and dtype, as float64 on the host.

    They are stacked where they are, so that the device is waited for once.
    """
    if not values:
        return np.empty(0)
    # JAX compiles the stacking for each length: powers of two are few.
    length = 1 << (len(values) - 1).bit_length()
    padded = [*values, *[values[-1]] * (length - len(values))]
    stacked = to_numpy(namespace(values[0]).stack(padded))
    return stacked[: len(values)].astype(np.float64)
