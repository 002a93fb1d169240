"""What the command trains: models for a data set, of which only their sizes are chosen."""

from __future__ import annotations

import json
import math
from typing import Any

from xplayers.cli.datasets import Data
from xplayers.cli.messages import UsageError
from xplayers.data.standardising import Standard, standard
from xplayers.initializers import Rng
from xplayers.models import Model
from xplayers.models.architecture import Architecture

# With batches of 32 the matrix products of the digits have at most 32 * 64 * 128 = 2**18 terms, for
# which OpenBLAS starts no threads: they gain little there, and wait long on a busy machine.
HIDDEN = {"mlp": (128, 64), "cnn": (64,)}
CHANNELS = (16, 32)
LIMIT = 2 * 2**20  # maximum bytes of metadata in a file


def make(
    kind: str,
    data: Data,
    hidden: list[int] | None,
    channels: list[int] | None,
    rng: Rng = 0,
    dropout: float = 0.0,
) -> Model:
    """Return a new model for a data set."""
    shape = data.x.shape[1:]
    if kind == "cnn":
        shape = _images(data)
    elif channels is not None:
        message = "--channels goes with --model cnn"
        raise UsageError(message)
    try:
        scaling = standard(data.x) if data.own else Standard(0.0, 1.0, ())
    except ValueError as error:
        message = f"x of {data.name}: {error}"
        raise UsageError(message) from error
    architecture = Architecture(
        kind,
        shape if kind == "cnn" else (math.prod(shape),),
        len(data.classes) or data.t.shape[1],
        tuple(HIDDEN[kind] if hidden is None else hidden),
        tuple(channels or CHANNELS) if kind == "cnn" else (),
        dropout,
    )
    if not architecture.pixels:
        message = (
            f"images of {shape[1]} x {shape[2]} pixels cannot be halved "
            f"{len(architecture.channels)} times; pass fewer --channels"
        )
        raise UsageError(message)
    try:
        net = architecture.build(rng)
    except ValueError as error:  # array too large
        message = f"--hidden {' '.join(map(str, architecture.hidden))}: {error}"
        raise UsageError(message) from error
    shape = data.x.shape[1:]
    targets = None if data.classes else standard(data.t)
    return Model(
        architecture, net, data.classes, scaling, shape, columns=data.columns, targets=targets
    )


def _images(data: Data) -> tuple[int, ...]:
    """Return the shape of images as (channels, height, width)."""
    shape = data.x.shape[1:]
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
    return (1,) * (3 - len(shape)) + shape


def constants(scaling: Standard) -> str:
    """Describe the constant features; "" for none."""
    if not scaling.constant or isinstance(scaling.mean, float):
        return "x is constant" if scaling.constant else ""
    first = ", ".join(map(str, scaling.constant[:10]))
    more = f" and {len(scaling.constant) - 10} more" if len(scaling.constant) > 10 else ""
    s, verb = ("s", "are") if len(scaling.constant) > 1 else ("", "is")
    return f"column{s} {first}{more} (from 0) of x {verb} constant"


def check_length(path: str, model: Model, about: dict[str, Any]) -> None:
    """Check before training that the metadata of a model fit into a file."""
    text = json.dumps({"model": model.metadata(), **about})
    size = len(json.dumps(text)) + len(json.dumps(repr(model.net)))
    if size > LIMIT - 2**16:  # names and results
        message = (
            f"--save {path}: the names of the {len(model.classes)} classes are too long for a "
            f"file; at most {LIMIT} bytes in total"
        )
        raise UsageError(message)
