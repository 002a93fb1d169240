"""Random networks: a table of layers, each with the shapes of samples that it takes."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

import xplayers as xl

Shape = tuple[int, ...]  # of a sample: (features,), (time, features) or (channels, *sizes)


@dataclasses.dataclass(frozen=True)
class Node:
    """A layer to be: a row of the table, the seed of its options, and what is inside."""

    row: str
    seed: int
    inside: tuple[Node, ...] = ()


@dataclasses.dataclass(frozen=True)
class Row:
    """How a layer is made for samples of a shape; `axes`: how many these may have."""

    make: Callable[[Builder, np.random.Generator, Shape, tuple[Node, ...]], xl.Layer]
    axes: tuple[int, ...] = (1, 2, 3)
    often: float = 1.0
    holds: bool = False  # whether other layers are inside


class Builder:
    """Makes the layers of a network, one after the other."""

    def __init__(self, width: int) -> None:
        self.width = width  # about how many features there are
        self.made: list[tuple[Shape, xl.Layer]] = []  # with the shapes of their samples
        self.ties: list[tuple[Any, Any, bool]] = []  # two layers with one W; whether transposed
        self.integers: int | None = None  # below which the inputs of the network are

    def line(self, nodes: tuple[Node, ...], shape: Shape) -> tuple[list[xl.Layer], Shape]:
        """Return layers, one on top of the other; nodes that do not fit are left out."""
        layers = []
        for node in nodes:
            found = self.layer(node, shape)
            if found is not None:
                layer, shape = found
                layers.append(layer)
        return layers, shape

    def layer(self, node: Node, shape: Shape) -> tuple[xl.Layer, Shape] | None:
        row = LAYERS[node.row]
        if len(shape) not in row.axes:
            return None
        before = len(self.ties), len(self.made)
        try:
            layer = row.make(self, np.random.default_rng(node.seed), shape, node.inside)
            after = output_shape(layer, shape)
        except (ValueError, LookupError):
            after = (0,)
        if not 0 < math.prod(after) <= 40 * self.width:
            del self.ties[before[0] :], self.made[before[1] :]
            return None
        self.made.append((shape, layer))
        return layer, after

    def closed(self, nodes: tuple[Node, ...], shape: Shape, seed: int) -> list[xl.Layer]:
        """Return layers whose output has the shape of their input."""
        layers, after = self.line(nodes, shape)
        if after != shape:
            n = math.prod(shape)
            layers += [xl.Affine.init(math.prod(after), n, rng=seed), xl.Reshape(*shape)]
        return layers


def output_shape(layer: xl.Layer, shape: Shape) -> Shape:
    # A copy: the arrays of the layer itself follow the first input that it gets.
    x = np.zeros((2, *shape), np.int64 if layer.integer_input else np.float32)
    return tuple(copy.deepcopy(layer).predict(x).shape[1:])


def plain(make: Callable[..., xl.Layer]) -> Callable[..., xl.Layer]:
    """Of a layer that is made of the random numbers and the shape alone."""
    return lambda builder, rng, shape, inside: make(rng, shape)


def pick(rng: np.random.Generator, *values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def seed_of(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def affine(builder: Builder, rng: Any, shape: Shape, inside: Any) -> xl.Layer:
    n = int(rng.integers(1, builder.width + 1))
    return xl.Affine.init(math.prod(shape), n, rng=seed_of(rng))


def affine_of_each(builder: Builder, rng: Any, shape: Shape, inside: Any) -> xl.Layer:
    n = int(rng.integers(1, 8))
    return xl.Affine.init(shape[-1], n, flatten=False, rng=seed_of(rng))


def convolution(rng: Any, shape: Shape) -> xl.Layer:
    c, *sizes = shape
    groups = pick(rng, 1, 1, math.gcd(c, 2), c)
    whole = rng.random() < 0.15  # a filter as large as its image
    dilation = 1 if whole else pick(rng, 1, 1, 2)
    size = tuple(sizes) if whole else tuple(int(rng.integers(1, 4)) for _ in sizes)
    return xl.Convolution.init(
        c,
        groups * int(rng.integers(1, 4)),
        size,
        stride=pick(rng, 1, 1, 2),
        padding=0 if whole else pick(rng, 0, 1, "same"),
        dilation=dilation,
        groups=groups,
        bias=rng.random() < 0.6,
        rng=seed_of(rng),
    )


def convolution_transpose(rng: Any, shape: Shape) -> xl.Layer:
    c, *sizes = shape
    stride = pick(rng, 1, 2)
    return xl.ConvolutionTranspose.init(
        c,
        int(rng.integers(1, 4)),
        tuple(int(rng.integers(1, 4)) for _ in sizes),
        stride=stride,
        padding=pick(rng, 0, 0, 1),
        output_padding=pick(rng, 0, stride - 1),
        bias=rng.random() < 0.6,
        rng=seed_of(rng),
    )


def pooling(cls: Any) -> Any:
    def make(rng: Any, shape: Shape) -> xl.Layer:
        size = tuple(int(rng.integers(1, 1 + min(3, n))) for n in shape[1:])
        return cls(size, stride=pick(rng, None, 1, 2), padding=pick(rng, 0, 0, min(size) // 2))

    return plain(make)


def group_normalization(rng: Any, shape: Shape) -> xl.Layer:
    groups = [g for g in range(1, shape[0] + 1) if shape[0] % g == 0]
    return scaled(xl.GroupNormalization.init(shape[0], pick(rng, *groups)), rng)


def layer_normalization(rng: Any, shape: Shape) -> xl.Layer:
    axes = int(rng.integers(1, len(shape) + 1))
    return scaled(xl.LayerNormalization.init(*shape[-axes:]), rng)


def scaled(layer: xl.Layer, rng: Any) -> xl.Layer:
    """Give gamma and beta values that are not 1 and 0."""
    for name, a in layer.params.items():
        layer.params[name] = rng.normal(1.0, 0.2, a.shape).astype(a.dtype)
    return layer


def standardize(rng: Any, shape: Shape) -> xl.Layer:
    layer = xl.Standardize.init(*shape)
    for name, a in layer.buffers.items():
        layer.buffers[name] = rng.uniform(0.5, 2.0, a.shape).astype(a.dtype)
    return layer


def recurrent(cls: Any) -> Any:
    def make(rng: Any, shape: Shape) -> xl.Layer:
        more = {"reset_after": rng.random() < 0.5} if cls is xl.Gru else {}
        n, both = int(rng.integers(1, 6)), rng.random() < 0.4
        return cls.init(shape[1], n, bidirectional=both, rng=seed_of(rng), **more)

    return plain(make)


def attention(rng: Any, shape: Shape) -> xl.Layer:
    heads = pick(rng, *[h for h in range(1, shape[1] + 1) if shape[1] % h == 0])
    turned = rng.random() < 0.4 and shape[1] // heads % 2 == 0
    return xl.MultiHeadAttention.init(
        shape[1],
        heads,
        causal=rng.random() < 0.5,
        n_kv_heads=pick(rng, None, None, *[h for h in range(1, heads + 1) if heads % h == 0]),
        rope_theta=100.0 if turned else None,
        dropout=pick(rng, 0.0, 0.0, 0.3),
        seed=seed_of(rng),
        bias=rng.random() < 0.6,
        rng=seed_of(rng),
    )


def gated_mlp(rng: Any, shape: Shape) -> xl.Layer:
    n, activation = int(rng.integers(1, 8)), pick(rng, xl.Silu, xl.Gelu, xl.Sigmoid)
    bias = rng.random() < 0.5
    return xl.GatedMlp.init(shape[-1], n, activation=activation, bias=bias, rng=seed_of(rng))


def embedding(builder: Builder, rng: Any, shape: Shape, inside: Any) -> xl.Layer:
    if builder.made:
        message = "integers come at the bottom only"
        raise ValueError(message)
    builder.integers = pick(rng, 5, 20, 600)
    return xl.Embedding.init(builder.integers, int(rng.integers(1, 7)), rng=seed_of(rng))


def positions(rng: Any, shape: Shape) -> xl.Layer:
    return xl.PositionalEmbedding.init(shape[0] + pick(rng, 0, 2), shape[1], rng=seed_of(rng))


def reshape(rng: Any, shape: Shape) -> xl.Layer:
    n = math.prod(shape)
    a = pick(rng, *[d for d in range(1, n + 1) if n % d == 0])
    b = pick(rng, *[d for d in range(1, n // a + 1) if n // a % d == 0])
    return xl.Reshape(*pick(rng, (-1,), (a, -1), (a, n // a), (a, b, -1)))


def transpose(rng: Any, shape: Shape) -> xl.Layer:
    return xl.Transpose(*(1 + int(a) for a in rng.permutation(len(shape))))


def container(cls: Any) -> Any:
    def make(builder: Builder, rng: Any, shape: Shape, inside: tuple[Node, ...]) -> xl.Layer:
        if cls is xl.Residual:
            return cls(*builder.closed(inside, shape, seed_of(rng)))
        layers, _ = builder.line(inside, shape[1:] if cls is xl.Map else shape)
        if rng.random() < 0.2 and cls is not xl.Map:
            return cls(**{f"part{i}": layer for i, layer in enumerate(layers)})
        return cls(*layers)

    return make


def parallel(builder: Builder, rng: Any, shape: Shape, inside: tuple[Node, ...]) -> xl.Layer:
    half = len(inside) // 2
    parts = [
        xl.Sequential(*builder.closed(nodes, shape, seed_of(rng)))
        for nodes in (inside[:half], inside[half:])
    ]
    if rng.random() < 0.5:
        return xl.Parallel(*parts)
    axis = int(rng.integers(1, len(shape) + 1))
    return xl.Parallel(*parts, combine="concatenate", axis=pick(rng, axis, axis - len(shape) - 1))


@xl.elementwise
def _bent(xp: Any, x: Any, s: Any) -> Any:
    return xp.where(x > 0.0, x * s, xp.tanh(x)) + 0.1 * x * x


@xl.elementwise
def _slope(xp: Any, x: Any, s: Any, dy: Any) -> Any:
    y = xp.tanh(x)
    return dy * (xp.where(x > 0.0, s + 0.0 * x, 1.0 - y * y) + 0.2 * x)


class Own(xl.Layer):
    """A layer of somebody's own, with a 0-d parameter."""

    s, ds = xl.Parameter(), xl.Gradient()

    def __init__(self, s: Any) -> None:
        self.s = s

    def apply(self, arrays: Any, x: Any) -> Any:
        return _bent(x, arrays["s"]), (x, arrays["s"])

    def vjp(self, cache: Any, dy: Any) -> Any:
        x, s = cache
        xp = xl.namespace(x)
        return _slope(x, s, dy), {"s": xp.sum(xp.where(x > 0.0, x * dy, 0.0 * dy))}


def own(rng: Any, shape: Shape) -> xl.Layer:
    layer = Own(np.asarray(rng.normal(1.0, 0.2), np.float32))
    layer._materialize_at(None)
    return layer


def again(builder: Builder, rng: Any, shape: Shape, inside: Any) -> xl.Layer:
    """A layer that the network has already."""
    fits = [layer for before, layer in builder.made if before == shape and layer.params]
    return pick(rng, *fits) if fits else fail()


def tied(builder: Builder, rng: Any, shape: Shape, inside: Any) -> xl.Layer:
    """A layer whose W is that of another one, or its transpose."""
    n = shape[-1]
    found = [
        (layer, other)
        for _, layer in builder.made
        for other in (False, True)
        if isinstance(layer, xl.Affine | xl.Embedding) and layer.W.shape[other] == n
    ]
    layer, other = pick(rng, *found) if found else fail()
    W = layer.W.T if other else layer.W
    made = xl.Affine(W, np.zeros(W.shape[1], W.dtype), flatten=False)
    made._materialize_at(None)  # as `init` does: host values follow the first input
    builder.ties.append((layer, made, other))
    return made


def fail() -> Any:
    message = "there is no such layer"
    raise LookupError(message)


def activation(make: Callable[..., xl.Layer], *options: Any) -> Row:
    """With one of the options, or without any."""
    return Row(plain(lambda rng, shape: make(*pick(rng, (), *options))), often=0.5)


LAYERS: dict[str, Row] = {
    "Affine": Row(affine, often=3),
    "Affine of each": Row(affine_of_each, (2, 3)),
    "Relu": activation(xl.Relu),
    "LeakyRelu": activation(xl.LeakyRelu, (0.2,)),
    "Elu": activation(xl.Elu, (1.3,)),
    "Gelu": activation(xl.Gelu, ("none",)),
    "Silu": activation(xl.Silu),
    "Softplus": activation(xl.Softplus),
    "Sigmoid": activation(xl.Sigmoid),
    "Tanh": activation(xl.Tanh),
    "Softmax": activation(xl.Softmax, (1,)),
    "Convolution": Row(plain(convolution), (2, 3), 3),
    "ConvolutionTranspose": Row(plain(convolution_transpose), (2, 3)),
    "MaxPooling": Row(pooling(xl.MaxPooling), (2, 3)),
    "AveragePooling": Row(pooling(xl.AveragePooling), (2, 3)),
    "GlobalAveragePooling": Row(
        plain(lambda rng, shape: xl.GlobalAveragePooling()), (2, 3), often=0.3
    ),
    "BatchNormalization": Row(
        plain(lambda rng, shape: scaled(xl.BatchNormalization.init(shape[0]), rng))
    ),
    "LayerNormalization": Row(plain(layer_normalization)),
    "GroupNormalization": Row(plain(group_normalization), (2, 3)),
    "RmsNormalization": Row(
        plain(lambda rng, shape: scaled(xl.RmsNormalization.init(shape[-1]), rng))
    ),
    "Standardize": Row(plain(standardize), often=0.5),
    "Dropout": Row(plain(lambda rng, shape: xl.Dropout(pick(rng, 0.0, 0.3, 0.5), seed_of(rng)))),
    "Rnn": Row(recurrent(xl.Rnn), (2,)),
    "Lstm": Row(recurrent(xl.Lstm), (2,)),
    "Gru": Row(recurrent(xl.Gru), (2,)),
    "MultiHeadAttention": Row(plain(attention), (2,)),
    "GatedMlp": Row(plain(gated_mlp)),
    "RotaryEmbedding": Row(plain(lambda rng, shape: xl.RotaryEmbedding(50.0)), (2, 3)),
    "Embedding": Row(embedding, (1, 2), 0.0),
    "PositionalEmbedding": Row(plain(positions), (2,)),
    "Flatten": Row(plain(lambda rng, shape: xl.Flatten()), often=0.3),
    "Reshape": Row(plain(reshape), often=0.7),
    "Transpose": Row(plain(transpose), (2, 3), 0.7),
    "Sequential": Row(container(xl.Sequential), holds=True, often=0.7),
    "Residual": Row(container(xl.Residual), holds=True, often=0.7),
    "Parallel": Row(parallel, holds=True, often=0.7),
    "Map": Row(container(xl.Map), (2, 3), holds=True, often=0.7),
    "Recompute": Row(container(xl.Recompute), holds=True, often=0.7),
    "own": Row(plain(own), often=0.7),
    "again": Row(again, often=0.7),
    "tied": Row(tied, often=0.7),
}

_NAMES = list(LAYERS)
_OFTEN = np.asarray([row.often for row in LAYERS.values()])


@dataclasses.dataclass(frozen=True)
class Network:
    """A network to be."""

    nodes: tuple[Node, ...]
    shape: Shape
    width: int

    def build(self) -> tuple[xl.Layer, Builder]:
        builder = Builder(self.width)
        layers, _ = builder.line(self.nodes, self.shape)
        return xl.Sequential(*layers), builder

    def scores(self) -> Shape:
        """Return the shape of what comes out for a sample."""
        return Builder(self.width).line(self.nodes, self.shape)[1]


def draw_network(rng: np.random.Generator) -> Network:
    width = pick(rng, 6, 6, 10, 100)
    shape = pick(
        rng, (int(rng.integers(1, width + 1)),),
        tuple(int(n) for n in rng.integers(1, 6, 2)), (1, int(rng.integers(1, 6))),
        (pick(rng, 1, 2, 3), *(int(n) for n in rng.integers(2, 7, 2))),
    )  # fmt: skip
    nodes = _nodes(rng, int(rng.integers(1, 9)))
    if len(shape) < 3 and rng.random() < 0.15:
        nodes = (Node("Embedding", seed_of(rng)), *nodes)
    if rng.random() < 0.7:
        nodes = (*nodes, Node("Affine", seed_of(rng)))
    network = Network(nodes, shape, width)
    network = dataclasses.replace(network, nodes=_fitting(network))
    if not network.build()[0].params:  # which a step refuses
        network = dataclasses.replace(network, nodes=(*network.nodes, Node("Affine", seed_of(rng))))
    return network


def _nodes(rng: np.random.Generator, n: int, depth: int = 0) -> tuple[Node, ...]:
    rows = rng.choice(len(_NAMES), n, p=_OFTEN / _OFTEN.sum())
    made = []
    for i in rows:
        name = _NAMES[int(i)]
        holds = LAYERS[name].holds and depth < 2
        inside = _nodes(rng, int(rng.integers(0, 4)), depth + 1) if holds else ()
        made.append(Node(name, seed_of(rng), inside))
    return tuple(made)


def _fitting(network: Network) -> tuple[Node, ...]:
    """Return the nodes that get a place."""
    builder, shape, kept = Builder(network.width), network.shape, []
    for node in network.nodes:
        found = builder.layer(node, shape)
        if found is not None:
            shape = found[1]
            kept.append(node)
    return tuple(kept)
