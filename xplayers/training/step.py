"""The whole training step as one pure function, compiled where the library can."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from xplayers._checks import choice, function, instance, positive, shown
from xplayers._flat import lay_flat
from xplayers._recording import is_ordered
from xplayers.arrays.joining import stack
from xplayers.arrays.namespaces import (
    Array,
    as_plain,
    check_off_tape,
    check_same,
    device,
    dtype_name,
    is_integer,
    library,
    move,
    namespace,
)
from xplayers.arrays.values import examine
from xplayers.layers.base import Layer, Observed, code, options
from xplayers.layers.ties import overlap
from xplayers.layers.variables import Slots, shared_outside
from xplayers.losses import Loss
from xplayers.optimizers import Optimizer
from xplayers.training.compilation import Compilation, check_kept, is_ours, quietly
from xplayers.training.fingerprint import Sources
from xplayers.training.patience import Patience
from xplayers.training.precision import MixedPrecision, all_finite
from xplayers.training.replays import Last, Replays

__all__ = ["TrainStep"]

Arrays = dict[str, Array]
State = dict[str, Any]  # nested dicts of arrays

_KINDS = 64  # kinds of batches that are known
_NUMBERS = (float, int, np.generic, np.ndarray)


class TrainStep(Observed):
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
    compile : {"auto", True, False, "graph"}
        ``"auto"``: ``jax.jit`` with donated state on JAX; on NumPy, and PyTorch on the CPU, the
        first two steps of a kind of batch are recorded and the others replayed, with the same
        numbers; plain execution elsewhere. True: also ``torch.compile`` on PyTorch; an error where
        there is no compiler. False: plain execution. ``"graph"``, on CuPy: a CUDA graph, see
        `xplayers.cuda.graph`.
    reduce_grads : callable, optional
        ``reduce_grads(grads) -> grads``, a pure function of the gradients by name, before the
        update: clipping, or the sum over the devices of data-parallel training.
    precision : MixedPrecision, optional
        Computes in 16 bits; by default in the dtype of the parameters.
    gemm : {None, "cublaslt"} or callable
        What multiplies matrices on CuPy: None is its own ``@`` and, in a CUDA graph, where CuPy
        refuses it, cuBLASLt. A callable makes the `xplayers.cuda.gemm.Gemm`, as
        ``lambda: Gemm("tf32")``.

    Raises
    ------
    ValueError
        If the loss is not one number, or there is no compiler, or no such `gemm`, for the arrays.
    TypeError
        If `precision` is not a `MixedPrecision`.

    Notes
    -----
    The arrays that were in ``net.params``, ``net.buffers`` and `state` before a step are given up
    to it: copy what is to be kept. NumPy, CuPy and PyTorch write over them (the first step of a
    replay takes views of one flat buffer in their place), JAX deletes them. A new shape of the
    batch is compiled or recorded once more; the first eight kinds of batches are replayed. While a
    kind is recorded, the optimizer's results need memory of their own.

    What is compiled or replayed must be pure: layers, loss, schedule and `reduce_grads` compute
    from their arguments and attributes alone, and are not called again. All of these may be changed
    between steps, and other arrays be put in: a step does what the loop would do. Where an
    attribute has changed, it is compiled or recorded anew; the numbers of the optimizer are
    arguments, and cost nothing. What is another thing in each step is computed as it stands, and so
    is what a layer or function keeps from one step to the next, as long as an attribute shows it.
    With ``compile=False`` everything is called in every step.

    A step that has been used can be copied and pickled; what is compiled is left out.
    """

    def __init__(
        self,
        net: Layer,
        loss: Loss,
        optimizer: Optimizer,
        compile: str | bool = "auto",
        reduce_grads: Callable[[Arrays], Mapping[str, Array]] | None = None,
        precision: MixedPrecision | None = None,
        gemm: str | Callable[[], Any] | None = None,
    ) -> None:
        owner = type(self).__name__
        instance(owner, "net", net, Layer, "a network, as Sequential")
        instance(owner, "loss", loss, Loss, "a loss, as SoftmaxWithLoss()")
        instance(owner, "optimizer", optimizer, Optimizer, "an optimizer, as Adam()")
        choice(owner, "compile", compile, ("auto", True, False, "graph"))
        if loss.reduction == "none":
            message = f"{owner}: the loss has reduction='none'; expected 'mean' or 'sum'."
            raise ValueError(message)
        if reduce_grads is not None:
            function(
                owner, "reduce_grads", reduce_grads, "a function of gradients by name, or None"
            )
        kinds = "MixedPrecision('bfloat16'), MixedPrecision('float16') or None"
        instance(owner, "precision", precision, MixedPrecision | None, kinds)
        if not (gemm in (None, "cublaslt") or callable(gemm)):
            message = (
                f"{owner}: gemm is {shown(gemm)}; expected None, 'cublaslt' or a function that "
                "makes a Gemm."
            )
            raise ValueError(message)
        self.net, self.loss, self.optimizer = net, loss, optimizer
        self.compile, self.reduce_grads, self.precision = compile, reduce_grads, precision
        self.gemm = gemm
        self._scaling: Arrays | None = None  # the state of `precision`
        self._unplaced = False  # whether the state will follow the first input, as parameters do
        self._begin_afresh()

    def _begin_afresh(self) -> None:
        """Know nothing of the steps before; what they have made stays valid by itself."""
        self._sources = Sources()
        self._patience = Patience()
        self._last_rate: tuple[float | None, Any] = None, None  # and as an array
        self._compilation = Compilation(self)
        self._replays = Replays(self._patience)
        self._checked: set[Any] = set()  # kinds of batches
        self._moves = 0  # how often parameters were laid out anew
        self._params = self._buffers = Slots()
        self._left: tuple[Arrays, Arrays] = {}, {}  # parameters and buffers, as a step left them
        self._apart = True  # whether no two of them share memory
        self._last: Last | None = None  # the last replay

    def __repr__(self) -> str:
        parts = ("net", "loss", "optimizer")
        return code(self, parts, [o for o in options(self) if o.partition("=")[0] not in parts])

    def __setattr__(self, name: str, value: Any) -> None:
        if name[0] == "_":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

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
        makes, last = self._may_make(), self._last
        if makes and last is not None and lr is None and last.is_of(x, t, self):
            replay, lr, numbers = last.replay, self.optimizer.lr, last.numbers
        else:
            x, t = as_plain(x), as_plain(t)
            namespace(x, "TrainStep", "x")
            namespace(t, "TrainStep", "t")
            rate, compilation = self._rate_of(lr, x), self._compilation
            explicit, kind = self._is_explicit, self._kind(x, t, rate)
            if explicit or not makes or not Replays.fit(x):
                makes = explicit or (makes and self._patience.over())
                function = compilation.function(x) if makes else compilation.in_place
                return self._take(kind, x, t, lambda trees: function(*trees, x, t, rate))
            numbers = {} if compilation.fixed else self._sources.numbers
            replay = self._replays.find(kind, (self.optimizer.state, self._scaling))
            if replay is None:
                return self._record(kind, (x, t, rate), numbers)
            if lr is None and type(rate) is float:
                self._last = Last.of(replay, numbers, x, t, self)
            lr = rate
        self._patience.uses += 1
        given = (x, t, *numbers.values()) if lr is None else (x, t, lr, *numbers.values())
        value = replay(*given) if self.precision is None else quietly(replay, *given)
        for store in self.net._stores.values():
            store.version += 1
        return value

    def _record(self, kind: Any, given: tuple[Any, ...], numbers: dict[str, float]) -> Array:
        """Take a step of a kind that has no replay yet."""
        replays, compilation = self._replays, self._compilation

        def run(trees: Any) -> Any:
            if not self._apart:  # in the order in which the optimizer writes into shared memory
                return compilation.in_place(*trees, *given)
            return replays.record(kind, compilation.plain, trees, given, numbers, self._effects)

        value = self._take(kind, given[0], given[1], run, flat=True)
        replays.hold(self._holders(), (self.optimizer.state, self._scaling))
        if numbers and replays.is_refused(kind) and not is_ours(self.optimizer):
            self._compilation.fixed = True  # it may look at its numbers
        return value

    def _may_make(self) -> bool:
        """Whether what was made can be used, or made anew; else the step is computed as it stands.

        What the step is made of may change at any time. If not all of it can be seen, nothing can
        be made of it.
        """
        if not self._sources.hold(self):
            self._patience.changed()
            self.close()
        return self._is_explicit or self._sources.proved

    def _effects(self) -> str:
        """Return what computing a step has changed of what it is made of."""
        if self._sources.hold(self):
            return "none"
        return "traces" if self._sources.has_traces else "some"

    @property
    def _is_explicit(self) -> bool:
        return self.compile != "auto" or self.gemm is not None

    def many(self, x: Array, t: Array, index: Array, *, lr: Any = None) -> Array:
        """Take several steps, on batches of a data set that is where the parameters are.

        The same as a loop of ``step(xp.take(x, rows, axis=0), xp.take(t, rows, axis=0))`` over the
        rows of `index`. With ``compile="graph"`` it is one launch, which gathers its batches.

        Parameters
        ----------
        x, t : array
            All inputs and targets. A graph reads them where they are, and holds them.
        index : array of int, of shape (steps, batch)
            The samples of each batch, as of a permutation. It is not checked, and libraries differ
            in what they do out of range: NumPy and PyTorch raise, CuPy wraps around, JAX has NaN.
        lr : float or 0-d array, optional
            Learning rate of these steps; by default that of the optimizer.

        Returns
        -------
        array of shape (steps,)
            The losses before each update.

        Raises
        ------
        ValueError
            If `index` has another shape.
        TypeError
            If it is not of integers, or `t` or `index` are not where `x` is.
        """
        xp = namespace(x, "TrainStep.many", "x")
        check_same("TrainStep.many", "t", t, x)
        check_same("TrainStep.many", "index", index, x)
        if len(index.shape) != 2 or 0 in index.shape:
            shape = tuple(index.shape)
            message = f"TrainStep.many: index has shape {shape}; expected (steps, batch)."
            raise ValueError(message)
        if not is_integer(index):
            message = f"TrainStep.many: index is {index.dtype}; expected integers."
            raise TypeError(message)
        if self.compile == "graph":
            rate = self._rate_of(lr, x)
            self._may_make()
            captured: Any = self._compilation.function(x)
            return self._take(
                self._kind(x, t, rate), x, t,
                lambda trees: captured.many(*trees, x, t, index, rate),
            )  # fmt: skip
        rows = [index[i, ...] for i in range(index.shape[0])]
        batches = ((xp.take(x, r, axis=0), xp.take(t, r, axis=0)) for r in rows)
        return stack(xp, [self(*batch, lr=lr) for batch in batches])

    def _take(
        self, kind: Any, x: Array, t: Array, run: Callable[[Any], Any], *, flat: bool = False
    ) -> Array:
        """Let ``run(trees)`` compute; `flat`: with parameters side by side."""
        optimizer, before = self.optimizer, (self.optimizer.state, self._scaling)
        try:
            return self._taken(kind, x, t, run, flat=flat)
        except BaseException:
            if before[0] is None:  # a step that is refused leaves no state
                optimizer.state, self._scaling = before
            raise

    def _taken(self, kind: Any, x: Array, t: Array, run: Callable[[Any], Any], flat: bool) -> Array:
        optimizer = self.optimizer
        left = optimizer.state is not None and (
            self._params.hold(self._left[0]) and self._buffers.hold(self._left[1])
        )
        if kind not in self._checked or not left:  # or somebody has moved what was checked
            self._check(x, t)
        params, buffers = self._params.copy(), self._buffers.copy()
        state: State = {"optimizer": optimizer.state}
        if self.precision is not None:
            state["precision"] = self._scaling
        if flat and self._apart:
            self._lay_flat(params)
        value, params, buffers, state = run((params, buffers, self.loss._store.buffers, state))
        optimizer.state, self._scaling = state["optimizer"], state.get("precision")
        self._put(params)
        self._buffers.put(buffers)
        for store in self.net._stores.values():
            store.version += 1
        self._left = (params if self._apart else {}), buffers  # with {} they are looked at again
        if len(self._checked) > _KINDS:
            self._checked.clear()
        self._checked.add(kind)
        return value

    def _put(self, params: Arrays) -> None:
        tied = self.net._ties.rows()  # before arrays of the first names take other places
        self._params.put(params)
        if tied:
            self.net._ties.synchronize()

    def _check(self, x: Array, t: Array) -> None:
        """Look at what a batch of a new kind is, and let what has no place follow it."""
        net, optimizer = self.net, self.optimizer
        net._ready(x)
        check_same(self.loss, "t", t, x)
        check_off_tape(self.loss, "t", t)
        self._params, self._buffers = Slots(net.params), Slots(net.buffers)
        if self._unplaced:
            self.state = self.state
        params = self._params.copy()
        self._apart = not overlap([*params.values(), *self._buffers.copy().values()])
        if optimizer.state is None:
            optimizer.state = optimizer.init(params)
        first = next(iter(params.values()))
        if self.precision is not None and self._scaling is None:
            self._scaling = self.precision.init(first)
        self.loss._materialize(first)

    def _lay_flat(self, params: Arrays) -> None:
        """Put parameters and moments into one flat buffer each; the layers have views of it."""
        if self._moves > 2 or shared_outside(params.values(), self.net._stores.values()):
            return  # another step lays them out for itself again and again, or a layer has them too
        before = list(params.values())
        state = self.optimizer.state or {}
        alike = [params]
        for m in state.values():
            if isinstance(m, dict) and m.keys() == params.keys():
                alike += [m] if all(hasattr(a, "shape") for a in m.values()) else []
        for arrays in alike:
            lay_flat(arrays)
        self._put(params)
        self._moves += any(a is not b for a, b in zip(before, params.values(), strict=True))

    def _kind(self, x: Array, t: Array, lr: Any) -> Any:
        """Return what a replay depends on beside values of arrays and what the step is made of."""
        sources = self._sources
        return (
            type(x), x.shape, x.dtype, _order(x), type(t), t.shape, t.dtype, _order(t), type(lr),
            sources.pattern, tuple(sources.numbers.items()) if self._compilation.fixed else None,
        )  # fmt: skip

    def _holders(self) -> list[dict[str, Any]]:
        """Return the dicts that hold what a step reads and writes."""
        state = self.optimizer.state or {}
        held = [self.loss._store.buffers, self._scaling or {}, state]
        for store in self.net._stores.values():
            held += [store.params, store.buffers]
        return held + [m for m in state.values() if isinstance(m, dict)]

    def close(self) -> None:
        """Give back the memory of what was compiled or recorded; the next step starts afresh."""
        self._compilation.close()
        self._checked.clear()
        self._replays.forget()
        self._last = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled or copied: nothing that was compiled, recorded or looked at."""
        own = {k: v for k, v in vars(self).items() if k[0] != "_"}
        return {**own, "_scaling": self._scaling, "_unplaced": self._unplaced}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin_afresh()

    @property
    def state(self) -> State:
        """What a step leaves to the next one, beside parameters and buffers; for a checkpoint.

        ``{"optimizer": ..., "precision": ...}``: ``optimizer.state``, and with mixed precision its
        scale and counters; before the first step empty. The arrays are those that the next step
        takes: copy what is to be kept.

        What is assigned is copied to where the parameters are, in the dtypes that it has there; a
        network that has no place yet takes the state along to its first input. A part that is
        missing starts afresh.

        Raises
        ------
        ValueError
            If names or shapes are not those of this network, optimizer and precision.
        """
        parts = {"optimizer": self.optimizer.state, "precision": self._scaling}
        return {name: part for name, part in parts.items() if part is not None}

    @state.setter
    def state(self, value: Mapping[str, Any]) -> None:
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
        self._unplaced = not all(store.materialized for store in self.net._stores.values())

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
        numbers: Mapping[str, Any] | None = None,
        donate: bool = False,
        check: bool = False,
    ) -> tuple[Array, Arrays, Arrays, State]:
        """Return loss, parameters, buffers and state after one step; no side effect.

        `loss_arrays` are ``loss.arrays``, `state` is as in `TrainStep.state`. `numbers` stand in
        the place of those of the optimizer. With `donate`, parameters and state may be written
        over; with `check`, the values of the targets are looked at.
        """
        ties = self.net._ties
        precision, scale, rounded = self.precision, 1.0, params
        if precision is not None:
            scale = precision.scale(state["precision"])
            rounded, x = precision.cast(params, x)
        arrays = {**(ties.expanded(rounded) if ties.rows() else rounded), **buffers}
        y, cache = self.net.apply(arrays, x)
        if check:
            examine(y, self.loss.check, t)
        value, loss_cache = self.loss.apply(loss_arrays, y, t)
        grads: Mapping[str, Array] = self.net.param_grads(cache, self.loss.vjp(loss_cache, scale))
        grads = ties.gathered(grads) if ties.rows() else grads
        # The optimizer takes 16-bit gradients too, and computes with them in the dtype of `params`.
        as_they_are = isinstance(scale, float) and self.reduce_grads is None
        if precision is not None and not as_they_are:
            grads = precision.unscaled(grads, params, scale)
        if self.reduce_grads is not None:
            grads = self.reduce_grads(dict(grads))
        changed = self.net.updated_buffers(arrays, cache)
        optimizer = self.optimizer if numbers is None else self.optimizer._with(numbers)
        before = dict(vars(optimizer))
        update = functools.partial(
            optimizer.step, params, grads, state["optimizer"], lr=lr, donate=donate
        )
        if precision is None:
            after, moments = update()
            check_kept(optimizer, before, numbers)
            return value, after, {**buffers, **changed}, {"optimizer": moments}
        good = all_finite(list(grads.values()))
        after, moments = update(good=good)
        check_kept(optimizer, before, numbers)
        changed = {k: namespace(a).where(good, a, buffers[k]) for k, a in changed.items()}
        state = {"optimizer": moments, "precision": precision.updated(state["precision"], good)}
        return value, after, {**buffers, **changed}, state

    def _rate_of(self, lr: Any, x: Array) -> Any:
        """Return the rate that is given or the optimizer's, None where that has a schedule."""
        if lr is None:
            lr = self.optimizer.lr
            if type(lr) is float:
                return lr if self.compile is False or library(x) != "jax" else self._there(lr, x)
            if callable(lr):
                return None
        if isinstance(lr, _NUMBERS):
            return float(lr)
        return lr if hasattr(lr, "shape") else positive("TrainStep", "lr", lr)

    def _there(self, lr: float, x: Array) -> Array:
        """Return the rate as an argument of what is compiled, so that it may change."""
        if self._last_rate[0] != lr:  # brought over once, not in each step
            self._last_rate = lr, namespace(x).asarray(lr)
        return self._last_rate[1]


def _order(a: Array) -> Any:
    """Return how the elements of an array lie in memory; None: in row-major order without gaps."""
    if is_ordered(a):
        return None
    return a.strides if hasattr(a, "strides") else a.stride() if hasattr(a, "stride") else False


def _copied(value: Any, like: Any, name: str) -> Any:
    """Return a copy of the nested dict `value`, its arrays where and of what dtype `like`'s are."""
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
