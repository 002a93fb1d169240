"""What each layer inside a network makes of an input, by name."""

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
    """What one layer has computed.

    Attributes
    ----------
    name : str
        Names of the parts that lead to it, with dots: ``"fc1"``, ``"3.0"``; ``""`` for the whole.
    layer : Layer
        The layer itself.
    y : array
        Its output.
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
        Any layer. Its parameters stay where they are; nothing is recorded or changed in it.
    x : array
        Input.
    train : bool
        Compute as for training (masks of dropout, statistics of the batch) instead of inference.
    arrays : mapping of str to array, optional
        Parameters and buffers to compute with; by default those of the network, ``net.arrays``.

    Returns
    -------
    list of Output
        In the order in which they were computed: the parts of a container before the container.

    Raises
    ------
    TypeError
        If `net` is no layer.
    """
    instance("layer_outputs", "net", net, Layer, "a network: layer_outputs(net, x)")
    found: list[Output] = []
    listening = _Listening(net, "", found)
    (listening.apply if train else listening.infer)(net.arrays if arrays is None else arrays, x)
    return found


class _Listening(Layer):
    """A stand-in for a layer that writes down what the layer computes."""

    def __init__(self, layer: Layer, name: str, found: list[Output]) -> None:
        self.layer, self.name, self.found = layer, name, found
        self.twin = layer
        if isinstance(layer, Container):
            # A container calls its parts through this list alone, whatever it does between them.
            self.twin = copy.copy(layer)
            prefix = f"{name}." if name else ""
            self.twin._parts = [
                part._replace(layer=_Listening(part.layer, f"{prefix}{part.name}", found))
                for part in layer._parts
            ]

    def apply(
        self, arrays: Mapping[str, Array], x: Array, *inputs: Any, **options: Any
    ) -> tuple[Array, Cache]:
        y, cache = self.twin.apply(arrays, x, *inputs, **options)
        self.found.append(Output(self.name, self.layer, y))
        return y, cache

    def infer(self, arrays: Mapping[str, Array], x: Array, *inputs: Any, **options: Any) -> Array:
        y = self.twin.infer(arrays, x, *inputs, **options)
        self.found.append(Output(self.name, self.layer, y))
        return y

    def updated_buffers(self, arrays: Mapping[str, Array], cache: Cache) -> dict[str, Array]:
        return self.layer.updated_buffers(arrays, cache)
