"""The outputs of all layers of a network, by name."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

from xplayers._checks import instance
from xplayers.arrays.namespaces import Array
from xplayers.layers.base import Cache, Layer
from xplayers.layers.containers import Container

__all__ = ["Output", "layer_outputs"]


class Output(NamedTuple):
    """The output `y` of a `layer`.

    `name` is the dotted path of the layer: ``"fc1"``, ``"3.0"``; ``""`` for the network itself.
    """

    name: str
    layer: Layer
    y: Array


def layer_outputs(
    net: Layer, x: Array, *, train: bool = False, arrays: Mapping[str, Array] | None = None
) -> list[Output]:
    """Run a network once and return the output of every layer in it.

    Parameters
    ----------
    net : Layer
        Any layer. It is not changed, and its parameters are not moved.
    x : array
        Input.
    train : bool
        Compute as in training (masks of dropout, batch statistics) instead of inference.
    arrays : mapping of str to array, optional
        Parameters and buffers; by default those of the network, ``net.arrays``.

    Returns
    -------
    list of Output
        In order of computation: the parts of a container before the container.

    Raises
    ------
    TypeError
        If `net` is not a layer.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> net = xl.mlp([4, 8, 3], rng=0)
    >>> for name, layer, y in xl.layer_outputs(net, np.ones((2, 4), "float32")):
    ...     print(repr(name), type(layer).__name__, y.shape)
    '0' Affine (2, 8)
    '1' Relu (2, 8)
    '2' Affine (2, 3)
    '' Sequential (2, 3)
    """
    instance("layer_outputs", "net", net, Layer, "a network: layer_outputs(net, x)")
    outputs: list[Output] = []
    recorder = _OutputRecorder(net, "", outputs)
    (recorder.apply if train else recorder.infer)(net.arrays if arrays is None else arrays, x)
    return outputs


class _OutputRecorder(Layer):
    """A wrapper of a layer that records its outputs."""

    def __init__(self, layer: Layer, name: str, outputs: list[Output]) -> None:
        self.layer, self.name, self.outputs = layer, name, outputs
        self.wrapped = layer
        if isinstance(layer, Container):
            # A container only calls its parts through this list.
            self.wrapped = copy.copy(layer)
            prefix = f"{name}." if name else ""
            self.wrapped._parts = [
                part._replace(layer=_OutputRecorder(part.layer, f"{prefix}{part.name}", outputs))
                for part in layer._parts
            ]

    def apply(
        self, arrays: Mapping[str, Array], x: Array, *inputs: Any, **options: Any
    ) -> tuple[Array, Cache]:
        y, cache = self.wrapped.apply(arrays, x, *inputs, **options)
        self.outputs.append(Output(self.name, self.layer, y))
        return y, cache

    def infer(self, arrays: Mapping[str, Array], x: Array, *inputs: Any, **options: Any) -> Array:
        y = self.wrapped.infer(arrays, x, *inputs, **options)
        self.outputs.append(Output(self.name, self.layer, y))
        return y

    def updated_buffers(self, arrays: Mapping[str, Array], cache: Cache) -> dict[str, Array]:
        return self.layer.updated_buffers(arrays, cache)
