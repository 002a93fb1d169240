"""What the estimators minimise: losses as scikit-learn counts them, with its L2 penalty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xplayers.arrays.namespaces import Array, Namespace, namespace
from xplayers.layers.base import Layer
from xplayers.losses import Loss, MeanSquaredError, SigmoidWithLoss
from xplayers.losses.base import total
from xplayers.losses.pointwise import Pointwise
from xplayers.losses.weights import divisor
from xplayers.optimizers import Optimizer
from xplayers.training.step import TrainStep


class PoissonWithLoss(Pointwise):
    """Half the Poisson deviance of ``exp(x)``: ``t * log(t / exp(x)) - t + exp(x)``."""

    def value_and_derivative(
        self, xp: Namespace, arrays: Mapping[str, Array], x: Array, t: Array
    ) -> tuple[Array, Array]:
        y = xp.exp(x)
        positive = t > 0
        log = xp.log(xp.where(positive, t, 1.0)) - x
        return xp.where(positive, t * log, 0.0) - t + y, y - t


class PenalisedStep(TrainStep):
    """A step on the mean over samples of a loss, and ``alpha / 2`` times the squares of weights.

    As in scikit-learn, the penalty is divided by the samples of a batch, or their weights; it is of
    parameters with two axes or more, so not of biases. The losses of the outputs of a sample are
    summed, where ours take their mean.
    """

    def __init__(
        self, net: Layer, loss: Loss, optimizer: Optimizer, *, alpha: float, outputs: int
    ) -> None:
        super().__init__(net, loss, optimizer)
        self.alpha = float(alpha)
        # Of the gradient and of the value: half of the squares are summed, and their mean is shown.
        squared = isinstance(loss, MeanSquaredError)
        several = isinstance(loss, MeanSquaredError | SigmoidWithLoss | PoissonWithLoss)
        self.factor = (0.5 if squared else 1.0) * (outputs if several else 1)
        self.shown = 0.5 if squared else self.factor

    def _gradients(
        self,
        arrays: Mapping[str, Array],
        loss_arrays: Mapping[str, Array],
        x: Array,
        t: Array,
        w: Array | None,
        scale: Any,
        check: bool,
    ) -> Any:
        value, grads, changed, weight = super()._gradients(
            dict(arrays), dict(loss_arrays), x, t, w, scale * self.factor, check
        )
        value = value * self.shown
        if self.alpha:
            ratio = self.alpha / (int(x.shape[0]) if w is None else divisor(w, int(x.shape[0])))
            names = [k for k in self.net.params if k in grads and len(arrays[k].shape) > 1]
            grads = {**grads, **{k: grads[k] + ratio * arrays[k] for k in names}}
            squares = [total(arrays[k] * arrays[k], 1.0) for k in names]
            value = value + 0.5 * ratio * sum(squares[1:], squares[0]) if squares else value
        return namespace(x).asarray(value), grads, changed, weight
