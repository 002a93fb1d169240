"""Limits for gradients, before an optimizer takes them."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from xplayers._arrays import Array, Namespace, check_floating, check_same, namespace, widened
from xplayers._checks import instance, positive
from xplayers._recording import StandIn, whole
from xplayers.cuda.switch import is_fused
from xplayers.elementwise import elementwise
from xplayers.optimizers.base import Arrays, as_scalar

# Elements in one product of BLAS. That has no temporary array, but adds up long sums, which round
# more than NumPy's by halves; so it gets parts of the arrays.
PART = 1 << 17


def clip_by_norm(grads: Arrays, limit: float) -> dict[str, Array]:
    """Scale all gradients by one factor so that their common norm is at most `limit`.

    ``norm = sqrt(sum of all g**2)``; each gradient becomes ``g * min(1, limit / norm)``.

    Parameters
    ----------
    grads : mapping of str to array
        Gradients by name. They are not changed.
    limit : float
        The largest norm, positive.

    Returns
    -------
    dict of str to array
        New arrays by the same names. The norm stays on the device; a gradient that is not finite
        makes the results 0 or NaN.

    Raises
    ------
    ValueError
        If `limit` is not positive.

    References
    ----------
    Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", ICML 2013,
    algorithm 1.
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
    total = _sum_of_squares(xp, list(grads.values()))
    factor = _factor.if_fused(total, limit)
    factors = {g.dtype: as_scalar(factor, g) for g in grads.values()}
    rows = [(g, factors[g.dtype]) for g in grads.values()]
    # In a recording, and within `fused`, all of them become one call.
    one_call = isinstance(total, StandIn) or is_fused(xp)
    results = _times.rows(rows) if one_call else itertools.starmap(operator.mul, rows)
    return dict(zip(grads, results, strict=True))


@elementwise
def _factor(xp: Namespace, total: Any, limit: float) -> Any:
    # min(1, limit / norm), without a division by a norm of zero.
    return limit / xp.maximum(xp.sqrt(total), limit)


@elementwise
def _times(xp: Namespace, g: Array, factor: Any) -> Array:
    return g * factor


@whole
def _sum_of_squares(xp: Namespace, arrays: list[Array]) -> Any:
    """Return the sum of the squares of all elements, in the dtype of the arrays or float32."""
    if is_fused(xp):
        from xplayers.cuda import gradients

        total = gradients.sum_of_squares(arrays)
        if total is not None:
            return total
    arrays = [widened(xp, a) for a in arrays]
    if all(type(a) is np.ndarray for a in arrays):
        flat = (a.reshape(-1) for a in arrays)
        parts = (a[i : i + PART] for a in flat for i in range(0, a.size, PART))
        sums = [np.dot(part, part) for part in parts]
        return np.add.reduce(np.asarray(sums, np.result_type(*arrays)))
    return sum(xp.sum(a * a) for a in arrays)
