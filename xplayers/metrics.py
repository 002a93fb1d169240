"""How good predictions are. The results stay on the device, as arrays."""

from __future__ import annotations

from xplayers._arrays import (
    Array,
    check_real,
    check_same,
    device,
    is_integer,
    namespace,
    on_host,
    out_of_range,
    signed,
    size,
)
from xplayers._checks import integer

__all__ = ["accuracy", "confusion_matrix"]


def accuracy(y: Array, t: Array) -> Array:
    """Return the part of the samples whose largest score is that of the target class.

    Parameters
    ----------
    y : array of shape (n, c) or (..., c)
        Scores or probabilities.
    t : array
        Integer labels ``(n,)`` (``(...)``), or one-hot or soft targets of the shape of `y`, of
        which the largest counts.

    Returns
    -------
    array
        A 0-d float32 array; 0 for no samples.

    Raises
    ------
    ValueError, TypeError
        If the shapes, or the kind of the labels, do not fit.
    """
    hits = _classes(y, y, "accuracy") == _classes(t, y, "accuracy")
    xp = namespace(y)
    return xp.sum(xp.astype(hits, xp.float32)) / max(size(hits), 1)


def confusion_matrix(y: Array, t: Array, classes: int | None = None) -> Array:
    """Return how many samples of each class were predicted as each class.

    Parameters
    ----------
    y : array of shape (n, c), or (n,)
        Scores or probabilities; or predicted labels, integers, together with `classes`.
    t : array
        Integer labels ``(n,)``, or one-hot targets ``(n, c)``.
    classes : int, optional
        The number of classes; by default ``c``.

    Returns
    -------
    array of shape (classes, classes)
        Integers; entry ``[i, j]`` counts samples of class ``i`` that were taken for class ``j``.

    Raises
    ------
    ValueError, TypeError
        If the shapes, the kind of the labels or their values do not fit. Values on a GPU and in
        compiled code are not looked at; a pair that is out of range is not counted there.
    """
    xp = namespace(y, "confusion_matrix", "y")
    check_same("confusion_matrix", "t", t, y, like_name="y")
    classes = None if classes is None else integer("confusion_matrix", "classes", classes)
    if classes is not None and len(y.shape) == 1:
        predicted, target = y, t
        if not (is_integer(y) and is_integer(t)):
            message = f"confusion_matrix: y is {y.dtype}, t is {t.dtype}; labels are integers."
            raise TypeError(message)
    else:
        classes = int(y.shape[-1]) if classes is None else classes
        predicted, target = _classes(y, y, "confusion_matrix"), _classes(t, y, "confusion_matrix")
    if tuple(predicted.shape) != tuple(target.shape):
        message = f"confusion_matrix: t has shape {tuple(t.shape)}; expected {tuple(y.shape)}."
        raise ValueError(message)
    for name, labels in (("y", predicted), ("t", target)):
        bad = out_of_range(labels, classes) if on_host(labels) else None
        if bad is not None:
            message = (
                f"confusion_matrix: label {bad} in {name} is out of range; "
                f"expected 0 to {classes - 1}."
            )
            raise ValueError(message)
    # Counts are the distances between the places where each pair begins in the sorted pairs.
    edges = xp.arange(classes * classes + 1, device=device(y))
    rows, columns = xp.astype(target, edges.dtype), xp.astype(predicted, edges.dtype)
    valid = (rows >= 0) & (rows < classes) & (columns >= 0) & (columns < classes)
    pairs = xp.where(valid, rows * classes + columns, xp.full_like(rows, -1))
    starts = xp.searchsorted(xp.sort(xp.reshape(pairs, (-1,))), edges)
    return xp.reshape(starts[1:] - starts[:-1], (classes, classes))


def _classes(a: Array, y: Array, owner: str) -> Array:
    """Return the classes that scores, targets or labels `a` name, for scores `y`."""
    xp = namespace(y, owner, "y")
    check_same(owner, "t", a, y, like_name="y")
    shape, given = tuple(y.shape), tuple(a.shape)
    check_real(owner, "y" if a is y else "t", a)
    if len(shape) < 2:
        message = f"{owner}: y has shape {shape}; expected (n, c)."
        raise ValueError(message)
    if given == shape:
        return xp.argmax(xp.astype(a, xp.int32) if a.dtype == xp.bool else a, axis=-1)
    if given != shape[:-1]:
        message = f"{owner}: t has shape {given}; expected {shape[:-1]} integers or {shape}."
        raise ValueError(message)
    if not is_integer(a):
        message = f"{owner}: t is {a.dtype}; labels are integers."
        raise TypeError(message)
    return signed(a)
