"""The formula of normalizations and its gradient.

With ``xh = (x - mean) * r``, ``r = 1 / sqrt(var + eps)`` and ``h`` the gradient of ``xh``,
``dx = r * (h - mean(h) - xh * mean(h * xh))``, the means over the normalized axes (Ioffe, Szegedy,
2015, section 3). The variance is the mean square of the centred values: the mean of the squares
minus the square of the mean suffers from cancellation where the mean is large. For 16-bit inputs
the statistics are float32.
"""

from __future__ import annotations

import math

from xplayers.arrays.checks import check_same
from xplayers.arrays.namespaces import Array, Namespace, dtype_name, either, namespace
from xplayers.arrays.operation import operation
from xplayers.arrays.units import UNITS
from xplayers.arrays.values import quiet

Axes = tuple[int, ...]


@operation
def normalized_channels(x: Array, eps: float) -> tuple[Array, Array, Array, Array]:
    """Return ``xh``, ``r``, mean and variance over all axes but 1; `x` is in at least float32.

    Of `x` ``(n, c, ...)``, ``xh`` has its shape, the others ``(1, c, 1, ...)``, all its dtype.
    Squares may overflow its dtype; then only the variance is infinite.
    """
    xp, axes = namespace(x), but_channels(x)
    _, _, _, down = UNITS[dtype_name(x.dtype)]

    def scaled(x: Array) -> Array:  # from x: a compiled step need not materialize xh
        xu = (x - mean) * down
        square = mean_over(xp, xu * xu, axes)
        # 0 only where `fits`, and then a library that differentiates this would get NaN.
        return xp.where(fits, r, down / xp.sqrt(xp.where(square > 0, square, 1.0)))

    with quiet(x):
        mean = mean_over(xp, x, axes)
        xh = x - mean
        var = mean_over(xp, xh * xh, axes)
        r, fits = 1.0 / xp.sqrt(var + eps), var < math.inf  # else eps is negligible
        r = either(xp, xp.all(fits), lambda x: r, scaled, x)
        return xh * r, r, mean, var


def but_channels(x: Array) -> Axes:
    """Return all axes but axis 1."""
    return (0, *range(2, len(x.shape)))


@operation
def normalized_rows(x: Array, axes: Axes, eps: float, centred: bool = True) -> tuple[Array, Array]:
    """Return ``xh`` and ``r`` over the last `axes`, of the mean square where not `centred`.

    `x` is in at least float32. ``xh`` has its shape, ``r`` 1 on these axes. Rows are scaled by
    powers of two first, so squares neither overflow nor underflow.
    """
    xp = namespace(x)
    low, up, high, down = UNITS[dtype_name(x.dtype)]
    unit = xp.ones_like(_first(x, axes))
    if centred:
        end = 2.0**1000 if dtype_name(x.dtype) == "float64" else 2.0**100
        # so that sums and differences do not overflow
        unit = xp.where(_largest(xp, x, axes) > end, 2.0**-30, unit)
        x = _less_mean(xp, x * unit, axes)
    largest = _largest(xp, x, axes)
    more = xp.where(largest > high, down, xp.ones_like(unit))
    if eps <= low**3:  # else squares that underflow are negligible beside it
        more = xp.where(largest < low, up, more)
    xh, unit = x * more, unit * more
    smallest = 2.0**-1022 if dtype_name(x.dtype) == "float64" else 2.0**-126
    square = mean_over(xp, xh * xh, axes) + eps * unit * unit
    r = 1.0 / xp.sqrt(xp.maximum(square, smallest))
    return xh * r, r * unit


def _less_mean(xp: Namespace, x: Array, axes: Axes) -> Array:
    """Return `x` minus its mean; one of its values is subtracted first, so equal ones become 0."""
    xh = x - _first(x, axes)
    xh -= mean_over(xp, xh, axes)
    return xh


def _first(x: Array, axes: Axes) -> Array:
    return x[(..., *[slice(0, 1) for _ in axes])]


def _largest(xp: Namespace, x: Array, axes: Axes) -> Array:
    return xp.max(xp.abs(x), axis=axes, keepdims=True)


@operation
def normalized_rows_gradient(
    h: Array, xh: Array, r: Array, axes: Axes, centred: bool = True
) -> Array:
    """Return the gradient of the input, for the gradient `h` of `xh` over the last `axes`.

    All are in at least float32; the result has the shape of `h`.
    """
    xp = namespace(h)
    along = xh * mean_over(xp, h * xh, axes)
    if centred:
        dx = h - mean_over(xp, h, axes)
        dx -= along
    else:
        dx = h - along
    dx *= r
    return dx


def mean_over(xp: Namespace, x: Array, axes: Axes) -> Array:
    """Return the mean over `axes`, with ``keepdims=True``; 0 for an empty batch."""
    n = math.prod([x.shape[a] for a in axes])  # a list, which torch.compile can follow
    return xp.sum(x, axis=axes, keepdims=True) / max(n, 1)


def check_pair(name: str, gamma: Array, beta: Array) -> None:
    """Check that beta has library, device, dtype and shape of gamma."""
    check_same(name, "beta", beta, gamma, like_name="gamma")
    if tuple(beta.shape) != tuple(gamma.shape) or beta.dtype != gamma.dtype:
        message = (
            f"{name}: beta is {beta.dtype} of shape {tuple(beta.shape)}; expected {gamma.dtype} of "
            f"shape {tuple(gamma.shape)}, as gamma."
        )
        raise ValueError(message)
