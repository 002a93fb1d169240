"""Numbers of Python go to ufuncs as 0-d arrays, which is faster, and gives the same bits."""

import math

import numpy as np
import pytest
from helpers import assert_same_bits

from xplayers.accelerate.host.program import trace
from xplayers.accelerate.operators import WITH_NUMBERS, array_of_number

NUMBERS = [0, 1, -3, 0.1, -0.0, 1e-45, 1e-8, 65504, 65505, 1e30, 1e39, 2**53, 10**20, math.inf]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32"])
@pytest.mark.parametrize("number", [*NUMBERS, math.nan, True], ids=repr)
def test_same_bits(number, dtype):
    x = np.asarray([0.5, 1e-3, 3, -2, 60000]).astype(dtype)
    if dtype == "int32" and isinstance(number, int) and number > 2**31:
        pytest.skip("NumPy refuses it, with and without")
    there = array_of_number(number, np.dtype(dtype))
    for name in WITH_NUMBERS:
        with np.errstate(all="ignore"):
            expected, got = getattr(np, name)(x, number), getattr(np, name)(x, there)
        assert_same_bits(got, expected)


@pytest.mark.parametrize("number", [0.1, 3e38, 1e39, -0.0, math.nan])
def test_bound_to_memory_a_number_may_change(number):
    def function(xp, x, k):
        return (x * k + 0.3) / 7 - k

    x, out = np.linspace(-2, 2, 9, dtype=np.float32), np.empty(9, np.float32)
    run = trace(function, [np.ones(1, np.float32), 1.0], ()).bound([x], [out])
    with np.errstate(all="ignore"):
        for k in (2.0, number, 0.5):
            run(k)
            assert_same_bits(out, function(np, x, k))
