"""Convolution, its transpose, and the gradient of the filters, as functions of arrays.

The windows of the input are copied into columns, block by block of the batch, and one matrix
product does the rest (im2col). The transpose is the way back: a matrix product, then the columns
are added to where they came from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from xplayers.arrays.namespaces import Array, is_half, namespace, widened
from xplayers.arrays.operation import operation
from xplayers.arrays.products import channel_sums, matmul
from xplayers.layers.windows import Sizes, Window, blocks, in_blocks


@operation
def correlate(
    x: Array, W: Array, b: Array | None, window: Window, groups: int, out: Array | None = None
) -> Array:
    """Return the convolution of `x` with the filters `W`, in `out` if that is given."""
    xp = namespace(x)
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


@operation
def correlate_transposed(
    dy: Array,
    W: Array,
    b: Array | None,
    window: Window,
    groups: int,
    sizes: Sequence[int],
    out: Array | None = None,
) -> Array:
    """Return the transpose of `correlate` applied to `dy`: an array of those sizes."""
    xp = namespace(dy)
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


@operation
def filter_gradient(
    x: Array, dy: Array, shape: Sizes, window: Window, groups: int, bias: bool
) -> Any:
    """Return the gradient of the filters or, with `bias`, those of the filters and of the bias.

    That of the filters is one product of `dy` and the columns for each block.
    """
    xp = namespace(x)
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
