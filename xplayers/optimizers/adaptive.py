"""Adaptive optimizers: AdaGrad, RMSprop, Adam and AdamW."""

from __future__ import annotations

import math
from typing import Any

from xplayers._checks import Option, flag, number
from xplayers.arrays.elementwise import elementwise
from xplayers.arrays.namespaces import Array
from xplayers.arrays.operation import operation
from xplayers.optimizers.base import Optimizer, Rate


class AdaGrad(Optimizer):
    """AdaGrad, ``h = h + g**2``; ``p = p - lr * g / (sqrt(h) + eps)``.

    `eps` is outside the root, as in the book and in PyTorch (whose default is 1e-10); Keras has it
    inside, and starts ``h`` at 0.1.

    Parameters
    ----------
    lr : float
        Learning rate.
    eps : float
        Added to the denominator.
    weight_decay : float
        Coefficient of the L2 penalty: adds ``weight_decay * p`` to ``g``.

    References
    ----------
    Duchi, Hazan, Singer, "Adaptive Subgradient Methods", JMLR 12, 2011.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> params, grads = {"W": np.asarray([1.0, 2.0])}, {"W": np.asarray([0.5, -4.0])}
    >>> optimizer = xl.AdaGrad(lr=0.1)
    >>> for _ in range(2):
    ...     optimizer.update(params, grads)
    >>> params["W"].round(4)
    array([0.8293, 2.1707])
    """

    moments = ("h",)
    eps = Option(number, least=0)

    @staticmethod
    def rule(xp, p, g, h, lr, eps):
        h = h + g * g
        return p - lr * g / (xp.sqrt(h) + eps), h

    def __init__(self, lr: Rate = 0.01, eps: float = 1e-7, weight_decay: float = 0.0) -> None:
        super().__init__(lr, weight_decay)
        self.eps = eps

    def constants(self, t: Array) -> tuple[Any, ...]:
        return (self.eps,)


class RMSprop(Optimizer):
    """RMSprop, ``h = rho * h + (1 - rho) * g**2``; ``p = p - lr * g / (sqrt(h) + eps)``.

    `eps` is outside the root, as in the book and in PyTorch; Keras has it inside.

    Parameters
    ----------
    lr : float
        Learning rate.
    decay_rate : float
        ``rho``, the decay rate of the mean square.
    eps : float
        Added to the denominator.
    weight_decay : float
        Coefficient of the L2 penalty: adds ``weight_decay * p`` to ``g``.

    References
    ----------
    Tieleman, Hinton, Coursera "Neural Networks for Machine Learning", lecture 6.5, 2012.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> params, grads = {"W": np.asarray([1.0, 2.0])}, {"W": np.asarray([0.5, -4.0])}
    >>> optimizer = xl.RMSprop(lr=0.1)
    >>> for _ in range(2):
    ...     optimizer.update(params, grads)
    >>> params["W"].round(4)
    array([-0.7089,  3.7089])
    """

    moments = ("h",)
    decay_rate = Option(number, least=0, below=1)
    eps = Option(number, least=0)

    @staticmethod
    def rule(xp, p, g, h, lr, decay_rate, rate, eps):
        h = decay_rate * h + rate * (g * g)
        return p - lr * g / (xp.sqrt(h) + eps), h

    def __init__(
        self,
        lr: Rate = 0.01,
        decay_rate: float = 0.99,
        eps: float = 1e-7,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(lr, weight_decay)
        self.decay_rate, self.eps = decay_rate, eps

    def _derived(self) -> dict[str, Any]:
        return {"_rest": 1.0 - self.decay_rate}

    def constants(self, t: Array) -> tuple[Any, ...]:
        return (self.decay_rate, self._derived()["_rest"], self.eps)


@elementwise
def _corrections(xp, t, log1, log2):
    # 1 - beta**t without cancellation
    root = xp.sqrt(-xp.expm1(t * log2))
    return root / -xp.expm1(t * log1), root


@operation
def corrections(t: Any, log1: float, log2: float) -> tuple[Any, Any]:
    """Return ``sqrt(1 - beta2**t) / (1 - beta1**t)`` and its numerator, from ``log(beta)``."""
    if isinstance(t, float):  # five times as fast as NumPy scalars
        return _corrections.function(math, t, log1, log2)
    return _corrections(t, log1, log2)


def _log(beta: float) -> float:
    return math.log(beta) if beta > 0 else -math.inf


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
        Decay rates of the mean and of the mean square of the gradients.
    eps : float
        Added to the denominator.
    eps_hat : bool
        Which of the two forms.
    weight_decay : float
        Coefficient of the L2 penalty: adds ``weight_decay * p`` to ``g``. `AdamW` decouples it.

    Notes
    -----
    The state is that of the paper: ``m``, ``v`` and ``count``, which is ``t``. PyTorch calls them
    ``exp_avg``, ``exp_avg_sq`` and ``step``. As there, ``m`` is computed as
    ``m + (1 - beta1) * (g - m)``.

    Libraries differ: the book and Keras compute the first form with ``eps=1e-7`` (the defaults
    here), PyTorch and Optax the second with ``eps=1e-8``. In the first steps the first form moves
    parameters with tiny gradients less: by 0.24 `lr` for ``g = 1e-6``, ``t = 1``.

    References
    ----------
    Kingma, Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> params, grads = {"W": np.asarray([1.0, 2.0])}, {"W": np.asarray([0.5, -4.0])}
    >>> optimizer = xl.Adam(lr=0.1)
    >>> for _ in range(2):
    ...     optimizer.update(params, grads)
    >>> params["W"].round(4)
    array([0.8, 2.2])
    """

    moments = ("m", "v")
    beta1 = Option(number, least=0, below=1)
    beta2 = Option(number, least=0, below=1)
    eps = Option(number, least=0)
    eps_hat = Option(flag)

    @staticmethod
    def rule(xp, p, g, m, v, lr, rate1, beta2, rate2, eps, correction):
        m = m + rate1 * (g - m)  # one product fewer than beta1 * m + rate1 * g
        v = beta2 * v + rate2 * g * g
        return p - (lr * correction) * (m / (xp.sqrt(v) + eps)), m, v

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
        self.beta1, self.beta2 = beta1, beta2
        self.eps, self.eps_hat = eps, eps_hat

    def _derived(self) -> dict[str, Any]:
        return {
            "_log1": _log(self.beta1),
            "_log2": _log(self.beta2),
            "_rate1": 1.0 - self.beta1,
            "_rate2": 1.0 - self.beta2,
        }

    def constants(self, t: Array) -> tuple[Any, ...]:
        derived = self._derived()
        correction, root = corrections(t, derived["_log1"], derived["_log2"])
        eps = self.eps if self.eps_hat else self.eps * root
        return (derived["_rate1"], self.beta2, derived["_rate2"], eps, correction)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_version": 2}

    def __setstate__(self, state: dict[str, Any]) -> None:
        version = (state := {**state}).pop("_version", 1)
        super().__setstate__(state)
        if self.state and version == 1:  # its state is m / (1 - beta1) and v / (1 - beta2)
            for m, beta in (("m", self.beta1), ("v", self.beta2)):
                self.state[m] = {name: a * (1.0 - beta) for name, a in self.state[m].items()}


class AdamW(Adam):
    """Adam with decoupled weight decay: ``p = p - lr * weight_decay * p`` before its step.

    Parameters
    ----------
    lr : float
        Learning rate.
    beta1, beta2 : float
        Decay rates of the mean and of the mean square of the gradients.
    eps : float
        Added to the denominator.
    eps_hat : bool
        As in `Adam`; PyTorch's AdamW is ``eps=1e-8, eps_hat=False``.
    weight_decay : float
        A step decays parameters by ``lr * weight_decay``, as in PyTorch and Keras (in the paper
        by ``weight_decay``).

    References
    ----------
    Loshchilov, Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, algorithm 2.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> params, grads = {"W": np.asarray([1.0, 2.0])}, {"W": np.asarray([0.5, -4.0])}
    >>> optimizer = xl.AdamW(lr=0.1, weight_decay=0.1)
    >>> for _ in range(2):
    ...     optimizer.update(params, grads)
    >>> params["W"].round(4)
    array([0.7811, 2.1592])
    """

    decoupled = True

    @staticmethod
    def rule(  # type: ignore[override]  # one argument more
        xp, p, g, m, v, lr, rate1, beta2, rate2, eps, correction, weight_decay
    ):
        p = p - (lr * weight_decay) * p
        return Adam.rule(xp, p, g, m, v, lr, rate1, beta2, rate2, eps, correction)

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
