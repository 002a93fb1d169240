"""The base of recurrent layers: the loop over time, forward and in reverse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from xplayers._checks import flag, generator, integer
from xplayers.arrays.checks import check_dtypes, check_parameter, check_same
from xplayers.arrays.joining import stack, unstack, zeros
from xplayers.arrays.namespaces import Array, Namespace, namespace
from xplayers.arrays.operation import operation
from xplayers.arrays.products import column_sums, matmul
from xplayers.initializers import Initializer, Rng, documented, drawn, orthogonal, xavier_uniform
from xplayers.layers.base import Cache, Layer
from xplayers.layers.variables import Gradient, Parameter

State = tuple[Array, ...]  # (h,), or (h, c) of an Lstm
Weights = tuple[Array, ...]  # Wx, Wh, b and, of a Gru that resets after the product, bh
Steps = Any  # what all time steps have: a tuple of arrays (n, width), or an array (time, n, width)


@operation
def scan(
    state: Sequence[Array],
    step: Callable[..., tuple[State, tuple[Array, ...]]],
    inputs: tuple[Steps, ...],
    weights: Weights,
    reverse: bool,
) -> tuple[State, tuple[Steps, ...]]:
    """Take time steps, each from the state after the one before; `reverse`: from the last one.

    ``step(xp, inputs, state, weights)`` returns the state after it, and its results. Return the
    last state, and the results of all steps, in the order of time.
    """
    xp, results = namespace(state[0]), []
    each = [a if isinstance(a, tuple) else unstack(xp, a) for a in inputs]
    in_order = list(zip(*each, strict=True))
    for of_step in reversed(in_order) if reverse else in_order:
        state, result = step(xp, of_step, state, weights)
        results.append(result)
    return tuple(state), tuple(zip(*(results[::-1] if reverse else results), strict=True))


class Recurrent(Layer):
    """Base of recurrent layers: parameters, checks, and the loop over time.

    A subclass implements a step and its vjp, and names its `_gates`: the blocks of `n_hidden`
    columns of `Wx`, with the initial values of their biases.
    """

    Wx, dWx = Parameter(), Gradient()
    Wh, dWh = Parameter(), Gradient()
    b, db = Parameter(), Gradient()
    Wx_reverse, dWx_reverse = Parameter(), Gradient()
    Wh_reverse, dWh_reverse = Parameter(), Gradient()
    b_reverse, db_reverse = Parameter(), Gradient()

    _gates: ClassVar[Mapping[str, float]] = {"h": 0.0}

    def __init__(
        self, Wx: Array, Wh: Array, b: Array,
        Wx_reverse: Array = None, Wh_reverse: Array = None, b_reverse: Array = None,
    ) -> None:  # fmt: skip
        names, reverse = ("Wx", "Wh", "b"), (Wx_reverse, Wh_reverse, b_reverse)
        self._set_parameters(names, (Wx, Wh, b), reverse)

    def _set_parameters(
        self, names: Sequence[str], forward: Sequence[Array], reverse: Sequence[Array]
    ) -> None:
        """Set and check the parameters; those of the reverse direction have a suffix."""
        self._names = tuple(names)
        self.bidirectional = any(a is not None for a in reverse)
        parameters = dict(zip(names, forward, strict=True))
        if self.bidirectional:
            parameters |= {f"{k}_reverse": a for k, a in zip(names, reverse, strict=True)}
        kind, Wx = type(self).__name__, parameters["Wx"]
        for name, a in parameters.items():
            if a is None:
                message = f"{kind}: {name} is None; both directions need {', '.join(names)}."
                raise ValueError(message)
            setattr(self, name, a)
        n_in, n_hidden = (*Wx.shape, 0)[0], (*self.Wh.shape, 0)[0]
        columns = len(self._gates) * n_hidden
        expected = {"Wx": (n_in, columns), "Wh": (n_hidden, columns)}
        why = f" for {n_in} inputs and the {n_hidden} hidden units that Wh has rows for"
        for name, a in parameters.items():
            shape = expected.get(name.removesuffix("_reverse"), (columns,))
            check_parameter(kind, name, a, Wx, "Wx", shape, why)

    @classmethod
    @documented
    def init(
        cls,
        n_in: int,
        n_hidden: int,
        *,
        bidirectional: bool = False,
        initializer: Initializer = xavier_uniform,
        rng: Rng = None,
        dtype: str = "float32",
        like: Array = None,
    ) -> Self:
        """Make a layer: `Wx` from `initializer`, `Wh` orthogonal, `b` zero, as in Keras.

        The bias of the forget gate of an `Lstm` is 1, also as in Keras: it starts by remembering
        (Jozefowicz, Zaremba, Sutskever, ICML 2015). PyTorch draws all values uniformly from
        ``-1 / sqrt(n_hidden)`` to ``1 / sqrt(n_hidden)``.

        Parameters
        ----------
        n_in, n_hidden : int
            Sizes.
        bidirectional : bool
            Whether there is a reverse direction, from the last step to the first.
        initializer : callable
            ``initializer(shape, rng)``, called once per gate.
        rng, dtype, like
            As in every `init`.
        """
        sizes = n_in, n_hidden, bidirectional
        return cls._initialized(*sizes, initializer, rng, dtype)._materialize_at(like)

    @classmethod
    def _initialized(
        cls,
        n_in: int,
        n_hidden: int,
        bidirectional: bool,
        initializer: Initializer,
        rng: Rng,
        dtype: str,
        biases: Sequence[str] = ("b",),
    ) -> Self:
        """Make a layer with initial values, drawn per gate."""
        kind = cls.__name__
        n_in, n_hidden = integer(kind, "n_in", n_in), integer(kind, "n_hidden", n_hidden)
        rng = generator(kind, "rng", rng)
        params: dict[str, np.ndarray] = {}
        for suffix in ("", "_reverse")[: 2 if flag(kind, "bidirectional", bidirectional) else 1]:
            for name, initial, rows in (("Wx", initializer, n_in), ("Wh", orthogonal, n_hidden)):
                shape = (rows, n_hidden)
                gates = [drawn(kind, initial, shape, rng, dtype) for _ in cls._gates]
                params[name + suffix] = W = np.concatenate(gates, axis=1)
            b = np.repeat(np.asarray([*cls._gates.values()], W.dtype), n_hidden)
            params |= {name + suffix: b.copy() for name in biases}
        return cls(**params)

    def apply(
        self, arrays: Mapping[str, Array], x: Array, h0: Array | None = None
    ) -> tuple[Array, Cache]:
        return self._run(arrays, x, (h0,))

    def _run(
        self, arrays: Mapping[str, Array], x: Array, initial: tuple[Array | None, ...]
    ) -> tuple[Array, Cache]:
        """Run all directions from the `initial` states, by default zeros."""
        self._check_shape(x)
        xp = namespace(x)
        starts, passed = self._initial_states(xp, x, initial)
        ys, passes = [], []
        for suffix, state in zip(("", "_reverse"), starts, strict=False):
            weights = tuple([arrays[name + suffix] for name in self._names])
            results = recurrence(x, self, weights, state, suffix != "")
            last, results = results[: len(state)], results[len(state) :]
            ys.append(_over_time(xp, results[1]))
            passes.append((weights, state, last, results))
        y = xp.concat(ys, axis=-1) if self.bidirectional else ys[0]
        return y, (x, tuple(passes), passed)

    @staticmethod
    def _step(
        xp: Namespace, inputs: tuple[Array], state: State, weights: Weights
    ) -> tuple[State, tuple[Array, ...]]:
        """Return the next state; and h before, h after, and what the vjp needs besides.

        The input is ``x @ Wx + b`` of the step.
        """
        raise NotImplementedError

    @staticmethod
    def _step_vjp(
        xp: Namespace, inputs: tuple[Array, ...], dafter: State, weights: Weights
    ) -> tuple[State, tuple[Array, ...]]:
        """Return the gradients of the state; and of ``x @ Wx + b`` and, if it differs, ``h @ Wh``.

        Inputs are the gradient of the output, and the results of `_step`.
        """
        raise NotImplementedError

    def vjp(self, cache: Cache, dy: Array) -> tuple[Any, dict[str, Array]]:
        dx, dstart, grads = self._backward(cache, dy, input_grad=True)
        return ((dx, *dstart) if cache[2] else dx), grads

    def param_grads(self, cache: Cache, dy: Array) -> dict[str, Array]:
        return self._backward(cache, dy, input_grad=False)[2]

    def _backward(self, cache: Cache, dy: Array, *, input_grad: bool) -> tuple[Array, State, dict]:
        """Backpropagate through time: gradients of input, initial states and parameters."""
        x, passes, _ = cache
        xp, n_hidden = namespace(dy), dy.shape[2] // len(cache[1])
        dx, dstarts, grads = None, [], {}
        for i, (weights, state, last, results) in enumerate(passes):
            dy_direction = dy[:, :, i * n_hidden : (i + 1) * n_hidden]
            dx_direction, *others = recurrence_gradient(
                dy_direction, x, self, weights, state, last, results, i == 1, input_grad
            )
            n = len(state)
            dstarts.append(tuple(others[:n]))
            for name, grad in zip(self._names, others[n:], strict=True):
                grads[f"{name}_reverse" if i else name] = grad
            if input_grad:
                dx = dx_direction if dx is None else dx + dx_direction
        return dx, _joined(xp, dstarts), grads

    def _recurrent_grad(self, xp: Namespace, results: tuple[Steps, ...], dq: Array) -> Array:
        """Return `dWh` from the results of all steps and the gradient of ``h @ Wh``."""
        return matmul(step_rows(xp, results[0]).mT, dq)

    def _initial_states(
        self, xp: Namespace, x: Array, initial: tuple[Array | None, ...]
    ) -> tuple[list[State], State]:
        """Return the states per direction, and all of them if any was passed, else ()."""
        n_hidden = self.Wh.shape[0]
        shape = (x.shape[0], n_hidden * (2 if self.bidirectional else 1))
        states = []
        for name, state in zip(("h0", "c0"), initial, strict=False):
            if state is None:
                states.append(zeros(xp, shape, x))
                continue
            check_same(self, name, state, x)
            if tuple(state.shape) != shape:
                message = f"{self}: {name} has shape {tuple(state.shape)}; expected {shape}."
                raise ValueError(message)
            check_dtypes(self, name, state, x)
            states.append(state)
        passed = tuple(states) if any(s is not None for s in initial) else ()
        if not self.bidirectional:
            return [tuple(states)], passed
        halves = (slice(0, n_hidden), slice(n_hidden, 2 * n_hidden))
        return [tuple([s[:, half] for s in states]) for half in halves], passed

    def final_state(self, cache: Cache | None = None) -> State:
        """Return the state after the last step, to continue from: ``forward(x, *state)``.

        Parameters
        ----------
        cache : tuple, optional
            The cache that `apply` returned; with it this is a pure function. Without it, that of
            the last pending `forward`: call this before `backward`.

        Returns
        -------
        tuple of array
            ``(h,)``, of an `Lstm` ``(h, c)``, with the shapes of ``h0`` and ``c0``. For a
            bidirectional layer they are the final states of each direction: after the last time
            step and after the first, as in PyTorch.

        Raises
        ------
        RuntimeError
            If no forward is pending its backward.
        """
        if cache is None and not self._pending:
            message = f"{self}.final_state: no forward is pending its backward; pass the cache."
            raise RuntimeError(message)
        x, passes, _ = self._pending[-1][0] if cache is None else cache
        return _joined(namespace(x), [last for _, _, last, _ in passes])

    def _check_shape(self, x: Array) -> None:
        shape, n_in = tuple(x.shape), self.Wx.shape[0]
        if len(shape) != 3 or shape[2] != n_in or not shape[1]:
            message = f"{self}: x has shape {shape}; expected (n, time, {n_in})"
            message += " with one time step or more." if 0 in shape[1:2] else "."
            if len(shape) == 2 and shape[1] == n_in:
                message += " A single sequence is x[None, ...]."
            raise ValueError(message)

    def __str__(self) -> str:
        n_in, n_hidden = self._sizes
        both = ", bidirectional" if self.bidirectional else ""
        return f"{type(self).__name__}({n_in} -> {n_hidden}{both})"

    @property
    def _sizes(self) -> tuple[int, ...]:
        return self.Wx.shape[0], self.Wh.shape[0]


@operation
def recurrence(
    x: Array, layer: Recurrent, weights: Weights, state: State, reverse: bool
) -> tuple[Any, ...]:
    """Return the last state, and what the gradient needs, the second of which is the output."""
    xp, (n, time, n_in) = namespace(x), x.shape
    p = matmul(xp.reshape(x, (n * time, n_in)), weights[0])  # all steps in one product
    p += weights[2]
    p = xp.permute_dims(xp.reshape(p, (n, time, p.shape[1])), (1, 0, 2))
    last, results = scan(list(state), layer._step, (p,), weights, reverse)
    return *last, *results


@operation
def recurrence_gradient(
    dy: Array, x: Array, layer: Recurrent, weights: Weights, state: State, last: State,
    results: tuple[Steps, ...], reverse: bool, input_grad: bool,
) -> tuple[Any, ...]:  # fmt: skip
    """Return the gradients of `x` (or None), the state before the first step, and the weights."""
    xp, rows = namespace(dy), (x.shape[0] * x.shape[1], x.shape[2])
    dlast = [xp.zeros_like(s) for s in last]
    inputs = xp.permute_dims(dy, (1, 0, 2)), *results
    dstart, dsteps = scan(dlast, layer._step_vjp, inputs, weights, not reverse)
    dp, *dq = [step_rows(xp, d) for d in dsteps]
    dx = xp.reshape(matmul(dp, weights[0].mT), x.shape) if input_grad else None
    dWx = matmul(xp.reshape(x, rows).mT, dp)
    dWh = layer._recurrent_grad(xp, results, (dq or [dp])[0])
    return dx, *dstart, dWx, dWh, *map(column_sums, (dp, *dq))


def step_rows(xp: Namespace, steps: Steps) -> Array:
    """Return what all steps have as one array ``(n * time, width)``."""
    n, time, width = (a := _over_time(xp, steps)).shape
    return xp.reshape(a, (n * time, width))


def _over_time(xp: Namespace, steps: Steps) -> Array:
    """Return what all steps have as one array ``(n, time, width)``."""
    return stack(xp, steps, 1) if isinstance(steps, tuple) else xp.permute_dims(steps, (1, 0, 2))


def _joined(xp: Namespace, states: Sequence[State]) -> State:
    """Return the concatenated states of all directions."""
    if len(states) == 1:
        return states[0]
    return tuple([xp.concat(parts, axis=-1) for parts in zip(*states, strict=True)])


def blocks(a: Array, n: int) -> list[Array]:
    """Split the columns of `a` into `n` blocks."""
    width = a.shape[1] // n
    return [a[:, k * width : (k + 1) * width] for k in range(n)]
