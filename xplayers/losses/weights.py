"""Weights of samples: a sample of weight 3 counts as three equal samples do."""

from __future__ import annotations

import functools
import inspect
import math
import sys
from typing import Any

from xplayers.arrays.checks import check_real, check_same, check_values
from xplayers.arrays.namespaces import Array, DType, namespace, on_host, size

_EXPECTED = "a number for each sample, none negative"


def takes(name: str, function: Any) -> bool:
    """Whether a function has an argument of this name; what cannot be asked may have any."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return True
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


_takes_weights = functools.lru_cache(functools.partial(takes, "sample_weight"))


def check_takes_weights(loss: Any) -> None:
    """Check that `apply` of a loss, which may be somebody's own, has a `sample_weight`."""
    if not _takes_weights(type(loss).apply):
        message = (
            f"{loss}: its apply takes no sample_weight. "
            "Define apply(self, arrays, scores, target, sample_weight=None)."
        )
        raise TypeError(message)


def check_weight_values(owner: object, weights: Array, like: Array, like_name: str = "x") -> None:
    """Check that weights are where `like` is, and numbers from 0, where that needs no transfer."""
    check_same(owner, "sample_weight", weights, like, like_name=like_name)
    if on_host(weights):
        check_values(owner, "sample_weight", weights, 0.0, sys.float_info.max, _EXPECTED)
    else:
        check_real(owner, "sample_weight", weights)


def check_weights(owner: object, weights: Array, x: Array) -> None:
    """Check weights of a whole data set: one for each sample of `x`, and not all 0."""
    check_weight_values(owner, weights, x)
    if tuple(weights.shape[:1]) != tuple(x.shape[:1]):
        message = (
            f"{owner}: sample_weight has shape {tuple(weights.shape)}; expected {_EXPECTED}, "
            f"({x.shape[0]},)."
        )
        raise ValueError(message)
    if on_host(weights) and size(weights) and not float(namespace(weights).max(weights)):
        message = f"{owner}: sample_weight is 0 for all samples; expected a positive one."
        raise ValueError(message)


def spread(owner: object, weights: Array, shape: tuple[int, ...], dtype: DType) -> Array:
    """Return weights in a dtype, with as many axes as the losses of the samples, of `shape`."""
    own, shape = tuple(weights.shape), tuple(shape)
    if not own or own != shape[: len(own)]:
        more = f" or {shape}" if len(shape) > 1 else ""
        message = f"{owner}: sample_weight has shape {own}; expected {shape[:1]}{more}."
        raise ValueError(message)
    xp = namespace(weights)
    weights = xp.astype(weights, dtype, copy=False)
    return xp.reshape(weights, (*own, *[1] * (len(shape) - len(own))))


def chosen(a: Array, weights: Array) -> Array:
    """Return `a`, with 0 for what has weight 0."""
    return namespace(a).where(weights != 0, a, 0.0)


def weighted(values: Array, weights: Array) -> Array:
    """Return the losses times the weights; NaN for a weight that is none, unchecked."""
    values = values * weights
    valid = None if on_host(weights) else weights >= 0
    return values if valid is None else namespace(values).where(valid, values, math.nan)


def divisor(weights: Array, count: int) -> Array:
    """Return the sum of the weights over `count` losses that share them evenly; 1 instead of 0."""
    xp = namespace(weights)
    total = xp.sum(weights) * (count / max(size(weights), 1))
    return total + xp.astype(total == 0, total.dtype)
