"""The tables: every layer, loss and optimizer, each with an independent reference.

A reference is written apart from the library, in NumPy, and in such operations that it takes
complex arguments too: the derivative of f along v is then Im f(x + i h v) / h, exact to the last
digits. Where PyTorch is there, its own function of that name is a second oracle.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

import xplayers as xl

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
    """A row of the table of layers."""

    id: str
    make: Callable[[], xl.Layer]
    shape: tuple[int, ...]  # of the input; the first axis is the batch
    reference: Callable[[Any, Arrays], Any]
    torch: Callable[[Any, Any, Any], Any]  # (torch, x, parameters) -> y
    view: bool = False  # whether the results may be views of the inputs
    analytic: bool = True  # whether the reference takes complex arguments


def _where(condition: Any, a: Any, b: Any) -> Any:
    return np.where(np.real(condition) > 0, a, b)


def _sigmoid(x: Any) -> Any:
    e = np.exp(_where(x, -x, x))  # of a negative real part
    return _where(x, 1 / (1 + e), e / (1 + e))


def _softplus(x: Any) -> Any:
    return _where(x, x, 0) + np.log1p(np.exp(_where(x, -x, x)))


def _gelu_tanh(x: Any) -> Any:
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _gelu(x: Any) -> Any:
    erfc = np.vectorize(math.erfc)
    return x * erfc(-x / math.sqrt(2)) / 2


def _softmax(x: Any, axis: int = -1) -> Any:
    e = np.exp(x - np.max(np.real(x), axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def _affine(x: Any, p: Arrays) -> Any:
    return x.reshape(x.shape[0], -1) @ p["W"] + p["b"]


def _mlp(x: Any, p: Arrays) -> Any:
    h = x @ p["0.W"] + p["0.b"]
    return np.tanh(h) @ p["2.W"] + p["2.b"]


def _torch_mlp(torch: Any, x: Any, p: Any) -> Any:
    return torch.tanh(x @ p["0.W"] + p["0.b"]) @ p["2.W"] + p["2.b"]


def _shared() -> xl.Layer:
    """One affine map at two places, one of them in a container of its own."""
    square = xl.Affine.init(6, 6, rng=3)
    return xl.Sequential(fc=square, act=xl.Sigmoid(), inner=xl.Sequential(square, xl.Tanh()))


def _shared_reference(x: Any, p: Arrays) -> Any:
    h = _sigmoid(x @ p["fc.W"] + p["fc.b"])
    return np.tanh(h @ p["fc.W"] + p["fc.b"])


def _torch_shared(torch: Any, x: Any, p: Any) -> Any:
    return torch.tanh(torch.sigmoid(x @ p["fc.W"] + p["fc.b"]) @ p["fc.W"] + p["fc.b"])


def _functional(torch: Any) -> Any:
    return torch.nn.functional


LAYERS = [
    Case("Relu", xl.Relu, (7, 5), lambda x, p: _where(x, x, 0), lambda t, x, p: t.relu(x)),
    Case(
        "LeakyRelu",
        lambda: xl.LeakyRelu(0.2),
        (7, 5),
        lambda x, p: _where(x, x, 0.2 * x),
        lambda t, x, p: _functional(t).leaky_relu(x, 0.2),
    ),
    Case(
        "Elu",
        lambda: xl.Elu(1.3),
        (7, 5),
        lambda x, p: _where(x, x, 1.3 * np.expm1(_where(x, 0, x))),
        lambda t, x, p: _functional(t).elu(x, 1.3),
    ),
    Case("Sigmoid", xl.Sigmoid, (7, 5), lambda x, p: _sigmoid(x), lambda t, x, p: t.sigmoid(x)),
    Case("Tanh", xl.Tanh, (7, 5), lambda x, p: np.tanh(x), lambda t, x, p: t.tanh(x)),
    Case(
        "Softplus",
        xl.Softplus,
        (7, 5),
        lambda x, p: _softplus(x),
        lambda t, x, p: _functional(t).softplus(x, threshold=1e9),
    ),
    Case(
        "Silu",
        xl.Silu,
        (7, 5),
        lambda x, p: x * _sigmoid(x),
        lambda t, x, p: _functional(t).silu(x),
    ),
    Case(
        "Gelu-tanh",
        xl.Gelu,
        (7, 5),
        lambda x, p: _gelu_tanh(x),
        lambda t, x, p: _functional(t).gelu(x, approximate="tanh"),
    ),
    Case(
        "Gelu-none",
        lambda: xl.Gelu("none"),
        (7, 5),
        lambda x, p: _gelu(x),
        lambda t, x, p: _functional(t).gelu(x),
        analytic=False,
    ),
    Case("Softmax", xl.Softmax, (7, 5), lambda x, p: _softmax(x), lambda t, x, p: t.softmax(x, -1)),
    Case(
        "Softmax-axis",
        lambda: xl.Softmax(axis=1),
        (3, 5, 2),
        lambda x, p: _softmax(x, 1),
        lambda t, x, p: t.softmax(x, 1),
    ),
    Case(
        "Affine",
        lambda: xl.Affine.init(5, 3, rng=0),
        (7, 5),
        _affine,
        lambda t, x, p: x @ p["W"] + p["b"],
    ),
    Case(
        "Affine-images",
        lambda: xl.Affine.init(24, 3, rng=0),
        (7, 2, 3, 4),
        _affine,
        lambda t, x, p: x.flatten(1) @ p["W"] + p["b"],
    ),
    Case(
        "Affine-sequences",
        lambda: xl.Affine.init(5, 3, flatten=False, rng=0),
        (4, 6, 5),
        lambda x, p: np.einsum("nti,io->nto", x, p["W"]) + p["b"],
        lambda t, x, p: x @ p["W"] + p["b"],
    ),
    Case(
        "Flatten",
        xl.Flatten,
        (4, 2, 3),
        lambda x, p: x.reshape(x.shape[0], -1),
        lambda t, x, p: x.flatten(1),
        view=True,
    ),
    Case("Sequential", lambda: xl.mlp([5, 8, 3], xl.Tanh, rng=0), (7, 5), _mlp, _torch_mlp),
    Case("Sequential-shared", _shared, (7, 6), _shared_reference, _torch_shared),
    Case(
        "Sequential-empty",
        xl.Sequential,
        (4, 3),
        lambda x, p: x * 1,
        lambda t, x, p: x * 1,
        view=True,
    ),
]


@dataclasses.dataclass(frozen=True)
class LossCase:
    """A row of the table of losses."""

    id: str
    make: Callable[[], xl.Loss]
    shape: tuple[int, ...]  # of the scores
    target: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
    reference: Callable[[Any, np.ndarray], Any]
    torch: Callable[[Any, Any, Any], Any]  # (torch, x, t) -> loss


def _labels(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.integers(0, shape[-1], shape[:-1])


def _one_hot(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.eye(shape[-1])[_labels(rng, shape)]


def _soft(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.dirichlet(np.ones(shape[-1]), shape[:-1])


def _unit(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.uniform(size=shape)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.normal(size=shape)


_WEIGHTS = [0.5, 2.0, 1.0, 3.0, 0.25]


def _cross_entropy(
    x: Any,
    t: np.ndarray,
    weights: Any = None,
    ignore: int | None = None,
    smoothing: float = 0.0,
    reduction: str = "mean",
) -> Any:
    """Cross entropy sample by sample, in loops, as the formula says it."""
    c = x.shape[-1]
    w = np.ones(c) if weights is None else np.asarray(weights)
    rows, norm = [], 0.0
    flat = x.reshape(-1, c)
    targets = t.reshape(-1) if t.ndim < x.ndim else t.reshape(-1, c)
    for scores, target in zip(flat, targets, strict=True):
        top = np.max(scores.real)
        logs = scores - top - np.log(np.sum(np.exp(scores - top)))
        if t.ndim < x.ndim:
            if target == ignore:
                rows.append(0.0 * logs[0])
                continue
            q = np.zeros(c)
            q[target] = 1.0
            norm += w[target]
        else:
            q = target
            norm += 1.0
        q = (1 - smoothing) * q + smoothing / c
        rows.append(-sum(w[j] * q[j] * logs[j] for j in range(c)))
    if reduction == "none":
        return np.asarray(rows).reshape(x.shape[:-1])
    return sum(rows) / (norm if reduction == "mean" else 1.0)


def _softmax_case(
    id: str, target: Any, shape: tuple[int, ...] = (6, 5), **options: Any
) -> LossCase:
    names = {"class_weights": "weights", "ignore_index": "ignore", "label_smoothing": "smoothing"}
    torch_names = {"class_weights": "weight"}

    def torch_loss(torch: Any, x: Any, t: Any) -> Any:
        given = {torch_names.get(k, k): v for k, v in options.items()}
        if "weight" in given:
            given["weight"] = torch.tensor(given["weight"], dtype=x.dtype)
        channels_second = torch.movedim(x, -1, 1)
        t = torch.movedim(t.to(x.dtype), -1, 1) if t.ndim == x.ndim else t
        return _functional(torch).cross_entropy(channels_second, t, **given)

    return LossCase(
        f"SoftmaxWithLoss-{id}",
        lambda: xl.SoftmaxWithLoss(**options),
        shape,
        target,
        lambda x, t: _cross_entropy(x, t, **{names.get(k, k): v for k, v in options.items()}),
        torch_loss,
    )


def _binary(x: Any, t: np.ndarray, p: Any = 1.0) -> Any:
    return p * t * _softplus(-x) + (1 - t) * _softplus(x)


def _abs(r: Any) -> Any:
    return _where(r, r, -r)


LOSSES = [
    _softmax_case("labels", _labels),
    _softmax_case("one-hot", _one_hot),
    _softmax_case("soft", _soft),
    _softmax_case("sum", _labels, reduction="sum"),
    _softmax_case("none", _labels, reduction="none"),
    _softmax_case("none-soft", _soft, reduction="none"),
    _softmax_case("weights", _labels, class_weights=_WEIGHTS),
    _softmax_case("weights-soft", _soft, class_weights=_WEIGHTS),
    _softmax_case("ignore", _labels, ignore_index=2),
    _softmax_case("smoothing", _labels, label_smoothing=0.1),
    _softmax_case("smoothing-soft", _soft, label_smoothing=0.1),
    _softmax_case(
        "everything", _labels, class_weights=_WEIGHTS, ignore_index=2, label_smoothing=0.2
    ),
    _softmax_case(
        "everything-none",
        _labels,
        class_weights=_WEIGHTS,
        ignore_index=2,
        label_smoothing=0.2,
        reduction="none",
    ),
    _softmax_case("sequences", _labels, (3, 4, 5), ignore_index=1),
    _softmax_case("sequences-soft", _soft, (3, 4, 5)),
    LossCase(
        "SigmoidWithLoss",
        xl.SigmoidWithLoss,
        (6, 5),
        _unit,
        lambda x, t: np.mean(_binary(x, t)),
        lambda torch, x, t: _functional(torch).binary_cross_entropy_with_logits(x, t),
    ),
    LossCase(
        "SigmoidWithLoss-weights",
        lambda: xl.SigmoidWithLoss(pos_weight=_WEIGHTS, reduction="sum"),
        (6, 5),
        _unit,
        lambda x, t: np.sum(_binary(x, t, np.asarray(_WEIGHTS))),
        lambda torch, x, t: _functional(torch).binary_cross_entropy_with_logits(
            x, t, pos_weight=torch.tensor(_WEIGHTS, dtype=x.dtype), reduction="sum"
        ),
    ),
    LossCase(
        "MeanSquaredError",
        xl.MeanSquaredError,
        (6, 5),
        _normal,
        lambda x, t: np.mean((x - t) ** 2),
        lambda torch, x, t: _functional(torch).mse_loss(x, t),
    ),
    LossCase(
        "MeanSquaredError-none",
        lambda: xl.MeanSquaredError(reduction="none"),
        (6, 5),
        _normal,
        lambda x, t: (x - t) ** 2,
        lambda torch, x, t: _functional(torch).mse_loss(x, t, reduction="none"),
    ),
    LossCase(
        "MeanAbsoluteError",
        xl.MeanAbsoluteError,
        (6, 5),
        _normal,
        lambda x, t: np.mean(_abs(x - t)),
        lambda torch, x, t: _functional(torch).l1_loss(x, t),
    ),
    LossCase(
        "Huber",
        lambda: xl.Huber(0.7, reduction="sum"),
        (6, 5),
        _normal,
        lambda x, t: np.sum(
            np.where(np.abs((x - t).real) <= 0.7, (x - t) ** 2 / 2, 0.7 * (_abs(x - t) - 0.7 / 2))
        ),
        lambda torch, x, t: _functional(torch).huber_loss(x, t, delta=0.7, reduction="sum"),
    ),
]


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
