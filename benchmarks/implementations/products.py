"""The matrix products of a step of affine layers, and nothing else: the limit that a step has.

Those of forward and backward with the shapes and transposes of the step, into memory that is there
already; the gradient of the input, which no step needs, is left out.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from benchmarks.implementations import NotRun, Task


def operands(data: dict[str, Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the left and right matrices of the products of a step."""
    x, pairs = data["x"], []
    if not {layer.kind for layer in data["layers"]} <= {"affine", "relu"}:
        message = "the step has other layers than affine ones"
        raise NotRun(message)
    for layer in data["layers"]:
        if layer.kind != "affine":
            continue
        W, lowest = layer.arrays["W"], not pairs
        dy = np.ones((len(x), W.shape[1]), np.float32)
        pairs += [(x, W), (x.T, dy)] if lowest else [(x, W), (x.T, dy), (dy, W.T)]
        x = dy  # as good as the next layer's input
    return pairs


class NumPy:
    def step(self, data: dict[str, Any], lr: float) -> Task:
        products = [(a, b, np.empty((len(a), b.shape[1]), a.dtype)) for a, b in operands(data)]

        def run():
            for a, b, out in products:
                np.matmul(a, b, out=out)
            return ()

        return Task(run, comparable=None)


class Torch:
    def __init__(self) -> None:
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        self.torch = torch

    def step(self, data: dict[str, Any], lr: float) -> Task:
        torch = self.torch
        pairs = [(torch.from_numpy(a), torch.from_numpy(b)) for a, b in operands(data)]
        products = [(a, b, torch.empty(len(a), b.shape[1])) for a, b in pairs]

        def run():
            for a, b, out in products:
                torch.mm(a, b, out=out)
            return ()

        return Task(run, comparable=None)
