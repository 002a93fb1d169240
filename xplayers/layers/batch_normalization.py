"""Batch normalization and group normalization."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from xplayers._checks import Option, integer, number
from xplayers.arrays.namespaces import Array, downcast_like, namespace, upcast
from xplayers.arrays.operation import operation
from xplayers.arrays.products import channel_products, channel_sums
from xplayers.initializers import constant, documented
from xplayers.layers.base import Cache, Layer
from xplayers.layers.normalization import (
    check_pair,
    normalized_channels,
    normalized_rows,
    normalized_rows_gradient,
)
from xplayers.layers.variables import Buffer, Gradient, Parameter


class BatchNormalization(Layer):
    """Normalize each feature, or each channel, over the batch, ``y = gamma * xh + beta``.

    In training ``xh = (x - mean) / sqrt(var + eps)`` with mean and variance of the batch; in
    inference with the running statistics. Backward: ``dbeta = sum(dy)``,
    ``dgamma = sum(dy * xh)``, ``dx = r * (h - mean(h) - xh * mean(h * xh))`` with
    ``h = gamma * dy`` and ``r = 1 / sqrt(var + eps)``; sums and means over all axes but axis 1.

    Parameters
    ----------
    gamma, beta : array of shape (n_features,)
        Scale and shift of each feature (axis 1 of the input).
    momentum : float
        Decay of the running statistics:
        ``running = momentum * running + (1 - momentum) * batch``.
    eps : float
        Added to the variance.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Notes
    -----
    Input ``(n, n_features)`` or ``(n, n_features, ...)``. The buffers `running_mean` and
    `running_var` start at 0 and 1, and every training forward updates them. Libraries differ: the
    momentum of PyTorch is ``1 - momentum`` and its running variance divides by ``n - 1``; here, as
    in the book, Keras and ONNX, it is the biased one. The book's eps is 1e-6, and its statistics
    of images are per pixel. An empty batch leaves the statistics unchanged.

    References
    ----------
    Ioffe, Szegedy, "Batch Normalization", ICML 2015, algorithms 1 and 2.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> layer = xl.BatchNormalization.init(2, dtype="float64")
    >>> x = np.asarray([[1.0, 10.0], [3.0, 30.0]])
    >>> layer.forward(x).round(3)
    array([[-1., -1.],
           [ 1.,  1.]])
    >>> layer.running_mean
    array([0.2, 2. ])
    >>> layer.predict(x).round(3)
    array([[0.8  , 2.423],
           [2.8  , 8.481]])
    """

    gamma, dgamma = Parameter(), Gradient()
    beta, dbeta = Parameter(), Gradient()
    running_mean, running_var = Buffer(), Buffer()
    momentum = Option(number, least=0, most=1)
    eps = Option(number, least=0, hint="Running statistics: layer.running_mean = array.")

    def __init__(self, gamma: Array, beta: Array, momentum: float = 0.9, eps: float = 1e-5) -> None:
        self.gamma, self.beta, self.momentum, self.eps = gamma, beta, momentum, eps
        _check_vector("BatchNormalization", gamma)
        check_pair("BatchNormalization", gamma, beta)
        xp = namespace(gamma)
        wide = upcast(xp, gamma)
        self.running_mean, self.running_var = xp.zeros_like(wide), xp.ones_like(wide)

    @classmethod
    @documented
    def init(
        cls,
        n_features: int,
        *,
        momentum: float = 0.9,
        eps: float = 1e-5,
        dtype: str = "float32",
        like: Array = None,
    ) -> Self:
        """Make a layer with `gamma` 1 and `beta` 0.

        Parameters
        ----------
        n_features : int
            Features or channels.
        momentum, eps : float
            As in `BatchNormalization`.
        dtype, like
            As in every `init`.
        """
        n_features = integer("BatchNormalization", "n_features", n_features)
        ones = constant("BatchNormalization", 1.0, n_features, dtype)
        return cls(ones, np.zeros_like(ones), momentum, eps)._materialize_at(like)

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        self._column(x)
        gamma = arrays["gamma"]
        y, xh, r, mean, var = batch_normalization(x, gamma, arrays["beta"], self.eps)
        return y, (xh, r, gamma, x, mean, var)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        xh, r, gamma, x, mean, _ = cache
        dx, dgamma, dbeta = batch_normalization_gradient(dy, x, gamma, xh, mean, r)
        return dx, {"gamma": dgamma, "beta": dbeta}

    def infer(self, arrays: Mapping[str, Array], x: Array) -> Array:
        xp, column = namespace(x), self._column(x)
        r = 1.0 / xp.sqrt(upcast(xp, arrays["running_var"]) + self.eps)
        scale = upcast(xp, arrays["gamma"]) * r
        shift = upcast(xp, arrays["beta"]) - upcast(xp, arrays["running_mean"]) * scale
        y = upcast(xp, x) * xp.reshape(scale, column)
        y += xp.reshape(shift, column)
        return downcast_like(y, x)

    def updated_buffers(self, arrays: Mapping[str, Array], cache: Cache) -> dict[str, Array]:
        *_, x, mean, var = cache
        if 0 in x.shape:
            return {}
        xp, m, updated = namespace(x), self.momentum, {}
        for name, batch in (("running_mean", mean), ("running_var", var)):
            old = arrays[name]
            new = m * old + (1.0 - m) * xp.reshape(batch, old.shape)
            updated[name] = xp.astype(new, old.dtype, copy=False)
        return updated

    def _column(self, x: Array) -> tuple[int, ...]:
        """Check `x`, and return the shape in which features broadcast to it."""
        shape, n_features = tuple(x.shape), self.gamma.shape[0]
        if len(shape) < 2 or shape[1] != n_features:
            message = (
                f"{self}: x has shape {shape}; "
                f"expected (n, {n_features}) or (n, {n_features}, ...)."
            )
            raise ValueError(message)
        return _column(shape)

    @property
    def _sizes(self) -> tuple[int, ...]:
        return self.gamma.shape


@operation
def batch_normalization(x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Any, ...]:
    """Return ``y``, ``xh`` (or None, to be recomputed), ``r``, mean and variance of channels.

    `x` is ``(n, c, ...)``, and so is ``y``, in its dtype; ``xh``, and the others ``(1, c, 1,
    ...)``, are in at least float32.
    """
    xp, column = namespace(x), _column(x.shape)
    xh, r, mean, var = normalized_channels(upcast(xp, x), eps)
    y = xh * xp.reshape(upcast(xp, gamma), column)
    y += xp.reshape(upcast(xp, beta), column)
    return downcast_like(y, x), xh, r, mean, var


@operation
def batch_normalization_gradient(
    dy: Array, x: Array, gamma: Array, xh: Array | None, mean: Array, r: Array
) -> tuple[Array, Array, Array]:
    """Return the gradients of `x`, `gamma` and beta, of their shapes and the dtype of `x`.

    The means of h and h * xh are ``gamma / n`` times dbeta and dgamma, so h is not needed:
    ``dx = gamma * r * (dy - dbeta / n - xh * dgamma / n)``.
    """
    xp, column, wide = namespace(x), _column(x.shape), upcast(namespace(x), dy)
    xh = (upcast(xp, x) - mean) * r if xh is None else xh
    dgamma, dbeta = channel_products(wide, xh), channel_sums(wide)
    n = max(math.prod(x.shape) // max(x.shape[1], 1), 1)
    dx = xh * xp.reshape(dgamma / n, column)
    dx += xp.reshape(dbeta / n, column)
    dx -= wide
    dx *= -(xp.reshape(upcast(xp, gamma), column) * r)
    return downcast_like(dx, x), downcast_like(dgamma, x), downcast_like(dbeta, x)


class GroupNormalization(Layer):
    """Normalize each sample over groups of its channels, ``y = gamma * xh + beta``.

    ``xh = (x - mean) / sqrt(var + eps)`` over the channels of a group and all axes after them.
    Backward: ``dbeta = sum(dy)`` and ``dgamma = sum(dy * xh)`` for each channel,
    ``dx = r * (h - mean(h) - xh * mean(h * xh))`` with ``h = gamma * dy``.

    Parameters
    ----------
    gamma, beta : array of shape (n_channels,)
        Scale and shift of each channel (axis 1 of the input).
    groups : int
        Number of groups; a divisor of the channels. 1 is a layer normalization over all channels,
        ``n_channels`` is instance normalization.
    eps : float
        Added to the variance.

    Raises
    ------
    ValueError
        If the shapes do not fit, or the groups do not divide the channels.

    References
    ----------
    Wu, He, "Group Normalization", ECCV 2018, equations 1, 2 and 7.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> layer = xl.GroupNormalization.init(4, groups=2, dtype="float64")
    >>> x = np.asarray([[1.0, 3.0, 10.0, 30.0]])
    >>> layer.forward(x.reshape(1, 4, 1)).reshape(1, 4).round(3)
    array([[-1.,  1., -1.,  1.]])
    """

    gamma, dgamma = Parameter(), Gradient()
    beta, dbeta = Parameter(), Gradient()
    groups, eps = Option(integer, least=None), Option(number, least=0)

    def __init__(self, gamma: Array, beta: Array, groups: int, eps: float = 1e-5) -> None:
        self.gamma, self.beta, self.groups, self.eps = gamma, beta, groups, eps
        _check_vector("GroupNormalization", gamma)
        check_pair("GroupNormalization", gamma, beta)
        if self.groups < 1 or gamma.shape[0] % self.groups:
            message = (
                f"GroupNormalization: {groups} groups do not divide {gamma.shape[0]} channels."
            )
            raise ValueError(message)

    @classmethod
    def init(
        cls,
        n_channels: int,
        groups: int,
        *,
        eps: float = 1e-5,
        dtype: str = "float32",
        like: Array = None,
    ) -> Self:
        """Make a layer with `gamma` 1 and `beta` 0; the rest as in `Affine.init`."""
        n_channels = integer("GroupNormalization", "n_channels", n_channels)
        ones = constant("GroupNormalization", 1.0, n_channels, dtype)
        return cls(ones, np.zeros_like(ones), groups, eps)._materialize_at(like)

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        shape, channels = tuple(x.shape), self.gamma.shape[0]
        if len(shape) < 2 or shape[1] != channels:
            message = f"{self}: x has shape {shape}; expected (n, {channels}, ...)."
            raise ValueError(message)
        gamma = arrays["gamma"]
        y, xh, r, mean = group_normalization(x, gamma, arrays["beta"], self.groups, self.eps)
        return y, (xh, r, gamma, x, mean)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        xh, r, gamma, x, mean = cache
        dx, dgamma, dbeta = group_normalization_gradient(dy, x, gamma, xh, mean, r)
        return dx, {"gamma": dgamma, "beta": dbeta}

    @property
    def _sizes(self) -> tuple[int, ...]:
        return self.gamma.shape[0], self.groups


@operation
def group_normalization(
    x: Array, gamma: Array, beta: Array, groups: int, eps: float
) -> tuple[Any, ...]:
    """Return ``y``, ``xh``, ``r`` and the mean of each group; ``xh`` or the mean may be None.

    `x` is ``(n, c, ...)``, and so is ``y``, in its dtype; the others are in at least float32.
    """
    xp, column = namespace(x), _column(x.shape)
    xh, r = normalized_rows(_grouped(upcast(xp, x), groups), (-1,), eps)
    y = xp.reshape(xh, x.shape) * xp.reshape(upcast(xp, gamma), column)
    y += xp.reshape(upcast(xp, beta), column)
    return downcast_like(y, x), xh, r, None


@operation
def group_normalization_gradient(
    dy: Array, x: Array, gamma: Array, xh: Array | None, mean: Array | None, r: Array
) -> tuple[Array, Array, Array]:
    """Return the gradients of `x`, `gamma` and beta, of their shapes and the dtype of `x`."""
    xp, groups, wide = namespace(x), r.shape[1], upcast(namespace(x), dy)
    xh = (_grouped(upcast(xp, x), groups) - mean) * r if xh is None else xh
    h = _grouped(wide * xp.reshape(upcast(xp, gamma), _column(x.shape)), groups)
    dx = xp.reshape(normalized_rows_gradient(h, xh, r, (-1,)), x.shape)
    dgamma, dbeta = channel_products(wide, xp.reshape(xh, x.shape)), channel_sums(wide)
    return downcast_like(dx, x), downcast_like(dgamma, x), downcast_like(dbeta, x)


def _grouped(x: Array, groups: int) -> Array:
    return namespace(x).reshape(x, (x.shape[0], groups, math.prod(x.shape[1:]) // groups))


def _check_vector(name: str, gamma: Array) -> None:
    if len(gamma.shape) != 1:
        message = f"{name}: gamma has shape {tuple(gamma.shape)}; expected (n_features,)."
        raise ValueError(message)


def _column(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1, shape[1], *(1 for _ in shape[2:]))
