"""Losses at the ends: samples that count nothing, infinite losses, tails, targets out of range."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import assert_same_bits, needs_values, values

import xplayers as xl
from xplayers.arrays.transfer import to_numpy
from xplayers.training.failures import NonFiniteLoss

INF, NAN = math.inf, math.nan
# scores of a sample that counts nothing
SPOILED = {
    "-inf": [-INF] * 3, "inf": [INF, 1.0, 2.0], "both": [INF, -INF, 0.0], "nan": [NAN] * 3,
    "one nan": [0.0, NAN, 1.0], "large": [1e38, -1e38, 3e38],
}  # fmt: skip
WEIGHTS = [1.0, 0.0, 2.5]  # class 1 counts nothing
SILENT = {  # a loss, and targets of which the second and the last sample count nothing
    "ignored": (lambda **o: xl.SoftmaxWithLoss(ignore_index=-1, **o), [0, -1, 2, -1]),
    "ignored class": (lambda **o: xl.SoftmaxWithLoss(ignore_index=1, **o), [0, 1, 2, 1]),
    "smoothed": (
        lambda **o: xl.SoftmaxWithLoss(ignore_index=-1, label_smoothing=0.1, **o), [0, -1, 2, -1],
    ),
    "weights": (lambda **o: xl.SoftmaxWithLoss(WEIGHTS, **o), [0, 1, 2, 1]),
    "all of it": (
        lambda **o: xl.SoftmaxWithLoss(WEIGHTS, ignore_index=-9, label_smoothing=0.3, **o),
        [0, -9, 1, -9],
    ),
    "one-hot, weights": (
        lambda **o: xl.SoftmaxWithLoss(WEIGHTS, **o), np.eye(3)[[0, 1, 2, 1]],
    ),
    "soft": (
        xl.SoftmaxWithLoss, [[0.2, 0.3, 0.5], [0.0] * 3, [1.0, 0.0, 0.0], [0.0] * 3],
    ),
}  # fmt: skip


def scores_with(spoiled):
    x = values((4, 3)).astype("float32")
    x[1], x[3] = spoiled, spoiled
    return x


def both(loss, x, t):
    return to_numpy(loss.forward(x, t)), to_numpy(loss.backward())


@pytest.mark.parametrize("looked_at", [True, False])
@pytest.mark.parametrize("name", SILENT)
def test_what_counts_nothing_adds_nothing_whatever_its_scores_are(
    name, looked_at, xpv, monkeypatch
):
    """The bits of the others are those of a batch without it, and of one where it is harmless."""
    if xpv.backend == "jax" and name not in ("all of it", "soft"):
        pytest.skip("each is compiled")
    if not looked_at:
        monkeypatch.setattr("xplayers.losses.softmax.on_host", lambda a: False)
    make, target = SILENT[name]
    t, few = as_target(xpv, target), as_target(xpv, np.asarray(target)[::2])
    each = make(reduction="none")
    alone = both(each, xpv.asarray(scores_with([0.0] * 3)[::2]), few)
    mean = both(make(), xpv.asarray(scores_with([0.5, 0.0, 7.0])), t)
    for spoiled in SPOILED.values():
        x = xpv.asarray(scores_with(spoiled))
        rows, dx = both(each, x, t)
        for made, expected in ((rows, alone[0]), (dx, alone[1])):
            assert_same_bits(made[::2].copy(), expected)
            assert not made[1::2].any()
        for made, expected in zip(both(make(), x, t), mean, strict=True):
            assert_same_bits(made, expected)


@pytest.mark.parametrize("options", [{"ignore_index": -1}, {"class_weights": [0.0, 1.0, 2.0]}])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_in_sequences_and_of_other_dtypes(options, dtype, xpv):
    if dtype not in xpv.floats:
        pytest.skip(f"no {dtype} here")
    x = np.stack([values((4, 3)), scores_with([NAN, INF, -INF])])
    silent = options.get("ignore_index", 0)
    t = np.asarray([[1, 2, 1, 2], [1, silent, 2, silent]])
    loss = xl.SoftmaxWithLoss(**options)
    value, dx = both(loss, xpv.asarray(x, dtype), xpv.asarray(t))
    x[1, 1::2] = 0.0
    expected = both(loss, xpv.asarray(x, dtype), xpv.asarray(t))
    assert math.isfinite(value)
    assert_same_bits(value, expected[0])
    assert_same_bits(dx, expected[1])


@pytest.mark.parametrize("spoiled", [INF, -INF, NAN, 3e38])
def test_a_positive_target_of_weight_0_adds_nothing(spoiled, xpv):
    loss = xl.SigmoidWithLoss(pos_weight=[0.0, 2.0], reduction="none")
    x = xpv.asarray([[spoiled, 1.0], [-1.0, 2.0]], "float32")
    t = xpv.asarray([[1.0, 1.0], [0.0, 0.5]], "float32")
    value, dx = both(loss, x, t)
    assert value[0, 0] == dx[0, 0] == 0.0
    harmless = both(loss, xpv.asarray([[0.0, 1.0], [-1.0, 2.0]], "float32"), t)
    for made, expected in zip((value, dx), harmless, strict=True):
        assert_same_bits(np.delete(made.ravel(), 0), np.delete(expected.ravel(), 0))


class Offset(xl.Layer):
    """Scores of all columns of x but the last, which is added to them."""

    W, dW = xl.Parameter(), xl.Gradient()

    def __init__(self, W):
        self.W = W

    def apply(self, arrays, x):
        return x[:, :-1] @ arrays["W"] + x[:, -1:], (x[:, :-1],)

    def vjp(self, cache, dy):
        return None, {"W": cache[0].T @ dy}


def offset_step(xpv, loss, offset, parts=1, **options):
    """Return a step of a network whose scores are spoiled by what is added to them, and batches."""
    x = np.concatenate([values((9, 4)), np.asarray(offset)[:, None]], axis=1)
    net, optimizer = Offset(xpv.asarray(values((4, 3), 1), "float32")), xl.SGD(0.1)
    step = (
        xl.TrainStep(net, loss, optimizer, **options) if parts == 1
        else xl.AccumulatedStep(net, loss, optimizer, parts=parts, **options)
    )  # fmt: skip
    return step, xpv.asarray(x, "float32")


@pytest.mark.only("numpy", "torch", "jax")
@pytest.mark.parametrize("compile", [False, "auto"])
@pytest.mark.parametrize("parts", [1, 3])
def test_a_step_is_not_spoiled(parts, compile, xpv):
    """Also where it is replayed, and where all samples of a part count nothing."""
    labels = np.asarray([0, 2, 1, -1, -1, -1, -1, 0, 2])

    def trained(bad):
        loss = xl.SoftmaxWithLoss([1.0, 0.5, 2.0], ignore_index=-1)
        step, x = offset_step(xpv, loss, np.where(labels == -1, bad, 0.0), parts, compile=compile)
        losses = [float(step(x, xpv.asarray(labels))) for _ in range(5)]
        return losses, to_numpy(step.net.W)

    losses, W = trained(NAN)
    expected, same = trained(0.0)
    assert losses == expected
    assert losses[-1] < losses[0]
    assert_same_bits(W, same)


def test_an_evaluation_is_not_spoiled(xpv):
    labels = np.asarray([0, 2, 1, -1, -1, -1, 1, 0, 2])  # a batch of three is ignored
    for loss in (xl.SoftmaxWithLoss(ignore_index=-1), xl.SoftmaxWithLoss(WEIGHTS)):
        t = np.where(labels < 0, 1, labels) if loss.ignore_index is None else labels
        silent = (t == -1) | ((t == 1) & (loss.ignore_index is None))
        step, x = offset_step(xpv, loss, np.where(silent, NAN, 0.0))
        found = xl.evaluate(step.net, loss, x, xpv.asarray(t), batch_size=3)
        whole = float(loss(step.net.predict(x), xpv.asarray(t)))
        assert found["loss"] == pytest.approx(whole, rel=1e-6)


def test_an_evaluation_without_any_weight(xpv):
    """What the loss says of the whole: 0, or what smoothing gives to the other classes."""
    x, t = xpv.asarray(values((5, 3)), "float32"), xpv.asarray(np.full(5, 1))
    net = xl.Sequential(xl.Flatten())
    for loss in (
        xl.SoftmaxWithLoss(ignore_index=1),
        xl.SoftmaxWithLoss(WEIGHTS),
        xl.SoftmaxWithLoss(WEIGHTS, label_smoothing=0.1),
    ):
        found = xl.evaluate(net, loss, x, t, batch_size=2, metrics={})
        assert found["loss"] == pytest.approx(float(loss(x, t)), rel=1e-6)
    some = xpv.asarray(np.asarray([1, 1, 0, 2, 1]))  # the first batch has none
    assert xl.evaluate(net, loss, x, some, batch_size=2, metrics={})["loss"] == pytest.approx(
        float(loss(x, some)), rel=1e-6
    )


@pytest.mark.only("numpy", "torch")
@pytest.mark.parametrize("label", [-1, 3])
def test_an_evaluation_with_labels_that_cannot_be_looked_at(label, xpv, monkeypatch):
    monkeypatch.setattr("xplayers.losses.softmax.on_host", lambda a: False)
    x, t = xpv.asarray(values((2, 3)), "float32"), xpv.asarray(np.asarray([0, label]))
    net, loss = xl.Sequential(xl.Flatten()), xl.SoftmaxWithLoss(WEIGHTS)
    assert math.isnan(xl.evaluate(net, loss, x, t, batch_size=1, metrics={})["loss"])


# Infinite losses


INFINITE = {
    "labels": (xl.SoftmaxWithLoss, [0, 1]),
    "weights": (lambda: xl.SoftmaxWithLoss(WEIGHTS), [0, 1]),
    "ignored": (lambda: xl.SoftmaxWithLoss(ignore_index=1), [0, 1]),
    "smoothed": (lambda: xl.SoftmaxWithLoss(label_smoothing=0.1), [2, 1]),
    "one-hot": (xl.SoftmaxWithLoss, [[1, 0, 0], [0, 1, 0]]),
    "soft": (xl.SoftmaxWithLoss, [[0.25, 0.75, 0.0], [0.0, 1.0, 0.0]]),
    "tiny": (xl.SoftmaxWithLoss, [[1e-30, 1.0, 0.0], [0.0, 1.0, 0.0]]),
    "soft, weights": (
        lambda: xl.SoftmaxWithLoss(WEIGHTS), [[0.25, 0.75, 0.0], [0.0, 1.0, 0.0]],
    ),
}  # fmt: skip


def as_target(xpv, target):
    target = np.asarray(target)
    return xpv.asarray(target, None if target.dtype.kind == "i" else "float32")


@pytest.mark.parametrize("name", INFINITE)
def test_infinite_losses_stay_infinite(name, xpv):
    make, target = INFINITE[name]
    loss, t = make(), as_target(xpv, target)
    value, dx = both(loss, xpv.asarray([[-INF, 0.0, 1.0], [2.0, 1.0, 0.0]], "float32"), t)
    assert value == INF
    assert np.isfinite(dx).all()
    assert dx[0, 0] < 0  # towards what is right


def test_a_class_of_probability_0_may_have_a_score_of_minus_infinity(xpv):
    x = xpv.asarray([[-INF, 0.0, 1.0]], "float32")
    exact = math.log(1 + math.e)
    for target, expected in (([[0, 1, 0]], exact), ([[0.0, 0.25, 0.75]], exact - 0.75)):
        loss = xl.SoftmaxWithLoss()
        value, dx = both(loss, x, as_target(xpv, target))
        assert value == pytest.approx(expected, rel=1e-6)
        assert dx[0, 0] == 0.0
    masked = xl.SoftmaxWithLoss([0.0, 1.0, 1.0], label_smoothing=0.5)  # its part is 0, by weight
    assert math.isfinite(masked(x, xpv.asarray(np.asarray([1]))))


@pytest.mark.only("numpy", "torch", "jax")
@pytest.mark.parametrize("parts", [1, 3])
def test_training_ends_where_a_loss_is_infinite(parts, xpv):
    x = values((9, 3)).astype("float32")
    x[4, 0] = -1e38  # what the network makes of it overflows to -inf, and the batch is finite
    W, b = (xpv.asarray(a, "float32") for a in (100 * np.eye(3), np.zeros(3)))
    net = xl.Sequential(xl.Affine(W, b))
    for loss in (xl.SoftmaxWithLoss(), xl.SoftmaxWithLoss([1.0, 1.0, 1.0], label_smoothing=0.1)):
        trainer = xl.Trainer(
            net, loss, xl.SGD(1e-3), batch_size=9, epochs=3, accumulate=parts, progress=False
        )
        with np.errstate(over="ignore"), pytest.raises(NonFiniteLoss):
            trainer.fit(xpv.asarray(x), xpv.asarray(np.zeros(9, "int64")))


# The tails of the sigmoid


def exact_sigmoid_loss(x, t, p=1.0):
    """In more digits than the libraries have: each part as it stands in the definition."""
    x, t, p = (np.asarray(a, np.longdouble) for a in (x, t, p))

    def minus_log_sigmoid(x):
        return np.maximum(-x, 0) + np.log1p(np.exp(-np.abs(x)))

    def sigmoid(x):
        return np.exp(-minus_log_sigmoid(x))

    value = p * t * minus_log_sigmoid(x) + (1 - t) * minus_log_sigmoid(-x)
    return value, (1 - t) * sigmoid(x) - p * t * sigmoid(-x)


TAILS = [0.0, 1e-4, 0.5, 3.0, 11.5, 15.9, 16.7, 20.0, 36.0, 50.0, 80.0]


@pytest.mark.parametrize("p", [None, 0.5, 3.0])
def test_the_tails_of_the_sigmoid_have_all_their_digits(p, xpv):
    x = np.asarray([[s * a for a in TAILS] for s in (-1, 1)])
    # -> for each: both targets, and the soft ones near them
    targets = (0.0, 1.0, 1e-9, 2.0**-20, 1 - 2.0**-20, 0.3)
    for dtype in xpv.floats:
        half = "16" in dtype
        given = to_numpy(xpv.asarray(x, dtype)).astype("float64")
        for target in targets:
            t = np.full(x.shape, target)
            exact_t = to_numpy(xpv.asarray(t, dtype)).astype("float64")
            value, dx = exact_sigmoid_loss(given, exact_t, 1.0 if p is None else p)
            loss = xl.SigmoidWithLoss(p, reduction="none")
            got, slope = both(loss, xpv.asarray(x, dtype), xpv.asarray(t, dtype))
            digits = 1e-13 if dtype == "float64" else 1e-6
            np.testing.assert_allclose(got, value.astype(float), rtol=digits, atol=1e-44)
            # what is a difference of two has an error relative to them
            scale = (1 - exact_t) * 1.0 + exact_t if 0 < target < 1 else 0.0
            rtol = {"float16": 1e-3, "bfloat16": 8e-3}.get(dtype, digits)
            atol = 1e-7 if dtype == "float16" else 1e-44  # its smallest number is 6e-8
            error = np.abs(slope.astype(float) - dx.astype(float))
            assert (error <= rtol * np.abs(dx) + digits * scale + atol).all(), (dtype, target)
            assert half or (slope[dx != 0] != 0).all()


def test_the_values_at_20(xpv):
    x, t = xpv.asarray([-20.0, 20.0], "float32"), xpv.asarray([0.0, 1.0], "float32")
    value, dx = both(xl.SigmoidWithLoss(reduction="none"), x, t)
    assert value == pytest.approx([2.0611537e-9] * 2, rel=1e-6)
    assert dx == pytest.approx([2.0611537e-9, -2.0611537e-9], rel=1e-6)


@pytest.mark.parametrize("p", [None, 2.0])
def test_sigmoid_loss_at_the_ends(p, xpv):
    weight = 1.0 if p is None else p
    x = xpv.asarray([-INF, INF, -INF, INF, -1e4, 1e4, -1e38, 1e38], "float32")
    t = xpv.asarray([0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0], "float32")
    value, dx = both(xl.SigmoidWithLoss(p, reduction="none"), x, t)
    expected = [0.0, INF, INF, 0.0, 0.0, 0.0, weight * 1e38, 1e38]
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(dx, [0.0, 1.0, -weight, 0.0, 0.0, 0.0, -weight, 1.0])
    soft = both(xl.SigmoidWithLoss(p, reduction="none"), x[:2], xpv.asarray([0.5, 0.5], "float32"))
    assert soft[0].tolist() == [INF, INF]
    np.testing.assert_allclose(soft[1], [-0.5 * weight, 0.5])


# Targets that make no sense


PROBABILITIES = "SoftmaxWithLoss: target has a value of {}; expected probabilities of the classes"
UNIT = "SigmoidWithLoss: target has a value of {}; expected probabilities, from 0 to 1"


@pytest.mark.parametrize("bad", [-1e-3, -INF, NAN, 1.001, 2.0, INF])
@pytest.mark.parametrize(("make", "words"), [
    (xl.SoftmaxWithLoss, PROBABILITIES), (xl.SigmoidWithLoss, UNIT),
])  # fmt: skip
def test_targets_out_of_range_are_refused(make, words, bad, xpv):
    if make is xl.SoftmaxWithLoss and bad > 0:
        pytest.skip("a sample may count more than once")
    needs_values(xpv)
    target = np.full((4, 3), 0.25)
    target[2, 1] = bad
    x, t = xpv.asarray(values((4, 3)), "float32"), xpv.asarray(target, "float32")
    with pytest.raises(ValueError, match=words.format(f"{bad:g}".replace("+", "\\+"))):
        make().forward(x, t)
    with pytest.raises(ValueError, match="target has a value of"):
        make()(x, t)


@pytest.mark.only("numpy", "torch")
@pytest.mark.parametrize("parts", [1, 2])
def test_targets_out_of_range_are_refused_in_steps_that_are_replayed(parts, xpv):
    step, x = offset_step(xpv, xl.SigmoidWithLoss(), np.zeros(9), parts)
    t = np.full((9, 3), 0.5)
    for _ in range(4):
        step(x, xpv.asarray(t, "float32"))
    W = to_numpy(step.net.W).copy()
    t[8, 2] = 1.5
    with pytest.raises(ValueError, match="SigmoidWithLoss: target has a value of 1.5"):
        step(x, xpv.asarray(t, "float32"))
    assert_same_bits(step.net.W, W)


@pytest.mark.parametrize("make", [xl.SoftmaxWithLoss, xl.SigmoidWithLoss])
def test_targets_that_cannot_be_looked_at_make_the_loss_nan(make, xpv, monkeypatch):
    for module in ("softmax", "pointwise"):
        monkeypatch.setattr(f"xplayers.losses.{module}.on_host", lambda a: False)
    target = np.asarray([[0.5, 0.5], [-0.5, 0.5], [NAN, 1.0], [1.0, 0.0], [0.5, 1.5]])
    value, dx = both(
        make(reduction="none"),
        xpv.asarray(values((5, 2)), "float32"),
        xpv.asarray(target, "float32"),
    )
    per_sample = value if value.ndim == 1 else value.sum(axis=1)
    more = make is xl.SigmoidWithLoss  # of softmax, a sample may count more than once
    assert np.isnan(per_sample).tolist() == [False, True, True, False, more]
    assert np.isfinite(dx[::3]).all()


def test_integers_and_bool_are_targets(xpv):
    x = xpv.asarray(values((3, 2)), "float32")
    target = np.asarray([[1, 0], [0, 1], [1, 0]])
    for make in (xl.SigmoidWithLoss, xl.SoftmaxWithLoss, xl.MeanSquaredError, xl.Huber):
        expected = both(make(), x, xpv.asarray(target, "float32"))
        for dtype in ("bool", "uint8", "int32", "int64"):
            made = both(make(), x, xpv.asarray(target.astype(dtype)))
            assert_same_bits(made[0], expected[0])
            assert_same_bits(made[1], expected[1])


def test_the_sum_of_a_target_is_how_often_a_sample_counts(xpv):
    x = xpv.asarray(values((2, 3)), "float32")
    one, two = ([[0.25, 0.75, 0.0], [0.0, 1.0, 0.0]], [[0.5, 1.5, 0.0], [0.0, 1.0, 0.0]])
    loss = xl.SoftmaxWithLoss(reduction="none")
    (a, da), (b, db) = (both(loss, x, as_target(xpv, t)) for t in (one, two))
    np.testing.assert_allclose(b, a * [2.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(db, da * [[2.0], [1.0]], rtol=1e-5)


# The tail of the softmax: the right class takes all but a rest


def exact_softmax_loss(x, label):
    """The loss of scores, and its derivative, in more digits than the libraries have."""
    x = np.asarray(x, np.longdouble)
    e = np.exp(x - x.max())
    rest = np.delete(e, label).sum()
    dx = e / e.sum()
    dx[label] = -rest / e.sum()
    loss = np.log1p(rest) if x[label] == x.max() else np.log(e.sum()) - (x[label] - x.max())
    return loss, dx


SURE = [
    [20.0, 0.0, -1.0], [0.0, 20.0, 3.0], [16.5, 0.0, 0.0], [50.0, 3.0, 2.0], [80.0, 0.0, -80.0],
    [5.0, 4.5, 5.0], [0.0, 0.0, 0.0], [-3.0, 9.0, 9.0], [0.0, -INF, -16.0], [900.0, 0.0, 880.0],
]  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"ignore_index": -1}, {"class_weights": [1.0, 3.0, 0.5]}])
@pytest.mark.parametrize("looked_at", [True, False])
def test_the_tails_of_the_softmax_have_all_their_digits(options, looked_at, xpv, monkeypatch):
    if not looked_at:
        monkeypatch.setattr("xplayers.losses.softmax.on_host", lambda a: False)
    weights = options.get("class_weights", [1.0] * 3)
    for dtype in xpv.floats:
        half = {"float16": 1e-3, "bfloat16": 8e-3}.get(dtype)
        given = xpv.asarray(SURE, dtype)
        loss = xl.SoftmaxWithLoss(reduction="none", **options)
        for label in range(3):
            value, dx = both(loss, given, xpv.asarray(np.full(len(SURE), label)))
            digits = 1e-13 if dtype == "float64" else 1e-6
            for i, x in enumerate(to_numpy(given).astype("float64")):
                expected, slope = (weights[label] * a for a in exact_softmax_loss(x, label))
                assert value[i] == pytest.approx(float(expected), rel=digits, abs=1e-44)
                tiny = 1e-7 if dtype == "float16" else 1e-44
                np.testing.assert_allclose(
                    dx[i].astype(float), slope.astype(float), rtol=half or digits, atol=tiny
                )


@pytest.mark.only("numpy", "torch", "jax")
@pytest.mark.parametrize("compile", [False, "auto"])
def test_a_step_sees_the_tail_of_the_softmax(compile, xpv):
    W = xpv.asarray(20.0 * np.eye(2), "float32")
    step = xl.TrainStep(
        xl.Sequential(xl.Affine(W, 0 * W[0, :])),
        xl.SoftmaxWithLoss(),
        xl.SGD(0.01),
        compile=compile,
    )
    x, t = xpv.asarray(np.eye(2), "float32"), xpv.asarray(np.asarray([0, 1]))
    for _ in range(5):
        assert float(step(x, t)) == pytest.approx(2.0611537e-9, rel=1e-6)


def test_log_softmax_of_the_largest_has_all_its_digits(xpv):
    for dtype in xpv.floats:
        y = to_numpy(xl.functional.log_softmax(xpv.asarray(SURE, dtype))).astype("float64")
        rtol = {"float64": 1e-13, "float32": 1e-6}.get(dtype, 8e-3)
        for given, row in zip(to_numpy(xpv.asarray(SURE, dtype)).astype("float64"), y, strict=True):
            expected = [-exact_softmax_loss(given, label)[0] for label in range(3)]
            np.testing.assert_allclose(
                row, np.asarray(expected, float), rtol=rtol, atol=1e-7 if "16" in dtype else 1e-44
            )


# What the loss of an epoch is over


@pytest.mark.only("numpy", "torch", "jax")
@pytest.mark.parametrize(
    "options",
    [
        {"ignore_index": -1}, {"class_weights": [1.0, 0.0, 9.0]}, {},
        {"class_weights": [1.0, 2.0, 9.0], "ignore_index": -1, "label_smoothing": 0.1},
        {"ignore_index": -1, "reduction": "sum"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_loss_of_an_epoch_is_what_an_evaluation_says(options, accumulate, xpv):
    """The weights of labels count, not the number of samples; the network stays as it is."""
    labels = np.asarray([0, 2, 2, 1, 0, -1, -1, -1, -1, 2, 1])
    labels = labels if "ignore_index" in options else labels % 3
    x, t = xpv.asarray(values((11, 3)), "float32"), xpv.asarray(labels)
    net, loss = xl.Sequential(xl.Affine.init(3, 3, rng=0)), xl.SoftmaxWithLoss(**options)
    batches = [(x[:5, :], t[:5]), (x[5:9, :], t[5:9]), (x[9:, :], t[9:])]
    trainer = xl.Trainer(net, loss, xl.SGD(0.0), epochs=2, accumulate=accumulate, progress=False)
    history = trainer.fit(batches)
    expected = xl.evaluate(net, loss, batches, metrics={})["loss"]
    assert [row["loss"] for row in history] == pytest.approx([expected] * 2, rel=1e-6)


def test_the_loss_of_an_epoch_of_sequences_and_of_soft_targets(xpv):
    for net, target in (
        (xl.Sequential(xl.Affine.init(3, 2, rng=0)), np.eye(2, dtype="int64")[[0, 1, 1, 0]]),
        (xl.Sequential(xl.Affine.init(3, 2, rng=0, flatten=False)), np.arange(8).reshape(4, 2) % 2),
    ):
        x = xpv.asarray(values((4, 3) if net[0].flatten else (4, 2, 3)), "float32")
        t, loss = xpv.asarray(target), xl.SoftmaxWithLoss([1.0, 5.0])
        batches = [(x[:1, ...], t[:1, ...]), (x[1:, ...], t[1:, ...])]
        trainer = xl.Trainer(net, loss, xl.SGD(0.0), epochs=1, progress=False)
        (row,) = trainer.fit(batches)
        expected = xl.evaluate(net, loss, batches, metrics={})["loss"]
        assert row["loss"] == pytest.approx(expected, rel=1e-6)
