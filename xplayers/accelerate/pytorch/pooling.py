"""Pooling by PyTorch's kernels, which keep the place of each maximum.

On the CPU they are for images with channels last in memory, as convolutions make them, which take a
tenth of the time. Others go through NumPy.
"""

from __future__ import annotations

from typing import Any

from xplayers.accelerate.pytorch.plain import (
    aten,
    channels_last,
    empty_channels_last,
    has_channels_last,
    is_plain,
)
from xplayers.arrays.namespaces import Array, is_half
from xplayers.layers.windows import Window


def max_pooling_with_places(x: Array, window: Window) -> Any:
    """Return the maxima of images, and the index of each in its image."""
    if window.axes != 2 or not x.numel() or not x.is_floating_point():
        return NotImplemented
    if not is_plain(x) or (x.is_cpu and not has_channels_last(x)):
        return NotImplemented
    if is_half(x) and any(s < k for s, k in zip(window.stride, window.size, strict=True)):
        return NotImplemented  # gradients of windows that overlap are summed in float32
    return aten().max_pool2d_with_indices.default(x, *_geometry(window))


def max_pooling_gradient(
    x: Array, y: Array, dy: Array, window: Window, places: Array, out: Array | None = None
) -> Any:
    """Return the gradient of `x`."""
    if dy.dtype != x.dtype or not is_plain(dy):
        return NotImplemented
    if not y.is_cpu or y.sum().isnan():  # as infinities of both signs make it, too
        dy = dy.masked_fill(y.isnan(), 0.0)
    if y.is_cpu:  # of `x` only shape and layout are read
        x, dy = empty_channels_last(x.shape, x), channels_last(dy)
    backward = aten().max_pool2d_with_indices_backward
    options = (dy, x, *_geometry(window), [1, 1], False, places)
    if out is None:
        return backward.default(*options)
    return backward.grad_input(*options, grad_input=out)


def _geometry(window: Window) -> tuple[list[int], ...]:
    """Return size, stride and padding."""
    return [*window.size], [*window.stride], [before for before, _ in window.padding]
