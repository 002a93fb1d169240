"""Stochastic gradient descent, plain, with momentum, and Nesterov's."""

from __future__ import annotations

from typing import Any

from xplayers._checks import Option, number
from xplayers.arrays.namespaces import Array
from xplayers.optimizers.base import Optimizer, Rate


class SGD(Optimizer):
    """Stochastic gradient descent, ``p = p - lr * g``.

    Parameters
    ----------
    lr : float
        Learning rate.
    weight_decay : float
        Coefficient of the L2 penalty: adds ``weight_decay * p`` to ``g``.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> params, grads = {"W": np.asarray([1.0, 2.0])}, {"W": np.asarray([0.5, -4.0])}
    >>> optimizer = xl.SGD(lr=0.1)
    >>> for _ in range(2):
    ...     optimizer.update(params, grads)
    >>> params["W"].round(4)
    array([0.9, 2.8])
    """

    @staticmethod
    def rule(xp, p, g, lr):
        return (p - lr * g,)


class Momentum(Optimizer):
    """Gradient descent with momentum, ``v = momentum * v - lr * g``; ``p = p + v``.

    The velocity includes the learning rate, as in the book and in Keras. PyTorch's
    ``v = momentum * v + g``; ``p = p - lr * v`` is equivalent while `lr` is constant.

    Parameters
    ----------
    lr : float
        Learning rate.
    momentum : float
        Factor of the velocity.
    weight_decay : float
        Coefficient of the L2 penalty: adds ``weight_decay * p`` to ``g``.

    References
    ----------
    Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> params, grads = {"W": np.asarray([1.0, 2.0])}, {"W": np.asarray([0.5, -4.0])}
    >>> optimizer = xl.Momentum(lr=0.1, momentum=0.9)
    >>> for _ in range(2):
    ...     optimizer.update(params, grads)
    >>> params["W"].round(4)
    array([0.855, 3.16 ])
    """

    moments = ("v",)
    momentum = Option(number, least=0, below=1)

    @staticmethod
    def rule(xp, p, g, v, lr, momentum):
        v = momentum * v - lr * g
        return p + v, v

    def __init__(self, lr: Rate = 0.01, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        super().__init__(lr, weight_decay)
        self.momentum = momentum

    def constants(self, t: Array) -> tuple[Any, ...]:
        return (self.momentum,)


class Nesterov(Momentum):
    """Nesterov's momentum, ``v = momentum * v - lr * g``; ``p = p + momentum * v - lr * g``.

    The gradient is that at the look-ahead point, which is stored as ``p``: the form of
    Bengio, Boulanger-Lewandowski, Pascanu, "Advances in optimizing recurrent networks", ICASSP
    2013, equations 6 and 7, and of the book, PyTorch and Keras.

    Parameters
    ----------
    lr : float
        Learning rate.
    momentum : float
        Factor of the velocity.
    weight_decay : float
        Coefficient of the L2 penalty: adds ``weight_decay * p`` to ``g``.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> params, grads = {"W": np.asarray([1.0, 2.0])}, {"W": np.asarray([0.5, -4.0])}
    >>> optimizer = xl.Nesterov(lr=0.1, momentum=0.9)
    >>> for _ in range(2):
    ...     optimizer.update(params, grads)
    >>> params["W"].round(4)
    array([0.7695, 3.844 ])
    """

    @staticmethod
    def rule(xp, p, g, v, lr, momentum):
        v = momentum * v - lr * g
        return p + (momentum * v - lr * g), v
