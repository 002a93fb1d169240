"""ReLU of large arrays keeps a mask, and gives the bits of small ones."""

import numpy as np
import pytest

import xplayers as xl
from xplayers.accelerate.host.memory import SMALLEST


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_large_arrays_are_computed_as_small_ones(dtype):
    n = SMALLEST // np.dtype(dtype).itemsize
    special = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, np.finfo(dtype).smallest_subnormal]
    values, gradients = (a.ravel() for a in np.meshgrid([*special, 2.0, -2.0], [*special, 3.0]))
    x = np.resize(values, n).astype(dtype)
    dy = np.resize(gradients, n).astype(dtype)
    large, small = xl.Relu(), xl.Relu()
    y, dx = large.forward(x), large.backward(dy)
    part = slice(0, len(values))
    assert y[part].tobytes() == small.forward(x[part]).tobytes()
    assert dx[part].tobytes() == small.backward(dy[part]).tobytes()
    assert not dx[part][~(x[part] > 0)].any()


def test_mask_is_a_quarter_of_the_array():
    x = np.ones(SMALLEST, np.float32)
    _, (sign,) = xl.Relu().apply({}, x)
    assert sign.dtype == np.bool_
