"""Affine maps with activations between them, each with its activation as one product.

Between two affine maps an activation costs a pass over memory forward, and backward one for its
derivative and one for the gradient of the bias. cuBLASLt does all three where it writes a product
(its epilogues), so a network of such layers is products alone.
It is what `Sequential` computes within the context of a `Gemm`.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xplayers.accelerate.cuda.fusion import Fusion, Saved
from xplayers.accelerate.cuda.layouts import fits
from xplayers.accelerate.cuda.planner import NoAlgorithm
from xplayers.arrays.namespaces import Array, namespace
from xplayers.arrays.products import column_sums, product, product_and_sums
from xplayers.layers.activations import Gelu, Relu
from xplayers.layers.affine import Affine, as_matrix
from xplayers.layers.base import Cache, Layer
from xplayers.layers.containers import Part, collect


def _has_bias(layer: Layer) -> bool:
    return type(layer) is Affine and layer.b is not None


def _activation(layer: Layer) -> str | None:
    """Return what the epilogues call an activation; None of one that they do not have."""
    if type(layer) is Relu:
        return "relu"
    return "gelu" if type(layer) is Gelu and layer.approximate == "tanh" else None


class AffineFusion(Fusion):
    """Affine maps with activations between them, ``y = f(... f(x @ W_1 + b_1) ...) @ W_n + b_n``.

    With ``z_k = h_k @ W_k + b_k`` and ``h_{k+1} = f(z_k)``, each of these one product. Backward:
    ``dz_k = (dz_{k+1} @ W_{k+1}.T) * f'(z_k)`` with ``db_k = sum(dz_k, axis=0)``, again one
    product, and ``dW_k = h_k.T @ dz_k``.

    Parameters
    ----------
    layers : sequence of Layer
        `Affine`, then an activation and `Affine`, once or more.
    library : callable
        Returns the `Gemm` that multiplies.
    """

    def __init__(self, layers: Sequence[Layer], library: Callable[[], Any]) -> None:
        super().__init__(layers, library)
        self._affine: list[Any] = list(layers[::2])
        self._activations = [_activation(layer) for layer in layers[1::2]]

    @staticmethod
    def length(parts: Sequence[Part]) -> int:
        length = 1
        if _has_bias(parts[0].layer):
            for first, second in zip(parts[1::2], parts[2::2], strict=False):
                if _activation(first.layer) is None or not _has_bias(second.layer):
                    break
                length += 2
        return length

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        if not self._fits(arrays, x):
            return super().apply(arrays, x)
        pairs = [part.pick(arrays) for part in self._parts[::2]]
        h = self._affine[0]._as_matrix(x, pairs[0]["W"])
        inputs, auxs, caches = [h], [], []
        for k, name in enumerate(self._activations):
            W, b, aux, cache = pairs[k]["W"], pairs[k]["b"], None, ()
            try:
                h, aux = self._library().matmul(h, W, epilogue=f"{name}_aux_bias", bias=b)
            except NoAlgorithm:
                h, cache = self._layer(k).apply({}, product(h, W, b))
            inputs.append(h)
            auxs.append(aux)
            caches.append(cache)
        y = product(h, pairs[-1]["W"], pairs[-1]["b"])
        weights = tuple([pair["W"] for pair in pairs])
        return self._shaped(y, x), Saved(x, tuple(inputs), weights, tuple(auxs), tuple(caches))

    def infer(self, arrays: Mapping[str, Array], x: Array) -> Array:
        if not self._fits(arrays, x):
            return super().infer(arrays, x)
        pairs = [part.pick(arrays) for part in self._parts[::2]]
        h = self._affine[0]._as_matrix(x, pairs[0]["W"])
        for k, name in enumerate(self._activations):
            W, b = pairs[k]["W"], pairs[k]["b"]
            try:
                h = self._library().matmul(h, W, epilogue=f"{name}_bias", bias=b)
            except NoAlgorithm:
                h = self._layer(k).infer({}, product(h, W, b))
        return self._shaped(product(h, pairs[-1]["W"], pairs[-1]["b"]), x)

    def _backward(self, saved: Saved, dy: Array) -> tuple[Array, dict[str, Array]]:
        """Return the gradient of ``z_1``, and those of all parameters."""
        grads: dict[str, Array] = {}
        dz, db = as_matrix(dy), None
        for k in reversed(range(len(saved.inputs))):
            h = saved.inputs[k].mT
            if db is None:
                dW, db = product_and_sums(h, dz)
            else:
                dW = product(h, dz)
            collect(grads, self._parts[2 * k], {"W": dW, "b": db})
            if k:
                dz, db = self._through(saved, k, dz)
        return dz, grads

    def _input_grad(self, saved: Saved, dz: Array) -> Array:
        dx = product(dz, saved.weights[0].mT)
        return namespace(dx).reshape(dx, saved.x.shape)

    def _through(self, saved: Saved, k: int, dz: Array) -> tuple[Array, Array]:
        """Return the gradient of ``z_k`` from that of ``z_{k+1}``, and its sum over the rows."""
        W, aux, cache, gemm = (
            saved.weights[k],
            saved.aux[k - 1],
            saved.caches[k - 1],
            self._library(),
        )
        name = self._activations[k - 1]
        if aux is not None:
            if gemm is not None and dz.dtype == W.dtype:  # the context may be over
                with contextlib.suppress(NoAlgorithm):
                    return gemm.matmul(dz, W.mT, epilogue=f"d{name}_bgrad", aux=aux)
            # ReLU has kept bits, which its result has too; GELU its input, in rows with padding.
            cache = (saved.inputs[k] > 0,) if name == "relu" else (aux[:, : W.shape[0]],)
        dz, _ = self._layer(k - 1).vjp(cache, product(dz, W.mT))
        return dz, column_sums(dz)

    def _layer(self, k: int) -> Layer:
        """Return an activation."""
        return self._parts[2 * k + 1].layer

    def _fits(self, arrays: Mapping[str, Array], x: Array) -> bool:
        """Whether all of it are products of matrices that follow each other, of one dtype."""
        pairs = [part.pick(arrays) for part in self._parts[::2]]
        weights = [pair["W"] for pair in pairs]
        return (
            0 not in x.shape
            and [_activation(layer) for layer in [*self][1::2]] == self._activations
            and {a.dtype for pair in pairs for a in pair.values()} == {x.dtype}
            and all(fits(W, W.mT) for W in weights)
            and all(V.shape[1] == W.shape[0] for V, W in itertools.pairwise(weights))
            and (len(x.shape) == 2 or len({layer.flatten for layer in self._affine}) == 1)
        )

    def _shaped(self, y: Array, x: Array) -> Array:
        """Return the result of the last map in the shape that it has for `x`."""
        if self._affine[0].flatten or len(x.shape) == 2:
            return y
        return namespace(y).reshape(y, (*x.shape[:-1], y.shape[1]))
