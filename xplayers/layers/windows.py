"""Sliding windows over the spatial axes of an array, for convolution and pooling.

Arrays are ``(n, c, *sizes)``. Everything is made of slices, `concat`, `stack` and `reshape`, so it
also runs where arrays are immutable.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from xplayers._checks import integer, shown
from xplayers.arrays.joining import concat, stack
from xplayers.arrays.namespaces import (
    Array,
    Namespace,
    device,
    downcast_like,
    dtype_name,
    namespace,
    upcast,
)
from xplayers.arrays.operation import operation

# The columns of a batch (im2col) take as many times the memory of the batch as a window has
# elements. So the batch is processed in blocks whose columns take at most this much, or sample by
# sample. NumPy is fastest with small blocks, which fit into the cache (1.2 to 1.4 times as fast as
# large ones); elsewhere a block costs launches on a GPU and compilation on JAX.
COLUMN_BYTES = 32 * 2**20
NUMPY_COLUMN_BYTES = 4 * 2**20

Sizes: TypeAlias = tuple[int, ...]
Numbers: TypeAlias = "int | Sequence[int]"  # for all axes, or one per axis


class Window(NamedTuple):
    """The geometry of windows, one entry per spatial axis."""

    size: Sizes
    stride: Sizes
    dilation: Sizes
    padding: tuple[tuple[int, int], ...]  # before and after

    @property
    def axes(self) -> int:
        return len(self.size)

    @property
    def span(self) -> Sizes:
        """The extent of a window, including the gaps of the dilation."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.size, self.dilation, strict=True))

    def outputs(self, sizes: Sequence[int]) -> Sizes:
        """Return the number of windows along each axis."""
        return self._counts([n + sum(p) for n, p in zip(sizes, self.padding, strict=True)])

    def _counts(self, sizes: Sequence[int]) -> Sizes:
        """Return the number of windows along each axis of a padded array."""
        geometry = zip(sizes, self.span, self.stride, strict=True)
        return tuple((n - span) // s + 1 for n, span, s in geometry)

    def positions(self) -> Iterator[Sizes]:
        """Return the offsets of the elements of a window, in row-major order."""
        return itertools.product(*map(range, self.size))

    def check(self, owner: object, x: Array) -> None:
        """Check that a window fits into `x`."""
        padded = tuple(n + sum(p) for n, p in zip(x.shape[2:], self.padding, strict=True))
        if any(n < k for n, k in zip(padded, self.span, strict=True)):
            message = (
                f"{owner}: x has shape {tuple(x.shape)}, which is {format_size(padded)} with "
                f"padding; the window covers {format_size(self.span)}. Use larger inputs or more "
                "padding."
            )
            raise ValueError(message)

    def pad(self, x: Array, value: float = 0.0) -> Array:
        """Return padded `x`, or `x` itself where there is no padding."""
        return pad_windows(x, self, value) if any(map(any, self.padding)) else x

    def _slice(self, axis: int, offset: int, count: int) -> slice:
        """Return the slice of the elements at `offset` of all windows, along one axis."""
        start, step = offset * self.dilation[axis], self.stride[axis]
        return slice(start, start + step * (count - 1) + 1, step)

    def slices(self, x: Array) -> Iterator[Array]:
        """Yield per position in a window a view of padded `x`: that element of every window."""
        counts = self._counts(x.shape[2:])
        for offsets in self.positions():
            spatial = map(self._slice, range(self.axes), offsets, counts)
            yield x[(slice(None), slice(None), *spatial)]

    def fold(self, x: Array, combine: Callable[[Array, Array], Array]) -> Array:
        """Return padded `x` reduced over each window by `combine`; a view if its size is 1."""
        for axis, count in enumerate(self._counts(x.shape[2:])):
            parts = (
                x[along(2 + axis, self._slice(axis, offset, count))]
                for offset in range(self.size[axis])
            )
            x = functools.reduce(combine, parts)
        return x

    def scatter(self, pieces: Array, sizes: Sequence[int]) -> Array:
        """Add the elements of windows to the positions that they were taken from (col2im).

        The transpose of padding and `window_columns`: `pieces` ``(n, c, *size, *outputs)`` have a
        value for each position in each window, the result of their dtype is ``(n, c, *sizes)``,
        without padding. 16-bit values are summed in float32.
        """
        total = upcast(namespace(pieces), pieces)
        for axis in reversed(range(self.axes)):  # the last one first: it is contiguous
            total = scatter_windows(total, self, axis, sizes[axis])
        return downcast_like(total, pieces)


@operation
def pad_windows(x: Array, window: Window, value: float) -> Array:
    """Return `x` ``(n, c, *sizes)`` padded with `value`."""
    xp = namespace(x)
    for axis, (before, after) in enumerate(window.padding, 2):
        x = padded(xp, x, axis, before, after, value)
    return x


@operation
def window_columns(x: Array, window: Window, axis: int) -> Array:
    """Return the windows of padded `x`, with the positions in a window as a new axis (im2col).

    Of `x` ``(n, c, *sizes)`` they are ``(n, c, *outputs)``, in the dtype of `x`.
    """
    xp, views = namespace(x), list(window.slices(x))
    return stack(xp, views, axis) if len(views) > 1 else xp.expand_dims(views[0], axis=axis)


@operation
def scatter_windows(pieces: Array, window: Window, axis: int, size: int) -> Array:
    """Sum over the positions in a window along one axis.

    With stride s, element ``s * k + p`` of the array has phase p. Position i of window o is
    element ``s * o + i * dilation - padding``: each position has one phase, within which the
    windows are adjacent. So shift, add up, and interleave the phases at the end.
    """
    xp = namespace(pieces)
    stride, dilation, before = window.stride[axis], window.dilation[axis], window.padding[axis][0]
    length = -(-size // stride)
    dim = 2 + 2 * axis  # index of the axis, once that of the positions is removed
    phases: list[list[Array]] = [[] for _ in range(stride)]
    for offset in range(window.size[axis]):
        shift, phase = divmod(offset * dilation - before, stride)
        piece = pieces[along(2 + axis, offset)]
        piece = shifted(xp, piece, dim, shift, length)
        if piece is not None:
            phases[phase].append(piece)
    shape = (*pieces.shape[: 2 + axis], *pieces.shape[3 + axis :])
    shape = (*shape[:dim], length, *shape[dim + 1 :])
    totals = [_sum(p) if p else full(xp, pieces, shape, 0.0) for p in phases]
    if stride == 1:
        return totals[0]
    interleaved = (*shape[:dim], length * stride, *shape[dim + 1 :])
    total = xp.reshape(stack(xp, totals, dim + 1), interleaved)
    return total if length * stride == size else total[along(dim, slice(0, size))]


def along(axis: int, index: Any) -> tuple[Any, ...]:
    """Return the index tuple with `index` on one axis and ``:`` on the others."""
    return (*(slice(None),) * axis, index, ...)


def _sum(arrays: list[Array]) -> Array:
    """Return the sum of arrays, which are not written to; a single one is returned itself."""
    if len(arrays) == 1:
        return arrays[0]
    total = arrays[0] + arrays[1]
    for a in arrays[2:]:
        total += a
    return total


def full(xp: Namespace, like: Array, shape: Sequence[int], value: float) -> Array:
    """Return an array of one value, of the dtype and on the device of `like`."""
    return xp.full(tuple(shape), value, dtype=like.dtype, device=device(like))


def padded(xp: Namespace, x: Array, axis: int, before: int, after: int, value: float) -> Array:
    """Return `x` padded with `value` along an axis, or `x` itself where there is no padding."""
    if not before and not after:
        return x
    parts = [x]
    if before:
        parts.insert(0, full(xp, x, (*x.shape[:axis], before, *x.shape[axis + 1 :]), value))
    if after:
        parts.append(full(xp, x, (*x.shape[:axis], after, *x.shape[axis + 1 :]), value))
    return concat(xp, parts, axis)


def shifted(xp: Namespace, x: Array, axis: int, shift: int, length: int) -> Array | None:
    """Return y of `length` with ``y[i] = x[i - shift]``, else 0; None if all of it is 0."""
    start, stop = max(0, -shift), min(x.shape[axis], length - shift)
    if stop <= start:
        return None
    if (start, stop) != (0, x.shape[axis]):
        x = x[along(axis, slice(start, stop))]
    return padded(xp, x, axis, start + shift, length - stop - shift, 0.0)


def blocks(x: Array, elements: int) -> list[slice]:
    """Return slices of the batch `x`, each with columns of at most `COLUMN_BYTES`.

    `elements` is the size of the columns of one sample. There is at least one slice, also for an
    empty batch.
    """
    bits = int(dtype_name(x.dtype)[-2:])
    limit = NUMPY_COLUMN_BYTES if isinstance(x, np.ndarray) else COLUMN_BYTES
    step = max(1, limit * 8 // max(1, elements * bits))
    n = x.shape[0]
    if n <= step:  # asked first: where `x` is traced, its sizes are no numbers to count with
        return [slice(0, n)]
    return [slice(i, min(i + step, n)) for i in range(0, n, step)]


def in_blocks(
    xp: Namespace,
    compute: Callable[..., Array],
    elements: int,
    *batches: Array,
    out: Array | None = None,
) -> Array:
    """Return ``compute(*batches)``, computed in blocks of the batch; see `blocks`.

    The result is written to `out` if passed.
    """
    parts = blocks(batches[0], elements)
    if out is not None:
        for part in parts:
            out[part] = compute(*(a[part] for a in batches))
        return out
    if len(parts) == 1:
        return compute(*batches)
    return concat(xp, [compute(*(a[part, ...] for a in batches)) for part in parts], 0)


def geometry(
    owner: str, size: Sequence[int], stride: Any, padding: Any, dilation: Any = 1
) -> Window:
    """Check the options of a layer and return its windows."""
    axes = len(size)
    strides = per_axis(owner, "stride", stride, axes, 1)
    dilations = per_axis(owner, "dilation", dilation, axes, 1)
    if not isinstance(padding, str) or padding != "same":
        if isinstance(padding, str):
            message = f"{owner}: padding is {padding!r}; expected numbers or 'same'."
            raise ValueError(message)
        widths = per_axis(owner, "padding", padding, axes, 0)
        return Window(tuple(size), strides, dilations, tuple((p, p) for p in widths))
    if max(strides) > 1:
        message = f"{owner}: padding is 'same', which needs stride 1; stride is {stride}."
        raise ValueError(message)
    total = [d * (k - 1) for k, d in zip(size, dilations, strict=True)]
    return Window(tuple(size), strides, dilations, tuple((t // 2, t - t // 2) for t in total))


def per_axis(owner: str, name: str, value: Any, axes: int, least: int) -> Sizes:
    """Return an int per axis from an int or a sequence of them, or raise ValueError."""
    try:
        if isinstance(value, Sequence):
            values = tuple([integer(owner, name, v, least=least) for v in value])
        else:
            values = (integer(owner, name, value, least=least),) * axes
    except (TypeError, ValueError):  # one message for both cases
        values = ()
    if len(values) != axes or not values:
        each = "" if axes == 1 else f", or {axes} of them"
        message = f"{owner}: {name} is {shown(value)}; expected an int of {least} or more{each}."
        raise ValueError(message)
    return values


def plain(value: Any) -> Any:
    """Return an option with sequences as tuples and NumPy integers as Python's."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(map(plain, value))
    try:
        return integer("", "", value, least=None)
    except TypeError:  # not an integer: `geometry` raises the error
        return value


def format_size(sizes: Sequence[int]) -> str:
    """Return sizes as text: ``3x3``."""
    return "x".join(map(str, sizes))


def named_axes(axes: int) -> str:
    """Return the names of spatial axes in error messages: ``h, w``."""
    return "l" if axes == 1 else ", ".join("dhw"[-axes:])
