"""Mini-batches of arrays of any library."""

from __future__ import annotations

from collections.abc import Iterator

from xplayers._checks import flag, generator, integer
from xplayers.arrays.checks import check_real, check_same
from xplayers.arrays.namespaces import Array, device, namespace
from xplayers.arrays.transfer import asarray
from xplayers.initializers import Rng

__all__ = ["minibatches"]


def minibatches(
    x: Array, t: Array, batch_size: int, rng: Rng = None, drop_last: bool = False
) -> Iterator[tuple[Array, Array]]:
    """Iterate once over the samples, without replacement.

    Parameters
    ----------
    x, t : array
        Samples and targets, of one library and device, with equal first axes.
    batch_size : int
        Samples per batch.
    rng : int, numpy.random.Generator or None
        Generator for shuffling; an int is a seed. None keeps the order. The order is drawn on the
        host, so it is the same on every library, and moved to the device once.
    drop_last : bool
        Whether to drop a smaller last batch.

    Yields
    ------
    x, t : array
        New arrays, one batch of each.

    Raises
    ------
    ValueError
        If the lengths differ or `batch_size` is not positive.
    TypeError
        If `x` and `t` are of different libraries or devices.

    Examples
    --------
    >>> import numpy as np
    >>> x, t = np.arange(10.0).reshape(5, 2), np.arange(5)
    >>> [labels.tolist() for _, labels in minibatches(x, t, 2)]
    [[0, 1], [2, 3], [4]]
    """
    owner = "minibatches"
    xp = namespace(x, owner)
    check_same(owner, "t", t, x)
    check_real(owner, "x", x)
    check_real(owner, "t", t)
    batch_size = integer(owner, "batch_size", batch_size, in_range="1 or more")
    drop_last = flag(owner, "drop_last", drop_last)
    rng = None if rng is None else generator(owner, "rng", rng)
    if not x.shape or not t.shape:
        message = (
            f"minibatches: x has shape {tuple(x.shape)}, t has shape {tuple(t.shape)}; "
            "expected an axis of samples."
        )
        raise ValueError(message)
    n = x.shape[0]
    if t.shape[0] != n:
        message = f"minibatches: x has {n} samples, t has {t.shape[0]}."
        raise ValueError(message)
    if rng is None:
        order = xp.arange(n, device=device(x))
    else:
        order = asarray(rng.permutation(n), x, xp.arange(0).dtype)
    return _batches(x, t, order, batch_size, n - n % batch_size if drop_last else n)


def _batches(x: Array, t: Array, order: Array, size: int, n: int) -> Iterator[tuple[Array, Array]]:
    xp = namespace(x)
    for start in range(0, n, size):
        index = order[start : min(start + size, n)]
        yield xp.take(x, index, axis=0), xp.take(t, index, axis=0)
