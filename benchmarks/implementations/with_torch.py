"""PyTorch as its users write it: modules, autograd, the fused Adam.

Its Adam has epsilon added after the bias correction, 1e-8 by default, where the book and xplayers
have 1e-7 before it: another last digit for gradients which are not tiny, and the same work.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

import torch
from torch import nn

from benchmarks.implementations import NotRun, Task


class Eager:
    def __init__(self) -> None:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

    def both_ways(self, function: Any, data: dict[str, Any], *params: torch.Tensor) -> Task:
        x, dy = torch.from_numpy(data["x"]).requires_grad_(), torch.from_numpy(data["dy"])

        def run():
            y = function(x)
            return y.detach(), *torch.autograd.grad(y, (x, *params), dy)

        return Task(run)

    def relu(self, data: dict[str, Any], lr: float) -> Task:
        return self.both_ways(nn.ReLU(), data)

    def sigmoid(self, data: dict[str, Any], lr: float) -> Task:
        return self.both_ways(nn.Sigmoid(), data)

    def affine(self, data: dict[str, Any], lr: float) -> Task:
        layer = linear(data)
        both = self.both_ways(layer, data, layer.weight, layer.bias)

        def run():
            y, dx, dW, db = both.run()
            return y, dx, dW.mT, db

        return Task(run)

    def softmax_with_loss(self, data: dict[str, Any], lr: float) -> Task:
        loss = nn.CrossEntropyLoss()
        x, t = torch.from_numpy(data["x"]).requires_grad_(), torch.from_numpy(data["t"])

        def run():
            value = loss(x, t)
            return value.detach(), *torch.autograd.grad(value, x)

        return Task(run)

    def compiled(self, function: Any) -> Any:
        return function

    def step(self, data: dict[str, Any], lr: float) -> Task:
        layers: list[nn.Module] = []
        for layer in data["layers"]:
            layers += [nn.ReLU(), linear(layer)]
        net, loss = nn.Sequential(*layers[1:]), nn.CrossEntropyLoss()
        optimizer = torch.optim.Adam(net.parameters(), lr=lr, fused=True)
        x, t = torch.from_numpy(data["x"]), torch.from_numpy(data["t"])

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
        params = [nn.Parameter(torch.from_numpy(p)) for p in data["params"].values()]
        for p, g in zip(params, data["grads"].values(), strict=True):
            p.grad = torch.from_numpy(g)
        optimizer = torch.optim.Adam(params, lr=lr, fused=True)

        def run():
            optimizer.step()
            return tuple(p.detach() for p in params)

        return Task(run)


class Compiled(Eager):
    """Forward and backward by ``torch.compile``; the fused Adam is one kernel already."""

    relu = sigmoid = affine = softmax_with_loss = adam = None

    def __init__(self) -> None:
        super().__init__()
        if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++", "cl")):
            message = "torch.compile needs a C++ compiler"
            raise NotRun(message)

    def compiled(self, function: Any) -> Any:
        return torch.compile(function, dynamic=False)


def linear(data: dict[str, Any]) -> nn.Linear:
    n_in, n_out = data["W"].shape
    layer = nn.Linear(n_in, n_out)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(data["W"]).mT)
        layer.bias.copy_(torch.from_numpy(data["b"]))
    return layer
