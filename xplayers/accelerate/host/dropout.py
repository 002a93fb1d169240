"""Dropout on NumPy with the masks and bits of the portable body: by a kernel, or in blocks.

The hash is that of `layers/dropout.py` in unsigned integers, whose shift needs no mask, and in
memory of its own; the key, which is one number, in those of Python.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from xplayers.accelerate.host.kernels import dropout as kernels
from xplayers.accelerate.host.kernels.kernel import are_usable, laid
from xplayers.accelerate.host.memory import empty
from xplayers.accelerate.host.threads import share
from xplayers.layers.dropout import LIMIT

BLOCK = 32_768  # elements, whose hashes stay in the cache
_LARGEST = 1 << 31  # positions have 32 bits, of which one is the sign


def drop(x: np.ndarray, count: np.ndarray, seed: int, rate: float, scale: float) -> Any:
    """Return ``x * keep * scale`` and the mask `keep`."""
    if not BLOCK < x.size < _LARGEST and not _is_for_kernels(x):
        return NotImplemented  # what a replay has memory for costs less than this call
    y, keep, flat = empty(x.shape, x.dtype), empty(x.shape, np.bool_), laid(x).reshape(-1)
    outs, key, limit = (y.reshape(-1), keep.reshape(-1)), _key(count, seed), round(rate * LIMIT)
    if _is_for_kernels(x):
        bits = outs[1].view(np.uint8)
        kernels.drop.share(flat, key, limit, scale, outs[0], bits, n=x.size, size=1)
        return y, keep

    def run(starts: Iterator[int]) -> None:
        memory = np.empty((2, min(BLOCK, x.size)), np.uint32)
        for start in starts:
            part = slice(start, min(start + BLOCK, x.size))
            h, shifted = memory[:, : part.stop - start]
            np.add(_positions()[: len(h)], np.uint32((start + key) % 2**32), h)
            _mix(h, shifted)
            h ^= np.uint32(key)
            _mix(h, shifted)
            h &= kernels.LOW
            np.greater_equal(h, limit, outs[1][part])
            _masked(flat[part], outs[1][part], scale, outs[0][part])

    share(run, range(0, x.size, BLOCK))
    return y, keep


def _key(count: np.ndarray, seed: int) -> int:
    """Return the key of a pass, modulo 2**32."""
    h = (count.item() * 0x9E3779B9 + seed * 0x85EBCA77) % 2**32
    h = (h ^ h >> 16) * int(kernels.FIRST) % 2**32
    h = (h ^ h >> 13) * int(kernels.SECOND) % 2**32
    return h ^ h >> 16


@functools.cache
def _positions() -> np.ndarray:
    return np.arange(BLOCK, dtype=np.uint32)


def _mix(h: np.ndarray, shifted: np.ndarray) -> None:
    """Write the 32-bit finalizer of MurmurHash3 of each integer over it."""
    for bits, factor in ((16, kernels.FIRST), (13, kernels.SECOND), (16, None)):
        h ^= np.right_shift(h, bits, shifted)
        if factor is not None:
            h *= factor


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
