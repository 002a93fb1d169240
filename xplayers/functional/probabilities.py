"""Softmax, its logarithm, and the cross entropy of what it returns."""

from __future__ import annotations

import math
from typing import Any

from xplayers._calls import explained
from xplayers._checks import integer
from xplayers.arrays.checks import (
    check_floating,
    check_real,
    check_same,
    check_values,
    out_of_range,
)
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


@explained()
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

    Examples
    --------
    >>> import numpy as np
    >>> softmax(np.asarray([[0.3, 2.9, 4.0], [1010.0, 1000.0, 990.0]])).round(4)
    array([[0.0182, 0.2452, 0.7366],
           [1.    , 0.    , 0.    ]])
    """
    return softmax_along(x, axis_of("softmax", x, axis))


@operation
def softmax_along(x: Array, axis: int) -> Array:
    """Return the softmax of `x` along an axis, in the dtype of `x`."""
    xp, z = _below_largest(x, axis)
    e = writable(xp.exp(z))
    e /= xp.sum(e, axis=axis, keepdims=True)
    return downcast_like(e, x)


@explained()
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

    Examples
    --------
    >>> import numpy as np
    >>> log_softmax(np.asarray([0.0, 1000.0]))
    array([-1000.,     0.])
    """
    axis = axis_of("log_softmax", x, axis)
    xp, z = _below_largest(x, axis)
    # The exponential of the largest is 1, and adding it would round off the others: one 1 is left
    # out of the sum.
    largest = xp.astype(z == 0, z.dtype)
    rest = xp.sum(xp.exp(z) - largest, axis=axis, keepdims=True)
    rest += xp.sum(largest, axis=axis, keepdims=True) - 1.0
    z -= xp.log1p(rest)
    return downcast_like(z, x)


def axis_of(owner: str, x: Array, axis: Any) -> int:
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


@explained()
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

    Examples
    --------
    >>> import numpy as np
    >>> y = np.asarray([[0.1, 0.8, 0.1], [0.25, 0.25, 0.5]])
    >>> float(cross_entropy_error(y, np.asarray([1, 2])).round(4))
    0.4581
    >>> float(cross_entropy_error(y, np.asarray([[0, 1, 0], [0, 0, 1]])).round(4))
    0.4581
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
