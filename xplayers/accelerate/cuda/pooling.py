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
    axes = _axes(sizes, window)
    inner = x.shape[1] if order == "channels last" else 1
    short = max(x.size, math.prod(shape), *[a.size for a in arrays], *np.ravel(axes)) < _SHORT
    try:
        launcher = _launcher(operation, x.dtype, "int" if short else "i64")
    except Untraceable:
        return NotImplemented
    out = kernels.empty_laid(x, shape, x.dtype, order)
    arrays = [kernels.laid(a, order) for a in arrays]
    geometry = _geometry(axes, inner, of_x=operation.endswith("_grads"), short=short)
    args = [np.int64(out.size), geometry, *arrays, out]
    if operation in _AVERAGES:
        args.append(inside(x.dtype).type(1.0 / math.prod(window.size)))
    launcher(x.device, -(-out.size // THREADS), THREADS, args)
    return out


def _axes(sizes: Sizes, window: Window) -> list[Sizes]:
    """Return places, windows, size, padding and stride of each axis; the first may have a place."""
    before = [p for p, _ in window.padding]
    axes = zip(sizes, window.outputs(sizes), window.size, before, window.stride, strict=True)
    return [(1, 1, 1, 0, 1)] * (AXES - window.axes) + list(axes)


def _geometry(axes: list[Sizes], inner: int, *, of_x: bool, short: bool) -> np.ndarray:
    """Return the structure ``Pooling``, whose elements are counted through `x` or `y`.

    As CuPy takes structures by value, it is an array of one.
    """
    geometry = np.zeros(1, _structure(short))
    geometry["inner"] = _divisor(inner)
    for i, (*axis, stride) in enumerate(axes):
        geometry["axes"][0, i] = (*axis, _divisor(stride))
        geometry["sizes"][0, -1 - i] = _divisor(axis[0 if of_x else 1])
    return geometry


def _divisor(d: int) -> tuple[int, int, int]:
    """Return a number, and by what another is multiplied and shifted to be divided by it.

    ``n * factor >> (31 + shift)`` is ``n // d`` for ``n < 2**31``: ``factor * d`` is larger than
    ``2**(31 + shift)`` by less than ``d <= 2**shift``, so the quotient by less than ``1 / d``.
    """
    shift = (d - 1).bit_length()
    return d, -(-(1 << (31 + shift)) // d), shift


@functools.cache
def _structure(short: bool) -> np.dtype:
    index = "<i4" if short else "<i8"
    divisor = np.dtype([("d", index), ("factor", "<u4"), ("shift", "<i4")], align=True)
    fields = [(name, index) for name in ("x", "y", "size", "before")]
    axis = np.dtype([*fields, ("stride", divisor)], align=True)
    return np.dtype(
        [("axes", axis, (AXES,)), ("inner", divisor), ("sizes", divisor, (AXES,))], align=True
    )


def source(operation: str, dtype: np.dtype, kind: str) -> tuple[str, str]:
    """Return body and name of a kernel; `kind` is the type of indices, or the number of warps."""
    if dtype.kind not in "fV":
        raise Untraceable
    memory, wide = c_name(dtype), c_name(inside(dtype))
    arrays = dict.fromkeys(_ARRAYS[operation], f"const {memory}*") | {"out": f"{memory}*"}
    if operation in _SIZES:
        types = dict.fromkeys(_SIZES[operation], "const i64") | arrays
        steps = [f"{operation}<{kind}, {wide}>({', '.join(types)});"]
    else:
        if operation in _AVERAGES:
            arrays["factor"] = f"const {wide}"
        types = {"n": "const i64", "g": f"const Pooling<{kind}>", **arrays}
        steps = [f"{operation}<{wide}>({', '.join(types)});"]
    name = f"xplayers_{operation}"  # in profiles
    parameters = ", ".join(f"{c} {parameter}" for parameter, c in types.items())
    blocks = 3 if kind == "i64" else 4  # for which a multiprocessor has registers
    return _BODY.format(
        name=name, parameters=parameters, steps="\n    ".join(steps), blocks=blocks
    ), name


@functools.cache
def template() -> str:
    """Return the source that the kernels for all dtypes share."""
    return "\n".join([library(), part("warps.cuh"), part("pooling.cu")])


@functools.cache
def _launcher(operation: str, dtype: np.dtype, kind: str) -> kernels.Launcher:
    body, name = source(operation, dtype, kind)
    return kernels.Launcher(f"{template()}\n{body}", name)


_BODY = f"""\
extern "C" __global__ void __launch_bounds__({THREADS}, {{blocks}})
{{name}}({{parameters}})
{{{{
    {{steps}}
}}}}
"""
