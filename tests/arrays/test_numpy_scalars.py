"""Options that are scalars of NumPy: the same bits as Python's numbers, and no other dtype."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import values

import xplayers as xl
from xplayers import functional, schedules
from xplayers.arrays.elementwise import elementwise
from xplayers.arrays.transfer import to_numpy

X = values((4, 3)).astype("float32")
T = values((4, 3), 1).astype("float32")


def through(make, shape=(4, 3)):
    """Return what makes the results of a layer for a kind of number."""

    def run(xpv, number):
        x = xpv.asarray(np.resize(X, shape), "float32")
        layer = make(number)
        y = layer.forward(x)
        dx = layer.backward(y)
        return [y, dx, *layer.grads.values(), *layer.buffers.values(), layer.predict(x)]

    return run


def loss(make, labels=False):
    def run(xpv, number):
        t = xpv.asarray(np.asarray([0, 2, 1, 0])) if labels else xpv.asarray(T**2 % 1, "float32")
        one = make(number)
        return [one.forward(xpv.asarray(X, "float32"), t), one.backward(2.0)]

    return run


def optimizer(make, **given):
    def run(xpv, number):
        one = make(number)
        params = {"W": xpv.asarray(X, "float32"), "b": xpv.asarray(X[0], "float32")}
        state = one.init(params)
        for _ in range(2):
            lr = {k: number(v) for k, v in given.items()}
            params, state = one.step(params, params, state, **lr)
        return [*params.values(), *(a for m in one.moments for a in state[m].values())]

    return run


def plain(call):
    return lambda xpv, number: [call(xpv.asarray(X, "float32"), number)]


@xl.elementwise
def scaled(xp, x, factor, *, shift, power=2.0):
    return x * factor + shift * power


def one_step(xpv, number):
    net = xl.mlp([3, 2], rng=0)
    step = xl.TrainStep(net, xl.SoftmaxWithLoss(), xl.Adam(lr=number(0.1), eps=number(1e-5)))
    x, t = xpv.asarray(X, "float32"), xpv.asarray(np.asarray([0, 1, 1, 0]))
    losses = [step(x, t, **({} if i % 2 else {"lr": number(0.3)})) for i in range(6)]
    return [*losses, *net.params.values()]


CASES = {
    "LeakyRelu": through(lambda n: xl.LeakyRelu(n(0.1))), "Elu": through(lambda n: xl.Elu(n(0.7))),
    "Dropout": through(lambda n: xl.Dropout(n(0.3), seed=np.int64(3))),
    "Softmax": through(lambda n: xl.Softmax(np.int64(1))),
    "BatchNormalization": through(
        lambda n: xl.BatchNormalization.init(3, momentum=n(0.7), eps=n(1e-3))
    ),
    "LayerNormalization": through(lambda n: xl.LayerNormalization.init(3, eps=n(1e-3))),
    "RmsNormalization": through(lambda n: xl.RmsNormalization.init(3, eps=n(1e-3))),
    "GroupNormalization": through(
        lambda n: xl.GroupNormalization.init(np.int64(4), np.int64(2), eps=n(1e-3)), (2, 4, 3)
    ),
    "MaxPooling": through(lambda n: xl.MaxPooling(np.int64(2)), (2, 4, 3)),
    "Huber": loss(lambda n: xl.Huber(n(0.3))),
    "MeanSquaredError": loss(lambda n: xl.MeanSquaredError()),
    "SigmoidWithLoss": loss(lambda n: xl.SigmoidWithLoss(n(0.3))),
    "SoftmaxWithLoss": loss(lambda n: xl.SoftmaxWithLoss(label_smoothing=n(0.1)), labels=True),
    "class_weights": loss(
        lambda n: xl.SoftmaxWithLoss([n(0.1), n(0.2), n(0.7)], ignore_index=np.int64(1)),
        labels=True,
    ),
    "SGD": optimizer(lambda n: xl.SGD(n(0.1), weight_decay=n(0.1))),
    "SGD(lr)": optimizer(lambda n: xl.SGD(), lr=0.3),
    "Momentum": optimizer(lambda n: xl.Momentum(n(0.1), n(0.7), n(0.1))),
    "Nesterov": optimizer(lambda n: xl.Nesterov(n(0.1), n(0.7), n(0.1))),
    "AdaGrad": optimizer(lambda n: xl.AdaGrad(n(0.1), n(1e-3), n(0.1))),
    "RMSprop": optimizer(lambda n: xl.RMSprop(n(0.1), n(0.7), n(1e-3), n(0.1))),
    "Adam": optimizer(lambda n: xl.Adam(n(0.1), n(0.7), n(0.8), n(1e-3), weight_decay=n(0.1))),
    "AdamW": optimizer(lambda n: xl.AdamW(n(0.1), n(0.7), n(0.8), n(1e-3), weight_decay=n(0.1))),
    "Cosine": optimizer(lambda n: xl.SGD(schedules.Cosine(n(0.1), np.int64(10), n(0.01)))),
    "OneCycle": optimizer(lambda n: xl.SGD(schedules.OneCycle(n(0.1), 9, n(0.3), n(20), n(9)))),
    "WarmUp": optimizer(
        lambda n: xl.SGD(schedules.WarmUp(np.int64(3), schedules.Step(n(0.1), 2, n(0.5))))
    ),
    "leaky_relu": plain(lambda x, n: functional.leaky_relu(x, alpha=n(0.1))),
    "elu": plain(lambda x, n: functional.elu(x, alpha=n(0.7))),
    "elu_derivative": plain(lambda x, n: functional.elu_derivative(x, alpha=n(0.7))),
    "softmax": plain(lambda x, n: functional.softmax(x, axis=np.int64(0))),
    "elementwise": plain(lambda x, n: scaled(x, n(1.1), shift=n(0.3), power=n(3.0))),
    "clip_by_norm": plain(lambda x, n: xl.clip_by_norm({"W": x}, n(0.3))["W"]),
    "TrainStep": one_step,
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_scalars_of_numpy(xpv, name):
    expected = CASES[name](xpv, float)
    for number in (np.float64, lambda v: np.asarray(float(v))):
        for got, same in zip(CASES[name](xpv, number), expected, strict=True):
            assert got.dtype == same.dtype
            np.testing.assert_array_equal(to_numpy(got), to_numpy(same))


@pytest.mark.parametrize("number", [np.int64, np.uint8, np.asarray])
def test_sizes_of_numpy_are_those_of_python(number):
    """Also as they are shown, and where a layer has one for each axis."""
    two, one = number(2), number(1)
    for made, same in (
        (xl.MaxPooling(two, one, one), xl.MaxPooling(2, 1, 1)),
        (xl.MaxPooling((two, 3)), xl.MaxPooling((2, 3))),
        (xl.Convolution.init(3, two, 3, stride=two, padding=one, dilation=one, rng=0),
         xl.Convolution.init(3, 2, 3, stride=2, padding=1, rng=0)),
        (xl.ConvolutionTranspose.init(3, 2, 3, stride=two, output_padding=one, rng=0),
         xl.ConvolutionTranspose.init(3, 2, 3, stride=2, output_padding=1, rng=0)),
        (xl.Reshape(two, 3), xl.Reshape(2, 3)),
    ):  # fmt: skip
        assert repr(made) == repr(same)
    for bad in (True, np.asarray(True), np.asarray(2.0), np.asarray([2])):
        with pytest.raises((TypeError, ValueError), match="MaxPooling: size is .*; expected"):
            xl.MaxPooling(bad)


@pytest.mark.only("numpy", "torch", "jax")
def test_a_rate_of_another_library_is_refused_by_name(xpv):
    strict = pytest.importorskip("array_api_strict")
    params = {"W": xpv.asarray(X, "float32")}
    for optimizer in (xl.SGD(strict.asarray(0.1)), xl.Adam(strict.asarray(0.1))):
        with pytest.raises(TypeError, match="Optimizer: lr is a array_api_strict array"):
            optimizer.step(params, params, optimizer.init(params))


def test_options_of_functions():
    for alpha in ("0.1", None, [1.0], float("nan"), X):
        with pytest.raises((TypeError, ValueError), match="elu: alpha is .*; expected a number"):
            functional.elu(X, alpha=alpha)
    with pytest.raises(TypeError, match="gelu: approximate is 3; expected 'tanh' or 'none'"):
        functional.gelu(X, approximate=3)


@pytest.mark.parametrize("n", [10, 10_000])
def test_scalars_of_numpy_do_not_decide_the_dtype(n):
    p, g = {"W": values((n,)).astype("float32")}, {"W": values((n,), 1).astype("float32")}
    for rate in (0.1, np.float64(0.1), np.float32(0.1), np.asarray(0.1)):
        optimizer = xl.Adam(lr=rate)
        new, _ = optimizer.step(p, g, optimizer.init(p))
        assert new["W"].dtype == "float32"

    @elementwise
    def scaled(xp, x, k):
        return x * (k + 1.0)

    for k in (np.float64(4.0), np.asarray(4.0)):
        assert scaled(p["W"], k).dtype == "float32"


@pytest.mark.parametrize("kind", [np.int16, np.asarray], ids=["scalar", "0-d array"])
def test_options_of_training_are_numbers_of_python(kind):
    parts = xl.mlp([3, 2], rng=0), xl.SoftmaxWithLoss(), xl.SGD()
    names = ("batch_size", "epochs", "seed", "eval_batch_size", "accumulate", "patience")
    trainer = xl.Trainer(*parts, **{name: kind(2) for name in names})
    assert [type(getattr(trainer, name)) for name in names] == [int] * 6
    with pytest.raises(ValueError, match=r"Trainer: epochs is .*2\.5.*; expected an integer of at"):
        xl.Trainer(*parts, epochs=np.asarray(2.5))
    precision = xl.MixedPrecision(init_scale=kind(4), loss_scale=kind(8), growth_interval=kind(5))
    assert repr(precision) == repr(xl.MixedPrecision(init_scale=4, loss_scale=8, growth_interval=5))
    assert xl.TrainStep(*parts, compile=np.False_).compile is False
    layer = xl.BatchNormalization(X[0], X[0], np.asarray(0.5), np.asarray(1e-3))
    assert (type(layer.momentum), type(layer.eps)) == (float, float)
