"""Convolution with 3x3 filters on NumPy: Winograd's F(2, 3), along the height.

Two outputs, one above the other, come from four inputs, d0 to d3. In another basis it takes four
products with a filter and not six: those of ``d0 - d2``, ``d1 + d2``, ``d2 - d1`` and ``d1 - d3``
with ``g0``, ``(g0 + g1 + g2) / 2``, ``(g0 - g1 + g2) / 2`` and ``g2``; the outputs are the sum of
the first three, and the second minus the last two. Here each of them is a row with its channels, so
the products are matrix products; the transformations need additions only. (The same along the width
would save more products, and cost more time in additions than they take.)

Everything happens in blocks of samples and pairs of rows, which the threads share out. In a block
the channels are the last axis and the columns the one before, so the three columns that a filter
sees are neighbours in memory: nothing is copied for them. Sums of blocks are added up in a fixed
order, so results do not depend on the number of threads.

Winograd, *Arithmetic Complexity of Computations*, 1980; Lavin, Gray, "Fast Algorithms for
Convolutional Neural Networks", CVPR 2016. The gradient of the filters is the transpose, F(3, 2).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import as_strided

from xplayers.accelerate.host.memory import empty
from xplayers.accelerate.host.threads import in_runs, share

# Bytes of the transformed inputs and products of a block: they should stay in the cache,
# but each call of NumPy should take long beside the time that threads lose in handing over the
# interpreter lock.
BLOCK_BYTES = 3 << 19
# Multiplications in a matrix product that OpenBLAS does at once: in the calling thread and, with
# AVX-512, without packing. Larger ones wait for each other and for the threads of OpenBLAS.
SMALL_PRODUCT = 1_000_000
ROWS = 16  # of a matrix product, at most; measured

Padding: TypeAlias = "tuple[tuple[int, int], ...]"  # before and after, of both axes


class _Part(NamedTuple):
    """A block: which samples, and which pairs of rows of the output."""

    n: slice
    t: slice


def _parts(n: int, height: int, each: int) -> list[_Part]:
    """Return the blocks of a batch; a pair of rows takes `each` bytes.

    Where that can be it is an even number of them, for two threads.
    """
    pairs = -(-height // 2)
    fit = max(1, BLOCK_BYTES // each)
    high, many = min(pairs, fit), max(1, fit // pairs)
    if high == pairs and many < n:
        blocks = -(-n // many)
        many = -(-n // (blocks + blocks % 2))
    return [
        _Part(slice(i, min(i + many, n)), slice(t, min(t + high, pairs)))
        for i in range(0, n, many)
        for t in range(0, pairs, high)
    ]


def correlate(
    x: np.ndarray, W: np.ndarray, b: np.ndarray | None, padding: Padding, y: np.ndarray
) -> None:
    """Write the convolution of `x` ``(n, c, h, w)`` with filters `W` ``(f, c, 3, 3)`` to `y`."""
    c, (n, f, height, width) = x.shape[1], y.shape
    filters = _filters(W)

    def run(parts: Iterator[_Part]) -> None:
        memory = _Memory(x.dtype)
        for part in parts:
            v = _inputs(memory, x, padding, width, part)
            many, rows = part.n.stop - part.n.start, part.t.stop - part.t.start
            m = memory("m", (4, many, rows, width, f))
            high = _rows(many * rows)
            plane, step = v.strides[:2]
            row = step * (width + 2)
            windows = as_strided(  # for each column: some rows, with the columns that it sees
                v,
                (4, many * rows // high, width, high, 3 * c),
                (plane, high * row, step, row, v.itemsize),
            )
            out = m.reshape(4, -1, high, width, f).swapaxes(2, 3)
            np.matmul(windows, filters[:, None, None, :, :], out=out)
            if b is not None:
                m[1] += b  # it is part of both outputs, once
            _outputs(m, y, part)

    share(run, _parts(n, height, 4 * (width + 2) * (c + f) * x.itemsize))


def filter_grads(x: np.ndarray, dy: np.ndarray, padding: Padding) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradients of `W` and `b` in `correlate`."""
    c, (n, f, height, width) = x.shape[1], dy.shape
    parts = _parts(n, height, 4 * (width + 2) * (c + f) * x.itemsize)
    runs = in_runs(parts)
    products = empty((len(runs), 4, 3, c, f), x.dtype)
    biases = np.empty((len(runs), f), x.dtype)

    def run(taken: Iterator[int]) -> None:
        memory = _Memory(x.dtype)
        for i in taken:
            for j, part in enumerate(runs[i]):
                v = _inputs(memory, x, padding, width, part)
                q = _gradients(memory, dy, part)
                lines = (part.n.stop - part.n.start) * (part.t.stop - part.t.start)
                rows = (width + 2) * _divisor(lines, SMALL_PRODUCT // (c * f * (width + 2)))
                q = q.reshape(4, -1, rows, f)
                plane, step = v.strides[:2]
                shape = (4, 3, q.shape[1], c, rows)
                strides = (plane, step, rows * step, v.itemsize, step)
                sums = memory("sums", (4, 3, q.shape[1], c, f))
                np.matmul(as_strided(v, shape, strides), q[:, None, :, :, :], out=sums)
                bias = np.add.reduce(q[1].reshape(-1, f), axis=0)  # plane 1 is the sum of both
                if j == 0:
                    np.add.reduce(sums, axis=2, out=products[i])
                    biases[i] = bias
                else:
                    products[i] += np.add.reduce(sums, axis=2)
                    biases[i] += bias

    share(run, range(len(runs)))
    return _filter_sums(np.add.reduce(products, axis=0)), np.add.reduce(biases, axis=0)


class _Memory:
    """Scratch memory of one thread: an array by name, made again when its shape changes."""

    def __init__(self, dtype: Any) -> None:
        self._dtype = dtype
        self._arrays: dict[str, np.ndarray] = {}

    def __call__(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        a = self._arrays.get(name)
        if a is None or a.shape != shape:
            a = self._arrays[name] = empty(shape, self._dtype)
        return a


def _rows(lines: int) -> int:
    """Return how many rows a product gets: windows side by side then find theirs in the cache."""
    rows = _divisor(lines, ROWS)
    return rows if 4 * rows >= ROWS else lines


def _divisor(n: int, most: int) -> int:
    """Return the largest divisor of `n` up to `most`, at least 1."""
    return max(d for d in range(1, max(1, min(n, most)) + 1) if n % d == 0)


def _inputs(
    memory: _Memory, x: np.ndarray, padding: Padding, width: int, part: _Part
) -> np.ndarray:
    """Return the transformed rows of a block, (4, samples * pairs of rows * columns + 2, c)."""
    pairs = part.t.stop - part.t.start
    x = x[part.n]
    n, c = x.shape[:2]
    d = memory("d", (2, n, pairs + 1, width + 2, c))
    _fill(d, x, 2 * part.t.start - padding[0][0], -padding[1][0])
    positions = n * pairs * (width + 2)
    v = memory("v", (4, positions + 2, c))
    v[:, positions:] = 0.0  # a window of the last columns ends here
    out = v[:, :positions].reshape(4, n, -1)
    above, below = d[:, :, :-1].reshape(2, n, -1), d[:, :, 1:].reshape(2, n, -1)
    np.subtract(above, below, out=out[::3])
    np.add(above[1], below[0], out=out[1])
    np.subtract(below[0], above[1], out=out[2])
    return v


def _fill(d: np.ndarray, x: np.ndarray, top: int, left: int) -> None:
    """Write `x` from row `top` and column `left` on, zeros around it; even rows, then odd ones."""
    height, width = x.shape[2:]
    _, _, pairs, wide, _ = d.shape
    if top < 0 or left < 0 or height < top + 2 * pairs or width < left + wide:
        d.fill(0.0)
    skip, begin = max(0, -left), max(0, left)
    stop = min(width, left + wide)
    for odd in (0, 1):
        first = top + odd
        above = max(0, -(first // 2))  # pairs of rows before the first row of x
        rows = range(first + 2 * above, min(height, top + 2 * pairs), 2)
        if rows and begin < stop:
            from_x = x[:, :, rows.start : rows.stop : 2, begin:stop].transpose(0, 2, 3, 1)
            to = d[odd, :, above : above + len(rows), skip : skip + stop - begin]
            np.copyto(to, from_x)


def _outputs(m: np.ndarray, y: np.ndarray, part: _Part) -> None:
    """Write the outputs of a block into `y`; `m` is overwritten."""
    m[0] += m[1]
    m[0] += m[2]
    m[1] -= m[2]
    m[1] -= m[3]
    for odd in (0, 1):
        to = y[part.n, :, 2 * part.t.start + odd : 2 * part.t.stop : 2]
        np.copyto(to, m[odd, :, : to.shape[2]].transpose(0, 3, 1, 2))


def _gradients(memory: _Memory, dy: np.ndarray, part: _Part) -> np.ndarray:
    """Return for the outputs e0 and e1 of each pair: e0, e0 + e1, e0 - e1 and e1."""
    dy = dy[part.n]
    n, f, _, width = dy.shape
    q = memory("q", (4, n, part.t.stop - part.t.start, width + 2, f))
    _fill(q[::3], dy, 2 * part.t.start, 0)
    np.add(q[0], q[3], out=q[1])
    np.subtract(q[0], q[3], out=q[2])
    return q


def _filters(W: np.ndarray) -> np.ndarray:
    """Return filters (f, c, 3, 3) transformed, as 4 matrices (3 * c, f)."""
    f, c = W.shape[:2]
    g0, g1, g2 = np.ascontiguousarray(W.transpose(2, 3, 1, 0))
    outer, inner = (g0 + g2) * 0.5, g1 * 0.5
    return np.stack([g0, outer + inner, outer - inner, g2]).reshape(4, 3 * c, f)


def _filter_sums(p: np.ndarray) -> np.ndarray:
    """Return sums (4, 3, c, f) transformed back, as filters (f, c, 3, 3).

    The last output counts negatively in the last product, which `_gradients` leaves out.
    """
    half = (p[1] + p[2]) * 0.5
    g = np.stack([p[0] + half, (p[1] - p[2]) * 0.5, half - p[3]])
    return np.ascontiguousarray(g.transpose(3, 2, 0, 1))
