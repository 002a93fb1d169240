"""The bodies of PyTorch: its own convolution, and NumPy's on the CPU where PyTorch takes longer.

A convolution is to images what a matrix product is to vectors: PyTorch has one for each of its
devices, and its two gradients. What is done here is to say which.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from xplayers.accelerate.host import embedding, normalization, pooling, softmax, sums
from xplayers.arrays.elementwise import as_given, seen_now
from xplayers.arrays.namespaces import Array
from xplayers.arrays.operation import portable_body
from xplayers.layers import normalization as portable
from xplayers.layers.windows import Sizes, Window

LARGEST = 16_384  # scores, up to which NumPy is faster than PyTorch and its threads; measured


def correlate(x: Array, W: Array, b: Array, window: Window, groups: int) -> Any:
    """Return the convolution of `x` ``(n, c, *sizes)`` with `W` ``(f, c / groups, *size)``."""
    if not x.numel():
        return NotImplemented
    from torch.nn import functional

    x, padding = _padded(x, window)
    convolution = getattr(functional, f"conv{window.axes}d")
    return convolution(x, W, b, window.stride, padding, window.dilation, groups)


def correlate_transposed(
    dy: Array, W: Array, b: Array, window: Window, groups: int, sizes: Sequence[int]
) -> Any:
    """Return the transpose of `correlate` applied to `dy`: an array of those sizes."""
    if not dy.numel():
        return NotImplemented
    padding, around = _symmetric(window)
    padded = [n + sum(p) for n, p in zip(sizes, around, strict=True)]
    x = dy.new_empty(1).expand(dy.shape[0], W.shape[1] * groups, *padded)  # for its shape
    dx = _gradients(dy, x, W, None, window, padding, groups, (True, False, False))[0]
    inner = (slice(p, p + n) for (p, _), n in zip(around, sizes, strict=True))
    dx = dx[(..., *inner)]
    return dx if b is None else dx + b.reshape(-1, *[1] * window.axes)


def filter_gradient(
    x: Array, dy: Array, shape: Sizes, window: Window, groups: int, bias: bool
) -> Any:
    """Return the gradient of `W` and, with `bias`, that of `b` in `correlate`."""
    if not x.numel() or not dy.numel():
        return NotImplemented
    x, padding = _padded(x, window)
    W, ends = x.new_empty(1).expand(shape), [shape[0]] if bias else None  # for their shapes
    _, dW, db = _gradients(dy, x, W, ends, window, padding, groups, (False, True, bias))
    return (dW, db) if bias else dW


def _gradients(
    dy: Array,
    x: Array,
    W: Array,
    ends: list[int] | None,
    window: Window,
    padding: Sizes,
    groups: int,
    wanted: tuple[bool, bool, bool],
) -> Any:
    """Return the gradients of input, filters and bias, as far as they are wanted."""
    torch: Any = sys.modules["torch"]
    zeros = [0] * window.axes
    return torch.ops.aten.convolution_backward(
        dy, x, W, ends, window.stride, padding, window.dilation, False, zeros, groups, wanted
    )


def _symmetric(window: Window) -> tuple[Sizes, list[tuple[int, int]]]:
    """Return the padding that PyTorch does, alike at both ends of an axis, and that around it."""
    if all(before == after for before, after in window.padding):
        return tuple(before for before, _ in window.padding), [(0, 0)] * window.axes
    return (0,) * window.axes, list(window.padding)


def _padded(x: Array, window: Window) -> tuple[Array, Sizes]:
    """Return `x` with the padding that PyTorch does not do, and that which it does."""
    padding, around = _symmetric(window)
    if any(map(any, around)):
        from torch.nn import functional

        x = functional.pad(x, [p for pair in reversed(around) for p in pair])
    return x, padding


def normalized_channels(x: Array, eps: float) -> Any:
    """As the portable body; a look tells that no square has overflowed, as mostly."""
    xh, r, mean, var = portable.centred(x, eps)
    seen = seen_now(r)
    if seen is None or (seen.size and not 0.0 < seen.min() <= seen.max() < math.inf):
        return portable_body(portable.normalized_channels)(x, eps)
    xh *= r
    return xh, r, mean, var


def normalized_rows(x: Array, axes: tuple[int, ...], eps: float, centred: bool = True) -> Any:
    """By NumPy on the CPU: so many passes over memory take PyTorch longer."""
    seen = seen_now(x)
    if seen is None:
        return NotImplemented
    xh, r = normalization.normalized_rows(seen, axes, eps, centred)
    return as_given(xh, x), as_given(r, x)


def max_pooling_gradient(x: Array, y: Array, dy: Array, window: Window) -> Any:
    """By NumPy on the CPU."""
    seen: Any = [seen_now(a) for a in (x, y, dy)]
    if any(a is None for a in seen):
        return NotImplemented
    with np.errstate(all="ignore"):  # tensors do not warn
        dx = pooling.max_pooling_gradient(*seen, window=window)
    return dx if dx is NotImplemented else as_given(dx, x)


def cross_entropy_of_labels(x: Array, labels: Array) -> Any:
    """By NumPy on the CPU, where there are few."""
    scores, indices = seen_now(x), seen_now(labels)
    if scores is None or indices is None or scores.size > LARGEST:
        return NotImplemented
    found = softmax.cross_entropy_of_labels(scores, indices)
    return found if found is NotImplemented else tuple([as_given(a, x) for a in found])


def sum_of_squares(arrays: list[Array]) -> Any:
    """By NumPy on the CPU."""
    seen: Any = [seen_now(a) for a in arrays]
    if any(a is None for a in seen):
        return NotImplemented
    return tuple([as_given(np.asarray(v), arrays[0]) for v in sums.sum_of_squares(seen)])


def taken(x: Array, at: Array) -> Array:
    """Without the time for negative indices and broadcasting."""
    return x.gather(-1, at)


def put(x: Array, at: Array, value: Array) -> Array:
    """Without a mask."""
    return x.scatter(-1, at, value)


BODIES = {
    "taken": taken,
    "put": put,
    "sum_of_squares": sum_of_squares,
    "sums_by_index": embedding.sums_by_index,
    "correlate": correlate,
    "correlate_transposed": correlate_transposed,
    "filter_gradient": filter_gradient,
    "max_pooling_gradient": max_pooling_gradient,
    "normalized_channels": normalized_channels,
    "normalized_rows": normalized_rows,
    "cross_entropy_of_labels": cross_entropy_of_labels,
    "cross_entropy_of_targets": softmax.cross_entropy_of_targets,
}
