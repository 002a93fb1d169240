"""The table of optimizers, each with an independent reference."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from helpers import values

import xplayers as xl


def start() -> dict[str, np.ndarray]:
    """Return parameters before the first step."""
    return {"W": values((3, 4), 0), "b": values((4,), 1)}


def gradients(step: int) -> dict[str, np.ndarray]:
    """Return their gradients in a step, of sizes that differ."""
    return {"W": values((3, 4), 10 + step), "b": values((4,), 30 + step, scale=1e-3)}


@dataclasses.dataclass(frozen=True)
class OptimizerCase:
    """A row of the table of optimizers."""

    id: str
    make: Callable[[], xl.Optimizer]
    reference: Callable[[np.ndarray, np.ndarray, dict[str, Any], int], np.ndarray]
    torch: Callable[[Any, Any], Any] | None = None  # (torch, parameters) -> optimizer


def _sgd(p, g, s, t):
    return p - 0.01 * g


def _sgd_decay(p, g, s, t):
    return p - 0.1 * (g + 0.5 * p)


def _momentum(p, g, s, t):
    s["v"] = 0.9 * s.get("v", 0) - 0.01 * g
    return p + s["v"]


def _nesterov(p, g, s, t):
    # in the order of the book: with the velocity before the step
    v = s.get("v", 0.0 * p)
    p = p + 0.9 * 0.9 * v - (1 + 0.9) * 0.01 * g
    s["v"] = 0.9 * v - 0.01 * g
    return p


def _adagrad(p, g, s, t):
    s["h"] = s.get("h", 0) + g**2
    return p - 0.01 * g / (np.sqrt(s["h"]) + 1e-7)


def _rmsprop(p, g, s, t):
    s["h"] = 0.99 * s.get("h", 0) + 0.01 * g**2
    return p - 0.01 * g / (np.sqrt(s["h"]) + 1e-7)


def _adam_moments(g, s):
    s["m"] = s.get("m", 0) + 0.1 * (g - s.get("m", 0))
    s["v"] = s.get("v", 0) + 0.001 * (g**2 - s.get("v", 0))
    return s["m"], s["v"]


def _adam(p, g, s, t):
    m, v = _adam_moments(g, s)
    lr_t = 0.001 * math.sqrt(1.0 - 0.999**t) / (1.0 - 0.9**t)
    return p - lr_t * m / (np.sqrt(v) + 1e-7)


def _adam_algorithm_1(p, g, s, t):
    m, v = _adam_moments(g, s)
    return p - 0.001 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)


def _adamw(p, g, s, t):
    return _adam(p - 0.001 * 0.01 * p, g, s, t)


def _adamw_algorithm_1(p, g, s, t):
    return _adam_algorithm_1(p - 0.001 * 0.3 * p, g, s, t)


OPTIMIZERS = [
    OptimizerCase("SGD", xl.SGD, _sgd, lambda t, p: t.optim.SGD(p, lr=0.01)),
    OptimizerCase(
        "SGD-weight_decay",
        lambda: xl.SGD(lr=0.1, weight_decay=0.5),
        _sgd_decay,
        lambda t, p: t.optim.SGD(p, lr=0.1, weight_decay=0.5),
    ),
    OptimizerCase(
        "Momentum", xl.Momentum, _momentum, lambda t, p: t.optim.SGD(p, lr=0.01, momentum=0.9)
    ),
    OptimizerCase(
        "Nesterov",
        xl.Nesterov,
        _nesterov,
        lambda t, p: t.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    ),
    OptimizerCase(
        "AdaGrad", xl.AdaGrad, _adagrad, lambda t, p: t.optim.Adagrad(p, lr=0.01, eps=1e-7)
    ),
    OptimizerCase(
        "RMSprop", xl.RMSprop, _rmsprop, lambda t, p: t.optim.RMSprop(p, lr=0.01, eps=1e-7)
    ),
    OptimizerCase("Adam", xl.Adam, _adam),
    OptimizerCase(
        "Adam-algorithm-1",
        lambda: xl.Adam(eps=1e-8, eps_hat=False),
        _adam_algorithm_1,
        lambda t, p: t.optim.Adam(p, lr=0.001, eps=1e-8),
    ),
    OptimizerCase("AdamW", xl.AdamW, _adamw),
    OptimizerCase(
        "AdamW-algorithm-1",
        lambda: xl.AdamW(eps=1e-8, eps_hat=False, weight_decay=0.3),
        _adamw_algorithm_1,
        lambda t, p: t.optim.AdamW(p, lr=0.001, eps=1e-8, weight_decay=0.3),
    ),
]
