"""The algorithms of *Deep Learning from Scratch* in plain NumPy, in our words.

The forms that cost time are the book's: selection by mask, a copy for each activation, ``np.dot``,
the logarithm of probabilities plus 1e-7, one-hot targets, columns of the whole batch for a
convolution, the input gradient of the first layer computed and thrown away, and Adam array by array
with a temporary for each operation. In `Book` weights, inputs and scalars are float32, so that the
comparison is of algorithms; `BookFloat64` has the float64 weights of the book's ``randn``, which
make all that follows float64, twice the memory traffic.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.implementations import NotRun, Task
from benchmarks.implementations import book_layers as layers
from benchmarks.networks import LayerData

LAYERS = {
    "affine": layers.Affine,
    "convolution": layers.Convolution,
    "batch_normalization": layers.BatchNormalization,
    "max_pooling": layers.MaxPooling,
    "flatten": layers.Flatten,
    "relu": layers.Relu,
    "sigmoid": layers.Sigmoid,
}


class SoftmaxWithLoss:
    def forward(self, x, t):
        self.t = t
        x = x - np.max(x, axis=-1, keepdims=True)
        self.y = np.exp(x) / np.sum(np.exp(x), axis=-1, keepdims=True)
        rows = np.arange(len(t))
        return -np.sum(np.log(self.y[rows, t.argmax(axis=1)] + 1e-7)) / len(t)

    def backward(self):
        return (self.y - self.t) / len(self.t)


class Adam:
    def __init__(self, lr, beta1=0.9, beta2=0.999):
        self.lr, self.beta1, self.beta2 = lr, beta1, beta2
        self.steps = 0
        self.m: Any = None
        self.v: Any = None

    def update(self, params, grads):
        if self.m is None:
            self.m = {key: np.zeros_like(p) for key, p in params.items()}
            self.v = {key: np.zeros_like(p) for key, p in params.items()}
        self.steps += 1
        # math.sqrt, not np.sqrt: a float64 scalar would make float64 temporaries in NumPy 2
        rate = self.lr * math.sqrt(1.0 - self.beta2**self.steps) / (1.0 - self.beta1**self.steps)
        for key in params:
            self.m[key] += (1 - self.beta1) * (grads[key] - self.m[key])
            self.v[key] += (1 - self.beta2) * (grads[key] ** 2 - self.v[key])
            params[key] -= rate * self.m[key] / (np.sqrt(self.v[key]) + 1e-7)


def one_hot(t: np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[t]


def build(layer: LayerData) -> Any:
    if layer.kind not in LAYERS:
        message = f"no {layer.kind} of the book is here"
        raise NotRun(message)
    return LAYERS[layer.kind](**layer.arrays, **layer.options)


class Book:
    def layer(self, data: dict[str, Any], lr: float) -> Task:
        layer, x, dy = build(data["layer"]), data["x"], data["dy"]
        names = data["layer"].arrays

        def run():
            y = layer.forward(x)
            dx = layer.backward(dy)
            return y, dx, *(getattr(layer, f"d{name}") for name in names)

        return Task(run)

    def softmax_with_loss(self, data: dict[str, Any], lr: float) -> Task:
        loss, x = SoftmaxWithLoss(), data["x"]
        t = one_hot(data["t"], x.shape[1])

        def run():
            value = loss.forward(x, t)
            return value, loss.backward()

        return Task(run)

    def step(self, data: dict[str, Any], lr: float) -> Task:
        net = [build(layer) for layer in data["layers"]]
        params = {
            (i, name): getattr(net[i], name)
            for i, layer in enumerate(data["layers"])
            for name in layer.arrays
        }
        loss, optimizer = SoftmaxWithLoss(), Adam(lr)
        batch, t = data["x"], one_hot(data["t"], net[-1].W.shape[1])

        def run():
            x = batch
            for layer in net:
                x = layer.forward(x)
            value = loss.forward(x, t)
            dout = loss.backward()
            for layer in reversed(net):
                dout = layer.backward(dout)
            grads = {(i, name): getattr(net[i], f"d{name}") for i, name in params}
            optimizer.update(params, grads)
            return (value,)

        return Task(run)

    def adam(self, data: dict[str, Any], lr: float) -> Task:
        optimizer, params, grads = Adam(lr), data["params"], data["grads"]

        def run():
            optimizer.update(params, grads)
            return tuple(params.values())

        return Task(run)


class BookFloat64:
    """The step as it runs where the book's code is copied: the images alone are float32."""

    def step(self, data: dict[str, Any], lr: float) -> Task:
        layers = [
            replace(layer, arrays={k: a.astype(np.float64) for k, a in layer.arrays.items()})
            for layer in data["layers"]
        ]
        return Book().step({**data, "layers": layers}, lr)
