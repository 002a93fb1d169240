"""Layer normalization and RMS normalization, over the last axes of each sample."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from xplayers._checks import Option, number, one_by_one
from xplayers.arrays.namespaces import Array, downcast_like, namespace, upcast
from xplayers.arrays.operation import operation
from xplayers.arrays.products import column_sums
from xplayers.initializers import constant
from xplayers.layers.base import Cache, Layer
from xplayers.layers.normalization import (
    Axes,
    check_pair,
    normalized_rows,
    normalized_rows_gradient,
)
from xplayers.layers.variables import Gradient, Parameter


class LayerNormalization(Layer):
    """Normalize each sample over its last axes, ``y = gamma * xh + beta``.

    ``xh = (x - mean) / sqrt(var + eps)`` over the axes of `gamma`, the last ones. Backward:
    ``dbeta = sum(dy)`` and ``dgamma = sum(dy * xh)`` over the other axes,
    ``dx = r * (h - mean(h) - xh * mean(h * xh))`` with ``h = gamma * dy``.

    Parameters
    ----------
    gamma, beta : array
        Scale and shift, of the shape of the normalized axes: ``(n_features,)``, or more.
    eps : float
        Added to the variance.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    References
    ----------
    Ba, Kiros, Hinton, "Layer Normalization", arXiv:1607.06450, equation 3.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> layer = xl.LayerNormalization.init(3, dtype="float64")
    >>> layer.forward(np.asarray([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])).round(3)
    array([[-1.225,  0.   ,  1.225],
           [-1.225,  0.   ,  1.225]])
    """

    gamma, dgamma = Parameter(), Gradient()
    beta, dbeta = Parameter(), Gradient()
    eps = Option(number, least=0)

    def __init__(self, gamma: Array, beta: Array, eps: float = 1e-5) -> None:
        self.gamma, self.beta, self.eps = gamma, beta, eps
        check_pair("LayerNormalization", gamma, beta)

    @classmethod
    def init(
        cls, *shape: int, eps: float = 1e-5, dtype: str = "float32", like: Array = None
    ) -> Self:
        """Make a layer with `gamma` 1 and `beta` 0 of `shape`; else as in `Affine.init`."""
        ones = constant("LayerNormalization", 1.0, _sizes("LayerNormalization", shape), dtype)
        return cls(ones, np.zeros_like(ones), eps)._materialize_at(like)

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        _check_last(self, x, self.gamma)
        gamma = arrays["gamma"]
        y, xh, r, mean = layer_normalization(x, gamma, arrays["beta"], self.eps)
        return y, (xh, r, gamma, x, mean)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        xh, r, gamma, x, mean = cache
        dx, dgamma, dbeta = layer_normalization_gradient(dy, x, gamma, xh, mean, r)
        return dx, {"gamma": dgamma, "beta": dbeta}

    @property
    def _sizes(self) -> tuple[int, ...]:
        return self.gamma.shape


@operation
def layer_normalization(x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Any, ...]:
    """Return ``y``, ``xh``, ``r`` and the mean of each row; ``xh`` or the mean may be None.

    `x` is ``(..., *gamma.shape)``, and so is ``y``, in its dtype; ``xh``, and ``r`` and the mean
    ``(..., 1)`` with as many ones, are in at least float32.
    """
    xp = namespace(x)
    xh, r = normalized_rows(upcast(xp, x), _axes(gamma), eps)
    y = xh * upcast(xp, gamma)
    y += upcast(xp, beta)
    return downcast_like(y, x), xh, r, None


@operation
def layer_normalization_gradient(
    dy: Array, x: Array, gamma: Array, xh: Array | None, mean: Array | None, r: Array
) -> tuple[Array, Array, Array]:
    """Return the gradients of `x`, `gamma` and beta, of their shapes and the dtype of `x`."""
    xp, axes = namespace(x), _axes(gamma)
    xh, wide = (upcast(xp, x) - mean) * r if xh is None else xh, upcast(xp, dy)
    dx = normalized_rows_gradient(wide * upcast(xp, gamma), xh, r, axes)
    return (
        downcast_like(dx, x),
        downcast_like(_sum(wide * xh, axes), x),
        downcast_like(_sum(wide, axes), x),
    )


class RmsNormalization(Layer):
    """Divide each sample by the root of its mean square over the last axes, ``y = gamma * xh``.

    ``xh = x * r`` with ``r = 1 / sqrt(mean(x**2) + eps)``. Backward:
    ``dgamma = sum(dy * xh)`` over the other axes, ``dx = r * (h - xh * mean(h * xh))`` with
    ``h = gamma * dy``.

    Parameters
    ----------
    gamma : array
        Scale, of the shape of the normalized axes.
    eps : float
        Added to the mean square.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    References
    ----------
    Zhang, Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019, equation 4.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> layer = xl.RmsNormalization.init(2, dtype="float64")
    >>> layer.forward(np.asarray([[3.0, 4.0], [30.0, 40.0]])).round(3)
    array([[0.849, 1.131],
           [0.849, 1.131]])
    """

    gamma, dgamma = Parameter(), Gradient()
    eps = Option(number, least=0)

    def __init__(self, gamma: Array, eps: float = 1e-6) -> None:
        self.gamma, self.eps = gamma, eps

    @classmethod
    def init(
        cls, *shape: int, eps: float = 1e-6, dtype: str = "float32", like: Array = None
    ) -> Self:
        """Make a layer with `gamma` 1 of `shape`; else as in `Affine.init`."""
        shape = _sizes("RmsNormalization", shape)
        return cls(constant("RmsNormalization", 1.0, shape, dtype), eps)._materialize_at(like)

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        _check_last(self, x, self.gamma)
        y, xh, r = rms_normalization(x, arrays["gamma"], self.eps)
        return y, (xh, r, arrays["gamma"], x)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        xh, r, gamma, x = cache
        dx, dgamma = rms_normalization_gradient(dy, x, gamma, xh, r)
        return dx, {"gamma": dgamma}

    @property
    def _sizes(self) -> tuple[int, ...]:
        return self.gamma.shape


@operation
def rms_normalization(x: Array, gamma: Array, eps: float) -> tuple[Any, ...]:
    """Return ``y``, ``xh`` (or None, to be recomputed) and ``r``, as `layer_normalization`."""
    xp = namespace(x)
    xh, r = normalized_rows(upcast(xp, x), _axes(gamma), eps, centred=False)
    return downcast_like(xh * upcast(xp, gamma), x), xh, r


@operation
def rms_normalization_gradient(
    dy: Array, x: Array, gamma: Array, xh: Array | None, r: Array
) -> tuple[Array, Array]:
    """Return the gradients of `x` and `gamma`, of their shapes and the dtype of `x`."""
    xp, axes = namespace(x), _axes(gamma)
    xh, wide = upcast(xp, x) * r if xh is None else xh, upcast(xp, dy)
    dx = normalized_rows_gradient(wide * upcast(xp, gamma), xh, r, axes, centred=False)
    return downcast_like(dx, x), downcast_like(_sum(wide * xh, axes), x)


def _sizes(owner: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Check and return the sizes of the last axes."""
    if not shape:
        message = f"{owner}: there are no sizes; expected those of the last axes of x."
        raise ValueError(message)
    return one_by_one(owner, "shape", shape, f"{owner}.init")


def _check_last(layer: Layer, x: Array, gamma: Array) -> None:
    """Check that the last axes of `x` are those of `gamma`."""
    n, expected = len(gamma.shape), tuple(gamma.shape)
    if len(x.shape) <= n or tuple(x.shape[-n:]) != expected:
        sizes = ", ".join(map(str, expected))
        message = f"{layer}: x has shape {tuple(x.shape)}; expected (..., {sizes})."
        raise ValueError(message)


def _axes(gamma: Array) -> Axes:
    return tuple(range(-len(gamma.shape), 0))


def _sum(a: Array, axes: Axes) -> Array:
    """Return the sum over all axes but the last ones in `axes`."""
    shape = a.shape[len(a.shape) - len(axes) :]
    rows = math.prod(a.shape[: len(a.shape) - len(axes)])
    return column_sums(namespace(a).reshape(a, (rows, *shape)))
