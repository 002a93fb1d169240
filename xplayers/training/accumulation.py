"""A step that accumulates the gradients of micro-batches, to save memory."""

from __future__ import annotations

from typing import Any

from xplayers._calls import explained
from xplayers._checks import Option, integer
from xplayers.arrays.namespaces import Array, namespace, upcast
from xplayers.layers.base import Layer
from xplayers.losses import Loss
from xplayers.optimizers import Optimizer
from xplayers.training.step import Arrays, TrainStep

__all__ = ["AccumulatedStep"]


class AccumulatedStep(TrainStep):
    """A `TrainStep` that accumulates the gradients of micro-batches, and updates once.

    Loss and gradients are those of the whole batch, up to rounding: the sums over its parts, in at
    least float32, each part weighted by its samples, or by the weights that these or their labels
    have. The memory for a pass is that of one part. What depends on the batch as a whole
    differs: `BatchNormalization` takes the statistics of each part, and `Dropout` draws for each.

    Parameters
    ----------
    net, loss, optimizer, **options
        As in `TrainStep`; a `group` is not ``synchronized``.
    parts : int
        Number of micro-batches of equal size per batch; the last one may be smaller.

    Notes
    -----
    Other libraries count the other way: with ``gradient_accumulation_steps=k`` of Keras or
    ``accumulate_grad_batches=k`` of Lightning, `k` whole batches make one update, and each counts
    the same.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> x, t = np.eye(6, dtype="float32"), np.arange(6)
    >>> net, same = xl.mlp([6, 6], rng=0), xl.mlp([6, 6], rng=0)
    >>> step = xl.AccumulatedStep(net, xl.SoftmaxWithLoss(), xl.SGD(), parts=3)
    >>> whole = xl.TrainStep(same, xl.SoftmaxWithLoss(), xl.SGD())
    >>> bool(np.allclose(step(x, t), whole(x, t)))
    True
    >>> bool(np.allclose(net.params["0.W"], same.params["0.W"]))
    True
    """

    parts = Option(integer)

    @explained()
    def __init__(
        self, net: Layer, loss: Loss, optimizer: Optimizer, *, parts: int, **options: Any
    ) -> None:
        super().__init__(net, loss, optimizer, **options)
        self.parts = parts
        self._check_group()

    def _check_group(self) -> None:
        """Check that processes need not take their micro-batches together."""
        if getattr(self.group, "synchronized", False):
            message = (
                "AccumulatedStep: group has synchronized=True; expected False: there is a batch "
                "for each process and micro-batch, and these are not as many on all. Use a "
                "TrainStep, or GroupNormalization, which needs no batch."
            )
            raise ValueError(message)

    def _gradients(
        self,
        arrays: Arrays,
        loss_arrays: Arrays,
        x: Array,
        t: Array,
        w: Array | None,
        scale: Any,
        check: bool,
    ) -> tuple[Array, Arrays, Arrays, Any]:
        self._check_group()
        xp, loss = namespace(x), self.loss
        value: Any = 0.0
        whole: Any = None
        grads: Arrays = {}
        changed: Arrays = {}
        for part in slices(int(x.shape[0]), self.parts):
            part_t, part_w = t[part, ...], None if w is None else w[part, ...]
            y, cache = self.net.apply(arrays, x[part, ...])
            part_value, loss_cache = self._loss(loss_arrays, y, part_t, part_w, check)
            weight: Any = 1.0
            if loss.reduction == "mean":
                if whole is None:
                    whole = self._weight(loss_arrays, y, t, w)
                weight = self._weight(loss_arrays, y, part_t, part_w) / _divisor(whole)
            part_grads = self.net.param_grads(cache, loss.vjp(loss_cache, scale * weight))
            for name, g in part_grads.items():
                wide = upcast(xp, g)
                grads[name] = grads[name] + wide if name in grads else wide
            value = value + part_value * weight
            new = self.net.updated_buffers(arrays, cache)
            arrays, changed = {**arrays, **new}, {**changed, **new}
        weight = int(x.shape[0]) if whole is None else whole
        return xp.asarray(value), grads, changed, weight  # NumPy has made a scalar of the loss


def _divisor(weight: Any) -> Any:
    """Return 1 instead of 0."""
    if isinstance(weight, int):
        return max(weight, 1)
    return weight + namespace(weight).astype(weight == 0, weight.dtype)


def slices(n: int, parts: int) -> list[slice]:
    """Return the parts of `n` samples as slices, of equal size but for the last."""
    length = max(-(-n // parts), 1)
    return [slice(i, min(i + length, n)) for i in range(0, max(n, 1), length)]
