"""Mini-batches of data that stay on the host, or in files: `Batches`."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from xplayers._checks import flag, function, generator, integer
from xplayers.arrays.namespaces import (
    Array,
    as_namespace,
    check_real,
    device,
    library_name,
    namespace,
)
from xplayers.initializers import Rng

__all__ = ["Batches"]

AHEAD = 2  # batches that are under way while another is computed with

Pair = tuple[Array, Array]


class Batches:
    """Mini-batches of host arrays, brought to the device by a thread while the last ones are used.

    For data that the memory of the device does not hold, or no memory at all: of an array that
    ``numpy.load(file, mmap_mode="r")`` returns, only the samples of a batch are ever read.

    Parameters
    ----------
    x, t : numpy.ndarray
        Samples and targets, also memory-mapped; their first axes agree. They keep their dtypes
        (JAX: in its 32 bits).
    batch_size : int
        Samples in a batch.
    rng : int, numpy.random.Generator or None
        Shuffles, as in `minibatches`: the batches are the same, in the same order.
    like : array, optional
        Bring the batches to the library and device of this array.
    xp, device : module and device, optional
        In the place of `like`: the library, and a device of it. Without any they stay NumPy's.
    drop_last : bool
        Whether to leave out a last batch that is smaller.
    transform : callable, optional
        A function ``transform(x, rng)`` of the samples of a batch, on the device, and a NumPy
        generator, as `random_shift`; what it returns takes their place. The generator is that of
        the pass (None if `rng` is), so the same pass is the same twice.

    Raises
    ------
    TypeError
        If `x` or `t` is no NumPy array: for arrays on a device there is `minibatches`.
    ValueError
        If the lengths differ, or `batch_size` is not positive.

    See Also
    --------
    minibatches

    Notes
    -----
    ``for x, t in batches`` is one pass, in the order of ``minibatches(x, t, batch_size, rng)``.
    ``batches(epoch)`` is that of ``numpy.random.default_rng([rng, epoch])``: another order in each
    epoch, from the seed `rng` and its number alone. `Trainer.fit` calls it, so that with
    ``Batches(x, t, batch_size, rng=seed)`` it trains to the same bits as with arrays and ``seed``.

    Each pass has a thread of its own, which ends with it: after the last batch, at an error, or
    when the iterator is closed or dropped before. An error in the thread is raised in the loop. On
    CuPy the batches go through two buffers of page-locked memory and a stream of their own, so that
    copies and computation overlap.

    PyTorch's ``DataLoader`` reads sample by sample, in processes; here one thread takes a whole
    batch out of an array, which needs no copy of the interpreter and no pickling.

    Examples
    --------
    >>> import numpy as np
    >>> x, t = np.arange(10.0).reshape(5, 2), np.arange(5)
    >>> [labels.tolist() for _, labels in Batches(x, t, 2)]
    [[0, 1], [2, 3], [4]]
    """

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
    ) -> None:
        for name, a in (("x", x), ("t", t)):
            if not isinstance(a, np.ndarray):
                message = (
                    f"Batches: {name} is a {type(a).__name__}; expected a numpy.ndarray. "
                    "Arrays of other libraries are in their place already: use minibatches."
                )
                raise TypeError(message)
            namespace(a, "Batches", name)
            if a.dtype.kind not in "iufb" or a.dtype.isnative:  # batches have the bytes in order
                check_real("Batches", name, a)
        if x.shape[:1] != t.shape[:1] or not x.ndim:
            message = (
                f"Batches: x has shape {x.shape}, t has shape {t.shape}; expected as many targets "
                "as samples."
            )
            raise ValueError(message)
        batch_size = integer("Batches", "batch_size", batch_size, least=None)
        if batch_size < 1:
            message = f"Batches: batch_size is {batch_size}; expected 1 or more."
            raise ValueError(message)
        if rng is not None:
            generator("Batches", "rng", rng)
        if transform is not None:
            function("Batches", "transform", transform, "a function of a batch x and a generator")
        self.x, self.t, self.batch_size, self.rng = x, t, batch_size, rng
        self.drop_last, self.transform = flag("Batches", "drop_last", drop_last), transform
        self._xp, self._device = _place(like, xp, device)

    def __repr__(self) -> str:
        x, t = (f"{a.dtype.name} array of shape {a.shape}" for a in (self.x, self.t))
        order = "" if self.rng is None else f", rng={self.rng!r}"
        return f"Batches(<{x}>, <{t}>, {self.batch_size}{order})"

    def __len__(self) -> int:
        """Return the number of batches in a pass."""
        n = len(self.x)
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def __iter__(self) -> Iterator[Pair]:
        """Go once through the samples, in the order of `rng`."""
        return self._pass(None if self.rng is None else np.random.default_rng(self.rng))

    def __call__(self, epoch: int) -> Iterator[Pair]:
        """Go once through the samples, in the order of an epoch.

        Parameters
        ----------
        epoch : int
            Its number, from 0.

        Yields
        ------
        x, t : array
            New arrays, one batch of each.

        Raises
        ------
        TypeError
            If `rng` is a generator, whose state no number of an epoch tells.
        """
        if isinstance(self.rng, np.random.Generator):
            message = "Batches: rng is a Generator; the order of an epoch needs an integer, a seed."
            raise TypeError(message)
        return self._pass(None if self.rng is None else np.random.default_rng([self.rng, epoch]))

    def _pass(self, rng: np.random.Generator | None) -> Iterator[Pair]:
        n = len(self.x)
        order = np.arange(n) if rng is None else rng.permutation(n)
        # Not the generator itself: it goes on to the order of the next pass.
        own = rng.spawn(1)[0] if rng is not None and self.transform is not None else None
        parts = (order[i * self.batch_size :][: self.batch_size] for i in range(len(self)))
        for x, t in _brought(_loader((self.x, self.t), self._xp, self._device), parts):
            yield (x if self.transform is None else self.transform(x, own)), t


def _place(like: Array, xp: Any, where: Any) -> tuple[Any, Any]:
    if like is not None:
        return namespace(like, "Batches", "like"), device(like) if where is None else where
    return as_namespace(np if xp is None else xp), where


def _brought(loader: _Loader, parts: Iterator[np.ndarray]) -> Iterator[Pair]:
    """Yield the samples of each part, and have a thread load those after it meanwhile."""
    from concurrent.futures import Future, ThreadPoolExecutor  # which load a lot, as logging

    thread = ThreadPoolExecutor(1, thread_name_prefix="xplayers-batches")
    waiting: deque[Future[Any]] = deque()
    try:
        for part in parts:
            waiting.append(thread.submit(loader.load, loader.begin(part)))
            if len(waiting) > AHEAD:
                yield loader.finish(waiting.popleft().result())
        while waiting:
            yield loader.finish(waiting.popleft().result())
    finally:
        thread.shutdown(cancel_futures=True)
        loader.close()


class _Loader:
    """Takes samples out of host arrays, and brings them to a library and device."""

    def __init__(self, arrays: tuple[np.ndarray, ...], xp: Any, where: Any) -> None:
        self.arrays, self.xp, self.where = arrays, xp, where
        # JAX copies in the background by itself, and has settings (64 bits) of each thread.
        self.late = library_name(xp) == "jax"

    def begin(self, index: np.ndarray) -> Any:
        """Prepare, in the thread that computes; what is returned goes to `load`."""
        return index

    def load(self, begun: Any) -> Any:
        """Do the work, in the thread that loads; what is returned goes to `finish`."""
        loaded = tuple(_samples(a, begun) for a in self.arrays)
        return loaded if self.late else self._upload(loaded)

    def finish(self, loaded: Any) -> Any:
        """Return the batch, in the thread that computes."""
        return self._upload(loaded) if self.late else loaded

    def close(self) -> None:
        """Leave nothing under way."""

    def _upload(self, loaded: tuple[np.ndarray, ...]) -> tuple[Array, ...]:
        # No copy is asked for: nobody else has the memory.
        return tuple(self.xp.asarray(a, device=self.where) for a in loaded)


class _PinnedLoader(_Loader):
    """By way of page-locked memory and a stream of its own, on CuPy.

    The arrays on the device are made in the thread that computes and belong to its stream: CuPy
    gives their memory out again in the order of that stream.
    """

    def __init__(self, cupy: Any, pinned: Any, arrays: tuple[np.ndarray, ...], where: Any) -> None:
        super().__init__(arrays, cupy, cupy.cuda.Device() if where is None else where)
        with self.where:
            self._stream = cupy.cuda.Stream(non_blocking=True)
        self._pinned = pinned  # cupyx.empty_pinned
        self._buffers = itertools.cycle([_Buffer() for _ in range(2)])

    def begin(self, index: np.ndarray) -> Any:
        with self.where:
            shapes = [((len(index), *a.shape[1:]), a.dtype.newbyteorder("=")) for a in self.arrays]
            there = tuple(self.xp.empty(shape, dtype) for shape, dtype in shapes)
            return index, there, self.xp.cuda.get_current_stream().record()

    def load(self, begun: Any) -> Any:
        index, there, free = begun
        buffer = next(self._buffers)
        with self.where:
            if buffer.copied is not None:
                buffer.copied.synchronize()  # before it is overwritten
            if not buffer.arrays:  # the first batch is the largest
                buffer.arrays = tuple(self._pinned(a.shape, a.dtype) for a in there)
            self._stream.wait_event(free)
            for a, host, target in zip(self.arrays, buffer.arrays, there, strict=True):
                part = host[: len(index)]
                part[...] = a[index]
                target.set(part, stream=self._stream)
            buffer.copied = self._stream.record()
        return there, buffer.copied

    def finish(self, loaded: Any) -> Any:
        there, copied = loaded
        with self.where:
            self.xp.cuda.get_current_stream().wait_event(copied)
        return there

    def close(self) -> None:
        self._stream.synchronize()  # memory of batches that nobody took may be given out again


class _Buffer:
    """Page-locked memory for a batch, and the event after which it may be overwritten."""

    def __init__(self) -> None:
        self.arrays: tuple[np.ndarray, ...] = ()
        self.copied: Any = None


def _loader(arrays: tuple[np.ndarray, ...], xp: Any, where: Any) -> _Loader:
    if library_name(xp) != "cupy":
        return _Loader(arrays, xp, where)
    import cupy
    import cupyx

    return _PinnedLoader(cupy, cupyx.empty_pinned, arrays, where)


def _samples(a: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return samples in memory of their own.

    By indexing: `numpy.take` would first copy the whole of an array that is not in C order.
    """
    return np.asarray(a[index], dtype=a.dtype.newbyteorder("="))
