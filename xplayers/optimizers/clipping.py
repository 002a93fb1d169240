"""Limits for gradients, before an optimizer takes them."""

from __future__ import annotations

from typing import Any

from xplayers._arrays import Array, namespace, widened
from xplayers.optimizers.base import Arrays, as_scalar


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
    if not limit > 0:
        message = f"clip_by_norm: limit is {limit}; expected a positive number."
        raise ValueError(message)
    if not grads:
        return {}
    xp = namespace(next(iter(grads.values())))
    wide = [widened(xp, g) for g in grads.values()]
    total: Any = sum(xp.sum(g * g) for g in wide)
    # The tiny number keeps 0 / 0 away; min(1, limit / norm) without a division by a zero norm.
    factor = limit / xp.maximum(xp.sqrt(total), limit)
    return {name: g * as_scalar(factor, g) for name, g in grads.items()}
