"""Convolution on NumPy.

Pure functions of arrays and the geometry. The batch goes through in blocks whose columns stay in
the cache, and the threads share out the blocks. The columns of a sample are copied in one call into
memory that is kept for the next block; where there is a bias it goes through the matrix product, as
a row of ones. 3x3 filters on many channels take `winograd`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from xplayers.accelerate.host import winograd
from xplayers.accelerate.host.memory import empty
from xplayers.accelerate.host.threads import in_runs, share
from xplayers.layers.windows import Sizes, Window

BLOCK_BYTES = 1 << 20  # of columns: half of a common second-level cache, in each thread

# Below about these the transformations of `winograd` cost more than they save.
CHANNELS = 16
TILES = 64
# Below that many outputs of a sample the products of each sample are small beside their sum.
POSITIONS = 64


def takes(*arrays: Any) -> bool:
    """Whether these functions compute with such arrays: NumPy's own, of float32 or float64."""
    dtype = arrays[0].dtype
    return all(type(a) is np.ndarray and a.dtype == dtype and a.size for a in arrays) and (
        dtype == np.float32 or dtype == np.float64
    )


def correlate(
    x: np.ndarray,
    W: np.ndarray,
    b: np.ndarray | None,
    window: Window,
    groups: int,
    out: np.ndarray | None = None,
) -> Any:
    """Return the convolution of `x` ``(n, c, *sizes)`` with `W` ``(f, c / groups, *size)``."""
    if not takes(x, W):
        return NotImplemented
    outputs, f = window.outputs(x.shape[2:]), W.shape[0]
    y = empty((x.shape[0], f, *outputs), x.dtype) if out is None else out
    if _tiled(window, groups, x.shape[1], f, x.shape[0] * math.prod(outputs)):
        winograd.correlate(x, W, b, window.padding, y)
        return y
    flat = y.reshape(x.shape[0], groups, f // groups, -1)
    columns = _Columns(x, window, groups, ones=b is not None)
    matrix = W.reshape(groups, f // groups, -1)
    if b is not None:
        b = b.reshape(groups, f // groups, 1)
        matrix = np.concatenate([matrix, b], axis=2)

    def run(parts: Iterator[slice]) -> None:
        block = columns.builder()
        for part in parts:
            np.matmul(matrix, block(part), out=flat[part])

    share(run, columns.parts)
    return y


def correlate_transposed(
    dy: np.ndarray,
    W: np.ndarray,
    b: np.ndarray | None,
    window: Window,
    groups: int,
    sizes: Sequence[int],
    out: np.ndarray | None = None,
) -> Any:
    """Return the transpose of `correlate` applied to `dy`, where `transposed` has the geometry.

    It is a convolution too: with the filters flipped, inputs and outputs exchanged. It does not pay
    if the columns of `dy` are too many.
    """
    back = transposed(window)
    if not takes(dy, W) or back is None:
        return NotImplemented
    f, each = W.shape[:2]
    positions = dy.shape[0] * math.prod(dy.shape[2:])
    if f > 2 * each * groups and not _tiled(window, groups, f, each * groups, positions):
        return NotImplemented
    W = W.reshape(groups, f // groups, each, *window.size).swapaxes(1, 2)
    W = np.flip(W, axis=tuple(range(3, W.ndim)))
    W = W.reshape(groups * each, f // groups, *window.size)
    return correlate(dy, W, b, back, groups, out)


def transposed(window: Window) -> Window | None:
    """Return the geometry of the convolution that is the transpose; None for longer strides."""
    if max(window.stride) > 1:
        return None
    reach = [span - 1 for span in window.span]
    around = tuple((r - p, r - q) for r, (p, q) in zip(reach, window.padding, strict=True))
    return None if min(map(min, around)) < 0 else window._replace(padding=around)


def filter_gradient(
    x: np.ndarray, dy: np.ndarray, shape: Sizes, window: Window, groups: int, bias: bool
) -> Any:
    """Return the gradient of `W` and, with `bias`, that of `b` in `correlate`, where that pays."""
    (n, c), f, positions = x.shape[:2], dy.shape[1], math.prod(dy.shape[2:])
    if not takes(x, dy):
        return NotImplemented
    if _tiled(window, groups, c, f, n * positions):
        dW, db = winograd.filter_grads(x, dy, window.padding)
        return (dW, db) if bias else dW
    if positions < POSITIONS:
        return NotImplemented
    columns = _Columns(x, window, groups, ones=bias)
    flat = dy.reshape(n, groups, f // groups, -1)
    runs = in_runs(columns.parts)
    sums = np.empty((len(runs), groups, f // groups, columns.depth), x.dtype)

    def run(taken: Iterator[int]) -> None:
        block = columns.builder()
        for i in taken:
            for j, part in enumerate(runs[i]):
                products = np.matmul(flat[part], block(part).swapaxes(2, 3))
                if j == 0:
                    np.add.reduce(products, axis=0, out=sums[i])
                else:
                    sums[i] += np.add.reduce(products, axis=0)

    share(run, range(len(runs)))
    total = np.add.reduce(sums, axis=0).reshape(f, -1)
    depth = columns.depth - bias
    dW = np.ascontiguousarray(total[:, :depth]).reshape(shape)
    return (dW, total[:, depth].copy()) if bias else dW


def _tiled(window: Window, groups: int, c: int, f: int, positions: int) -> bool:
    """Whether `winograd` has the geometry and pays."""
    return (
        window[:3] == ((3, 3), (1, 1), (1, 1))
        and groups == 1
        and min(c, f) >= CHANNELS
        and positions >= 4 * TILES
    )


class _Columns:
    """The windows of a batch as columns, block by block: ``(n, groups, depth, positions)``."""

    def __init__(self, x: np.ndarray, window: Window, groups: int, ones: bool) -> None:
        self._x, self._window, self._groups, self._ones = x, window, groups, ones
        outputs = window.outputs(x.shape[2:])
        inside = x.shape[1] // groups * math.prod(window.size)
        self.depth = inside + ones
        self._shape = (groups, self.depth, math.prod(outputs))
        self._split = (x.shape[1], *window.size, *outputs)
        n, each = x.shape[0], math.prod(self._shape) * x.itemsize
        self._many = min(n, max(1, BLOCK_BYTES // each))
        self.parts = [slice(i, min(i + self._many, n)) for i in range(0, n, self._many)]

    def builder(self) -> Callable[[slice], np.ndarray]:
        """Return a function from a part of the batch to its columns, for one thread."""
        x, window = self._x, self._window
        columns = empty((self._many, *self._shape), x.dtype)
        positions = columns[:, :, : self.depth - self._ones]
        if self._ones:
            columns[:, :, -1] = 1.0
        sizes = [s + sum(p) for s, p in zip(x.shape[2:], window.padding, strict=True)]
        around = np.zeros((self._many, x.shape[1], *sizes), x.dtype)
        inner = [slice(p, p + s) for s, (p, _) in zip(x.shape[2:], window.padding, strict=True)]
        inside = around[(..., *inner)]

        def block(part: slice) -> np.ndarray:
            n = part.stop - part.start
            np.copyto(inside[:n], x[part])
            windows = _windows(around[:n], window, self._split)
            windows = windows.reshape(n, self._groups, -1, *windows.shape[2:])
            to = positions[:n].reshape(windows.shape)
            np.copyto(to, windows)
            return columns[:n]

        return block


def _windows(x: np.ndarray, window: Window, shape: Sizes) -> np.ndarray:
    """Return a view of padded `x` of shape ``(n, c, *size, *outputs)``."""
    steps = x.strides[2:]
    inner = [step * d for step, d in zip(steps, window.dilation, strict=True)]
    outer = [step * s for step, s in zip(steps, window.stride, strict=True)]
    strides = (*x.strides[:2], *inner, *outer)
    return np.lib.stride_tricks.as_strided(x, (x.shape[0], *shape), strides, writeable=False)
