"""Dropout on NumPy with the masks and bits of the portable body: by a kernel, or in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from xplayers.accelerate.host.kernels import dropout as kernels
from xplayers.accelerate.host.kernels.kernel import are_usable, laid
from xplayers.accelerate.host.memory import empty
from xplayers.accelerate.host.threads import share
from xplayers.layers.dropout import LIMIT, keep_mask, key_of

BLOCK = 32_768  # elements, whose hashes stay in the cache
_LARGEST = 1 << 31  # positions have 32 bits, of which one is the sign


def drop(x: np.ndarray, count: np.ndarray, seed: int, rate: float, scale: float) -> Any:
    """Return ``x * keep * scale`` and the mask `keep`."""
    if not BLOCK < x.size < _LARGEST and not _is_for_kernels(x):
        return NotImplemented
    y, keep, flat = empty(x.shape, x.dtype), empty(x.shape, np.bool_), laid(x).reshape(-1)
    outs = y.reshape(-1), keep.reshape(-1)
    if _is_for_kernels(x):
        key, limit = key_of(count, seed).item() % 2**32, round(rate * LIMIT)
        bits = outs[1].view(np.uint8)
        kernels.drop.share(flat, key, limit, scale, outs[0], bits, n=x.size, size=1)
        return y, keep

    def run(starts: Iterator[int]) -> None:
        for start in starts:
            part = slice(start, min(start + BLOCK, x.size))
            position = np.arange(part.start, part.stop, dtype=np.int32)
            outs[1][part] = keep_mask(position, count, seed, rate)
            _masked(flat[part], outs[1][part], scale, outs[0][part])

    share(run, range(0, x.size, BLOCK))
    return y, keep


def masked(x: np.ndarray, keep: np.ndarray, scale: float) -> Any:
    """Return ``x * keep * scale``."""
    if keep.dtype != np.bool_ or keep.shape != x.shape:
        return NotImplemented
    if x.size <= BLOCK and not _is_for_kernels(x):
        return NotImplemented
    y = empty(x.shape, x.dtype)
    flat = laid(x).reshape(-1), laid(keep).reshape(-1), scale, y.reshape(-1)
    if _is_for_kernels(x):
        bits = flat[1].view(np.uint8)
        kernels.masked.share(flat[0], bits, scale, flat[3], n=x.size, size=1)
        return y

    def run(starts: Iterator[int]) -> None:
        for start in starts:
            part = slice(start, start + BLOCK)
            _masked(flat[0][part], flat[1][part], scale, flat[3][part])

    share(run, range(0, x.size, BLOCK))
    return y


def _masked(x: np.ndarray, keep: np.ndarray, scale: float, y: np.ndarray) -> None:
    y[...] = keep
    y *= scale
    y *= x


def _is_for_kernels(x: np.ndarray) -> bool:
    return x.dtype == np.float32 and 0 < x.size < _LARGEST and are_usable(x.size)
