"""The algorithms of *Deep Learning from Scratch* in plain NumPy, in our words.

The forms that cost time are the book's: selection by mask, a copy for each activation, ``np.dot``,
the logarithm of probabilities plus 1e-7, one-hot targets, the input gradient of the first layer
computed and thrown away, and Adam array by array with a temporary for each operation. In `Book`
weights, inputs and scalars are float32, so that the comparison is of algorithms; `BookFloat64` has
the float64 weights of the book's ``randn``, which make all that follows float64, twice the memory
traffic.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from benchmarks.implementations import Task


class Relu:
    def forward(self, x):
        self.mask = x <= 0
        out = x.copy()
        out[self.mask] = 0
        return out

    def backward(self, dout):
        dout[self.mask] = 0
        return dout


class Sigmoid:
    def forward(self, x):
        self.out = 1 / (1 + np.exp(-x))
        return self.out

    def backward(self, dout):
        return dout * (1.0 - self.out) * self.out


class Affine:
    def __init__(self, W, b):
        self.W, self.b = W, b

    def forward(self, x):
        self.original_shape = x.shape
        self.x = x.reshape(x.shape[0], -1)
        return np.dot(self.x, self.W) + self.b

    def backward(self, dout):
        dx = np.dot(dout, self.W.T)
        self.dW = np.dot(self.x.T, dout)
        self.db = np.sum(dout, axis=0)
        return dx.reshape(*self.original_shape)


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
        self.m = self.v = None

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


class Book:
    def relu(self, data: dict[str, Any], lr: float, layer: Any = None) -> Task:
        layer = layer or Relu()
        x, dy = data["x"], data["dy"]

        def run():
            y = layer.forward(x)
            return y, layer.backward(dy)

        return Task(run)

    def sigmoid(self, data: dict[str, Any], lr: float) -> Task:
        return self.relu(data, lr, Sigmoid())

    def affine(self, data: dict[str, Any], lr: float) -> Task:
        layer = Affine(data["W"], data["b"])
        both = self.relu(data, lr, layer)
        return Task(lambda: (*both.run(), layer.dW, layer.db))

    def softmax_with_loss(self, data: dict[str, Any], lr: float) -> Task:
        loss, x = SoftmaxWithLoss(), data["x"]
        t = one_hot(data["t"], x.shape[1])

        def run():
            value = loss.forward(x, t)
            return value, loss.backward()

        return Task(run)

    def step(self, data: dict[str, Any], lr: float) -> Task:
        affine = [Affine(layer["W"], layer["b"]) for layer in data["layers"]]
        layers: list[Any] = [affine[0]]
        for layer in affine[1:]:
            layers += [Relu(), layer]
        params = {}
        for i, layer in enumerate(affine):
            params[f"W{i}"], params[f"b{i}"] = layer.W, layer.b
        loss, optimizer = SoftmaxWithLoss(), Adam(lr)
        batch, t = data["x"], one_hot(data["t"], affine[-1].W.shape[1])

        def run():
            x = batch
            for layer in layers:
                x = layer.forward(x)
            value = loss.forward(x, t)
            dout = loss.backward()
            for layer in reversed(layers):
                dout = layer.backward(dout)
            grads = {}
            for i, layer in enumerate(affine):
                grads[f"W{i}"], grads[f"b{i}"] = layer.dW, layer.db
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
        layers = [{k: a.astype(np.float64) for k, a in layer.items()} for layer in data["layers"]]
        return Book().step({**data, "layers": layers}, lr)
