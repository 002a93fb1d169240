"""The networks of the command, and what a file has to say so that they can be made again."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np

import xplayers as xl
from xplayers.cli.datasets import Classes, Data
from xplayers.cli.words import Mistake
from xplayers.initializers import Rng

KINDS = ("mlp", "cnn")
# With batches of 32 the matrix products of the digits have at most 32 * 64 * 128 = 2**18 terms, for
# which OpenBLAS starts no threads: they win little there, and wait long on a machine that is busy.
HIDDEN = {"mlp": (128, 64), "cnn": (64,)}
CHANNELS = (16, 32)
MOST_COLUMNS = 10_000  # that are standardised one by one: a file has a mean for each
ROWS = 4096  # that are converted at once


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
    """

    kind: str
    sample: tuple[int, ...]
    classes: Classes
    hidden: tuple[int, ...]
    channels: tuple[int, ...] = ()
    mean: float | tuple[float, ...] = 0.0
    scale: float | tuple[float, ...] = 1.0

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
        mean, scale = _statistics(data) if data.own else (0.0, 1.0)
        return cls(
            kind,
            shape if kind == "cnn" else (math.prod(shape),),
            data.classes,
            tuple(HIDDEN[kind] if hidden is None else hidden),
            tuple(channels or CHANNELS) if kind == "cnn" else (),
            mean,
            scale,
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

    def prepared(self, x: np.ndarray, name: str = "x") -> np.ndarray:
        """Return host samples as the network takes them."""
        self.check(x, name)
        found = np.empty((len(x), *self.sample), np.float32)
        for start in range(0, len(x), ROWS):
            part = np.asarray(x[start : start + ROWS])
            flat = part.reshape(len(part), -1)
            if self.mean != 0.0 or self.scale != 1.0:
                flat = (flat - np.asarray(self.mean)) / np.asarray(self.scale)
            found[start : start + ROWS] = flat.reshape(len(part), *self.sample)
        return found

    def check(self, x: np.ndarray, name: str) -> None:
        """Check that `prepared` can take host samples."""
        shape = tuple(x.shape[1:])
        # As many values are enough where the order of axes cannot be another.
        fits = len(self.sample) == 1 or x.ndim == 2 or shape in (self.sample, self.sample[1:])
        if x.ndim < 2 or not fits or math.prod(shape) != math.prod(self.sample):
            expected = ", ".join(map(str, self.sample))
            message = f"{name} has shape {x.shape}; the network takes (n, {expected})"
            raise Mistake(message)
        if x.dtype.kind not in "biuf":
            message = f"{name} is {x.dtype}; expected numbers"
            raise Mistake(message)

    def metadata(self) -> dict[str, Any]:
        """Return what to write into a file."""
        return dataclasses.asdict(self)

    @classmethod
    def from_metadata(cls, found: dict[str, Any]) -> Model:
        """Return the model that a file tells of; what comes from a file may be anything."""

        def number(value: Any) -> float | tuple[float, ...]:
            return tuple(map(float, value)) if isinstance(value, list) else float(value)

        model = cls(
            str(found["kind"]),
            tuple(map(int, found["sample"])),
            tuple(c if isinstance(c, int) else str(c) for c in found["classes"]),
            tuple(map(int, found["hidden"])),
            tuple(map(int, found["channels"])),
            number(found["mean"]),
            number(found["scale"]),
        )
        axes = {"mlp": 1, "cnn": 3}[model.kind]
        sizes = (*model.sample, *model.hidden, *model.channels, len(model.classes))
        if len(model.sample) != axes or min(sizes) < 1 or (axes == 3) != bool(model.channels):
            message = "its sizes do not fit together"
            raise ValueError(message)
        return model


def save(path: str, model: Model, net: xl.Layer, **more: Any) -> None:
    """Write a network to a file from which `load` makes it again."""
    xl.save(path, net, {"model": model.metadata(), **more})


def load(path: str) -> tuple[Model, xl.Sequential, dict[str, Any]]:
    """Return what is in a file of `save`: the model, its network, and the other metadata."""
    metadata = xl.read_metadata(path)
    try:
        model = Model.from_metadata(metadata["model"])
    except (KeyError, TypeError, ValueError) as error:
        message = f"{path} is no model that `xplayers train --save` has written ({error!r})"
        raise Mistake(message) from error
    net = model.build(0)
    xl.load(path, net)
    return model, net, metadata


def _statistics(data: Data) -> tuple[Any, Any]:
    """Return mean and standard deviation of the user's samples: one for each column of a table."""
    for name, x in (("x", data.x), ("x_test", data.x_test)):
        if x.dtype.kind not in "biuf":
            message = f"{name} of {data.name} is {x.dtype}; expected numbers"
            raise Mistake(message)
        if not np.isfinite(np.sum(x, dtype=np.float64)):
            message = f"{name} of {data.name} has values that are not finite"
            raise Mistake(message)
    table = data.x.ndim == 2 and data.x.shape[1] <= MOST_COLUMNS
    axis = 0 if table else None
    mean = np.asarray(np.mean(data.x, axis=axis, dtype=np.float64))
    deviation = np.std(data.x, axis=axis, dtype=np.float64 if table else np.float32)
    scale = np.where(deviation > 0, deviation, 1.0)  # a column of one value
    if not table:
        return float(mean), float(scale)
    return tuple(mean.tolist()), tuple(scale.tolist())
