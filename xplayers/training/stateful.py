"""The state of a step: arrays of network, loss and optimizer, read before it and written after."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from xplayers._checks import instance, positive
from xplayers._foreign import TRAINER, missing_attribute
from xplayers.arrays.checks import check_off_tape, check_same
from xplayers.arrays.namespaces import Array, device, dtype_name, namespace
from xplayers.arrays.transfer import as_plain, move
from xplayers.arrays.writing import written
from xplayers.layers.base import Layer, Observed
from xplayers.layers.ties import Tie, overlap
from xplayers.layers.variables import Slots, epoch, same
from xplayers.losses import Loss
from xplayers.losses.weights import check_takes_weights
from xplayers.optimizers import Optimizer
from xplayers.training.compilation import compiled
from xplayers.training.exchange import Exchange
from xplayers.training.precision import MixedPrecision, quietly

Arrays = dict[str, Array]
State = dict[str, Any]  # nested dicts of arrays

_NUMBERS = (float, int, np.generic, np.ndarray)
_KINDS = 64  # maximum number of kinds of batches to remember


def check_parts(owner: str, net: Any, loss: Any, optimizer: Any) -> None:
    """Check what is trained, and by what."""
    instance(owner, "net", net, Layer, "a network, as Sequential")
    instance(owner, "loss", loss, Loss, "a loss, as SoftmaxWithLoss()")
    instance(owner, "optimizer", optimizer, Optimizer, "an optimizer, as Adam()")


def batch_kind(x: Array, t: Array, *weights: Array) -> tuple[Any, ...]:
    """Return types, shapes and dtypes of a batch."""
    kind = type(x), x.shape, x.dtype, type(t), t.shape, t.dtype
    return (kind, *[(type(w), w.shape, w.dtype) for w in weights]) if weights else kind


class StatefulStep(Observed):
    """Reads the arrays of a step, lets a pure function compute, and writes its results back."""

    net: Layer
    loss: Loss
    optimizer: Optimizer
    precision: MixedPrecision | None
    compile: str | bool
    gemm: Any
    group: Any
    pure: Callable[..., Any]
    _scaling: Arrays | None  # the state of `precision`
    _exchange: Exchange | None  # with the other processes of `group`
    # The ties of parameters, where they are known to stay: who asks for them looks at all settings.
    _tied: list[Tie] | None = None
    _unplaced: bool  # whether the state moves to the device of the first input, as parameters do

    @property
    def rank(self) -> int:
        """The number of this process in its group."""
        return 0 if self.group is None else self.group.rank

    def _reset(self) -> None:
        """Forget all earlier steps."""
        self._checked: set[Any] = set()  # kinds of batches
        self._epoch = -1  # in which they were checked
        self._params = self._buffers = Slots()
        self._previous: tuple[Arrays, Arrays] = {}, {}  # parameters and buffers after the last step
        self._disjoint = True  # whether no two of them share memory
        self._compiled: dict[type, Any] = {}  # the compiled step by type of array; None: eager

    def __setattr__(self, name: str, value: Any) -> None:
        if name[0] == "_":
            object.__setattr__(self, name, value)
            return
        super().__setattr__(name, value)
        if name == "group":
            self._exchange = None if value is None or value.size == 1 else Exchange(value)
        if name in ("compile", "gemm", "group"):
            self.close()

    def _compiled_step(self, x: Array) -> Any:
        """Return the compiled step for such arrays; None: eager execution."""
        x = as_plain(x)
        namespace(x, "TrainStep", "x")
        if type(x) not in self._compiled:
            plain = self.compile is False and self.gemm is None
            self._compiled[type(x)] = None if plain else compiled(x, self)
        return self._compiled[type(x)]

    def _eager_step(self, x: Array, t: Array, lr: Any, *weights: Array) -> Array:
        t, rate = self._target(t), self._learning_rate(lr)
        kind = batch_kind(x, t, *weights)
        return self._update(
            kind, (x, t, *weights), lambda trees: self._in_place(*trees, x, t, rate, *weights)
        )

    def _eager(self, *arguments: Any) -> Any:
        """Compute a step by eager execution, which may overwrite parameters and state."""
        pure = functools.partial(self.pure, donate=True, check=True)
        return pure(*arguments) if self.precision is None else quietly(pure, *arguments)

    def _in_place(self, *arguments: Any) -> Any:
        """Compute a step by eager execution; parameters are updated in place if they can be."""
        value, params, *rest = self._eager(*arguments)
        return value, written(arguments[0], params), *rest

    def close(self) -> None:
        """Free the memory of compiled or recorded steps; the next step starts from scratch."""
        for step in self._compiled.values():
            if step is not None:
                step.close()
        self._compiled.clear()
        self._checked.clear()

    def _update(
        self,
        kind: Any,
        batch: tuple[Array, ...],
        run: Callable[[Any], Any],
        prepare: Callable[[Arrays], None] | None = None,
    ) -> Array:
        """Let ``run(trees)`` compute a step; `prepare` may move the parameters before."""
        optimizer, before = self.optimizer, (self.optimizer.state, self._scaling)
        try:
            return self._updated(kind, batch, run, prepare)
        except BaseException:
            if before[0] is None:  # a step that fails leaves no state
                optimizer.state, self._scaling = before
            raise
        finally:
            if self._exchange is not None:
                self._exchange.end()

    def _updated(self, kind: Any, batch: tuple[Array, ...], run: Any, prepare: Any) -> Array:
        optimizer = self.optimizer
        if self._epoch != epoch() or len(self._checked) > _KINDS:
            self._checked.clear()
        arrays: Any = self._params.copy(), self._buffers.copy()
        unchanged = optimizer.state is not None and all(map(same, arrays, self._previous))
        if kind not in self._checked or not unchanged:  # or arrays have been replaced since
            self._check(*batch)
            arrays = ()
        if self._exchange is not None and not self._exchange.shared:
            self._exchange.share(self)
            arrays = ()
        params, buffers = arrays or (self._params.copy(), self._buffers.copy())
        if self._exchange is not None:
            self._exchange.begin(params)
        state: State = {"optimizer": optimizer.state}
        if self.precision is not None:
            state["precision"] = self._scaling
        if prepare is not None and self._disjoint:
            prepare(params)
        value, params, buffers, state = run((params, buffers, self.loss._variables.buffers, state))
        optimizer.state = state["optimizer"]
        if self.precision is not None:
            self._scaling = state["precision"]
        self._put(params)
        self._buffers.put(buffers)
        self._count()
        self._checked.add(kind)
        previous = (params if self._disjoint else {}), buffers  # {}: check again
        vars(self).update(_previous=previous, _epoch=epoch())  # faster than to set attributes
        return value

    def _count(self) -> None:
        """Count new versions of the variables of the network."""
        for variables in self.net._all_variables.values():
            variables.version += 1

    def _put(self, params: Arrays) -> None:
        tied = self.net._ties.rows()  # before the arrays are replaced
        self._params.put(params)
        if tied:
            self.net._ties.synchronize()

    def _check(self, x: Array, t: Array, *weights: Array) -> None:
        """Check a batch of a new kind, and move parameters and state to its device at first."""
        net, optimizer = self.net, self.optimizer
        net._ready(x)
        check_same(self.loss, "t", t, x)
        check_off_tape(self.loss, "t", t)
        for w in weights:
            check_takes_weights(self.loss)
            check_same(self.loss, "sample_weight", w, x)
            check_off_tape(self.loss, "sample_weight", w)
        self._params, self._buffers = Slots(net.params), Slots(net.buffers)
        if self._unplaced:
            self.state = self.state
        params = self._params.copy()
        self._disjoint = not overlap([*params.values(), *self._buffers.copy().values()])
        if optimizer.state is None:
            optimizer.state = optimizer.init(params)
        first = next(iter(params.values()))
        if self.precision is not None and self._scaling is None:
            self._scaling = self.precision.init(first)
        self.loss._materialize(first)

    def _target(self, t: Any, name: str = "t") -> Array:
        t = as_plain(t)
        namespace(t, "TrainStep", name)
        return t

    def _learning_rate(self, lr: Any) -> Any:
        """Return `lr`, by default that of the optimizer; None for a schedule."""
        if lr is None:
            lr = self.optimizer.lr
            if type(lr) is float:
                return lr
            if callable(lr):
                return None
        if isinstance(lr, _NUMBERS):
            return float(lr)
        return lr if hasattr(lr, "shape") else positive("TrainStep", "lr", lr)

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled or copied: nothing that was compiled, recorded or checked."""
        own = {k: v for k, v in vars(self).items() if k[0] != "_"}
        return {**own, "_scaling": self._scaling, "_unplaced": self._unplaced}

    def __getattr__(self, name: str) -> Any:  # only called for missing attributes
        raise missing_attribute(self, name, TRAINER, "attribute")

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._reset()
        self.group = self.group  # which begins anew

    @property
    def state(self) -> State:
        """The state between steps, beside parameters and buffers; for a checkpoint.

        ``{"optimizer": ..., "precision": ...}``: ``optimizer.state``, and with mixed precision its
        scale and counters; before the first step empty. The next step may overwrite the arrays:
        copy what you need later.

        An assigned state is copied to the device of the parameters, in the dtypes of a new state.
        If the network is not materialized yet, the state moves with it to the device of the first
        input. A missing part is initialized.

        Raises
        ------
        ValueError
            If names or shapes are not those of this network, optimizer and precision.
        """
        parts = {"optimizer": self.optimizer.state, "precision": self._scaling}
        return {name: part for name, part in parts.items() if part is not None}

    @state.setter
    def state(self, value: Mapping[str, Any]) -> None:
        instance("TrainStep", "state", value, Mapping, "a dict, as TrainStep.state returns it")
        params = dict(self.net.params)
        like: State = {"optimizer": self.optimizer.init(params)}
        if self.precision is not None:
            like["precision"] = self.precision.init(next(iter(params.values())))
        unknown = sorted(value.keys() - like.keys())
        if unknown:
            fix = " Pass precision=MixedPrecision(...)." if unknown == ["precision"] else ""
            message = f"TrainStep.state: has {', '.join(unknown)}; expected {', '.join(like)}.{fix}"
            raise ValueError(message)
        parts = {name: _copied(part, like[name], name) for name, part in value.items()}
        self.optimizer.state, self._scaling = parts.get("optimizer"), parts.get("precision")
        self._unplaced = not all(v.materialized for v in self.net._all_variables.values())


def _copied(value: Any, like: Any, name: str) -> Any:
    """Return a copy of the nested dict `value`, on the devices and in the dtypes of `like`."""
    if isinstance(like, Mapping):
        names = set(value) if isinstance(value, Mapping) else {type(value).__name__}
        if names != like.keys():
            message = (
                f"TrainStep.state: {name} has {', '.join(sorted(names)) or 'nothing'}; "
                f"expected {', '.join(sorted(like))}."
            )
            raise ValueError(message)
        return {k: _copied(value[k], like[k], f"{name}.{k}") for k in like}
    if tuple(value.shape) != tuple(like.shape):
        message = (
            f"TrainStep.state: {name} has shape {tuple(value.shape)}; expected {tuple(like.shape)}."
        )
        raise ValueError(message)
    return move(value, xp=namespace(like), device=device(like), dtype=dtype_name(like.dtype))
