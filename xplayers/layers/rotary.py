"""Rotary positions: pairs of features turned by angles that grow with the position."""

from __future__ import annotations

import math
from collections.abc import Mapping

from xplayers._checks import Option, positive
from xplayers.arrays.joining import concat
from xplayers.arrays.namespaces import Array, device, downcast_like, is_half, namespace, upcast
from xplayers.layers.base import Cache, Layer


class RotaryEmbedding(Layer):
    """Rotary position embedding (RoPE): turn pairs of features by angles, each of its own speed.

    Features i and ``i + size / 2`` of position t are a point in the plane, which is turned by
    ``t * theta**(-2 * i / size)``: with the halves ``a, b`` of the last axis, and ``c, s`` the
    cosines and sines of the angles::

        y = concatenate(a * c - b * s, b * c + a * s)

    Backward turns back: ``dx = concatenate(da * c + db * s, db * c - da * s)``, with the halves
    ``da, db`` of ``dy``. The product of a query and a key that are turned so depends only on the
    distance of their positions.

    Parameters
    ----------
    theta : float
        Base of the speeds: 10000 as in the paper; longer contexts take more, Llama 3 500000.

    Raises
    ------
    ValueError
        If `x` has fewer than three axes, or an odd last one.

    Notes
    -----
    `x` is ``(..., time, size)``, as queries and keys ``(n, heads, time, size)``; positions count
    from 0. Within attention it is ``MultiHeadAttention.init(..., rope_theta=10000.0)``. The angles
    are computed in at least float32.

    The pairs are those of Llama and of transformers, feature i with ``i + size / 2`` ("half"). The
    paper and GPT-J pair neighbours, ``2 * i`` with ``2 * i + 1`` ("interleaved"): the same with
    the columns of the weights of queries and keys in another order, even ones before odd ones.

    References
    ----------
    Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding",
    Neurocomputing 568, 2024 (arXiv:2104.09864), equation 34.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.asarray([[[1.0, 0.0], [1.0, 0.0]]])
    >>> RotaryEmbedding().forward(x).round(4)  # position 1 is turned by one radian
    array([[[1.    , 0.    ],
            [0.5403, 0.8415]]])
    """

    theta = Option(positive)

    def __init__(self, theta: float = 10000.0) -> None:
        self.theta = theta

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        shape = tuple(x.shape)
        if len(shape) < 3 or shape[-1] % 2:
            message = f"{self}: x has shape {shape}; expected (..., time, size) with an even size."
            raise ValueError(message)
        cache = turns(x, self.theta)
        return rotated(x, *cache), cache

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        cos, sin = cache
        return rotated(dy, cos, -sin), {}


def turns(x: Array, theta: float) -> tuple[Array, Array]:
    """Return the cosines and sines ``(time, size / 2)`` of the angles of `x` (..., time, size)."""
    xp, (time, size) = namespace(x), x.shape[-2:]
    like = {"dtype": xp.float32 if is_half(x) else x.dtype, "device": device(x)}
    speeds = xp.exp(xp.arange(size // 2, **like) * (-2.0 * math.log(theta) / size))
    angles = xp.arange(time, **like)[:, None] * speeds[None, :]
    return xp.cos(angles), xp.sin(angles)


def rotated(x: Array, cos: Array, sin: Array) -> Array:
    """Return `x` (..., time, size) turned by the angles, of which it may have fewer positions."""
    xp, (time, size) = namespace(x), x.shape[-2:]
    wide, cos, sin = upcast(xp, x), cos[:time, :], sin[:time, :]
    a, b = wide[..., : size // 2], wide[..., size // 2 :]
    return downcast_like(concat(xp, [a * cos - b * sin, b * cos + a * sin], -1), x)
