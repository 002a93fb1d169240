"""Mini-batches of arrays of any library."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from xplayers._calls import explained
from xplayers._checks import flag, generator, integer, processes
from xplayers.arrays.checks import check_real, check_same
from xplayers.arrays.namespaces import Array, device, namespace
from xplayers.arrays.operation import operation
from xplayers.arrays.transfer import asarray
from xplayers.initializers import Rng

__all__ = ["minibatches"]


@explained()
def minibatches(
    x: Array,
    t: Array,
    batch_size: int,
    rng: Rng = None,
    drop_last: bool = False,
    *,
    group: Any = None,
    sample_weight: Array | None = None,
) -> Iterator[tuple[Array, ...]]:
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
    group : Group, optional
        Of several processes (`xplayers.parallel`), each gets its part of every batch.
    sample_weight : array, optional
        The weight of each sample, as `TrainStep` and `Loss.forward` take it.

    Yields
    ------
    x, t : array
        New arrays, one batch of each; with `sample_weight` its part as the third.

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
    processes(owner, group)
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
    arrays = (x, t)
    if sample_weight is not None:
        check_same(owner, "sample_weight", sample_weight, x)
        check_real(owner, "sample_weight", sample_weight)
        if tuple(sample_weight.shape[:1]) != (n,):
            shape = tuple(sample_weight.shape)
            message = f"{owner}: x has {n} samples, sample_weight has shape {shape}."
            raise ValueError(message)
        arrays = (x, t, sample_weight)
    last = n - n % batch_size if drop_last else n
    return _batches(arrays, order, batch_size, last, group)


def part_of(group: Any, n: int) -> slice:
    """Return which of `n` samples a process of a group takes; without a group, all of them.

    The sizes of the parts differ by at most 1, and the first process has one of the largest.
    """
    rank, size = (0, 1) if group is None else (group.rank, group.size)
    return slice(-(-n * rank // size), -(-n * (rank + 1) // size))


def own_part(group: Any, *batch: Any) -> Any:
    """Return the part of a batch that a process of a group takes; what is None stays so."""
    part = part_of(group, batch[0].shape[0])
    return tuple(None if a is None else a[part, ...] for a in batch)


def _batches(
    arrays: tuple[Array, ...], order: Array, size: int, n: int, group: Any
) -> Iterator[tuple[Array, ...]]:
    for start in range(0, n, size):
        index = order[start : min(start + size, n)]
        if group is not None:
            index = index[part_of(group, index.shape[0])]
        yield tuple([samples(a, index) for a in arrays])


@operation
def samples(x: Array, index: Array) -> Array:
    """Return a new array of the samples with these indices."""
    return namespace(x).take(x, index, axis=0)
