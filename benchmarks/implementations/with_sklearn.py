"""scikit-learn: a step of its multilayer perceptron, `MLPClassifier.partial_fit` on one batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier

from benchmarks.implementations import NotRun, Task
from benchmarks.networks import LayerData


class Perceptron:
    def step(self, data: dict[str, Any], lr: float) -> Task:
        layers: list[LayerData] = data["layers"]
        affine = [layer for layer in layers if layer.kind == "affine"]
        kinds = [layer.kind for layer in layers]
        if kinds != ["affine", *["relu", "affine"] * (len(affine) - 1)]:
            message = "MLPClassifier has affine layers with ReLU between them only"
            raise NotRun(message)
        x, t, widths = data["x"], data["t"], [layer.arrays["b"].size for layer in affine]
        classes = np.arange(widths[-1])
        net = MLPClassifier(
            widths[:-1], alpha=0.0, batch_size=len(x), shuffle=False, epsilon=1e-7,
            learning_rate_init=lr,
        )  # fmt: skip
        net.partial_fit(x, t, classes=classes)  # makes its parameters and its optimizer
        for arrays, name in ((net.coefs_, "W"), (net.intercepts_, "b")):
            for array, layer in zip(arrays, affine, strict=True):
                array[...] = layer.arrays[name]
        del net._optimizer  # the next step begins with moments of zero

        def run():
            net.partial_fit(x, t)
            return (net.loss_,)

        return Task(run)
