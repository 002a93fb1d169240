"""A convolution and its ReLU as one operation of cuDNN.

Apart, the bias costs a pass over memory, ReLU another, and backward its derivative and the gradient
of the bias one each. cuDNN adds a bias and takes ReLU where it writes a convolution; backward, one
kernel of our own does both (`sums`, within `xplayers.cuda.fused`).
It is what `Sequential` computes within the context of a `Cudnn`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xplayers.accelerate.cuda.fusion import Fusion, Saved
from xplayers.arrays.elementwise import zero_unless
from xplayers.arrays.namespaces import Array, namespace
from xplayers.arrays.operation import operation
from xplayers.arrays.products import channel_sums
from xplayers.layers.activations import Relu
from xplayers.layers.base import Cache
from xplayers.layers.containers import Part
from xplayers.layers.convolution import Convolution


@operation
def relu_grads(dy: Array, y: Array) -> tuple[Array, Array | None]:
    """Return ``dz = dy * (y > 0)`` and, where it costs nothing, the sums of its channels."""
    return zero_unless(dy, y > 0, namespace(dy)), None


class ConvolutionFusion(Fusion):
    """A convolution and its ReLU, ``y = max(x * W + b, 0)``, where ``*`` is the convolution.

    Backward: ``dz = dy * (y > 0)`` with ``db = sum(dz)`` over samples and positions, then the
    backward of the convolution.

    Parameters
    ----------
    layers : sequence of Layer
        A `Convolution` and a `Relu`.
    library : callable
        Returns the `Cudnn` that computes.
    """

    @staticmethod
    def length(parts: Sequence[Part]) -> int:
        kinds = [type(part.layer) for part in parts[:2]]
        return 2 if kinds == [Convolution, Relu] else 1

    @property
    def _convolution(self) -> Any:
        return self._parts[0].layer

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        pair = self._parts[0].pick(arrays)
        y = self._at_once(pair, x)
        return super().apply(arrays, x) if y is None else (y, Saved(x, (x,), (pair["W"],), (y,)))

    def infer(self, arrays: Mapping[str, Array], x: Array) -> Array:
        y = self._at_once(self._parts[0].pick(arrays), x)
        return super().infer(arrays, x) if y is None else y

    def _at_once(self, arrays: Mapping[str, Array], x: Array) -> Array | None:
        """Return the result of both layers; None where cuDNN has nothing for it."""
        layer, W = self._convolution, arrays["W"]
        layer._check(x)
        b, window = arrays.get("b"), layer._window
        y = self._library().correlate(x, W, b, window, layer.groups, relu=True)
        return None if y is NotImplemented else y

    def _backward(self, saved: Saved, dy: Array) -> tuple[Array, dict[str, Array]]:
        """Return the gradient of the result of the convolution, and those of the parameters."""
        dz, db = relu_grads(dy, saved.aux[0])
        grads = {"0.W": self._convolution._filter_grads((saved.x, *saved.weights), dz)}
        if self._convolution.b is not None:
            grads["0.b"] = channel_sums(dz) if db is None else db
        return dz, grads

    def _input_grad(self, saved: Saved, dz: Array) -> Array:
        return self._convolution._input_grad((saved.x, *saved.weights), dz)
