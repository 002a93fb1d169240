"""The networks that a few numbers describe, from which a file rebuilds them without code."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np

from xplayers.initializers import Rng
from xplayers.layers import (
    Convolution,
    Dropout,
    Flatten,
    Layer,
    MaxPooling,
    Relu,
    Sequential,
    mlp,
)

KINDS = ("mlp", "cnn")


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A multilayer perceptron, or blocks of convolution, ReLU and pooling before one."""

    kind: str  # one of `KINDS`
    sample: tuple[int, ...]  # input shape: (features,) or (channels, height, width)
    outputs: int
    hidden: tuple[int, ...]  # widths of hidden layers
    channels: tuple[int, ...] = ()  # of the convolutions, each of which halves height and width
    dropout: float = 0.0  # rate after each hidden layer

    def build(self, rng: Rng) -> Sequential:
        """Make the network."""
        rng = np.random.default_rng(rng)
        layers: list[Layer] = []
        features = self.sample
        if self.kind == "cnn":
            for n_in, n_out in itertools.pairwise((self.sample[0], *self.channels)):
                layers.append(Convolution.init(n_in, n_out, 3, padding=1, rng=rng))
                layers += [Relu(), MaxPooling(2)]
            layers.append(Flatten())
            features = (self.channels[-1] * self.pixels,)
        for layer in mlp([*features, *self.hidden, self.outputs], rng=rng):
            layers.append(layer)
            if self.dropout and isinstance(layer, Relu):
                layers.append(Dropout(self.dropout, seed=int(rng.integers(2**31))))
        return Sequential(*layers)

    @property
    def pixels(self) -> int:
        """Pixels of an image after all convolutions."""
        return math.prod(size >> len(self.channels) for size in self.sample[1:])

    def check(self) -> None:
        """Check that the sizes, of a file, are those of a network."""
        axes = {"mlp": 1, "cnn": 3}[self.kind]
        sizes = (*self.sample, *self.hidden, *self.channels, self.outputs, self.pixels)
        if (
            len(self.sample) != axes
            or min(sizes) < 1
            or (self.kind == "cnn") != bool(self.channels)
            or not 0 <= self.dropout < 1
        ):
            message = "its sizes are inconsistent"
            raise ValueError(message)

    def __str__(self) -> str:
        parts = ["x".join(map(str, self.sample))]
        parts += [f"convolution {n}" for n in self.channels]
        text = " -> ".join([*parts, *map(str, self.hidden), str(self.outputs)])
        return f"{text}, dropout {self.dropout:g}" if self.dropout else text
