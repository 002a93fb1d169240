"""Kernels of softmax, cross entropy, attention and sigmoid against portable bodies in float64."""

import math

import numpy as np
import pytest

import xplayers as xl
from xplayers import functional
from xplayers.accelerate.host.kernels import exponentials, kernel
from xplayers.arrays.operation import portable_body
from xplayers.layers.activations import softmax_gradient
from xplayers.layers.attention import attention_weights
from xplayers.layers.recurrent import lstm_cell, lstm_cell_gradient
from xplayers.losses.softmax import cross_entropy_of_labels

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("for_all_sizes")]


SHAPES = [(1, 2), (3, 10), (4, 5, 7), (129, 33), (2, 3, 4, 301)]
SCALES = [1e-3, 1.0, 30.0, 1e4, 5e37]


def array(shape, scale=1.0, seed=0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def assert_near(a, b, x=0.0):
    """Compare with exact values: to some units in the last place, and those that `x` has lost.

    A difference of scores is rounded, and what that loses is relative in its exponential.
    """
    units = 4.0 + np.ptp(np.clip(x, -100.0, 100.0))
    assert a.dtype == np.float32
    with np.errstate(over="ignore"):
        b = np.asarray(b).astype(np.float32)
    np.testing.assert_allclose(a, b, rtol=units * 2.0**-24, atol=2.0**-126)


def test_exponentials():
    """To less than a unit in the last place, with the numbers that lie below the normal ones."""
    x = np.linspace(-110.0, 88.0, 200_003).astype(np.float32)
    y = np.empty_like(x)
    # The sigmoid of large negative numbers is their exponential.
    exponentials.sigmoid(x, y, 0, x.size)
    e = np.exp(x.astype(np.float64))
    expected = e / (1.0 + e)
    last = np.spacing(expected.astype(np.float32))
    assert np.max(np.abs(y - expected) / last) < 2.5
    low = (x < -17.5) & (x > -103.0)
    assert np.max((np.abs(y - expected) / last)[low]) < 1.5
    assert y[x < -104.0].max() == 0.0
    assert y[x > 20.0].min() == 1.0


@pytest.mark.parametrize("shape", [(), (1,), (1000, 3), (5, 70_001)])
def test_sigmoid(shape):
    x = array(shape, 20.0)
    y = functional.sigmoid(x)
    assert_near(y, functional.sigmoid.function(np, x.astype(np.float64)))
    assert y.shape == shape
    special = np.asarray([np.nan, np.inf, -np.inf, 0.0, -0.0, 3e38, -3e38], np.float32)
    np.testing.assert_array_equal(functional.sigmoid(special), [np.nan, 1, 0, 0.5, 0.5, 1, 0])
    out = np.empty(shape, np.float32)
    assert functional.sigmoid(x, out=out) is out
    np.testing.assert_array_equal(out, y)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", SHAPES)
def test_softmax(shape, scale):
    x, dy = array(shape, scale), array(shape, 1.0, 1)
    y = functional.softmax(x)
    assert_near(y, functional.softmax(x.astype(np.float64)), x)
    dx = softmax_gradient(dy, y, -1)
    expected = portable_body(softmax_gradient)(dy.astype(np.float64), y.astype(np.float64), -1)
    np.testing.assert_allclose(dx, expected, rtol=1e-6, atol=1e-6)


SPECIAL = [
    [np.inf, 1.0, -np.inf],
    [np.inf, np.inf, 0.0],
    [-np.inf, 1.0, 1.0],
    [-np.inf, -np.inf, -np.inf],
    [np.nan, 1.0, 2.0],
    [1.0, 2.0, np.nan],
    [np.inf, np.nan, 2.0],
    [3e38, -3e38, 3e38],
]


@pytest.mark.parametrize("row", SPECIAL)
def test_infinite_scores(row):
    x = np.asarray([row, [0.0, 1.0, 2.0]], np.float32)
    wide = x.astype(np.float64)
    with np.errstate(all="ignore"):
        assert_near(functional.softmax(x), functional.softmax(wide))
        for label in range(3):
            labels = np.asarray([label, 1])
            got = cross_entropy_of_labels(x, labels)
            for a, b in zip(got, portable_body(cross_entropy_of_labels)(wide, labels), strict=True):
                assert_near(a, b)


@pytest.mark.parametrize("scale", SCALES[:-1])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["int64", "uint8"])
def test_cross_entropy(shape, scale, dtype):
    x = array(shape, scale)
    labels = np.random.default_rng(1).integers(0, shape[-1], shape[:-1]).astype(dtype)
    loss, dx = cross_entropy_of_labels(x, labels)
    expected = portable_body(cross_entropy_of_labels)(x.astype(np.float64), labels)
    assert_near(loss, expected[0], x)
    assert_near(dx, expected[1], x)
    given = np.empty_like(loss), np.empty_like(dx)
    cross_entropy_of_labels(x, labels, out=given)
    for a, b in zip(given, (loss, dx), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_small_loss_keeps_its_digits():
    loss, dx = cross_entropy_of_labels(np.asarray([[20.0, 0.0]], np.float32), np.asarray([0]))
    assert math.isclose(loss[0], 2.0611536e-9, rel_tol=1e-6)
    assert math.isclose(-dx[0, 0], 2.0611536e-9, rel_tol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True, "integers"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 4, 4), (3, 2, 5, 9), (2, 2, 9, 5)])
def test_attention_weights(shape, causal, masked):
    scores = array(shape, 5.0)
    keep = np.random.default_rng(2).random((shape[0], shape[-1])) < 0.5
    keep[0] = False  # a sample without keys
    mask = None if not masked else keep if masked is True else keep.astype(np.int64) * 2
    a = attention_weights(scores, mask, causal)
    assert_near(
        a, portable_body(attention_weights)(scores.astype(np.float64), mask, causal), scores
    )
    if masked:
        assert not a[0].any()


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_dtypes_are_left_to_the_bodies(dtype):
    x = array((4, 5)).astype(dtype)
    for function in (functional.softmax, functional.sigmoid):
        y = function(x)
        assert y.dtype == dtype
        np.testing.assert_allclose(y, function(x.astype(np.float64)), rtol=1e-3)
    assert softmax_gradient(x, x, -1).dtype == dtype
    assert functional.softmax(x[:0]).shape == (0, 5)


def test_any_layout_gives_the_same_bits():
    x = array((6, 8))
    y, z = functional.softmax(x), functional.sigmoid(x)
    for other in (np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], x):
        other.flags.writeable = False
        np.testing.assert_array_equal(functional.softmax(other), y)
        np.testing.assert_array_equal(functional.sigmoid(other), z)
    np.testing.assert_allclose(functional.softmax(x, axis=0), functional.softmax(x.T).T, rtol=1e-6)


def test_replays_have_the_bits_of_the_plain_steps():
    x, t = array((8, 5, 6)), np.random.default_rng(0).integers(0, 6, (8, 5))
    steps = []
    for compile in ("auto", False):
        net = xl.Sequential(
            xl.MultiHeadAttention.init(6, 2, causal=True, rng=0), xl.LayerNormalization.init(6),
            xl.Sigmoid(), xl.Softmax(),
        )  # fmt: skip
        step = xl.TrainStep(net, xl.SoftmaxWithLoss(), xl.Adam(), compile=compile)
        losses = [step(x, t).tobytes() for _ in range(5)]
        steps.append((losses, [p.tobytes() for p in net.params.values()]))
    assert steps[0] == steps[1]


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (33, 130)])
def test_cell_of_an_lstm(shape):
    n, hidden = shape
    a, c = array((n, 4 * hidden), 3.0), array(shape, 1.0, 1)
    c[0, 0] = 0.01  # where 1 - tanh would cancel
    h, after, gates = lstm_cell(a, c)
    wide = a.astype(np.float64), c.astype(np.float64)
    h_exact, after_exact, *gates_exact = portable_body(lstm_cell)(*wide)
    assert_near(gates, np.concatenate(gates_exact, axis=1))
    np.testing.assert_allclose(after, after_exact, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(h, h_exact, rtol=1e-6, atol=1e-6)
    given = [array(shape, 1.0, seed) for seed in (2, 3, 4)]
    got = lstm_cell_gradient(*given, (gates,), c, after)
    exact = [a.astype(np.float64) for a in given]
    expected = portable_body(lstm_cell_gradient)(*exact, tuple(gates_exact), wide[1], after_exact)
    for g, e in zip(got, expected, strict=True):
        assert g.dtype == np.float32
        np.testing.assert_allclose(g, e, rtol=2e-6, atol=1e-6)


def test_hyperbolic_tangent():
    """In the gate of the candidate, to some units in the last place."""
    x = np.linspace(-12.0, 12.0, 40_001).astype(np.float32)
    x[:8] = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-30, 0.625, -0.625]
    a = np.zeros((x.size, 4), np.float32)
    a[:, 2] = x
    _, _, gates = lstm_cell(a, np.zeros((x.size, 1), np.float32))
    assert_near(gates[:, 2], np.tanh(x.astype(np.float64)))


def test_an_lstm_is_that_of_the_portable_body(monkeypatch):
    layer = xl.Lstm.init(6, 5, bidirectional=True, rng=0)
    x, dy = array((4, 7, 6)), array((4, 7, 10), 1.0, 1)

    def results():
        y = layer.forward(x)
        return [y, layer.backward(dy), *layer.grads.values()]

    got = [a.copy() for a in results()]
    monkeypatch.setattr(kernel, "smallest", lambda: math.inf)
    for a, b in zip(got, results(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=3e-6)
