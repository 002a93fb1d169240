"""Convolution, its transpose, and the gradient of the filters, as functions of arrays.

The windows of the input are copied into columns, block by block of the batch, and one matrix
product does the rest (im2col). The transpose is the way back: a matrix product, then the columns
are added to where they came from. Beside these portable bodies stand those of NumPy, in
`convolution_host`, that of PyTorch, in `convolution_torch`, and others that are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xplayers._arrays import Array, Namespace, is_half, library, widened
from xplayers._products import matmul
from xplayers._recording import whole
from xplayers._sums import channel_sums
from xplayers.layers import convolution_host as host
from xplayers.layers.windows import Sizes, Window, blocks, in_blocks

# By type of array: what returns the other body that computes with it here, or None. Its functions
# `correlate`, `spread` and `filter_grads` have the arguments of those of `convolution_host`; they
# return None for what they do not compute, and write to `out` if they are given one (by replays on
# NumPy). See `xplayers.cuda.cudnn`, which is asked for by name.
BODIES: dict[type, Callable[[], Any]] = {np.ndarray: lambda: host}


@whole
def correlate(
    xp: Namespace,
    x: Array,
    W: Array,
    b: Array,
    window: Window,
    groups: int,
    out: Array | None = None,
) -> Array:
    """Return the convolution of `x` with the filters `W`, in `out` if that is given."""
    body = _body(x)
    y = body and body.correlate(x, W, b, window, groups, out)
    if y is not None:
        return y
    n_out, depth = W.shape[0], math.prod(W.shape[1:])
    outputs = window.outputs(x.shape[2:])
    places = math.prod(outputs)
    lead = () if groups == 1 else (groups,)
    matrix = xp.reshape(W, (*lead, n_out // groups, depth))
    if b is not None:
        b = xp.reshape(b, (n_out, 1))

    def block(x: Array) -> Array:
        n = x.shape[0]
        columns = window.columns(xp, window.pad(xp, x), 2)
        y = matmul(matrix, xp.reshape(columns, (n, *lead, depth, places)))
        y = xp.reshape(y, (n, n_out, places))
        if b is not None:
            y += b  # y is ours
        return xp.reshape(y, (n, n_out, *outputs))

    return in_blocks(xp, block, groups * depth * places, x, out=out)


@whole
def spread(
    xp: Namespace,
    dy: Array,
    W: Array,
    b: Array,
    window: Window,
    groups: int,
    sizes: Sequence[int],
    out: Array | None = None,
) -> Array:
    """Return the transpose of `correlate` applied to `dy`: an array of those sizes."""
    body = _body(dy)
    dx = body and body.spread(dy, W, b, window, groups, sizes, out)
    if dx is not None:
        return dx
    n_out, depth = W.shape[0], math.prod(W.shape[1:])
    outputs = tuple(dy.shape[2:])
    places = math.prod(outputs)
    lead = () if groups == 1 else (groups,)
    matrix = xp.reshape(W, (*lead, n_out // groups, depth)).mT
    n_in = W.shape[1] * groups
    if b is not None:
        b = xp.reshape(b, (n_in,) + (1,) * window.axes)

    def block(dy: Array) -> Array:
        n = dy.shape[0]
        columns = matmul(matrix, xp.reshape(dy, (n, *lead, n_out // groups, places)))
        pieces = xp.reshape(columns, (n, n_in, *window.size, *outputs))
        dx = window.scatter(xp, pieces, sizes)
        if b is not None:
            dx += b  # dx is ours
        return dx

    return in_blocks(xp, block, groups * depth * places, dy, out=out)


@whole
def filter_grads(
    xp: Namespace, x: Array, dy: Array, shape: Sizes, window: Window, groups: int, bias: bool
) -> Any:
    """Return the gradient of the filters or, with `bias`, those of the filters and of the bias.

    That of the filters is one product of `dy` and the columns for each block.
    """
    body = _body(x)
    grads = body and body.filter_grads(x, dy, shape, window, groups, bias)
    if grads is not None:
        dW, db = grads
        if bias and db is None:
            db = channel_sums(dy)
        return (dW, db) if bias else dW
    n_out, depth = shape[0], math.prod(shape[1:])
    places = math.prod(dy.shape[2:])
    lead = () if groups == 1 else (groups,)
    swap = (1, 0, *range(2, len(shape)))  # channels before samples

    def block(part: slice) -> Array:
        dys = xp.permute_dims(dy[part, ...], swap)
        rows = dys.shape[1] * places
        columns = window.columns(xp, xp.permute_dims(window.pad(xp, x[part, ...]), swap), 1)
        columns = xp.reshape(columns, (*lead, depth, rows))
        return matmul(xp.reshape(dys, (*lead, n_out // groups, rows)), columns.mT)

    total, *rest = map(block, blocks(x, groups * depth * places))
    dtype = total.dtype
    if rest and is_half(total):
        total = widened(xp, total)
    for part in rest:
        total = total + part
    dW = xp.reshape(xp.astype(total, dtype, copy=False), shape)
    return (dW, channel_sums(dy)) if bias else dW


def _body(x: Array) -> Any:
    find = BODIES.get(type(x))
    if find is None and library(x) == "torch":
        from xplayers.layers import convolution_torch

        find = BODIES[type(x)] = lambda: convolution_torch
    return None if find is None else find()
