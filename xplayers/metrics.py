"""Metrics of classification. The results are arrays and stay on the device."""

from __future__ import annotations

import math
from typing import NamedTuple

from xplayers import _checks as checks
from xplayers._calls import explained
from xplayers.arrays.checks import check_real, check_same, out_of_range
from xplayers.arrays.namespaces import (
    Array,
    device,
    is_floating,
    is_integer,
    namespace,
    on_host,
    size,
    widest_floating,
)
from xplayers.losses.weights import check_weight_values, spread

__all__ = ["accuracy", "binary_accuracy", "confusion_matrix", "precision_recall"]


@explained("Write accuracy(net.predict(x), t).")
def accuracy(y: Array, t: Array, sample_weight: Array | None = None) -> Array:
    """Return the fraction of samples whose largest score is that of the target class.

    Parameters
    ----------
    y : array of shape (n, c) or (..., c)
        Scores or probabilities of at least two classes. A sample with NaN among its scores counts
        as incorrect.
    t : array
        Integer labels ``(n,)`` (``(...)``), or one-hot or soft targets of the shape of `y`, whose
        argmax is the class.
    sample_weight : array, optional
        The weight of each sample, 0 or more: of shape ``(n,)``, or of more of the leading axes of
        ``(...)``.

    Returns
    -------
    array
        0-d, float64 if the library has it (JAX by default does not), else float32; 0 for no
        samples. It is the quotient of two counts, rounded once, or of two sums of weights.

    Raises
    ------
    ValueError, TypeError
        If the shapes, the dtype of the labels or their values are wrong. Values on a GPU and in
        compiled code are not checked; there a label out of range counts as incorrect.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> y = np.asarray([[0.1, 0.9], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
    >>> float(xl.accuracy(y, np.asarray([1, 0, 0, 1])))
    0.75
    """
    xp = namespace(y, "accuracy", "y")
    if sample_weight is not None:
        correct = _correct(y, t)
        w = _weights("accuracy", sample_weight, y)
        total = xp.sum(w) * (size(correct) / max(size(w), 1))
        return xp.sum(xp.where(correct, w, 0.0)) / xp.where(total == 0, 1.0, total)
    return xp.astype(hits(y, t), widest_floating(y)) / max(math.prod(y.shape[:-1]), 1)


def hits(y: Array, t: Array) -> Array:
    """Return the number of correct samples, a 0-d array of integers."""
    xp = namespace(y)
    return xp.sum(xp.astype(_correct(y, t), xp.int32))


def _correct(y: Array, t: Array) -> Array:
    """Return for each sample whether the class with the largest score is the target."""
    predicted, target = _predicted(y, "accuracy"), _target(t, y, "accuracy")
    _check_range("accuracy", "t", t, target, int(y.shape[-1]))
    return (predicted == target) & (predicted >= 0)


def _weights(owner: str, weights: Array, y: Array) -> Array:
    """Return the checked weights of samples, with the axes of the samples of scores `y`."""
    check_weight_values(owner, weights, y, "y")
    labels = y.shape[: max(len(y.shape) - 1, 1)]
    return spread(owner, weights, labels, widest_floating(y))


@explained("Write confusion_matrix(net.predict(x), t).")
def confusion_matrix(
    y: Array, t: Array, classes: int | None = None, sample_weight: Array | None = None
) -> Array:
    """Return the number of samples of each class by predicted class.

    Parameters
    ----------
    y : array of shape (n, c), or (n,)
        Scores or probabilities of at least two classes; or predicted integer labels, together with
        `classes`.
    t : array
        Integer labels ``(n,)``, or one-hot targets ``(n, c)``.
    classes : int, optional
        The number of classes; by default ``c``.
    sample_weight : array, optional
        The weight of each sample, as in `accuracy`.

    Returns
    -------
    array of shape (classes, classes)
        Integers, or sums of weights; entry ``[i, j]`` is of samples of class ``i`` that were
        predicted as ``j``.

    Raises
    ------
    ValueError, TypeError
        If the shapes, the dtype of the labels or their values are wrong. Values on a GPU and in
        compiled code are not checked; there a pair out of range, or of scores with NaN, is not
        counted.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> y = np.asarray([[0.1, 0.9], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
    >>> xl.confusion_matrix(y, np.asarray([1, 0, 0, 1]))
    array([[1, 1],
           [0, 2]])
    """
    return _matrix("confusion_matrix", y, t, classes, sample_weight)


def _matrix(
    owner: str, y: Array, t: Array, classes: int | None, sample_weight: Array | None
) -> Array:
    xp = namespace(y, owner, "y")
    check_same(owner, "t", t, y, like_name="y")
    if classes is not None:
        classes = checks.integer(owner, "classes", classes)
    if len(y.shape) == 1:
        if classes is None:
            message = (
                f"{owner}: y has shape {tuple(y.shape)}; expected (n, c) scores. For predicted "
                f"labels pass the number of classes: {owner}(y, t, classes)."
            )
            raise ValueError(message)
        predicted, target = _labels(y, "y", owner), _labels(t, "t", owner)
    else:
        classes = int(y.shape[-1]) if classes is None else classes
        predicted, target = _predicted(y, owner), _target(t, y, owner)
    if tuple(predicted.shape) != tuple(target.shape):
        message = f"{owner}: t has shape {tuple(t.shape)}; expected {tuple(y.shape)}."
        raise ValueError(message)
    w = None
    if sample_weight is not None:
        w = _weights(owner, sample_weight, y)
        zero = xp.zeros_like(target)  # a sample of weight 0 may be anything
        predicted, target = (xp.where(w != 0, a, zero) for a in (predicted, target))
    for name, a, labels in (("y", y, predicted), ("t", t, target)):
        _check_range(owner, name, a, labels, classes)
    # Counts are the distances between the first positions of each pair in the sorted pairs.
    edges = xp.arange(classes * classes + 1, device=device(y))
    rows, columns = xp.astype(target, edges.dtype), xp.astype(predicted, edges.dtype)
    valid = (rows >= 0) & (rows < classes) & (columns >= 0) & (columns < classes)
    if w is not None:
        # A sum over the samples of each row, in which others are 0.
        w = xp.reshape(xp.where(valid, w, 0.0), (-1, 1))
        of = xp.reshape(xp.arange(classes, device=device(y)), (1, -1))
        is_row, is_column = (xp.reshape(a, (-1, 1)) == of for a in (rows, columns))
        return xp.where(is_row, w, 0.0).T @ xp.astype(is_column, w.dtype)
    pairs = xp.where(valid, rows * classes + columns, xp.full_like(rows, -1))
    starts = xp.searchsorted(xp.sort(xp.reshape(pairs, (-1,))), edges)
    return xp.reshape(starts[1:] - starts[:-1], (classes, classes))


@explained("Write binary_accuracy(net.predict(x), t).")
def binary_accuracy(y: Array, t: Array, threshold: float = 0.0) -> Array:
    """Return the fraction of scores that are on the side of the threshold of their target.

    ``mean((y > threshold) == t)``: of one score for each sample, or of several labels for each
    (then it counts labels, not samples).

    Parameters
    ----------
    y : array
        Scores of any shape, as they go into `SigmoidWithLoss`. A NaN counts as incorrect.
    t : array
        Targets of the shape of `y`: 1 or True for positive ones, else 0 or False.
    threshold : float
        Above it a score is positive. Scores of `SigmoidWithLoss` are compared with 0,
        probabilities with 0.5 (as Keras' ``BinaryAccuracy`` does by default).

    Returns
    -------
    array
        0-d, of the dtype of the result of `accuracy`; 0 for no scores.

    Raises
    ------
    ValueError, TypeError
        If shapes, libraries or devices differ, or the dtypes are not real.

    Examples
    --------
    >>> import numpy as np
    >>> float(binary_accuracy(np.asarray([2.0, -1.0, 0.5, 3.0]), np.asarray([1, 0, 0, 1])))
    0.75
    """
    owner = "binary_accuracy"
    xp = namespace(y, owner, "y")
    check_same(owner, "t", t, y, like_name="y")
    for name, a in (("y", y), ("t", t)):
        if a.dtype != xp.bool:
            check_real(owner, name, a)
    threshold = checks.number(owner, "threshold", threshold, least=None)
    if tuple(t.shape) != tuple(y.shape):
        hint = " A column of scores is y[:, 0]." if tuple(y.shape) == (*t.shape, 1) else ""
        message = f"{owner}: t has shape {tuple(t.shape)}; expected {tuple(y.shape)}.{hint}"
        raise ValueError(message)
    positive = t if t.dtype == xp.bool else t != 0
    scores = y if is_floating(y) else xp.astype(y, widest_floating(y))
    correct = ((scores > threshold) == positive) & (scores == scores)
    count = xp.sum(xp.astype(correct, xp.int32))
    return xp.astype(count, widest_floating(y)) / max(math.prod(y.shape), 1)


class ClassScores(NamedTuple):
    """What `precision_recall` returns, each of shape ``(classes,)``.

    Attributes
    ----------
    precision : array
        Of the samples predicted as a class, the fraction that is of it; 0 where there are none.
    recall : array
        Of the samples of a class, the fraction predicted as it; 0 where there are none.
    f1 : array
        Their harmonic mean, ``2 * hits / (samples + predicted)``; 0 where both are 0.
    samples : array
        The numbers of samples, integers; or the sums of their weights.
    """

    precision: Array
    recall: Array
    f1: Array
    samples: Array


@explained("Write precision_recall(net.predict(x), t).")
def precision_recall(
    y: Array, t: Array, classes: int | None = None, sample_weight: Array | None = None
) -> ClassScores:
    """Return precision, recall, F1 score and number of samples of each class.

    The mean over the classes is the macro average, as ``float(xp.mean(scores.f1))``.

    Parameters
    ----------
    y, t, classes, sample_weight
        As in `confusion_matrix`: scores or predicted labels, targets, the number of classes, and
        the weights of the samples.

    Returns
    -------
    ClassScores
        Arrays ``precision``, ``recall``, ``f1`` and ``samples``, one value per class. Where
        scikit-learn divides by 0 (and warns) they are 0.

    Raises
    ------
    ValueError, TypeError
        As `confusion_matrix`.

    Examples
    --------
    >>> import numpy as np
    >>> scores = precision_recall(np.asarray([0, 1, 1, 1]), np.asarray([0, 0, 1, 1]), 2)
    >>> scores.recall.tolist(), scores.samples.tolist()
    ([0.5, 1.0], [2, 2])
    """
    matrix = _matrix("precision_recall", y, t, classes, sample_weight)
    xp = namespace(matrix)
    samples, predicted = xp.sum(matrix, axis=1), xp.sum(matrix, axis=0)
    right = xp.astype(xp.linalg.diagonal(matrix), widest_floating(y))
    precision, recall, f1 = (
        right / xp.astype(xp.where(count > 0, count, xp.ones_like(count)), right.dtype)
        for count in (predicted, samples, (samples + predicted))
    )
    return ClassScores(precision, recall, 2.0 * f1, samples)


def _predicted(y: Array, owner: str) -> Array:
    """Return the class with the largest score of each sample; -1 where one is NaN."""
    namespace(y, owner, "y")
    check_same(owner, "y", y, y, like_name="y")
    check_real(owner, "y", y)
    shape = tuple(y.shape)
    if len(shape) < 2:
        hint = " For predicted labels, take the mean of y == t." if is_integer(y) else ""
        message = f"{owner}: y has shape {shape}; expected (n, c).{hint}"
        raise ValueError(message)
    if shape[-1] < 2:
        message = (
            f"{owner}: y has shape {shape}; expected the scores of at least two classes. For a "
            "single score write xp.concat([-y, y], axis=-1), for a probability [1 - y, y]."
        )
        raise ValueError(message)
    return _largest(y)


def _target(t: Array, y: Array, owner: str) -> Array:
    """Return the classes of targets or labels `t`, for scores `y`."""
    check_same(owner, "t", t, y, like_name="y")
    check_real(owner, "t", t)
    shape, t_shape = tuple(y.shape), tuple(t.shape)
    if t_shape == shape:
        return _largest(t)
    if t_shape != shape[:-1]:
        message = f"{owner}: t has shape {t_shape}; expected {shape[:-1]} integers or {shape}."
        raise ValueError(message)
    return _labels(t, "t", owner)


def _largest(a: Array) -> Array:
    xp = namespace(a)
    if not is_floating(a):
        return xp.argmax(xp.astype(a, xp.int32) if a.dtype == xp.bool else a, axis=-1)
    largest = xp.max(a, axis=-1)
    return xp.where(largest == largest, xp.argmax(a, axis=-1), -1)


def _labels(a: Array, name: str, owner: str) -> Array:
    """Return integer labels in the index dtype, in which all libraries compare."""
    xp = namespace(a)
    check_real(owner, name, a)
    if not is_integer(a):
        message = f"{owner}: {name} is {a.dtype}; labels are integers."
        raise TypeError(message)
    return xp.astype(a, xp.arange(0).dtype, copy=False)


def _check_range(owner: str, name: str, a: Array, labels: Array, classes: int) -> None:
    """Check `labels`, the classes of `a`, where that needs no transfer."""
    bad = out_of_range(labels, classes) if on_host(labels) else None
    if bad is None:
        return
    error = f"label {bad} in {name} is out of range; expected 0 to {classes - 1}"
    if bad < 0 and is_floating(a):
        error = f"{name} contains NaN, which is no class"
    message = f"{owner}: {error}."
    raise ValueError(message)
