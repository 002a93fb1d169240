"""Weights of samples: a sample of weight 3 counts as three equal samples do, in every loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import (
    TOLERANCE,
    assert_at_home,
    assert_close,
    assert_same_bits,
    needs_values,
    says,
    values,
)
from loss_cases import LOSSES

import xplayers as xl
from xplayers.arrays.namespaces import namespace
from xplayers.arrays.transfer import to_numpy

EVERY = pytest.mark.parametrize("case", LOSSES, ids=lambda c: c.id)
# No weight, one, several, and numbers between, of which the reference is the formula.
COUNTS = np.asarray([0, 1, 3, 0, 2, 1])


def inputs(case):
    n = case.shape[0]
    scores, target = values(case.shape), case.target(np.random.default_rng(3), case.shape)
    return scores, target, COUNTS[:n] if n == 6 else COUNTS[1:][:n]


def there(xpv, target, dtype):
    return xpv.asarray(target) if target.dtype.kind == "i" else xpv.asarray(target, dtype)


@EVERY
@pytest.mark.only("numpy", "readonly", "strict", "torch", "jax", "cupy")
def test_a_weight_is_a_number_of_repetitions(case, xpv):
    if xpv.backend == "jax" and case.id not in ("SoftmaxWithLoss-everything", "Huber"):
        pytest.skip("each is compiled; two are enough")
    scores, target, counts = inputs(case)
    rows = np.repeat(np.arange(len(counts)), counts)
    dtype = "float32"
    x, t, w = xpv.asarray(scores, dtype), there(xpv, target, dtype), xpv.asarray(counts)
    many, many_t = xpv.asarray(scores[rows], dtype), there(xpv, target[rows], dtype)
    loss, repeated = case.make(), case.make()
    value, expected = loss.forward(x, t, w), repeated.forward(many, many_t)
    assert value.dtype == expected.dtype
    dx, repeated_dx = loss.backward(), to_numpy(repeated.backward())
    assert_at_home(dx, x)
    sums = np.zeros(case.shape)
    np.add.at(sums, rows, repeated_dx)
    assert_close(dx, sums, 5 * TOLERANCE[dtype], "dx")
    if loss.reduction == "none":
        each = to_numpy(expected)
        ends = np.cumsum(counts)
        expected = np.stack([each[e - c : e].sum(0) for c, e in zip(counts, ends, strict=True)])
    assert_close(value, expected, 5 * TOLERANCE[dtype], "loss")
    assert_same_bits(case.make()(x, t, sample_weight=w), value)


PYTORCH = {  # the loss, its losses of samples by torch, and what each label weighs
    "labels": (xl.SoftmaxWithLoss(), "cross_entropy", {}, None),
    "class weights": (
        xl.SoftmaxWithLoss([1.0, 2.0, 0.5], ignore_index=1), "cross_entropy",
        {"weight": [1.0, 2.0, 0.5], "ignore_index": 1}, [1.0, 0.0, 0.5],
    ),
    "binary": (
        xl.SigmoidWithLoss([1.0, 2.0, 0.5]), "binary_cross_entropy_with_logits",
        {"pos_weight": [1.0, 2.0, 0.5]}, None,
    ),
    "squared": (xl.MeanSquaredError(), "mse_loss", {}, None),
    "absolute": (xl.MeanAbsoluteError(), "l1_loss", {}, None),
    "huber": (xl.Huber(0.5), "huber_loss", {"delta": 0.5}, None),
}  # fmt: skip


@pytest.mark.only("torch")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", PYTORCH)
def test_they_are_weights_of_the_losses_of_torch(name, reduction, xpv):
    torch = xpv.xp
    loss, function, options, of_labels = PYTORCH[name]
    loss.reduction = reduction
    options = {k: torch.asarray(v) if isinstance(v, list) else v for k, v in options.items()}
    rng = np.random.default_rng(1)
    x = torch.asarray(rng.normal(size=(7, 3)), dtype=torch.float32, requires_grad=True)
    w = torch.asarray(rng.uniform(0, 2, 7), dtype=torch.float32)
    labels = function == "cross_entropy"
    t = torch.asarray(rng.integers(0, 3, 7) if labels else rng.uniform(size=(7, 3)))
    t = t if labels else t.to(torch.float32)
    each = getattr(torch.nn.functional, function)(x, t, reduction="none", **options)
    w_each = w if labels else w[:, None].expand(7, 3)
    expected = w_each * each
    if reduction != "none":
        expected = expected.sum()
    if reduction == "mean":
        expected = (
            expected / (w_each * (1.0 if of_labels is None else torch.asarray(of_labels)[t])).sum()
        )
    assert_close(loss.forward(x.detach(), t, w), expected.detach(), 1e-6)
    expected.sum().backward()
    ones = torch.ones(expected.shape)
    assert_close(loss.backward(ones), x.grad, 1e-6)


@EVERY
@pytest.mark.only("numpy", "readonly", "strict", "torch", "cupy")
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weight_0_contributes_nothing_whatever_the_scores_are(case, bad, xpv):
    scores, target, _ = inputs(case)
    weights = np.linspace(0.0, 1.0, case.shape[0])
    t, w = there(xpv, target, "float32"), xpv.asarray(weights, "float32")
    x = xpv.asarray(scores, "float32")
    scores[0] = bad
    wrong = xpv.asarray(scores, "float32")
    loss, other = case.make(), case.make()
    assert_same_bits(loss.forward(wrong, t, w), other.forward(x, t, w))
    dx = to_numpy(loss.backward())
    assert_same_bits(dx, other.backward())
    assert not dx[0].any()


@pytest.mark.parametrize("make", [xl.SoftmaxWithLoss, xl.MeanSquaredError, xl.SigmoidWithLoss])
def test_no_weight_at_all_is_0(make, xpv):
    x = xpv.asarray(values((3, 2)), "float32")
    t = (
        xpv.asarray([0, 1, 1])
        if make is xl.SoftmaxWithLoss
        else xpv.asarray(np.ones((3, 2)), "float32")
    )
    loss = make()
    assert float(loss.forward(x, t, xpv.asarray([0, 0, 0]))) == 0.0
    assert not to_numpy(loss.backward()).any()


@pytest.mark.only("numpy", "strict", "torch")
def test_steps_of_sequences_have_weights_of_their_own(xpv):
    if "float64" not in xpv.floats:
        pytest.skip("no float64 here")
    scores, target = values((2, 3, 4)), np.asarray([[0, 1, 2], [3, 0, 1]])
    weights = np.asarray([[1.0, 2.0, 0.0], [0.5, 0.0, 0.0]])
    x, t, w = xpv.asarray(scores), xpv.asarray(target), xpv.asarray(weights)
    flat = xl.SoftmaxWithLoss()(
        xpv.asarray(scores.reshape(6, 4)), xpv.asarray(target.ravel()), xpv.asarray(weights.ravel())
    )
    assert_close(xl.SoftmaxWithLoss()(x, t, w), flat, 1e-12)
    # One for each sample is one for all of its steps.
    each, one = np.repeat([[1.0], [3.0]], 3, axis=1), np.asarray([1.0, 3.0])
    for loss in (xl.SoftmaxWithLoss(), xl.SoftmaxWithLoss([1.0, 2, 3, 4], ignore_index=2)):
        assert_close(loss(x, t, xpv.asarray(each)), loss(x, t, xpv.asarray(one)), 1e-12)
    pointwise, zero = xl.MeanSquaredError(), xpv.asarray(np.zeros((2, 3, 4)))
    expected = np.sum(scores**2 * weights[..., None]) / (4 * weights.sum())
    assert_close(pointwise(x, zero, w), expected, 1e-12)
    full = xpv.asarray(np.broadcast_to(weights[..., None], scores.shape).copy())
    assert_close(pointwise(x, zero, full), expected, 1e-12)


def test_weights_of_any_numbers(xpv):
    x, t = xpv.asarray(values((4, 3)), "float32"), xpv.asarray([0, 1, 2, 0])
    loss = xl.SoftmaxWithLoss()
    expected = loss(x, t, xpv.asarray([1.0, 0.0, 1.0, 1.0], "float32"))
    assert_same_bits(loss(x, t, xpv.asarray([1, 0, 1, 1])), expected)
    assert_same_bits(loss(x, t, xpv.asarray([True, False, True, True])), expected)
    for dtype in set(xpv.floats) & {"float16", "bfloat16"}:
        value = loss(xpv.asarray(values((4, 3)), dtype), t, xpv.asarray([1, 0, 1, 1]))
        assert_close(value, expected, TOLERANCE[dtype])
        assert str(value.dtype).endswith("float32")


@pytest.mark.parametrize("make", [xl.SoftmaxWithLoss, xl.MeanAbsoluteError])
def test_wrong_weights_are_errors_in_words(make, xpv):
    x = xpv.asarray(values((3, 2)), "float32")
    t = (
        xpv.asarray([0, 1, 1])
        if make is xl.SoftmaxWithLoss
        else xpv.asarray(np.ones((3, 2)), "float32")
    )
    loss = make()
    for shape in ((2,), (), (3, 1), (1, 3), (3, 2, 1)):
        message = f"sample_weight has shape {shape}; expected (3,)"
        with pytest.raises(ValueError, match=says(message)):
            loss.forward(x, t, xpv.asarray(np.ones(shape, "float32")))
    with pytest.raises(TypeError, match="sample_weight"):
        loss(x, t, [1.0, 1.0, 1.0])
    with pytest.raises(TypeError, match="sample_weight is .*complex64; expected real numbers"):
        loss(x, t, namespace(x).astype(x[:, 0], xpv.xp.complex64))
    needs_values(xpv)
    expected = "expected a number for each sample, none negative"
    for wrong, found in ((-1.0, "-1"), (math.nan, "nan"), (math.inf, "inf")):
        with pytest.raises(ValueError, match=f"sample_weight has a value of {found}; {expected}"):
            loss(x, t, xpv.asarray([1.0, wrong, 1.0], "float32"))


@pytest.mark.only("numpy")
def test_an_array_of_another_library_is_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="sample_weight is a torch array .*scores is a numpy array"):
        xl.SoftmaxWithLoss()(np.ones((2, 2)), np.asarray([0, 1]), torch.ones(2))


@pytest.mark.only("jax")
def test_compiled_they_are_not_looked_at(xpv):
    import jax

    x, t = xpv.asarray(values((3, 2)), "float32"), xpv.asarray([0, 1, 1])
    loss = jax.jit(lambda w: xl.SoftmaxWithLoss().apply({}, x, t, w)[0])
    w = xpv.asarray([1.0, 0.0, 2.0], "float32")
    assert_close(loss(w), xl.SoftmaxWithLoss()(x, t, w), 1e-6)
    for wrong in (-1.0, math.nan, math.inf):
        assert math.isnan(loss(xpv.asarray([1.0, wrong, 1.0], "float32")))


class Absolute(xl.Loss):
    """A loss of somebody's own, from before there were weights."""

    def apply(self, arrays, scores, target):
        return abs(scores - target).mean(), (scores, target)

    def vjp(self, cache, dout):
        scores, target = cache
        return np.sign(scores - target) * (dout / scores.size)


@pytest.mark.only("numpy")
def test_a_loss_of_your_own_says_whether_it_takes_them():
    x, t, w = np.ones((2, 1)), np.zeros((2, 1)), np.ones(2)
    assert float(Absolute()(x, t)) == 1.0
    step = xl.TrainStep(xl.mlp([1, 1], rng=0), Absolute(), xl.SGD())
    for call in (lambda: Absolute()(x, t, w), lambda: step(x.astype("f4"), t.astype("f4"), w)):
        with pytest.raises(TypeError, match=r"its apply takes no sample_weight. Define apply\("):
            call()
