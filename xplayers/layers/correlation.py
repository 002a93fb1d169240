"""Convolution, its transpose, and the gradient of the filters, as functions of arrays.

Convolution copies the windows of the input into columns (im2col), in blocks of the batch, followed
by one matrix product. The transpose is a matrix product followed by col2im: the columns are added
to the elements that they were copied from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from xplayers.arrays.namespaces import Array, is_half, namespace, upcast
from xplayers.arrays.operation import operation
from xplayers.arrays.products import channel_sums, matmul
from xplayers.layers.windows import Sizes, Window, blocks, in_blocks, window_columns


@operation
def correlate(
    x: Array, W: Array, b: Array | None, window: Window, groups: int, out: Array | None = None
) -> Array:
    """Return the convolution of `x` with the filters `W`, written to `out` if passed.

    `x` is ``(n, c, *sizes)``, `W` ``(f, c / groups, *size)``, `b` ``(f,)``, the result
    ``(n, f, *outputs)``, all of one floating dtype.
    """
    xp = namespace(x)
    n_out, depth = W.shape[0], math.prod(W.shape[1:])
    outputs = window.outputs(x.shape[2:])
    positions = math.prod(outputs)
    lead = () if groups == 1 else (groups,)
    matrix = xp.reshape(W, (*lead, n_out // groups, depth))
    if b is not None:
        b = xp.reshape(b, (n_out, 1))

    def block(x: Array) -> Array:
        n = x.shape[0]
        columns = window_columns(window.pad(x), window, 2)
        y = matmul(matrix, xp.reshape(columns, (n, *lead, depth, positions)))
        y = xp.reshape(y, (n, n_out, positions))
        if b is not None:
            y += b  # y is a new array
        return xp.reshape(y, (n, n_out, *outputs))

    return in_blocks(xp, block, groups * depth * positions, x, out=out)


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
    """Return the transpose of `correlate` applied to `dy`, written to `out` if passed.

    `dy` is ``(n, f, *outputs)``, `W` ``(f, c / groups, *size)``, `b` ``(c,)``, the result
    ``(n, c, *sizes)``, all of one floating dtype.
    """
    xp = namespace(dy)
    n_out, depth = W.shape[0], math.prod(W.shape[1:])
    outputs = tuple(dy.shape[2:])
    positions = math.prod(outputs)
    lead = () if groups == 1 else (groups,)
    matrix = xp.reshape(W, (*lead, n_out // groups, depth)).mT
    n_in = W.shape[1] * groups
    if b is not None:
        b = xp.reshape(b, (n_in,) + (1,) * window.axes)

    def block(dy: Array) -> Array:
        n = dy.shape[0]
        columns = matmul(matrix, xp.reshape(dy, (n, *lead, n_out // groups, positions)))
        pieces = xp.reshape(columns, (n, n_in, *window.size, *outputs))
        dx = window.scatter(pieces, sizes)
        if b is not None:
            dx += b  # dx is a new array
        return dx

    return in_blocks(xp, block, groups * depth * positions, dy, out=out)


@operation
def filter_gradient(
    x: Array, dy: Array, shape: Sizes, window: Window, groups: int, bias: bool
) -> Any:
    """Return the gradient of the filters, of this `shape`, with `bias` also that of the bias.

    `x` is ``(n, c, *sizes)``, `dy` ``(n, f, *outputs)``, all of one floating dtype. The former is
    one matrix product of `dy` and the columns per block.
    """
    xp = namespace(x)
    n_out, depth = shape[0], math.prod(shape[1:])
    positions = math.prod(dy.shape[2:])
    lead = () if groups == 1 else (groups,)
    swap = (1, 0, *range(2, len(shape)))  # channels before samples

    def block(part: slice) -> Array:
        dys = xp.permute_dims(dy[part, ...], swap)
        rows = dys.shape[1] * positions
        padded = xp.permute_dims(window.pad(x[part, ...]), swap)
        columns = window_columns(padded, window, 1)
        columns = xp.reshape(columns, (*lead, depth, rows))
        return matmul(xp.reshape(dys, (*lead, n_out // groups, rows)), columns.mT)

    total, *rest = map(block, blocks(x, groups * depth * positions))
    dtype = total.dtype
    if rest and is_half(total):
        total = upcast(xp, total)
    for part in rest:
        total = total + part
    dW = xp.reshape(xp.astype(total, dtype, copy=False), shape)
    return (dW, channel_sums(dy)) if bias else dW
