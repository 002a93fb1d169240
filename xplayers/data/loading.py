"""`Batches`: mini-batches of data on the host or in files, loaded in a background thread."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from xplayers._calls import explained
from xplayers._checks import flag, function, generator, integer, processes
from xplayers.arrays.checks import check_real
from xplayers.arrays.namespaces import Array, as_namespace, device, library_name, namespace
from xplayers.arrays.operation import table
from xplayers.data.batches import own_part, part_of
from xplayers.initializers import Rng

__all__ = ["Batches"]

AHEAD = 2  # number of prefetched batches

Batch = tuple[Array, ...]  # samples, targets, and weights if there are


class Batches:
    """Mini-batches of host arrays, prefetched to the device by a background thread.

    For data larger than the memory of the device or the host: of an array from
    ``numpy.load(file, mmap_mode="r")`` only the samples of a batch are read.

    Parameters
    ----------
    x, t : numpy.ndarray
        Samples and targets, which may be memory-mapped, with equal first axes. Dtypes are kept
        (JAX: without x64 in 32 bits).
    batch_size : int
        Samples per batch.
    rng : int, numpy.random.Generator or None
        Generator for shuffling, as in `minibatches`: the same batches in the same order.
    like : array, optional
        Move the batches to the library and device of this array.
    xp, device : module and device, optional
        Instead of `like`: the library, and a device of it. By default batches are NumPy arrays.
    drop_last : bool
        Whether to drop a smaller last batch.
    transform : callable, optional
        A function ``transform(x, rng)`` of the samples of a batch, on the device, and a NumPy
        generator, as `random_shift`; it returns the new samples. The generator belongs to the pass
        (None if `rng` is), so a pass is reproducible.
    group : Group, optional
        Of several processes (`xplayers.parallel`), each gets its part of every batch, and reads no
        other samples, unless there is a `transform`, which is of the whole batch.
    sample_weight : numpy.ndarray, optional
        The weight of each sample: batches are ``(x, t, sample_weight)``.

    Raises
    ------
    TypeError
        If `x` or `t` is not a NumPy array: use `minibatches` for arrays on a device.
    ValueError
        If the lengths differ, or `batch_size` is not positive.

    See Also
    --------
    minibatches

    Notes
    -----
    ``for x, t in batches`` is one pass, in the order of ``minibatches(x, t, batch_size, rng)``.
    ``batches(epoch)`` is that of ``numpy.random.default_rng([rng, epoch])``: another order in each
    epoch, which only depends on the seed `rng` and its number. `Trainer.fit` calls it, so that with
    ``Batches(x, t, batch_size, rng=seed)`` it gives the same bits as with arrays and ``seed``.

    On JAX, which itself computes in the background, batches of arrays in memory are loaded when
    they are asked for. Each other pass has its own thread, which ends with it: after the last
    batch, after an error, or when the iterator is closed or garbage-collected. An error in the
    thread is raised in the loop. On CuPy the batches are copied through two pinned buffers on a
    separate stream, so that copies and computation overlap.

    PyTorch's ``DataLoader`` reads samples in worker processes; here one thread indexes whole
    batches, without further interpreters and pickling.

    Examples
    --------
    >>> import numpy as np
    >>> x, t = np.arange(10.0).reshape(5, 2), np.arange(5)
    >>> [labels.tolist() for _, labels in Batches(x, t, 2)]
    [[0, 1], [2, 3], [4]]
    """

    @explained()
    def __init__(
        self,
        x: np.ndarray,
        t: np.ndarray,
        batch_size: int,
        rng: Rng = None,
        *,
        like: Array = None,
        xp: Any = None,
        device: Any = None,
        drop_last: bool = False,
        transform: Callable[[Array, np.random.Generator | None], Array] | None = None,
        group: Any = None,
        sample_weight: np.ndarray | None = None,
    ) -> None:
        arrays = {"x": x, "t": t}
        if sample_weight is not None:
            arrays["sample_weight"] = sample_weight
        for name, a in arrays.items():
            if not isinstance(a, np.ndarray):
                message = (
                    f"Batches: {name} is a {type(a).__name__}; expected a numpy.ndarray. "
                    "For arrays of other libraries use minibatches."
                )
                raise TypeError(message)
            namespace(a, "Batches", name)
            if a.dtype.kind not in "iufb" or a.dtype.isnative:  # batches are in native byte order
                check_real("Batches", name, a)
        if x.shape[:1] != t.shape[:1] or not x.ndim:
            message = (
                f"Batches: x has shape {x.shape}, t has shape {t.shape}; expected as many targets "
                "as samples."
            )
            raise ValueError(message)
        if sample_weight is not None and sample_weight.shape[:1] != x.shape[:1]:
            message = (
                f"Batches: x has {len(x)} samples, sample_weight has shape {sample_weight.shape}."
            )
            raise ValueError(message)
        batch_size = integer("Batches", "batch_size", batch_size, in_range="1 or more")
        if rng is not None:
            generator("Batches", "rng", rng)
        if transform is not None:
            function("Batches", "transform", transform, "a function of a batch x and a generator")
        self.x, self.t, self.batch_size, self.rng = x, t, batch_size, rng
        self.sample_weight = sample_weight
        self.drop_last, self.transform = flag("Batches", "drop_last", drop_last), transform
        self._xp, self._device = _target(like, xp, device)
        self.group = processes("Batches", group)

    def __repr__(self) -> str:
        x, t = (f"{a.dtype.name} array of shape {a.shape}" for a in (self.x, self.t))
        order = "" if self.rng is None else f", rng={self.rng!r}"
        return f"Batches(<{x}>, <{t}>, {self.batch_size}{order})"

    def __len__(self) -> int:
        """Return the number of batches in a pass."""
        n = len(self.x)
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Iterate once over the samples, in the order of `rng`."""
        return self._pass(None if self.rng is None else np.random.default_rng(self.rng))

    def __call__(self, epoch: int) -> Iterator[Batch]:
        """Iterate once over the samples, in the order of an epoch.

        Parameters
        ----------
        epoch : int
            The number of the epoch, from 0.

        Yields
        ------
        x, t : array
            New arrays, one batch of each.

        Raises
        ------
        TypeError
            If `rng` is a generator instead of a seed.
        """
        if isinstance(self.rng, np.random.Generator):
            message = "Batches: rng is a Generator; the order of an epoch needs an integer, a seed."
            raise TypeError(message)
        return self._pass(None if self.rng is None else np.random.default_rng([self.rng, epoch]))

    def _of(self, group: Any) -> Batches:
        """Return the same for another group; None: the whole batches."""
        other = copy.copy(self)
        other.group = group
        return other

    def _pass(self, rng: np.random.Generator | None) -> Iterator[Batch]:
        n = len(self.x)
        order = np.arange(n) if rng is None else rng.permutation(n)
        # Not the generator itself, which draws the order of the next pass.
        own = rng.spawn(1)[0] if rng is not None and self.transform is not None else None
        parts = (order[i * self.batch_size :][: self.batch_size] for i in range(len(self)))
        if self.group is not None and self.transform is None:
            parts = (rows[part_of(self.group, len(rows))] for rows in parts)
        make = table(library_name(self._xp), "FACTORIES").get("loader", Loader)
        arrays = (self.x, self.t)
        if self.sample_weight is not None:
            arrays = (*arrays, self.sample_weight)
        for batch in _prefetched(make(arrays, self._xp, self._device), parts):
            if self.transform is not None:
                batch = self.transform(batch[0], own), *batch[1:]
                if self.group is not None:
                    batch = own_part(self.group, *batch)
            yield batch


def _target(like: Array, xp: Any, where: Any) -> tuple[Any, Any]:
    if like is not None:
        return namespace(like, "Batches", "like"), device(like) if where is None else where
    return as_namespace(np if xp is None else xp), where


def _prefetched(loader: Loader, parts: Iterator[np.ndarray]) -> Iterator[Batch]:
    """Yield the samples of each part, while a thread loads the next ones."""
    if not loader.in_background:
        try:
            yield from map(loader.finish, map(loader.load, map(loader.begin, parts)))
        finally:
            loader.close()
        return
    from concurrent.futures import Future, ThreadPoolExecutor  # on demand: imports logging

    thread = ThreadPoolExecutor(1, thread_name_prefix="xplayers-batches")
    pending: deque[Future[Any]] = deque()
    try:
        for part in parts:
            pending.append(thread.submit(loader.load, loader.begin(part)))
            if len(pending) > AHEAD:
                yield loader.finish(pending.popleft().result())
        while pending:
            yield loader.finish(pending.popleft().result())
    finally:
        thread.shutdown(cancel_futures=True)
        loader.close()


class Loader:
    """Loads samples of host arrays to a library and device."""

    in_background = True  # by a thread

    def __init__(self, arrays: tuple[np.ndarray, ...], xp: Any, where: Any) -> None:
        self.arrays, self.xp, self.where = arrays, xp, where

    def begin(self, index: np.ndarray) -> Any:
        """Prepare a batch, in the main thread; the result is the argument of `load`."""
        return index

    def load(self, request: Any) -> Any:
        """Load a batch, in the background thread; the result is the argument of `finish`."""
        return self._upload(self._taken(request))

    def finish(self, loaded: Any) -> Any:
        """Return the batch, in the main thread."""
        return loaded

    def close(self) -> None:
        """Wait for pending copies."""

    def _taken(self, index: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(_samples(a, index) for a in self.arrays)

    def _upload(self, loaded: tuple[np.ndarray, ...]) -> tuple[Array, ...]:
        # Without a copy: the memory is not shared.
        return tuple(self.xp.asarray(a, device=self.where) for a in loaded)


def _samples(a: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return a copy of samples.

    By indexing: `numpy.take` would first copy all of an array that is not C-contiguous.
    """
    return np.asarray(a[index], dtype=a.dtype.newbyteorder("="))
