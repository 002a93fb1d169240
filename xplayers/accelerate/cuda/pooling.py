"""Pooling of CuPy arrays by kernels of our own, values and gradients in one launch each.

Arrays are ``(n, c, *sizes)`` in float16, bfloat16, float32 or float64, by rows or with the channels
last in memory, as which results lie too. Values of 16 bits are float32 inside and rounded once.
Functions return NotImplemented where arrays or windows are nothing for a kernel: `x` in another
layout, no elements, several dtypes or devices, more than three axes. Gradients that lie otherwise
than `x` are copied first: a kernel that read them as they are would jump through memory, and after
`Flatten` those of images with the channels last always come by rows.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from xplayers.accelerate.cuda import kernels
from xplayers.accelerate.cuda.source import THREADS, c_name, inside, library, part
from xplayers.accelerate.tape import Untraceable
from xplayers.layers.windows import Sizes, Window

AXES = 3
_WARPS = THREADS // 32  # of a block
_ONE_WARP = 1024  # up to so many places a row is read by one warp, above by a block
_SHORT = 2**30  # sums of two numbers below it are an int
_FIELDS = ("x", "y", "size", "stride", "before")  # of an axis, as `_geometry` has them
_ARRAYS = {  # what the kernels read
    "max_pooling": ("x",),
    "average_pooling": ("x",),
    "max_grads": ("x", "y", "dy"),
    "average_grads": ("dy",),
    "row_means": ("x",),
    "channel_means": ("x",),
}
_AVERAGES = ("average_pooling", "average_grads")
_SIZES = {"row_means": ("rows", "places"), "channel_means": ("samples", "places", "channels")}


def max_pooling(x: Any, window: Window) -> Any:
    """Return the largest value of each window.

    Parameters
    ----------
    x : cupy.ndarray
        Shape ``(n, c, *sizes)``.
    window : Window
        The geometry, along all `sizes`.

    Returns
    -------
    cupy.ndarray or NotImplemented
        Shape ``(n, c, *window.outputs(sizes))``, with the bits of the portable code: NaN is the
        largest, and of zeros with either sign the same one wins.
    """
    return _launched("max_pooling", x, [x], _outputs(x, window), x.shape[2:], window)


def average_pooling(x: Any, window: Window) -> Any:
    """Return the mean of each window, whose padding is zeros that count.

    Parameters and result are those of `max_pooling`.
    """
    return _launched("average_pooling", x, [x], _outputs(x, window), x.shape[2:], window)


def max_pooling_gradient(x: Any, y: Any, dy: Any, window: Window) -> Any:
    """Return the gradient of `x`, whose windows have the largest values `y`.

    The first of equal values, in row-major order, takes all of the gradient of a window; where
    windows overlap, gradients add up in the order of the portable code.

    Parameters
    ----------
    x : cupy.ndarray
        Shape ``(n, c, *sizes)``.
    y, dy : cupy.ndarray
        The result of `max_pooling`, and the gradient of that.
    window : Window
        The geometry, along all `sizes`.

    Returns
    -------
    cupy.ndarray or NotImplemented
        Shape ``(n, c, *sizes)``.
    """
    if y.shape != dy.shape or y.shape != _outputs(x, window):
        return NotImplemented
    return _launched("max_grads", x, [x, y, dy], x.shape, x.shape[2:], window)


def average_pooling_gradient(x: Any, dy: Any, window: Window) -> Any:
    """Return the gradient of `x`, of which dtype, shape and layout count alone.

    Parameters and result are those of `max_pooling_gradient`.
    """
    if dy.shape != _outputs(x, window):
        return NotImplemented
    return _launched("average_grads", x, [dy], x.shape, x.shape[2:], window)


def global_average(x: Any) -> Any:
    """Return the mean of each channel.

    Parameters
    ----------
    x : cupy.ndarray
        Shape ``(n, c, *sizes)``, with any number of sizes.

    Returns
    -------
    cupy.ndarray or NotImplemented
        Shape ``(n, c)``. Values are added up in another order than in the portable code.
    """
    order = kernels.layout(x)
    if order is None or not x.size:
        return NotImplemented
    rows = order == "rows"
    (n, c), places = x.shape[:2], math.prod(x.shape[2:])
    warps = 1 if rows and places <= _ONE_WARP else _WARPS
    try:
        launcher = _launcher("row_means" if rows else "channel_means", x.dtype, str(warps))
    except Untraceable:
        return NotImplemented
    y = kernels.empty(x, (n, c), x.dtype)
    sizes = (n * c, places) if rows else (n, places, c)  # those of `_SIZES`
    blocks = -(-n * c * warps // _WARPS) if rows else n * -(-c // 32)
    launcher(x.device, blocks, THREADS, [*map(np.int64, sizes), x, y])
    return y


def global_average_gradient(x: Any, dy: Any) -> Any:
    """Return the gradient of `x`, of which dtype, shape and layout count alone.

    `dy` has shape ``(n, c)``; the result is that of `max_pooling_gradient`.
    """
    if dy.shape != x.shape[:2]:
        return NotImplemented
    places = math.prod(x.shape[2:])
    window = Window((places,), (places,), (1,), ((0, 0),))  # one, and all places are in it
    return _launched("average_grads", x, [dy], x.shape, (places,), window)


def _outputs(x: Any, window: Window) -> Sizes:
    return (*x.shape[:2], *window.outputs(x.shape[2:]))


def _launched(
    operation: str, x: Any, arrays: Sequence[Any], shape: Sizes, sizes: Sizes, window: Window
) -> Any:
    """Return the result of a kernel, in the layout of `x`, whose windows slide along `sizes`."""
    order = kernels.layout(x)
    places = [(a.dtype, a.data.device_id) for a in (x, *arrays)]
    if order is None or not x.size or window.axes > AXES or places.count(places[0]) < len(places):
        return NotImplemented
    geometry = _geometry(sizes, window)
    numbers = [x.shape[1] if order == "channels last" else 1, *np.transpose(geometry).flat]
    short = max(x.size, math.prod(shape), *[a.size for a in arrays], *numbers) < _SHORT
    try:
        launcher = _launcher(operation, x.dtype, "int" if short else "i64")
    except Untraceable:
        return NotImplemented
    out = kernels.empty_laid(x, shape, x.dtype, order)
    index = np.int32 if short else np.int64
    arrays = [kernels.laid(a, order) for a in arrays]
    args = [np.int64(out.size), *map(index, numbers), *arrays, out]
    if operation in _AVERAGES:
        args.append(inside(x.dtype).type(1.0 / math.prod(window.size)))
    launcher(x.device, -(-out.size // THREADS), THREADS, args)
    return out


def _geometry(sizes: Sizes, window: Window) -> list[Sizes]:
    """Return what the kernel knows of each of its axes; the first ones may be of one place."""
    before = [p for p, _ in window.padding]
    axes = zip(sizes, window.outputs(sizes), window.size, window.stride, before, strict=True)
    return [(1, 1, 1, 1, 0)] * (AXES - window.axes) + list(axes)


def source(operation: str, dtype: np.dtype, kind: str) -> tuple[str, str]:
    """Return body and name of a kernel; `kind` is the type of indices, or the number of warps."""
    if dtype.kind not in "fV":
        raise Untraceable
    memory, wide = c_name(dtype), c_name(inside(dtype))
    arrays = dict.fromkeys(_ARRAYS[operation], f"const {memory}*") | {"out": f"{memory}*"}
    if operation in _SIZES:
        given = dict.fromkeys(_SIZES[operation], "const i64") | arrays
        steps = [f"{operation}<{kind}, {wide}>({', '.join(given)});"]
    else:
        if operation in _AVERAGES:
            arrays["factor"] = f"const {wide}"
        numbers = [f"{field}{axis}" for field in _FIELDS for axis in range(AXES)]
        given = {"n": "const i64", **dict.fromkeys(["inner", *numbers], f"const {kind}"), **arrays}
        axes = [f"{{{', '.join(numbers[axis::AXES])}}}" for axis in range(AXES)]
        steps = [
            f"const Pooling<{kind}> g = {{{', '.join(axes)}, inner}};",
            f"{operation}<{wide}>({', '.join(['n', 'g', *arrays])});",
        ]
    name = f"xplayers_{operation}"  # in profiles
    parameters = ", ".join(f"{c} {parameter}" for parameter, c in given.items())
    return _BODY.format(name=name, parameters=parameters, steps="\n    ".join(steps)), name


@functools.cache
def template() -> str:
    """Return the source that the kernels for all dtypes share."""
    return "\n".join([library(), part("warps.cuh"), part("pooling.cu")])


@functools.cache
def _launcher(operation: str, dtype: np.dtype, kind: str) -> kernels.Launcher:
    body, name = source(operation, dtype, kind)
    return kernels.Launcher(f"{template()}\n{body}", name)


_BODY = f"""\
extern "C" __global__ void __launch_bounds__({THREADS})
{{name}}({{parameters}})
{{{{
    {{steps}}
}}}}
"""
