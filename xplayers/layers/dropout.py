"""Dropout with a counter-based random number generator: the same masks on every library."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from xplayers._checks import Option, integer, number
from xplayers.arrays.elementwise import elementwise
from xplayers.arrays.namespaces import Array, device, namespace, size
from xplayers.arrays.operation import operation
from xplayers.layers.base import Cache, Layer
from xplayers.layers.variables import Buffer


class Dropout(Layer):
    """Set each value to 0 with probability `rate` in training, ``y = x * mask / (1 - rate)``.

    Backward: ``dx = dy * mask / (1 - rate)``. Inference is the identity (in a new array): training
    scales ("inverted" dropout). The book scales in inference instead.

    Parameters
    ----------
    rate : float
        Probability of 0, in ``[0, 1]``.
    seed : int
        Seed of the masks. Use a different one for each layer of a network: layers with the same
        seed drop the same elements.

    Raises
    ------
    ValueError
        If `rate` is not in ``[0, 1]``.

    Notes
    -----
    The mask is a hash of (seed, counter, position) in 32-bit integer arithmetic, which every
    library has, so all produce the same masks without a transfer, and a compiled step draws new
    masks. The buffer `count` is the counter: every training forward increments it.

    References
    ----------
    Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov, "Dropout", JMLR 15, 2014, section 4.
    The mixing function is the finalizer of MurmurHash3 (Appleby, public domain).

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> layer = xl.Dropout(rate=0.5, seed=1)
    >>> layer.forward(np.ones((2, 6)))
    array([[2., 0., 0., 2., 0., 0.],
           [2., 2., 2., 2., 0., 2.]])
    >>> layer.backward(np.ones((2, 6)))
    array([[2., 0., 0., 2., 0., 0.],
           [2., 2., 2., 2., 0., 2.]])
    >>> layer.predict(np.ones((1, 6)))
    array([[1., 1., 1., 1., 1., 1.]])
    """

    count = Buffer()
    rate, seed = Option(number, least=0, most=1), Option(integer, least=None)

    def __init__(self, rate: float = 0.5, seed: int = 0) -> None:
        self.rate, self.seed = rate, seed
        self.count = np.zeros(1, "int32")  # 1-d: 0-d integers warn when they overflow
        self._variables.materialized = False

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        y, keep = drop(x, arrays["count"], self.seed, self.rate, self._scale)
        return y, (keep,)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        (keep,) = cache
        return masked(dy, keep, self._scale), {}

    def infer(self, arrays: Mapping[str, Array], x: Array) -> Array:
        return x * 1.0

    def updated_buffers(self, arrays: Mapping[str, Array], cache: Cache) -> dict[str, Array]:
        return {"count": arrays["count"] + 1}

    @property
    def _scale(self) -> float:
        return keep_scale(self.rate)


def keep_scale(rate: float) -> float:
    """Return the factor of what is kept, so that the mean stays."""
    return 0.0 if rate == 1.0 else 1.0 / (1.0 - rate)


@operation
def drop(x: Array, count: Array, seed: int, rate: float, scale: float) -> tuple[Array, Array]:
    """Return ``x * keep * scale``, in the dtype of `x`, and the mask `keep`, bool; `count` (1,)."""
    xp = namespace(x)
    position = xp.arange(size(x), dtype=xp.int32, device=device(x))
    keep = xp.reshape(keep_mask(position, count, seed, rate), x.shape)
    return masked(x, keep, scale), keep


@operation
def masked(x: Array, keep: Array, scale: float) -> Array:
    """Return ``x * keep * scale``, in the dtype of `x`."""
    y = namespace(x).astype(keep, x.dtype)
    y *= scale
    return y * x


@elementwise
def scaled(xp, x, keep, *, scale):
    """Return `masked` in one pass."""
    return xp.astype(keep, x.dtype) * scale * x


@elementwise
def dropped(xp, x, position, count, *, seed, rate, scale):
    """Return `drop` in one pass, for kernels that know the position without an array of it."""
    keep = keep_mask(position, count, seed, rate)
    return scaled.function(xp, x, keep, scale=scale), keep


def keep_mask(position: Array, count: Array, seed: int, rate: float) -> Array:
    """Return the mask: True with probability ``1 - rate``, from 24 bits of a hash."""
    key = key_of(count, seed)
    bits = _mixed(_mixed(position + key) ^ key) & (LIMIT - 1)
    return bits >= round(rate * LIMIT)


LIMIT = 2**24  # values that the bits of a position have


def key_of(count: Array, seed: int) -> Array:
    """Return the key of a pass, which the positions are mixed with."""
    return _mixed(count * wrapped(0x9E3779B9) + wrapped(seed * 0x85EBCA77))


def wrapped(n: int) -> int:
    """Return `n` modulo 2**32 as a signed integer."""
    return (n + 2**31) % 2**32 - 2**31


def _mixed(h: Array) -> Array:
    """Return the 32-bit finalizer of MurmurHash3 of each integer."""
    h = (h ^ _shifted(h, 16)) * wrapped(0x85EBCA6B)
    h = (h ^ _shifted(h, 13)) * wrapped(0xC2B2AE35)
    return h ^ _shifted(h, 16)


def _shifted(h: Array, bits: int) -> Array:
    """Return the logical right shift: the arithmetic one with the sign bits masked out."""
    return (h >> bits) & (2 ** (32 - bits) - 1)
