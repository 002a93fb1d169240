"""Labels in the user's files: their classes, and the numbers of the classes."""

from __future__ import annotations

import numpy as np

from xplayers.models.model import Classes

IN_PYTHON = (
    "The command supports one class per sample; in Python there are SigmoidWithLoss for several, "
    "MeanSquaredError for regression, for which --task regression is"
)


def classes_of(name: str, t: np.ndarray) -> Classes:
    """Return the classes: the different labels, or the columns of one-hot ones."""
    if _has_columns(t):
        _of_one_hot(name, t)
        return tuple(range(t.shape[1]))
    classes = tuple(np.unique(_plain(name, t)).tolist())
    if len(classes) < 2:
        message = f"{name} has {len(classes)} class; expected two or more"
        raise ValueError(message)
    return classes


def numbers(name: str, t: np.ndarray, classes: Classes) -> np.ndarray:
    """Return the numbers of the classes of labels."""
    few = ", ".join(map(str, classes[:20])) + (", ..." if len(classes) > 20 else "")
    if _has_columns(t) and not set(range(t.shape[1])) <= set(classes):
        message = f"{name} is one-hot for {t.shape[1]} classes, from 0; the classes are {few}"
        raise ValueError(message)
    labels = _of_one_hot(name, t) if _has_columns(t) else _plain(name, t)
    unique, inverse = np.unique(labels, return_inverse=True)
    known = {label: i for i, label in enumerate(classes)}
    unknown = [label for label in unique.tolist() if label not in known]
    if unknown:
        fault = f"{t.dtype} of shape {t.shape}"
        if any(isinstance(label, type(unknown[0])) for label in classes):
            fault = f"the label {unknown[0]}"
        message = f"{name} has {fault}; the classes are {few}"
        raise ValueError(message)
    return np.asarray([known[label] for label in unique.tolist()], np.int64)[inverse]


def _has_columns(t: np.ndarray) -> bool:
    return t.ndim == 2 and t.shape[1] > 1 and t.dtype.kind in "biuf"


def _of_one_hot(name: str, t: np.ndarray) -> np.ndarray:
    """Return the labels of one-hot rows; ValueError for other rows."""
    wrong = np.count_nonzero(t == 1, axis=1) != 1
    wrong |= np.count_nonzero(t == 0, axis=1) != t.shape[1] - 1
    if wrong.any():
        row = int(np.argmax(wrong))
        values = " ".join(f"{value:g}" for value in t[row, :8].tolist())
        more = " ..." if t.shape[1] > 8 else ""
        message = (
            f"{name} has shape {t.shape} and is not one-hot: row {row} (from 0) is "
            f"[{values}{more}]; expected a single 1 and else 0, or labels (n,). {IN_PYTHON}"
        )
        raise ValueError(message)
    return np.argmax(t, axis=1)


def _plain(name: str, t: np.ndarray) -> np.ndarray:
    """Return labels as integers or strings, which JSON supports."""
    if t.ndim != 1 or t.dtype.kind not in "biuUS":
        message = (
            f"{name} is {t.dtype} of shape {t.shape}; expected labels (n,), integers or strings, "
            f"or one-hot rows (n, classes). {_next_step(name, t)}"
        )
        raise ValueError(message)
    if t.dtype.kind == "b":
        return t.astype(np.int64)
    if t.dtype.kind != "S":
        return t
    try:
        return np.char.decode(t, "utf-8")
    except UnicodeDecodeError as error:
        message = f"{name} has labels in bytes that are not UTF-8: {error.object!r}"
        raise ValueError(message) from error


def _next_step(name: str, t: np.ndarray) -> str:
    if t.ndim == 2 and t.shape[1] == 1:
        return f"Save {name}[:, 0]"
    if t.ndim == 1 and t.dtype.kind == "f" and np.all(np.mod(t, 1) == 0):
        return f"Save {name}.astype(int)"
    return IN_PYTHON
