"""Parameters that are one: in the loop, in a step, when they are moved, saved and copied."""

import copy
import pickle

import numpy as np
import pytest
from helpers import assert_same_bits, to_numpy, values

import xplayers as xl
from xplayers import TrainStep

WORDS = np.arange(20).reshape(4, 5) * 7 % 11


def square():
    """``b.W = a.W``."""
    return xl.Sequential(
        xl.Affine.init(6, 6, rng=0), xl.Tanh(), xl.Affine.init(6, 6, rng=1), xl.Affine.init(6, 3)
    )


def language_model(W):
    """The table of the words, and its transpose at the end."""
    return xl.Sequential(
        xl.Embedding(W),
        xl.Tanh(),
        xl.Affine(W.T, xl.namespace(W).zeros_like(W[:, 0]), flatten=False),
    )


def total_of(net, x, t):
    """The gradients of the two uses, by layers that share nothing."""
    apart = xl.Sequential(*copy.deepcopy(list(net)))
    for layer in apart:
        for name, p in dict(layer.params).items():
            layer.params[name] = xl.namespace(p).asarray(p, copy=True)
    loss = xl.SoftmaxWithLoss()
    loss.forward(apart.forward(x), t)
    apart.backward(loss.backward(), input_grad=False)
    return [to_numpy(layer.dW) if "W" in layer.params else None for layer in apart]


def by_hand(net, optimizer, x, t):
    loss = xl.SoftmaxWithLoss()
    loss.forward(net.forward(x), t)
    net.backward(loss.backward(), input_grad=False)
    optimizer.update(net.params, net.grads)


@pytest.mark.parametrize("how", ["loop", "auto", False])
def test_the_same_array_in_two_layers(how, xpv):
    x, t = xpv.asarray(values((4, 6)), "float32"), xpv.asarray(np.arange(4) % 3)
    net = square().to(like=x)
    net[2].W = net[0].W
    assert list(net.params) == ["0.W", "0.b", "2.b", "3.W", "3.b"]
    one, other = total_of(net, x, t)[::2]
    before = np.array(to_numpy(net[0].W))
    optimizer = xl.SGD(lr=0.5)
    if how == "loop":
        by_hand(net, optimizer, x, t)
    else:
        TrainStep(net, xl.SoftmaxWithLoss(), optimizer, compile=how)(x, t)
    for layer in (net[0], net[2]):
        np.testing.assert_allclose(
            to_numpy(layer.W), before - 0.5 * (one + other), rtol=1e-4, atol=1e-6
        )
    if how == "loop":
        np.testing.assert_allclose(to_numpy(net.grads["0.W"]), one + other, rtol=1e-4, atol=1e-6)
        assert net[0].dW is net[2].dW
        assert list(net.grads) == list(net.params)


@pytest.mark.parametrize("how", ["loop", "auto", False])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_they_stay_one(how, dtype, xpv):
    if dtype not in xpv.floats:
        pytest.skip("no such dtype here")
    x, t = xpv.asarray(values((4, 6)), dtype), xpv.asarray(np.arange(4) % 3)
    net = square().to(like=x)
    net[2].W = net[0].W
    optimizer = xl.Adam(0.01)
    step = TrainStep(net, xl.SoftmaxWithLoss(), optimizer, compile=how == "auto" and how)
    for i in range(6):
        if how == "loop":
            by_hand(net, optimizer, x, t)
        else:
            step(x, t)
        if i == 3:
            net.params["2.W"] = net.params["2.W"] * 2  # a name of both
        np.testing.assert_array_equal(to_numpy(net[0].W), to_numpy(net[2].W))
    assert set(optimizer.state["m"]) == {"0.W", "0.b", "2.b", "3.W", "3.b"}


@pytest.mark.parametrize("how", ["loop", "auto", False])
def test_a_table_and_its_transpose(how, xpv):
    """On JAX, which has no views, as NumPy arrays that are moved there."""
    net = language_model(values((11, 8)).astype("float32"))
    x, t = xpv.asarray(WORDS), xpv.asarray(WORDS % 11)
    net.to(like=xpv.asarray([1.0], "float32"))
    assert list(net.params) == ["0.W", "2.b"]
    one, _, other = total_of(net, x, t)
    before = np.array(to_numpy(net[0].W))
    optimizer = xl.SGD(lr=0.5)
    step = TrainStep(net, xl.SoftmaxWithLoss(), optimizer, compile=how == "auto" and how)
    for i in range(5):
        by_hand(net, optimizer, x, t) if how == "loop" else step(x, t)
        if i == 0:
            expected = before - 0.5 * (one + other.T)
            np.testing.assert_allclose(to_numpy(net[0].W), expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(to_numpy(net[0].W), to_numpy(net[2].W).T)


def test_copies_and_pickles_are_tied_too(xpv):
    net = language_model(values((11, 8)).astype("float32"))
    net.to(like=xpv.asarray([1.0], "float32"))
    x, t = xpv.asarray(WORDS), xpv.asarray(WORDS % 11)
    for again in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert list(again.params) == ["0.W", "2.b"]
        by_hand(again, xl.SGD(0.5), x, t)
        np.testing.assert_array_equal(to_numpy(again[0].W), to_numpy(again[2].W).T)


def test_saved_and_loaded(xpv, tmp_path):
    net = language_model(values((11, 8)).astype("float32"))
    net.to(like=xpv.asarray([1.0], "float32"))
    xl.save(tmp_path / "net.safetensors", net)
    for other in (
        language_model(np.zeros((11, 8), "float32")).to(like=net[0].W),
        xl.Sequential(xl.Embedding.init(11, 8), xl.Tanh(), xl.Affine.init(8, 11, flatten=False)),
    ):
        xl.load(tmp_path / "net.safetensors", other)
        np.testing.assert_array_equal(to_numpy(other[0].W), to_numpy(net[0].W))
        np.testing.assert_array_equal(to_numpy(other[2].W), to_numpy(net[2].W))


@pytest.mark.parametrize("how", ["auto", False])
def test_tied_while_the_loss_finds_its_place(how, xpv):
    """A loss with weights is placed in the first step: what changes there unties nothing."""
    x, t = xpv.asarray(values((4, 6)), "float32"), xpv.asarray(np.arange(4) % 3)
    net = square().to(like=x)
    net[2].W = net[0].W
    step = TrainStep(net, xl.SoftmaxWithLoss(class_weights=[1.0, 2.0, 3.0]), xl.SGD(0.5), how)
    for _ in range(4):
        step(x, t)
        assert list(net.params) == ["0.W", "0.b", "2.b", "3.W", "3.b"]
        np.testing.assert_array_equal(to_numpy(net[0].W), to_numpy(net[2].W))


def test_untied_by_another_array(xpv):
    x, t = xpv.asarray(values((4, 6)), "float32"), xpv.asarray(np.arange(4) % 3)
    net = square().to(like=x)
    net[2].W = net[0].W
    step = TrainStep(net, xl.SoftmaxWithLoss(), xl.SGD(0.5))
    for _ in range(3):
        step(x, t)
    net[2].W = xl.namespace(x).asarray(net[0].W, copy=True)
    assert "2.W" in list(net.params)
    for _ in range(3):
        step(x, t)
    assert np.any(to_numpy(net[0].W) != to_numpy(net[2].W))


@pytest.mark.only("numpy", "torch")
def test_parameters_that_share_some_memory(xpv):
    """No replay, whose flat buffer would part them: the optimizer writes to both in turn."""
    ends = []
    for how in ("auto", False, "loop"):
        flat = xpv.asarray(values((6, 9)), "float32")
        net = xl.Sequential(
            xl.Affine(flat[:, :6], flat[0, :6] * 0),
            xl.Affine(flat[:, 3:9], flat[0, :6] * 0),
            xl.Affine.init(6, 3, rng=0),
        )
        x, t = xpv.asarray(values((4, 6)), "float32"), xpv.asarray(np.arange(4) % 3)
        optimizer = xl.SGD(0.1)
        step = TrainStep(net, xl.SoftmaxWithLoss(), optimizer, compile=how == "auto" and how)
        for _ in range(4):
            by_hand(net, optimizer, x, t) if how == "loop" else step(x, t)
        ends.append(np.array(to_numpy(flat)))
    for other in ends[1:]:
        np.testing.assert_array_equal(ends[0], other)


@pytest.mark.parametrize("compile", ["auto", False])
def test_a_state_that_does_not_fit_after_untying_is_refused_each_time(xpv, compile):
    first, second = xl.Affine.init(3, 3, rng=0), xl.Affine.init(3, 3, rng=1)
    second.W = first.W
    step = xl.TrainStep(xl.Sequential(first, second), xl.MeanSquaredError(), xl.Momentum(),
                        compile=compile)  # fmt: skip
    x = xpv.asarray(np.eye(3), "float32")
    step(x, x)
    second.W = xpv.asarray(np.eye(3), "float32")
    for _ in range(2):
        with pytest.raises(ValueError, match="no v of 1.W"):
            step(x, x)


@pytest.mark.only("numpy", "readonly", "torch")  # JAX arrays have no views
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("compile", ["auto", False])
def test_a_step_of_a_part_keeps_a_tie_to_what_is_beside_it(xpv, compile, dtype):
    """As in an encoder that is trained by itself, whose transpose is the decoder."""
    if dtype not in xpv.floats:
        pytest.skip(f"no {dtype} here")
    encoder, decoder = xl.Affine.init(4, 3, rng=0), xl.Affine.init(3, 4, rng=1)
    both = xl.Sequential(encoder, decoder).to(like=xpv.asarray(np.zeros(1), dtype))
    decoder.W = encoder.W.T
    before = to_numpy(decoder.W).copy()
    inner = xl.Sequential(encoder, xl.Tanh())
    step = xl.TrainStep(inner, xl.MeanSquaredError(), xl.SGD(lr=0.1), compile=compile)
    x, t = (xpv.asarray(values((2, n), n), dtype) for n in (4, 3))
    for _ in range(4):
        step(x, t)
    assert list(both.params) == ["0.W", "0.b", "1.b"]
    assert_same_bits(decoder.W, encoder.W.T)
    assert np.any(to_numpy(decoder.W) != before)
    outer = xl.TrainStep(both, xl.MeanSquaredError(), xl.SGD(lr=0.1), compile=compile)
    for i in range(4):
        outer(x, x)
        step(x, t)
        assert_same_bits(decoder.W, encoder.W.T, f"step {i}")
