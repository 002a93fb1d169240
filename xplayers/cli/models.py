"""The networks of the command, and what a file has to say so that they can be made again."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

import xplayers as xl
from xplayers.cli.arrays import blocks, check_finite
from xplayers.cli.datasets import Data
from xplayers.cli.labels import Classes
from xplayers.cli.messages import Mistake
from xplayers.cli.standardising import Numbers, Standard, standard
from xplayers.initializers import Rng
from xplayers.saving.kinds import kind_of_file

KINDS = ("mlp", "cnn")
# With batches of 32 the matrix products of the digits have at most 32 * 64 * 128 = 2**18 terms, for
# which OpenBLAS starts no threads: they win little there, and wait long on a machine that is busy.
HIDDEN = {"mlp": (128, 64), "cnn": (64,)}
CHANNELS = (16, 32)
ROWS = 4096  # that are converted at once
LIMIT = 2 * 2**20  # bytes of metadata that a file can have


@dataclasses.dataclass(frozen=True)
class Model:
    """All of a network but its parameters.

    Parameters
    ----------
    kind : {"mlp", "cnn"}
        A multilayer perceptron, or blocks of convolution, ReLU and pooling before one.
    sample : tuple of int
        The shape of a sample as the network takes it: ``(features,)``, or ``(channels, height,
        width)``.
    classes : tuple of int or str
        What the outputs are called.
    hidden : tuple of int
        Widths of hidden layers.
    channels : tuple of int
        Of the convolutions, each of which halves height and width.
    mean, scale : float or tuple of float
        What is taken from the values, and what they are divided by then; one a feature, or one.
    shape : tuple of int
        The shape of a sample of the data, whose order of axes is that of `sample`.
    constant : tuple of int
        The features that had one value.
    """

    kind: str
    sample: tuple[int, ...]
    classes: Classes
    hidden: tuple[int, ...]
    channels: tuple[int, ...] = ()
    mean: Numbers = 0.0
    scale: Numbers = 1.0
    shape: tuple[int, ...] = ()
    constant: tuple[int, ...] = ()

    @classmethod
    def of(
        cls, kind: str, data: Data, hidden: list[int] | None, channels: list[int] | None
    ) -> Model:
        """Return the model for a data set."""
        shape = data.x.shape[1:]
        if kind == "cnn":
            if len(shape) not in (2, 3):
                message = (
                    f"--model cnn needs images (n, height, width) or (n, channels, height, width); "
                    f"x of {data.name} has shape {data.x.shape}"
                )
                raise Mistake(message)
            if len(shape) == 3 and shape[2] <= 4 < shape[0]:
                message = (
                    f"x of {data.name} has shape {data.x.shape}, as if the channels were last; "
                    "save x.transpose(0, 3, 1, 2)"
                )
                raise Mistake(message)
            shape = (1,) * (3 - len(shape)) + shape
        elif channels is not None:
            message = "--channels goes with --model cnn"
            raise Mistake(message)
        try:
            found = standard(data.x) if data.own else Standard(0.0, 1.0, ())
        except ValueError as error:
            message = f"x of {data.name}: {error}"
            raise Mistake(message) from error
        return cls(
            kind,
            shape if kind == "cnn" else (math.prod(shape),),
            data.classes,
            tuple(HIDDEN[kind] if hidden is None else hidden),
            tuple(channels or CHANNELS) if kind == "cnn" else (),
            found.mean,
            found.scale,
            data.x.shape[1:],
            found.constant,
        )

    def build(self, rng: Rng) -> xl.Sequential:
        """Make the network."""
        rng = np.random.default_rng(rng)
        layers: list[xl.Layer] = []
        features = self.sample
        if self.kind == "cnn":
            depth = len(self.channels)
            for n_in, n_out in itertools.pairwise((self.sample[0], *self.channels)):
                layers.append(xl.Convolution.init(n_in, n_out, 3, padding=1, rng=rng))
                layers += [xl.Relu(), xl.MaxPooling(2)]
            height, width = (size >> depth for size in self.sample[1:])
            if not height * width:
                message = (
                    f"images of {self.sample[1]} x {self.sample[2]} pixels cannot be halved "
                    f"{depth} times; take fewer --channels"
                )
                raise Mistake(message)
            layers.append(xl.Flatten())
            features = (self.channels[-1] * height * width,)
        sizes = [*features, *self.hidden, len(self.classes)]
        return xl.Sequential(*layers, *xl.mlp(sizes, rng=rng))

    def __str__(self) -> str:
        parts = ["x".join(map(str, self.sample))]
        parts += [f"convolution {n}" for n in self.channels]
        return " -> ".join([*parts, *map(str, self.hidden), str(len(self.classes))])

    def prepared(self, x: np.ndarray, name: str = "x", start: int = 0) -> np.ndarray:
        """Return host samples as the network takes them; the first is number `start` of `name`."""
        self.check(x, name)
        found = np.empty((len(x), *self.sample), np.float32)
        plain = self.mean == 0.0 and self.scale == 1.0
        mean, scale = np.asarray(self.mean, np.float64), np.asarray(self.scale, np.float64)
        for at, part in blocks(x):
            flat = part.reshape(len(part), -1)
            with np.errstate(over="ignore", invalid="ignore"):
                flat = flat if plain else (flat - mean) / scale
                found[at : at + len(part)] = flat.reshape(len(part), *self.sample)
            if not np.isfinite(found[at : at + len(part)]).all():
                check_finite(part, name, start + at)
                shown = found[at : at + len(part)].reshape(part.shape)
                far = ", so far is it from the samples that the network was trained on"
                check_finite(shown, f"{name}, standardised,", start + at, far)
        return found

    def check(self, x: np.ndarray, name: str) -> None:
        """Check that `prepared` can take host samples."""
        shape = tuple(x.shape[1:])
        # As many values are not enough, since axes in another order have other values there. Rows
        # are taken for images whose axes are in the order of those trained on.
        known = [_long(self.shape or self.sample), _long((math.prod(self.sample),))]
        if x.ndim < 2 or _long(shape) not in known:
            expected = ", ".join(map(str, self.sample))
            message = f"{name} has shape {x.shape}; the network takes (n, {expected})"
            if self.shape not in ((), self.sample):
                message += f" and was trained on samples of shape {self.shape}"
            if x.ndim > 2 and sorted(_long(shape)) == sorted(known[0]):
                message += ". Its axes are in another order: transpose it"
            elif math.prod(x.shape) == math.prod(self.sample):
                message += ". Of a single sample make x[None]"
            elif len(known[0]) == 1 and math.prod(shape) == math.prod(self.sample):
                message += ". Where its rows were such samples, save x.reshape(len(x), -1)"
            raise Mistake(message)
        if x.dtype.kind not in "biuf":
            message = f"{name} is {x.dtype}; expected numbers"
            raise Mistake(message)

    def constants(self) -> str:
        """Return in words which features had one value; "" for none."""
        if not self.constant or isinstance(self.mean, float):
            return "x has one value only" if self.constant else ""
        first = ", ".join(map(str, self.constant[:10]))
        more = f" and {len(self.constant) - 10} more" if len(self.constant) > 10 else ""
        s, ve = ("s", "ve") if len(self.constant) > 1 else ("", "s")
        return f"column{s} {first}{more} (from 0) of x ha{ve} one value only"

    def metadata(self) -> dict[str, Any]:
        """Return what to write into a file."""
        return dataclasses.asdict(self)

    @classmethod
    def from_metadata(cls, found: dict[str, Any]) -> Model:
        """Return the model that a file tells of; what comes from a file may be anything."""

        def number(value: Any) -> Numbers:
            return tuple(map(float, value)) if isinstance(value, list) else float(value)

        model = cls(
            str(found["kind"]),
            tuple(map(int, found["sample"])),
            tuple(c if isinstance(c, int) else str(c) for c in found["classes"]),
            tuple(map(int, found["hidden"])),
            tuple(map(int, found["channels"])),
            number(found["mean"]),
            number(found["scale"]),
            tuple(map(int, found.get("shape", ()))),
            tuple(map(int, found.get("constant", ()))),
        )
        axes = {"mlp": 1, "cnn": 3}[model.kind]
        sizes = (*model.sample, *model.hidden, *model.channels, len(model.classes))
        features = math.prod(model.sample)
        if (
            len(model.sample) != axes
            or min(sizes) < 1
            or (axes == 3) != bool(model.channels)
            or math.prod(model.shape or model.sample) != features
            or any(isinstance(a, tuple) and len(a) != features for a in (model.mean, model.scale))
        ):
            message = "its sizes do not fit together"
            raise ValueError(message)
        if not (np.isfinite(model.mean).all() and np.isfinite(model.scale).all()):
            message = "its mean and scale are not finite"
            raise ValueError(message)
        if not np.greater(model.scale, 0).all():
            message = "its scale is not positive"
            raise ValueError(message)
        return model


def _long(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without the axes of size 1, wherever they are: the values lie the same."""
    return tuple(n for n in shape if n != 1)


def save(path: str, model: Model, net: xl.Layer, **more: Any) -> None:
    """Write a network to a file from which `load` makes it again."""
    xl.save(path, net, {"model": model.metadata(), **more})


def check_length(path: str, model: Model, net: xl.Layer, about: dict[str, Any]) -> None:
    """Check before the training that all there is to say of a model goes into a file."""
    text = json.dumps({"model": model.metadata(), **about})
    if len(json.dumps(text)) + len(json.dumps(repr(net))) > LIMIT - 2**16:  # of names, and results
        message = (
            f"--save {path}: the names of the {len(model.classes)} classes are too long for a "
            f"file; together at most {LIMIT} bytes"
        )
        raise Mistake(message)


def load(path: str) -> tuple[Model, xl.Sequential, dict[str, Any]]:
    """Return what is in a file of `save`: the model, its network, and the other metadata."""
    kind = kind_of_file(path)
    if Path(path).is_dir():
        kind = "a folder"
    if kind not in ("", "a safetensors file"):
        message = f"{path} is {kind}; expected a model that `xplayers train --save` has written"
        raise Mistake(message)
    try:
        metadata = xl.read_metadata(path)
    except ValueError as error:
        if "was not written by xplayers" not in str(error):
            raise
        message = (
            f"{path} is a safetensors file of another program; expected a model that `xplayers "
            "train --save` has written"
        )
        raise Mistake(message) from error
    try:
        model = Model.from_metadata(metadata["model"])
        net = model.build(0)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        why = repr(error)
        if "model" not in metadata:
            why = "it does not say how the network is built; in Python xl.load(path, net) reads it"
        what = f"{path} is no model that `xplayers train --save` has written ({why})"
        if metadata.keys() >= {"run", "position"}:
            what = (
                f"{path} is a checkpoint, not a model; `xplayers train --checkpoint-dir "
                f"{Path(path).parent} --resume --save FILE` makes a model of the last one"
            )
        raise Mistake(what) from error
    xl.load(path, net)
    broken = [name for name, a in net.arrays.items() if not np.isfinite(xl.to_numpy(a)).all()]
    if broken:
        message = f"{path} has values in {broken[0]} that are not finite; train it anew"
        raise Mistake(message)
    return model, net, metadata
