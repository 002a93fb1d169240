"""Activations of NumPy arrays: by a kernel where there is one, and ReLU with a mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from xplayers import functional
from xplayers.accelerate.host.kernels import exponentials as kernels
from xplayers.accelerate.host.kernels.kernel import laid
from xplayers.accelerate.host.memory import SMALLEST, empty
from xplayers.accelerate.host.softmax import is_for_kernels
from xplayers.arrays.elementwise import elementwise


def relu_and_sign(x: np.ndarray) -> Any:
    """Return ReLU, and what tells where it is positive: a mask of a large array, else itself.

    Of a mask backward reads a byte for each element.
    """
    if x.nbytes >= SMALLEST:
        return relu_and_mask(x)
    if type(x) is not np.ndarray or x.dtype.char not in "fd" or functional.relu.compiled:
        return NotImplemented
    y = np.maximum(x, 0)
    return y, y


@elementwise
def relu_and_mask(xp, x):
    """ReLU, and where it is positive."""
    y = xp.maximum(x, 0)
    return y, y > 0


def sigmoid(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return the logistic sigmoid, in `out` if that is given."""
    y = empty(x.shape, x.dtype) if out is None else out
    kernels.sigmoid.share(laid(x).reshape(-1), y.reshape(-1), n=x.size, size=1)
    return y


def kernel_of(function: Any, x: Any, out: Any = None) -> Callable[..., Any] | None:
    """Return what computes an elementwise function of such an array by a kernel; None: nothing."""
    body = _KERNELS.get(function)
    if body is None or type(x) is not np.ndarray or not is_for_kernels(x):
        return None
    fits = out is None or (type(out) is np.ndarray and out.dtype == x.dtype and out.flags.carray)
    return body if fits else None


_KERNELS: dict[Any, Callable[..., Any]] = {functional.sigmoid: sigmoid}
