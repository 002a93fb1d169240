"""xplayers: the verbs and the plain loop on NumPy, and what `TrainStep` runs on each library."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

import xplayers as xl
from benchmarks.implementations import NotRun, Task, epoch_sums
from benchmarks.networks import LayerData
from benchmarks.shell import Figures
from xplayers.training import TrainStep

LAYERS: dict[str, Callable[..., xl.Layer]] = {
    "affine": xl.Affine,
    "convolution": xl.Convolution,
    "batch_normalization": xl.BatchNormalization,
    "layer_normalization": xl.LayerNormalization,
    "attention": xl.MultiHeadAttention,
    "lstm": xl.Lstm,
    "embedding": xl.Embedding,
    "dropout": xl.Dropout,
    "max_pooling": xl.MaxPooling,
    "flatten": xl.Flatten,
    "relu": xl.Relu,
    "sigmoid": xl.Sigmoid,
    "gelu": xl.Gelu,
    "sequential": xl.Sequential,
    "residual": xl.Residual,
}


def gradients(y: Any, dx: Any, grads: Mapping[str, Any], names: Sequence[str]) -> tuple[Any, ...]:
    """Return the results of a layer; integers have no gradient."""
    return y, *(() if dx is None else (dx,)), *(grads[name] for name in names)


def exhaust(batches: Iterable[Any]) -> Any:
    """Iterate to the end, and return the last batch."""
    for batch in batches:
        last = batch
    return last


class Step:
    """`TrainStep` on NumPy arrays, and the pure functions that it calls."""

    asarray: Callable[[Any], Any] = staticmethod(np.asarray)
    wait: Callable[[Any], Any] = staticmethod(lambda result: None)

    def __init__(self) -> None:
        os.environ["XPLAYERS_JIT"] = "0"  # that of Numba is a row of its own

    def layer(self, data: dict[str, Any], lr: float) -> Task:
        layer, names = self.build(data["layer"]), data["layer"].learnt
        x, dy = self.batch(data["x"]), self.batch(data["dy"])

        @self.compiled
        def function(arrays, x, dy):
            y, cache = layer.apply(arrays, x)
            dx, grads = layer.vjp(cache, dy)
            changed = layer.updated_buffers(arrays, cache)
            return gradients(y, dx, grads, names), changed

        layer.to(like=dy)  # the counter of Dropout, which else follows the first input
        arrays = layer.arrays
        return Task(lambda: function(arrays, x, dy)[0], self.wait)

    def softmax_with_loss(self, data: dict[str, Any], lr: float) -> Task:
        loss, x, t = xl.SoftmaxWithLoss(), self.batch(data["x"]), self.asarray(data["t"])

        @self.compiled
        def function(x, t):
            value, cache = loss.apply({}, x, t)
            return value, loss.vjp(cache, 1.0)

        return Task(lambda: function(x, t), self.wait)

    def train_step(self, data: dict[str, Any], lr: float) -> tuple[TrainStep, Any, Any]:
        """Return the step of a workload, and its batch."""
        step = TrainStep(self.network(data), xl.SoftmaxWithLoss(), xl.Adam(lr))
        return step, self.batch(data["x"]), self.asarray(data["t"])

    def step(self, data: dict[str, Any], lr: float) -> Task:
        step, x, t = self.train_step(data, lr)
        net = step.net
        # For the parameters too: the loss is there before the update is.
        return Task(
            lambda: (step(x, t),), lambda result: self.wait((result, list(net.params.values())))
        )

    def inference(self, data: dict[str, Any], lr: float) -> Task:
        net, x = self.network(data), self.batch(data["x"])
        function, arrays = self.compiled(net.infer), net.arrays
        return Task(lambda: (function(arrays, x),), self.wait)

    def loading(self, data: dict[str, Any], lr: float) -> Task:
        x, t = data["x"], data["t"]
        batches = xl.Batches(x, t, data["batch_size"], rng=0, like=self.asarray(x[:1]))
        return Task(lambda: exhaust(batches), self.wait, comparable=lambda _: epoch_sums(batches))

    def adam(self, data: dict[str, Any], lr: float) -> Task:
        optimizer = xl.Adam(lr)
        params = {name: self.asarray(p) for name, p in data["params"].items()}
        grads = {name: self.asarray(g) for name, g in data["grads"].items()}
        state, step = optimizer.init(params), self.donating(optimizer.step)

        def run():
            nonlocal params, state
            params, state = step(params, grads, state)
            return tuple(params.values())

        return Task(run, self.wait)

    def batch(self, a: Any) -> Any:
        return self.asarray(a)

    def build(self, layer: LayerData) -> xl.Layer:
        parts = map(self.build, layer.parts)
        arrays = {name: self.asarray(a) for name, a in layer.arrays.items()}
        return LAYERS[layer.kind](*parts, **arrays, **layer.options)

    def network(self, data: dict[str, Any]) -> xl.Sequential:
        return xl.Sequential(*map(self.build, data["layers"]))

    def compiled(self, function: Any) -> Any:
        return function

    def donating(self, step: Any) -> Any:
        return functools.partial(step, donate=True)


class Plain(Step):
    """The verbs of the layers, and the plain loop."""

    def layer(self, data: dict[str, Any], lr: float) -> Task:
        layer, names = self.build(data["layer"]), data["layer"].learnt
        x, dy = self.batch(data["x"]), self.batch(data["dy"])

        def run():
            y = layer.forward(x)
            dx = layer.backward(dy)
            return gradients(y, dx, layer.grads, names)

        return Task(run)

    def softmax_with_loss(self, data: dict[str, Any], lr: float) -> Task:
        loss, x, t = xl.SoftmaxWithLoss(), self.batch(data["x"]), self.asarray(data["t"])

        def run():
            value = loss.forward(x, t)
            return value, loss.backward()

        return Task(run)

    def step(self, data: dict[str, Any], lr: float) -> Task:
        net, loss, optimizer = self.network(data), xl.SoftmaxWithLoss(), xl.Adam(lr)
        x, t = self.batch(data["x"]), self.asarray(data["t"])

        def run():
            value = loss.forward(net.forward(x), t)
            net.backward(loss.backward(), input_grad=False)
            optimizer.update(net.params, net.grads)
            return (value,)

        return Task(run)

    def inference(self, data: dict[str, Any], lr: float) -> Task:
        net, x = self.network(data), self.batch(data["x"])
        return Task(lambda: (net.predict(x),))

    def loading(self, data: dict[str, Any], lr: float) -> Task:
        x, t = self.batch(data["x"]), self.asarray(data["t"])

        def epoch():
            return xl.minibatches(x, t, data["batch_size"], rng=0)

        return Task(lambda: exhaust(epoch()), comparable=lambda _: epoch_sums(epoch()))

    def adam(self, data: dict[str, Any], lr: float) -> Task:
        optimizer = xl.Adam(lr)
        params, grads = (
            {name: self.asarray(a) for name, a in data[kind].items()}
            for kind in ("params", "grads")
        )

        def run():
            optimizer.update(params, grads)
            return tuple(params.values())

        return Task(run)

    def shell(self, data: dict[str, Any], lr: float) -> Task:
        return Task(tuple, figures=Figures().microseconds)


class Numba(Step):
    """The same where Numba is installed."""

    def __init__(self) -> None:
        if importlib.util.find_spec("numba") is None:
            message = "numba is not installed"
            raise NotRun(message)
        os.environ["XPLAYERS_JIT"] = "1"  # from the first step, which is not timed


class Torch(Step):
    """The same without a compiler on PyTorch tensors."""

    def __init__(self) -> None:
        import torch

        super().__init__()
        self.asarray = torch.from_numpy

    def batch(self, a: Any) -> Any:
        """Return what PyTorch's modules get: images are channels-last."""
        from benchmarks.implementations.with_torch import tensor

        return tensor(a)


class TorchPlain(Plain, Torch):
    """The verbs and the plain loop on PyTorch tensors."""

    shell = None


class TorchNumba(Numba):
    """The same on PyTorch tensors, whose rules NumPy and Numba compute."""

    def __init__(self) -> None:
        import torch

        super().__init__()
        self.asarray = torch.from_numpy

    batch = Torch.batch


class TorchCompiled(Torch):
    """Steps by ``torch.compile``, which replays stand beside."""

    layer = softmax_with_loss = inference = loading = adam = None

    def train_step(self, data: dict[str, Any], lr: float) -> tuple[TrainStep, Any, Any]:
        step, x, t = super().train_step(data, lr)
        step.compile = True
        return step, x, t


class Jax(Step):
    """The same under ``jax.jit``, with donated state."""

    def __init__(self) -> None:
        import jax

        self.jax, self.asarray, self.wait = jax, jax.numpy.asarray, jax.block_until_ready

    def compiled(self, function: Any) -> Any:
        return self.jax.jit(function)

    def donating(self, step: Any) -> Any:
        return self.jax.jit(step, donate_argnums=(0, 2))
