"""The learning-rate range test."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_same_arrays

import xplayers as xl

(X, T), HELD_OUT = xl.data.load_digits()


def test_the_suggestion_trains(xpv):
    x, t = xpv.asarray(X[:600], "float32"), xpv.asarray(T[:600])
    net, optimizer = xl.mlp([64, 30, 10], rng=0), xl.SGD(0.5)
    net.to(like=x)
    before = net.params.copy()
    test = xl.find_learning_rate(net, xl.SoftmaxWithLoss(), optimizer, x, t)
    assert_same_arrays(net.params, before)
    assert optimizer.lr == 0.5
    assert 0.01 < test.suggestion < 2
    np.testing.assert_allclose(test.rates[:2], [1e-6, 1e-6 * 10 ** (7 / 99)], rtol=1e-12)
    assert len(test.losses) == len(test.rates) <= 100
    assert test.losses.min() < 0.8 * test.losses[0]
    net = xl.mlp([64, 30, 10], rng=0)
    history = xl.Trainer(
        net, xl.SoftmaxWithLoss(), xl.SGD(test.suggestion), epochs=3, progress=False
    ).fit(x, t)
    assert history["loss"][-1] < 1.0


def test_it_is_a_training_by_growing_rates():
    x, t = X[:64], T[:64]
    test = xl.find_learning_rate(
        xl.mlp([64, 10], rng=0), xl.SoftmaxWithLoss(), xl.SGD(), x, t,
        least=0.01, most=1.0, steps=11, batch_size=64,
    )  # fmt: skip
    net, average, expected = xl.mlp([64, 10], rng=0), 0.0, []
    loss = xl.SoftmaxWithLoss()
    for i in range(11):
        ((x_batch, t_batch),) = xl.minibatches(x, t, 64, np.random.default_rng([0, i]))
        average = 0.9 * average + 0.1 * float(loss.forward(net.forward(x_batch), t_batch))
        expected.append(average / (1 - 0.9 ** (i + 1)))
        net.backward(loss.backward())
        xl.SGD(0.01 * 10 ** (i / 5)).update(net.params, net.grads)
    np.testing.assert_allclose(test.losses, expected, rtol=1e-5)


def test_it_ends_where_the_loss_diverges():
    test = xl.find_learning_rate(
        xl.mlp([64, 10], rng=0), xl.MeanSquaredError(), xl.SGD(), X[:200],
        np.eye(10, dtype="float32")[T[:200]], most=1e6, steps=60,
    )  # fmt: skip
    assert len(test.rates) < 60
    assert np.isfinite(test.losses).all()
    assert "suggestion" in repr(test)


def test_its_plot(tmp_path):
    pytest.importorskip("matplotlib")
    test = xl.find_learning_rate(
        xl.mlp([64, 10], rng=0), xl.SoftmaxWithLoss(), xl.Adam(), X[:100], T[:100], steps=20
    )
    (axes,) = test.plot(tmp_path / "rates.png").axes
    assert axes.get_xscale() == "log"
    assert (tmp_path / "rates.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"least": 0.0}, "find_learning_rate: least is 0.0"),
        ({"least": 1.0, "most": 0.5}, "find_learning_rate: most is 0.5"),
        ({"steps": 9}, "find_learning_rate: steps is 9"),
        ({"least": 1e30, "most": 1e38}, "the loss is not finite from the beginning"),
    ],
)
def test_mistakes(options, words):
    net = xl.mlp([64, 30, 10], rng=0)
    with pytest.raises(ValueError, match=words):
        xl.find_learning_rate(net, xl.SoftmaxWithLoss(), xl.SGD(), X, T, **options)
    with pytest.raises(TypeError, match="find_learning_rate"):
        xl.find_learning_rate(net, xl.Adam(), xl.SGD(), X, T)


def test_no_samples_and_no_arrays():
    net, loss = xl.mlp([64, 10], rng=0), xl.SoftmaxWithLoss()
    with pytest.raises(ValueError, match=r"x has shape \(0, 64\); there are no samples"):
        xl.find_learning_rate(net, loss, xl.SGD(), X[:0], T[:0])
    with pytest.raises(TypeError, match="find_learning_rate: x is a list"):
        xl.find_learning_rate(net, loss, xl.SGD(), X.tolist(), T)
