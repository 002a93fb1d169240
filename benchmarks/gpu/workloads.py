"""The training steps that are timed, and their data: the same in every process."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

IMAGE = (3, 32, 32)


class Skipped(Exception):
    """An implementation has nothing to say of a workload."""


@dataclass(frozen=True)
class Workload:
    """A training step: Affine layers of `sizes`, or convolutions of `filters` and one Affine."""

    name: str
    batch: int
    sizes: tuple[int, ...] = ()
    filters: tuple[int, ...] = ()
    precision: str = "float32"

    @property
    def lr(self) -> float:
        """Small enough that thousands of steps stay where the first ones are."""
        return min(1e-3, 0.2 / max(self.sizes or self.filters))


WORKLOADS = (
    Workload("mlp-small", 128, (784, 512, 256, 10)),
    Workload("cnn", 128, filters=(32, 64, 128)),
    *(
        Workload(f"mlp-4096-{precision}", 8192, (4096,) * 5, precision=precision)
        for precision in ("float32", "tf32", "bfloat16")
    ),
)
TOYS = (  # to try the command out where there is no GPU
    Workload("mlp-toy", 8, (12, 16, 10)),
    Workload("cnn-toy", 2, filters=(2, 3)),
)


def data(workload: Workload) -> dict[str, Any]:
    """Return host arrays: `x`, `t`, and for each layer `W` and `b`."""
    rng = np.random.default_rng(0)

    def layer(*shape: int, n_in: int, n_out: int) -> dict[str, np.ndarray]:
        W = rng.standard_normal(shape, dtype=np.float32) * np.float32(math.sqrt(2.0 / n_in))
        return {"W": W, "b": np.zeros(n_out, np.float32)}

    if workload.sizes:
        shape, classes = workload.sizes[:1], workload.sizes[-1]
        layers = [layer(a, b, n_in=a, n_out=b) for a, b in itertools.pairwise(workload.sizes)]
    else:
        shape, classes = IMAGE, 10
        channels = (IMAGE[0], *workload.filters)
        layers = [layer(b, a, 3, 3, n_in=9 * a, n_out=b) for a, b in itertools.pairwise(channels)]
        side = IMAGE[1] // 2 ** (len(workload.filters) - 1)
        n = channels[-1] * side * side
        layers.append(layer(n, classes, n_in=n, n_out=classes))
    x = rng.standard_normal((workload.batch, *shape), dtype=np.float32)
    return {"x": x, "t": rng.integers(0, classes, workload.batch), "layers": layers}
