"""Gradients of poolings of float32 planes, of any windows."""

from __future__ import annotations

import numpy as np

from xplayers.accelerate.host.kernels.kernel import kernel

# Of an unsigned index nobody asks whether it counts from the end.
u64, f32 = np.uint64, np.float32


def inside(at, size, stride, before, length):
    """Return from where to where window `at` covers an axis of this length."""
    first = at * stride - before
    return u64(max(first, 0)), u64(min(first + size, length))


@kernel(
    "const float32[3], const float32[3], const float32[3], const int64[2], float32[3], int64, int64"
)
def max_pooling_gradient(x, y, dy, windows, dx, start, stop):
    """Give each gradient to the first value of its window that is its largest.

    `windows` has sizes, strides and paddings of both axes.
    """
    height, width, columns = x.shape[1], x.shape[2], y.shape[2]
    lefts, rights = np.empty(columns, np.uint64), np.empty(columns, np.uint64)
    for j in range(columns):
        lefts[j], rights[j] = inside(j, windows[0, 1], windows[1, 1], windows[2, 1], width)
    for p in range(start, stop):
        dx[p] = f32(0.0)
        values, largest = x[p].reshape(-1), y[p].reshape(-1)
        grads, to, window, none = dy[p].reshape(-1), dx[p].reshape(-1), u64(0), u64(dx[p].size)
        for i in range(y.shape[1]):
            top, bottom = inside(i, windows[0, 0], windows[1, 0], windows[2, 0], height)
            for j in range(columns):
                winner, first = none, top * u64(width) + lefts[j]
                for _ in range(bottom - top):
                    for at in range(first, first + rights[j] - lefts[j]):
                        is_first = (winner == none) & (values[at] == largest[window])
                        winner = at if is_first else winner
                    first += u64(width)
                if winner != none:  # there is none beside NaN
                    before, grad = to[winner], grads[window]
                    to[winner] = grad if before == f32(0.0) else before + grad  # -0.0 too
                window += u64(1)


@kernel("const float32[3], const int64[2], float32, float32[3], int64, int64")
def average_pooling_gradient(dy, windows, scale, dx, start, stop):
    """Give each value of a window its gradient times `scale`."""
    height, width = dx.shape[1:]
    row = np.empty(width, np.float32)  # what a row of windows gives each of its rows of values
    for p in range(start, stop):
        dx[p] = f32(0.0)
        for i in range(dy.shape[1]):
            row[:] = f32(0.0)
            for j in range(dy.shape[2]):
                left, right = inside(j, windows[0, 1], windows[1, 1], windows[2, 1], width)
                each = dy[p, i, j] * scale
                for at in range(left, right):
                    row[at] += each
            top, bottom = inside(i, windows[0, 0], windows[1, 0], windows[2, 0], height)
            for k in range(top, bottom):
                to = dx[p, k]
                for at in range(len(row)):
                    to[at] += row[at]
