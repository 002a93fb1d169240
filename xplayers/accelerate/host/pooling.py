"""Gradients of poolings on NumPy, by kernels where there are such.

NumPy spends more time on where the elements of windows lie than on what is done with them. So they
are copied, axis by axis, until those at one place of all windows lie side by side; the arithmetic
runs over memory without gaps, and the gradient goes back the same way. It is done in blocks of
samples and channels that stay in the cache. That is for the largest values of windows side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from xplayers.accelerate.host import convolution
from xplayers.accelerate.host.kernels import pooling as kernels
from xplayers.accelerate.host.kernels.kernel import are_usable, laid
from xplayers.accelerate.host.memory import empty
from xplayers.accelerate.host.threads import share
from xplayers.layers.windows import Sizes, Window

# Of the input. Smaller blocks cost more calls, and threads wait longer for the interpreter.
BLOCK_BYTES = 1 << 20

_Part = tuple[slice, slice]  # of the samples and of their channels


def takes(x: Any, y: Any, dy: Any, window: Window) -> bool:
    """Whether the gradient has arrays and geometry: no padding, and no place in two windows."""
    beside = all(k <= s for k, s in zip(window.size, window.stride, strict=True))
    fits = y.shape == dy.shape and not any(map(any, window.padding))
    return beside and fits and convolution.takes(x, y, dy)


def max_pooling_gradient(
    x: np.ndarray, y: np.ndarray, dy: np.ndarray, window: Window, out: np.ndarray | None = None
) -> Any:
    """Return the gradient of `x`, where `y` are the largest values of its windows."""
    if _is_for_kernels(x, dy, window):
        dx, planes, windows = _planes_of(x, window, out)
        arrays = planes(x), planes(y), planes(dy), windows, planes(dx)
        kernels.max_pooling_gradient.share(*arrays, n=len(arrays[0]), size=arrays[0][0].size)
        return dx
    if not takes(x, y, dy, window):
        return NotImplemented
    dx = empty(x.shape, x.dtype) if out is None else out
    counts = zip(y.shape[2:], window.span, window.stride, strict=True)
    seen = tuple(s * (n - 1) + span for n, span, s in counts)
    inside = (..., *map(slice, seen))
    parts = _parts(x)

    def run(taken: Iterator[_Part]) -> None:
        block = _Block(y[parts[0]].shape, seen, window, x.dtype)
        for part in taken:
            if seen != x.shape[2:]:
                dx[part] = 0.0
            block.give(x[part][inside], y[part], dy[part], dx[part][inside])

    share(run, parts)
    return dx


def average_pooling_gradient(x: np.ndarray, dy: np.ndarray, window: Window) -> Any:
    """Return the gradient of `x`, where `dy` is that of the means of its windows."""
    if not _is_for_kernels(x, dy, window):
        return NotImplemented
    dx, planes, windows = _planes_of(x, window)
    arrays = planes(dy), windows, 1.0 / math.prod(window.size), planes(dx)
    kernels.average_pooling_gradient.share(*arrays, n=len(arrays[0]), size=arrays[-1][0].size)
    return dx


def _is_for_kernels(x: np.ndarray, dy: np.ndarray, window: Window) -> bool:
    fits = x.dtype == dy.dtype == np.float32 and window.axes <= 2 and dy.size > 0
    return fits and are_usable(x.size)


def _planes_of(
    x: np.ndarray, window: Window, out: np.ndarray | None = None
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray], np.ndarray]:
    """Return the memory of the gradient, arrays as planes, and windows as kernels take them."""
    dx = empty(x.shape, x.dtype) if out is None else out
    lead = 2 - window.axes  # a sequence is a plane of height 1

    def planes(a: np.ndarray) -> np.ndarray:
        return laid(a).reshape(-1, *(1,) * lead, *a.shape[2:])

    geometry = (window.size, window.stride, [before for before, _ in window.padding])
    return (
        dx,
        planes,
        np.asarray([(*(n,) * lead, *axes) for n, axes in zip((1, 1, 0), geometry, strict=True)]),
    )


def _parts(x: np.ndarray) -> list[_Part]:
    """Return the blocks: some samples, or some channels of one. The first is the largest."""
    n, c = x.shape[:2]
    many = max(1, BLOCK_BYTES // x[0, 0].nbytes)
    samples = max(1, many // c)
    return [
        (slice(i, i + samples), slice(j, j + many))
        for i in range(0, n, samples)
        for j in range(0, c, many)
    ]


class _Block:
    """Memory for one block after the other, in one thread, and what is done there."""

    def __init__(self, shape: Sizes, seen: Sizes, window: Window, dtype: Any) -> None:
        lead, outputs = shape[:2], shape[2:]
        self._window, self._outputs = window, outputs
        self._rest, self._won = np.empty(shape, dtype), np.empty(shape, np.bool_)
        # What all windows have at one place along the first axis, the first two and so on.
        ends = range(1, window.axes + 1)
        self._levels = [np.empty((*lead, *outputs[:i], *seen[i:]), dtype) for i in ends]

    def give(self, x: np.ndarray, y: np.ndarray, dy: np.ndarray, dx: np.ndarray) -> None:
        """Write the gradient of a block to `dx`."""
        n, c = x.shape[:2]
        rest, won = self._rest[:n, :c], self._won[:n, :c]
        levels = [level[:n, :c] for level in self._levels]
        np.copyto(rest, dy)  # rest: what no place has taken yet
        bits = f"i{rest.itemsize}"
        rest = rest.view(bits)
        places = math.prod(self._window.size)

        def descend(axis: int, x: np.ndarray, dx: np.ndarray) -> None:
            nonlocal places
            if axis == len(levels):
                places -= 1
                np.equal(x, y, out=won)
                # as integers: infinity times 0 and infinity less infinity are NaN
                dx_bits = dx.view(bits)
                np.multiply(rest, won, dx_bits)
                if places:  # that are still to come
                    np.subtract(rest, dx_bits, rest)
                return
            level = levels[axis]
            for offset in range(self._window.stride[axis]):
                where = self._along(axis, offset)
                if offset < self._window.size[axis]:
                    np.copyto(level, x[where])
                    descend(axis + 1, level, level)  # the values give way to their gradient
                    np.copyto(dx[where], level)
                else:  # a gap between windows
                    dx[where] = 0.0

        descend(0, x, dx)

    def _along(self, axis: int, offset: int) -> tuple[slice, ...]:
        """Return the index of what all windows have at `offset` along an axis."""
        step = self._window.stride[axis]
        stop = offset + step * (self._outputs[axis] - 1) + 1
        return (*(slice(None),) * (2 + axis), slice(offset, stop, step))
