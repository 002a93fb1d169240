"""The base of losses: a 0-d array for training, and its exact gradient with respect to the scores.

A loss is a pair of pure functions under the same shell as a layer; `Loss.forward` keeps the cache
that `Loss.backward` needs, and calling the loss evaluates it without keeping state. For 16-bit
scores, loss and sums are float32; the gradient has the dtype of the scores.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, final

import numpy as np

from xplayers import _checks as checks
from xplayers._calls import explained
from xplayers.arrays.checks import check_input, check_off_tape, check_real, check_same, check_values
from xplayers.arrays.elementwise import elementwise
from xplayers.arrays.namespaces import (
    Array,
    Namespace,
    is_floating,
    is_half,
    is_integer,
    namespace,
    on_host,
)
from xplayers.arrays.operation import operation
from xplayers.arrays.transfer import as_plain
from xplayers.layers.base import Cache, Module
from xplayers.losses.weights import check_takes_weights, check_weight_values

REDUCTIONS = ("mean", "sum", "none")
_NUMBERS = (int, float, np.floating, np.integer)


class Loss(Module):
    """Base of all losses. A subclass implements `apply` and `vjp`.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        Reduction over the samples. The mean over none (an empty batch, all labels ignored, or all
        weights 0) is 0 with gradient 0, where PyTorch gives NaN.

    Notes
    -----
    Every loss takes a `sample_weight`: a sample of weight 3 counts as three equal samples do, so
    the mean is over the sum of the weights. (Keras divides by the number of samples.) They multiply
    other weights: those of labels, whose products with them are the divisor of the mean, and
    targets that do not sum to 1. The sum is of weighted losses, and so is what ``"none"`` returns.
    A sample of weight 0 contributes exactly 0 to loss and gradient, whatever its scores are, NaN
    too. Where a check of the values would synchronize (on a GPU, and inside ``jax.jit``), a weight
    that is negative or NaN makes the loss NaN.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> class LogCosh(xl.Loss):
    ...     def apply(self, arrays, scores, target):
    ...         xp, r = xl.namespace(scores), scores - target
    ...         return xp.mean(xp.log(xp.cosh(r))), (r,)
    ...
    ...     def vjp(self, cache, dout):
    ...         (r,) = cache
    ...         return xl.namespace(r).tanh(r) * (dout / r.size)
    >>> loss = LogCosh()
    >>> x, t = np.asarray([1.5, 5.0]), np.asarray([2.0, 3.0])
    >>> round(float(loss.forward(x, t)), 4)
    0.7226
    >>> loss.backward().round(4)
    array([-0.2311,  0.482 ])
    >>> xl.check_gradients(loss, x, t)
    """

    _evaluation = "call the loss itself, loss(scores, target)"

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = checks.choice(self, "reduction", reduction, REDUCTIONS)

    def apply(
        self,
        arrays: Mapping[str, Array],
        scores: Array,
        target: Array,
        sample_weight: Array | None = None,
    ) -> tuple[Array, Cache]:
        """Return the loss, and the cache: the arrays that `vjp` needs.

        A loss of your own may do without `sample_weight`, and is then refused with weights.
        """
        message = f"{type(self).__name__} defines no apply(self, arrays, scores, target)."
        raise NotImplementedError(message)

    def vjp(self, cache: Cache, dout: Any) -> Array:
        """Return the gradient of the scores, times `dout`."""
        message = f"{type(self).__name__} defines no vjp(self, cache, dout)."
        raise NotImplementedError(message)

    def check(self, scores: Array, target: Array) -> None:
        """Check the values of `target`, where that needs no transfer; `apply` checks shapes."""

    def _check_weights(self, scores: Array, sample_weight: Array) -> None:
        check_weight_values(self, sample_weight, scores, "the scores")

    @final
    @explained("Write forward(net.forward(x), t).")
    def forward(self, scores: Array, target: Array, sample_weight: Array | None = None) -> Array:
        """Compute the loss, and keep the cache for `backward`.

        Parameters
        ----------
        scores : array
            The output of the network.
        target : array
            The target; of the library and on the device of `scores`.
        sample_weight : array, optional
            The weight of each sample, 0 or more: of shape ``(n,)``, or of more of the leading axes
            of what ``reduction="none"`` returns, as ``(n, t)`` for the steps of sequences.

        Returns
        -------
        array
            0-d, or with ``reduction="none"`` one value per sample. It stays on the device;
            ``float(loss)`` fetches it.
        """
        value, cache = self._evaluate(scores, target, sample_weight)
        self._record(cache, value)
        return value

    @final
    @explained()
    def backward(self, dout: Any = 1.0) -> Array:
        """Return the gradient of the loss with respect to the scores, times `dout`.

        Parameters
        ----------
        dout : float or array
            The upstream gradient: a number, or an array of the shape of the loss.

        Returns
        -------
        array
            Shape and dtype of the scores.
        """
        cache, _ = self._last()
        self._pending.pop()
        return self.vjp(cache, dout)

    @final
    @explained()
    def __call__(self, scores: Array, target: Array, sample_weight: Array | None = None) -> Array:
        """Compute the loss without keeping state, for evaluation."""
        return self._evaluate(scores, target, sample_weight)[0]

    def _evaluate(
        self,
        scores: Array,
        target: Array,
        sample_weight: Array | None = None,
        arrays: Mapping[str, Array] | None = None,
    ) -> tuple[Array, Cache]:
        """Return `apply` of what has been checked, by default with the arrays of the loss."""
        scores, target = as_plain(scores), as_plain(target)
        try:
            check_input(self, scores, {}, name="scores")
        except TypeError as error:
            if _swapped(scores, target):
                message = f"{error} If this is the target: the scores come first, then the target."
                raise TypeError(message) from None
            raise
        if self._variables.buffers:
            self._materialize(scores)
            for name, buffer in self._variables.buffers.items():
                check_same(self, name, buffer, scores, like_name="scores")
        check_same(self, "target", target, scores, like_name="scores")
        check_off_tape(self, "target", target)
        self.check(scores, target)
        arrays = self._variables.buffers if arrays is None else arrays
        if sample_weight is None:
            return self.apply(arrays, scores, target)
        sample_weight = as_plain(sample_weight)
        check_takes_weights(self)
        self._check_weights(scores, sample_weight)
        return self.apply(arrays, scores, target, sample_weight=sample_weight)

    def _reduced(self, values: Array, norm: Any) -> Array:
        """Return the losses of the samples, their sum, or the sum divided by `norm`."""
        return values if self.reduction == "none" else total(values, self._divisor(norm))

    def _divisor(self, norm: Any) -> Any:
        """Return the divisor of the sum over the samples and of its gradient."""
        return norm if self.reduction == "mean" else 1.0

    def _weights(self, name: str, values: Any, expected: str, hint: str = "") -> Array | None:
        """Return weights as an array; numbers are moved to the device of the first scores."""
        if values is None:
            return None
        is_array = hasattr(values, "__array_namespace__") or hasattr(values, "dtype")
        if not is_array or (isinstance(values, np.generic | np.ndarray) and not values.shape):
            values = self._numbers(name, values, expected, hint)
            self._variables.materialized = False
        namespace(values, self, name)
        check_real(self, name, values)
        if on_host(values):
            check_values(self, name, values, 0.0, sys.float_info.max, f"{expected}, none negative")
        return values

    def _numbers(self, name: str, values: Any, expected: str, hint: str) -> np.ndarray:
        """Return a number, or a sequence of numbers, as an array on the host."""
        try:
            array = np.asarray(values)
        except ValueError:  # ragged lists
            array = np.asarray(None)
        if array.dtype.kind not in "iuf":
            message = f"{self}: {name} is {checks.shown(values)}; expected {expected}."
            raise TypeError(f"{message} {hint}".rstrip())
        return array.astype("float64")


@operation
def total(values: Array, divisor: Any) -> Array:
    """Return the sum of all values over `divisor`, 0-d, in the dtype of `values`."""
    value = namespace(values).sum(values) / divisor
    return np.asarray(value) if isinstance(value, np.generic) else value


@operation
def scaled(dx: Array, factor: float) -> Array:
    """Return the product with a number."""
    return dx * factor


def _swapped(scores: Any, target: Any) -> bool:
    """Whether both are arrays that look like target and scores: swapped."""
    arrays = all(hasattr(a, "shape") and hasattr(a, "dtype") for a in (scores, target))
    return arrays and is_integer(scores) and is_floating(target)


def scale_gradient(dx: Array, dout: Any, norm: Any, scores: Array, axes_after: int = 0) -> Array:
    """Return ``dx * (dout / norm)`` in the dtype of `scores`.

    `dout` is a number or has the shape of the loss, `norm` is a number or 0-d.
    """
    xp = namespace(dx)
    if isinstance(dout, _NUMBERS):
        # A NumPy scalar would determine the dtype. It is rounded to that of dx, as an array is.
        rounded = isinstance(dout, np.generic) and isinstance(dx, np.ndarray)
        dout = float(dx.dtype.type(dout) if rounded else dout)
    else:
        check_same("backward", "dout", dout, dx, like_name="the loss")
        if not is_floating(dout):
            message = f"backward: dout is {dout.dtype}; expected floating-point values."
            raise TypeError(message)
        dout = xp.astype(dout, dx.dtype, copy=False)
        losses = tuple(dx.shape[: len(dx.shape) - axes_after])
        if tuple(dout.shape) not in ((), losses):
            message = f"backward: dout has shape {tuple(dout.shape)}; expected () or {losses}."
            raise ValueError(message)
        if dout.shape and axes_after:
            dout = xp.expand_dims(dout, axis=-1)
    dtype = scores.dtype if is_half(scores) else None
    if dtype is None and type(dout) is float and type(norm) in (int, float) and on_host(dx):
        return scaled(dx, dout / norm)  # a look-up would take longer
    return _divided(dx, dout, norm, dtype=dtype)


@elementwise
def _divided(xp: Namespace, dx: Array, dout: Any, norm: Any, *, dtype: Any) -> Array:
    dx = dx * (dout / norm)
    return dx if dtype is None else xp.astype(dx, dtype)
