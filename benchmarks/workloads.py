"""What is measured: the list of workloads, and their data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.networks import Spec, mlp, network


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
    Workload("loss-128x10", "softmax_with_loss", (128, 10), "SoftmaxWithLoss, both ways"),
    Workload("loss-128x1000", "softmax_with_loss", (128, 1000), "SoftmaxWithLoss, both ways"),
    step(16, 16, 4, batch=16),
    step(784, 50, 10, batch=100),
    step(784, 100, 100, 10, batch=100),
    step(784, 1024, 1024, 10, batch=128),
    step(784, 2048, 2048, 2048, 10, batch=512, slow=True),
    Workload("step-cnn", "step", (128, 1, 28, 28), CONVOLUTIONAL, convolutional(16), slow=True),
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
            x = normal(*shape)
            (made,), outputs = network(workload.layers, shape, normal)
            return {"x": x, "dy": normal(*outputs), "layer": made}
        case "softmax_with_loss":
            return {"x": normal(*shape), "t": rng.integers(0, shape[1], shape[0])}
        case "step":
            x = normal(*shape)
            layers, (batch, classes) = network(workload.layers, shape, normal)
            return {"x": x, "t": rng.integers(0, classes, batch), "layers": layers}
        case "adam":
            count, *rest = shape
            names = [f"p{i}" for i in range(count)]
            return {
                # From zero, so that what the self-check compares is the update alone.
                "params": {name: np.zeros(rest, np.float32) for name in names},
                "grads": {name: _not_tiny(normal(*rest)) for name in names},
            }
    return {}


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
