"""Convolution and its two gradients, each one convolution of XLA, which has channels last on a CPU.

Of volumes, with few channels, with groups, and with strides in the gradient of the input, it takes
longer there than the columns and the product of the portable body.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

from xplayers.arrays.namespaces import Array, namespace
from xplayers.arrays.products import channel_sums
from xplayers.layers.windows import Sizes, Window

DEPTH = 25  # elements of a window of all channels; measured, as the next
CHANNELS = 8  # of the input


def correlate(x: Array, W: Array, b: Array | None, window: Window, groups: int) -> Any:
    """Return the convolution of `x` ``(n, c, *sizes)`` with `W` ``(f, c / groups, *size)``."""
    if not _fits(window, groups, x) or math.prod(W.shape[1:]) < DEPTH:
        return NotImplemented
    y = _convolution(x, W, window.padding, window.stride, window.dilation)
    return _with_bias(y, b)


def correlate_transposed(
    dy: Array, W: Array, b: Array | None, window: Window, groups: int, sizes: Sequence[int]
) -> Any:
    """Return the transpose of `correlate` applied to `dy`: an array of those sizes.

    With stride 1 it is the convolution with the filters backwards.
    """
    if not _fits(window, groups, dy) or max(window.stride) > 1 or W.shape[1] < CHANNELS:
        return NotImplemented
    geometry = zip(window.padding, window.span, sizes, dy.shape[2:], strict=True)
    padding = [(span - 1 - p, size + p - n) for (p, _), span, size, n in geometry]
    xp, axes = namespace(W), tuple(range(2, len(W.shape)))
    backwards = _swapped(xp.flip(W, axis=axes))
    return _with_bias(_convolution(dy, backwards, padding, window.stride, window.dilation), b)


def filter_gradient(
    x: Array, dy: Array, shape: Sizes, window: Window, groups: int, bias: bool
) -> Any:
    """Return the gradient of `W` and, with `bias`, that of `b` in `correlate`.

    The convolution of `x` with `dy`, whose channels are the samples; strides are now dilations.
    """
    if not _fits(window, groups, x, dy) or shape[1] < CHANNELS:
        return NotImplemented
    geometry = zip(
        window.padding, window.span, window.stride, dy.shape[2:], x.shape[2:], strict=True
    )
    padding = [(p, span + (n - 1) * s - size - p) for (p, _), span, s, n, size in geometry]
    x, kernel = _swapped(x), _swapped(dy)
    dW = _swapped(_convolution(x, kernel, padding, window.dilation, window.stride))
    return (dW, channel_sums(dy)) if bias else dW


def _fits(window: Window, groups: int, *arrays: Array) -> bool:
    return window.axes < 3 and groups == 1 and not any(0 in a.shape for a in arrays)


def _convolution(x: Array, W: Array, padding: Any, stride: Sizes, dilation: Sizes) -> Array:
    jax: Any = sys.modules["jax"]

    xp, axes = namespace(x), "DHW"[-len(stride) :]
    layouts = f"N{axes}C", f"{axes}IO", f"N{axes}C"
    x, W = xp.moveaxis(x, 1, -1), xp.moveaxis(W, (1, 0), (-2, -1))
    y = jax.lax.conv_general_dilated(
        x, W, stride, padding, rhs_dilation=dilation, dimension_numbers=layouts
    )
    return xp.moveaxis(y, -1, 1)


def _swapped(a: Array) -> Array:
    """Return an array with the first two axes exchanged."""
    return namespace(a).moveaxis(a, 0, 1)


def _with_bias(y: Array, b: Array | None) -> Array:
    return y if b is None else y + b.reshape(-1, *(1,) * (len(y.shape) - 2))
