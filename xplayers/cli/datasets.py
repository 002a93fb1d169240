"""The data sets of the command: those of the package, and the user's own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import xplayers as xl
from xplayers.cli import images, tables
from xplayers.cli.arrays import digest, listed, npz
from xplayers.cli.labels import classes_of, numbers
from xplayers.cli.messages import UsageError
from xplayers.data.samples import check_numbers
from xplayers.models.columns import Columns
from xplayers.models.model import Classes

FROM_FILES: dict[str, Callable[..., Any]] = {
    "mnist": xl.data.load_mnist,
    "fashion": xl.data.load_fashion_mnist,
}
BUILT_IN = ("digits", *FROM_FILES, "spiral")


class Source(NamedTuple):
    """The source of data: one of `BUILT_IN` and its directory, or the absolute path of a file.

    Models store it, for `evaluate`.
    """

    dataset: str
    folder: str | None = None

    def __str__(self) -> str:
        return self.dataset if self.folder is None else f"{self.dataset} in {self.folder}"


class Data(NamedTuple):
    """Training samples and held-out samples, on the host."""

    name: str
    x: np.ndarray
    t: np.ndarray  # the numbers of their classes; of a regression (n, values) of float64
    x_test: np.ndarray
    t_test: np.ndarray
    classes: Classes  # the names of the classes; () of a regression
    source: Source
    own: bool = False  # whether they are the user's, to be standardised
    columns: Columns | None = None  # of a table

    def digest(self) -> str:
        """Return the SHA-256 digest of samples, labels and names of classes."""
        classes = np.frombuffer(repr(self.classes).encode("utf-8", "surrogatepass"), "uint8")
        return digest(self.x, self.t, self.x_test, self.t_test, classes)

    def named(self, classes: Classes) -> Data:
        """Return the data with labels renumbered by the order of `classes`."""
        if classes == self.classes:
            return self
        known = np.asarray(self.classes)
        with _naming(self.name):
            t, t_test = (numbers("t", known[t], classes) for t in (self.t, self.t_test))
        return self._replace(t=t, t_test=t_test, classes=classes)


def read(
    dataset: str,
    folder: str | None = None,
    classes: Classes | None = None,
    columns: Columns | None = None,
    *,
    target: str | None = None,
    categories: Sequence[str] | None = None,
    image_size: Sequence[int] | None = None,
    channels: int | None = None,
    regression: bool = False,
) -> Data:
    """Return a data set: one of `BUILT_IN`, an ``.npz`` file, a table, or a folder of images.

    `folder` has the files of one of `FROM_FILES`. `classes` and `columns` are those of a model; by
    default the different labels of the file, and what `target` and `categories` make of a table.
    `image_size` and `channels` are those that images are brought to.
    """
    if categories and target is None:
        message = "--categories goes with --target, the column of the labels in a table (CSV)"
        raise UsageError(message)
    options = ("--target", target), ("--image-size", image_size), ("--task", regression or None)
    for option, value in options:
        if value is not None and dataset in BUILT_IN:
            message = f"{option} goes with data of your own, not with {dataset}"
            raise UsageError(message)
    if dataset in FROM_FILES:
        return _from_files(dataset, folder)
    if folder is not None:
        message = f"--data-dir goes with --dataset {' or '.join(FROM_FILES)}"
        raise UsageError(message)
    if dataset == "digits":
        train, test = xl.data.load_digits(flatten=False)
        return Data(dataset, *train, *test, tuple(range(10)), Source(dataset))
    if dataset == "spiral":
        x, t = xl.data.spiral(400, 3)
        out = np.arange(len(x)) % 5 == 4  # evenly spaced along all arms
        return Data(dataset, x[~out], t[~out], x[out], t[out], (0, 1, 2), Source(dataset))
    if Path(dataset).suffix.lower() != ".npz" and not os.path.exists(dataset):
        message = (
            f"--dataset: invalid choice: {dataset!r} (choose from {', '.join(BUILT_IN)}, or an "
            ".npz file)"
        )
        raise UsageError(message)
    if target is None and images.classes_in(dataset):
        x, t = images.read_classes(dataset, image_size, channels)
        if regression:
            message = f"--task regression goes with numbers; {dataset} has images of classes"
            raise UsageError(message)
        return _own(dataset, classes, {"x": x, "t": t})
    if image_size:
        message = f"--image-size goes with a folder of images; {dataset} is none"
        raise UsageError(message)
    if target is None and (columns is None or not tables.is_table(dataset)):
        return _own(dataset, classes, _arrays(dataset), regression)
    table = tables.read_table(dataset)
    columns = columns or tables.columns_of(table, target or "", categories or ())
    t = (tables.numbers if regression else tables.labels)(table, columns)
    arrays = {"x": tables.samples(table, columns), "t": t}
    return _own(dataset, classes, arrays, regression)._replace(columns=columns)


def _from_files(dataset: str, folder: str | None) -> Data:
    try:
        train, test = FROM_FILES[dataset](folder, flatten=False)
    except (OSError, ValueError) as error:
        hint = " (here: --data-dir FOLDER)" if folder is None else ""
        message = f"--dataset {dataset}: {error}{hint}"
        raise UsageError(message) from error
    if train[0].shape[1:] != test[0].shape[1:]:
        message = f"--dataset {dataset}: its two parts have images of different sizes"
        raise UsageError(message)
    (x, t), (x_test, t_test) = train, test
    for name, part in (("training", x), ("test", x_test)):
        if not part.size:
            message = f"--dataset {dataset}: its {name} part has shape {part.shape}; it is empty"
            raise UsageError(message)
    source = Source(dataset, None if folder is None else os.path.abspath(folder))
    return Data(dataset, x, t, x_test, t_test, tuple(range(10)), source)


def _arrays(path: str) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file: x and t, or those of two parts."""
    with npz(path) as archive:
        names, parts = archive.names, ("x_train", "t_train", "x_test", "t_test")
        wanted = parts if set(parts) <= names else ("x", "t")
        if not set(wanted) <= names:
            message = (
                f"{path} has {listed(names)}; expected x and t, or x_train, t_train, x_test and "
                "t_test"
            )
            raise UsageError(message)
        return {name: archive.read(name) for name in wanted}


def _own(
    path: str, classes: Classes | None, arrays: Mapping[str, np.ndarray], regression: bool = False
) -> Data:
    classes = () if regression else classes
    if "x_train" in arrays:
        x, t, classes = _pair(arrays, path, "x_train", "t_train", classes)
        x_test, t_test, _ = _pair(arrays, path, "x_test", "t_test", classes)
        if x.shape[1:] != x_test.shape[1:]:
            message = f"{path}: x_train has shape {x.shape}, x_test {x_test.shape}"
            raise UsageError(message)
    else:
        x, t, classes = _pair(arrays, path, "x", "t", classes)
        if len(x) < 2:
            message = f"{path}: x has {len(x)} samples; expected two or more, to hold some out"
            raise UsageError(message)
        # Independent of the seed, so that the results of seeds can be compared.
        order = np.random.default_rng(0).permutation(len(x))
        out, rest = np.sort(order[: -(-len(x) // 5)]), np.sort(order[-(-len(x) // 5) :])
        x, t, x_test, t_test = x[rest], t[rest], x[out], t[out]
    source = Source(os.path.abspath(path))
    return Data(os.path.basename(path), x, t, x_test, t_test, classes, source, own=True)


def _pair(
    arrays: Mapping[str, np.ndarray], path: str, x: str, t: str, classes: Classes | None
) -> tuple[np.ndarray, np.ndarray, Classes]:
    """Check and return samples, the numbers of their classes, and the classes."""
    samples, labels = arrays[x], arrays[t]
    if samples.ndim < 2 or labels.shape[:1] != samples.shape[:1]:
        message = (
            f"{path}: {x} has shape {samples.shape}, {t} {labels.shape}; expected samples along "
            "the first axis, and as many labels"
        )
        if samples.ndim == 1 and samples.shape == labels.shape:
            message += f". For one value per sample save {x}[:, None]"
        raise UsageError(message)
    if not len(samples):
        message = f"{path}: {x} has shape {samples.shape}: there are no samples"
        raise UsageError(message)
    check_numbers(samples, f"{x} of {os.path.basename(path)}")
    if classes == ():
        return samples, _values(path, t, labels), ()
    with _naming(path):
        classes = classes or classes_of(t, labels)
        return samples, numbers(t, labels, classes), classes


def _values(path: str, name: str, t: np.ndarray) -> np.ndarray:
    """Check and return the targets of a regression, one row for each sample."""
    if t.ndim > 2 or t.dtype.kind not in "iuf" or 0 in t.shape:
        message = (
            f"{path}: {name} is {t.dtype} of shape {t.shape}; expected the numbers of a "
            "regression, (n,) or (n, values)"
        )
        raise UsageError(message)
    check_numbers(t, f"{name} of {os.path.basename(path)}")
    return t.reshape(len(t), -1).astype(np.float64)


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """Convert every ValueError to a `UsageError` with the name of the file."""
    try:
        yield
    except ValueError as error:
        message = f"{path}: {error}"
        raise UsageError(message) from error
