"""Losses: a 0-d array for training, and its exact gradient with respect to the scores.

A loss is a pair of pure functions under the same shell as a layer; `Loss.forward` remembers what
`Loss.backward` needs, and calling the loss evaluates it and remembers nothing. Where the scores are
16-bit floats, loss and sums are float32; the gradient has the dtype of the scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np

from xplayers._arrays import (
    Array,
    Namespace,
    check_input,
    check_off_tape,
    check_same,
    device,
    is_floating,
    is_half,
    is_integer,
    namespace,
    on_host,
    size,
    to_numpy,
    widened,
)
from xplayers.cuda.switch import is_fused
from xplayers.elementwise import as_numpy
from xplayers.layers.base import Buffer, Cache, Remembering

__all__ = [
    "Huber", "Loss", "MeanAbsoluteError", "MeanSquaredError", "SigmoidWithLoss", "SoftmaxWithLoss",
    "check_labels",
]  # fmt: skip

REDUCTIONS = ("mean", "sum", "none")


class Loss(Remembering):
    """Base of all losses. A subclass writes `apply` and `vjp`.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        What becomes of the losses of the samples. The mean over nothing (an empty batch, or all
        labels ignored) is 0 with gradient 0, where PyTorch gives NaN.
    """

    _evaluation = "call the loss itself, loss(scores, target)"

    def __init__(self, reduction: str = "mean") -> None:
        if reduction not in REDUCTIONS:
            message = f"{self}: reduction is {reduction!r}; expected one of {REDUCTIONS}."
            raise ValueError(message)
        self.reduction = reduction

    def apply(
        self, arrays: Mapping[str, Array], scores: Array, target: Array
    ) -> tuple[Array, Cache]:
        """Return the loss, and the cache: the arrays which `vjp` needs."""
        message = f"{type(self).__name__} defines no apply(self, arrays, scores, target)."
        raise NotImplementedError(message)

    def vjp(self, cache: Cache, dout: Any) -> Array:
        """Return the gradient of the scores, times `dout`."""
        message = f"{type(self).__name__} defines no vjp(self, cache, dout)."
        raise NotImplementedError(message)

    def check(self, scores: Array, target: Array) -> None:
        """Check the values of `target`, where that needs no transfer. Shapes are for `apply`."""

    @final
    def forward(self, scores: Array, target: Array) -> Array:
        """Compute the loss, and remember what `backward` needs.

        Parameters
        ----------
        scores : array
            What the network computed.
        target : array
            What it should have computed; of the library and on the device of `scores`.

        Returns
        -------
        array
            0-d, or with ``reduction="none"`` one value a sample. It stays on the device;
            ``float(loss)`` fetches it.
        """
        value, cache = self._evaluate(scores, target)
        self._record(cache, value)
        return value

    @final
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
    def __call__(self, scores: Array, target: Array) -> Array:
        """Compute the loss and remember nothing, for evaluation."""
        return self._evaluate(scores, target)[0]

    def _evaluate(self, scores: Array, target: Array) -> tuple[Array, Cache]:
        check_input(self, scores, {}, name="scores")
        if self._store.buffers:
            self._place(scores)
            for name, buffer in self._store.buffers.items():
                check_same(self, name, buffer, scores, like_name="scores")
        check_same(self, "target", target, scores, like_name="scores")
        check_off_tape(self, "target", target)
        self.check(scores, target)
        return self.apply(self._store.buffers, scores, target)

    def _reduced(self, xp: Namespace, values: Array, norm: Any) -> Array:
        """Return the losses of the samples, or their sum, or that divided by `norm`."""
        if self.reduction == "none":
            return values
        value = xp.sum(values) / self._divisor(norm)
        return np.asarray(value) if isinstance(value, np.generic) else value

    def _divisor(self, norm: Any) -> Any:
        """Return what the sum over the samples, and its gradient, are divided by."""
        return norm if self.reduction == "mean" else 1.0

    def _constant(self, values: Array | Sequence[float] | float | None) -> Array | None:
        """Take an option that may be an array, or host values that follow the first scores."""
        if values is None or not isinstance(values, list | tuple | float | int):
            return values
        self._store.placed = False
        return np.asarray(values, dtype="float64")


class SoftmaxWithLoss(Loss):
    """Softmax and cross entropy in one, exact for scores of any size.

    Forward, for one sample with scores ``x`` and target distribution ``t``:
    ``loss = -sum(t * log(softmax(x)))``, computed from ``log(sum(exp(x)))``. Backward:
    ``dx = (softmax(x) * sum(t) - t) / n``, with the default reduction over ``n`` samples and
    ``sum(t)`` being 1.

    Parameters
    ----------
    class_weights : array of shape (c,) or sequence of float, optional
        Factor of each class. With labels, the mean is over the sum of the weights of the labels.
    ignore_index : int, optional
        A label whose samples count nothing, in the loss and in the mean.
    label_smoothing : float
        ``a`` in ``[0, 1]``: the target becomes ``(1 - a) * t + a / c``.
    reduction : {"mean", "sum", "none"}
        As in `Loss`.

    Notes
    -----
    ``forward(scores, target)`` takes scores of shape ``(n, c)``, or ``(..., c)`` for sequences, and
    either integer labels of shape ``(n,)`` (``(...)``) or one-hot or soft targets of the shape of
    the scores, in any dtype. Labels are checked to be in range where they are on the host. Where
    looking at them would wait for a GPU, and inside ``jax.jit``, a label out of range makes the
    loss NaN; `check_labels` looks at them once.

    The options are those of PyTorch's ``CrossEntropyLoss``, whose class axis is 1, not -1.

    Raises
    ------
    ValueError
        If shapes, label values or options do not fit.
    TypeError
        If labels are not integers.

    Examples
    --------
    >>> import numpy as np
    >>> loss = SoftmaxWithLoss()
    >>> scores = np.zeros((1, 4))
    >>> round(float(loss.forward(scores, np.asarray([2]))), 4)
    1.3863
    >>> loss.backward()
    array([[ 0.25,  0.25, -0.75,  0.25]])
    """

    class_weights = Buffer()

    def __init__(
        self,
        class_weights: Array | Sequence[float] | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        if not 0.0 <= label_smoothing <= 1.0:
            message = f"{self}: label_smoothing is {label_smoothing}; expected 0 to 1."
            raise ValueError(message)
        self.class_weights = self._constant(class_weights)
        self.ignore_index = ignore_index
        self.label_smoothing = float(label_smoothing)

    def apply(
        self, arrays: Mapping[str, Array], scores: Array, target: Array
    ) -> tuple[Array, Cache]:
        self._check_shapes(arrays, scores, target)
        xp = namespace(scores)
        plain = not (arrays or self.ignore_index is not None or self.label_smoothing)
        norm: Any = max(math.prod(scores.shape[:-1]), 1)
        if plain and is_fused(xp):
            from xplayers.cuda.softmax_cross_entropy import softmax_cross_entropy

            fused = softmax_cross_entropy(scores, target)
            if fused is not None:
                rows, e = fused
                return self._reduced(xp, rows, norm), (e, scores, self._divisor(norm))
        x = widened(xp, scores)
        z = x - xp.max(x, axis=-1, keepdims=True)
        e = xp.exp(z)
        s = xp.sum(e, axis=-1, keepdims=True)
        # loss = sum(t * (log(s) - z)) / norm; dx = (softmax(x) * sum(t) - t) / norm
        labels = target.shape != scores.shape
        # On the host they have been checked; elsewhere a label out of range makes the loss NaN.
        valid = None if not labels or on_host(target) else self._in_range(target, x.shape[-1])
        if labels and plain:
            # sum(t) is 1, and the one score that counts is looked up
            at, t = _one_hot(xp, x, target)
            if valid is not None:
                at = at * xp.astype(valid, at.dtype)[..., None]
            rows = xp.squeeze(xp.log(s) - xp.take_along_axis(z, at, axis=-1), axis=-1)
            e /= s
        else:
            t, norm = self._distribution(xp, arrays, x, target)
            total = xp.sum(t, axis=-1, keepdims=True)
            # A class that is masked by a score of -inf has t = 0, and 0 * inf would be NaN.
            finite = xp.maximum(z, -1e30)
            rows = xp.squeeze(xp.log(s) * total, axis=-1) - xp.sum(t * finite, axis=-1)
            e *= total / s
        e -= t
        if valid is not None:
            rows = xp.where(valid, rows, math.nan)
        return self._reduced(xp, rows, norm), (e, scores, self._divisor(norm))

    def vjp(self, cache: Cache, dout: Any) -> Array:
        dx, scores, norm = cache
        return _times(dx, dout, norm, scores, axes_after=1)

    def _distribution(
        self, xp: Namespace, arrays: Mapping[str, Array], x: Array, target: Array
    ) -> tuple[Array, Any]:
        """Return the weighted target ``(..., c)``, and what the mean divides by."""
        classes, weights = x.shape[-1], arrays.get("class_weights")
        labels = target if target.shape != x.shape else None
        norm: Any = max(math.prod(x.shape[:-1]), 1)
        keep = None
        if labels is None:
            t = xp.astype(target, x.dtype)
        else:
            labels, t = _one_hot(xp, x, labels)
        if labels is not None and self.ignore_index is not None:
            keep = xp.astype(labels != self.ignore_index, x.dtype)  # (..., 1)
            t = t * keep
            norm = xp.maximum(xp.sum(keep), 1.0)
        if weights is not None:
            weights = xp.astype(weights, x.dtype)
            if labels is not None:
                total = xp.sum(t * weights)
                norm = total + xp.astype(total == 0, x.dtype)
        if self.label_smoothing:
            t = (1.0 - self.label_smoothing) * t + self.label_smoothing / classes
            if keep is not None:
                t = t * keep
        if weights is not None:
            t = t * weights
        return t, norm

    def _check_shapes(self, arrays: Mapping[str, Array], scores: Array, target: Array) -> None:
        shape = tuple(scores.shape)
        if len(shape) < 2:
            message = (
                f"{self}: scores have shape {shape}; expected (n, c). "
                "A single sample is x[None, :]."
            )
            raise ValueError(message)
        weights = arrays.get("class_weights")
        if weights is not None and tuple(weights.shape) != shape[-1:]:
            message = (
                f"{self}: class_weights has shape {tuple(weights.shape)}; expected {shape[-1:]}."
            )
            raise ValueError(message)
        given, labels = tuple(target.shape), shape[:-1]
        if given == shape:
            if self.ignore_index is not None:
                message = f"{self}: ignore_index goes with integer labels of shape {labels}."
                raise ValueError(message)
        elif given != labels:
            hint = ""
            if given == (*labels, 1):
                hint = " Use labels[:, 0]." if len(labels) == 1 else " Use labels[..., 0]."
            message = (
                f"{self}: labels have shape {given}; expected {labels} integers or {shape} "
                f"probabilities.{hint}"
            )
            raise ValueError(message)
        elif not is_integer(target):
            message = (
                f"{self}: labels are {target.dtype}; expected integers. "
                "Convert them: xp.astype(labels, xp.int64)."
            )
            raise TypeError(message)

    def check(self, scores: Array, target: Array) -> None:
        labels = len(target.shape) + 1 == len(scores.shape)
        if not labels or _surely_fit(target, scores.shape[-1]):
            return
        if is_integer(target) and on_host(target):
            check_labels(target, scores.shape[-1], ignore_index=self.ignore_index)

    def _in_range(self, labels: Array, classes: int) -> Array:
        xp = namespace(labels)
        labels = xp.astype(labels, xp.arange(0).dtype)
        valid = (labels >= 0) & (labels < classes)
        return valid if self.ignore_index is None else valid | (labels == self.ignore_index)


def _one_hot(xp: Namespace, x: Array, labels: Array) -> tuple[Array, Array]:
    """Return integer labels with an axis for the classes, and as one-hot vectors like `x`."""
    index = xp.arange(x.shape[-1], device=device(x))
    labels = xp.astype(labels, index.dtype, copy=False)[..., None]
    return labels, xp.astype(labels == index, x.dtype)


_UNSIGNED: dict[Any, Any] = {
    np.dtype(f"int{bits}"): np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)
}


def _surely_fit(labels: Array, classes: int) -> bool:
    """Whether one pass says that all labels are in ``[0, classes)``, as it mostly does."""
    (labels,) = as_numpy([labels]) or [None]
    if type(labels) is not np.ndarray or labels.dtype not in _UNSIGNED or not labels.size:
        return False
    # without its sign, a negative number is a huge one
    return bool(np.maximum.reduce(labels.view(_UNSIGNED[labels.dtype]), None) < classes)


def check_labels(labels: Array, classes: int, *, ignore_index: int | None = None) -> None:
    """Check that integer `labels` are all in ``[0, classes)``.

    On a GPU this waits for the device: call it once for a data set, not for each batch.

    Parameters
    ----------
    labels : array of int
        Any shape.
    classes : int
        The number of classes.
    ignore_index : int, optional
        A label that is allowed besides.

    Raises
    ------
    ValueError
        Naming the label.
    """
    if _surely_fit(labels, classes) or not size(labels):
        return
    if on_host(labels):
        labels = to_numpy(labels)
    xp = namespace(labels, "check_labels", "labels")
    if ignore_index is not None:
        labels = xp.astype(labels, xp.arange(0).dtype)  # unsigned ones have no negative to compare
        labels = xp.where(labels == ignore_index, xp.zeros_like(labels), labels)
    low, high = int(xp.min(labels)), int(xp.max(labels))
    if low < 0 or high >= classes:
        message = (
            f"SoftmaxWithLoss: label {low if low < 0 else high} is out of range; "
            f"expected 0 to {classes - 1} for {classes} classes."
        )
        raise ValueError(message)


class _OfEachValue(Loss):
    """Base of losses that compare each score with its target; the mean is over all values."""

    def loss(self, xp: Namespace, arrays: Mapping[str, Array], x: Array, t: Array) -> Array:
        raise NotImplementedError

    def slope(self, xp: Namespace, arrays: Mapping[str, Array], x: Array, t: Array) -> Array:
        raise NotImplementedError

    def apply(
        self, arrays: Mapping[str, Array], scores: Array, target: Array
    ) -> tuple[Array, Cache]:
        xp = namespace(scores)
        if tuple(target.shape) != tuple(scores.shape):
            message = (
                f"{self}: target has shape {tuple(target.shape)}; expected {tuple(scores.shape)}, "
                "the shape of the scores."
            )
            raise ValueError(message)
        x = widened(xp, scores)
        t = xp.astype(target, x.dtype)
        values, dx = self.loss(xp, arrays, x, t), self.slope(xp, arrays, x, t)
        n = max(size(x), 1)
        return self._reduced(xp, values, n), (dx, scores, self._divisor(n))

    def vjp(self, cache: Cache, dout: Any) -> Array:
        dx, scores, norm = cache
        return _times(dx, dout, norm, scores)


class SigmoidWithLoss(_OfEachValue):
    """Sigmoid and binary cross entropy in one, exact for scores of any size.

    Forward, for each score ``x`` and target ``t``: ``loss = -p * t * log(sigmoid(x)) -
    (1 - t) * log(1 - sigmoid(x))``, computed as ``(1 - t) * x + (1 + (p - 1) * t) * softplus(-x)``.
    Backward: ``dx = (1 - t) - (1 + (p - 1) * t) * sigmoid(-x)``, which is ``sigmoid(x) - t`` for
    ``p = 1``, divided by the number of values for the default reduction.

    Parameters
    ----------
    pos_weight : array or float or sequence of float, optional
        ``p``, the weight of positive targets; of a shape that broadcasts to the scores.
    reduction : {"mean", "sum", "none"}
        As in `Loss`. The mean is over all values (*Deep Learning from Scratch 2* divides by the
        number of rows).

    Notes
    -----
    The target has the shape of the scores and values in ``[0, 1]``, in any dtype. PyTorch calls
    this ``BCEWithLogitsLoss``.
    """

    pos_weight = Buffer()

    def __init__(
        self, pos_weight: Array | Sequence[float] | float | None = None, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction)
        self.pos_weight = self._constant(pos_weight)

    def loss(self, xp: Namespace, arrays: Mapping[str, Array], x: Array, t: Array) -> Array:
        softplus = xp.maximum(-x, 0.0) + xp.log1p(xp.exp(-xp.abs(x)))  # of -x
        return (1.0 - t) * x + self._weight(xp, arrays, t) * softplus

    def slope(self, xp: Namespace, arrays: Mapping[str, Array], x: Array, t: Array) -> Array:
        # sigmoid(-x) = exp(-softplus(x)); both exponents are at most 0
        complement = xp.exp(xp.minimum(-x, 0.0)) / (1.0 + xp.exp(-xp.abs(x)))
        return (1.0 - t) - self._weight(xp, arrays, t) * complement

    def _weight(self, xp: Namespace, arrays: Mapping[str, Array], t: Array) -> Any:
        p = arrays.get("pos_weight")
        return 1.0 if p is None else 1.0 + (xp.astype(p, t.dtype) - 1.0) * t


class MeanSquaredError(_OfEachValue):
    """Mean of the squared differences, ``loss = mean((x - t)**2)``.

    Backward: ``dx = 2 * (x - t) / size``. The mean is over all values, as in PyTorch; the function
    of this name in *Deep Learning from Scratch* is ``sum((x - t)**2) / 2``.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        As in `Loss`.
    """

    def loss(self, xp: Namespace, arrays: Mapping[str, Array], x: Array, t: Array) -> Array:
        r = x - t
        return r * r

    def slope(self, xp: Namespace, arrays: Mapping[str, Array], x: Array, t: Array) -> Array:
        return 2.0 * (x - t)


class MeanAbsoluteError(_OfEachValue):
    """Mean of the absolute differences, ``loss = mean(abs(x - t))``.

    Backward: ``dx = sign(x - t) / size``, 0 where they are equal.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        As in `Loss`.
    """

    def loss(self, xp: Namespace, arrays: Mapping[str, Array], x: Array, t: Array) -> Array:
        return xp.abs(x - t)

    def slope(self, xp: Namespace, arrays: Mapping[str, Array], x: Array, t: Array) -> Array:
        # not xp.sign: on CuPy it waits for the device
        return xp.astype(x > t, x.dtype) - xp.astype(x < t, x.dtype)


class Huber(_OfEachValue):
    """Squared for small and absolute for large differences ``r = x - t``.

    Forward: ``loss = mean(r**2 / 2)`` where ``abs(r) <= delta``, else
    ``delta * (abs(r) - delta / 2)``. Backward: ``dx = max(min(r, delta), -delta) / size``.

    Parameters
    ----------
    delta : float
        Where the two meet; positive.
    reduction : {"mean", "sum", "none"}
        As in `Loss`.

    Notes
    -----
    As PyTorch's ``HuberLoss``; its ``SmoothL1Loss`` is this divided by `delta`.

    References
    ----------
    Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical Statistics 35, 1964.
    """

    def __init__(self, delta: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        if not delta > 0:
            message = f"{self}: delta is {delta}; expected a positive number."
            raise ValueError(message)
        self.delta = float(delta)

    def loss(self, xp: Namespace, arrays: Mapping[str, Array], x: Array, t: Array) -> Array:
        r = xp.abs(x - t)
        q = xp.minimum(r, self.delta)
        return q * (r - 0.5 * q)

    def slope(self, xp: Namespace, arrays: Mapping[str, Array], x: Array, t: Array) -> Array:
        return xp.maximum(xp.minimum(x - t, self.delta), -self.delta)


def _times(dx: Array, dout: Any, norm: Any, scores: Array, axes_after: int = 0) -> Array:
    """Return ``dx * (dout / norm)`` in the dtype of `scores`.

    `dout` is a number or of the losses' shape, `norm` a number or 0-d.
    """
    xp = namespace(dx)
    if not isinstance(dout, int | float):
        check_same("backward", "dout", dout, dx, like_name="the loss")
        if not is_floating(dout):
            message = f"backward: dout is {dout.dtype}; expected floating-point values."
            raise TypeError(message)
        dout = xp.astype(dout, dx.dtype)
        losses = tuple(dx.shape[: len(dx.shape) - axes_after])
        if tuple(dout.shape) not in ((), losses):
            message = f"backward: dout has shape {tuple(dout.shape)}; expected () or {losses}."
            raise ValueError(message)
        if dout.shape and axes_after:
            dout = xp.expand_dims(dout, axis=-1)
    dx = dx * (dout / norm)
    return xp.astype(dx, scores.dtype) if is_half(scores) else dx
