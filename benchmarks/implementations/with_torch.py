"""PyTorch as its users write it: modules, autograd, the fused Adam; images are channels-last.

Channels-last is the faster layout for every workload with images that is here. Its Adam adds
epsilon after the bias correction, where the book and xplayers have 1e-7 before it: the same work.
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.implementations import NotRun, Task, epoch_sums
from benchmarks.networks import LayerData

EPS = 1e-7 / math.sqrt(1 - 0.999**2)  # 1e-7 before the correction, at the second of the steps


class Eager:
    def __init__(self) -> None:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

    def compiled(self, function: Any) -> Any:
        return function

    def layer(self, data: dict[str, Any], lr: float) -> Task:
        module, x, dy = build(data["layer"]), tensor(data["x"]), tensor(data["dy"])
        function = self.compiled(module)
        parameters = [p for p in module.parameters() if p.requires_grad]
        inputs = [x.requires_grad_(), *parameters] if x.is_floating_point() else parameters

        def run():
            y = function(x)
            return y.detach(), *torch.autograd.grad(y, inputs, dy)

        def comparable(result):
            y, *grads = result
            first = len(grads) - len(parameters)  # 1: the gradient of x, which integers do not have
            return y, *grads[:first], *in_our_layout(data["layer"], iter(grads[first:]))

        return Task(run, comparable=comparable)

    def softmax_with_loss(self, data: dict[str, Any], lr: float) -> Task:
        loss = self.compiled(nn.CrossEntropyLoss())
        x, t = tensor(data["x"]).requires_grad_(), tensor(data["t"])

        def run():
            value = loss(x, t)
            return value.detach(), *torch.autograd.grad(value, x)

        return Task(run)

    def step(self, data: dict[str, Any], lr: float) -> Task:
        net, loss = nn.Sequential(*map(build, data["layers"])), nn.CrossEntropyLoss()
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

    def inference(self, data: dict[str, Any], lr: float) -> Task:
        net, x = nn.Sequential(*map(build, data["layers"])).eval(), tensor(data["x"])
        function = self.compiled(net)

        @torch.inference_mode()
        def run():
            return (function(x),)

        return Task(run)

    def loading(self, data: dict[str, Any], lr: float) -> Task:
        # A fifth of the time of a DataLoader whose sampler gives it whole batches.
        x, t, batch_size = tensor(data["x"]), tensor(data["t"]), data["batch_size"]

        def epoch():
            for index in torch.randperm(len(x)).split(batch_size):
                yield x.index_select(0, index), t.index_select(0, index)

        def run():
            for batch in epoch():
                last = batch
            return last

        return Task(run, comparable=lambda _: epoch_sums(epoch()))

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
    loading: Any = None

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


class Lstm(nn.LSTM):
    """One layer that returns its outputs alone."""

    def forward(self, x):
        return super().forward(x)[0]


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def _lstm(layer: LayerData) -> nn.Module:
    Wx, Wh, b = layer.arrays.values()
    module = Lstm(len(Wx), len(Wh), batch_first=True)
    _filled(module, Wx.T, Wh.T, b, np.zeros_like(b))
    module.bias_hh_l0.requires_grad_(False)  # the second bias, which xplayers does not have
    return module


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
    "layer_normalization": lambda layer: _filled(
        nn.LayerNorm(layer.shape[-1]), *layer.arrays.values()
    ),
    "attention": _attention,
    "lstm": _lstm,
    "embedding": lambda layer: nn.Embedding.from_pretrained(
        torch.from_numpy(layer.arrays["W"]), freeze=False
    ),
    "dropout": lambda layer: nn.Dropout(layer.options["rate"]),
    "max_pooling": lambda layer: nn.MaxPool2d(layer.options["size"]),
    "flatten": lambda layer: nn.Flatten(),
    "relu": lambda layer: nn.ReLU(),
    "sigmoid": lambda layer: nn.Sigmoid(),
    "gelu": lambda layer: nn.GELU("tanh"),
    "sequential": lambda layer: nn.Sequential(*map(build, layer.parts)),
    "residual": lambda layer: Residual(*map(build, layer.parts)),
}


def build(layer: LayerData) -> nn.Module:
    return MODULES[layer.kind](layer)


def tensor(a: np.ndarray) -> torch.Tensor:
    t = torch.from_numpy(a)
    return t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t


def in_our_layout(layer: LayerData, grads: Iterator[torch.Tensor]) -> list[torch.Tensor]:
    """Take the gradients of a layer, and return them as xplayers has them."""
    if layer.parts:
        return [grad for part in layer.parts for grad in in_our_layout(part, grads)]
    if layer.kind == "attention":
        dW, db, dWo, dbo = itertools.islice(grads, 4)
        (dWq, dWk, dWv), (dbq, _, dbv) = dW.chunk(3), db.chunk(3)
        return [dWq.mT, dbq, dWk.mT, dWv.mT, dbv, dWo.mT, dbo]
    transposed = layer.kind in ("affine", "lstm")
    return [
        grad.mT if transposed and grad.ndim == 2 else grad
        for grad in itertools.islice(grads, len(layer.arrays))
    ]
