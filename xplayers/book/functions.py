"""``common.functions``, by the functions of xplayers: exact, and without overflow."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import xplayers as xl
from xplayers.book.device import entered, left, place
from xplayers.book.layers import floating


def _adapted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def adapted(x: Any) -> Any:
        at = place(x)
        return left(function(floating(entered(x, at))), at)

    adapted.__name__ = name
    adapted.__doc__ = f"Return `xplayers.functional.{function.__name__}` of `x`, in floats."
    return adapted


sigmoid = _adapted("sigmoid", xl.functional.sigmoid)
sigmoid_grad = _adapted("sigmoid_grad", xl.functional.sigmoid_derivative)
relu = _adapted("relu", xl.functional.relu)
relu_grad = _adapted("relu_grad", xl.functional.relu_derivative)  # at 0 it is 0, in the book 1
softmax = _adapted("softmax", xl.functional.softmax)


def cross_entropy_error(y: Any, t: Any) -> Any:
    """Return the mean cross entropy of probabilities `y`, with labels or one-hot targets `t`."""
    at = place(y, t)
    y, t = floating(entered(y, at)), entered(t, at)
    xp, shape = xl.namespace(y), tuple(y.shape)
    same = math.prod(t.shape) == math.prod(shape)
    return left(
        xl.functional.cross_entropy_error(y, xp.reshape(t, shape if same else shape[:-1])), at
    )
