"""xplayers: the plain loop on NumPy, and one compiled or plain `TrainStep` on each library."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import numpy as np

import xplayers as xl
from benchmarks.implementations import NotRun, Task
from benchmarks.shell import Figures
from xplayers.training import TrainStep


def network(data: dict[str, Any], asarray: Any) -> xl.Sequential:
    layers: list[xl.Layer] = []
    for layer in data["layers"]:
        layers += [xl.Relu(), xl.Affine(asarray(layer["W"]), asarray(layer["b"]))]
    return xl.Sequential(*layers[1:])


def run_of(net: xl.Layer, data: dict[str, Any], lr: float, asarray: Any) -> Callable[[], tuple]:
    step = TrainStep(net, xl.SoftmaxWithLoss(), xl.Adam(lr))
    x, t = asarray(data["x"]), asarray(data["t"])
    return lambda: (step(x, t),)


class Plain:
    """The three verbs on NumPy arrays."""

    asarray = staticmethod(np.asarray)

    def __init__(self) -> None:
        os.environ["XPLAYERS_JIT"] = "0"  # that of Numba is a row of its own

    def both_ways(self, layer: xl.Layer, data: dict[str, Any]) -> Task:
        x, dy = self.asarray(data["x"]), self.asarray(data["dy"])

        def run():
            y = layer.forward(x)
            return y, layer.backward(dy), *layer.grads.values()

        return Task(run)

    def relu(self, data: dict[str, Any], lr: float) -> Task:
        return self.both_ways(xl.Relu(), data)

    def sigmoid(self, data: dict[str, Any], lr: float) -> Task:
        return self.both_ways(xl.Sigmoid(), data)

    def affine(self, data: dict[str, Any], lr: float) -> Task:
        return self.both_ways(xl.Affine(self.asarray(data["W"]), self.asarray(data["b"])), data)

    def softmax_with_loss(self, data: dict[str, Any], lr: float) -> Task:
        loss, x, t = xl.SoftmaxWithLoss(), self.asarray(data["x"]), self.asarray(data["t"])

        def run():
            value = loss.forward(x, t)
            return value, loss.backward()

        return Task(run)

    def step(self, data: dict[str, Any], lr: float) -> Task:
        net, loss, optimizer = network(data, self.asarray), xl.SoftmaxWithLoss(), xl.Adam(lr)
        x, t = data["x"], data["t"]

        def run():
            value = loss.forward(net.forward(x), t)
            net.backward(loss.backward(), input_grad=False)
            optimizer.update(net.params, net.grads)
            return (value,)

        return Task(run)

    def adam(self, data: dict[str, Any], lr: float) -> Task:
        optimizer = xl.Adam(lr)
        params = {name: self.asarray(p) for name, p in data["params"].items()}
        grads = {name: self.asarray(g) for name, g in data["grads"].items()}

        def run():
            optimizer.update(params, grads)
            return tuple(params.values())

        return Task(run)

    def shell(self, data: dict[str, Any], lr: float) -> Task:
        return Task(tuple, figures=Figures().microseconds)


class Step:
    """`TrainStep` on NumPy arrays."""

    asarray = staticmethod(np.asarray)

    def __init__(self) -> None:
        os.environ["XPLAYERS_JIT"] = "0"

    def step(self, data: dict[str, Any], lr: float) -> Task:
        return Task(run_of(network(data, self.asarray), data, lr, self.asarray))


class Numba(Step):
    """The same where Numba is installed."""

    def __init__(self) -> None:
        if importlib.util.find_spec("numba") is None:
            message = "numba is not installed"
            raise NotRun(message)
        os.environ["XPLAYERS_JIT"] = "1"  # from the first step, which is not timed

    both_ways, relu, adam = Plain.both_ways, Plain.relu, Plain.adam


class Torch(Plain):
    """Layers as they are, and `TrainStep` without a compiler, on PyTorch tensors."""

    step = Step.step

    def __init__(self) -> None:
        import torch

        super().__init__()
        self.asarray = torch.from_numpy


class TorchNumba(Numba):
    """`TrainStep` on PyTorch tensors, whose rules NumPy and Numba compute."""

    def __init__(self) -> None:
        import torch

        super().__init__()
        self.asarray = torch.from_numpy


class Jax(Plain):
    """The pure functions of the layers and the optimizer under ``jax.jit``, and `TrainStep`."""

    def __init__(self) -> None:
        import jax

        self.jax = jax
        self.asarray = jax.numpy.asarray

    def both_ways(self, layer: xl.Layer, data: dict[str, Any]) -> Task:
        x, dy = self.asarray(data["x"]), self.asarray(data["dy"])

        @self.jax.jit
        def function(arrays, x, dy):
            y, cache = layer.apply(arrays, x)
            dx, grads = layer.vjp(cache, dy)
            return y, dx, *(grads[name] for name in arrays)

        return Task(lambda: function(layer.arrays, x, dy), self.jax.block_until_ready)

    def softmax_with_loss(self, data: dict[str, Any], lr: float) -> Task:
        loss, x, t = xl.SoftmaxWithLoss(), self.asarray(data["x"]), self.asarray(data["t"])

        @self.jax.jit
        def function(x, t):
            value, cache = loss.apply({}, x, t)
            return value, loss.vjp(cache, 1.0)

        return Task(lambda: function(x, t), self.jax.block_until_ready)

    def step(self, data: dict[str, Any], lr: float) -> Task:
        net = network(data, self.asarray)
        # The parameters too: the loss is there before the update is.
        return Task(
            run_of(net, data, lr, self.asarray),
            lambda result: self.jax.block_until_ready((result, list(net.params.values()))),
        )

    def adam(self, data: dict[str, Any], lr: float) -> Task:
        optimizer = xl.Adam(lr)
        params = {name: self.asarray(p) for name, p in data["params"].items()}
        grads = {name: self.asarray(g) for name, g in data["grads"].items()}
        state = optimizer.init(params)
        step = self.jax.jit(optimizer.step, donate_argnums=(0, 2))

        def run():
            nonlocal params, state
            params, state = step(params, grads, state)
            return tuple(params.values())

        return Task(run, self.jax.block_until_ready)

    shell = None
