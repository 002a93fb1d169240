"""The networks of the command, and their metadata in files, from which they are rebuilt."""

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
from xplayers.cli.messages import UsageError
from xplayers.cli.standardising import Numbers, Standard, standard
from xplayers.initializers import Rng
from xplayers.saving.kinds import kind_of_file

KINDS = ("mlp", "cnn")
# With batches of 32 the matrix products of the digits have at most 32 * 64 * 128 = 2**18 terms, for
# which OpenBLAS starts no threads: they gain little there, and wait long on a busy machine.
HIDDEN = {"mlp": (128, 64), "cnn": (64,)}
CHANNELS = (16, 32)
ROWS = 4096  # samples to convert at a time
LIMIT = 2 * 2**20  # maximum bytes of metadata in a file


@dataclasses.dataclass(frozen=True)
class Model:
    """The architecture of a network, and the preprocessing of its samples: (x - mean) / scale."""

    kind: str  # a multilayer perceptron, or blocks of convolution, ReLU and pooling before one
    sample: tuple[int, ...]  # input shape of the network: (features,) or (channels, height, width)
    classes: Classes  # names of the outputs
    hidden: tuple[int, ...]  # widths of hidden layers
    channels: tuple[int, ...] = ()  # of the convolutions, each of which halves height and width
    mean: Numbers = 0.0  # one value per feature, or a single one
    scale: Numbers = 1.0
    shape: tuple[int, ...] = ()  # of a sample of the data, with the order of axes of `sample`
    constant: tuple[int, ...] = ()  # the constant features

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
                raise UsageError(message)
            if len(shape) == 3 and shape[2] <= 4 < shape[0]:
                message = (
                    f"x of {data.name} has shape {data.x.shape}, as if the channels were last; "
                    "save x.transpose(0, 3, 1, 2)"
                )
                raise UsageError(message)
            shape = (1,) * (3 - len(shape)) + shape
        elif channels is not None:
            message = "--channels goes with --model cnn"
            raise UsageError(message)
        try:
            scaling = standard(data.x) if data.own else Standard(0.0, 1.0, ())
        except ValueError as error:
            message = f"x of {data.name}: {error}"
            raise UsageError(message) from error
        return cls(
            kind,
            shape if kind == "cnn" else (math.prod(shape),),
            data.classes,
            tuple(HIDDEN[kind] if hidden is None else hidden),
            tuple(channels or CHANNELS) if kind == "cnn" else (),
            scaling.mean,
            scaling.scale,
            data.x.shape[1:],
            scaling.constant,
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
                    f"{depth} times; pass fewer --channels"
                )
                raise UsageError(message)
            layers.append(xl.Flatten())
            features = (self.channels[-1] * height * width,)
        sizes = [*features, *self.hidden, len(self.classes)]
        return xl.Sequential(*layers, *xl.mlp(sizes, rng=rng))

    def __str__(self) -> str:
        parts = ["x".join(map(str, self.sample))]
        parts += [f"convolution {n}" for n in self.channels]
        return " -> ".join([*parts, *map(str, self.hidden), str(len(self.classes))])

    def prepared(self, x: np.ndarray, name: str = "x", start: int = 0) -> np.ndarray:
        """Return host samples as inputs of the network; the first is row `start` of `name`."""
        self.check(x, name)
        inputs = np.empty((len(x), *self.sample), np.float32)
        identity = self.mean == 0.0 and self.scale == 1.0
        mean, scale = np.asarray(self.mean, np.float64), np.asarray(self.scale, np.float64)
        for i, part in blocks(x):
            flat = part.reshape(len(part), -1)
            with np.errstate(over="ignore", invalid="ignore"):
                flat = flat if identity else (flat - mean) / scale
                inputs[i : i + len(part)] = flat.reshape(len(part), *self.sample)
            if not np.isfinite(inputs[i : i + len(part)]).all():
                check_finite(part, name, start + i)
                standardised = inputs[i : i + len(part)].reshape(part.shape)
                far = ": it is too far from the training data"
                check_finite(standardised, f"{name}, standardised,", start + i, far)
        return inputs

    def check(self, x: np.ndarray, name: str) -> None:
        """Check the shape and dtype of host samples for `prepared`."""
        shape = tuple(x.shape[1:])
        # The number of values is not sufficient, because axes may be in another order. Rows are
        # taken as flattened images with axes in the order of the training data.
        known = [_long(self.shape or self.sample), _long((math.prod(self.sample),))]
        if x.ndim < 2 or _long(shape) not in known:
            expected = ", ".join(map(str, self.sample))
            message = f"{name} has shape {x.shape}; the network takes (n, {expected})"
            if self.shape not in ((), self.sample):
                message += f" and was trained on samples of shape {self.shape}"
            if x.ndim > 2 and sorted(_long(shape)) == sorted(known[0]):
                message += ". Its axes are in another order: transpose it"
            elif math.prod(x.shape) == math.prod(self.sample):
                message += ". A single sample is x[None]"
            elif len(known[0]) == 1 and math.prod(shape) == math.prod(self.sample):
                message += ". If the training samples were flattened, save x.reshape(len(x), -1)"
            raise UsageError(message)
        if x.dtype.kind not in "biuf":
            message = f"{name} is {x.dtype}; expected numbers"
            raise UsageError(message)

    def constants(self) -> str:
        """Describe the constant features; "" for none."""
        if not self.constant or isinstance(self.mean, float):
            return "x is constant" if self.constant else ""
        first = ", ".join(map(str, self.constant[:10]))
        more = f" and {len(self.constant) - 10} more" if len(self.constant) > 10 else ""
        s, verb = ("s", "are") if len(self.constant) > 1 else ("", "is")
        return f"column{s} {first}{more} (from 0) of x {verb} constant"

    def metadata(self) -> dict[str, Any]:
        """Return the metadata for a file."""
        return dataclasses.asdict(self)

    @classmethod
    def from_metadata(cls, metadata: dict[str, Any]) -> Model:
        """Check the metadata of a file and return the model."""

        def number(value: Any) -> Numbers:
            return tuple(map(float, value)) if isinstance(value, list) else float(value)

        model = cls(
            str(metadata["kind"]),
            tuple(map(int, metadata["sample"])),
            tuple(c if isinstance(c, int) else str(c) for c in metadata["classes"]),
            tuple(map(int, metadata["hidden"])),
            tuple(map(int, metadata["channels"])),
            number(metadata["mean"]),
            number(metadata["scale"]),
            tuple(map(int, metadata.get("shape", ()))),
            tuple(map(int, metadata.get("constant", ()))),
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
            message = "its sizes are inconsistent"
            raise ValueError(message)
        if not (np.isfinite(model.mean).all() and np.isfinite(model.scale).all()):
            message = "its mean and scale are not finite"
            raise ValueError(message)
        if not np.greater(model.scale, 0).all():
            message = "its scale is not positive"
            raise ValueError(message)
        return model


def _long(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without axes of size 1, which do not affect the order of values."""
    return tuple(n for n in shape if n != 1)


def save(path: str, model: Model, net: xl.Layer, **more: Any) -> None:
    """Write a network to a file, for `load`."""
    xl.save(path, net, {"model": model.metadata(), **more})


def check_length(path: str, model: Model, net: xl.Layer, about: dict[str, Any]) -> None:
    """Check before training that the metadata of a model fit into a file."""
    text = json.dumps({"model": model.metadata(), **about})
    if len(json.dumps(text)) + len(json.dumps(repr(net))) > LIMIT - 2**16:  # names and results
        message = (
            f"--save {path}: the names of the {len(model.classes)} classes are too long for a "
            f"file; at most {LIMIT} bytes in total"
        )
        raise UsageError(message)


def load(path: str) -> tuple[Model, xl.Sequential, dict[str, Any]]:
    """Read a file of `save`: return the model, its network, and the other metadata."""
    kind = kind_of_file(path)
    if Path(path).is_dir():
        kind = "a folder"
    if kind not in ("", "a safetensors file"):
        message = f"{path} is {kind}; expected a model written by `xplayers train --save`"
        raise UsageError(message)
    try:
        metadata = xl.read_metadata(path)
    except ValueError as error:
        if "was not written by xplayers" not in str(error):
            raise
        message = (
            f"{path} is a safetensors file of another program; expected a model written by "
            "`xplayers train --save`"
        )
        raise UsageError(message) from error
    try:
        model = Model.from_metadata(metadata["model"])
        net = model.build(0)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        why = repr(error)
        if "model" not in metadata:
            why = "it has no architecture; in Python xl.load(path, net) reads it"
        message = f"{path} is not a model written by `xplayers train --save` ({why})"
        if metadata.keys() >= {"run", "position"}:
            message = (
                f"{path} is a checkpoint, not a model; `xplayers train --checkpoint-dir "
                f"{Path(path).parent} --resume --save FILE` writes a model of the last one"
            )
        raise UsageError(message) from error
    xl.load(path, net)
    broken = [name for name, a in net.arrays.items() if not np.isfinite(xl.to_numpy(a)).all()]
    if broken:
        message = f"{path} has values in {broken[0]} that are not finite; train it again"
        raise UsageError(message)
    return model, net, metadata
