"""Normalization of each sample over its last axes: by mean and variance, or by the mean square."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Self

import numpy as np

from xplayers._arrays import Array, namespace, widened
from xplayers._checks import Option, number, one_by_one
from xplayers._sums import column_sums
from xplayers.initializers import constant
from xplayers.layers.base import Cache, Layer
from xplayers.layers.normalizing import (
    Axes,
    as_like,
    asked,
    check_pair,
    code,
    named_grads,
    normalized_rows,
    normalized_vjp,
)
from xplayers.layers.stores import Gradient, Parameter


class LayerNormalization(Layer):
    """Normalize each sample over its last axes, ``y = gamma * xh + beta``.

    ``xh = (x - mean) / sqrt(var + eps)`` over the last axes, those of `gamma`. Backward:
    ``dbeta = sum(dy)`` and ``dgamma = sum(dy * xh)`` over the other axes,
    ``dx = r * (h - mean(h) - xh * mean(h * xh))`` with ``h = gamma * dy``.

    Parameters
    ----------
    gamma, beta : array
        Scale and shift, of the shape of the axes that are normalized: ``(n_features,)``, or more.
    eps : float
        Added to the variance.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    References
    ----------
    Ba, Kiros, Hinton, "Layer Normalization", arXiv:1607.06450, equation 3.
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
        """Make a layer with `gamma` 1 and `beta` 0 of `shape`; the rest as in `Affine.init`."""
        ones = constant("LayerNormalization", 1.0, _sizes("LayerNormalization", shape), dtype)
        return cls(ones, np.zeros_like(ones), eps)._follow(like)

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        xp, axes = namespace(x), _last_axes(self, x, self.gamma)
        gamma, beta = arrays["gamma"], arrays["beta"]
        found = asked("layer_normalization", x, x, gamma, beta, self.eps)
        if found is not None:
            y, *statistics = found
            r, mean = (xp.reshape(a, _rows_of(x, axes)) for a in statistics)
            return y, (None, r, gamma, x, mean)  # without xh, which that body does not keep
        xh, r = normalized_rows(xp, widened(xp, x), axes, self.eps)
        gamma = widened(xp, gamma)
        y = xh * gamma
        y += widened(xp, beta)
        return as_like(y, x), (xh, r, gamma, x, None)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        xh, r, gamma, x, mean = cache
        xp, axes = namespace(x), _last_axes(self, x, gamma)
        if xh is None:
            grads = asked("layer_normalization_grads", x, dy, x, gamma, mean, r)
            if grads is not None:
                return named_grads(grads)
            xh, gamma = (widened(xp, x) - mean) * r, widened(xp, gamma)
        wide = widened(xp, dy)
        dx = normalized_vjp(xp, wide * gamma, xh, r, axes)
        grads = {"gamma": _sum(wide * xh, axes), "beta": _sum(wide, axes)}
        return as_like(dx, x), {name: as_like(g, x) for name, g in grads.items()}

    def __str__(self) -> str:
        return f"LayerNormalization({_shown(self.gamma)})"

    def __repr__(self) -> str:
        return code("LayerNormalization", _shown(self.gamma), self, eps=1e-5)


class RmsNormalization(Layer):
    """Divide each sample by the root of its mean square over the last axes, ``y = gamma * xh``.

    ``xh = x * r`` with ``r = 1 / sqrt(mean(x**2) + eps)``. Backward:
    ``dgamma = sum(dy * xh)`` over the other axes, ``dx = r * (h - xh * mean(h * xh))`` with
    ``h = gamma * dy``.

    Parameters
    ----------
    gamma : array
        Scale, of the shape of the axes that are normalized.
    eps : float
        Added to the mean square.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    References
    ----------
    Zhang, Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019, equation 4.
    """

    gamma, dgamma = Parameter(), Gradient()
    eps = Option(number, least=0)

    def __init__(self, gamma: Array, eps: float = 1e-6) -> None:
        self.gamma, self.eps = gamma, eps

    @classmethod
    def init(
        cls, *shape: int, eps: float = 1e-6, dtype: str = "float32", like: Array = None
    ) -> Self:
        """Make a layer with `gamma` 1 of `shape`; the rest as in `Affine.init`."""
        shape = _sizes("RmsNormalization", shape)
        return cls(constant("RmsNormalization", 1.0, shape, dtype), eps)._follow(like)

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        xp, axes = namespace(x), _last_axes(self, x, self.gamma)
        gamma = arrays["gamma"]
        found = asked("rms_normalization", x, x, gamma, self.eps)
        if found is not None:
            y, r = found
            return y, (None, xp.reshape(r, _rows_of(x, axes)), gamma, x)
        wide, gamma = widened(xp, x), widened(xp, gamma)
        xh, r = normalized_rows(xp, wide, axes, self.eps, centred=False)
        return as_like(xh * gamma, x), (xh, r, gamma, x)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        xh, r, gamma, x = cache
        xp, axes = namespace(x), _last_axes(self, x, gamma)
        if xh is None:
            grads = asked("rms_normalization_grads", x, dy, x, gamma, r)
            if grads is not None:
                return named_grads(grads)
            xh, gamma = widened(xp, x) * r, widened(xp, gamma)
        wide = widened(xp, dy)
        dx = normalized_vjp(xp, wide * gamma, xh, r, axes, centred=False)
        return as_like(dx, x), {"gamma": as_like(_sum(wide * xh, axes), x)}

    def __str__(self) -> str:
        return f"RmsNormalization({_shown(self.gamma)})"

    def __repr__(self) -> str:
        return code("RmsNormalization", _shown(self.gamma), self, eps=1e-6)


def _sizes(owner: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the sizes of the last axes, checked."""
    if not shape:
        message = f"{owner}: there are no sizes; expected those of the last axes of x."
        raise ValueError(message)
    return one_by_one(owner, "shape", shape, f"{owner}.init")


def _last_axes(layer: Layer, x: Array, gamma: Array) -> Axes:
    """Return the axes of `x` that `gamma` has."""
    n, expected = len(gamma.shape), tuple(gamma.shape)
    if len(x.shape) <= n or tuple(x.shape[-n:]) != expected:
        shown = ", ".join(map(str, expected))
        message = f"{layer}: x has shape {tuple(x.shape)}; expected (..., {shown})."
        raise ValueError(message)
    return tuple(range(-n, 0))


def _sum(a: Array, axes: Axes) -> Array:
    """Return the sum over all but the last `axes`."""
    shape = a.shape[len(a.shape) - len(axes) :]
    rows = math.prod(a.shape[: len(a.shape) - len(axes)])
    return column_sums(namespace(a).reshape(a, (rows, *shape)))


def _rows_of(x: Array, axes: Axes) -> tuple[int, ...]:
    """Return the shape of statistics over the last `axes`, which are kept."""
    return (*x.shape[: len(x.shape) - len(axes)], *(1 for _ in axes))


def _shown(gamma: Array) -> str:
    return ", ".join(map(str, gamma.shape))
