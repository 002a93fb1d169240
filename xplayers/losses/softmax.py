"""Softmax and cross entropy of classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from xplayers import _checks as checks
from xplayers.arrays.checks import check_real, check_values, out_of_range
from xplayers.arrays.indexing import positions, put, taken
from xplayers.arrays.namespaces import (
    Array,
    Namespace,
    device,
    dtype_name,
    is_integer,
    namespace,
    on_host,
    upcast,
)
from xplayers.arrays.operation import operation
from xplayers.arrays.transfer import to_numpy
from xplayers.arrays.values import host_values
from xplayers.layers.base import Cache
from xplayers.layers.variables import Buffer
from xplayers.losses.base import Loss, scale_gradient
from xplayers.losses.weights import chosen, divisor, spread, weighted


class SoftmaxWithLoss(Loss):
    """Softmax and cross entropy in one, exact for scores of any size.

    Forward, for one sample with scores ``x`` and target distribution ``t``:
    ``loss = -sum(t * log(softmax(x)))``, computed from ``log(sum(exp(x)))``. Backward:
    ``dx = (softmax(x) * sum(t) - t) / n``, with the default reduction over ``n`` samples and
    ``sum(t)`` being 1.

    Parameters
    ----------
    class_weights : array of shape (c,) or sequence of float, optional
        Factor of each class, 0 or more. With labels, the mean is over the sum of the weights of the
        labels.
    ignore_index : int, optional
        Samples with this label are excluded from the loss and the mean.
    label_smoothing : float
        ``a`` in ``[0, 1]``: the target becomes ``(1 - a) * t + a / c``.
    reduction : {"mean", "sum", "none"}
        As in `Loss`.

    Notes
    -----
    ``forward(scores, target)`` takes scores of shape ``(n, c)``, or ``(..., c)`` for sequences, and
    either integer labels of shape ``(n,)`` (``(...)``) or one-hot or soft targets of the shape of
    the scores, in any dtype. On the host, labels are checked to be in range, and targets to be 0 or
    more. On a GPU, where a check would synchronize, and inside ``jax.jit``, a value out of range
    makes the loss NaN; `check_labels` checks labels once.

    Targets need not sum to 1: a sample whose sum is ``s`` has weight ``s`` in the loss, and weight
    1 in the mean. A sample of weight 0 (ignored, of a class of weight 0, or with a target of zeros)
    contributes exactly 0 to loss and gradient, even if its scores are inf or NaN. A loss is
    infinite if and only if a class with a nonzero target has a score of -inf.

    For labels, loss and gradient keep full precision in the tail: scores of 20 and 0 with label 0
    have a loss of 2.06e-9 in float32. With soft targets and label smoothing, losses below the
    rounding unit (6e-8 in float32) become 0.

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
        self.label_smoothing = checks.number(
            self, "label_smoothing", label_smoothing, least=0, most=1
        )
        self.ignore_index = ignore_index
        if ignore_index is not None:
            self.ignore_index = checks.integer(self, "ignore_index", ignore_index, least=None)
        self.class_weights = self._weights(
            "class_weights", class_weights, "a number for each class, in their order"
        )
        if self.class_weights is not None and len(self.class_weights.shape) != 1:
            self._refuse_weights(self.class_weights, "(c,)")

    def apply(
        self,
        arrays: Mapping[str, Array],
        scores: Array,
        target: Array,
        sample_weight: Array | None = None,
    ) -> tuple[Array, Cache]:
        self._check_shapes(arrays, scores, target)
        n = _rows(scores)
        if sample_weight is not None:
            return self._weighted(arrays, scores, target, sample_weight)
        if not (arrays or self.ignore_index is not None or self.label_smoothing):
            rows, dx, divided = softmax_cross_entropy(scores, target, self._divisor(n))
            return self._reduced(rows, n), (dx, scores, None) if divided else (dx, scores)
        rows, dx, norm = weighted_cross_entropy(
            scores, target, arrays.get("class_weights"), self.ignore_index, self.label_smoothing
        )
        cache = (dx, scores) if isinstance(norm, int) else (dx, scores, norm)  # arrays only
        return self._reduced(rows, norm), cache

    def _weighted(
        self, arrays: Mapping[str, Array], scores: Array, target: Array, sample_weight: Array
    ) -> tuple[Array, Cache]:
        """Return loss and cache with weights of samples, beside those of labels."""
        xp, x = namespace(scores), upcast(namespace(scores), scores)
        w = spread(self, sample_weight, x.shape[:-1], x.dtype)
        x = chosen(x, w[..., None])
        if arrays or self.ignore_index is not None or self.label_smoothing:
            rows, dx, _ = weighted_cross_entropy(
                x, target, arrays.get("class_weights"), self.ignore_index, self.label_smoothing
            )
        else:
            rows, dx, _ = softmax_cross_entropy(x, target, 1.0)
        each = self.label_weights(arrays, len(scores.shape), target)
        counts = w if each is None else xp.astype(each, w.dtype) * w
        norm = divisor(counts, math.prod(scores.shape[:-1]))
        return self._reduced(weighted(rows, w), norm), (dx * w[..., None], scores, norm)

    def label_weights(self, arrays: Mapping[str, Array], axes: int, target: Array) -> Array | None:
        """Return the weight of each label in the mean, for scores with `axes` axes.

        None: all samples have the same weight.
        """
        weights, ignored = arrays.get("class_weights"), self.ignore_index
        if len(target.shape) == axes or (weights is None and ignored is None):
            return None
        xp = namespace(target)
        labels = _as_indices(xp, target)
        keep = labels == labels if ignored is None else labels != ignored
        if weights is None:
            return xp.astype(keep, xp.float32)
        if not on_host(labels):  # unchecked; a label out of range makes the loss NaN
            keep = keep & (labels >= 0) & (labels < weights.shape[0])
        at = xp.reshape(xp.where(keep, labels, xp.zeros_like(labels)), (-1,))
        each = xp.reshape(xp.take(weights, at, axis=0), labels.shape)
        return each * xp.astype(keep, each.dtype)

    def vjp(self, cache: Cache, dout: Any) -> Array:
        dx, scores, *norm = cache
        (norm,) = norm or [_rows(scores)]
        if norm is None:  # divided already
            if isinstance(dout, float) and dout == 1.0 and dx.dtype == scores.dtype:
                return dx
            return scale_gradient(upcast(namespace(dx), dx), dout, 1.0, scores, axes_after=1)
        return scale_gradient(dx, dout, self._divisor(norm), scores, axes_after=1)

    def _refuse_weights(self, weights: Array, expected: Any) -> NoReturn:
        message = f"{self}: class_weights has shape {tuple(weights.shape)}; expected {expected}."
        raise ValueError(message)

    def _check_shapes(self, arrays: Mapping[str, Array], scores: Array, target: Array) -> None:
        shape = tuple(scores.shape)
        if len(shape) < 2:
            message = (
                f"{self}: scores have shape {shape}; expected (n, c). "
                "A single sample is x[None, :]."
            )
            raise ValueError(message)
        self._check_classes(shape)
        weights = arrays.get("class_weights")
        if weights is not None and tuple(weights.shape) != shape[-1:]:
            self._refuse_weights(weights, shape[-1:])
        target_shape, labels = tuple(target.shape), shape[:-1]
        if target_shape == shape:
            check_real(self, "target", target)
            if self.ignore_index is not None:
                message = f"{self}: ignore_index goes with integer labels of shape {labels}."
                raise ValueError(message)
        elif target_shape != labels:
            hint = ""
            if target_shape == (*labels, 1):
                hint = " Use labels[:, 0]." if len(labels) == 1 else " Use labels[..., 0]."
            message = (
                f"{self}: labels have shape {target_shape}; expected {labels} integers or {shape} "
                f"probabilities.{hint}"
            )
            raise ValueError(message)
        elif not is_integer(target):
            _refuse_labels(self, target)

    def _check_classes(self, shape: tuple[int, ...]) -> None:
        if shape[-1] < 2:
            message = (
                f"{self}: scores have shape {shape}; expected two classes or more: the softmax of "
                "one score is always 1. For binary classification by one score: SigmoidWithLoss()."
            )
            raise ValueError(message)

    def check(self, scores: Array, target: Array) -> None:
        shape = scores.shape
        axes = len(shape) - len(target.shape)
        if axes == 1:
            if not _surely_fit(target, shape[-1]) and is_integer(target) and on_host(target):
                self._check_classes(tuple(shape))
                check_labels(target, shape[-1], ignore_index=self.ignore_index)
        elif axes == 0 and on_host(target):
            check_values(self, "target", target, 0.0, math.inf, _PROBABILITIES)


_PROBABILITIES = "probabilities of the classes, none negative"


def _refuse_labels(owner: object, labels: Array) -> NoReturn:
    if getattr(labels.dtype, "kind", "") in "USTO":  # usually names of classes
        fix = "Number the classes: np.unique(labels, return_inverse=True)[1]"
    else:
        fix = "Convert them: xp.astype(labels, xp.int64)"
    message = f"{owner}: labels are {labels.dtype}; expected integers. {fix}."
    raise TypeError(message)


def _rows(scores: Array) -> int:
    """Return the number of samples, at least 1."""
    return max(math.prod(scores.shape[:-1]), 1)


def _valid(xp: Namespace, x: Array, target: Array, ignored: int | None = None) -> Array:
    """Return for each sample whether its label or its probabilities are in range."""
    if target.shape == x.shape:
        return xp.all(xp.astype(target, x.dtype, copy=False) >= 0, axis=-1)
    labels = _as_indices(xp, target)
    valid = (labels >= 0) & (labels < x.shape[-1])
    return valid if ignored is None else valid | (labels == ignored)


@operation
def softmax_cross_entropy(scores: Array, target: Array, divisor: float) -> tuple[Any, ...]:
    """Return the losses, the gradient of their sum, and whether it is divided by `divisor`.

    `scores` are ``(..., c)``, like the gradient, `target` is ``(...)`` of integers, like the
    losses, or ``(..., c)``; results are in at least float32. An invalid target that is not checked
    on the host makes the loss of its sample NaN.
    """
    xp, x = namespace(scores), upcast(namespace(scores), scores)
    valid = None if on_host(target) else _valid(xp, x, target)
    if target.shape == scores.shape:
        rows, dx = cross_entropy_of_targets(x, xp.astype(target, x.dtype))
    else:
        labels = _as_indices(xp, target)
        labels = labels if valid is None else xp.where(valid, labels, xp.zeros_like(labels))
        rows, dx = cross_entropy_of_labels(x, labels)
    return rows if valid is None else xp.where(valid, rows, math.nan), dx, False


@operation
def weighted_cross_entropy(
    scores: Array, target: Array, weights: Array | None, ignored: int | None, smoothing: float
) -> tuple[Array, Array, Any]:
    """Return the losses with the options of `SoftmaxWithLoss`, their gradient, and their divisor.

    A sample of weight 0 contributes 0, whatever its scores are. What is invalid makes the loss NaN.
    """
    xp, x = namespace(scores), upcast(namespace(scores), scores)
    t, norm = _distribution(xp, x, target, weights, ignored, smoothing)
    if target.shape != scores.shape and not smoothing:
        total = xp.sum(t, axis=-1)
        counts = total != 0
        labels = xp.where(counts, target, xp.zeros_like(target))
        rows, dx = cross_entropy_of_labels(xp.where(counts[..., None], x, 0.0), labels)
        rows, dx = rows * total, dx * total[..., None]
    else:
        rows, dx = cross_entropy_of_targets(x, t)
    if not on_host(target):  # not checked there
        rows = xp.where(_valid(xp, x, target, ignored), rows, math.nan)
    return rows, dx, norm


def _distribution(
    xp: Namespace, x: Array, target: Array, weights: Array | None, ignored: int | None, a: float
) -> tuple[Array, Any]:
    """Return the weighted target ``(..., c)``, smoothed by `a`, and the divisor of the mean."""
    classes = x.shape[-1]
    labels = target if target.shape != x.shape else None
    norm: Any = _rows(x)
    keep = None
    if labels is None:
        t = xp.astype(target, x.dtype)
    else:
        labels = _as_indices(xp, labels)[..., None]
        t = xp.astype(labels == xp.arange(classes, device=device(x)), x.dtype)
    if labels is not None and ignored is not None:
        keep = xp.astype(labels != ignored, x.dtype)  # (..., 1)
        t = t * keep
        norm = xp.maximum(xp.sum(keep), 1.0)
    if weights is not None:
        weights = xp.astype(weights, x.dtype)
        if labels is not None:
            total = xp.sum(t * weights)
            norm = total + xp.astype(total == 0, x.dtype)
    if a:
        t = (1.0 - a) * t + a / classes
        if keep is not None:
            t = t * keep
    if weights is not None:
        t = t * weights
    return t, norm


@operation
def cross_entropy_of_labels(x: Array, labels: Array) -> tuple[Array, Array]:
    """Return ``log(sum(exp(z))) - z[label]`` and ``softmax(x)``, minus 1 at the label.

    With ``z = x - max(x)``, for `x` ``(..., c)`` in at least float32 and `labels` ``(...)`` of
    integers. Where the label has the largest score, its exponential is 1, and adding it would round
    off the others. So `rest` is the sum without that 1.
    """
    xp, at = namespace(x), positions(x, _as_indices(namespace(x), labels))
    z = x - xp.max(x, axis=-1, keepdims=True)
    own = taken(z, at)
    less = xp.exp(own) - 1.0  # exactly 0 there; elsewhere the loss is log(2) or more
    e = put(xp.exp(z), at, less)
    rest = xp.sum(e, axis=-1, keepdims=True)
    e = put(e, at, less - rest)
    e /= rest + 1.0
    return (xp.log1p(rest) - own)[..., 0], e


@operation
def cross_entropy_of_targets(x: Array, t: Array) -> tuple[Array, Array]:
    """Return ``log(sum(exp(z))) * sum(t) - sum(t * z)`` and ``softmax(x) * sum(t) - t``.

    `x` and `t` are ``(..., c)``, of one dtype, at least float32; the losses are ``(...)``.
    """
    xp = namespace(x)
    total = xp.sum(t, axis=-1, keepdims=True)
    x = xp.where(total != 0, x, 0.0)  # a sample of weight 0 contributes 0
    z = x - xp.max(x, axis=-1, keepdims=True)
    e = xp.exp(z)
    s = xp.sum(e, axis=-1, keepdims=True)
    z = xp.where(t != 0, z, 0.0)  # a masked class has t = 0 and z = -inf, whose product is NaN
    rows = xp.log(s) * total - xp.sum(t * z, axis=-1, keepdims=True)
    e *= total / s
    e -= t
    return rows[..., 0], e


def _as_indices(xp: Namespace, labels: Array) -> Array:
    """Return labels in the index dtype."""
    is_index = dtype_name(labels.dtype) == "int64"
    return labels if is_index else xp.astype(labels, xp.arange(0).dtype)


_UNSIGNED: dict[Any, Any] = {  # signed dtype -> unsigned dtype, largest signed number
    np.dtype(f"int{bits}"): (np.dtype(f"uint{bits}"), 2 ** (bits - 1) - 1)
    for bits in (8, 16, 32, 64)
}


def _surely_fit(labels: Array, classes: int) -> bool:
    """Whether one pass shows that all labels are in ``[0, classes)``; False may be inconclusive."""
    values = labels if type(labels) is np.ndarray else host_values(labels)
    if values is None or not values.size:
        return False
    unsigned, largest = _UNSIGNED.get(values.dtype, (None, -1))
    if classes > largest:
        return False
    # as unsigned, negative numbers are larger than all others
    return bool(np.maximum.reduce(values.view(unsigned), None) < classes)


def check_labels(labels: Array, classes: int, *, ignore_index: int | None = None) -> None:
    """Check that integer `labels` are all in ``[0, classes)``.

    On a GPU this synchronizes: call it once per data set, not per batch.

    Parameters
    ----------
    labels : array of int
        Any shape.
    classes : int
        The number of classes.
    ignore_index : int, optional
        An additional valid label.

    Raises
    ------
    ValueError
        If a label is out of range.
    TypeError
        If labels are not integers.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> xl.check_labels(np.asarray([0, 3, 1]), classes=4)
    >>> xl.check_labels(np.asarray([0, 4, 1]), classes=4)
    Traceback (most recent call last):
        ...
    ValueError: SoftmaxWithLoss: label 4 is out of range; expected 0 to 3 for 4 classes.
    """
    namespace(labels, "check_labels", "labels")
    classes = checks.integer("check_labels", "classes", classes)
    if ignore_index is not None:
        ignore_index = checks.integer("check_labels", "ignore_index", ignore_index, least=None)
    if not is_integer(labels):
        _refuse_labels("check_labels", labels)
    bad = wrong_label(labels, classes, ignore_index)
    if bad is not None:
        message = (
            f"SoftmaxWithLoss: label {bad} is out of range; "
            f"expected 0 to {classes - 1} for {classes} classes."
        )
        raise ValueError(message)


def wrong_label(labels: Array, classes: int, ignored: int | None) -> int | None:
    """Return a label that is neither in ``[0, classes)`` nor `ignored`, or None."""
    if _surely_fit(labels, classes):
        return None
    labels = to_numpy(labels) if on_host(labels) else labels
    if ignored is not None:
        xp = namespace(labels)
        labels = xp.astype(labels, xp.arange(0).dtype)  # unsigned ones cannot equal a negative
        labels = xp.where(labels == ignored, xp.zeros_like(labels), labels)
    return out_of_range(labels, classes)
