"""Activations and their derivatives, each one pass over memory."""

from __future__ import annotations

import math

from xplayers._checks import choice
from xplayers.arrays.elementwise import elementwise
from xplayers.arrays.namespaces import dtype_name

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

    Examples
    --------
    >>> import numpy as np
    >>> leaky_relu(np.asarray([-2.0, 0.0, 3.0]), alpha=0.1)
    array([-0.2,  0. ,  3. ])
    """
    if alpha == 0.0:
        return xp.maximum(x, 0.0)  # 0 times minus infinity would be NaN
    return xp.maximum(x, 0.0) + alpha * xp.minimum(x, 0.0)


@elementwise
def leaky_relu_derivative(xp, x, *, alpha=0.01):
    """Derivative of `leaky_relu`, ``1 where x > 0 else alpha``.

    Examples
    --------
    >>> import numpy as np
    >>> leaky_relu_derivative(np.asarray([-2.0, 0.0, 3.0]), alpha=0.1)
    array([0.1, 0.1, 1. ])
    """
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

    Examples
    --------
    >>> import numpy as np
    >>> elu(np.asarray([-1.0, 0.0, 2.0])).round(4)
    array([-0.6321,  0.    ,  2.    ])
    """
    return xp.maximum(x, 0.0) + alpha * xp.expm1(xp.minimum(x, 0.0))


@elementwise
def elu_derivative(xp, x, *, alpha=1.0):
    """Derivative of `elu`, ``1 where x > 0 else alpha * exp(x)``.

    Examples
    --------
    >>> import numpy as np
    >>> elu_derivative(np.asarray([-1.0, 0.0, 2.0])).round(4)
    array([0.3679, 1.    , 1.    ])
    """
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

    Examples
    --------
    >>> import numpy as np
    >>> sigmoid(np.asarray([-1000.0, 0.0, 2.0])).round(4)
    array([0.    , 0.5   , 0.8808])
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

    Examples
    --------
    >>> import numpy as np
    >>> sigmoid_derivative(np.asarray([-1000.0, 0.0, 2.0])).round(4)
    array([0.   , 0.25 , 0.105])
    """
    # The function is even, and e / (1 + e)^2 with e = exp(-|x|) does not cancel for large x.
    e = xp.exp(-xp.abs(x))
    root = 1.0 + e
    return e / (root * root)


@elementwise
def tanh(xp, x):
    """Hyperbolic tangent, ``y = tanh(x)``.

    Examples
    --------
    >>> import numpy as np
    >>> tanh(np.asarray([-1.0, 0.0, 1000.0])).round(4)
    array([-0.7616,  0.    ,  1.    ])
    """
    return xp.tanh(x)


@elementwise
def tanh_derivative(xp, x):
    """Derivative of `tanh` at `x`, ``1 - tanh(x) ** 2``.

    Examples
    --------
    >>> import numpy as np
    >>> tanh_derivative(np.asarray([-1.0, 0.0, 1000.0])).round(4)
    array([0.42, 1.  , 0.  ])
    """
    y = xp.tanh(x)
    return 1.0 - y * y


@elementwise
def softplus(xp, x):
    """Smooth rectifier, ``y = log(1 + exp(x))``, computed as ``max(x, 0) + log1p(exp(-abs(x)))``.

    The same as in PyTorch with ``beta=1``, which returns ``x`` above a threshold of 20.

    Examples
    --------
    >>> import numpy as np
    >>> softplus(np.asarray([-1000.0, 0.0, 20.0])).round(4)
    array([ 0.    ,  0.6931, 20.    ])
    """
    return xp.maximum(x, 0.0) + xp.log1p(xp.exp(-xp.abs(x)))


@elementwise
def softplus_derivative(xp, x):
    """Derivative of `softplus`: the logistic sigmoid of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> softplus_derivative(np.asarray([-1000.0, 0.0, 2.0])).round(4)
    array([0.    , 0.5   , 0.8808])
    """
    return sigmoid.function(xp, x)


@elementwise
def silu(xp, x):
    """Sigmoid-weighted linear unit, swish (Elfwing et al. 2018, eq. 1), ``y = x * sigmoid(x)``.

    Examples
    --------
    >>> import numpy as np
    >>> silu(np.asarray([-1.0, 0.0, 2.0])).round(4)
    array([-0.2689,  0.    ,  1.7616])
    """
    return xp.maximum(x, -SIGMOID_END) * sigmoid.function(xp, x)


@elementwise
def silu_derivative(xp, x):
    """Derivative of `silu`, ``s * (1 + x * (1 - s))`` with ``s = sigmoid(x)``.

    Examples
    --------
    >>> import numpy as np
    >>> silu_derivative(np.asarray([-1.0, 0.0, 2.0])).round(4)
    array([0.0723, 0.5   , 1.0908])
    """
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

    Examples
    --------
    >>> import numpy as np
    >>> x = np.asarray([-1.0, 0.0, 2.0])
    >>> gelu(x).round(4)
    array([-0.1588,  0.    ,  1.9546])
    >>> gelu(x, approximate="none").round(4)
    array([-0.1587,  0.    ,  1.9545])
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
    """Derivative of `gelu`: exactly ``P(Z <= x) + x * exp(-x**2 / 2) / sqrt(2 * pi)``.

    Examples
    --------
    >>> import numpy as np
    >>> gelu_derivative(np.asarray([-1.0, 0.0, 2.0])).round(4)
    array([-0.083 ,  0.5   ,  1.0861])
    """
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
