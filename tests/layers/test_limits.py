"""Activations where numbers end: at infinity, NaN, the largest and the smallest numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import TOLERANCE, values

import xplayers as xl
from xplayers import functional as F
from xplayers.accelerate.host.elementwise import PLAIN
from xplayers.arrays.namespaces import namespace
from xplayers.arrays.transfer import to_numpy

GELU = {"approximate": "none"}
# The layer, its function and derivative with options, and for -inf and inf the value and the slope.
ACTIVATIONS = {
    "relu": (xl.Relu(), F.relu, F.relu_derivative, {}, (0, math.inf), (0, 1)),
    "leaky_relu": (
        xl.LeakyRelu(0.25), F.leaky_relu, F.leaky_relu_derivative, {"alpha": 0.25},
        (-math.inf, math.inf), (0.25, 1),
    ),
    "leaky_relu-flat": (
        xl.LeakyRelu(0.0), F.leaky_relu, F.leaky_relu_derivative, {"alpha": 0.0},
        (0, math.inf), (0, 1),
    ),
    "elu": (xl.Elu(2.0), F.elu, F.elu_derivative, {"alpha": 2.0}, (-2, math.inf), (0, 1)),
    "sigmoid": (xl.Sigmoid(), F.sigmoid, F.sigmoid_derivative, {}, (0, 1), (0, 0)),
    "tanh": (xl.Tanh(), F.tanh, F.tanh_derivative, {}, (-1, 1), (0, 0)),
    "softplus": (xl.Softplus(), F.softplus, F.softplus_derivative, {}, (0, math.inf), (0, 1)),
    "silu": (xl.Silu(), F.silu, F.silu_derivative, {}, (0, math.inf), (0, 1)),
    "gelu": (xl.Gelu(), F.gelu, F.gelu_derivative, {}, (0, math.inf), (0, 1)),
    "gelu-none": (xl.Gelu("none"), F.gelu, F.gelu_derivative, GELU, (0, math.inf), (0, 1)),
}  # fmt: skip
COPIES = {"plain": 1, "in one pass": PLAIN}


def end_of(dtype):
    return {"float16": 65504.0, "bfloat16": 3.38e38, "float32": 3.4e38}.get(dtype, 1.7e308)


def forms(name, x):
    """Value and slope, by the functions and by the layer."""
    layer, function, derivative, options, *_ = ACTIVATIONS[name]
    yield to_numpy(function(x, **options)), to_numpy(derivative(x, **options))
    y = layer.forward(x)
    yield to_numpy(y), to_numpy(layer.backward(namespace(x).ones_like(x)))


@pytest.mark.parametrize("copies", COPIES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_at_infinity_and_at_the_largest_numbers(name, copies, xpv):
    """No warning either: warnings are errors."""
    values_there, slopes = ACTIVATIONS[name][4:]
    for dtype in xpv.floats:
        end = end_of(dtype)
        x = np.repeat([-math.inf, math.inf, -end, end, -1000.0, 1000.0], COPIES[copies])
        for y, slope in forms(name, xpv.asarray(x, dtype)):
            y, slope = (np.unique(a.reshape(6, -1), axis=1) for a in (y, slope))
            assert y.shape == slope.shape == (6, 1)
            assert y[:2, 0].tolist() == list(values_there), (dtype, y)
            for i, limit in enumerate([*slopes] * 3):
                assert slope[i, 0] == pytest.approx(limit, abs=1e-30, rel=1e-3), (dtype, i)
            for i, limit in enumerate(values_there):
                steep = slopes[i] * (-1000.0, 1000.0)[i] if math.isinf(limit) else limit
                assert y[4 + i, 0] == pytest.approx(steep, abs=1e-30, rel=1e-2), (dtype, i)
                steep = slopes[i] * (-end, end)[i] if math.isinf(limit) else limit
                assert y[2 + i, 0] == pytest.approx(steep, abs=1e-30, rel=1e-2), (dtype, i)


@pytest.mark.parametrize("copies", COPIES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_stays(name, copies, xpv):
    for dtype in xpv.floats:
        x = xpv.asarray(np.full(COPIES[copies] + 1, math.nan), dtype)
        for y, slope in forms(name, x):
            assert np.isnan(y).all(), dtype
            assert name.startswith(("relu", "leaky")) or np.isnan(slope).all(), dtype


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_about_zero(name, xpv):
    """Subnormal numbers may count as 0 (in JAX), but give no other value than their neighbours."""
    _, function, derivative, options, *_ = ACTIVATIONS[name]
    for dtype in xpv.floats:
        tiny = 6e-8 if dtype == "float16" else 1e-44 if dtype != "float64" else 5e-324
        x = np.asarray([tiny, -tiny, 0.0, -0.0])
        y = to_numpy(function(xpv.asarray(x, dtype), **options)).astype("float64")
        exact = function(np.asarray([0.0]), **options)
        assert np.max(np.abs(y - exact)) <= max(2 * tiny, TOLERANCE[dtype] * abs(exact[0]))
        slope = to_numpy(derivative(xpv.asarray(x[2:], dtype), **options)).astype("float64")
        exact = derivative(np.asarray([0.0]), **options)
        assert np.max(np.abs(slope - exact)) <= TOLERANCE[dtype]


@pytest.mark.parametrize("name", ["sigmoid", "silu", "softplus"])
def test_tails_keep_their_digits(name, xpv):
    """Against the formulas in 64 bits, down to the smallest normal number and beyond where 1 is."""
    _, function, derivative, options, *_ = ACTIVATIONS[name]
    for dtype in xpv.floats:
        low = {"float16": -8.0, "float64": -700.0}.get(dtype, -80.0)
        x = to_numpy(xpv.asarray(np.linspace(low, 120.0, 2001), dtype)).astype("longdouble")
        s = 1 / (1 + np.exp(-x))
        exact = {
            "sigmoid": (s, s / (1 + np.exp(x))),
            "silu": (x * s, s * (1 + x / (1 + np.exp(x)))),
            "softplus": (np.logaddexp(x, 0), s),
        }[name]
        relative = 4e-3 * (8 if dtype == "bfloat16" else 1) if "16" in dtype else 4e-6
        for f, e in zip((function, derivative), exact, strict=True):
            got = to_numpy(f(xpv.asarray(x.astype("float64"), dtype), **options))
            normal = np.abs(e) > (1e-4 if dtype == "float16" else 1e-37)
            # silu has a minimum, where its slope has few digits
            off = np.abs(got.astype("longdouble") - e) / np.maximum(np.abs(e), 1e-300)
            at = (name != "silu") | (np.abs(x + 1.28) > 0.5)
            assert np.max(off[normal & at]) < relative, (dtype, f)


class TestSoftmax:
    @pytest.mark.parametrize("axis", [0, 1])
    def test_infinite_scores(self, axis, xpv):
        rows = np.asarray([
            [-math.inf, 0.0, 0.0], [math.inf, 0.0, -math.inf], [math.inf, math.inf, 5.0],
        ])  # fmt: skip
        p = np.asarray([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
        with np.errstate(divide="ignore"):
            logs = np.log(p)
        for dtype in xpv.floats:
            x = xpv.asarray(rows if axis else rows.T, dtype)
            for function, exact in ((F.softmax, p), (F.log_softmax, logs)):
                got = to_numpy(function(x, axis=axis)).astype("float64")
                got = got if axis else got.T
                far = exact < -1e3  # of two numbers, the largest of which is not infinite
                assert (got[far] < -6.5e4).all()
                np.testing.assert_allclose(got[~far], exact[~far], 4e-3)

    def test_rows_of_minus_infinity_are_nan_and_spoil_no_others(self, xpv):
        for dtype in xpv.floats:
            x = xpv.asarray([[-math.inf] * 3, [math.nan, 0.0, 0.0], [0.0] * 3], dtype)
            for function, value in ((F.softmax, 1 / 3), (F.log_softmax, -math.log(3))):
                with np.errstate(invalid="ignore"):
                    got = to_numpy(function(x)).astype("float64")
                assert np.isnan(got[:2]).all()
                np.testing.assert_allclose(got[2], value, 4e-3)

    def test_the_layer(self, xpv):
        layer = xl.Softmax()
        y = to_numpy(layer.forward(xpv.asarray([[math.inf, 1.0], [0.0, -math.inf]], "float32")))
        assert y.tolist() == [[1.0, 0.0], [1.0, 0.0]]
        dx = to_numpy(layer.backward(xpv.asarray(values((2, 2)), "float32")))
        assert np.abs(dx).max() == 0.0
