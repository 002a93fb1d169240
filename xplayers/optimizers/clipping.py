"""Gradient clipping."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Mapping
from typing import Any

from xplayers._calls import explained
from xplayers._checks import instance, positive
from xplayers.arrays.checks import check_floating, check_same
from xplayers.arrays.elementwise import elementwise
from xplayers.arrays.namespaces import (
    Array,
    Namespace,
    dtype_is_half,
    dtype_name,
    is_half,
    namespace,
    size,
    upcast,
)
from xplayers.arrays.operation import operation
from xplayers.arrays.units import UNITS
from xplayers.optimizers.base import Arrays, as_scalar

# The smallest normal and the largest number of a dtype.
_LIMITS = {
    "float32": (2.0**-126, (2.0 - 2.0**-23) * 2.0**127),
    "float64": (2.0**-1022, (2.0 - 2.0**-52) * 2.0**1023),
}


@explained()
def clip_by_norm(grads: Arrays, limit: float) -> dict[str, Array]:
    """Scale all gradients by one factor so that their global norm is at most `limit`.

    ``norm = sqrt(sum of all g**2)``; each gradient becomes ``g * min(1, limit / norm)``.

    Parameters
    ----------
    grads : mapping of str to array
        Gradients by name. They are not changed.
    limit : float
        The maximum norm, positive. With infinity the results are copies.

    Returns
    -------
    dict of str to array
        New arrays by the same names. The norm stays on the device, and is correct even where its
        square overflows. Infinite gradients become NaN and the others 0, as in PyTorch; a NaN makes
        all NaN.

    Raises
    ------
    ValueError
        If `limit` is not positive.
    TypeError
        If `limit` is not a number.

    References
    ----------
    Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", ICML 2013,
    algorithm 1.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> grads = {"W": np.asarray([[3.0]]), "b": np.asarray([4.0])}
    >>> xl.clip_by_norm(grads, 1.0)
    {'W': array([[0.6]]), 'b': array([0.8])}
    """
    owner = "clip_by_norm"
    limit = positive(owner, "limit", limit, finite=False)
    if type(grads) is not dict:
        instance(owner, "grads", grads, Mapping, "arrays by name", hint="Pass net.grads.")
    if not grads:
        return {}
    first_name, first = next(iter(grads.items()))
    xp = namespace(first, owner, first_name)
    for name, g in grads.items():
        if type(g) is not type(first):
            check_same(owner, name, g, first, like_name=first_name)
        check_floating(owner, name, g)
    if limit == math.inf or not any(map(size, grads.values())):
        return {name: xp.asarray(g, copy=True) for name, g in grads.items()}
    total, *units = sum_of_squares(list(grads.values()))
    least, most = _LIMITS[dtype_name(total.dtype)]
    limit, factors = max(least, min(limit, most)), {}
    for dtype in {g.dtype: None for g in grads.values()}:
        wide = xp.float32 if dtype_is_half(dtype) else dtype
        cast = None if wide == total.dtype else wide
        factor = _factor(total, limit, *units, dtype=cast)
        factors[dtype] = as_scalar(factor, factor)
    rows = [(g, factors[g.dtype]) for g in grads.values()]
    return dict(zip(grads, _times.rows(rows), strict=True))


@elementwise
def _factor(xp: Namespace, total: Any, limit: float, *units: Any, dtype: Any = None) -> Any:
    # min(1, limit / norm), without a division by a norm of zero.
    norm = xp.sqrt(total)
    if units:
        norm, limit = norm / units[0], limit * units[1]
    factor = limit / xp.maximum(norm, limit)
    return factor if dtype is None else xp.astype(factor, dtype)


@elementwise
def _times(xp: Namespace, g: Array, factor: Any) -> Array:
    # The factor may underflow in 16 bits.
    return xp.astype(upcast(xp, g) * factor, g.dtype) if is_half(g) else g * factor


@operation
def sum_of_squares(arrays: list[Array]) -> tuple[Any, ...]:
    """Return the sum of the squares of all elements, in their widest dtype, at least float32.

    With it come two scales, ``up`` and ``down``: ``sqrt(sum) / up`` is the norm times ``down``,
    which is less than 1 where the norm may overflow. A body leaves them out where no square can.
    """
    xp = namespace(arrays[0])
    arrays = [upcast(xp, a) for a in arrays if size(a)]
    dtype = functools.reduce(xp.result_type, [a.dtype for a in arrays])
    arrays = [xp.astype(a, dtype, copy=False) for a in arrays]
    low, up, high, down = UNITS[dtype_name(dtype)]
    largest = functools.reduce(xp.maximum, map(xp.max, map(xp.abs, arrays)))
    one = xp.ones_like(largest)
    up, down = xp.where(largest < low, up, one), xp.where(largest > high, down, one)
    squares = (xp.square(a * (up * down)) for a in arrays)
    return functools.reduce(operator.add, map(xp.sum, squares)), up, down
