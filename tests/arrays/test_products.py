"""Products of NumPy's matrices, small ones by another call: the bits are those of `@`."""

import numpy as np
import pytest
from helpers import assert_same_bits, values

from xplayers.arrays.products import product

SHAPES = [(1, 5, 3), (4, 1, 3), (4, 5, 1), (2, 2, 2), (16, 16, 4), (100, 300, 50), (300, 7, 300),
          (0, 4, 3), (4, 0, 3), (4, 3, 0)]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bits(shape, dtype):
    n, k, m = shape
    for a in (values((n, k), 1), values((k, n), 1).T, values((n, 2 * k), 1)[:, ::2]):
        for b in (values((k, m), 2), values((m, k), 2).T, values((k, m), 2)[::-1]):
            a, b = a.astype(dtype), b.astype(dtype)
            assert_same_bits(product(a, b), a * b if k == 1 else np.matmul(a, b))
            bias = values((m,), 3).astype(dtype)
            expected = (a * b if k == 1 else np.matmul(a, b)) + bias
            assert_same_bits(product(a, b, bias), expected)
