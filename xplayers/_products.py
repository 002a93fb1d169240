"""Matrix products of layers: ``@``, on NumPy into memory that is used again."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from xplayers._arrays import Array
from xplayers._memory import empty
from xplayers._sums import column_sums


class Products(Protocol):
    """What multiplies matrices in the place of ``@``: the functions below, for its arrays."""

    def matmul(self, a: Array, b: Array) -> Array: ...

    def product(self, a: Array, b: Array, bias: Array | None) -> Array: ...

    def product_and_sums(self, a: Array, b: Array) -> tuple[Array, Array]: ...


# By type of array. See `xplayers.cuda.gemm`, which is asked for by name; it is named here because
# layers do not import what is beside them.
OTHERS: dict[type, Products] = {}


def matmul(a: Array, b: Array) -> Array:
    """Return ``a @ b``."""
    other = OTHERS.get(type(a))
    return a @ b if other is None else other.matmul(a, b)


def product(a: Array, b: Array, bias: Array | None = None) -> Array:
    """Return ``a @ b`` of two matrices, plus a bias for each column."""
    other = OTHERS.get(type(a))
    if other is not None:
        return other.product(a, b, bias)
    outer = a.shape[1] == 1  # the gradient of one sample: NumPy's `@` takes ten times as long
    if type(a) is np.ndarray and a.dtype == b.dtype:
        operation: Any = np.multiply if outer else np.matmul
        y = operation(a, b, out=empty((a.shape[0], b.shape[1]), a.dtype))
    else:
        y = a * b if outer else a @ b
    if bias is not None:
        y += bias  # y is ours: half the memory traffic of a new array
    return y


def product_and_sums(a: Array, b: Array) -> tuple[Array, Array]:
    """Return ``a @ b`` of two matrices, and the sum of `b` over its rows."""
    other = OTHERS.get(type(a))
    return (product(a, b), column_sums(b)) if other is None else other.product_and_sums(a, b)
