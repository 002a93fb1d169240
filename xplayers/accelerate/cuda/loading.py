"""Batches of host arrays, brought to CuPy while others are computed with."""

from __future__ import annotations

import importlib
import itertools
from typing import Any

import numpy as np

from xplayers.data.loading import Loader


def loader(arrays: tuple[np.ndarray, ...], xp: Any, where: Any) -> Loader:
    """Return what takes samples out of host arrays, and brings them to a device."""
    cupy, cupyx = map(importlib.import_module, ("cupy", "cupyx"))
    return PinnedLoader(cupy, cupyx.empty_pinned, arrays, where)


class PinnedLoader(Loader):
    """Copies through pinned memory on a separate stream, for CuPy.

    The device arrays are allocated in the main thread on its stream, because CuPy reuses memory in
    the order of that stream.
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
            targets = tuple(self.xp.empty(shape, dtype) for shape, dtype in shapes)
            return index, targets, self.xp.cuda.get_current_stream().record()

    def load(self, request: Any) -> Any:
        index, targets, free = request
        buffer = next(self._buffers)
        with self.where:
            if buffer.copied is not None:
                buffer.copied.synchronize()  # before it is overwritten
            if not buffer.arrays:  # the first batch is the largest
                buffer.arrays = tuple(self._pinned(a.shape, a.dtype) for a in targets)
            self._stream.wait_event(free)
            for a, host, target in zip(self.arrays, buffer.arrays, targets, strict=True):
                part = host[: len(index)]
                if a.flags.c_contiguous and a.dtype == part.dtype:
                    # Indices are those of samples: to check them it would make a copy first.
                    np.take(a, index, axis=0, out=part, mode="clip")
                else:  # of which `take` would copy all
                    part[...] = a[index]
                target.set(part, stream=self._stream)
            buffer.copied = self._stream.record()
        return targets, buffer.copied

    def finish(self, loaded: Any) -> Any:
        targets, copied = loaded
        with self.where:
            self.xp.cuda.get_current_stream().wait_event(copied)
        return targets

    def close(self) -> None:
        self._stream.synchronize()  # memory of unused batches may be reused


class _Buffer:
    """Pinned memory for a batch, and the event after which it may be overwritten."""

    def __init__(self) -> None:
        self.arrays: tuple[np.ndarray, ...] = ()
        self.copied: Any = None
