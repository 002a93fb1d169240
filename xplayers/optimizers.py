"""Optimizers: pairs of pure functions, ``init`` and ``step``, under the book's ``update``.

The rule of each is one elementwise function, written under the formula. Learning rate and step
count are arguments of the step, so a schedule and a compiled step are possible. For 16-bit
parameters the moments and the arithmetic are float32.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, ClassVar

import numpy as np

from xplayers._arrays import (
    Array,
    device,
    is_half,
    library_name,
    namespace,
    on_host,
    widened,
)
from xplayers._recording import StandIn
from xplayers.elementwise import elementwise
from xplayers.layers.base import Live, options

__all__ = [
    "AdaGrad", "Adam", "AdamW", "Momentum", "Nesterov", "Optimizer", "RMSprop", "SGD",
    "clip_by_norm",
]  # fmt: skip

Arrays = Mapping[str, Array]
State = dict[str, Any]
Rate = float | Callable[[Any], Any]


class Optimizer:
    """Base of all optimizers. A subclass has a rule, the names of its moments, and `constants`.

    Parameters
    ----------
    lr : float or callable
        Learning rate; or a schedule of `xplayers.schedules`, or any function of the number of steps
        before this one, a 0-d array.
    weight_decay : float
        Adds ``weight_decay * p`` to each gradient ``g``: the gradient of an L2 penalty
        ``weight_decay / 2 * sum(p**2)``.
    """

    rule: ClassVar[Callable[..., tuple[Array, ...]]]  # (xp, p, g, *moments, lr, *constants)
    moments: ClassVar[tuple[str, ...]] = ()
    decoupled: ClassVar[bool] = False  # whether the rule itself takes care of the weight decay

    def __init__(self, lr: Rate = 0.01, weight_decay: float = 0.0) -> None:
        self.lr = lr
        self.weight_decay = weight_decay
        self.state: State | None = None

    def constants(self, t: Array) -> tuple[Any, ...]:
        """Return what the rule takes after the learning rate; `t` is the step number.

        A NumPy scalar on the host, else a 0-d array of floating-point type.
        """
        return ()

    def init(self, params: Arrays) -> State:
        """Return the state before the first step: the moments by name, zero, and the step count.

        Parameters
        ----------
        params : mapping of str to array
            The parameters by name.

        Returns
        -------
        dict
            ``{"count": 0-d int32 array, moment: {name: array}}``; the arrays are where the
            parameters are.
        """
        state: State = {m: {} for m in self.moments}
        for name, p in params.items():
            xp = namespace(p)
            for m in self.moments:
                state[m][name] = xp.zeros_like(widened(xp, p))
        first = next(iter(params.values()), None)
        if first is None:
            message = f"{type(self).__name__}: there are no parameters."
            raise ValueError(message)
        xp = namespace(first)
        state["count"] = xp.zeros((), dtype=xp.int32, device=device(first))
        return state

    def step(
        self,
        params: Arrays,
        grads: Arrays,
        state: State,
        *,
        lr: Any = None,
        donate: bool = False,
    ) -> tuple[dict[str, Array], State]:
        """Compute one step; pure unless `donate`.

        Parameters
        ----------
        params, grads : mapping of str to array
            Parameters and their gradients, by the same names.
        state : dict
            From `init` or the step before.
        lr : float or 0-d array, optional
            Learning rate of this step; by default the one of the optimizer.
        donate : bool
            The caller gives up `params` and `state`: their memory is used for the results where
            the library has mutation.

        Returns
        -------
        params : dict of str to array
            New parameters.
        state : dict
            New state.

        Raises
        ------
        ValueError
            If there is not one gradient for each parameter.
        """
        self._check(params, grads)
        lr = self.lr if lr is None else lr
        if callable(lr):
            lr = lr(state["count"])
        count = state["count"] + 1
        new: dict[str, Array] = {}
        after: State = {"count": count, **{m: {} for m in self.moments}}
        first = next(iter(params.values()))
        xp = namespace(first)
        wide = widened(xp, first)
        scalars = (lr, *self.constants(_step_number(count, wide)))
        like = None
        for name, p in params.items():
            xp = namespace(p)
            moments = [state[m][name] for m in self.moments]
            wide = widened(xp, p)
            if like is None or wide.dtype != like:  # once for all parameters of a dtype
                like = wide.dtype
                scalars = tuple([_as_scalar(c, wide) for c in scalars])
            results = _apply(
                wide,
                widened(xp, grads[name]),
                *moments,
                *scalars,
                out=(wide, *moments) if donate else None,
                rule=self.rule,
                weight_decay=0.0 if self.decoupled else self.weight_decay,
            )
            new[name] = xp.astype(results[0], p.dtype) if is_half(p) else results[0]
            for m, value in zip(self.moments, results[1:], strict=True):
                after[m][name] = value
        return new, after

    def update(self, params: MutableMapping[str, Array], grads: Arrays, *, lr: Any = None) -> None:
        """Take one step: write the new values through `params`, and keep the state.

        Where the library has mutation (NumPy, CuPy, PyTorch) the arrays of `params` are changed in
        place, as in the book; so a copy of the best parameters has to be a copy. On JAX the entries
        are replaced: pass ``net.params``, a mapping which hands them to the layers.

        Parameters
        ----------
        params : mutable mapping of str to array
            The parameters, as ``net.params``, or a dict of arrays.
        grads : mapping of str to array
            Their gradients, as ``net.grads``. They are not changed.
        lr : float or 0-d array, optional
            Learning rate of this step.
        """
        old, grads = _plain(params), _plain(grads)
        self._check(old, grads)
        state = self.init(old) if self.state is None else self.state
        new, self.state = self.step(old, grads, state, lr=lr, donate=True)
        for name, value in new.items():
            if value is not old[name]:  # 16-bit, read-only or immutable
                params[name] = _written(old[name], value)

    def _check(self, params: Arrays, grads: Arrays) -> None:
        if params.keys() == grads.keys():
            for name, p in params.items():
                if grads[name].shape != p.shape:
                    message = (
                        f"{type(self).__name__}: the gradient of {name} has shape "
                        f"{tuple(grads[name].shape)}; expected {tuple(p.shape)}."
                    )
                    raise ValueError(message)
            return
        missing = sorted(params.keys() - grads.keys())
        extra = sorted(grads.keys() - params.keys())
        message = f"{type(self).__name__}: "
        if missing:
            message += f"no gradient for {', '.join(missing)}. Call backward before update."
        if extra:
            message += f"no parameter for the gradient {', '.join(extra)}."
        raise ValueError(message)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(options(self))})"


@elementwise
def _apply(xp, p, g, *operands, rule, weight_decay):
    if weight_decay:
        g = g + weight_decay * p
    return rule(xp, p, g, *operands)


_NUMBERS = (float, int, np.generic, np.ndarray)


def _step_number(count: Array, like: Array) -> Any:
    """Return `count` as a NumPy scalar where that needs no transfer: that is fast, and float64."""
    xp = namespace(count)
    name = library_name(xp)
    if name in ("numpy", "torch") and on_host(count) and not _is_compiled(name):
        number = count.item()
        return number if isinstance(number, StandIn) else np.float64(number)
    return xp.astype(count, like.dtype)


def _is_compiled(name: str) -> bool:
    """Whether this runs inside ``torch.compile``, which cannot look at values."""
    return name == "torch" and sys.modules["torch"].compiler.is_compiling()


def _as_scalar(c: Any, p: Array) -> Any:
    """Return a 0-d array in the dtype of `p`, so that it does not decide the dtype of results."""
    if isinstance(c, _NUMBERS):
        return float(c)  # of NumPy too: a np.float64 would make float32 arrays float64
    if isinstance(c, StandIn) and isinstance(c.value, _NUMBERS):
        return c.item()
    return namespace(p).astype(c, p.dtype)


def _plain(arrays: Arrays) -> dict[str, Array]:
    """Return a dict, which is faster to look up than the live mapping of a network."""
    return arrays.copy() if isinstance(arrays, Live) else dict(arrays)


def _written(old: Array, value: Array) -> Array:
    try:
        old[...] = value
    except (TypeError, ValueError, RuntimeError):
        return value
    return old


def _sgd(xp, p, g, lr):
    return (p - lr * g,)


class SGD(Optimizer):
    """Stochastic gradient descent, ``p = p - lr * g``.

    Parameters
    ----------
    lr : float
        Learning rate.
    weight_decay : float
        Factor of ``p`` that is added to ``g``.
    """

    rule = staticmethod(_sgd)


def _momentum(xp, p, g, v, lr, momentum):
    v = momentum * v - lr * g
    return p + v, v


class Momentum(Optimizer):
    """Gradient descent with momentum, ``v = momentum * v - lr * g``; ``p = p + v``.

    The learning rate is inside the velocity, as in the book and in Keras. PyTorch's
    ``v = momentum * v + g``; ``p = p - lr * v`` is the same as long as `lr` does not change.

    Parameters
    ----------
    lr : float
        Learning rate.
    momentum : float
        Factor of the velocity.
    weight_decay : float
        Factor of ``p`` that is added to ``g``.

    References
    ----------
    Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.
    """

    rule = staticmethod(_momentum)
    moments = ("v",)

    def __init__(self, lr: Rate = 0.01, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        super().__init__(lr, weight_decay)
        self.momentum = momentum

    def constants(self, t: Array) -> tuple[Any, ...]:
        return (self.momentum,)


def _nesterov(xp, p, g, v, lr, momentum):
    v = momentum * v - lr * g
    return p + (momentum * v - lr * g), v


class Nesterov(Momentum):
    """Nesterov's momentum, ``v = momentum * v - lr * g``; ``p = p + momentum * v - lr * g``.

    The gradient is that at the look-ahead point, which is what ``p`` holds: the form of
    Bengio, Boulanger-Lewandowski, Pascanu, "Advances in optimizing recurrent networks", ICASSP
    2013, equations 6 and 7, and of the book, PyTorch and Keras.

    Parameters
    ----------
    lr : float
        Learning rate.
    momentum : float
        Factor of the velocity.
    weight_decay : float
        Factor of ``p`` that is added to ``g``.
    """

    rule = staticmethod(_nesterov)


def _adagrad(xp, p, g, h, lr, eps):
    h = h + g * g
    return p - lr * g / (xp.sqrt(h) + eps), h


class AdaGrad(Optimizer):
    """AdaGrad, ``h = h + g**2``; ``p = p - lr * g / (sqrt(h) + eps)``.

    `eps` is outside the root, as in the book and in PyTorch (whose default is 1e-10); Keras has it
    inside, and starts ``h`` at 0.1.

    Parameters
    ----------
    lr : float
        Learning rate.
    eps : float
        Keeps the quotient finite.
    weight_decay : float
        Factor of ``p`` that is added to ``g``.

    References
    ----------
    Duchi, Hazan, Singer, "Adaptive Subgradient Methods", JMLR 12, 2011.
    """

    rule = staticmethod(_adagrad)
    moments = ("h",)

    def __init__(self, lr: Rate = 0.01, eps: float = 1e-7, weight_decay: float = 0.0) -> None:
        super().__init__(lr, weight_decay)
        self.eps = eps

    def constants(self, t: Array) -> tuple[Any, ...]:
        return (self.eps,)


def _rmsprop(xp, p, g, h, lr, decay_rate, eps):
    h = decay_rate * h + (1.0 - decay_rate) * (g * g)
    return p - lr * g / (xp.sqrt(h) + eps), h


class RMSprop(Optimizer):
    """RMSprop, ``h = rho * h + (1 - rho) * g**2``; ``p = p - lr * g / (sqrt(h) + eps)``.

    `eps` is outside the root, as in the book and in PyTorch; Keras has it inside.

    Parameters
    ----------
    lr : float
        Learning rate.
    decay_rate : float
        ``rho``, the memory of the mean square.
    eps : float
        Keeps the quotient finite.
    weight_decay : float
        Factor of ``p`` that is added to ``g``.

    References
    ----------
    Tieleman, Hinton, Coursera "Neural Networks for Machine Learning", lecture 6.5, 2012.
    """

    rule = staticmethod(_rmsprop)
    moments = ("h",)

    def __init__(
        self,
        lr: Rate = 0.01,
        decay_rate: float = 0.99,
        eps: float = 1e-7,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(lr, weight_decay)
        self.decay_rate = decay_rate
        self.eps = eps

    def constants(self, t: Array) -> tuple[Any, ...]:
        return (self.decay_rate, self.eps)


def _log(beta: float) -> float:
    return math.log(beta) if beta > 0 else -math.inf


def _adam(xp, p, g, m, v, lr, beta1, beta2, eps, correction):
    m = beta1 * m + g
    v = beta2 * v + g * g
    return p - (lr * correction) * (m / (xp.sqrt(v) + eps)), m, v


class Adam(Optimizer):
    """Adam: ``m = beta1 * m + (1 - beta1) * g``; ``v = beta2 * v + (1 - beta2) * g**2``.

    With ``eps_hat=True``, the form at the end of section 2 of the paper, where `eps` is its
    "epsilon hat": ``p = p - lr * c * m / (sqrt(v) + eps)`` with
    ``c = sqrt(1 - beta2**t) / (1 - beta1**t)`` at step ``t = 1, 2, ...``. With ``eps_hat=False``,
    its algorithm 1: ``p = p - lr * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + eps)``.

    Parameters
    ----------
    lr : float
        Learning rate.
    beta1, beta2 : float
        Memory of the mean and of the mean square of the gradients.
    eps : float
        Keeps the quotient finite.
    eps_hat : bool
        Which of the two forms.
    weight_decay : float
        Factor of ``p`` that is added to ``g``; for the decoupled form see `AdamW`.

    Notes
    -----
    The state keeps ``m / (1 - beta1)`` and ``v / (1 - beta2)``, which are updated in two operations
    less: ``m = beta1 * m + g`` and ``v = beta2 * v + g**2``.

    Libraries of the same name differ: the book and Keras compute the first form with ``eps=1e-7``
    (the defaults here), PyTorch and Optax the second with ``eps=1e-8``. In the first steps the
    first form moves parameters with tiny gradients less: by 0.24 `lr` for ``g = 1e-6``, ``t = 1``.

    References
    ----------
    Kingma, Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.
    """

    rule = staticmethod(_adam)
    moments = ("m", "v")

    def __init__(
        self,
        lr: Rate = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-7,
        eps_hat: bool = True,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(lr, weight_decay)
        for name, beta in (("beta1", beta1), ("beta2", beta2)):
            if not 0.0 <= beta < 1.0:
                message = f"{type(self).__name__}: {name} is {beta}; expected 0 to less than 1."
                raise ValueError(message)
        self.beta1 = beta1
        self.beta2 = beta2
        self.eps = eps
        self.eps_hat = eps_hat

    def constants(self, t: Array) -> tuple[Any, ...]:
        xp = namespace(t)
        # 1 - beta**t without the cancellation of the subtraction
        root = xp.sqrt(-xp.expm1(t * _log(self.beta2)))
        # The factors 1 - beta of the moments are here, and not in two passes of the rule.
        scale = math.sqrt(1.0 - self.beta2)
        correction = root / -xp.expm1(t * _log(self.beta1)) * ((1.0 - self.beta1) / scale)
        eps = self.eps if self.eps_hat else self.eps * root
        return (self.beta1, self.beta2, eps / scale, correction)


def _adamw(xp, p, g, m, v, lr, beta1, beta2, eps, correction, weight_decay):
    p = p - (lr * weight_decay) * p
    return _adam(xp, p, g, m, v, lr, beta1, beta2, eps, correction)


class AdamW(Adam):
    """Adam with decoupled decay: ``p = p - lr * weight_decay * p`` before the step of `Adam`.

    Parameters
    ----------
    lr : float
        Learning rate.
    beta1, beta2 : float
        Memory of the mean and of the mean square of the gradients.
    eps : float
        Keeps the quotient finite.
    eps_hat : bool
        As in `Adam`; PyTorch's AdamW is ``eps=1e-8, eps_hat=False``.
    weight_decay : float
        The decay of a parameter in a step is this times `lr`, as in PyTorch and Keras (in the paper
        it is not times the learning rate).

    References
    ----------
    Loshchilov, Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, algorithm 2.
    """

    rule = staticmethod(_adamw)
    decoupled = True

    def __init__(
        self,
        lr: Rate = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-7,
        eps_hat: bool = True,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(lr, beta1, beta2, eps, eps_hat, weight_decay)

    def constants(self, t: Array) -> tuple[Any, ...]:
        return (*super().constants(t), self.weight_decay)


def clip_by_norm(grads: Arrays, limit: float) -> dict[str, Array]:
    """Scale all gradients by one factor so that their common norm is at most `limit`.

    ``norm = sqrt(sum of all g**2)``; each gradient becomes ``g * min(1, limit / norm)``.

    Parameters
    ----------
    grads : mapping of str to array
        Gradients by name. They are not changed.
    limit : float
        The largest norm, positive.

    Returns
    -------
    dict of str to array
        New arrays by the same names. The norm stays on the device; a gradient that is not finite
        makes the results 0 or NaN.

    Raises
    ------
    ValueError
        If `limit` is not positive.

    References
    ----------
    Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", ICML 2013,
    algorithm 1.
    """
    if not limit > 0:
        message = f"clip_by_norm: limit is {limit}; expected a positive number."
        raise ValueError(message)
    if not grads:
        return {}
    xp = namespace(next(iter(grads.values())))
    wide = [widened(xp, g) for g in grads.values()]
    total: Any = sum(xp.sum(g * g) for g in wide)
    # The tiny number keeps 0 / 0 away; min(1, limit / norm) without a division by a zero norm.
    factor = limit / xp.maximum(xp.sqrt(total), limit)
    return {name: g * _as_scalar(factor, g) for name, g in grads.items()}
