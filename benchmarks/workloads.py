"""What is measured: the list of workloads, and their data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.networks import Spec, mlp, network

BATCH = 100  # of the data that are loaded


@dataclass(frozen=True)
class Workload:
    name: str
    kind: str  # the method of an implementation that builds it
    shape: Sequence[int]  # of the input, the batch first
    title: str
    layers: Sequence[Spec] = ()
    slow: bool = False  # left out by --quick
    hidden: bool = False  # run only when asked for by name


def layer(name: str, shape: tuple[int, ...], spec: Spec, title: str, **options: bool) -> Workload:
    return Workload(name, "layer", shape, f"{title}, forward and backward", (spec,), **options)


def step(n_in: int, *widths: int, batch: int, name: str = "", **options: bool) -> Workload:
    name = name or f"step-{'-'.join(map(str, (n_in, *widths)))}"
    title = f"training step, batch {batch}, Adam"
    return Workload(name, "step", (batch, n_in), title, mlp(*widths), **options)


def inference(batch: int) -> Workload:
    title = f"inference of a convolutional network, batch {batch} of 28 x 28"
    shape = (batch, 1, 28, 28)
    return Workload(f"inference-cnn-{batch}", "inference", shape, title, convolutional(16))


def transformer_block(width: int, n_heads: int) -> Spec:
    """Return a block of GPT-2: attention and two affine layers, each behind a normalization."""
    attention = ("residual", ("layer_normalization",), ("attention", n_heads))
    affine = ("affine", 4 * width), ("gelu",), ("affine", width)
    return ("sequential", attention, ("residual", ("layer_normalization",), *affine))


def convolutional(channels: int) -> tuple[Spec, ...]:
    """Return twice convolution, normalization, ReLU and pooling, and an affine layer."""
    layers: list[Spec] = []
    for n_out in (channels, 2 * channels):
        layers += [("convolution", n_out, 3), ("batch_normalization",)]
        layers += [("relu",), ("max_pooling", 2)]
    return (*layers, ("flatten",), ("affine", 10))


CONVOLUTIONAL = (
    "training step of a convolutional network, batch 128 of 28 x 28, 16 and 32 filters, Adam"
)

TOY = step(6, 5, 4, 3, batch=8, hidden=True)  # for the tests
# Has every kind of layer that the steps have: what a library does when it first meets one is done.
WARM_UP = Workload("warm-up", "step", (8, 1, 8, 8), "a tiny step", convolutional(2), hidden=True)

WORKLOADS = (
    layer("relu-4m", (2000, 2000), ("relu",), "ReLU of 4,000,000 values"),
    layer("sigmoid-1m", (1000, 1000), ("sigmoid",), "Sigmoid of 1,000,000 values"),
    layer("affine-784-1024", (128, 784), ("affine", 1024), "Affine, batch 128"),
    layer(
        "batchnorm-1024", (128, 1024), ("batch_normalization",),
        "BatchNormalization of 1024 features, batch 128",
    ),
    layer(
        "batchnorm-32x14x14", (128, 32, 14, 14), ("batch_normalization",),
        "BatchNormalization of 32 channels of 14 x 14, batch 128", slow=True,
    ),
    layer(
        "convolution-1x28x28", (128, 1, 28, 28), ("convolution", 32, 5),
        "Convolution of 28 x 28 with 32 filters 5 x 5, batch 128", slow=True,
    ),
    layer(
        "convolution-32x14x14", (128, 32, 14, 14), ("convolution", 64, 3),
        "Convolution of 32 channels of 14 x 14 with 64 filters 3 x 3, batch 128", slow=True,
    ),
    layer(
        "attention-128x256", (16, 128, 256), ("attention", 8),
        "MultiHeadAttention, causal, batch 16, length 128, width 256, 8 heads", slow=True,
    ),
    layer(
        "gpt-block-256x384", (8, 256, 384), transformer_block(384, 6),
        "a block of GPT-2, batch 8, length 256, width 384, 6 heads", slow=True,
    ),
    layer(
        "layernorm-4096x768", (4096, 768), ("layer_normalization",),
        "LayerNormalization of 768 features, batch 4096",
    ),
    layer(
        "lstm-50x128", (32, 50, 128), ("lstm", 128),
        "Lstm, batch 32, 50 steps, 128 features and units", slow=True,
    ),
    layer(
        "pooling-16x28x28", (128, 16, 28, 28), ("max_pooling", 2),
        "MaxPooling 2 x 2 of 16 channels of 28 x 28, batch 128",
    ),
    layer("dropout-1m", (1000, 1000), ("dropout", 0.1), "Dropout of 1,000,000 values, rate 0.1"),
    layer(
        "embedding-10000x256", (32, 256), ("embedding", 10_000, 256),
        "Embedding of 32 x 256 integers, 10,000 rows of 256",
    ),
    Workload("loss-128x10", "softmax_with_loss", (128, 10), "SoftmaxWithLoss, both ways"),
    Workload("loss-128x1000", "softmax_with_loss", (128, 1000), "SoftmaxWithLoss, both ways"),
    step(16, 16, 4, batch=16),
    step(784, 50, 10, batch=100),
    step(784, 100, 100, 10, batch=100),
    step(784, 1024, 1024, 10, batch=128),
    step(784, 2048, 2048, 2048, 10, batch=512, slow=True),
    Workload("step-cnn", "step", (128, 1, 28, 28), CONVOLUTIONAL, convolutional(16), slow=True),
    inference(1),
    inference(256),
    Workload(
        "loading-20000x784", "loading", (20_000, 784),
        f"an epoch in shuffled batches of {BATCH}: 20,000 samples of 784 features",
    ),
    Workload("adam-10m", "adam", (10, 1000, 1000), "Adam on 10 arrays of 1,000,000 parameters"),
    Workload("shell", "shell", (), "what a call costs beyond its pure function"),
    TOY,
)  # fmt: skip


def find(name: str) -> Workload:
    return next(w for w in WORKLOADS if w.name == name)


def data(workload: Workload) -> dict[str, Any]:
    """Return the host arrays of a workload: the same values in every process."""
    rng = np.random.default_rng(0)

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        a = rng.standard_normal(shape, dtype=np.float32)
        a *= np.float32(scale)
        return _aligned(a)

    shape = workload.shape
    match workload.kind:
        case "layer":
            (spec,) = workload.layers
            is_table = spec[0] == "embedding"
            x = rng.integers(0, spec[1], shape) if is_table else normal(*shape)
            (layer,), output_shape = network(workload.layers, shape, normal)
            return {"x": x, "dy": normal(*output_shape), "layer": layer}
        case "softmax_with_loss":
            return {"x": normal(*shape), "t": rng.integers(0, shape[1], shape[0])}
        case "step":
            x = normal(*shape)
            layers, (batch, classes) = network(workload.layers, shape, normal)
            return {"x": x, "t": rng.integers(0, classes, batch), "layers": layers}
        case "inference":
            x = normal(*shape)
            return {"x": x, "layers": network(workload.layers, shape, normal)[0]}
        case "loading":
            return {"x": normal(*shape), "t": rng.integers(0, 10, shape[0]), "batch_size": BATCH}
        case "adam":
            count, *rest = shape
            names = [f"p{i}" for i in range(count)]
            return {
                # From zero, so that what the self-check compares is the update alone.
                "params": {name: np.zeros(rest, np.float32) for name in names},
                "grads": {name: _not_tiny(normal(*rest)) for name in names},
            }
    return {}


def comparison(data: dict[str, Any]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """Return the function of the results of a workload that has to be equal in all implementations.

    The identity, but for dropout, whose masks are each library's own: there the share of zeros in
    two digits, the scale of all other values of y and dx, and that dx has the mask of y.
    """
    if "layer" not in data or data["layer"].kind != "dropout":
        return lambda arrays: arrays

    def of_dropout(arrays):
        y, dx = map(np.asarray, arrays)
        is_kept = y != 0
        share = round(1.0 - float(np.mean(is_kept)), 2)
        ratios = y[is_kept] / data["x"][is_kept], dx[is_kept] / data["dy"][is_kept]
        return share, *(np.unique(np.round(r, 3)) for r in ratios), np.max(np.abs(dx[~is_kept]))

    return of_dropout


def _aligned(a: np.ndarray) -> np.ndarray:
    """Return a copy that begins with a line of the cache, as arrays of PyTorch and JAX do.

    Large ones of NumPy begin in the middle, and whoever reads them is some 10 % slower.
    """
    memory = np.empty(a.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
    copy[...] = a
    return copy


def _not_tiny(g: np.ndarray) -> np.ndarray:
    """Keep gradients away from 0: there the two places for Adam's epsilon give different steps."""
    return g + np.copysign(np.float32(0.01), g)
