"""Layers that change the shape of an array and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping

from xplayers._arrays import Array, namespace
from xplayers.layers.base import Cache, Layer


class Flatten(Layer):
    """Flatten all axes but the first, ``(n, ...)`` to ``(n, m)``.

    Backward restores the shape. Both may be views of their input, as the name says.
    """

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        if len(x.shape) < 1:
            message = "Flatten: x has shape (); expected (n, ...)."
            raise ValueError(message)
        return namespace(x).reshape(x, (x.shape[0], math.prod(x.shape[1:]))), (x,)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        (x,) = cache  # the array, not its shape: a cache holds arrays only
        return namespace(x).reshape(dy, x.shape), {}
