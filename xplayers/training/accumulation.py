"""A step whose batch goes through the network in parts, to save memory."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from xplayers._checks import Option, integer
from xplayers.arrays.namespaces import Array, namespace, upcast
from xplayers.arrays.values import examine
from xplayers.layers.base import Cache, Layer
from xplayers.losses import Loss
from xplayers.optimizers import Optimizer
from xplayers.training.evaluation import label_weights
from xplayers.training.step import Arrays, State, TrainStep

__all__ = ["AccumulatedStep"]


class AccumulatedStep(TrainStep):
    """A `TrainStep` that accumulates the gradients of the parts of a batch, and updates once.

    Loss and gradients are those of the whole batch, up to rounding: the sums over the parts, in at
    least float32, each part weighted by its samples (or by the weights of its labels, where the
    loss has such). The memory for a pass is that of one part. What depends on the batch as a whole
    differs: `BatchNormalization` takes the statistics of each part, and `Dropout` draws for each.

    Parameters
    ----------
    net, loss, optimizer, **options
        As in `TrainStep`.
    parts : int
        How many parts of equal size; the last one may be smaller.

    Notes
    -----
    Other libraries count the other way: with ``gradient_accumulation_steps=k`` of Keras or
    ``accumulate_grad_batches=k`` of Lightning, `k` whole batches make one update, and each counts
    the same.
    """

    parts = Option(integer)

    def __init__(
        self, net: Layer, loss: Loss, optimizer: Optimizer, *, parts: int, **options: Any
    ) -> None:
        super().__init__(net, loss, optimizer, **options)
        self.parts = parts

    def pure(
        self,
        params: Arrays,
        buffers: Arrays,
        loss_arrays: Arrays,
        state: State,
        x: Array,
        t: Array,
        lr: Any,
        *,
        donate: bool = False,
        check: bool = False,
    ) -> tuple[Array, Arrays, Arrays, State]:
        # The same function of a network whose output is the loss: it has seen the targets.
        step = copy.copy(self)
        precision = self.precision
        scale = 1.0 if precision is None else precision.scale(state["precision"])
        net = _NetWithLoss(self, loss_arrays, t, scale, check)
        vars(step).update(net=net, loss=_OUTPUT)  # no setting has changed
        return TrainStep.pure(step, params, buffers, {}, state, x, t, lr, donate=donate)


def slices(n: int, parts: int) -> list[slice]:
    """Return where the parts of `n` samples are: of one size, but for the last."""
    length = max(-(-n // parts), 1)
    return [slice(i, min(i + length, n)) for i in range(0, max(n, 1), length)]


class _NetWithLoss(Layer):
    """A network and its loss in one: the output is the loss of a batch, the cache its gradients."""

    net: Layer
    loss: Loss
    parts: int
    loss_arrays: Arrays
    t: Array
    scale: Any
    check: bool

    def __init__(
        self, step: AccumulatedStep, loss_arrays: Arrays, t: Array, scale: Any, check: bool
    ) -> None:
        vars(self).update(  # no setting has changed
            net=step.net, loss=step.loss, parts=step.parts, loss_arrays=loss_arrays, t=t,
            scale=scale, check=check, _ties=step.net._ties,
        )  # fmt: skip

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        xp, n = namespace(x), int(x.shape[0])
        arrays = dict(arrays)
        value: Any = 0.0
        whole: Any = None
        grads: Arrays = {}
        changed: Arrays = {}
        for part in slices(n, self.parts):
            part_x, t = x[part, ...], self.t[part, ...]
            y, cache = self.net.apply(arrays, part_x)
            if self.check:
                examine(y, self.loss.check, t)
            part_value, loss_cache = self.loss.apply(self.loss_arrays, y, t)
            weight: Any = 1.0
            if self.loss.reduction == "mean":
                if whole is None:
                    whole = self._weight(y, self.t)
                weight = self._weight(y, t) / whole
            part_grads = self.net.param_grads(cache, self.loss.vjp(loss_cache, self.scale * weight))
            for name, g in part_grads.items():
                wide = upcast(xp, g)
                grads[name] = grads[name] + wide if name in grads else wide
            value = value + part_value * weight
            new = self.net.updated_buffers(arrays, cache)
            arrays, changed = {**arrays, **new}, {**changed, **new}
        return xp.asarray(value), (grads, changed)  # NumPy has made a scalar of it

    def _weight(self, scores: Array, target: Array) -> Any:
        """Return what the mean of the loss divides by, and 1 in the place of 0."""
        weight = label_weights(self.loss, self.loss_arrays, len(scores.shape), target)
        if weight is None:
            return max(int(target.shape[0]), 1)
        return weight + namespace(weight).astype(weight == 0, weight.dtype)

    def param_grads(self, cache: Cache, dy: Array) -> dict[str, Array]:
        return cache[0]

    def updated_buffers(self, arrays: Mapping[str, Array], cache: Cache) -> dict[str, Array]:
        return cache[1]


class _OutputLoss(Loss):
    """The loss of a network whose output is the loss."""

    def apply(
        self, arrays: Mapping[str, Array], scores: Array, target: Array
    ) -> tuple[Array, Cache]:
        return scores, ()

    def vjp(self, cache: Cache, dout: Any) -> Any:
        return dout


_OUTPUT = _OutputLoss()
