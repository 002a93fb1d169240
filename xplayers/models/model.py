"""A trained network, the preprocessing of its samples, and what its outputs stand for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from xplayers._calls import explained
from xplayers._checks import integer
from xplayers._text import truncate
from xplayers.arrays.namespaces import (
    Array,
    Namespace,
    is_real,
    namespace,
    widest_floating,
)
from xplayers.arrays.transfer import asarray, move, to_numpy
from xplayers.data.samples import blocks, check_finite
from xplayers.data.standardising import Standard
from xplayers.functional import softmax
from xplayers.layers import Sequential
from xplayers.models.architecture import Architecture
from xplayers.models.columns import Columns
from xplayers.saving.files import AnyPath, in_full
from xplayers.saving.kinds import kind_of_file
from xplayers.saving.network import load, read_metadata, save

Classes = tuple[int | str, ...]

WRITTEN_BY = "a model written by `xplayers train --save`"


@dataclasses.dataclass(eq=False, repr=False)
class Model:
    """A trained classifier or regression, with the scale of its samples and what it predicts.

    `load_model` returns one. Samples are standardised as those of the training were.

    Attributes
    ----------
    net : Sequential
        The network, from standardised samples to scores. It moves to library and device of the
        first samples; ``model.net.to(like=x)`` moves it later.
    classes : tuple of int or str
        The names of the outputs; () of a regression.
    standard : Standard
        ``mean`` and ``scale`` of the training samples, ``(x - mean) / scale``: a tuple with a value
        for each column, or a single one for all; and ``constant``, the columns not scaled.
    architecture : Architecture
        The sizes of the network.
    shape : tuple of int
        The shape of a sample in the training data.
    about : dict
        What else the file says: ``results``, measured after the training, and ``data``, where the
        samples came from.
    path : str
        The file it was read from.
    columns : Columns or None
        Of a model of a table: the names of its columns, their categories, and the target.
    targets : Standard or None
        Of a regression: ``mean`` and ``scale`` of the targets of the training, a tuple each; the
        network predicts ``(t - mean) / scale``.

    Examples
    --------
    >>> import xplayers as xl
    >>> model = xl.load_model("net.safetensors")  # doctest: +SKIP
    >>> model.predict(x[:3])  # doctest: +SKIP
    array(['cat', 'dog', 'cat'], dtype='<U3')
    """

    architecture: Architecture
    net: Sequential
    classes: Classes
    standard: Standard
    shape: tuple[int, ...]  # () in files of early versions
    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    path: str = ""
    columns: Columns | None = None
    targets: Standard | None = None

    def __repr__(self) -> str:
        names = ", ".join(truncate(str(name), 40) for name in self.classes[:10])
        more = f", ... ({len(self.classes)})" if len(self.classes) > 10 else ""
        path = f" of {self.path}" if self.path else ""
        what = f"classes {names}{more}" if self.targets is None else "a regression"
        return f"<Model{path}: {self.architecture}; {what}>"

    def predict(self, x: Array, batch_size: int = 256) -> Array:
        """Return the class of each sample, or of a regression its values.

        Parameters
        ----------
        x : array (n, ...)
            Samples as those of the training data, or as flattened rows of those. They are not
            standardised yet.
        batch_size : int
            Samples to compute at a time.

        Returns
        -------
        array (n,)
            Names of classes: integers in an array of the library of `x`; strings, which other
            libraries do not have, in a NumPy array. Of a regression float32, ``(n, values)`` if
            there are several.
        """
        y = self._all_scores("predict", x, batch_size)
        if self.targets is not None:
            return self.values(y)
        numbers = namespace(y).argmax(y, axis=1)
        classes = np.asarray(self.classes)
        if classes.dtype.kind == "U":
            return classes[to_numpy(numbers)]
        return namespace(y).take(asarray(classes, numbers), numbers, axis=0)

    def predict_proba(self, x: Array, batch_size: int = 256) -> Array:
        """Return the probability of each class, in the order of `classes`.

        Parameters
        ----------
        x : array (n, ...)
            As in `predict`.
        batch_size : int
            Samples to compute at a time.

        Returns
        -------
        array (n, classes)
            float32, of the library and on the device of `x`.

        Raises
        ------
        ValueError
            If the model is a regression.
        """
        if self.targets is not None:
            message = "Model.predict_proba: a regression has no classes; use predict."
            raise ValueError(message)
        return softmax(self._all_scores("predict_proba", x, batch_size), axis=-1)

    def targets_of(self, t: np.ndarray) -> np.ndarray:
        """Return what the network learns for targets: their classes, or standardised values.

        Parameters
        ----------
        t : numpy.ndarray
            The numbers of classes ``(n,)``, or of a regression ``(n, values)``.

        Returns
        -------
        numpy.ndarray
            `t`, or ``(t - mean) / scale`` as float32.
        """
        if self.targets is None:
            return t
        mean, scale, _ = self.targets
        return ((t - np.asarray(mean)) / np.asarray(scale)).astype(np.float32)

    def values(self, y: Array) -> Array:
        """Return what outputs of the network stand for in a regression: ``y * scale + mean``.

        Parameters
        ----------
        y : array (n, values)
            Outputs, as of `scores`.

        Returns
        -------
        array (n,) or (n, values)
            One axis if there is one value for each sample.
        """
        xp, (mean, scale, _) = namespace(y), self.targets or Standard(0.0, 1.0, ())
        wide = xp.astype(y, widest_floating(y))
        mean, scale = (asarray(np.asarray(a, np.float64), wide) for a in (mean, scale))
        values = xp.astype(wide * scale + mean, y.dtype)
        return values[:, 0] if y.shape[1] == 1 else values

    def save(self, path: AnyPath) -> None:
        """Write the model to a file, for `load_model` and the command; as `xplayers.save` does.

        Parameters
        ----------
        path : str or path-like
            The file, as ``net.safetensors``.
        """
        save(path, self.net, {"model": self.metadata(), **self.about})

    def _all_scores(self, method: str, x: Array, batch_size: int) -> Array:
        owner = f"Model.{method}"
        xp = namespace(x, owner)
        integer(owner, "batch_size", batch_size, least=1)
        return xp.concat(list(self.scores(x, batch_size, name=f"{owner}: x")), axis=0)

    def scores(
        self,
        x: Array,
        batch_size: int = 256,
        *,
        name: str = "x",
        xp: Namespace = None,
        device: Any = None,
    ) -> Iterator[Array]:
        """Yield the outputs of the network, whose softmax are the probabilities, in batches.

        Parameters
        ----------
        x : array (n, ...)
            As in `predict`; a file that is mapped to memory is read batch by batch.
        batch_size : int
            Samples to compute at a time.
        name : str
            What errors call `x`.
        xp, device : optional
            Where to compute, as in `xplayers.move`; by default where `x` is.

        Yields
        ------
        array (batch_size, classes)
        """
        self.check(x, name)
        n = x.shape[0]
        for start in range(0, max(n, 1), batch_size):
            batch = self.prepared(x[start : min(start + batch_size, n), ...], name, start)
            if xp is not None:
                batch = move(batch, xp=xp, device=device)
            with np.errstate(over="ignore", invalid="ignore"):
                y = self.net.predict(batch)
            finite = namespace(y).all(namespace(y).isfinite(y), axis=1)
            if not bool(namespace(y).all(finite)):
                message = (
                    f"{self.path or 'the model'} has no finite scores for row "
                    f"{start + int(np.argmin(to_numpy(finite)))} (from 0): its values are too far "
                    "from the training data"
                )
                raise ValueError(message)
            yield y

    def prepared(self, x: Array, name: str = "x", start: int = 0) -> Array:
        """Return samples as inputs of the network; the first is row `start` of `name`.

        Parameters
        ----------
        x : array (n, ...)
            As in `predict`.
        name : str
            What errors call `x`.
        start : int
            The index of the first sample, for errors.

        Returns
        -------
        array
            float32, standardised, in the shape that the network takes.
        """
        self.check(x, name)
        if not isinstance(x, np.ndarray):
            return self._standardised(x, name, start)
        inputs = np.empty((len(x), *self.architecture.sample), np.float32)
        for i, part in blocks(x):
            inputs[i : i + len(part)] = self._standardised(part, name, start + i)
        return inputs

    def _standardised(self, part: Array, name: str, start: int) -> Array:
        xp = namespace(part)
        mean, scale, _ = self.standard
        flat = xp.reshape(part, (part.shape[0], math.prod(part.shape[1:])))
        with np.errstate(over="ignore", invalid="ignore"):
            if not (mean == 0.0 and scale == 1.0):
                flat = xp.astype(flat, widest_floating(part))
                mean, scale = (asarray(np.asarray(a, np.float64), flat) for a in (mean, scale))
                flat = (flat - mean) / scale
            flat = xp.astype(flat, xp.float32)
        if not bool(xp.all(xp.isfinite(flat))):
            check_finite(to_numpy(part), name, start)
            far = ": it is too far from the training data"
            check_finite(
                to_numpy(xp.reshape(flat, part.shape)), f"{name}, standardised,", start, far
            )
        return xp.reshape(flat, (part.shape[0], *self.architecture.sample))

    def check(self, x: Array, name: str = "x") -> None:
        """Check the shape and dtype of samples.

        Parameters
        ----------
        x : array (n, ...)
            As in `predict`.
        name : str
            What errors call `x`.

        Raises
        ------
        ValueError
            If the network does not take samples of that shape, or `x` has no numbers.
        """
        shape, sample = tuple(x.shape), self.architecture.sample
        # The number of values is not sufficient, because axes may be in another order. Rows are
        # taken as flattened images with axes in the order of the training data.
        known = [_long(self.shape or sample), _long((math.prod(sample),))]
        if x.ndim < 2 or _long(shape[1:]) not in known:
            expected = ", ".join(map(str, sample))
            message = f"{name} has shape {shape}; the network takes (n, {expected})"
            if self.shape not in ((), sample):
                message += f" and was trained on samples of shape {self.shape}"
            if x.ndim > 2 and sorted(_long(shape[1:])) == sorted(known[0]):
                message += ". Its axes are in another order: transpose it"
            elif math.prod(shape) == math.prod(sample):
                message += ". A single sample is x[None]"
            elif len(known[0]) == 1 and math.prod(shape[1:]) == math.prod(sample):
                message += ". If the training samples were flattened, save x.reshape(len(x), -1)"
            raise ValueError(message)
        if not (x.dtype.kind in "biuf" if isinstance(x, np.ndarray) else is_real(x)):
            message = f"{name} is {x.dtype}; expected numbers"
            raise ValueError(message)

    def metadata(self) -> dict[str, Any]:
        """Return what a file has of the model, beside the arrays of its network.

        Returns
        -------
        dict
            JSON values.
        """
        at, scaling = self.architecture, self.standard
        more: dict[str, Any] = {}
        if self.columns is not None:
            more["columns"] = self.columns.metadata()
        if self.targets is not None:
            more["targets"] = {"mean": self.targets.mean, "scale": self.targets.scale}
        return {
            **more,
            "kind": at.kind,
            "sample": at.sample,
            "classes": self.classes,
            "hidden": at.hidden,
            "channels": at.channels,
            "dropout": at.dropout,
            "mean": scaling.mean,
            "scale": scaling.scale,
            "shape": self.shape,
            "constant": scaling.constant,
        }


def _long(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without axes of size 1, which do not affect the order of values."""
    return tuple(n for n in shape if n != 1)


def from_metadata(metadata: dict[str, Any], path: str = "") -> Model:
    """Check the metadata of a file and return the model, whose network is new."""
    own = metadata["model"]

    def numbers(name: str) -> tuple[int, ...]:
        return tuple(map(int, own.get(name, ())))

    def scaling(name: str, of: dict[str, Any] = own) -> float | tuple[float, ...]:
        value = of[name]
        return tuple(map(float, value)) if isinstance(value, list) else float(value)

    classes = tuple(c if isinstance(c, int) else str(c) for c in own["classes"])
    hidden, channels = (tuple(map(int, own[name])) for name in ("hidden", "channels"))
    sample, shape = tuple(map(int, own["sample"])), numbers("shape")
    dropout = float(own.get("dropout", 0.0))
    targets = None
    if "targets" in own:
        mean, scale = (np.atleast_1d(scaling(n, own["targets"])) for n in ("mean", "scale"))
        if classes or mean.shape != scale.shape or not np.isfinite([*mean, *scale]).all():
            message = "its targets are inconsistent"
            raise ValueError(message)
        targets = Standard(tuple(mean.tolist()), tuple(scale.tolist()), ())
    outputs = len(classes) if targets is None else len(np.atleast_1d(targets.mean))
    architecture = Architecture(str(own["kind"]), sample, outputs, hidden, channels, dropout)
    architecture.check()
    mean, scale, features = scaling("mean"), scaling("scale"), math.prod(sample)
    if math.prod(shape or sample) != features or any(
        isinstance(a, tuple) and len(a) != features for a in (mean, scale)
    ):
        message = "its sizes are inconsistent"
        raise ValueError(message)
    if not (np.isfinite(mean).all() and np.isfinite(scale).all()):
        message = "its mean and scale are not finite"
        raise ValueError(message)
    if not np.greater(scale, 0).all():
        message = "its scale is not positive"
        raise ValueError(message)
    columns = Columns.from_metadata(own["columns"]) if "columns" in own else None
    if columns is not None and len(columns.features) != features:
        message = "its columns are inconsistent"
        raise ValueError(message)
    standard = Standard(mean, scale, numbers("constant"))
    about = {name: value for name, value in metadata.items() if name != "model"}
    net = architecture.build(0)
    return Model(architecture, net, classes, standard, shape, about, path, columns, targets)


@explained()
def load_model(path: AnyPath) -> Model:
    """Read a model that ``xplayers train --save`` has written: network, scale, names of classes.

    Parameters
    ----------
    path : str or path-like
        The file; ``~`` is the home directory.

    Returns
    -------
    Model
        With `predict` and `predict_proba`. Its network is ``model.net``.

    Raises
    ------
    ValueError
        If the file is damaged, or not such a model: a checkpoint, a network of `save` without its
        architecture, which ``load(path, net)`` reads, or a file of another program.
    OSError
        If the file cannot be read.

    See Also
    --------
    load, save

    Notes
    -----
    Loading executes no code. The network moves to library and device of the first samples.

    Examples
    --------
    >>> import tempfile, xplayers as xl
    >>> from xplayers.cli import main
    >>> x = xl.data.load_digits()[1][0]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     options = ["--backend", "numpy", "--epochs", "1"]
    ...     code = main(["train", *options, "--save", f"{folder}/net.safetensors"])
    ...     model = xl.load_model(f"{folder}/net.safetensors")
    xplayers...
    >>> model.predict(x[:3]).shape, model.predict_proba(x[:3]).shape
    ((3,), (3, 10))
    """
    path = in_full(path, "load_model")
    kind = "a folder" if Path(path).is_dir() else kind_of_file(path)
    if kind not in ("", "a safetensors file"):
        message = f"{path} is {kind}; expected {WRITTEN_BY}"
        raise ValueError(message)
    try:
        metadata = read_metadata(path)
    except ValueError as error:
        if "was not written by xplayers" not in str(error):
            raise
        message = f"{path} is a safetensors file of another program; expected {WRITTEN_BY}"
        raise ValueError(message) from error
    try:
        model = from_metadata(metadata, path)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(_why_not(path, metadata, error)) from error
    load(path, model.net)
    arrays = model.net.arrays
    broken = [name for name, a in arrays.items() if not np.isfinite(to_numpy(a)).all()]
    if broken:
        message = f"{path} has values in {broken[0]} that are not finite; train it again"
        raise ValueError(message)
    return model


def _why_not(path: str, metadata: dict[str, Any], error: Exception) -> str:
    """Return what is said of a file that is not a model."""
    if metadata.keys() >= {"run", "position"}:
        return (
            f"{path} is a checkpoint, not a model; `xplayers train --checkpoint-dir "
            f"{Path(path).parent} --resume --save FILE` writes a model of the last one"
        )
    why = repr(error)
    if "model" not in metadata:
        why = "it has no architecture; in Python xl.load(path, net) reads it"
    return f"{path} is not {WRITTEN_BY} ({why})"
