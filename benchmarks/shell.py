"""The shell: what the verbs of a layer cost beyond its pure functions, in microseconds.

Both sides run in one process and by turns, on arrays so small that their arithmetic is nothing. A
difference is divided by the layers and by the two calls (forward, backward).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np

import xplayers as xl

DEPTH = 20  # layers of the Sequential: enough for what a pass costs once to weigh little
BLOCK = 100  # repetitions of one side before it is the other's turn


class Figures:
    """Pairs of functions, the shell's and the pure ones, and their differences."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.x, self.dy = rng.standard_normal((2, 1, 8), dtype=np.float32)
        self.pairs: dict[str, tuple[Callable[[], Any], Callable[[], Any], int]] = {}
        affine = self._affine()
        # Alone: the whole shell. In a Sequential: what each further layer adds to the pass.
        self.pairs["Relu alone"] = *self._pair(xl.Relu(), [xl.Relu()]), 2
        self.pairs["Affine alone"] = *self._pair(affine, [affine]), 2
        for name, make in (("Relu", xl.Relu), ("Affine", self._affine)):
            layers = [make() for _ in range(DEPTH)]
            both = self._pair(xl.Sequential(*layers), layers)
            self.pairs[f"{name} in a Sequential of {DEPTH}"] = *both, 2 * DEPTH

    def microseconds(self, batches: int) -> dict[str, float]:
        """Return each difference in microseconds per layer and call."""
        figures = {}
        for name, (shell, pure, calls) in self.pairs.items():
            block = max(1, BLOCK * 2 // calls)
            times = [(seconds(shell, block), seconds(pure, block)) for _ in range(batches)]
            figures[name] = (
                (median(s for s, _ in times) - median(p for _, p in times)) / calls * 1e6
            )
        return figures

    def _affine(self) -> xl.Affine:
        return xl.Affine.init(8, 8, rng=0, like=self.x)

    def _pair(
        self, net: xl.Layer, layers: Sequence[xl.Layer]
    ) -> tuple[Callable[[], Any], Callable[[], Any]]:
        steps = [(layer.apply, layer.vjp, layer.arrays) for layer in layers]

        def shell() -> Any:
            net.forward(self.x)
            return net.backward(self.dy)

        def pure() -> Any:
            x, dy, caches = self.x, self.dy, []
            for apply, _, arrays in steps:
                x, cache = apply(arrays, x)
                caches.append(cache)
            for _, vjp, _ in reversed(steps):
                dy, _ = vjp(caches.pop(), dy)
            return dy

        return shell, pure


def seconds(function: Callable[[], Any], repetitions: int) -> float:
    """Return the time of one repetition."""
    start = time.perf_counter()
    for _ in range(repetitions):
        function()
    return (time.perf_counter() - start) / repetitions
