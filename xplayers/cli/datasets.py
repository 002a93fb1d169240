"""What the command learns from: data sets that come with the package, and the user's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import xplayers as xl
from xplayers.cli.arrays import listed, npz
from xplayers.cli.words import Mistake

FROM_FILES: dict[str, Callable[..., Any]] = {
    "mnist": xl.data.load_mnist,
    "fashion": xl.data.load_fashion_mnist,
}
BUILT_IN = ("digits", *FROM_FILES, "spiral")

Classes = tuple[int | str, ...]


class Data(NamedTuple):
    """Samples to learn from and samples held out, on the host.

    Parameters
    ----------
    name : str
        What it is called.
    x, t, x_test, t_test : numpy.ndarray
        Samples, and the numbers of their classes.
    classes : tuple of int or str
        What the classes are called.
    own : bool
        Whether they are the user's, of whatever scale.
    """

    name: str
    x: np.ndarray
    t: np.ndarray
    x_test: np.ndarray
    t_test: np.ndarray
    classes: Classes
    own: bool = False


def read(dataset: str, folder: str | None = None, classes: Classes | None = None) -> Data:
    """Return a data set.

    Parameters
    ----------
    dataset : str
        One of `BUILT_IN`, or an ``.npz`` file.
    folder : str, optional
        Where the files of one of `FROM_FILES` are.
    classes : tuple of int or str, optional
        What the classes of a file are called; by default what its labels are.
    """
    if dataset in FROM_FILES:
        return _from_files(dataset, folder)
    if folder is not None:
        message = f"--data-dir goes with --dataset {' or '.join(FROM_FILES)}"
        raise Mistake(message)
    if dataset == "digits":
        train, test = xl.data.load_digits(flatten=False)
        return Data(dataset, *train, *test, classes=tuple(range(10)))
    if dataset == "spiral":
        x, t = xl.data.spiral(400, 3)
        out = np.arange(len(x)) % 5 == 4  # evenly from all arms, and all along them
        return Data(dataset, x[~out], t[~out], x[out], t[out], classes=(0, 1, 2))
    if Path(dataset).suffix != ".npz":
        message = (
            f"--dataset: invalid choice: {dataset!r} (choose from {', '.join(BUILT_IN)}, or an "
            ".npz file)"
        )
        raise Mistake(message)
    return _own(dataset, classes)


def _from_files(dataset: str, folder: str | None) -> Data:
    try:
        train, test = FROM_FILES[dataset](folder, flatten=False)
    except (OSError, ValueError) as error:
        hint = " (here: --data-dir FOLDER)" if folder is None else ""
        message = f"--dataset {dataset}: {error}{hint}"
        raise Mistake(message) from error
    if train[0].shape[1:] != test[0].shape[1:]:
        message = f"--dataset {dataset}: its two parts have images of different sizes"
        raise Mistake(message)
    return Data(dataset, *train, *test, classes=tuple(range(10)))


def _own(path: str, classes: Classes | None) -> Data:
    with npz(path) as arrays:
        if {"x_train", "t_train", "x_test", "t_test"} <= set(arrays):
            x, t = _pair(arrays, "x_train", "t_train")
            x_test, t_test = _pair(arrays, "x_test", "t_test")
            classes = classes or _classes("t_train", t)
            t, t_test = numbers("t_train", t, classes), numbers("t_test", t_test, classes)
        elif {"x", "t"} <= set(arrays):
            x, t = _pair(arrays, "x", "t")
            classes = classes or _classes("t", t)
            t = numbers("t", t, classes)
            if len(x) < 2:
                message = f"x has {len(x)} samples; to hold some out there have to be two or more"
                raise ValueError(message)
            # The same for every seed, so that the results of seeds can be compared.
            order = np.random.default_rng(0).permutation(len(x))
            out, rest = np.sort(order[: -(-len(x) // 5)]), np.sort(order[-(-len(x) // 5) :])
            x, t, x_test, t_test = x[rest], t[rest], x[out], t[out]
        else:
            message = (
                f"{path} has {listed(arrays)}; expected x and t, or x_train, t_train, x_test and "
                "t_test"
            )
            raise Mistake(message)
    if x.shape[1:] != x_test.shape[1:]:
        message = f"{path}: x_train has shape {x.shape}, x_test {x_test.shape}"
        raise Mistake(message)
    return Data(os.path.basename(path), x, t, x_test, t_test, classes, own=True)


def _pair(arrays: Mapping[str, np.ndarray], x: str, t: str) -> tuple[np.ndarray, np.ndarray]:
    samples, labels = arrays[x], arrays[t]
    if samples.ndim < 2 or labels.shape[:1] != samples.shape[:1]:
        message = (
            f"{x} has shape {samples.shape}, {t} {labels.shape}; expected samples along the first "
            "axis, and as many labels"
        )
        raise ValueError(message)
    return samples, labels


def _classes(name: str, t: np.ndarray) -> Classes:
    """Return the classes that labels name: the labels there are, or the columns of one-hot ones."""
    if t.ndim == 2 and t.shape[1] > 1:
        return tuple(range(t.shape[1]))
    if t.ndim != 1 or t.dtype.kind not in "biuUS":
        message = (
            f"{name} is {t.dtype} of shape {t.shape}; expected labels (n,), integers or strings, "
            "or one-hot rows (n, classes)"
        )
        raise ValueError(message)
    found = tuple(np.unique(_plain(t)).tolist())
    if len(found) < 2:
        message = f"{name} has {len(found)} class; expected two or more"
        raise ValueError(message)
    return found


def numbers(name: str, t: np.ndarray, classes: Classes) -> np.ndarray:
    """Return the numbers of the classes that labels name."""
    if t.ndim == 2 and t.shape[1] == len(classes):
        return np.argmax(t, axis=1)
    t = _plain(t)
    known = np.asarray(classes)
    if t.ndim == 1 and (t.dtype.kind == "U") == (known.dtype.kind == "U"):
        order = np.argsort(known)
        places = order[np.minimum(np.searchsorted(known, t, sorter=order), len(known) - 1)]
        strange = t[known[places] != t]
        if not len(strange):
            return places
        what = f"the label {strange[0]!s}"
    else:
        what = f"{t.dtype} of shape {t.shape}"
    few = ", ".join(map(str, classes[:20])) + (", ..." if len(classes) > 20 else "")
    message = f"{name} has {what}; the classes are {few}"
    raise ValueError(message)


def _plain(t: np.ndarray) -> np.ndarray:
    """Return labels as integers or strings; JSON has no other for the names of classes."""
    if t.dtype.kind == "b":
        return t.astype(np.int64)
    return np.char.decode(t, "utf-8") if t.dtype.kind == "S" else t
