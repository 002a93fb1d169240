"""PyTorch as its users write it: modules, autograd, the fused Adam; images are channels-last.

Channels-last is the faster layout for every workload with images that is here. Its Adam adds
epsilon after the bias correction, where the book and xplayers have 1e-7 before it: the same work.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.implementations import NotRun, Task
from benchmarks.networks import LayerData

EPS = 1e-7 / math.sqrt(1 - 0.999**2)  # 1e-7 before the correction, at the second of the steps


class Eager:
    def __init__(self) -> None:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

    def compiled(self, function: Any) -> Any:
        return function

    def layer(self, data: dict[str, Any], lr: float) -> Task:
        kind, module = data["layer"].kind, made(data["layer"])
        x, dy = tensor(data["x"]).requires_grad_(), tensor(data["dy"])
        inputs, function = (x, *module.parameters()), self.compiled(module)

        def run():
            y = function(x)
            return y.detach(), *torch.autograd.grad(y, inputs, dy)

        def comparable(result):
            y, dx, *grads = result
            return y, dx, *in_our_layout(kind, grads)

        return Task(run, comparable=comparable)

    def softmax_with_loss(self, data: dict[str, Any], lr: float) -> Task:
        loss = self.compiled(nn.CrossEntropyLoss())
        x, t = tensor(data["x"]).requires_grad_(), tensor(data["t"])

        def run():
            value = loss(x, t)
            return value.detach(), *torch.autograd.grad(value, x)

        return Task(run)

    def step(self, data: dict[str, Any], lr: float) -> Task:
        net, loss = nn.Sequential(*map(made, data["layers"])), nn.CrossEntropyLoss()
        optimizer = torch.optim.Adam(net.parameters(), lr=lr, eps=EPS, fused=True)
        x, t = tensor(data["x"]), tensor(data["t"])

        @self.compiled
        def forward(x, t):
            return loss(net(x), t)

        def run():
            optimizer.zero_grad(set_to_none=True)
            value = forward(x, t)
            value.backward()
            optimizer.step()
            return (value.detach(),)

        return Task(run)

    def adam(self, data: dict[str, Any], lr: float) -> Task:
        params = [nn.Parameter(tensor(p)) for p in data["params"].values()]
        for p, g in zip(params, data["grads"].values(), strict=True):
            p.grad = tensor(g)
        optimizer = torch.optim.Adam(params, lr=lr, eps=EPS, fused=True)

        def run():
            optimizer.step()
            return tuple(p.detach() for p in params)

        return Task(run)


class Compiled(Eager):
    """Forward and backward by ``torch.compile``; the fused Adam is one kernel already."""

    adam: Any = None

    def __init__(self) -> None:
        super().__init__()
        if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++", "cl")):
            message = "torch.compile needs a C++ compiler"
            raise NotRun(message)

    def compiled(self, function: Any) -> Any:
        return torch.compile(function, dynamic=False)


class Attention(nn.Module):
    """Self-attention with one product for queries, keys and values, and the fused attention."""

    def __init__(self, n_features: int, n_heads: int) -> None:
        super().__init__()
        self.inputs = nn.Linear(n_features, 3 * n_features)
        self.output = nn.Linear(n_features, n_features)
        self.n_heads = n_heads

    def forward(self, x):
        n, time, features = x.shape
        q, k, v = (
            a.view(n, time, self.n_heads, -1).transpose(1, 2) for a in self.inputs(x).chunk(3, -1)
        )
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.output(y.transpose(1, 2).reshape(n, time, features))


def _affine(layer: LayerData) -> nn.Module:
    return _filled(nn.Linear(*layer.arrays["W"].shape), layer.arrays["W"].T, layer.arrays["b"])


def _convolution(layer: LayerData) -> nn.Module:
    W, b = layer.arrays.values()
    n_out, n_in, height, width = W.shape
    module = nn.Conv2d(n_in, n_out, (height, width), padding="same")
    return _filled(module, W, b).to(memory_format=torch.channels_last)


def _batch_normalization(layer: LayerData) -> nn.Module:
    gamma, beta = layer.arrays.values()
    module = nn.BatchNorm2d if len(layer.shape) == 4 else nn.BatchNorm1d
    return _filled(module(len(gamma)), gamma, beta)


def _attention(layer: LayerData) -> nn.Module:
    W, b = ([layer.arrays[f"{kind}{name}"] for name in "qkvo"] for kind in "Wb")
    module = Attention(len(W[0]), layer.options["n_heads"])
    _filled(module.inputs, np.concatenate([a.T for a in W[:3]]), np.concatenate(b[:3]))
    _filled(module.output, W[3].T, b[3])
    return module


def _filled(module: nn.Module, *values: np.ndarray) -> Any:
    with torch.no_grad():
        for p, a in zip(module.parameters(), values, strict=True):
            p.copy_(torch.from_numpy(np.ascontiguousarray(a)))
    return module


MODULES: dict[str, Callable[[LayerData], nn.Module]] = {
    "affine": _affine,
    "convolution": _convolution,
    "batch_normalization": _batch_normalization,
    "attention": _attention,
    "max_pooling": lambda layer: nn.MaxPool2d(layer.options["size"]),
    "flatten": lambda layer: nn.Flatten(),
    "relu": lambda layer: nn.ReLU(),
    "sigmoid": lambda layer: nn.Sigmoid(),
}


def made(layer: LayerData) -> nn.Module:
    return MODULES[layer.kind](layer)


def tensor(a: np.ndarray) -> torch.Tensor:
    t = torch.from_numpy(a)
    return t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t


def in_our_layout(kind: str, grads: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """Return the gradients as xplayers has them."""
    if kind == "affine":
        dW, db = grads
        return dW.mT, db
    if kind == "attention":
        dW, db, dWo, dbo = grads
        (dWq, dWk, dWv), (dbq, _, dbv) = dW.chunk(3), db.chunk(3)
        return dWq.mT, dbq, dWk.mT, dWv.mT, dbv, dWo.mT, dbo
    return grads
