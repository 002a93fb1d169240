"""Max, average and global average pooling."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, Self

from xplayers._checks import integer
from xplayers.arrays.elementwise import zero_unless
from xplayers.arrays.joining import stack
from xplayers.arrays.namespaces import Array, device, namespace, upcast
from xplayers.arrays.operation import operation
from xplayers.layers.base import Cache, Layer
from xplayers.layers.windows import (
    Numbers,
    Window,
    format_size,
    geometry,
    in_blocks,
    named_axes,
    per_axis,
    plain,
)


class _Pooling(Layer):
    """Base of poolings with windows: their options."""

    def __init__(self, size: Numbers, stride: Numbers | None = None, padding: Numbers = 0) -> None:
        owner = type(self).__name__
        self.size, self.stride, self.padding = plain(size), plain(stride), plain(padding)
        if isinstance(padding, str):
            hint = "An odd size preserves the sizes of x with stride=1, padding=size // 2."
            integer(owner, "padding", padding, least=0, hint=hint)
        axes = max([len(v) for v in (size, stride, padding) if isinstance(v, Sequence)], default=0)
        self._axes = axes  # 0: as many as the input has
        self._window(owner, axes or 1)

    def _window(self, owner: str, axes: int) -> Window:
        """Return the geometry for an input with `axes` spatial axes."""
        size = per_axis(owner, "size", self.size, axes, 1)
        step = self.size if self.stride is None else self.stride
        window = geometry(owner, size, step, self.padding)
        if any(2 * p > k for (p, _), k in zip(window.padding, size, strict=True)):
            message = (
                f"{owner}: padding is {self.padding}, size is {self.size}; padding must be at most "
                "half of size, or windows would lie outside of x."
            )
            raise ValueError(message)
        return window

    def _fitting(self, x: Array) -> Window:
        """Check the shape of `x` and return the geometry for it."""
        axes = self._axes or len(x.shape) - 2
        if axes < 1 or len(x.shape) != axes + 2:
            names = named_axes(self._axes) if self._axes else "..."
            single = len(x.shape) == (self._axes or 1) + 1
            hint = " A single sample is x[None, ...]." if single else ""
            message = f"{self}: x has shape {tuple(x.shape)}; expected (n, c, {names}).{hint}"
            raise ValueError(message)
        window = self._window(str(self), axes)
        window.check(self, x)
        return window

    def __str__(self) -> str:
        size = format_size(self.size) if isinstance(self.size, tuple) else self.size
        return f"{type(self).__name__}({size})"


class MaxPooling(_Pooling):
    """The maximum of each window, ``y[n, c, i, j] = max of x[n, c, s*i + k, s*j + l]``.

    Along each axis there are as many outputs as windows fit, ``(size of x + 2 * padding - size) //
    stride + 1``; a remainder at the end is ignored.

    Backward: the position of the maximum gets the gradient; among equal values the first in
    row-major order, as in PyTorch. Where windows overlap, the gradients are summed.

    Parameters
    ----------
    size : int or tuple of int
        Size of the windows. An int is for all spatial axes, of sequences ``(n, c, l)`` or images
        ``(n, c, h, w)``; a tuple also fixes the number of axes.
    stride : int or tuple of int, optional
        Step between windows; None: `size`, so that they do not overlap.
    padding : int or tuple of int
        Padding on either side of each axis, at most half of `size`, with minus infinity.

    Raises
    ------
    ValueError
        If the options, or later the shape of `x`, do not fit.

    Notes
    -----
    The maximum of a window with NaN is NaN, and no position of it gets a gradient. Where all values
    are minus infinity, the first one inside of `x` gets it.

    Examples
    --------
    >>> import numpy as np
    >>> layer = MaxPooling(2)
    >>> layer.forward(np.asarray([[[1.0, 3.0, 2.0, 2.0]]]))
    array([[[3., 2.]]])
    >>> layer.backward(np.asarray([[[10.0, 20.0]]]))
    array([[[ 0., 10., 20.,  0.]]])
    """

    def __new__(cls, *args: Any, **options: Any) -> Self:
        if len(args) == 2 and args[0] == args[1] and isinstance(args[0], int) and args[0] > 2:
            size = args[0]
            message = (
                f"MaxPooling: {size}, {size} may be a window of {size}x{size}, as in the book, or "
                f"size and stride, as in PyTorch. Write MaxPooling({size}, stride={size}), or the "
                "stride that you want."
            )
            raise ValueError(message)
        return super().__new__(cls, *args, **options)

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        y, places = max_pooling_with_places(x, self._fitting(x))
        return y, (x, y) if places is None else (x, y, places)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        x, y, *places = cache
        return max_pooling_gradient(x, y, dy, self._fitting(x), *places), {}


@operation
def max_pooling(x: Array, window: Window) -> Array:
    """Return the maximum of each window, ``(n, c, *sizes)`` to ``(n, c, *outputs)``, same dtype."""
    xp = namespace(x)
    y = window.fold(window.pad(x, -math.inf), xp.maximum)
    # For windows of size 1 it is a view of x.
    return xp.asarray(y, copy=True) if max(window.size) == 1 else y


@operation
def max_pooling_with_places(x: Array, window: Window) -> tuple[Array, Array | None]:
    """Return the maximum of each window, and where it is, if the gradient wants to know."""
    return max_pooling(x, window), None


@operation
def max_pooling_gradient(
    x: Array,
    y: Array,
    dy: Array,
    window: Window,
    places: Array | None = None,
    out: Array | None = None,
) -> Array:
    """Return the gradient of `x`, where `y` are the maxima of its windows; all of one dtype."""
    xp = namespace(x)

    def block(dy: Array, x: Array, y: Array) -> Array:
        pieces, rest = [], dy  # rest: the gradients of windows whose maximum is still to come
        for values in window.slices(window.pad(x, math.nan)):  # NaN never equals a maximum
            is_max = values == y
            pieces.append(zero_unless(rest, is_max, xp))
            rest = zero_unless(rest, ~is_max, xp)
        stacked = xp.reshape(stack(xp, pieces, 2), (*dy.shape[:2], *window.size, *dy.shape[2:]))
        return window.scatter(stacked, x.shape[2:])

    elements = math.prod(window.size) * math.prod(dy.shape[1:])
    return in_blocks(xp, block, elements, dy, x, y, out=out)


class AveragePooling(_Pooling):
    """The mean of each window, ``y[n, c, i, j] = mean of x[n, c, s*i + k, s*j + l]``.

    The sizes are those of `MaxPooling`. 16-bit values are summed in float32.

    Backward: each position gets the gradient of its window divided by the size of the window. Where
    windows overlap, the gradients are summed.

    Parameters
    ----------
    size : int or tuple of int
        Size of the windows, as in `MaxPooling`.
    stride : int or tuple of int, optional
        Step between windows; None: `size`.
    padding : int or tuple of int
        Zeros on either side of each axis, at most half of `size`. The mean includes them, as in
        PyTorch by default (``count_include_pad=True``); Keras excludes them.

    Raises
    ------
    ValueError
        If the options, or later the shape of `x`, do not fit.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> x = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> layer = xl.AveragePooling(2)
    >>> layer.forward(x)
    array([[[[ 2.5,  4.5],
             [10.5, 12.5]]]])
    >>> layer.backward(np.ones((1, 1, 2, 2)))[0, 0, 0]
    array([0.25, 0.25, 0.25, 0.25])
    """

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        return average_pooling(x, self._fitting(x)), (x,)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        (x,) = cache  # the array, not its shape: a cache has only arrays
        return average_pooling_gradient(x, dy, self._fitting(x)), {}


@operation
def average_pooling(x: Array, window: Window) -> Array:
    """Return the mean of each window, including the padding with zeros; as in `max_pooling`."""
    xp = namespace(x)
    total = window.fold(upcast(xp, window.pad(x)), operator.add)
    return xp.astype(total * (1.0 / math.prod(window.size)), x.dtype, copy=False)


@operation
def average_pooling_gradient(x: Array, dy: Array, window: Window) -> Array:
    """Return the gradient of `x`, of which only shape and dtype, that of `dy`, are used."""
    xp, ones = namespace(dy), (1,) * window.axes
    each = upcast(xp, dy) * (1.0 / math.prod(window.size))
    pieces = xp.broadcast_to(
        xp.reshape(each, (*dy.shape[:2], *ones, *dy.shape[2:])),
        (*dy.shape[:2], *window.size, *dy.shape[2:]),
    )
    return xp.astype(window.scatter(pieces, x.shape[2:]), dy.dtype, copy=False)


class GlobalAveragePooling(Layer):
    """The mean of each channel, ``(n, c, ...)`` to ``(n, c)``.

    16-bit values are summed in float32. Backward: ``dx = dy / count`` at every position of the
    channel.

    References
    ----------
    Lin, Chen, Yan, "Network In Network", ICLR 2014, section 3.2.

    Examples
    --------
    >>> import numpy as np
    >>> GlobalAveragePooling()(np.asarray([[[1.0, 3.0], [5.0, 5.0]]]))
    array([[2., 5.]])
    """

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        shape = x.shape
        if len(shape) < 3 or 0 in shape[2:]:
            hint = " A single sample is x[None, ...]." if len(shape) == 2 else ""
            message = f"{self}: x has shape {tuple(shape)}; expected (n, c, ...).{hint}"
            raise ValueError(message)
        return global_average(x), (x,)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        (x,) = cache
        return global_average_gradient(x, dy), {}


@operation
def global_average(x: Array) -> Array:
    """Return the mean of each channel, ``(n, c, *sizes)`` to ``(n, c)`` of the same dtype."""
    xp = namespace(x)
    y = xp.mean(upcast(xp, x), axis=tuple(range(2, len(x.shape))))
    return xp.astype(y, x.dtype, copy=False)


@operation
def global_average_gradient(x: Array, dy: Array) -> Array:
    """Return the gradient of `x`, of which only shape and dtype, that of `dy`, are used."""
    xp, sizes = namespace(dy), x.shape[2:]
    each = xp.reshape(dy * (1.0 / math.prod(sizes)), (*dy.shape, *(1,) * len(sizes)))
    return xp.zeros(x.shape, dtype=x.dtype, device=device(x)) + each
