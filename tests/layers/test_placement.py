"""Where the arrays of a network are: they follow the first input, and `to`."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_at_home, assert_same_arrays, values

import xplayers as xl


class TestPlacement:
    def test_initial_values_follow_the_first_input(self, xpv):
        for dtype in xpv.floats:
            net = xl.mlp([4, 3, 2], rng=0)
            x = xpv.asarray(values((5, 4)), dtype)
            y = net.forward(x)
            assert_at_home(y, x)
            for p in net.params.values():
                assert_at_home(p, x)

    def test_the_same_seed_gives_the_same_bits(self, xpv):
        net = xl.mlp([4, 3, 2], rng=7)
        host = {k: v.copy() for k, v in net.params.items()}
        net.predict(xpv.asarray(values((1, 4)), "float32"))
        assert_same_arrays(net.params, host)

    def test_after_the_first_input_a_mismatch_raises(self):
        net = xl.mlp([4, 2], rng=0)
        net.predict(np.ones((1, 4), "float32"))
        with pytest.raises(TypeError, match=r"x is float64, 0\.W is float32.*layer\.to\(like=x\)"):
            net.predict(np.ones((1, 4)))

    def test_the_caller_s_arrays_are_never_moved(self, xpv):
        if xpv.backend in ("numpy", "readonly"):
            pytest.skip("needs another library than NumPy")
        layer = xl.Affine(np.ones((4, 2), "float32"), np.ones(2, "float32"))
        x = xpv.asarray(np.ones((1, 4)), "float32")
        message = r"Affine\(4 -> 2\): x is a .* array on .*, W is a numpy array on the CPU"
        with pytest.raises(TypeError, match=message):
            layer.forward(x)
        assert_at_home(layer.to(like=x).forward(x), x)

    def test_to_leaves_integer_buffers_their_dtype(self):
        class Counting(xl.Layer):
            n = xl.Buffer()

            def __init__(self):
                self.n = np.asarray(3)

        layer = Counting().to(dtype="float32")
        assert layer.n.dtype == "int64"

    def test_to_moves_floating_buffers_with_the_parameters(self):
        layer = xl.BatchNormalization.init(3)
        for dtype, statistics in [("float64",) * 2, ("float16", "float32"), ("float32",) * 2]:
            layer.to(dtype=dtype)
            assert layer.gamma.dtype == dtype
            assert layer.running_var.dtype == statistics
            assert layer.to(like=layer.gamma).running_mean.dtype == statistics
        layer.to(like=layer.gamma, dtype="float16")
        assert layer.gamma.dtype == "float16"
        assert layer.running_mean.dtype == "float32"

    def test_to_forgets_gradients_and_passes(self):
        layer = xl.Affine.init(2, 2, rng=0)
        layer.backward(layer.forward(np.ones((1, 2), "float32")))
        layer.forward(np.ones((1, 2), "float32"))
        layer.to(dtype="float64")
        assert not layer.grads
        with pytest.raises(RuntimeError, match="no forward"):
            layer.backward(np.ones((1, 2)))


def test_a_failed_call_does_not_place_the_parameters(xpv):
    net = xl.mlp([2, 2], rng=0)
    with pytest.raises(TypeError, match="expected floating-point"):
        net.forward(xpv.asarray(np.ones((1, 2), "int32")))
    net.forward(xpv.asarray(np.ones((1, 2)), xpv.floats[0]))
