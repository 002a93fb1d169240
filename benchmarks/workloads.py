"""What is measured: the list of workloads, and their data."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Workload:
    name: str
    kind: str  # the method of an implementation that builds it
    sizes: tuple[int, ...]
    title: str
    slow: bool = False  # left out by --quick
    hidden: bool = False  # run only when asked for by name


def step(sizes: tuple[int, ...], batch: int, **options: bool) -> Workload:
    name = "-".join(map(str, sizes))
    return Workload(
        f"step-{name}", "step", (batch, *sizes), f"training step, batch {batch}, Adam", **options
    )


WORKLOADS = (
    Workload("relu-4m", "relu", (2000, 2000), "ReLU of 4,000,000 values, forward and backward"),
    Workload("sigmoid-1m", "sigmoid", (1000, 1000), "Sigmoid of 1,000,000 values, both ways"),
    Workload("affine-784-1024", "affine", (128, 784, 1024), "Affine, batch 128, both ways"),
    Workload("loss-128x10", "softmax_with_loss", (128, 10), "SoftmaxWithLoss, both ways"),
    Workload("loss-128x1000", "softmax_with_loss", (128, 1000), "SoftmaxWithLoss, both ways"),
    step((784, 50, 10), 100),
    step((784, 100, 100, 10), 100),
    step((784, 1024, 1024, 10), 128),
    step((784, 2048, 2048, 2048, 10), 512, slow=True),
    Workload("adam-10m", "adam", (10, 1000, 1000), "Adam on 10 arrays of 1,000,000 parameters"),
    Workload("shell", "shell", (), "what a call costs beyond its pure function"),
    step((6, 5, 4, 3), 8, hidden=True),  # for the tests of this package
)


def find(name: str) -> Workload:
    return next(w for w in WORKLOADS if w.name == name)


def data(workload: Workload) -> dict[str, Any]:
    """Return the host arrays of a workload: the same values in every process."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return _aligned(rng.standard_normal(shape, dtype=np.float32))

    sizes = workload.sizes
    match workload.kind:
        case "relu" | "sigmoid":
            return {"x": normal(*sizes), "dy": normal(*sizes)}
        case "affine":
            n, n_in, n_out = sizes
            return {"x": normal(n, n_in), "dy": normal(n, n_out)} | _affine(normal, n_in, n_out)
        case "softmax_with_loss":
            return {"x": normal(*sizes), "t": rng.integers(0, sizes[1], sizes[0])}
        case "step":
            batch, *widths = sizes
            return {
                "x": normal(batch, widths[0]),
                "t": rng.integers(0, widths[-1], batch),
                "layers": [_affine(normal, a, b) for a, b in itertools.pairwise(widths)],
            }
        case "adam":
            count, *shape = sizes
            names = [f"p{i}" for i in range(count)]
            return {
                # From zero, so that what the self-check compares is the update alone.
                "params": {name: np.zeros(shape, np.float32) for name in names},
                "grads": {name: _not_tiny(normal(*shape)) for name in names},
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


def _affine(normal: Any, n_in: int, n_out: int) -> dict[str, np.ndarray]:
    scale = np.float32(math.sqrt(2.0 / n_in))
    return {"W": normal(n_in, n_out) * scale, "b": np.zeros(n_out, np.float32)}
