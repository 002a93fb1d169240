"""What a layer is to the benchmarks: a kind with its sizes, and the host arrays made for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

Spec = Sequence[Any]  # the kind of a layer and its sizes: ("convolution", 32, 5)
Normal = Callable[..., np.ndarray]


@dataclass(frozen=True)
class LayerData:
    """A layer as each implementation gets it; names and layouts are those of xplayers."""

    kind: str
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = ()  # of the input


def mlp(*widths: int) -> tuple[Spec, ...]:
    """Return affine layers of these widths with ReLU between them."""
    layers: list[Spec] = []
    for width in widths:
        layers += [("relu",), ("affine", width)]
    return tuple(layers[1:])


def network(
    specs: Sequence[Spec], shape: Sequence[int], normal: Normal
) -> tuple[list[LayerData], tuple[int, ...]]:
    """Return the layers for an input of `shape`, and the shape of their output."""
    layers, shape = [], tuple(shape)
    for kind, *sizes in specs:
        layer, outputs = _MAKERS[kind](shape, normal, *sizes)
        layers.append(replace(layer, shape=shape))
        shape = outputs
    return layers, shape


def _scale(n_in: int) -> float:
    return math.sqrt(2.0 / n_in)


def _affine(shape, normal, n_out):
    n, n_in = shape
    W, b = normal(n_in, n_out, scale=_scale(n_in)), np.zeros(n_out, np.float32)
    return LayerData("affine", {"W": W, "b": b}), (n, n_out)


def _convolution(shape, normal, n_out, size):
    n, n_in, *image = shape
    W = normal(n_out, n_in, size, size, scale=_scale(n_in * size * size))
    arrays = {"W": W, "b": np.zeros(n_out, np.float32)}
    return LayerData("convolution", arrays, {"padding": "same"}), (n, n_out, *image)


def _batch_normalization(shape, normal):
    # Not one and zero, with which a gamma or beta that is left out would not be seen.
    arrays = {"gamma": 1 + normal(shape[1], scale=0.1), "beta": normal(shape[1], scale=0.1)}
    return LayerData("batch_normalization", arrays), shape


def _attention(shape, normal, n_heads):
    features, arrays = shape[-1], {}
    for name in "qkvo":
        arrays[f"W{name}"] = normal(features, features, scale=1 / math.sqrt(features))
        arrays[f"b{name}"] = normal(features, scale=0.1)
    return LayerData("attention", arrays, {"n_heads": n_heads, "causal": True}), shape


def _max_pooling(shape, normal, size):
    outputs = (*shape[:2], *(n // size for n in shape[2:]))
    return LayerData("max_pooling", options={"size": size}), outputs


_MAKERS: dict[str, Callable[..., tuple[LayerData, tuple[int, ...]]]] = {
    "affine": _affine,
    "convolution": _convolution,
    "batch_normalization": _batch_normalization,
    "attention": _attention,
    "max_pooling": _max_pooling,
    "relu": lambda shape, normal: (LayerData("relu"), shape),
    "sigmoid": lambda shape, normal: (LayerData("sigmoid"), shape),
    "flatten": lambda shape, normal: (LayerData("flatten"), (shape[0], math.prod(shape[1:]))),
}
