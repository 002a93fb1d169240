"""The affine (fully connected, dense, linear) layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Self

import numpy as np

from xplayers._checks import Option, flag, integer
from xplayers.arrays.checks import check_parameter
from xplayers.arrays.namespaces import Array, namespace
from xplayers.arrays.products import product, product_and_sums
from xplayers.initializers import Initializer, Rng, documented, drawn, he_normal
from xplayers.layers.base import Cache, Layer
from xplayers.layers.variables import Gradient, Parameter


class Affine(Layer):
    """Affine map, ``y = x @ W + b``.

    Backward: ``dx = dy @ W.T``, ``dW = x.T @ dy``, ``db = sum(dy, axis=0)``.

    Parameters
    ----------
    W : array of shape (n_in, n_out)
        Weights; one row per input, as in *Deep Learning from Scratch* (the transpose of PyTorch's).
    b : array of shape (n_out,), optional
        Bias, of the library, device and dtype of `W`; None: no bias.
    flatten : bool
        True: `x` of any shape ``(n, ...)`` is flattened to ``(n, n_in)``, as in the book; the
        gradient has the shape of `x`. False: the layer acts on the last axis of `x`, of shape
        ``(..., n_in)``, for sequences (and as in PyTorch and Keras).

    Raises
    ------
    ValueError
        If the shapes of `W` and `b`, or later of `x`, do not fit.
    TypeError
        If the arrays are of different libraries, devices or dtypes.

    See Also
    --------
    Affine.init : creates `W` and `b`.

    Examples
    --------
    >>> import numpy as np
    >>> layer = Affine(np.asarray([[1.0, 2.0], [3.0, 4.0]]), np.asarray([10.0, 20.0]))
    >>> layer.forward(np.asarray([[1.0, 1.0]]))
    array([[14., 26.]])
    >>> layer.backward(np.asarray([[1.0, 0.0]]))
    array([[1., 3.]])
    >>> layer.dW
    array([[1., 0.],
           [1., 0.]])
    """

    W, dW = Parameter(), Gradient()
    b, db = Parameter(), Gradient()
    flatten = Option(flag)

    def __init__(self, W: Array, b: Array | None = None, flatten: bool = True) -> None:
        self.W, self.b, self.flatten = W, b, flatten
        if len(W.shape) != 2:
            message = f"Affine: W has shape {tuple(W.shape)}; expected (n_in, n_out)."
            raise ValueError(message)
        if b is not None:
            check_parameter("Affine", "b", b, W, "W", (W.shape[1],), " for W")

    @classmethod
    @documented
    def init(
        cls,
        n_in: int,
        n_out: int,
        *,
        bias: bool = True,
        initializer: Initializer = he_normal,
        flatten: bool = True,
        rng: Rng = None,
        dtype: str = "float32",
        like: Array = None,
    ) -> Self:
        """Make a layer with initial values: `W` from `initializer`, `b` zero.

        Parameters
        ----------
        n_in, n_out : int
            Sizes.
        bias : bool
            Whether there is a bias.
        flatten : bool
            As in `Affine`.
        initializer, rng, dtype, like
            As in every `init`.
        """
        shape = integer("Affine", "n_in", n_in), integer("Affine", "n_out", n_out)
        W = drawn("Affine", initializer, shape, rng, dtype)
        b = np.zeros_like(W[0]) if flag("Affine", "bias", bias) else None
        return cls(W, b, flatten)._materialize_at(like)

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        W = arrays["W"]
        y = product(self._as_matrix(x, W), W, arrays.get("b"))
        if not self.flatten and len(x.shape) > 2:
            y = namespace(x).reshape(y, (*x.shape[:-1], W.shape[1]))
        return y, (x, W)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        x, W = cache
        dx = product(as_matrix(dy), W.mT)
        if len(x.shape) > 2:
            dx = namespace(x).reshape(dx, x.shape)
        return dx, self.param_grads(cache, dy)

    def param_grads(self, cache: Cache, dy: Array) -> dict[str, Array]:
        x, W = cache
        if self.b is None:
            return {"W": product(self._as_matrix(x, W).mT, as_matrix(dy))}
        dW, db = product_and_sums(self._as_matrix(x, W).mT, as_matrix(dy))
        return {"W": dW, "b": db}

    def _as_matrix(self, x: Array, W: Array) -> Array:
        """Return `x` as a matrix ``(n, n_in)``."""
        shape, n_in = x.shape, W.shape[0]
        if len(shape) == 2 and shape[1] == n_in:
            return x
        split = 1 if self.flatten else -1  # samples before, features after
        if len(shape) < 2 or math.prod(shape[split:]) != n_in:
            raise ValueError(self._shape_error(shape))
        return namespace(x).reshape(x, (math.prod(shape[:split]), n_in))

    def _shape_error(self, shape: tuple[int, ...]) -> str:
        expected = f"(n, {self.W.shape[0]})" if self.flatten else f"(..., {self.W.shape[0]})"
        got = f"x has shape {tuple(shape)}"
        if len(shape) < 2:
            return f"{self}: {got}; expected {expected}. A single sample is x[None, :]."
        if self.flatten and len(shape) > 2:
            got += f", which flattens to {(shape[0], math.prod(shape[1:]))}"
        return f"{self}: {got}; expected {expected}."

    @property
    def _sizes(self) -> tuple[int, ...]:
        return self.W.shape

    def __str__(self) -> str:
        return "Affine({} -> {})".format(*self._sizes)


def as_matrix(dy: Array) -> Array:
    """Return `dy` as a matrix; the last axis is kept."""
    if len(dy.shape) == 2:
        return dy
    return namespace(dy).reshape(dy, (math.prod(dy.shape[:-1]), dy.shape[-1]))
