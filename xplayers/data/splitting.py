"""Splitting samples into a training part and one that is held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xplayers._calls import explained
from xplayers._checks import flag, generator, number
from xplayers.arrays.checks import check_real, check_same
from xplayers.arrays.namespaces import Array, is_integer, namespace
from xplayers.arrays.transfer import asarray
from xplayers.initializers import Rng

__all__ = ["split"]


@explained()
def split(
    x: Array, t: Array, held_out: float = 0.2, rng: Rng = 0, *, stratify: bool = False
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Split samples at random into a training part and one that is held out.

    Parameters
    ----------
    x, t : array
        Samples and targets, of one library and device, with equal first axes.
    held_out : float
        The fraction to hold out, between 0 and 1: ``floor(held_out * n)`` samples, at least one.
    rng : int, numpy.random.Generator or None
        Generator of the order; an int is a seed, None takes a fresh one. The order is drawn on the
        host, so it is the same on every library.
    stratify : bool
        Whether each class has the same fraction in both parts, up to one sample; `t` are integer
        labels ``(n,)``.

    Returns
    -------
    (x_train, t_train), (x_test, t_test) : tuple of tuple of array
        New arrays, each part in the order of the samples.

    Raises
    ------
    ValueError
        If the lengths differ, `held_out` is not between 0 and 1, or there are fewer than two
        samples.
    TypeError
        If `x` and `t` are of different libraries or devices, or labels to stratify by are not
        integers.

    Notes
    -----
    scikit-learn's ``train_test_split`` returns ``x_train, x_test, t_train, t_test``.

    Examples
    --------
    >>> import numpy as np
    >>> x, t = np.arange(10.0)[:, None], np.asarray([0] * 5 + [1] * 5)
    >>> (x_train, t_train), (x_test, t_test) = split(x, t, 0.4, rng=1, stratify=True)
    >>> t_train.tolist(), t_test.tolist()
    ([0, 0, 0, 1, 1, 1], [0, 0, 1, 1])
    """
    rng, stratify = generator("split", "rng", rng), flag("split", "stratify", stratify)
    rest, test = divided("split", (x, t), held_out, rng, stratify=stratify)
    return (rest[0], rest[1]), (test[0], test[1])


def divided(
    owner: str,
    arrays: Sequence[Array],
    held_out: Any,
    rng: np.random.Generator,
    *,
    name: str = "held_out",
    stratify: bool = False,
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Return two parts of samples, targets, and what else has as many rows."""
    x, t = arrays[:2]
    xp = namespace(x, owner)
    check_same(owner, "t", t, x)
    check_real(owner, "x", x)
    check_real(owner, "t", t)
    held_out = number(owner, name, held_out, above=0.0, below=1.0)
    shapes = tuple(x.shape), tuple(t.shape)
    if not all(shapes) or shapes[0][0] != shapes[1][0]:
        message = (
            f"{owner}: x has shape {shapes[0]}, t has shape {shapes[1]}; expected samples along "
            "the first axis, and as many targets."
        )
        raise ValueError(message)
    n = shapes[0][0]
    if n < 2:
        message = f"{owner}: x has shape {shapes[0]}; expected two samples or more."
        raise ValueError(message)
    order = asarray(rng.permutation(n), x, xp.arange(0).dtype)
    if stratify:
        if len(shapes[1]) != 1 or not is_integer(t):
            message = f"{owner}: t is {t.dtype} of shape {shapes[1]}; expected integer labels (n,)."
            raise TypeError(message)
        order = xp.take(order, xp.argsort(xp.take(t, order), stable=True))
    # Evenly spaced in the order, so that each class, which is a run in it, has its part of them.
    count = np.floor(held_out * np.arange(n + 1) + 1e-9)
    count[-1] = max(count[-1], 1)
    parts = np.diff(count) > 0

    def taken(rows: np.ndarray) -> tuple[Array, ...]:
        index = xp.sort(xp.take(order, asarray(rows, x, order.dtype)))
        return tuple([xp.take(a, index, axis=0) for a in arrays])

    return taken(np.flatnonzero(~parts)), taken(np.flatnonzero(parts))
