"""Losses that compare each score with its target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xplayers._arrays import Array, Namespace, namespace, size, widened
from xplayers.layers.base import Cache
from xplayers.layers.stores import Buffer
from xplayers.losses.base import Loss, times


class _OfEachValue(Loss):
    """Base of losses that compare each score with its target; the mean is over all values."""

    def loss(self, xp: Namespace, arrays: Mapping[str, Array], x: Array, t: Array) -> Array:
        raise NotImplementedError

    def slope(self, xp: Namespace, arrays: Mapping[str, Array], x: Array, t: Array) -> Array:
        raise NotImplementedError

    def apply(
        self, arrays: Mapping[str, Array], scores: Array, target: Array
    ) -> tuple[Array, Cache]:
        xp = namespace(scores)
        if tuple(target.shape) != tuple(scores.shape):
            message = (
                f"{self}: target has shape {tuple(target.shape)}; expected {tuple(scores.shape)}, "
                "the shape of the scores."
            )
            raise ValueError(message)
        x = widened(xp, scores)
        t = xp.astype(target, x.dtype)
        values, dx = self.loss(xp, arrays, x, t), self.slope(xp, arrays, x, t)
        return self._reduced(xp, values, max(size(x), 1)), (dx, scores)

    def vjp(self, cache: Cache, dout: Any) -> Array:
        dx, scores = cache
        return times(dx, dout, self._divisor(max(size(dx), 1)), scores)


class SigmoidWithLoss(_OfEachValue):
    """Sigmoid and binary cross entropy in one, exact for scores of any size.

    Forward, for each score ``x`` and target ``t``: ``loss = -p * t * log(sigmoid(x)) -
    (1 - t) * log(1 - sigmoid(x))``, computed as ``(1 - t) * x + (1 + (p - 1) * t) * softplus(-x)``.
    Backward: ``dx = (1 - t) - (1 + (p - 1) * t) * sigmoid(-x)``, which is ``sigmoid(x) - t`` for
    ``p = 1``, divided by the number of values for the default reduction.

    Parameters
    ----------
    pos_weight : array or float or sequence of float, optional
        ``p``, the weight of positive targets; of a shape that broadcasts to the scores.
    reduction : {"mean", "sum", "none"}
        As in `Loss`. The mean is over all values (*Deep Learning from Scratch 2* divides by the
        number of rows).

    Notes
    -----
    The target has the shape of the scores and values in ``[0, 1]``, in any dtype. PyTorch calls
    this ``BCEWithLogitsLoss``.
    """

    pos_weight = Buffer()

    def __init__(
        self, pos_weight: Array | Sequence[float] | float | None = None, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction)
        self.pos_weight = self._constant(pos_weight)

    def loss(self, xp: Namespace, arrays: Mapping[str, Array], x: Array, t: Array) -> Array:
        softplus = xp.maximum(-x, 0.0) + xp.log1p(xp.exp(-xp.abs(x)))  # of -x
        return (1.0 - t) * x + self._weight(xp, arrays, t) * softplus

    def slope(self, xp: Namespace, arrays: Mapping[str, Array], x: Array, t: Array) -> Array:
        # sigmoid(-x) = exp(-softplus(x)); both exponents are at most 0
        complement = xp.exp(xp.minimum(-x, 0.0)) / (1.0 + xp.exp(-xp.abs(x)))
        return (1.0 - t) - self._weight(xp, arrays, t) * complement

    def _weight(self, xp: Namespace, arrays: Mapping[str, Array], t: Array) -> Any:
        p = arrays.get("pos_weight")
        return 1.0 if p is None else 1.0 + (xp.astype(p, t.dtype) - 1.0) * t


class MeanSquaredError(_OfEachValue):
    """Mean of the squared differences, ``loss = mean((x - t)**2)``.

    Backward: ``dx = 2 * (x - t) / size``. The mean is over all values, as in PyTorch; the function
    of this name in *Deep Learning from Scratch* is ``sum((x - t)**2) / 2``.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        As in `Loss`.
    """

    def loss(self, xp: Namespace, arrays: Mapping[str, Array], x: Array, t: Array) -> Array:
        r = x - t
        return r * r

    def slope(self, xp: Namespace, arrays: Mapping[str, Array], x: Array, t: Array) -> Array:
        return 2.0 * (x - t)


class MeanAbsoluteError(_OfEachValue):
    """Mean of the absolute differences, ``loss = mean(abs(x - t))``.

    Backward: ``dx = sign(x - t) / size``, 0 where they are equal.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        As in `Loss`.
    """

    def loss(self, xp: Namespace, arrays: Mapping[str, Array], x: Array, t: Array) -> Array:
        return xp.abs(x - t)

    def slope(self, xp: Namespace, arrays: Mapping[str, Array], x: Array, t: Array) -> Array:
        # not xp.sign: on CuPy it waits for the device
        return xp.astype(x > t, x.dtype) - xp.astype(x < t, x.dtype)


class Huber(_OfEachValue):
    """Squared for small and absolute for large differences ``r = x - t``.

    Forward: ``loss = mean(r**2 / 2)`` where ``abs(r) <= delta``, else
    ``delta * (abs(r) - delta / 2)``. Backward: ``dx = max(min(r, delta), -delta) / size``.

    Parameters
    ----------
    delta : float
        Where the two meet; positive.
    reduction : {"mean", "sum", "none"}
        As in `Loss`.

    Notes
    -----
    As PyTorch's ``HuberLoss``; its ``SmoothL1Loss`` is this divided by `delta`.

    References
    ----------
    Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical Statistics 35, 1964.
    """

    def __init__(self, delta: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        if not delta > 0:
            message = f"{self}: delta is {delta}; expected a positive number."
            raise ValueError(message)
        self.delta = float(delta)

    def loss(self, xp: Namespace, arrays: Mapping[str, Array], x: Array, t: Array) -> Array:
        r = xp.abs(x - t)
        q = xp.minimum(r, self.delta)
        return q * (r - 0.5 * q)

    def slope(self, xp: Namespace, arrays: Mapping[str, Array], x: Array, t: Array) -> Array:
        return xp.maximum(xp.minimum(x - t, self.delta), -self.delta)
