"""The loop over time, forward and in reverse, which the recurrent layers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from xplayers._checks import flag, generator, integer
from xplayers.arrays.joining import stack
from xplayers.arrays.namespaces import (
    Array,
    Namespace,
    check_dtypes,
    check_parameter,
    check_same,
    device,
    namespace,
)  # fmt: skip
from xplayers.arrays.products import column_sums, matmul
from xplayers.initializers import Rng, drawn, orthogonal
from xplayers.layers.base import Cache, Layer
from xplayers.layers.variables import Gradient, Parameter

State = tuple[Array, ...]  # (h,), or (h, c) of an Lstm
Weights = tuple[Array, ...]  # Wx, Wh, b and, of a Gru that resets after the product, bh


class Recurrent(Layer):
    """What recurrent layers share: parameters, checks, and the loop over time.

    A subclass writes a step, its vjp, and `_gates`: how many blocks of `n_hidden` columns `Wx` has.
    """

    Wx, dWx = Parameter(), Gradient()
    Wh, dWh = Parameter(), Gradient()
    b, db = Parameter(), Gradient()
    Wx_reverse, dWx_reverse = Parameter(), Gradient()
    Wh_reverse, dWh_reverse = Parameter(), Gradient()
    b_reverse, db_reverse = Parameter(), Gradient()

    _gates = 1

    def __init__(
        self, Wx: Array, Wh: Array, b: Array,
        Wx_reverse: Array = None, Wh_reverse: Array = None, b_reverse: Array = None,
    ) -> None:  # fmt: skip
        self._adopt(("Wx", "Wh", "b"), (Wx, Wh, b), (Wx_reverse, Wh_reverse, b_reverse))

    def _adopt(
        self, names: Sequence[str], given: Sequence[Array], reverse: Sequence[Array]
    ) -> None:
        """Keep the parameters, those of the reverse direction with a suffix, and check them."""
        self._names = tuple(names)
        self.bidirectional = any(a is not None for a in reverse)
        parameters = dict(zip(names, given, strict=True))
        if self.bidirectional:
            parameters |= {f"{k}_reverse": a for k, a in zip(names, reverse, strict=True)}
        kind, Wx = type(self).__name__, parameters["Wx"]
        for name, a in parameters.items():
            if a is None:
                message = f"{kind}: {name} is None; both directions need {', '.join(names)}."
                raise ValueError(message)
            setattr(self, name, a)
        n_in, n_hidden = (*Wx.shape, 0)[0], (*self.Wh.shape, 0)[0]
        columns = self._gates * n_hidden
        expected = {"Wx": (n_in, columns), "Wh": (n_hidden, columns)}
        why = f" for {n_in} inputs and the {n_hidden} hidden units that Wh has rows for"
        for name, a in parameters.items():
            shape = expected.get(name.removesuffix("_reverse"), (columns,))
            check_parameter(kind, name, a, Wx, "Wx", shape, why)

    @classmethod
    def _made(
        cls,
        n_in: int,
        n_hidden: int,
        biases: Sequence[str],
        bidirectional: bool,
        initializer: Callable[[tuple[int, ...], Rng], np.ndarray],
        rng: Rng,
        dtype: str,
    ) -> Self:
        """Make a layer with initial values, drawn gate by gate; the `biases` are zero."""
        kind = cls.__name__
        n_in, n_hidden = integer(kind, "n_in", n_in), integer(kind, "n_hidden", n_hidden)
        rng = generator(kind, "rng", rng)
        made: dict[str, np.ndarray] = {}
        for suffix in ("", "_reverse")[: 2 if flag(kind, "bidirectional", bidirectional) else 1]:
            for name, initial, rows in (("Wx", initializer, n_in), ("Wh", orthogonal, n_hidden)):
                shape = (rows, n_hidden)
                gates = [drawn(kind, initial, shape, rng, dtype) for _ in range(cls._gates)]
                made[name + suffix] = W = np.concatenate(gates, axis=1)
            made |= {name + suffix: np.zeros(W.shape[1], W.dtype) for name in biases}
        return cls(**made)

    def _run(
        self, arrays: Mapping[str, Array], x: Array, given: tuple[Array | None, ...]
    ) -> tuple[Array, Cache]:
        """Go through time in each direction; the states that were given, or zeros, are first."""
        self._check_shape(x)
        xp = namespace(x)
        starts, known = self._starts(xp, x, given)
        ys, passes = [], []
        for suffix, state in zip(("", "_reverse"), starts, strict=False):
            weights = tuple([arrays[name + suffix] for name in self._names])
            states, kept = self._through(xp, x, weights, state, backwards=suffix != "")
            hs = [s[0] for s in states[1:]]
            ys.append(stack(xp, hs[::-1] if suffix else hs, 1))
            passes.append((weights, states, kept))
        y = xp.concat(ys, axis=-1) if self.bidirectional else ys[0]
        return y, (x, tuple(passes), known)

    def _through(
        self, xp: Namespace, x: Array, weights: Weights, state: State, *, backwards: bool
    ) -> tuple[tuple[State, ...], tuple[Cache, ...]]:
        """Return the states before and after all steps, and what the steps keep, as they came."""
        n, time, n_in = x.shape
        p = matmul(
            xp.reshape(x, (n * time, n_in)), weights[0]
        )  # the inputs of all steps in one product
        p += weights[2]
        steps = xp.unstack(xp.reshape(p, (n, time, p.shape[1])), axis=1)
        states, kept = [state], []
        for step in reversed(steps) if backwards else steps:
            state, cache = self._step(xp, step, states[-1], weights)
            states.append(state)
            kept.append(cache)
        return tuple(states), tuple(kept)

    def _step(self, xp: Namespace, p: Array, state: State, weights: Weights) -> tuple[State, Cache]:
        """Return the next state, and what `_step_vjp` needs; `p` is ``x @ Wx + b`` of the step."""
        raise NotImplementedError

    def _step_vjp(
        self, xp: Namespace, dy: Array, dafter: State, before: State, after: State,
        kept: Cache, weights: Weights,
    ) -> tuple[Array, Array, State]:  # fmt: skip
        """Return the gradients of `p`, of the recurrent product ``h @ Wh``, and of the state."""
        raise NotImplementedError

    def vjp(self, cache: Cache, dy: Array) -> tuple[Any, dict[str, Array]]:
        dx, dstart, grads = self._undo(cache, dy, inputs=True)
        return ((dx, *dstart) if cache[2] else dx), grads

    def param_grads(self, cache: Cache, dy: Array) -> dict[str, Array]:
        return self._undo(cache, dy, inputs=False)[2]

    def _undo(self, cache: Cache, dy: Array, *, inputs: bool) -> tuple[Array, State, dict]:
        """Go back through time: gradients of input, initial states and parameters."""
        x, passes, _ = cache
        xp, n_hidden = namespace(dy), dy.shape[2] // len(cache[1])
        rows = xp.reshape(x, (x.shape[0] * x.shape[1], x.shape[2]))
        dx, dstarts, grads = None, [], {}
        for i, (weights, states, kept) in enumerate(passes):
            steps = xp.unstack(dy[:, :, i * n_hidden : (i + 1) * n_hidden], axis=1)
            dps, dqs = [], []
            dstate = tuple([xp.zeros_like(s) for s in states[0]])
            for k in reversed(range(len(kept))):
                at = steps[len(kept) - 1 - k] if i else steps[k]
                dp, dq, dstate = self._step_vjp(
                    xp, at, dstate, states[k], states[k + 1], kept[k], weights
                )
                dps.append(dp)
                dqs.append(dq)
            # the lists are in the order of the way back; the rows of x in that of time
            dp = step_rows(xp, dps if i else dps[::-1])
            dq = dp if dqs[0] is dps[0] else step_rows(xp, dqs if i else dqs[::-1])
            order = range(len(kept) - 1, -1, -1) if i else range(len(kept))
            before = step_rows(xp, [states[k][0] for k in order])
            dWh = self._recurrent_grad(xp, before, [kept[k] for k in order], dq)
            one = (matmul(rows.mT, dp), dWh, column_sums(dp), column_sums(dq))
            for name, grad in zip(self._names, one, strict=False):
                grads[f"{name}_reverse" if i else name] = grad
            dstarts.append(dstate)
            if inputs:
                through = xp.reshape(matmul(dp, weights[0].mT), x.shape)
                dx = through if dx is None else dx + through
        return dx, _joined(xp, dstarts), grads

    def _recurrent_grad(
        self, xp: Namespace, before: Array, kept: Sequence[Cache], dq: Array
    ) -> Array:
        """Return `dWh` from the states before all steps and the gradients of their products."""
        return matmul(before.mT, dq)

    def _starts(
        self, xp: Namespace, x: Array, given: tuple[Array | None, ...]
    ) -> tuple[list[State], State]:
        """Return the initial states of each direction, and all of them where one was given."""
        n_hidden = self.Wh.shape[0]
        shape = (x.shape[0], n_hidden * (2 if self.bidirectional else 1))
        states = []
        for name, state in zip(("h0", "c0"), given, strict=False):
            if state is None:
                states.append(xp.zeros(shape, dtype=x.dtype, device=device(x)))
                continue
            check_same(self, name, state, x)
            if tuple(state.shape) != shape:
                message = f"{self}: {name} has shape {tuple(state.shape)}; expected {shape}."
                raise ValueError(message)
            check_dtypes(self, name, state, x)
            states.append(state)
        known = tuple(states) if any(s is not None for s in given) else ()
        if not self.bidirectional:
            return [tuple(states)], known
        halves = (slice(0, n_hidden), slice(n_hidden, 2 * n_hidden))
        return [tuple([s[:, half] for s in states]) for half in halves], known

    def final_state(self, cache: Cache | None = None) -> State:
        """Return the state after the last step, to go on from: ``forward(x, *state)``.

        Parameters
        ----------
        cache : tuple, optional
            The cache that `apply` returned; with it this is a pure function. Without it, that of
            the last `forward` that waits for its `backward`: ask before `backward`.

        Returns
        -------
        tuple of array
            ``(h,)``, of an `Lstm` ``(h, c)``, with the shapes of ``h0`` and ``c0``. Of a layer in
            both directions they are the states that each direction ends with: after the last step
            of time and after the first, as in PyTorch.

        Raises
        ------
        RuntimeError
            If no forward waits for its backward.
        """
        if cache is None and not self._pending:
            message = f"{self}.final_state: no forward is pending its backward; pass the cache."
            raise RuntimeError(message)
        x, passes, _ = self._pending[-1][0] if cache is None else cache
        return _joined(namespace(x), [states[-1] for _, states, _ in passes])

    def _check_shape(self, x: Array) -> None:
        shape, n_in = tuple(x.shape), self.Wx.shape[0]
        if len(shape) != 3 or shape[2] != n_in or not shape[1]:
            message = f"{self}: x has shape {shape}; expected (n, time, {n_in})"
            message += " with one time step or more." if 0 in shape[1:2] else "."
            if len(shape) == 2 and shape[1] == n_in:
                message += " A single sequence is x[None, ...]."
            raise ValueError(message)

    def __str__(self) -> str:
        n_in, n_hidden = self.Wx.shape[0], self.Wh.shape[0]
        both = ", bidirectional" if self.bidirectional else ""
        return f"{type(self).__name__}({n_in} -> {n_hidden}{both})"

    def __repr__(self) -> str:
        n_in, n_hidden = self.Wx.shape[0], self.Wh.shape[0]
        both = ", bidirectional=True" if self.bidirectional else ""
        return f"{type(self).__name__}.init({n_in}, {n_hidden}{both})"


def step_rows(xp: Namespace, steps: Sequence[Array]) -> Array:
    """Return arrays ``(n, width)`` of all steps as one of ``(n * time, width)``."""
    n, width = steps[0].shape
    return xp.reshape(stack(xp, steps, 1), (n * len(steps), width))


def _joined(xp: Namespace, states: Sequence[State]) -> State:
    """Return the states of all directions side by side."""
    if len(states) == 1:
        return states[0]
    return tuple([xp.concat(parts, axis=-1) for parts in zip(*states, strict=True)])


def blocks(a: Array, n: int) -> list[Array]:
    """Return the columns of `a` in `n` blocks."""
    width = a.shape[1] // n
    return [a[:, k * width : (k + 1) * width] for k in range(n)]
