"""Convolution: PyTorch has one for each device, and its two gradients; here is said which.

Images with channels last in memory, and those of few channels, stay so and give such.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xplayers.accelerate.pytorch.plain import (
    are_best_last,
    aten,
    channels_last,
    empty_channels_last,
    in_order,
    is_plain,
)
from xplayers.arrays.namespaces import Array
from xplayers.layers.windows import Sizes, Window


def correlate(x: Array, W: Array, b: Array, window: Window, groups: int) -> Any:
    """Return the convolution of `x` ``(n, c, *sizes)`` with `W` ``(f, c / groups, *size)``."""
    if not x.numel():
        return NotImplemented
    from torch.nn import functional

    x, padding = _padded(x, window)
    x, W = channels_last(x) if are_best_last(x) else in_order(x), in_order(W)
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
    shape = dy.shape[0], W.shape[1] * groups, *padded  # of what only is there for it, and strides
    if are_best_last(dy):
        dy, x = channels_last(dy), empty_channels_last(shape, dy)
    else:
        dy, x = in_order(dy), dy.new_empty(1).expand(shape)
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
    if are_best_last(x) and is_plain(dy):
        x, dy = channels_last(x), channels_last(dy)
    else:
        x, dy = in_order(x), in_order(dy)
    _, dW, db = _gradients(dy, x, W, ends, window, padding, groups, (False, True, bias))
    dW = dW.contiguous()  # as `W` is
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
    W, zeros = in_order(W), [0] * window.axes
    return aten().convolution_backward(
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
