"""Dropout of float32 values in one pass: the bits of the portable body."""

from __future__ import annotations

import numpy as np

from xplayers.accelerate.host.kernels.kernel import kernel

u32, u8, f32 = np.uint32, np.uint8, np.float32
FIRST, SECOND, LOW = u32(0x85EBCA6B), u32(0xC2B2AE35), u32(0xFFFFFF)
SIXTEEN, THIRTEEN = u32(16), u32(13)


def mixed(h):
    """Return the 32-bit finalizer of MurmurHash3."""
    h = u32(u32(h ^ (h >> SIXTEEN)) * FIRST)
    h = u32(u32(h ^ (h >> THIRTEEN)) * SECOND)
    return u32(h ^ (h >> SIXTEEN))


@kernel("const float32[1], uint32, uint32, float32, float32[1], uint8[1], int64, int64")
def drop(x, key, limit, scale, y, keep, start, stop):
    """Return ``x * keep * scale``, and `keep`: whether the hash of a position has the limit."""
    x, y, keep = x[start:stop], y[start:stop], keep[start:stop]
    for i in range(len(x)):
        bits = mixed(u32(mixed(u32(u32(start + i) + key)) ^ key)) & LOW
        keep[i] = u8(1) if bits >= limit else u8(0)
    for i in range(len(x)):
        y[i] = f32(keep[i]) * scale * x[i]


@kernel("const float32[1], const uint8[1], float32, float32[1], int64, int64")
def masked(x, keep, scale, y, start, stop):
    """Return ``x * keep * scale``."""
    x, y, keep = x[start:stop], y[start:stop], keep[start:stop]
    for i in range(len(x)):
        y[i] = f32(keep[i]) * scale * x[i]
