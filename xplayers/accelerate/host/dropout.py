"""Dropout on NumPy, where there are kernels: the same masks and the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from xplayers.accelerate.host.kernels import dropout as kernels
from xplayers.accelerate.host.kernels.kernel import are_usable, laid
from xplayers.accelerate.host.memory import empty
from xplayers.layers.dropout import LIMIT, key_of

_LARGEST = 1 << 31  # positions have 32 bits, of which one is the sign


def drop(x: np.ndarray, count: np.ndarray, seed: int, rate: float, scale: float) -> Any:
    """Return ``x * keep * scale`` and the mask `keep`."""
    if not _is_for_kernels(x):
        return NotImplemented
    key, limit = key_of(count, seed).item() % 2**32, round(rate * LIMIT)
    y, keep = empty(x.shape, x.dtype), empty(x.shape, np.bool_)
    flat = laid(x).reshape(-1)
    kernels.drop.share(flat, key, limit, scale, y.reshape(-1), keep.reshape(-1), n=x.size, size=1)
    return y, keep


def masked(x: np.ndarray, keep: np.ndarray, scale: float) -> Any:
    """Return ``x * keep * scale``."""
    if not _is_for_kernels(x) or keep.dtype != np.bool_ or keep.shape != x.shape:
        return NotImplemented
    y = empty(x.shape, x.dtype)
    given = laid(x).reshape(-1), laid(keep).reshape(-1)
    kernels.masked.share(*given, scale, y.reshape(-1), n=x.size, size=1)
    return y


def _is_for_kernels(x: np.ndarray) -> bool:
    return x.dtype == np.float32 and 0 < x.size < _LARGEST and are_usable(x.size)
