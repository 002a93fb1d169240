"""Matrix products of layers, and sums over all axes but that of columns or channels."""

from __future__ import annotations

from xplayers.arrays.namespaces import Array, downcast_like, namespace, upcast
from xplayers.arrays.operation import operation


@operation
def matmul(a: Array, b: Array) -> Array:
    """Return ``a @ b``, of matrices or stacks of them of one floating dtype."""
    return a @ b


@operation
def product(a: Array, b: Array, bias: Array | None = None) -> Array:
    """Return ``a @ b`` of two matrices, plus a bias for each column; all of one floating dtype."""
    # The gradient of one sample is an outer product: NumPy's `@` takes ten times as long over it.
    y = a * b if a.shape[1] == 1 else matmul(a, b)
    if bias is not None:
        y += bias  # y is ours: half the memory traffic of a new array
    return y


@operation
def product_and_sums(a: Array, b: Array) -> tuple[Array, Array]:
    """Return ``a @ b`` of two matrices of one dtype, and the sum of `b` over its rows."""
    return product(a, b), column_sums(b)


@operation
def column_sums(a: Array) -> Array:
    """Return the sum over the first axis, of columns, in the dtype of `a`.

    16-bit values are summed in float32.
    """
    return _summed(a, 0)


@operation
def channel_sums(x: Array) -> Array:
    """Return the sum over all axes but axis 1, of channels, ``(c,)``, as in `column_sums`."""
    return column_sums(x) if len(x.shape) == 2 else _summed(x, (0, *range(2, len(x.shape))))


@operation
def channel_products(a: Array, b: Array) -> Array:
    """Return ``channel_sums(a * b)``; `a` and `b` are in at least float32."""
    return channel_sums(a * b)


def _summed(a: Array, axis: int | tuple[int, ...]) -> Array:
    xp = namespace(a)
    return downcast_like(xp.sum(upcast(xp, a), axis=axis), a)
