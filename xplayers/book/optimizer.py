"""``common.optimizer``: of a dict of parameters, as in volume 1, or a list, as in volume 2."""

from __future__ import annotations

from typing import Any

import numpy as np

import xplayers as xl
from xplayers.book.device import entered, left, place
from xplayers.book.layers import as_type


class Optimizer:
    """An optimizer of xplayers behind the book's interface; `lr` may be set at any time."""

    optimizer: Any = None  # the class of xplayers

    def __init__(self, *args: float, **options: float) -> None:
        self._optimizer = self.optimizer(*args, **options)
        self.lr = self._optimizer.lr

    def update(self, params: Any, grads: Any) -> None:
        """Take a step, in place; numbers, as of two coordinates, are replaced."""
        keys = [*params] if hasattr(params, "keys") else range(len(params))
        at = place(*(params[k] for k in keys))
        arrays = {str(k): _array(params[k], at) for k in keys}
        after = dict(arrays)
        gradients = {str(k): _fitting(entered(grads[k], at), arrays[str(k)]) for k in keys}
        self._optimizer.update(after, gradients, lr=self.lr)
        for k in keys:
            if not hasattr(params[k], "shape") or isinstance(params[k], np.generic):
                params[k] = left(after[str(k)], at)
            elif after[str(k)] is not arrays[str(k)] or (isinstance(params[k], np.ndarray) and at):
                params[k][...] = left(after[str(k)], at)

    def __getattr__(self, name: str) -> Any:  # beta1 and its like
        return getattr(self._optimizer, name)


def _array(p: Any, at: Any) -> Any:
    return entered(p if hasattr(p, "shape") else float(p), at)


def _fitting(g: Any, p: Any) -> Any:
    """Return a gradient in the dtype and shape of its parameter, which may be ``(1, n)``."""
    return xl.namespace(p).reshape(as_type(g, p.dtype), p.shape)


SGD, Momentum, Nesterov, AdaGrad, RMSprop, Adam = (
    type(name, (Optimizer,), {"optimizer": getattr(xl, name)})
    for name in ("SGD", "Momentum", "Nesterov", "AdaGrad", "RMSprop", "Adam")
)
