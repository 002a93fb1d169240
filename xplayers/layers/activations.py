"""Activations: the forward, and under it the derivative applied to the upstream gradient.

Forward is the function of the same name in `xplayers.functional`. ReLU selects, so its gradient is
0 wherever its derivative is, even where the upstream gradient is infinite. The other derivatives
are factors, which become 0 only by rounding: there it is NaN, as in PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping

from xplayers import functional
from xplayers._checks import Option, choice, integer, number
from xplayers.arrays.elementwise import elementwise, zero_unless
from xplayers.arrays.namespaces import Array, downcast_like, namespace, upcast
from xplayers.arrays.operation import operation
from xplayers.functional.probabilities import axis_of, softmax_along
from xplayers.layers.base import Cache, Layer


@elementwise
def chain(xp, dy, x, *, derivative, **options):
    """The chain rule, ``dy * f'(x)``, in one pass."""
    return dy * derivative.function(xp, x, **options)


class Relu(Layer):
    """Rectified linear unit, ``y = max(x, 0)``.

    Backward: ``dx = dy * (y > 0)``; the gradient at 0 is 0.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> layer = xl.Relu()
    >>> layer.forward(np.asarray([[-1.0, 0.0, 2.0]]))
    array([[0., 0., 2.]])
    >>> layer.backward(np.ones((1, 3)))
    array([[0., 0., 1.]])
    """

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        y, sign = relu_and_sign(x)
        return y, (sign,)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        (sign,) = cache
        return relu_vjp(dy, sign), {}


@operation
def relu_and_sign(x: Array) -> tuple[Array, Array]:
    """Return ``y = max(x, 0)``, and what tells where it is positive.

    That is `y` itself, which the next layer keeps too. A body may return ``y > 0`` instead.
    """
    y = functional.relu(x)
    return y, y


@elementwise
def relu_vjp(xp, dy, sign):
    """The gradient of `Relu`."""
    return zero_unless(dy, sign if sign.dtype == xp.bool else sign > 0, xp)


class LeakyRelu(Layer):
    """Leaky rectified linear unit, ``y = max(x, 0) + alpha * min(x, 0)``.

    Backward: ``dx = dy * (1 where x > 0 else alpha)``.

    Parameters
    ----------
    alpha : float
        The slope below 0. The default is that of PyTorch and JAX; Keras has 0.3.

    References
    ----------
    Maas, Hannun, Ng, "Rectifier Nonlinearities Improve Neural Network Acoustic Models", 2013,
    equation 3.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> layer = xl.LeakyRelu(alpha=0.1)
    >>> layer.forward(np.asarray([[-1.0, 0.0, 2.0]]))
    array([[-0.1,  0. ,  2. ]])
    >>> layer.backward(np.ones((1, 3)))
    array([[0.1, 0.1, 1. ]])
    """

    alpha = Option(number)

    def __init__(self, alpha: float = 0.01) -> None:
        self.alpha = alpha

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        return functional.leaky_relu(x, alpha=self.alpha), (x,)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        (x,) = cache
        return chain(dy, x, derivative=functional.leaky_relu_derivative, alpha=self.alpha), {}


class Elu(Layer):
    """Exponential linear unit, ``y = max(x, 0) + alpha * (exp(min(x, 0)) - 1)``.

    Backward: ``dx = dy * (1 where x > 0 else alpha * exp(x))``.

    Parameters
    ----------
    alpha : float
        ``-alpha`` is the limit for large negative `x`.

    References
    ----------
    Clevert, Unterthiner, Hochreiter, "Fast and Accurate Deep Network Learning by Exponential
    Linear Units", ICLR 2016, equation 15.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> layer = xl.Elu()
    >>> layer.forward(np.asarray([[-1.0, 0.0, 2.0]])).round(4)
    array([[-0.6321,  0.    ,  2.    ]])
    >>> layer.backward(np.ones((1, 3))).round(4)
    array([[0.3679, 1.    , 1.    ]])
    """

    alpha = Option(number)

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        return functional.elu(x, alpha=self.alpha), (x,)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        (x,) = cache
        return chain(dy, x, derivative=functional.elu_derivative, alpha=self.alpha), {}


class Sigmoid(Layer):
    """Logistic sigmoid, ``y = 1 / (1 + exp(-x))``.

    Backward: ``dx = dy * y * (1 - y)``.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> layer = xl.Sigmoid()
    >>> layer.forward(np.asarray([[-1.0, 0.0, 2.0]])).round(4)
    array([[0.2689, 0.5   , 0.8808]])
    >>> layer.backward(np.ones((1, 3))).round(4)
    array([[0.1966, 0.25  , 0.105 ]])
    """

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        y = functional.sigmoid(x)
        return y, (y,)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        (y,) = cache
        return sigmoid_vjp(dy, y), {}


@elementwise
def sigmoid_vjp(xp, dy, y):
    """The gradient of `Sigmoid`."""
    return dy * (y * (1.0 - y))


class Tanh(Layer):
    """Hyperbolic tangent, ``y = tanh(x)``.

    Backward: ``dx = dy * (1 - y**2)``.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> layer = xl.Tanh()
    >>> layer.forward(np.asarray([[-1.0, 0.0, 2.0]])).round(4)
    array([[-0.7616,  0.    ,  0.964 ]])
    >>> layer.backward(np.ones((1, 3))).round(4)
    array([[0.42  , 1.    , 0.0707]])
    """

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        y = functional.tanh(x)
        return y, (y,)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        (y,) = cache
        return tanh_vjp(dy, y), {}


@elementwise
def tanh_vjp(xp, dy, y):
    """The gradient of `Tanh`."""
    return dy * (1.0 - y * y)


class Softplus(Layer):
    """Smooth rectifier, ``y = log(1 + exp(x))``.

    Backward: ``dx = dy * sigmoid(x)``. PyTorch's has a `beta`, 1 by default, and is ``x`` above 20.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> layer = xl.Softplus()
    >>> layer.forward(np.asarray([[-1.0, 0.0, 2.0]])).round(4)
    array([[0.3133, 0.6931, 2.1269]])
    >>> layer.backward(np.ones((1, 3))).round(4)
    array([[0.2689, 0.5   , 0.8808]])
    """

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        return functional.softplus(x), (x,)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        (x,) = cache
        return chain(dy, x, derivative=functional.softplus_derivative), {}


class Silu(Layer):
    """Sigmoid-weighted linear unit, also called swish, ``y = x * s`` with ``s = sigmoid(x)``.

    Backward: ``dx = dy * s * (1 + x * (1 - s))``.

    References
    ----------
    Elfwing, Uchibe, Doya, "Sigmoid-weighted linear units for neural network function
    approximation in reinforcement learning", Neural Networks 107, 2018, equations 1 and 3.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> layer = xl.Silu()
    >>> layer.forward(np.asarray([[-1.0, 0.0, 2.0]])).round(4)
    array([[-0.2689,  0.    ,  1.7616]])
    >>> layer.backward(np.ones((1, 3))).round(4)
    array([[0.0723, 0.5   , 1.0908]])
    """

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        return functional.silu(x), (x,)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        (x,) = cache
        return chain(dy, x, derivative=functional.silu_derivative), {}


class Gelu(Layer):
    """Gaussian error linear unit, ``y = x * P(Z <= x)`` for a standard normal ``Z``.

    Backward: ``dx = dy * (P(Z <= x) + x * exp(-x**2 / 2) / sqrt(2 * pi))``, or the derivative of
    the approximation.

    Parameters
    ----------
    approximate : {"tanh", "none"}
        The tanh form of the paper, as JAX has it by default, or the exact function, which is the
        default of PyTorch and Keras. They differ by at most 5e-4.

    Raises
    ------
    ValueError
        If `approximate` is neither of the two.

    References
    ----------
    Hendrycks, Gimpel, "Gaussian Error Linear Units (GELUs)", arXiv:1606.08415, equation 2.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> layer = xl.Gelu()
    >>> layer.forward(np.asarray([[-1.0, 0.0, 2.0]])).round(4)
    array([[-0.1588,  0.    ,  1.9546]])
    >>> layer.backward(np.ones((1, 3))).round(4)
    array([[-0.083 ,  0.5   ,  1.0861]])
    """

    approximate = Option(choice, choices=("tanh", "none"))

    def __init__(self, approximate: str = "tanh") -> None:
        self.approximate = approximate

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        return functional.gelu(x, approximate=self.approximate), (x,)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        (x,) = cache
        return (
            chain(dy, x, derivative=functional.gelu_derivative, approximate=self.approximate),
            {},
        )


class Softmax(Layer):
    """Softmax, ``y = exp(x) / sum(exp(x))`` along an axis.

    Backward: ``dx = y * (dy - sum(dy * y))``. In front of a cross entropy use `SoftmaxWithLoss`
    instead, which is exact where this loses digits.

    Parameters
    ----------
    axis : int
        The axis along which the results add up to 1.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> layer = xl.Softmax()
    >>> layer.forward(np.asarray([[0.3, 2.9, 4.0]])).round(4)
    array([[0.0182, 0.2452, 0.7366]])
    >>> layer.backward(np.asarray([[0.0, 0.0, 1.0]])).round(4)
    array([[-0.0134, -0.1806,  0.194 ]])
    """

    axis = Option(integer, least=None)

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        y = softmax_along(x, axis_of("softmax", x, self.axis))
        return y, (y,)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        (y,) = cache
        return softmax_gradient(dy, y, self.axis), {}


@operation
def softmax_gradient(dy: Array, y: Array, axis: int) -> Array:
    """Return ``y * (dy - sum(dy * y))``, the sum along an axis."""
    xp = namespace(y)
    wide = upcast(xp, dy)
    dx = y * (wide - xp.sum(wide * y, axis=axis, keepdims=True))
    return downcast_like(dx, y)


def activation_named(name: str) -> str:
    """Return the class of the activation called `name`, as ``relu``; '' if there is none."""
    classes = {"swish": "Silu", "leakyrelu": "LeakyRelu"}
    for kind in Layer.__subclasses__():
        if kind.__module__ == __name__:
            classes[kind.__name__.lower()] = kind.__name__
    return classes.get(name.lower().replace("_", ""), "")
