"""The table of losses, each with an independent reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import references as ref

import xplayers as xl


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
        torch_options = {torch_names.get(k, k): v for k, v in options.items()}
        if "weight" in torch_options:
            torch_options["weight"] = torch.tensor(torch_options["weight"], dtype=x.dtype)
        channels_second = torch.movedim(x, -1, 1)
        t = torch.movedim(t.to(x.dtype), -1, 1) if t.ndim == x.ndim else t
        return ref.functional(torch).cross_entropy(channels_second, t, **torch_options)

    return LossCase(
        f"SoftmaxWithLoss-{id}",
        lambda: xl.SoftmaxWithLoss(**options),
        shape,
        target,
        lambda x, t: _cross_entropy(x, t, **{names.get(k, k): v for k, v in options.items()}),
        torch_loss,
    )


def _binary(x: Any, t: np.ndarray, p: Any = 1.0) -> Any:
    return p * t * ref.softplus(-x) + (1 - t) * ref.softplus(x)


def _abs(r: Any) -> Any:
    return ref.where(r, r, -r)


LOSSES = [
    _softmax_case("labels", _labels),
    _softmax_case("one-hot", _one_hot),
    _softmax_case("soft", _soft),
    _softmax_case("sum", _labels, reduction="sum"),
    _softmax_case("none", _labels, reduction="none"),
    _softmax_case("none-soft", _soft, reduction="none"),
    _softmax_case("weights", _labels, class_weights=_WEIGHTS),
    _softmax_case("weights-soft", _soft, class_weights=_WEIGHTS),
    _softmax_case("ignore", _labels, ignore_index=0),
    _softmax_case("smoothing", _labels, label_smoothing=0.1),
    _softmax_case("smoothing-soft", _soft, label_smoothing=0.1),
    _softmax_case(
        "everything", _labels, class_weights=_WEIGHTS, ignore_index=0, label_smoothing=0.2
    ),
    _softmax_case(
        "everything-none",
        _labels,
        class_weights=_WEIGHTS,
        ignore_index=0,
        label_smoothing=0.2,
        reduction="none",
    ),
    _softmax_case("sequences", _labels, (3, 4, 5)),
    _softmax_case("sequences-weights", _labels, (3, 4, 5), class_weights=_WEIGHTS, ignore_index=1),
    _softmax_case("sequences-soft", _soft, (3, 4, 5)),
    LossCase(
        "SigmoidWithLoss",
        xl.SigmoidWithLoss,
        (6, 5),
        _unit,
        lambda x, t: np.mean(_binary(x, t)),
        lambda torch, x, t: ref.functional(torch).binary_cross_entropy_with_logits(x, t),
    ),
    LossCase(
        "SigmoidWithLoss-weights",
        lambda: xl.SigmoidWithLoss(pos_weight=_WEIGHTS, reduction="sum"),
        (6, 5),
        _unit,
        lambda x, t: np.sum(_binary(x, t, np.asarray(_WEIGHTS))),
        lambda torch, x, t: ref.functional(torch).binary_cross_entropy_with_logits(
            x, t, pos_weight=torch.tensor(_WEIGHTS, dtype=x.dtype), reduction="sum"
        ),
    ),
    LossCase(
        "MeanSquaredError",
        xl.MeanSquaredError,
        (6, 5),
        _normal,
        lambda x, t: np.mean((x - t) ** 2),
        lambda torch, x, t: ref.functional(torch).mse_loss(x, t),
    ),
    LossCase(
        "MeanSquaredError-none",
        lambda: xl.MeanSquaredError(reduction="none"),
        (6, 5),
        _normal,
        lambda x, t: (x - t) ** 2,
        lambda torch, x, t: ref.functional(torch).mse_loss(x, t, reduction="none"),
    ),
    LossCase(
        "MeanAbsoluteError",
        xl.MeanAbsoluteError,
        (6, 5),
        _normal,
        lambda x, t: np.mean(_abs(x - t)),
        lambda torch, x, t: ref.functional(torch).l1_loss(x, t),
    ),
    LossCase(
        "Huber",
        lambda: xl.Huber(0.7, reduction="sum"),
        (6, 5),
        _normal,
        lambda x, t: np.sum(
            np.where(np.abs((x - t).real) <= 0.7, (x - t) ** 2 / 2, 0.7 * (_abs(x - t) - 0.7 / 2))
        ),
        lambda torch, x, t: ref.functional(torch).huber_loss(x, t, delta=0.7, reduction="sum"),
    ),
]
