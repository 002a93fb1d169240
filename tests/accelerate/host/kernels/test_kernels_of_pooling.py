"""Kernels of poolings: the bits of the portable bodies where windows do not overlap."""

import numpy as np
import pytest
from helpers import assert_same_bits

from xplayers.arrays.operation import portable_body
from xplayers.layers.pooling import average_pooling_gradient, max_pooling, max_pooling_gradient
from xplayers.layers.windows import geometry

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("for_all_sizes")]


# Shape of x, size, stride and padding.
WINDOWS = [
    ((3, 2, 6, 8), (2, 2), 2, 0),
    ((2, 3, 7, 9), (2, 3), (2, 3), 0),
    ((1, 1, 9, 5), (2, 1), (4, 2), (1, 0)),
    ((2, 2, 11), (3,), 4, 1),
    ((70, 5, 30, 31), (2, 2), 2, 1),
]
OVERLAPPING = [
    ((2, 3, 7, 9), (3, 3), 2, 1),
    ((2, 3, 6, 5), (3, 2), 1, (1, 1)),
    ((2, 1, 12), (5,), 2, 2),
]


def arrays(shape, size, stride, padding):
    window = geometry("Pooling", size, stride, padding)
    rng = np.random.default_rng(0)
    x = rng.integers(-2, 3, shape).astype(np.float32)  # with equal values
    dy = rng.standard_normal((*shape[:2], *window.outputs(shape[2:]))).astype(np.float32)
    dy.reshape(-1)[::3] = -0.0
    return x, dy, window


@pytest.mark.parametrize("options", WINDOWS + OVERLAPPING)
def test_values(options):
    x, dy, window = arrays(*options)
    y = max_pooling(x, window)
    for gradient, *arguments in (
        (max_pooling_gradient, x, y, dy, window),
        (average_pooling_gradient, x, dy, window),
    ):
        got, expected = gradient(*arguments), portable_body(gradient)(*arguments)
        if options in WINDOWS:
            of_average = gradient is average_pooling_gradient
            assert_same_bits(*((got + 0.0, expected + 0.0) if of_average else (got, expected)))
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
        assert got.dtype == np.float32


@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf])
def test_what_is_no_number(value):
    x, dy, window = arrays(*OVERLAPPING[0])
    x[0], x[1, 1, 3:, 2] = value, value
    y = max_pooling(x, window)
    expected = portable_body(max_pooling_gradient)(x, y, dy, window)
    np.testing.assert_allclose(max_pooling_gradient(x, y, dy, window), expected, atol=1e-6)


def test_any_layout():
    x, dy, window = arrays(*OVERLAPPING[0])
    y = max_pooling(x, window)
    expected = max_pooling_gradient(x, y, dy, window)
    average = average_pooling_gradient(x, dy, window)
    x.flags.writeable = dy.flags.writeable = False
    others = np.asfortranarray(x), np.asfortranarray(y), np.asfortranarray(dy)
    assert_same_bits(max_pooling_gradient(*others, window), expected)
    assert_same_bits(average_pooling_gradient(others[0], others[2], window), average)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_dtypes_and_no_values_are_left_to_the_bodies(dtype):
    x, dy, window = arrays(*OVERLAPPING[1])
    x, dy = x.astype(dtype), dy.astype(dtype)
    y = max_pooling(x, window)
    assert max_pooling_gradient(x, y, dy, window).dtype == dtype
    assert average_pooling_gradient(x, dy, window).dtype == dtype
    x, dy, y = x[:0].astype(np.float32), dy[:0].astype(np.float32), y[:0].astype(np.float32)
    assert max_pooling_gradient(x, y, dy, window).shape == x.shape
    assert average_pooling_gradient(x, dy, window).shape == x.shape
