"""A training step as one pure function, which is what libraries compile, record and capture."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from xplayers.arrays.namespaces import Array, namespace, upcast
from xplayers.arrays.values import examine
from xplayers.training.evaluation import batch_weight
from xplayers.training.precision import all_finite
from xplayers.training.stateful import Arrays, State, StatefulStep
from xplayers.training.synchronizing import synchronized


class PureStep(StatefulStep):
    """Forward, loss, backward and update, computed from their arguments and attributes alone."""

    reduce_grads: Callable[[Arrays], Mapping[str, Array]] | None

    def pure(
        self,
        params: Arrays,
        buffers: Arrays,
        loss_arrays: Arrays,
        state: State,
        x: Array,
        t: Array,
        lr: Any,
        sample_weight: Array | None = None,
        *,
        donate: bool = False,
        check: bool = False,
    ) -> tuple[Array, Arrays, Arrays, State]:
        """Return loss, parameters, buffers and state after one step; no side effects.

        `loss_arrays` are ``loss.arrays``, `state` is as in `TrainStep.state`. With `donate`,
        parameters and state may be overwritten; with `check`, the values of targets and weights are
        checked.
        """
        ties, precision, exchange = self.net._ties, self.precision, self._exchange
        rows = ties.rows() if self._tied is None else self._tied
        scale, rounded, own = 1.0, params, buffers
        if precision is not None:
            scale = precision.scale(state["precision"])
            rounded, x = precision.cast(params, x)
        if exchange is not None:
            own = exchange.own(self.net, buffers)
        arrays = {**(ties.expanded(rounded, rows) if rows else rounded), **own}
        gradients = self._gradients if exchange is None else self._part_of_gradients
        value, grads, changed, weight = gradients(
            arrays, loss_arrays, x, t, sample_weight, scale, check
        )
        grads = ties.gathered(grads, rows) if rows else grads
        # The optimizer takes 16-bit gradients too, and computes with them in the dtype of `params`.
        as_is = isinstance(scale, float) and self.reduce_grads is None and exchange is None
        if precision is not None and not as_is:
            grads = precision.unscaled(grads, params, scale)
        if exchange is not None:
            grads = {k: grads[k] for k in params if k in grads}  # in one order on all ranks
            part = int(x.shape[0]), weight, value, grads, changed
            value, grads, changed = exchange.averaged(self.loss, *part, own, buffers)
        if self.reduce_grads is not None:
            grads = self.reduce_grads(dict(grads))
        update = functools.partial(
            self.optimizer.step, params, grads, state["optimizer"], lr=lr, donate=donate
        )
        if precision is None:
            after, moments = update()
            return value, after, {**buffers, **changed}, {"optimizer": moments}
        good = all_finite(list(grads.values()))
        after, moments = update(good=good)
        changed = {k: namespace(a).where(good, a, buffers[k]) for k, a in changed.items()}
        state = {"optimizer": moments, "precision": precision.updated(state["precision"], good)}
        return value, after, {**buffers, **changed}, state

    def _gradients(
        self,
        arrays: Arrays,
        loss_arrays: Arrays,
        x: Array,
        t: Array,
        w: Array | None,
        scale: Any,
        check: bool,
    ) -> tuple[Array, Mapping[str, Array], Arrays, Any]:
        """Return the loss, the gradients of `scale` times the loss, and the buffers that change.

        And the divisor of the mean of the loss, if it is averaged with those of other processes.
        """
        y, cache = self.net.apply(arrays, x)
        value, loss_cache = self._loss(loss_arrays, y, t, w, check)
        weight, exchange = None, self._exchange
        if exchange is not None:
            weight = self._weight(loss_arrays, y, t, w)
            if exchange.synchronized:
                share = exchange.share_of(self.loss, weight, value)
                value, scale = value * share, scale * share
        grads = self.net.param_grads(cache, self.loss.vjp(loss_cache, scale))
        return value, grads, self.net.updated_buffers(arrays, cache), weight

    def _part_of_gradients(
        self, arrays: Arrays, loss_arrays: Arrays, x: Array, *rest: Any
    ) -> tuple[Array, Mapping[str, Array], Arrays, Any]:
        """Return what `_gradients` does, of this process's part of a batch, which may be empty."""
        exchange, net = self._exchange, self.net
        assert exchange is not None
        exchange.restart()
        with synchronized(exchange, x):
            if x.shape[0] > 0:
                return self._gradients(arrays, loss_arrays, x, *rest)
            if exchange.synchronized:  # take part in the sums of the passes of the others
                y, cache = net.apply(arrays, x)
                xp = namespace(y)
                exchange.share_of(self.loss, 0, xp.sum(upcast(xp, y)))
                net.param_grads(cache, xp.zeros_like(y))
        return exchange.nothing({name: arrays[name] for name in net.params})

    def _loss(self, arrays: Arrays, y: Array, t: Array, w: Array | None, check: bool) -> Any:
        """Return the loss of the scores and its cache."""
        loss = self.loss
        if check:
            examine(y, loss.check, t)
        if w is None:
            return loss.apply(arrays, y, t)
        if check:
            examine(y, loss._check_weights, w)
        return loss.apply(arrays, y, t, sample_weight=w)

    def _weight(self, arrays: Arrays, scores: Array, target: Array, w: Array | None) -> Any:
        """Return the divisor of the mean of the loss: samples, or the weights of their labels."""
        weight = None
        if self.loss.reduction == "mean":
            weight = batch_weight(self.loss, arrays, len(scores.shape), target, w)
        return int(target.shape[0]) if weight is None else weight
