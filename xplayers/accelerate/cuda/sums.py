"""Sums of the columns of CuPy arrays, and of the channels of images, by kernels of our own.

CuPy gives a sum over the first axis one block for 32 columns, whatever the number of rows: a
gradient of a bias of 32 channels would be computed by one multiprocessor alone. Here the rows are
shared out too, in parts whose sums are added up by a second launch. Which values are added to which
depends on shape, dtype and alignment alone, so results are the same bits from launch to launch and
from GPU to GPU.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from xplayers.accelerate.cuda import kernels
from xplayers.accelerate.cuda.source import THREADS, c_name, inside, library, part
from xplayers.accelerate.tape import Untraceable

_BLOCKS = 512  # some for each multiprocessor
_DEPTH = 16  # rows that a thread adds up before it pays to have a second launch
_LANES = 32  # threads of a line at most, as of a warp


def column_sums(x: Any, dtype: Any = None) -> Any:
    """Return the sums of the columns.

    Parameters
    ----------
    x : cupy.ndarray
        Shape ``(rows, *columns)``; float16, bfloat16, float32 or float64. 16-bit values are added
        up in float32, and their sums rounded once.
    dtype : dtype, optional
        Of the sums, by default that of `x`.

    Returns
    -------
    cupy.ndarray or NotImplemented
        Shape ``(*columns,)``. NotImplemented where `x` is nothing for a kernel: not contiguous, of
        another dtype, or without elements.
    """
    if x.ndim < 2 or not x.flags.c_contiguous or not x.size:
        return NotImplemented
    sums = _summed(x.reshape(len(x), -1), dtype=dtype)
    return sums if sums is NotImplemented else sums.reshape(x.shape[1:])


def total(x: Any, divisor: Any = 1.0) -> Any:
    """Return the sum of all values, divided by a number.

    Parameters
    ----------
    x : cupy.ndarray
        Of any shape, images by rows or with the channels last; dtypes as in `column_sums`.
    divisor : float
        Another number than Python's is nothing for a kernel.

    Returns
    -------
    cupy.ndarray or NotImplemented
        0-d. NotImplemented as in `column_sums`.
    """
    order = kernels.layout(x)
    if order is None or not isinstance(divisor, int | float):
        return NotImplemented
    inner = x if order == "rows" else kernels.channels_last(x)
    value = _summed(inner.reshape(-1, 1), divisor=divisor)
    return value if value is NotImplemented else value.reshape(())


def channel_sums(x: Any) -> Any:
    """Return the sums of the channels of images with the channels last in memory.

    Parameters
    ----------
    x : cupy.ndarray
        Shape ``(n, c, *sizes)``.

    Returns
    -------
    cupy.ndarray or NotImplemented
        Shape ``(c,)``. NotImplemented where `x` is nothing for a kernel: images by rows, which
        have the values of a channel side by side, and as above.
    """
    return _summed(_matrix(x)) if _has_channels_last(x) else NotImplemented


def relu_grads(dy: Any, y: Any) -> Any:
    """Return ``dx = dy * (y > 0)`` and the sums of its channels, in one pass over both.

    Parameters
    ----------
    dy, y : cupy.ndarray
        The gradient and the result of a ReLU, of shape ``(n, c, *sizes)``. `y` has the channels
        last; `dy` is copied to that order if it lies otherwise.

    Returns
    -------
    dx : cupy.ndarray
        As `y` lies.
    sums : cupy.ndarray
        Shape ``(c,)``.

    NotImplemented where this is nothing for a kernel.
    """
    alike = (dy.shape, dy.dtype, dy.data.device_id) == (y.shape, y.dtype, y.data.device_id)
    if not (alike and _has_channels_last(y)):
        return NotImplemented
    dx = kernels.empty_laid(y, y.shape, y.dtype, "channels last")
    sums = _summed(*map(_matrix, [kernels.laid(dy, "channels last"), y, dx]))
    return sums if sums is NotImplemented else (dx, sums)


def _has_channels_last(x: Any) -> bool:
    return x.ndim > 2 and x.size > 0 and kernels.channels_last(x).flags.c_contiguous


def _matrix(x: Any) -> Any:
    """Return a view of images, which have the channels last, with a row for each place."""
    return kernels.channels_last(x).reshape(-1, x.shape[1])


def _summed(*arrays: Any, divisor: float = 1.0, dtype: Any = None) -> Any:
    """Return the sums of the columns of `x`, or of what is made of `x` and `y` and written."""
    x = arrays[0]
    if not x.size:
        return NotImplemented
    try:
        sums = _launched(_BLOCKS, dtype or x.dtype, *arrays, divisor=divisor)
        if len(sums) > 1:
            sums = _launched(1, dtype or x.dtype, sums, divisor=divisor)
    except Untraceable:
        return NotImplemented
    return sums.reshape(-1)


def _launched(most: int, dtype: np.dtype, *arrays: Any, divisor: float) -> Any:
    """Return the sums of parts of the rows, a row for each.

    There are so many parts that they take `most` blocks or fewer. If there is one, it is divided by
    `divisor` and in `dtype`.
    """
    x = arrays[0]
    rows, columns = x.shape
    width = 16 // x.dtype.itemsize  # values that are read at once
    if columns % width or any(a.data.ptr % 16 for a in arrays):
        width = 1
    packs = -(-columns // width)
    lanes = min(_LANES, 1 << (packs - 1).bit_length())
    tiles = -(-packs // lanes)
    parts = max(1, min(rows * lanes // (_DEPTH * THREADS), most // tiles))
    share = -(-rows // parts)
    parts = -(-rows // share)  # the last ones may have been empty
    wide = inside(x.dtype)
    out, divisor = (dtype, divisor) if parts == 1 else (wide, 1.0)
    launcher = _launcher(width, len(arrays) > 1, x.dtype, out)
    sums = kernels.empty(x, (parts, columns), out)
    sizes = [*map(np.int64, (rows, columns, parts, share)), np.int32(lanes)]
    launcher(x.device, tiles * parts, THREADS, [*sizes, wide.type(divisor), *arrays, sums])
    return sums


def source(width: int, relu: bool, dtype: np.dtype, out: np.dtype) -> tuple[str, str]:
    """Return body and name of the kernel that reads `width` values at once."""
    if dtype.kind not in "fV":
        raise Untraceable
    memory = c_name(dtype)
    name = "xplayers_relu_grads" if relu else "xplayers_column_sums"  # in profiles
    arrays = {"x": f"const {memory}*"}
    if relu:
        arrays |= {"y": f"const {memory}*", "dx": f"{memory}*"}
    body = _BODY.format(
        name=name, width=width, relu=str(relu).lower(), inside=c_name(inside(dtype)),
        out=c_name(out),
        parameters=", ".join(f"{kind} {p}" for p, kind in arrays.items()),
        arrays=", ".join(arrays if relu else [*arrays, f"({memory}*)0", f"({memory}*)0"]),
    )  # fmt: skip
    return body, name


@functools.cache
def template() -> str:
    """Return the source that the kernels for all dtypes share."""
    return f"{library()}\n{part('sums.cu')}"


@functools.cache
def _launcher(width: int, relu: bool, dtype: np.dtype, out: np.dtype) -> kernels.Launcher:
    body, name = source(width, relu, dtype, out)
    return kernels.Launcher(f"{template()}\n{body}", name)


_BODY = f"""\
extern "C" __global__ void __launch_bounds__({THREADS})
{{name}}(
    const i64 rows, const i64 columns, const i64 parts, const i64 share, const int lanes,
    const {{inside}} divisor, {{parameters}}, {{out}}* out)
{{{{
    column_sums<{THREADS}, {{width}}, {{relu}}, {{inside}}>(
        rows, columns, parts, share, lanes, divisor, {{arrays}}, out);
}}}}
"""
