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
    parts: tuple[LayerData, ...] = ()  # of a container

    @property
    def learnt(self) -> list[str]:
        """The parameters whose gradients are compared, by the names that containers give them.

        The gradient of the bias of the keys is 0, and what a library has in its place is rounding.
        """
        of_parts = (f"{i}.{name}" for i, part in enumerate(self.parts) for name in part.learnt)
        return [*(name for name in self.arrays if name != "bk"), *of_parts]


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
        layer, output_shape = _FACTORIES[kind](shape, normal, *sizes)
        layers.append(replace(layer, shape=shape))
        shape = output_shape
    return layers, shape


def _scale(n_in: int) -> float:
    return math.sqrt(2.0 / n_in)


def _affine(shape, normal, n_out):
    *batch, n_in = shape
    W, b = normal(n_in, n_out, scale=_scale(n_in)), np.zeros(n_out, np.float32)
    options = {"flatten": False} if len(batch) > 1 else {}
    return LayerData("affine", {"W": W, "b": b}, options), (*batch, n_out)


def _convolution(shape, normal, n_out, size):
    n, n_in, *image = shape
    W = normal(n_out, n_in, size, size, scale=_scale(n_in * size * size))
    arrays = {"W": W, "b": np.zeros(n_out, np.float32)}
    return LayerData("convolution", arrays, {"padding": "same"}), (n, n_out, *image)


def _normalization(kind, axis):
    def factory(shape, normal):
        # Not one and zero, with which a gamma or beta that is left out would not be seen.
        n = shape[axis]
        arrays = {"gamma": 1 + normal(n, scale=0.1), "beta": normal(n, scale=0.1)}
        return LayerData(kind, arrays), shape

    return factory


def _attention(shape, normal, n_heads):
    features, arrays = shape[-1], {}
    for name in "qkvo":
        arrays[f"W{name}"] = normal(features, features, scale=1 / math.sqrt(features))
        arrays[f"b{name}"] = normal(features, scale=0.1)
    return LayerData("attention", arrays, {"n_heads": n_heads, "causal": True}), shape


def _max_pooling(shape, normal, size):
    pooled = (*shape[:2], *(n // size for n in shape[2:]))
    return LayerData("max_pooling", options={"size": size}), pooled


def _lstm(shape, normal, n_hidden):
    n, time, n_in = shape
    arrays = {
        "Wx": normal(n_in, 4 * n_hidden, scale=1 / math.sqrt(n_in)),
        "Wh": normal(n_hidden, 4 * n_hidden, scale=1 / math.sqrt(n_hidden)),
        "b": normal(4 * n_hidden, scale=0.1),
    }
    return LayerData("lstm", arrays), (n, time, n_hidden)


def _embedding(shape, normal, n, n_features):
    return LayerData("embedding", {"W": normal(n, n_features)}), (*shape, n_features)


def _dropout(shape, normal, rate):
    return LayerData("dropout", options={"rate": rate}), shape


def _flatten(shape, normal):
    return LayerData("flatten"), (shape[0], math.prod(shape[1:]))


def _elementwise(kind):
    return lambda shape, normal: (LayerData(kind), shape)


def _container(kind):
    def factory(shape, normal, *specs):
        parts, output_shape = network(specs, shape, normal)
        return LayerData(kind, parts=tuple(parts)), output_shape

    return factory


_FACTORIES: dict[str, Callable[..., tuple[LayerData, tuple[int, ...]]]] = {
    "affine": _affine,
    "convolution": _convolution,
    "batch_normalization": _normalization("batch_normalization", axis=1),
    "layer_normalization": _normalization("layer_normalization", axis=-1),
    "attention": _attention,
    "lstm": _lstm,
    "embedding": _embedding,
    "max_pooling": _max_pooling,
    "dropout": _dropout,
    "flatten": _flatten,
    "relu": _elementwise("relu"),
    "sigmoid": _elementwise("sigmoid"),
    "gelu": _elementwise("gelu"),
    "sequential": _container("sequential"),
    "residual": _container("residual"),
}
