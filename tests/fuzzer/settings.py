"""What a step is made of beside its network: tables of losses, optimizers, schedules and more."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random import Generator

import xplayers as xl
from fuzzer.networks import pick

# Losses, of scores whose last axis has `c` entries.


def _softmax(rng: Generator, c: int) -> xl.Loss:
    return xl.SoftmaxWithLoss(
        class_weights=pick(rng, None, None, list(rng.uniform(0.5, 2.0, c))),
        ignore_index=pick(rng, None, None, 0, -1),
        label_smoothing=pick(rng, 0.0, 0.0, 0.1),
        reduction=pick(rng, "mean", "mean", "sum"),
    )


def _sigmoid(rng: Generator, c: int) -> xl.Loss:
    weight = pick(rng, None, None, 2.0, list(rng.uniform(0.5, 2.0, c)))
    return xl.SigmoidWithLoss(weight, reduction=pick(rng, "mean", "sum"))


LOSSES: dict[str, Callable[[Generator, int], xl.Loss]] = {
    "SoftmaxWithLoss": _softmax,
    "SigmoidWithLoss": _sigmoid,
    "MeanSquaredError": lambda rng, c: xl.MeanSquaredError(pick(rng, "mean", "sum")),
    "MeanAbsoluteError": lambda rng, c: xl.MeanAbsoluteError(pick(rng, "mean", "sum")),
    "Huber": lambda rng, c: xl.Huber(pick(rng, 0.3, 1.0), pick(rng, "mean", "sum")),
}

# Learning rates.


@dataclasses.dataclass
class Unhashable:
    """A schedule of somebody's own: a dataclass that can be compared has no hash."""

    lr: float

    def __call__(self, count: Any) -> Any:
        return self.lr / (1.0 + count)


class Boxed:
    """One that can be changed where it stands."""

    def __init__(self, lr: float) -> None:
        self.box = [lr]

    def __call__(self, count: Any) -> Any:
        return self.box[0] / (1.0 + 0.1 * count)


SCHEDULES: dict[str, Callable[[float], Any]] = {
    "number": lambda lr: lr,
    "number of NumPy": np.float64,
    "number of NumPy in 32 bits": np.float32,
    "Constant": xl.schedules.Constant,
    "Step": lambda lr: xl.schedules.Step(lr, every=3, factor=0.5),
    "Exponential": lambda lr: xl.schedules.Exponential(lr, every=10),
    "Cosine": lambda lr: xl.schedules.Cosine(lr, steps=12, final=lr / 10),
    "OneCycle": lambda lr: xl.schedules.OneCycle(lr, steps=20),
    "WarmUp": lambda lr: xl.schedules.WarmUp(5, xl.schedules.Cosine(lr, steps=10)),
    "function": lambda lr: lambda count: lr / (1.0 + 0.1 * count),
    "unhashable": Unhashable,
    "boxed": Boxed,
    "array": np.asarray,
}


def draw_rate(rng: Generator, size: float = 0.02) -> Any:
    lr = float(np.exp(rng.uniform(np.log(size / 20), np.log(size))))
    name = "number" if rng.random() < 0.6 else pick(rng, *SCHEDULES)
    return SCHEDULES[name](lr)


# Optimizers.


class Own(xl.SGD):
    """An optimizer of somebody's own, with attributes that are no numbers."""

    def __init__(self, lr: Any) -> None:
        super().__init__(lr)
        self.factors = [0.9]
        self.scale: Any = None
        self.power = 1

    @staticmethod
    def rule(xp: Any, p: Any, g: Any, lr: Any, factor: Any, scale: Any) -> Any:
        return (p - lr * factor * scale * g,)

    def constants(self, t: Any) -> Any:
        return self.factors[0] ** self.power, 1.0 if self.scale is None else self.scale


_DECAY = (0.0, 0.0, 0.01, 0.1)

OPTIMIZERS: dict[str, Callable[[Generator, Any], xl.Optimizer]] = {
    "SGD": lambda rng, lr: xl.SGD(lr, weight_decay=pick(rng, *_DECAY)),
    "Momentum": lambda rng, lr: xl.Momentum(lr, pick(rng, 0.9, 0.5), pick(rng, *_DECAY)),
    "Nesterov": lambda rng, lr: xl.Nesterov(lr, pick(rng, 0.9, 0.5), pick(rng, *_DECAY)),
    "AdaGrad": lambda rng, lr: xl.AdaGrad(lr, weight_decay=pick(rng, *_DECAY)),
    "RMSprop": lambda rng, lr: xl.RMSprop(lr, 0.9, eps=1e-3, weight_decay=pick(rng, *_DECAY)),
    "Adam": lambda rng, lr: xl.Adam(
        lr, eps=1e-3, eps_hat=pick(rng, True, False), weight_decay=pick(rng, *_DECAY)
    ),
    "AdamW": lambda rng, lr: xl.AdamW(
        lr, eps=1e-3, eps_hat=pick(rng, True, False), weight_decay=pick(rng, 0.01, 0.3)
    ),
    "Own": lambda rng, lr: Own(lr),
}


def draw_optimizer(rng: Generator) -> xl.Optimizer:
    return OPTIMIZERS[pick(rng, *OPTIMIZERS)](rng, draw_rate(rng))


# Functions of the gradients.


def _scaled(grads: Any, factor: float) -> Any:
    return {name: g * factor for name, g in grads.items()}


def clip(grads: Any, limit: float) -> Any:
    # The norm is a sum in the order of the mapping, and `net.grads` of the loop has another one
    # than the gradients in a step.
    return xl.clip_by_norm(dict(sorted(grads.items())), limit)


def _own(limit: float) -> Callable[[Any], Any]:
    return lambda grads: clip(_scaled(grads, 0.5), limit)


def _by_keyword(limit: float) -> Callable[[Any], Any]:
    def reduce(grads: Any, *, limit: float = limit) -> Any:
        return clip(grads, limit)

    return reduce


limit_of_all = 1.0


def _by_global(grads: Any) -> Any:
    return clip(grads, limit_of_all)


def set_limit(value: float) -> None:
    global limit_of_all
    limit_of_all = value


class Clipper:
    """A function with an attribute."""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def __call__(self, grads: Any) -> Any:
        return clip(grads, self.limit)

    def method(self, grads: Any) -> Any:
        return clip(grads, self.limit)


def _zeros(grads: Any) -> Any:
    return {name: xl.namespace(g).zeros_like(g) for name, g in grads.items()}


def _backwards(grads: Any) -> Any:
    return dict(reversed(grads.items()))


REDUCTIONS: dict[str, Callable[[float], Any]] = {
    "none": lambda limit: None,
    "partial": lambda limit: functools.partial(clip, limit=limit),
    "lambda": lambda limit: lambda grads: clip(grads, limit),
    "scaled": lambda limit: functools.partial(_scaled, factor=limit),
    "own": _own,
    "as they are": lambda limit: dict,
    "by keyword": _by_keyword,
    "object": Clipper,
    "method": lambda limit: Clipper(limit).method,
    "zeros": lambda limit: _zeros,
    "backwards": lambda limit: _backwards,
}


def draw_reduction(rng: Generator) -> Any:
    return REDUCTIONS[pick(rng, *REDUCTIONS)](float(np.exp(rng.uniform(-4, 2))))


# Steps: what they compute in, and in how many parts.


@dataclasses.dataclass(frozen=True)
class Manner:
    """How a step computes; `parts` 0: not in parts."""

    precision: xl.MixedPrecision | None = None
    parts: int = 0

    @property
    def is_plain(self) -> bool:
        return self.precision is None and not self.parts


def draw_manner(rng: Generator, library: str, dtype: str) -> Manner:
    parts = pick(rng, 0, 0, 0, 0, 1, 2, 3)
    if dtype in ("float16", "bfloat16") or rng.random() < 0.75:
        return Manner(parts=parts)
    return Manner(draw_precision(rng, library), parts)


def draw_precision(rng: Generator, library: str) -> xl.MixedPrecision:
    half = "float16" if library == "numpy" else pick(rng, "float16", "bfloat16")
    return xl.MixedPrecision(
        half,
        loss_scale=pick(rng, None, None, 1.0, 128.0, "dynamic"),
        init_scale=pick(rng, 2.0**16, 2.0**4),
        growth_interval=pick(rng, 2, 2000),
    )
