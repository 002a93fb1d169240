"""Softmax and cross entropy of classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from xplayers import _checks as checks
from xplayers._arrays import (
    Array,
    Namespace,
    check_real,
    check_values,
    device,
    dtype_name,
    is_integer,
    namespace,
    on_host,
    out_of_range,
    put_along_last,
    taken_along_last,
    to_numpy,
    widened,
)
from xplayers._recording import StandIn, whole
from xplayers.cuda.switch import is_fused
from xplayers.elementwise import as_numpy, seen_now
from xplayers.layers.base import Cache
from xplayers.layers.stores import Buffer
from xplayers.losses import softmax_host as host
from xplayers.losses.base import Loss, times


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
        A label whose samples count nothing, in the loss and in the mean.
    label_smoothing : float
        ``a`` in ``[0, 1]``: the target becomes ``(1 - a) * t + a / c``.
    reduction : {"mean", "sum", "none"}
        As in `Loss`.

    Notes
    -----
    ``forward(scores, target)`` takes scores of shape ``(n, c)``, or ``(..., c)`` for sequences, and
    either integer labels of shape ``(n,)`` (``(...)``) or one-hot or soft targets of the shape of
    the scores, in any dtype. Labels are checked to be in range, and targets to be 0 or more, where
    they are on the host. Where looking at them would wait for a GPU, and inside ``jax.jit``, what
    is out of range makes the loss NaN; `check_labels` looks at labels once.

    Targets need not add up to 1: a sample whose sum is ``s`` counts ``s`` times in the loss, and
    once in the mean. A sample without any weight (ignored, of a class of weight 0, or with a target
    of zeros) adds exactly 0 to loss and gradient whatever its scores are, inf and NaN too. A loss
    is infinite where a class with a part in the target has a score of -inf, and no other is.

    Of labels, loss and gradient have all their digits in the tail too: scores of 20 and 0 with
    label 0 have a loss of 2.06e-9 in float32. With soft targets and label smoothing, what is below
    the last digit of 1 (6e-8 in float32) is 0 there.

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
        self, arrays: Mapping[str, Array], scores: Array, target: Array
    ) -> tuple[Array, Cache]:
        self._check_shapes(arrays, scores, target)
        xp = namespace(scores)
        plain = not (arrays or self.ignore_index is not None or self.label_smoothing)
        norm: Any = _rows(scores)
        if plain and is_fused(xp):
            from xplayers.cuda.softmax_cross_entropy import softmax_cross_entropy

            # Of float16 it is rounded when it is multiplied, by a scale that keeps it from 0.
            dtype = None if dtype_name(scores.dtype) == "float16" else scores.dtype
            divisor = self._divisor(norm)
            fused = softmax_cross_entropy(scores, target, norm=divisor, dtype=dtype)
            if fused is not None:
                rows, dx = fused
                return self._reduced(xp, rows, norm), (dx, scores, None)  # divided already
        x = widened(xp, scores)
        labels = target.shape != scores.shape
        of_labels = host.fitting(x, target) if labels and plain else None
        if of_labels is not None:
            rows, e = of_labels(x, target)
            return self._reduced(xp, rows, norm), (e, scores)
        # On the host they have been checked; elsewhere a wrong target makes the loss NaN.
        valid = None if on_host(target) else self._valid(target, x)
        # loss = sum(t * (log(s) - z)) / norm; dx = (softmax(x) * sum(t) - t) / norm
        if labels and plain:
            at = _index(xp, target)
            if valid is not None:
                at = at * xp.astype(valid, at.dtype)[..., None]
            rows, e = _of_labels(xp, x, at)
        else:
            t, norm = self._distribution(xp, arrays, x, target)
            if labels and not self.label_smoothing:
                total = xp.sum(t, axis=-1, keepdims=True)
                # A sample without any weight adds nothing, whatever its scores are.
                x, at = xp.where(total != 0, x, 0.0), _index(xp, target)
                rows, e = _of_labels(xp, x, at * xp.astype(total != 0, at.dtype))
                rows = rows * total
                e *= total
            else:
                body = whole(_of_targets) if isinstance(x, StandIn) else _of_targets
                rows, e = body(xp, x, t)
        rows = rows[..., 0]
        if valid is not None:
            rows = xp.where(valid, rows, math.nan)
        cache = (e, scores) if isinstance(norm, int) else (e, scores, norm)  # arrays only
        return self._reduced(xp, rows, norm), cache

    def vjp(self, cache: Cache, dout: Any) -> Array:
        dx, scores, *norm = cache
        (norm,) = norm or [_rows(scores)]
        if norm is None:
            if isinstance(dout, float) and dout == 1.0 and dx.dtype == scores.dtype:
                return dx
            return times(widened(namespace(dx), dx), dout, 1.0, scores, axes_after=1)
        return times(dx, dout, self._divisor(norm), scores, axes_after=1)

    def _distribution(
        self, xp: Namespace, arrays: Mapping[str, Array], x: Array, target: Array
    ) -> tuple[Array, Any]:
        """Return the weighted target ``(..., c)``, and what the mean divides by."""
        classes, weights = x.shape[-1], arrays.get("class_weights")
        labels = target if target.shape != x.shape else None
        norm: Any = _rows(x)
        keep = None
        if labels is None:
            t = xp.astype(target, x.dtype)
        else:
            labels = _index(xp, labels)
            t = xp.astype(labels == xp.arange(classes, device=device(x)), x.dtype)
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
        given, labels = tuple(target.shape), shape[:-1]
        if given == shape:
            check_real(self, "target", target)
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
            _refuse_labels(self, target)

    def _check_classes(self, shape: tuple[int, ...]) -> None:
        if shape[-1] < 2:
            message = (
                f"{self}: scores have shape {shape}; expected two classes or more: the softmax of "
                "one score is always 1. For a score that says yes or no: SigmoidWithLoss()."
            )
            raise ValueError(message)

    def check(self, scores: Array, target: Array) -> None:
        if len(target.shape) == len(scores.shape):
            if on_host(target):
                check_values(self, "target", target, 0.0, math.inf, _PROBABILITIES)
        elif len(target.shape) + 1 != len(scores.shape) or _surely_fit(target, scores.shape[-1]):
            return
        elif is_integer(target) and on_host(target):
            self._check_classes(tuple(scores.shape))
            check_labels(target, scores.shape[-1], ignore_index=self.ignore_index)

    def _valid(self, target: Array, x: Array) -> Array:
        """Return for each sample whether its label is in range, or no probability is negative."""
        xp = namespace(target)
        if target.shape == x.shape:
            return xp.all(xp.astype(target, x.dtype, copy=False) >= 0, axis=-1)
        labels = xp.astype(target, xp.arange(0).dtype)
        valid = (labels >= 0) & (labels < x.shape[-1])
        return valid if self.ignore_index is None else valid | (labels == self.ignore_index)


_PROBABILITIES = "probabilities of the classes, none negative"


def _refuse_labels(owner: object, labels: Array) -> NoReturn:
    named = getattr(labels.dtype, "kind", "") in "USTO"  # their names, mostly
    what = "np.unique(labels, return_inverse=True)[1]" if named else "xp.astype(labels, xp.int64)"
    fix = "Number the classes" if named else "Convert them"
    message = f"{owner}: labels are {labels.dtype}; expected integers. {fix}: {what}."
    raise TypeError(message)


def _rows(scores: Array) -> int:
    """Return the number of samples, at least 1."""
    return max(math.prod(scores.shape[:-1]), 1)


def _below_largest(xp: Namespace, x: Array) -> Array:
    """Return scores less the largest of each sample."""
    return x - xp.max(x, axis=-1, keepdims=True)


def _of_targets(xp: Namespace, x: Array, t: Array) -> tuple[Array, Array]:
    """Return ``log(s) * sum(t) - sum(t * z)``, one value a sample, and ``softmax(x) * sum(t) - t``.

    On the host, a look tells where there is nothing to select.
    """
    total = xp.sum(t, axis=-1, keepdims=True)
    if not _are_above(total, 0.0):  # a sample without any weight adds nothing, whatever its scores
        x = xp.where(total != 0, x, 0.0)
    z = _below_largest(xp, x)
    e = xp.exp(z)
    s = xp.sum(e, axis=-1, keepdims=True)
    if not _are_above(z, -math.inf):  # a class that is masked has t = 0, and 0 * inf would be NaN
        z = xp.where(t != 0, z, 0.0)
    rows = xp.log(s) * total - xp.sum(t * z, axis=-1, keepdims=True)
    e *= total / s
    e -= t
    return rows, e


def _are_above(a: Array, low: float) -> bool:
    """Whether values may be looked at, and all are above `low`."""
    seen = seen_now(a)
    return seen is not None and seen.size > 0 and seen.item(seen.argmin()) > low


def _of_labels(xp: Namespace, x: Array, at: Array) -> tuple[Array, Array]:
    """Return ``log(sum(exp(z))) - z[at]``, one value a sample, and ``softmax(x)``, less 1 there.

    Where that class is the largest, its exponential is 1 and would take the last digits of the
    others. So the 1 is left out of the sum, which is `rest`.
    """
    take, put = _addressed(xp, x, at)
    z = _below_largest(xp, x)
    own = take(z)
    less = xp.expm1(own)
    e = put(xp.exp(z), less)
    rest = xp.sum(e, axis=-1, keepdims=True)
    e = put(e, less - rest)
    e /= rest + 1.0
    return xp.log1p(rest) - own, e


def _addressed(
    xp: Namespace, x: Array, at: Array
) -> tuple[Callable[[Array], Array], Callable[[Array, Array], Array]]:
    """Return functions that take from arrays like `x`, and put there, one value a sample."""
    if type(x.value if isinstance(x, StandIn) else x) is np.ndarray:
        where = host.positions(at, x.shape[-1])
        return (lambda x: host.taken(x, where)), lambda x, value: host.put(x, where, value)
    return (
        lambda x: taken_along_last(xp, x, at),
        lambda x, value: put_along_last(xp, x, at, value),
    )


def _index(xp: Namespace, labels: Array) -> Array:
    """Return integer labels as indices, with an axis for the classes."""
    if dtype_name(labels.dtype) != "int64":
        labels = xp.astype(labels, xp.arange(0).dtype)
    return labels[..., None]


_UNSIGNED: dict[Any, Any] = {  # and the largest number with a sign
    np.dtype(f"int{bits}"): (np.dtype(f"uint{bits}"), 2 ** (bits - 1) - 1)
    for bits in (8, 16, 32, 64)
}


def _surely_fit(labels: Array, classes: int) -> bool:
    """Whether one pass says that all labels are in ``[0, classes)``, as it mostly does."""
    (labels,) = as_numpy([labels]) or [None]
    if type(labels) is not np.ndarray or not labels.size:
        return False
    unsigned, largest = _UNSIGNED.get(labels.dtype, (None, -1))
    if classes > largest:
        return False
    # without its sign, a negative number is larger than any other
    return bool(np.maximum.reduce(labels.view(unsigned), None) < classes)


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
    TypeError
        If labels are not integers.
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
        labels = xp.astype(labels, xp.arange(0).dtype)  # unsigned ones have no negative to compare
        labels = xp.where(labels == ignored, xp.zeros_like(labels), labels)
    return out_of_range(labels, classes)
