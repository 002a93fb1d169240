"""Pure functions of arrays: the result is a new array of the same dtype.

Every function takes arrays of any shape and any library. The layers of the same names name sources.
"""

from __future__ import annotations

import math
from typing import Any

from xplayers._checks import choice, integer
from xplayers._foreign import missing_function
from xplayers.arrays.checks import (
    check_floating,
    check_real,
    check_same,
    check_values,
    out_of_range,
)
from xplayers.arrays.elementwise import elementwise
from xplayers.arrays.namespaces import (
    Array,
    Namespace,
    downcast_like,
    dtype_name,
    is_integer,
    namespace,
    on_host,
    upcast,
)
from xplayers.arrays.operation import operation
from xplayers.arrays.values import host_values
from xplayers.arrays.writing import writable

__all__ = [
    "cross_entropy_error", "elu", "elu_derivative", "gelu", "gelu_derivative", "leaky_relu",
    "leaky_relu_derivative", "log_softmax", "relu", "relu_derivative", "sigmoid",
    "sigmoid_derivative", "silu", "silu_derivative", "softmax", "softplus", "softplus_derivative",
    "tanh", "tanh_derivative",
]  # fmt: skip
__getattr__ = missing_function  # which raises

# The largest arguments of exp: exp(x) overflows in float16 above 11.09, in float32 (and bfloat16,
# with the same range) above 88.72, in float64 above 709.78. There a sigmoid rounds to 1.
_LARGEST_EXPONENT = {"float16": 11.0, "float64": 709.0}
# Below -1000, x * sigmoid(x) is 0 in every dtype; minus infinity times 0 would be NaN.
SIGMOID_END = 1000.0


@elementwise(integers=True)
def relu(xp, x):
    """Rectified linear unit, ``y = max(x, 0)``.

    Parameters
    ----------
    x : array
        Any shape, any real dtype.

    Returns
    -------
    array
        A new array of the shape and dtype of `x`. NaN stays NaN. For -0.0 the sign of the zero is
        unspecified, as for ``max(-0.0, 0.0)``: in PyTorch it depends on the alignment in memory.

    Examples
    --------
    >>> import numpy as np
    >>> relu(np.asarray([5, 1, -4, 0]))
    array([5, 1, 0, 0])
    """
    return xp.maximum(x, 0)


@elementwise(integers=True)
def relu_derivative(xp, x):
    """Derivative of `relu`, ``1 where x > 0 else 0``.

    At 0, where ReLU is not differentiable, it is 0, as in the layer `Relu` and in PyTorch, JAX and
    Keras (``relu_grad`` of *Deep Learning from Scratch* has 1 there, its layer 0).

    Parameters
    ----------
    x : array
        Any shape, any real dtype: the input of ReLU, or its output, which has the same sign.

    Returns
    -------
    array
        A new array of the shape and dtype of `x`; `x` is not changed.

    Examples
    --------
    >>> import numpy as np
    >>> y = relu(np.asarray([5.0, 1.0, -4.0, 0.0]))
    >>> relu_derivative(y)
    array([1., 1., 0., 0.])
    >>> y
    array([5., 1., 0., 0.])
    """
    return xp.astype(x > 0, x.dtype)


@elementwise
def leaky_relu(xp, x, *, alpha=0.01):
    """Leaky rectified linear unit, ``y = max(x, 0) + alpha * min(x, 0)``.

    Parameters
    ----------
    x : array
        Any shape, floating-point.
    alpha : float
        The slope below 0.

    Returns
    -------
    array
        Shape and dtype of `x`.
    """
    if alpha == 0.0:
        return xp.maximum(x, 0.0)  # 0 times minus infinity would be NaN
    return xp.maximum(x, 0.0) + alpha * xp.minimum(x, 0.0)


@elementwise
def leaky_relu_derivative(xp, x, *, alpha=0.01):
    """Derivative of `leaky_relu`, ``1 where x > 0 else alpha``."""
    return alpha + (1.0 - alpha) * xp.astype(x > 0, x.dtype)


@elementwise
def elu(xp, x, *, alpha=1.0):
    """Exponential linear unit, ``y = max(x, 0) + alpha * (exp(min(x, 0)) - 1)``.

    Clevert, Unterthiner, Hochreiter, ICLR 2016, equation 15.

    Parameters
    ----------
    x : array
        Any shape, floating-point.
    alpha : float
        ``-alpha`` is the limit for large negative `x`.

    Returns
    -------
    array
        Shape and dtype of `x`.
    """
    return xp.maximum(x, 0.0) + alpha * xp.expm1(xp.minimum(x, 0.0))


@elementwise
def elu_derivative(xp, x, *, alpha=1.0):
    """Derivative of `elu`, ``1 where x > 0 else alpha * exp(x)``."""
    positive = xp.astype(x > 0, x.dtype)
    return positive + (1.0 - positive) * (alpha * xp.exp(xp.minimum(x, 0.0)))


@elementwise
def sigmoid(xp, x):
    """Logistic sigmoid, ``y = 1 / (1 + exp(-x))``.

    Parameters
    ----------
    x : array
        Any shape, floating-point.

    Returns
    -------
    array
        Shape and dtype of `x`.

    Notes
    -----
    Computed as ``e / (1 + e)`` with ``e = exp(x)``, where `x` is clipped so that ``exp`` does not
    overflow. So no `x` causes a warning, and the relative error is that of ``exp`` wherever the
    result is a normal number. The form ``tanh(x / 2) / 2 + 1 / 2``, which some libraries use, has
    no correct digit below x = -17 in float32.
    """
    e = xp.exp(xp.minimum(x, _largest_exponent(x)))
    return e / (1.0 + e)


def _largest_exponent(x):
    return _LARGEST_EXPONENT.get(dtype_name(x.dtype), 88.0)


@elementwise
def sigmoid_derivative(xp, x):
    """Derivative of `sigmoid` at `x`, ``s * (1 - s)`` with ``s = sigmoid(x)``.

    Takes the input of the sigmoid. If its output ``y`` is known, ``y * (1 - y)`` is the same and
    needs no exponential, as in the layer `Sigmoid`.
    """
    # The function is even, and e / (1 + e)^2 with e = exp(-|x|) does not cancel for large x.
    e = xp.exp(-xp.abs(x))
    root = 1.0 + e
    return e / (root * root)


@elementwise
def tanh(xp, x):
    """Hyperbolic tangent, ``y = tanh(x)``."""
    return xp.tanh(x)


@elementwise
def tanh_derivative(xp, x):
    """Derivative of `tanh` at `x`, ``1 - tanh(x) ** 2``."""
    y = xp.tanh(x)
    return 1.0 - y * y


@elementwise
def softplus(xp, x):
    """Smooth rectifier, ``y = log(1 + exp(x))``, computed as ``max(x, 0) + log1p(exp(-abs(x)))``.

    The same as in PyTorch with ``beta=1``, which returns ``x`` above a threshold of 20.
    """
    return xp.maximum(x, 0.0) + xp.log1p(xp.exp(-xp.abs(x)))


@elementwise
def softplus_derivative(xp, x):
    """Derivative of `softplus`: the logistic sigmoid of `x`."""
    return sigmoid.function(xp, x)


@elementwise
def silu(xp, x):
    """Sigmoid-weighted linear unit, swish (Elfwing et al. 2018, eq. 1), ``y = x * sigmoid(x)``."""
    return xp.maximum(x, -SIGMOID_END) * sigmoid.function(xp, x)


@elementwise
def silu_derivative(xp, x):
    """Derivative of `silu`, ``s * (1 + x * (1 - s))`` with ``s = sigmoid(x)``."""
    largest = _largest_exponent(x)
    e = xp.exp(xp.minimum(x, largest))
    root = 1.0 + e  # 1 - s = 1 / root
    x = xp.minimum(xp.maximum(x, -SIGMOID_END), largest)
    return (e / root) * (1.0 + x / root)


@elementwise
def gelu(xp, x, *, approximate="tanh"):
    """Gaussian error linear unit (arXiv:1606.08415, eq. 2), ``y = x * P(Z <= x)``, Z ~ N(0, 1).

    Parameters
    ----------
    x : array
        Any shape, floating-point.
    approximate : {"tanh", "none"}
        ``"tanh"``: ``x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))``, within 5e-4 of the
        exact function and several times cheaper; as in JAX by default. ``"none"``: the exact
        function, as in PyTorch and Keras by default.

    Returns
    -------
    array
        Shape and dtype of `x`.

    Raises
    ------
    ValueError
        If `approximate` is neither of the two.
    """
    if gelu_by_tanh(approximate):
        x = xp.maximum(x, -GELU_END)  # minus infinity times 0 would be NaN
        c = xp.minimum(x, GELU_END)
        return 0.5 * x * (1.0 + xp.tanh(c * (_GELU_A + _GELU_B * (c * c))))
    # max(x, 0) - |x| P(Z > |x|): no cancellation in the tail
    a = xp.minimum(xp.abs(x), NORMAL_END)
    return xp.maximum(x, 0.0) - a * _upper_tail(xp, a)


@elementwise
def gelu_derivative(xp, x, *, approximate="tanh"):
    """Derivative of `gelu`: exactly ``P(Z <= x) + x * exp(-x**2 / 2) / sqrt(2 * pi)``."""
    if gelu_by_tanh(approximate):
        x = xp.minimum(xp.maximum(x, -GELU_END), GELU_END)  # 0 or 1 outside; avoids overflow
        square = x * x
        t = xp.tanh(x * (_GELU_A + _GELU_B * square))
        return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * (_GELU_A + 3.0 * _GELU_B * square)
    # P(Z <= x) is the tail of -|x|, or 1 minus it
    x = xp.minimum(xp.maximum(x, -NORMAL_END), NORMAL_END)
    tail = _upper_tail(xp, xp.abs(x))
    positive = xp.astype(x > 0, x.dtype)
    density = xp.exp(-0.5 * x * x) * (1.0 / math.sqrt(2.0 * math.pi))
    return positive + (1.0 - 2.0 * positive) * tail + x * density


_GELU_A = math.sqrt(2.0 / math.pi)
_GELU_B = 0.044715 * _GELU_A
NORMAL_END = 40.0  # P(Z > 40) is 0 in float64
GELU_END = 20.0  # the derivative rounds to 0 or 1 above 10


def gelu_by_tanh(approximate: str) -> bool:
    """Whether `approximate` selects the tanh form; raises ValueError if it is neither."""
    return choice("gelu", "approximate", approximate, ("tanh", "none")) == "tanh"


# erfc(z) = t exp(P(2t - 1) - z^2) with t = 2 / (2 + z), for z >= 0: the form of Press et al.,
# "Numerical Recipes", 3rd edition, section 6.2.2. The Array API has no erf. The coefficients are
# those of the Chebyshev series of P, computed with 50 digits; truncated after 12 terms the relative
# error of erfc is 1e-7, with all 28 it is 3e-15.
_ERFC = (
    -0.65132685989085472, 0.64196979235649026, 0.019476473204185836, -0.0095615147868086317,
    -0.00094659534448203683, 0.00036683949785276145, 4.252332480690773e-5, -2.0278578112534167e-5,
    -1.6242900046471291e-6, 1.3036558355806437e-6, 1.5626441721940729e-8, -8.5238095914808798e-8,
    6.5290544390005436e-9, 5.0593434956205362e-9, -9.9136415652600068e-10, -2.2736512229954573e-10,
    9.6467911065129198e-11, 2.3940380040415155e-12, -6.8860274214680051e-12, 8.9448780683500118e-13,
    3.1309226373737033e-13, -1.127083383217741e-13, 3.8118465500948883e-16, 7.106033453749959e-15,
    -1.5230003696797118e-15, -9.456375684914869e-17, 1.2097474612716912e-16,
    -2.8084907584142141e-17,
)  # fmt: skip


def _upper_tail(xp, a):
    """P(Z > a) of a standard normal Z for a >= 0: erfc(a / sqrt(2)) / 2."""
    coefficients = _ERFC if dtype_name(a.dtype) == "float64" else _ERFC[:12]
    z = a * math.sqrt(0.5)
    t = 2.0 / (2.0 + z)
    u = 4.0 * t - 2.0  # twice the argument of the Chebyshev polynomials
    b, after = 0.0 * t, 0.0 * t  # Clenshaw's recurrence
    for c in reversed(coefficients[1:]):
        b, after = u * b - after + c, b
    return 0.5 * t * xp.exp(coefficients[0] + 0.5 * u * b - after - z * z)


def softmax(x: Array, *, axis: int = -1) -> Array:
    """Softmax, ``y = exp(x) / sum(exp(x))`` along `axis`.

    Parameters
    ----------
    x : array
        Any shape of at least one axis, floating-point.
    axis : int
        The axis along which the results sum to 1.

    Returns
    -------
    array
        Shape and dtype of `x`. The maximum along the axis is subtracted first to avoid overflow;
        16-bit values are summed in float32. Values of plus infinity share the probability equally;
        where all are minus infinity, it is NaN.
    """
    return softmax_along(x, _axis("softmax", x, axis))


@operation
def softmax_along(x: Array, axis: int) -> Array:
    """Return the softmax of `x` along an axis, in the dtype of `x`."""
    xp, z = _below_largest(x, axis)
    e = writable(xp.exp(z))
    e /= xp.sum(e, axis=axis, keepdims=True)
    return downcast_like(e, x)


def log_softmax(x: Array, *, axis: int = -1) -> Array:
    """Logarithm of `softmax`, ``y = x - log(sum(exp(x)))`` along `axis`; finite where `x` is.

    Parameters
    ----------
    x : array
        Any shape of at least one axis, floating-point.
    axis : int
        The axis of the sum.

    Returns
    -------
    array
        Shape and dtype of `x`.
    """
    axis = _axis("log_softmax", x, axis)
    xp, z = _below_largest(x, axis)
    # The exponential of the largest is 1, and adding it would round off the others: one 1 is left
    # out of the sum.
    largest = xp.astype(z == 0, z.dtype)
    rest = xp.sum(xp.exp(z) - largest, axis=axis, keepdims=True)
    rest += xp.sum(largest, axis=axis, keepdims=True) - 1.0
    z -= xp.log1p(rest)
    return downcast_like(z, x)


def _axis(owner: str, x: Array, axis: Any) -> int:
    """Check that `x` has the axis, and floating-point values; return it as an int."""
    namespace(x, owner)
    check_floating(owner, "x", x)
    n = len(x.shape)
    if type(axis) is not int:
        axis = integer(owner, "axis", axis, least=None)
    if not -n <= axis < n:
        message = f"{owner}: axis is {axis}, and x has shape {tuple(x.shape)}."
        raise ValueError(message)
    return axis


def _below_largest(x: Array, axis: int) -> tuple[Namespace, Array]:
    """Return the namespace, and `x` minus its maximum, in at least float32."""
    xp, wide = namespace(x), upcast(namespace(x), x)
    most = xp.max(wide, axis=axis, keepdims=True)
    seen = host_values(most)  # without a transfer
    if seen is None or not seen.size or not seen.item(seen.argmax()) < math.inf:
        # Infinite scores become the largest finite number: infinity minus infinity would be NaN.
        end = _LARGEST.get(dtype_name(x.dtype), _LARGEST["float32"])
        wide, most = xp.minimum(wide, end), xp.minimum(most, end)
    return xp, wide - most


_LARGEST = {
    "float16": 65504.0,
    "float32": (2.0 - 2.0**-23) * 2.0**127,  # bfloat16 is computed in it
    "float64": (2.0 - 2.0**-52) * 2.0**1023,
}


def cross_entropy_error(y: Array, t: Array) -> Array:
    """Mean cross entropy of the probabilities `y` and the targets `t`, ``-mean(sum(t * log(y)))``.

    For scores before the softmax use `xplayers.SoftmaxWithLoss`, which is exact: the logarithm of a
    probability that was rounded to 0 is lost.

    Parameters
    ----------
    y : array
        Probabilities of shape ``(n, c)``, or ``(c,)`` for one sample.
    t : array
        Integer labels of shape ``(n,)`` (or ``()``), or probabilities of the shape of `y`.

    Returns
    -------
    array
        A 0-d array of the dtype of `y`.

    Raises
    ------
    ValueError
        If the shapes do not match, a label is out of range, or a value is not a probability. Values
        on a GPU and in compiled code are not checked; there a label out of range makes the result
        NaN.
    TypeError
        If labels are not integers, or `y` is not floating-point.

    Notes
    -----
    *Deep Learning from Scratch* adds 1e-7 inside the logarithm, which makes the loss of a perfect
    prediction negative and limits every loss to 16.1. Here probabilities are clipped to the
    smallest normal number, so the loss of a perfect prediction is 0 and no loss is infinite.
    """
    owner = "cross_entropy_error"
    xp = namespace(y, owner, "y")
    check_same(owner, "t", t, y, like_name="y")
    check_floating(owner, "y", y)
    check_real(owner, "t", t)
    if not y.shape:
        message = f"{owner}: y has shape (); expected (n, c), or (c,) for one sample."
        raise ValueError(message)
    shape, t_shape = tuple(y.shape), tuple(t.shape)
    labels = t_shape != shape
    if t_shape not in (shape, shape[:-1]):
        message = (
            f"{owner}: t has shape {t_shape}; expected {shape[:-1]} integer labels "
            f"or {shape} probabilities."
        )
        raise ValueError(message)
    if labels and not is_integer(t):
        message = f"{owner}: t is {t.dtype}; labels are integers."
        raise TypeError(message)
    if on_host(t):
        _check_probabilities(owner, y, t, labels)
    smallest = 2.3e-308 if dtype_name(y.dtype) == "float64" else 1.2e-38
    logs = xp.log(xp.maximum(upcast(xp, y), smallest))
    if labels:
        index = xp.expand_dims(xp.astype(t, xp.arange(0).dtype), axis=-1)
        valid = (index >= 0) & (index < shape[-1])
        picked = xp.take_along_axis(logs, xp.where(valid, index, 0), axis=-1)
        total = xp.sum(xp.where(valid, picked, math.nan))
    else:
        total = xp.sum(logs * xp.astype(t, logs.dtype))
    samples = math.prod(y.shape[:-1])
    return xp.astype(-total / max(samples, 1), y.dtype)


def _check_probabilities(owner: str, y: Array, t: Array, labels: bool) -> None:
    """Check the values of arrays on the host. NaN in `y` is allowed."""
    if labels:
        bad = out_of_range(t, int(y.shape[-1]))
        if bad is not None:
            message = f"{owner}: label {bad} is out of range; expected 0 to {y.shape[-1] - 1}."
            raise ValueError(message)
    else:
        check_values(owner, "t", t, 0.0, math.inf, "probabilities of the classes, none negative")
    # 16-bit probabilities are rounded to at most 1.004
    if bool(namespace(y).any((y < 0) | (y > 1.01))):
        message = (
            f"{owner}: y has values that are not probabilities, from 0 to 1. For scores use "
            "xplayers.SoftmaxWithLoss()(y, t)."
        )
        raise ValueError(message)
