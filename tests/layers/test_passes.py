"""Passes: what is pending, and what a forward and its backward leave behind."""

from __future__ import annotations

import concurrent.futures

import numpy as np
import pytest
from helpers import assert_same_bits, values

import xplayers as xl


class TestPending:
    def test_backward_before_forward_says_what_to_call(self, xpv):
        dy = xpv.asarray(np.ones((2, 3)), "float32")
        with pytest.raises(
            RuntimeError, match=r"Relu\.backward: no forward to undo\. Call forward"
        ):
            xl.Relu().backward(dy)

    def test_one_forward_allows_one_backward(self):
        layer = xl.Relu()
        layer.backward(layer.forward(np.ones((2, 3))))
        with pytest.raises(RuntimeError, match="each forward allows one backward"):
            layer.backward(np.ones((2, 3)))

    def test_evaluating_with_forward_does_not_leak(self):
        layer, x = xl.Affine.init(3, 2, rng=0), np.ones((4, 3), "float32")
        for _ in range(layer.pending_limit):
            layer.forward(x)
        with pytest.raises(RuntimeError, match=r"Affine\(3 -> 2\)\.forward: 64 .*call predict"):
            layer.forward(x)
        layer.zero_grads()
        layer.backward(layer.forward(x))

    def test_a_failed_backward_keeps_the_pass(self):
        layer = xl.Relu()
        y = layer.forward(np.ones((2, 3)))
        with pytest.raises(ValueError, match="shape"):
            layer.backward(np.ones((3, 2)))
        assert layer.backward(y).shape == (2, 3)

    def test_a_new_pass_starts_gradients_afresh(self):
        layer, x, dy = xl.Affine(np.ones((2, 2)), np.ones(2)), np.ones((1, 2)), np.ones((1, 2))
        for _ in range(3):
            layer.forward(x)
            layer.backward(dy)
            assert layer.dW.tolist() == [[1, 1], [1, 1]]

    def test_an_evaluation_with_forward_in_between_does_not_add_up(self):
        """The book calls forward to evaluate; the next pass must not add to old gradients."""
        layer, x, dy = xl.Affine(np.ones((2, 2)), np.ones(2)), np.ones((1, 2)), np.ones((1, 2))
        for _ in range(3):
            layer.forward(x)  # evaluation: never undone
            layer.forward(x)
            layer.backward(dy)
            assert layer.dW.tolist() == [[1, 1], [1, 1]]

    def test_containers_that_share_a_layer_add_up_in_one_pass(self):
        shared = xl.Affine(np.asarray([[2.0]]), np.asarray([0.0]))
        one, two = xl.Sequential(shared), xl.Sequential(shared, xl.Relu())
        a, b = one.forward(np.asarray([[3.0]])), two.forward(np.asarray([[5.0]]))
        two.backward(np.ones_like(b))
        one.backward(np.ones_like(a))
        assert shared.dW.tolist() == [[8.0]]

    def test_zero_grads_forgets_both(self):
        layer = xl.Affine.init(2, 2, rng=0)
        layer.backward(layer.forward(np.ones((1, 2), "float32")))
        layer.forward(np.ones((1, 2), "float32"))
        layer.zero_grads()
        assert not layer.grads
        assert layer.dW is None
        with pytest.raises(RuntimeError, match="no forward"):
            layer.backward(np.ones((1, 2), "float32"))

    def test_predict_is_safe_from_threads(self):
        net, x = xl.mlp([5, 50, 3], rng=0), values((40, 5)).astype("float32")
        expected = net(x)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for y in pool.map(lambda _: net.predict(x), range(64)):
                assert_same_bits(y, expected)
        assert not net._pending


def test_a_loss_says_how_it_is_evaluated():
    loss, x = xl.MeanSquaredError(), np.zeros((1, 1))
    for _ in range(loss.pending_limit):
        loss.forward(x, x)
    with pytest.raises(RuntimeError, match=r"call the loss itself, loss\(scores, target\)"):
        loss.forward(x, x)
