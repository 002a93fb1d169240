"""Embeddings: gradients of repeated integers, and integers that are out of range."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers import assert_at_home, assert_close, assert_same_bits, needs_values, values

import xplayers as xl
from xplayers.arrays.transfer import to_numpy
from xplayers.layers import embedding


class TestEmbedding:
    @pytest.mark.only("numpy", "strict", "torch")
    @pytest.mark.parametrize("rows", [10, 5000])
    def test_no_index_is_no_gradient(self, xpv, rows):
        layer = xl.Embedding.init(rows, 3, rng=0, like=xpv.asarray([0.0], "float32"))
        y = layer.forward(xpv.asarray(np.zeros((2, 0), "int64")))
        layer.backward(xpv.asarray(np.zeros((2, 0, 3)), "float32"))
        assert tuple(y.shape) == (2, 0, 3)
        assert_at_home(layer.dW, layer.W)
        assert not to_numpy(layer.dW).any()

    @pytest.mark.parametrize("n", [7, 700])
    def test_gradients_of_repeated_integers_add_up(self, n, xpv, monkeypatch):
        monkeypatch.setattr(embedding, "_BLOCK", 4 * n)  # several blocks
        x = np.asarray([[3, 0, 3], [6, 3, 0], [0, 0, 5]])
        dy = values((3, 3, 2), 1).astype("float32")
        expected = np.zeros((n, 2))
        np.add.at(expected, x, dy.astype("float64"))
        layer = xl.Embedding.init(n, 2, rng=0)
        layer.forward(xpv.asarray(x))
        assert layer.backward(xpv.asarray(dy)) is None
        assert_close(layer.dW, expected, 1e-6)
        assert_at_home(layer.dW, layer.W, layer.W.dtype)
        first = layer.dW
        layer.forward(xpv.asarray(x))
        layer.backward(xpv.asarray(dy))
        assert_same_bits(layer.dW, first)

    @pytest.mark.parametrize("n", [7, 700])
    def test_runs_of_every_length(self, n):
        rng = np.random.default_rng(0)
        for m in (1, 2, 3, 17, 64, 65):
            x = rng.integers(0, min(n, 5), m)
            dy = rng.normal(size=(m, 2))
            layer = xl.Embedding.init(n, 2, rng=0, dtype="float64")
            layer.forward(x)
            layer.backward(dy)
            expected = np.zeros((n, 2))
            np.add.at(expected, x, dy)
            assert_close(layer.dW, expected, 1e-13)

    @pytest.mark.parametrize("kind", ["uint8", "int8", "int16", "int32", "int64"])
    def test_integers_of_every_width(self, kind, xpv):
        layer = xl.Embedding.init(5, 3, rng=0)
        x = np.asarray([4, 0, 4])
        y = layer.forward(xpv.asarray(x.astype(kind)))
        layer.backward(y)
        assert_same_bits(y, to_numpy(layer.W)[x])

    def test_a_single_integer(self, xpv):
        layer = xl.Embedding.init(5, 3, rng=0)
        assert layer.forward(xpv.asarray(np.asarray(2))).shape == (3,)

    def test_parameters_keep_their_dtype(self, xpv):
        x = xpv.asarray(np.asarray([[1, 2], [3, 4]]))
        net = xl.Sequential(
            xl.Embedding.init(5, 3, rng=0), xl.Lstm.init(3, 4, rng=1), xl.Affine.init(8, 2, rng=2)
        )
        assert net.integer_input
        y = net.forward(x)
        assert_at_home(y, x, xpv.asarray([0.0], "float32").dtype)
        assert net.backward(y) is None
        net.forward(x)
        net.backward(y, input_grad=False)
        assert set(net.grads) == set(net.params)

    def test_a_step_of_training(self, xpv):
        x, t = xpv.asarray(np.asarray([[1, 2], [3, 4]])), xpv.asarray(np.asarray([0, 1]))
        net = xl.Sequential(xl.Embedding.init(5, 3, rng=0), xl.Affine.init(6, 2, rng=2))
        step = xl.TrainStep(net, xl.SoftmaxWithLoss(), xl.SGD(lr=1.0))
        losses = [float(step(x, t)) for _ in range(3)]
        assert losses[2] < losses[0]

    @pytest.mark.parametrize("bad", [-1, 5])
    def test_out_of_range(self, bad, xpv):
        needs_values(xpv)
        layer = xl.Embedding.init(5, 3, rng=0)
        message = re.escape(f"Embedding(5, 3): x has {bad}; expected 0 to 4 for a table of 5 rows.")
        with pytest.raises(ValueError, match=message):
            layer.forward(xpv.asarray(np.asarray([0, bad, 1])))

    @pytest.mark.only("numpy", "torch")
    @pytest.mark.parametrize("n", [5, 700])
    def test_an_index_that_occurs_often_loses_no_digits(self, n, xpv):
        """Added one after the other, 0.1 a million times is 100,958 in float32."""
        layer = xl.Embedding.init(n, 3, rng=0)
        index = np.where(np.arange(300_000) % 7 > 2, 0, np.arange(300_000) % n)
        layer.forward(xpv.asarray(index))
        layer.backward(xpv.asarray(np.full((300_000, 3), 0.1), "float32"))
        assert_close(layer.dW[:, 1], 0.1 * np.bincount(index, minlength=n), 3e-6)

    @pytest.mark.only("numpy", "strict", "torch", "cupy")
    @pytest.mark.parametrize("n", [5, 700])
    def test_values_that_cannot_be_looked_at(self, n, xpv, monkeypatch):
        """As on a GPU: a row of NaN and no gradient for what is out of range."""
        monkeypatch.setattr("xplayers.layers.embedding.on_host", lambda a: False)
        layer = xl.Embedding.init(n, 2, rng=0)
        y = to_numpy(layer.forward(xpv.asarray(np.asarray([1, -1, n, 0]))))
        assert np.isnan(y).all(axis=1).tolist() == [False, True, True, False]
        assert_same_bits(y[[0, 3]], to_numpy(layer.W)[[1, 0]])
        layer.backward(xpv.asarray(np.ones((4, 2)), "float32"))
        dW = to_numpy(layer.dW)
        assert (dW[:2] == 1.0).all()
        assert dW.sum() == 4.0

    @pytest.mark.only("jax")
    @pytest.mark.parametrize("n", [5, 700])
    def test_out_of_range_in_a_compiled_function(self, n, xpv):
        import jax

        layer = xl.Embedding.init(n, 2, rng=0)
        layer.predict(xpv.asarray(np.asarray([0])))
        x = xpv.asarray(np.asarray([1, -1, n]))
        y, cache = jax.jit(layer.apply)(layer.arrays, x)
        assert np.isnan(to_numpy(y)).all(axis=1).tolist() == [False, True, True]
        _, grads = jax.jit(layer.vjp)(cache, xpv.asarray(np.ones((3, 2)), "float32"))
        assert to_numpy(grads["W"]).sum() == 2.0

    def test_floats(self, xpv):
        with pytest.raises(TypeError, match=r"Embedding\(5, 3\): x is .*float32; expected integ"):
            xl.Embedding.init(5, 3).forward(xpv.asarray([0.0], "float32"))
