"""Losses that are a function of each score and its target."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from xplayers import _checks as checks
from xplayers.arrays.checks import check_real, check_values
from xplayers.arrays.namespaces import Array, Namespace, namespace, on_host, size, upcast
from xplayers.layers.base import Cache
from xplayers.layers.variables import Buffer
from xplayers.losses.base import Loss, scale_gradient
from xplayers.losses.weights import chosen, divisor, spread, weighted


class Pointwise(Loss):
    """Base of losses that are a function of each score and its target; the mean is over all."""

    def value_and_derivative(
        self, xp: Namespace, arrays: Mapping[str, Array], x: Array, t: Array
    ) -> tuple[Array, Array]:
        """Return the loss of each score, and its derivative."""
        raise NotImplementedError

    def apply(
        self,
        arrays: Mapping[str, Array],
        scores: Array,
        target: Array,
        sample_weight: Array | None = None,
    ) -> tuple[Array, Cache]:
        xp = namespace(scores)
        if tuple(target.shape) != tuple(scores.shape):
            message = (
                f"{self}: target has shape {tuple(target.shape)}; expected {tuple(scores.shape)}, "
                "the shape of the scores."
            )
            raise ValueError(message)
        check_real(self, "target", target)
        x = upcast(xp, scores)
        t = xp.astype(target, x.dtype)
        if sample_weight is None:
            values, dx = self.value_and_derivative(xp, arrays, x, t)
            return self._reduced(values, max(size(x), 1)), (dx, scores)
        w = spread(self, sample_weight, x.shape, x.dtype)
        values, dx = self.value_and_derivative(xp, arrays, chosen(x, w), chosen(t, w))
        norm = divisor(w, size(x))
        return self._reduced(weighted(values, w), norm), (dx * w, scores, norm)

    def vjp(self, cache: Cache, dout: Any) -> Array:
        dx, scores, *norm = cache
        (norm,) = norm or [max(size(dx), 1)]
        return scale_gradient(dx, dout, self._divisor(norm), scores)


class SigmoidWithLoss(Pointwise):
    """Sigmoid and binary cross entropy in one, exact for scores of any size.

    Forward, for each score ``x`` and target ``t``: ``loss = -p * t * log(sigmoid(x)) -
    (1 - t) * log(1 - sigmoid(x))``, computed as ``p * t * softplus(-x) + (1 - t) * softplus(x)``.
    Backward: ``dx = (1 - t) * sigmoid(x) - p * t * sigmoid(-x)``, which is ``sigmoid(x) - t`` for
    ``p = 1``, divided by the number of values for the default reduction. Both keep full precision
    in the tails: at ``x = -20`` and ``t = 0`` they are 2.06e-9 in float32.

    Parameters
    ----------
    pos_weight : array or float or sequence of float, optional
        ``p``, the weight of positive targets, 0 or more; of a shape that broadcasts to the scores.
        Values of weight 0 contribute 0, whatever the score is.
    reduction : {"mean", "sum", "none"}
        As in `Loss`. The mean is over all values (*Deep Learning from Scratch 2* divides by the
        number of rows).

    Notes
    -----
    The target has the shape of the scores and values in ``[0, 1]``, in any dtype. On a GPU, where a
    check would synchronize, and inside ``jax.jit``, a value out of range makes the loss NaN.
    PyTorch calls this ``BCEWithLogitsLoss``.

    Raises
    ------
    ValueError
        If shapes, targets or options do not fit.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> loss = xl.SigmoidWithLoss()
    >>> float(loss.forward(np.asarray([0.0, 1000.0]), np.asarray([1.0, 1.0])).round(4))
    0.3466
    >>> loss.backward()
    array([-0.25,  0.  ])
    """

    pos_weight = Buffer()

    def __init__(
        self, pos_weight: Array | Sequence[float] | float | None = None, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction)
        self.pos_weight = self._weights("pos_weight", pos_weight, "a number, or one for each score")

    def check(self, scores: Array, target: Array) -> None:
        if on_host(target):
            check_values(self, "target", target, 0.0, 1.0, "probabilities, from 0 to 1")

    def value_and_derivative(
        self, xp: Namespace, arrays: Mapping[str, Array], x: Array, t: Array
    ) -> tuple[Array, Array]:
        p = arrays.get("pos_weight")
        valid = None if on_host(t) else (t >= 0) & (t <= 1)
        a, b, w = 1.0 - t, t, 1.0  # the weights of softplus(x) and softplus(-x), and their sum
        if p is not None:
            self._check_weight(p, x)
            b = xp.astype(p, x.dtype) * t
            w = a + b
            x = xp.where(w != 0, x, 0.0)  # weight 0 contributes 0, whatever the score is
        # softplus(x) = max(x, 0) + log1p(exp(-m)) with m = abs(x), so the loss is c * m + w *
        # log1p(exp(-m)) with the weight c of the larger softplus; differentiated by m, then by x.
        # No term is negative, and those of the derivative do not cancel where it is small.
        # Selected by factors of 0 and 1: where() of NumPy takes as long as five products.
        positive, m = xp.astype(x > 0, x.dtype), xp.abs(x)
        c = positive * a + (1.0 - positive) * b
        e = xp.exp(-m)
        values = c * xp.where(c != 0, m, 0.0) + w * xp.log1p(e)  # 0 * inf is 0 here
        dx = c - w * (e / (1.0 + e))
        if valid is not None:  # not checked on the host
            values = xp.where(valid, values, math.nan)
        return values, dx * (2.0 * positive - 1.0)

    def _check_weight(self, p: Array, x: Array) -> None:
        pairs = zip(reversed(p.shape), reversed(x.shape), strict=False)
        if len(p.shape) > len(x.shape) or any(a not in (1, b) for a, b in pairs):
            message = (
                f"{self}: pos_weight has shape {tuple(p.shape)}; expected one that broadcasts to "
                f"{tuple(x.shape)}, the shape of the scores."
            )
            raise ValueError(message)


class MeanSquaredError(Pointwise):
    """Mean of the squared differences, ``loss = mean((x - t)**2)``.

    Backward: ``dx = 2 * (x - t) / size``. The mean is over all values, as in PyTorch; the function
    of this name in *Deep Learning from Scratch* is ``sum((x - t)**2) / 2``.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        As in `Loss`.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> loss = xl.MeanSquaredError()
    >>> float(loss.forward(np.asarray([1.0, 5.0]), np.asarray([2.0, 3.0])))
    2.5
    >>> loss.backward()
    array([-1.,  2.])
    """

    def value_and_derivative(
        self, xp: Namespace, arrays: Mapping[str, Array], x: Array, t: Array
    ) -> tuple[Array, Array]:
        r = x - t
        return r * r, 2.0 * r


class MeanAbsoluteError(Pointwise):
    """Mean of the absolute differences, ``loss = mean(abs(x - t))``.

    Backward: ``dx = sign(x - t) / size``, 0 where they are equal.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        As in `Loss`.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> loss = xl.MeanAbsoluteError()
    >>> float(loss.forward(np.asarray([1.0, 5.0]), np.asarray([2.0, 3.0])))
    1.5
    >>> loss.backward()
    array([-0.5,  0.5])
    """

    def value_and_derivative(
        self, xp: Namespace, arrays: Mapping[str, Array], x: Array, t: Array
    ) -> tuple[Array, Array]:
        # not xp.sign: on CuPy it synchronizes
        return xp.abs(x - t), xp.astype(x > t, x.dtype) - xp.astype(x < t, x.dtype)


class Huber(Pointwise):
    """Huber loss: squared for small and absolute for large differences ``r = x - t``.

    Forward: ``loss = mean(r**2 / 2)`` where ``abs(r) <= delta``, else
    ``delta * (abs(r) - delta / 2)``. Backward: ``dx = max(min(r, delta), -delta) / size``.

    Parameters
    ----------
    delta : float
        The threshold between the two; positive.
    reduction : {"mean", "sum", "none"}
        As in `Loss`.

    Notes
    -----
    As PyTorch's ``HuberLoss``; its ``SmoothL1Loss`` is this divided by `delta`.

    References
    ----------
    Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical Statistics 35, 1964.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> loss = xl.Huber(delta=1.0)
    >>> float(loss.forward(np.asarray([1.5, 5.0]), np.asarray([2.0, 3.0])))
    0.8125
    >>> loss.backward()
    array([-0.25,  0.5 ])
    """

    def __init__(self, delta: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.delta = checks.positive(self, "delta", delta)

    def value_and_derivative(
        self, xp: Namespace, arrays: Mapping[str, Array], x: Array, t: Array
    ) -> tuple[Array, Array]:
        r = x - t
        size = xp.abs(r)
        q = xp.minimum(size, self.delta)
        return q * (size - 0.5 * q), xp.maximum(xp.minimum(r, self.delta), -self.delta)
