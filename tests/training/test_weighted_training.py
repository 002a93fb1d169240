"""Weights of samples in steps, trainers and evaluations: as many repetitions, on every library."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import assert_close, assert_same_arrays, assert_same_bits, says
from trainers import CLASSES, LOSSES, N, T, X, copies, data, network, table, trainer

import xplayers as xl
from xplayers.arrays.namespaces import namespace
from xplayers.arrays.transfer import to_numpy
from xplayers.training.accumulation import AccumulatedStep
from xplayers.training.failures import NonFiniteLoss

COUNTS = np.random.default_rng(0).integers(0, 4, N)
W = COUNTS.astype("float32")
ROWS = np.repeat(np.arange(N), COUNTS)
LOSSES = {**LOSSES, "sum": lambda: xl.SoftmaxWithLoss(reduction="sum")}


def perceptron():
    return xl.mlp([4, 6, CLASSES], xl.Tanh, rng=0)


@pytest.mark.only("numpy", "readonly", "strict", "torch", "jax")
@pytest.mark.parametrize("name", LOSSES)
def test_a_step_is_that_of_as_many_repetitions(name, xpv):
    if xpv.backend == "jax" and name != "both":
        pytest.skip("each is compiled; one is enough")
    x, t = data(xpv)
    w, rows = xpv.asarray(W), [xpv.asarray(a[ROWS]) for a in (X, T)]
    nets = [perceptron() for _ in range(3)]
    steps = [xl.TrainStep(net, LOSSES[name](), xl.SGD(0.05)) for net in nets[:2]]
    parts = AccumulatedStep(nets[2], LOSSES[name](), xl.SGD(0.05), parts=4)
    for _ in range(4):
        expected = float(steps[1](*rows))
        assert_close(steps[0](x, t, w), expected, 1e-5)
        assert_close(parts(x, t, sample_weight=w), expected, 1e-5)
    for key, p in nets[1].params.items():
        assert_close(nets[0].params[key], to_numpy(p), 1e-5)
        assert_close(nets[2].params[key], to_numpy(p), 1e-5)


@pytest.mark.only("numpy", "torch")
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kind", [xl.TrainStep, xl.AccumulatedStep])
def test_a_replayed_step_has_the_bits_of_the_loop(kind, name, xpv):
    x, t = data(xpv)
    rng, more = np.random.default_rng(1), {"parts": 3} if kind is AccumulatedStep else {}
    nets = [network(), network()]
    steps = [
        kind(net, LOSSES[name](), xl.Adam(0.01), compile=compile, **more)
        for net, compile in zip(nets, ("auto", False), strict=True)
    ]
    for i in range(8):
        w = xpv.asarray(rng.uniform(0.0, 2.0, N) * (rng.uniform(size=N) > 0.3), "float32")
        weights = (w,) if i % 4 else ()  # with weights and without
        assert_same_bits(steps[0](x, t, *weights), steps[1](x, t, *weights))
    assert_same_arrays(nets[0].arrays, nets[1].arrays)
    replays = steps[0]._compiled[type(x)].replays.replays
    assert len(replays) == 2
    if kind is xl.TrainStep:
        net, loss, optimizer = network(), LOSSES[name](), xl.Adam(0.01)
        other = xl.TrainStep(network(), LOSSES[name](), xl.Adam(0.01))
        for _ in range(4):
            value = loss.forward(net.forward(x), t, w)
            net.backward(loss.backward())
            optimizer.update(net.params, net.grads)
            assert_same_bits(other(x, t, w), value)


@pytest.mark.only("numpy", "torch")
def test_a_replay_is_of_one_kind_of_weights(xpv):
    """Other dtypes, shapes and layouts are recorded for themselves, and checked in each step."""
    x, t = data(xpv)
    step, other = (
        xl.TrainStep(perceptron(), xl.SoftmaxWithLoss(), xl.SGD(0.1), compile=compile)
        for compile in ("auto", False)
    )
    strided = xpv.asarray(np.stack([W, 0 * W], axis=1))[:, 0]
    kinds = [
        xpv.asarray(W),
        xpv.asarray(COUNTS),
        xpv.asarray(W, "float64"),
        strided,
        xpv.asarray(W),
    ]
    for w in [w for w in kinds for _ in range(4)] + kinds:
        assert_same_bits(step(x, t, w), other(x, t, w))
    wrong = xpv.asarray(W)
    wrong[3] = -1.0
    before = copies(step.net)
    for _ in range(2):
        with pytest.raises(ValueError, match="sample_weight has a value of -1"):
            step(x, t, wrong)
    assert_same_arrays(before, copies(step.net))
    with pytest.raises(ValueError, match=says("sample_weight has shape (21,); expected (22,)")):
        step(x, t, xpv.asarray(W[1:]))


@pytest.mark.only("numpy", "strict", "torch")
def test_mixed_precision_and_many_steps(xpv):
    x, t = data(xpv)
    w = xpv.asarray(W)
    if "float16" in xpv.floats:
        options = {"precision": xl.MixedPrecision("float16")}
        steps = [
            xl.TrainStep(perceptron(), xl.SoftmaxWithLoss(), xl.SGD(0.05), **more)
            for more in (options, {})
        ]
        for _ in range(3):
            assert_close(steps[0](x, t, w), float(steps[1](x, t, w)), 5e-3)
    index = xpv.asarray(np.arange(12).reshape(3, 4))
    one, other = (xl.TrainStep(perceptron(), xl.SoftmaxWithLoss(), xl.SGD(0.05)) for _ in "ab")
    losses = one.many(x, t, index, sample_weight=w)
    for i in range(3):
        rows, xp = index[i, ...], namespace(x)
        expected = other(*(xp.take(a, rows, axis=0) for a in (x, t, w)))
        assert_same_bits(losses[i], expected)


@pytest.mark.only("numpy", "strict", "torch")
@pytest.mark.parametrize("name", LOSSES)
def test_an_evaluation_is_that_of_as_many_repetitions(name, xpv):
    x, t = data(xpv)
    net, loss = network(), LOSSES[name]()
    metrics = {"accuracy": xl.accuracy}
    expected = xl.evaluate(net, loss, xpv.asarray(X[ROWS]), xpv.asarray(T[ROWS]), metrics=metrics)
    for size in (5, 256):
        found = xl.evaluate(
            net, loss, x, t, metrics=metrics, batch_size=size, sample_weight=xpv.asarray(W)
        )
        assert found == {k: pytest.approx(v, rel=1e-6) for k, v in expected.items()}
    batches = [tuple(xpv.asarray(a[i : i + 7]) for a in (X, T, W)) for i in range(0, N, 7)]
    found = xl.evaluate(net, loss, batches, metrics=metrics)
    assert found == {k: pytest.approx(v, rel=1e-6) for k, v in expected.items()}
    ones = xl.evaluate(
        net, loss, x, t, metrics=metrics, sample_weight=xpv.asarray(np.ones(N, "i4"))
    )
    plain = xl.evaluate(net, loss, x, t, metrics=metrics)
    assert ones == {k: pytest.approx(v, rel=1e-6) for k, v in plain.items()}


def test_batches_with_and_without_weights_and_metrics_of_your_own():
    net, loss = network(), xl.SoftmaxWithLoss()
    rows = [*range(7), *ROWS[ROWS >= 7]]
    mixed = [(X[:7], T[:7]), (X[7:], T[7:], W[7:])]
    expected = xl.evaluate(net, loss, X[rows], T[rows])
    assert xl.evaluate(net, loss, mixed) == {k: pytest.approx(v) for k, v in expected.items()}

    def right(y, t, sample_weight):
        return np.average(y.argmax(-1) == t, weights=sample_weight)

    found = xl.evaluate(net, loss, X, T, metrics={"right": right}, batch_size=6, sample_weight=W)
    assert found["right"] == pytest.approx(float(xl.accuracy(net(X), T, sample_weight=W)))
    with pytest.raises(TypeError, match="the metric half takes no sample_weight; with weights it"):
        xl.evaluate(net, loss, X, T, metrics={"half": lambda y, t: 0.5}, sample_weight=W)


@pytest.mark.only("numpy", "torch")
def test_a_trainer_is_the_loop_and_its_history_the_weighted_means(xpv):
    x, t = data(xpv)
    w = xpv.asarray(W)
    net, same = network(), network()
    training = trainer(net, train_metrics=True)
    history = training.fit(x, t, validation=(x, t, w), sample_weight=w)
    step = xl.TrainStep(same, xl.SoftmaxWithLoss(), xl.Adam(0.01))
    for epoch in range(3):
        total = weight = 0.0
        rng = np.random.default_rng([5, epoch])
        for batch in xl.minibatches(x, t, 8, rng, sample_weight=w):
            n = float(batch[2].sum())
            total, weight = total + n * float(step(*batch)), weight + n
        assert history["loss"][epoch] == pytest.approx(total / weight, rel=1e-6)
    assert_same_arrays(net.arrays, same.arrays)
    found = xl.evaluate(net, xl.SoftmaxWithLoss(), x, t, sample_weight=w)
    assert history["val_loss"][-1] == pytest.approx(found["loss"])
    assert history["accuracy"][-1] == history["val_accuracy"][-1] == found["accuracy"]
    assert training.evaluate(x, t, w)["loss"] == history["val_loss"][-1]


def test_batches_of_weights_in_a_trainer():
    nets = [network() for _ in range(3)]
    batches = xl.Batches(X, T, 8, rng=5, sample_weight=W)
    tables = [
        table(trainer(nets[0]).fit(X, T, sample_weight=W)),
        table(trainer(nets[1]).fit(batches)),
        table(trainer(nets[2]).fit(lambda e: xl.minibatches(
            X, T, 8, np.random.default_rng([5, e]), sample_weight=W
        ))),
    ]  # fmt: skip
    assert tables[0] == tables[1] == tables[2]
    for net in nets[1:]:
        assert_same_arrays(nets[0].arrays, net.arrays)
    first = next(iter(batches))
    assert [a.shape for a in first] == [(8, 4), (8,), (8,)]


def test_a_run_goes_on_with_the_same_weights_only(tmp_path):
    def run(folder, epochs, weights, **more):
        net = network()
        checkpoint = xl.Checkpoint(folder)
        training = trainer(net, epochs=epochs, checkpoint=checkpoint)
        training.fit(X, T, sample_weight=weights, **more)
        return net

    whole = run(tmp_path / "a", 4, W)
    run(tmp_path / "b", 2, W)
    for other in (None, 2 * W):
        with pytest.raises(ValueError, match="belongs to another run: sample_weight was float32"):
            run(tmp_path / "b", 4, other, resume=True)
    assert_same_arrays(run(tmp_path / "b", 4, W, resume=True).arrays, whole.arrays)


def test_a_loss_that_is_not_finite_is_found_with_weights():
    x = X.copy()
    x[3] = math.inf
    with pytest.raises(NonFiniteLoss, match="there is inf or NaN in x"):
        trainer().fit(x, T, sample_weight=W + 1)


@pytest.mark.parametrize(
    ("weights", "error", "words"),
    [
        (-W, ValueError, "sample_weight has a value of -"),
        (W * math.nan, ValueError, "sample_weight has a value of nan"),
        (0 * W, ValueError, "sample_weight is 0 for all samples; expected a positive one"),
        (W[1:], ValueError, "sample_weight has shape (21,); expected a number for each sample"),
        (np.float32(1.0), (ValueError, TypeError), "sample_weight"),
        ([1.0] * N, TypeError, "sample_weight"),
    ],
)
def test_wrong_weights_are_refused_before_the_first_step(weights, error, words):
    net, loss = network(), xl.SoftmaxWithLoss()
    before = copies(net)
    with pytest.raises(error, match=says(words)):
        trainer(net).fit(X, T, sample_weight=weights)
    words_there = words if isinstance(weights, np.ndarray) else "validation"
    with pytest.raises(error, match=says(words_there)):
        trainer(net).fit(X, T, validation=(X, T, weights))
    with pytest.raises(error, match=says(words)):
        xl.evaluate(net, loss, X, T, sample_weight=weights)
    assert_same_arrays(before, copies(net))


def test_weights_go_with_arrays():
    net, loss = network(), xl.SoftmaxWithLoss()
    with pytest.raises(TypeError, match=says("batches are (x, t, w)")):
        trainer(net).fit([(X, T)], sample_weight=W)
    with pytest.raises(TypeError, match=says("batches are (x, t, w)")):
        xl.evaluate(net, loss, [(X, T)], sample_weight=W)
    with pytest.raises(ValueError, match=says("x has 22 samples, sample_weight has shape (21,)")):
        xl.minibatches(X, T, 8, sample_weight=W[1:])
    with pytest.raises(ValueError, match=says("x has 22 samples, sample_weight has shape (21,)")):
        xl.Batches(X, T, 8, sample_weight=W[1:])
    with pytest.raises(TypeError, match="sample_weight is a list"):
        xl.Batches(X, T, 8, sample_weight=[1.0] * N)
