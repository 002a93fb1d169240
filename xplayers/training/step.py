"""The whole training step as one pure function, compiled where the library can."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from xplayers._arrays import Array, check_off_tape, check_same, library, namespace
from xplayers.layers.base import Layer
from xplayers.losses import Loss
from xplayers.optimizers import Optimizer

__all__ = ["TrainStep"]

Arrays = dict[str, Array]


class TrainStep:
    """One step of training: forward, loss, backward and update.

    ``step(x, t)`` does what the loop does ::

        value = loss.forward(net.forward(x), t)
        net.backward(loss.backward(), input_grad=False)
        optimizer.update(net.params, net.grads)

    with the same numbers, as one pure function of parameters, buffers, optimizer state and batch.

    Parameters
    ----------
    net : Layer
        The network. Its parameters are written after each step.
    loss : Loss
        With ``reduction="mean"`` or ``"sum"``.
    optimizer : Optimizer
        Its state is kept in ``optimizer.state``.
    compile : {"auto", True, False}
        ``"auto"``: ``jax.jit`` with donated state on JAX, plain execution elsewhere. True: also
        ``torch.compile`` on PyTorch; an error where there is no compiler. False: plain execution.
    reduce_grads : callable, optional
        ``reduce_grads(grads) -> grads``, a pure function of the gradients by name, before the
        update: clipping, or the sum over the devices of data-parallel training.

    Raises
    ------
    ValueError
        If the loss is not one number, or there is no compiler for the arrays.

    Notes
    -----
    On JAX the arrays that were in ``net.params``, ``net.buffers`` and ``optimizer.state`` before a
    step are given up to it: copy what is to be kept. A new shape of the batch compiles once more.
    """

    def __init__(
        self,
        net: Layer,
        loss: Loss,
        optimizer: Optimizer,
        compile: str | bool = "auto",
        reduce_grads: Callable[[Arrays], Mapping[str, Array]] | None = None,
    ) -> None:
        if compile not in ("auto", True, False):
            message = f"TrainStep: compile is {compile!r}; expected 'auto', True or False."
            raise ValueError(message)
        if loss.reduction == "none":
            message = "TrainStep: the loss has reduction='none'; expected 'mean' or 'sum'."
            raise ValueError(message)
        self.net, self.loss, self.optimizer = net, loss, optimizer
        self.compile, self.reduce_grads = compile, reduce_grads
        self._compiled: dict[Any, Callable[..., Any]] = {}  # by namespace, schedule

    def __call__(self, x: Array, t: Array, *, lr: Any = None) -> Array:
        """Take one step on a batch.

        Parameters
        ----------
        x, t : array
            Input and target.
        lr : float or 0-d array, optional
            Learning rate of this step; by default that of the optimizer.

        Returns
        -------
        array
            The loss before the update, 0-d. It stays on the device.
        """
        net, optimizer = self.net, self.optimizer
        net._ready(x)
        check_same(self.loss, "t", t, x)
        check_off_tape(self.loss, "t", t)
        params, buffers = dict(net.params), dict(net.buffers)
        if optimizer.state is None:
            optimizer.state = optimizer.init(params)
        self.loss._place(next(iter(params.values())))
        function = self._function(x)
        if lr is None and not callable(optimizer.lr):
            lr = optimizer.lr  # an argument of the compiled function, so that it may change
        value, params, buffers, optimizer.state = function(
            params, buffers, self.loss.arrays, optimizer.state, x, t, lr
        )
        net.params.update(params)
        net.buffers.update(buffers)
        return value

    def pure(
        self,
        params: Arrays,
        buffers: Arrays,
        loss_arrays: Arrays,
        state: dict[str, Any],
        x: Array,
        t: Array,
        lr: Any,
        *,
        donate: bool = False,
        check: bool = False,
    ) -> tuple[Array, Arrays, Arrays, dict[str, Any]]:
        """Return loss, parameters, buffers and optimizer state after one step; no side effect.

        `loss_arrays` are ``loss.arrays``. With `donate`, parameters and state may be written over;
        with `check`, the values of the targets are looked at.
        """
        arrays = {**params, **buffers}
        y, cache = self.net.apply(arrays, x)
        if check:
            self.loss.check(y, t)
        value, loss_cache = self.loss.apply(loss_arrays, y, t)
        grads: Mapping[str, Array] = self.net.param_grads(cache, self.loss.vjp(loss_cache, 1.0))
        if self.reduce_grads is not None:
            grads = self.reduce_grads(dict(grads))
        changed = self.net.updated_buffers(arrays, cache)
        params, state = self.optimizer.step(params, grads, state, lr=lr, donate=donate)
        return value, params, {**buffers, **changed}, state

    def _function(self, x: Array) -> Callable[..., Any]:
        xp = namespace(x)
        # A schedule is a part of what is compiled; a rate is an argument.
        schedule = self.optimizer.lr if callable(self.optimizer.lr) else None
        try:
            return self._compiled[xp, schedule]
        except KeyError:
            function = self._compiled[xp, schedule] = self._compile(library(x))
            return function

    def _compile(self, name: str) -> Callable[..., Any]:
        if self.compile is not False and name == "jax":
            import jax

            # A new function each time: jit would share what it compiled for an equal one.
            return jax.jit(functools.partial(self.pure), donate_argnums=(0, 1, 3))
        if self.compile is True and name == "torch":
            import torch

            return torch.compile(self.pure)
        if self.compile is True:
            message = f"TrainStep: there is no compiler for {name} arrays; use compile='auto'."
            raise ValueError(message)
        return functools.partial(self.pure, donate=True, check=True)
