"""The contract of a loss, for every row of the table on every library."""

from __future__ import annotations

import functools
import inspect
import math

import numpy as np
import pytest
from helpers import (
    TOLERANCE,
    assert_at_home,
    assert_close,
    assert_same_bits,
    complex_step,
    portably,
    share_memory,
    values,
)
from loss_cases import LOSSES

import xplayers as xl
from xplayers.arrays.namespaces import namespace
from xplayers.arrays.transfer import to_numpy

EVERY = pytest.mark.parametrize("case", LOSSES, ids=lambda c: c.id)
NOT_JAX = pytest.mark.only("numpy", "readonly", "strict", "torch", "cupy")  # see test_layers.py


def inputs(case, xpv, dtype):
    scores = values(case.shape)
    target = case.target(np.random.default_rng(3), case.shape)
    t = xpv.asarray(target) if target.dtype.kind == "i" else xpv.asarray(target, dtype)
    return scores, target, xpv.asarray(scores, dtype), t


def upstream(xpv, value, dtype):
    return xpv.asarray(values(tuple(value.shape), 1), dtype) if value.shape else 1.5


def test_the_table_has_every_loss():
    shown = {type(c.make()) for c in LOSSES}
    public = {v for v in vars(xl).values() if inspect.isclass(v) and issubclass(v, xl.Loss)}
    assert public - {xl.Loss} <= shown


@EVERY
@pytest.mark.doubles
def test_value_and_gradient_are_those_of_the_reference(case, xpv):
    if "float64" not in xpv.floats:
        pytest.skip("no float64 here")
    scores, target, x, t = inputs(case, xpv, "float64")
    loss = case.make()
    value = loss.forward(x, t)
    assert_close(value, case.reference(scores, target), 1e-12)
    dout = upstream(xpv, value, "float64")
    dx = loss.backward(dout)
    assert_at_home(dx, x)
    host = dout if isinstance(dout, float) else to_numpy(dout)
    for seed in range(2, 5):
        v = values(case.shape, seed)
        expected = np.sum(host * complex_step(lambda s: case.reference(s, target), scores, v))
        scale = np.linalg.norm(to_numpy(dx)) * np.linalg.norm(v)
        assert abs(np.sum(to_numpy(dx) * v) - expected) <= 1e-12 * scale


@EVERY
@pytest.mark.only("numpy", "torch", "cupy")
def test_torch_autograd_agrees(case, xpv):
    torch = pytest.importorskip("torch")
    scores, target, x, t = inputs(case, xpv, "float64")
    loss = case.make()
    value = loss.forward(x, t)
    dout = upstream(xpv, value, "float64")
    dx = loss.backward(dout)
    tx = torch.tensor(scores, requires_grad=True)
    expected = case.torch(torch, tx, torch.tensor(target))
    expected.backward(torch.tensor(to_numpy(dout) if value.shape else dout))
    assert_close(value, expected.detach().numpy(), 1e-12)
    assert_close(dx, tx.grad.numpy(), 1e-12)


@EVERY
def test_each_dtype(case, xpv):
    for dtype in xpv.floats:
        _, target, x, t = inputs(case, xpv, dtype)
        exact = to_numpy(x).astype("float64")
        target = target if target.dtype.kind == "i" else to_numpy(t).astype("float64")
        loss, reference = case.make(), case.make()
        value, expected = loss.forward(x, t), reference.forward(exact, target)
        wide = "float32" if "16" in dtype else dtype
        assert_at_home(value, x, dtype=getattr(namespace(x), wide))
        assert type(value) is type(x), "a 0-d array, not a scalar"
        assert_close(value, expected, TOLERANCE[wide], dtype)
        dx = loss.backward()
        assert_at_home(dx, x)
        assert_close(dx, reference.backward(), TOLERANCE[dtype], dtype)


@EVERY
@pytest.mark.only("jax")
def test_jit_is_equal(case, xpv):
    import jax

    dtype = xpv.floats[-1]
    _, _, x, t = inputs(case, xpv, dtype)
    loss = case.make()
    value = loss.forward(x, t)
    dx = loss.backward()
    jit_value, cache = jax.jit(loss.apply)(loss.arrays, x, t)
    assert_close(jit_value, to_numpy(value), TOLERANCE[dtype])
    assert_close(jax.jit(loss.vjp)(cache, 1.0), to_numpy(dx), TOLERANCE[dtype])


@EVERY
@NOT_JAX
def test_nothing_received_is_written_to_or_returned(case, xpv):
    _, _, x, t = inputs(case, xpv, "float32")
    before = to_numpy(x).copy(), to_numpy(t).copy()
    loss = case.make()
    value = loss.forward(x, t)
    dout = upstream(xpv, value, "float32")
    dx = loss.backward(dout)
    assert_same_bits(x, before[0])
    assert_same_bits(t, before[1])
    for result in (value, dx):
        assert not share_memory(result, x)
        assert not share_memory(result, t)


@EVERY
@NOT_JAX
def test_calling_it_evaluates_and_remembers_nothing(case, xpv):
    _, _, x, t = inputs(case, xpv, "float32")
    loss = case.make()
    assert_same_bits(loss(x, t), loss.forward(x, t))
    loss.backward()
    with pytest.raises(RuntimeError, match="no forward to undo. Call forward first"):
        loss.backward()


@EVERY
def test_an_empty_batch_is_zero(case, xpv):
    target = case.target(np.random.default_rng(3), case.shape)[:0]
    x = xpv.asarray(np.zeros((0, *case.shape[1:])), "float32")
    t = xpv.asarray(target) if target.dtype.kind == "i" else xpv.asarray(target, "float32")
    loss = case.make()
    value = loss.forward(x, t)
    assert not to_numpy(value).any()
    assert loss.backward().shape == x.shape


@EVERY
def test_check_gradients_passes(case, xpv):
    _, _, x, t = inputs(case, xpv, "float32")
    xl.check_gradients(case.make(), x, t)


@EVERY
@NOT_JAX
def test_a_batch_of_one(case, xpv):
    shape = (1, *case.shape[1:])
    target = case.target(np.random.default_rng(3), shape)
    t = xpv.asarray(target) if target.dtype.kind == "i" else xpv.asarray(target, "float32")
    loss, x = case.make(), values(shape)
    value = loss.forward(xpv.asarray(x, "float32"), t)
    assert_close(value, case.reference(x, target), 1e-6)
    assert loss.backward().shape == shape


def test_the_slope_of_an_absolute_error_of_zero_is_zero(xpv):
    x, t = (xpv.asarray(a, "float32") for a in ([1.0, 2.0, 3.0], [2.0, 2.0, 2.0]))
    loss = xl.MeanAbsoluteError(reduction="sum")
    loss.forward(x, t)
    assert to_numpy(loss.backward()).tolist() == [-1.0, 0.0, 1.0]


def test_softmax_loss_is_exact_for_large_scores(xpv):
    """Loss and gradient, where a softmax followed by a logarithm gives infinity or a cap."""
    x = xpv.asarray([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], "float32")
    t = xpv.asarray([1, 2])
    loss = xl.SoftmaxWithLoss(reduction="none")
    assert to_numpy(loss.forward(x, t)).tolist() == [2e4, pytest.approx(math.log(2))]
    expected = [[1.0, -1.0, 0.0], [0.0, 0.5, -0.5]]
    assert to_numpy(loss.backward()).tolist() == expected


def test_a_perfect_prediction_costs_nothing(xpv):
    x = xpv.asarray([[1e4, 0.0]], "float32")
    loss = xl.SoftmaxWithLoss()
    assert float(loss.forward(x, xpv.asarray([0]))) == 0.0
    assert not to_numpy(loss.backward()).any()


def test_sigmoid_loss_is_exact_for_large_scores(xpv):
    x = xpv.asarray([1e4, -1e4, 1e4, -1e4], "float32")
    t = xpv.asarray([1.0, 0.0, 0.0, 1.0], "float32")
    loss = xl.SigmoidWithLoss(reduction="none")
    assert to_numpy(loss.forward(x, t)).tolist() == [0.0, 0.0, 1e4, 1e4]
    assert to_numpy(loss.backward()).tolist() == [0.0, 0.0, 1.0, -1.0]


def test_float64_targets_keep_float32(xpv):
    if "float64" not in xpv.floats:
        pytest.skip("no float64 here")
    x = xpv.asarray(values((4, 3)), "float32")
    t = xpv.asarray(np.eye(3)[[0, 1, 2, 1]], "float64")
    loss = xl.SoftmaxWithLoss()
    assert_at_home(loss.forward(x, t), x)
    assert_at_home(loss.backward(), x)


def test_one_hot_targets_of_any_kind(xpv):
    x = xpv.asarray(values((4, 3)), "float32")
    labels = np.asarray([0, 1, 2, 1])
    expected = float(xl.SoftmaxWithLoss()(x, xpv.asarray(labels)))
    for target in (np.eye(3, dtype="int64")[labels], np.eye(3, dtype="bool")[labels]):
        assert float(xl.SoftmaxWithLoss()(x, xpv.asarray(target))) == expected


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64"])
def test_labels_of_any_integer_dtype(xpv, dtype):
    x = xpv.asarray(values((3, 300)), "float32")  # more classes than the 8-bit types can count
    t = np.asarray([0, 5, 100])
    got = xl.SoftmaxWithLoss()(x, xpv.asarray(t.astype(dtype)))
    assert float(got) == float(xl.SoftmaxWithLoss()(x, xpv.asarray(t)))


@pytest.mark.only("numpy", "torch")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(5, 3), (2, 7, 4), (1, 40), (0, 3), (16, 1025)])
def test_small_tensors_are_computed_by_numpy(shape, dtype, xpv, monkeypatch):
    x, t = 9 * values(shape), np.arange(math.prod(shape[:-1])).reshape(shape[:-1]) % shape[-1]
    loss, numpys = xl.SoftmaxWithLoss(), xl.SoftmaxWithLoss()
    scores, labels = xpv.asarray(x, dtype), xpv.asarray(t)
    value, dx = loss.forward(scores, labels), loss.backward()
    expected = numpys.forward(x.astype(dtype), t), numpys.backward()
    few = math.prod(shape) <= 16_384
    same = assert_same_bits if few else functools.partial(assert_close, tolerance=1e-5)
    assert_close(value, expected[0], tolerance=1e-6)  # the mean is PyTorch's
    same(dx, expected[1])
    portably(monkeypatch, "cross_entropy_of_labels")  # and by PyTorch
    assert_close(loss.forward(scores, labels), expected[0], tolerance=1e-5)
    assert_close(loss.backward(), expected[1], tolerance=1e-5)


@EVERY
def test_a_gradient_is_new_each_time(case, xpv):
    loss = case.make()
    _, _, x, t = inputs(case, xpv, "float32")
    loss.forward(x, t)  # which brings its weights there
    _, cache = loss.apply(loss.arrays, x, t)
    first, second = loss.vjp(cache, 1.0), loss.vjp(cache, 1.0)
    assert not share_memory(first, second)
    assert_same_bits(first, second)


def test_weights_may_be_integers(xpv):
    x, t = xpv.asarray(values((2, 3)), "float32"), xpv.asarray([0, 2])
    whole, exact = (xl.SoftmaxWithLoss(class_weights=w) for w in ([1, 2, 3], [1.0, 2.0, 3.0]))
    assert_same_bits(whole.forward(x, t), exact.forward(x, t))
    assert_same_bits(whole.backward(), exact.backward())
    assert whole.class_weights.dtype == exact.class_weights.dtype == x.dtype


def test_all_labels_ignored_is_zero(xpv):
    x, t = xpv.asarray(values((3, 4)), "float32"), xpv.asarray([-1, -1, -1])
    loss = xl.SoftmaxWithLoss(ignore_index=-1)
    assert float(loss.forward(x, t)) == 0.0
    assert not to_numpy(loss.backward()).any()


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"ignore_index": 0}])
@pytest.mark.parametrize("kind", ["uint8", "int64"])
def test_labels_that_cannot_be_looked_at(options, kind, xpv, monkeypatch):
    """As on a GPU: the rows of labels that are out of range are NaN, the others as ever."""
    x = values((5, 3))
    labels = np.asarray([1, 2, 0, 3, 200 if kind == "uint8" else -1])
    loss = xl.SoftmaxWithLoss(reduction="none", **options)
    expected = to_numpy(loss(xpv.asarray(x[:3], "float32"), xpv.asarray(labels[:3])))
    monkeypatch.setattr("xplayers.losses.softmax.on_host", lambda a: False)
    x, t = xpv.asarray(x, "float32"), xpv.asarray(labels.astype(kind))
    got = to_numpy(loss.forward(x, t))
    assert_close(got[:3], expected, 1e-6)
    assert np.isnan(got[3:]).all()
    assert np.isfinite(to_numpy(loss.backward())[:3]).all()


@NOT_JAX
def test_an_ignored_label_need_not_be_in_range(xpv, monkeypatch):
    monkeypatch.setattr("xplayers.losses.softmax.on_host", lambda a: False)
    x, t = xpv.asarray(values((3, 3)), "float32"), xpv.asarray(np.asarray([1, -7, 3]))
    got = to_numpy(xl.SoftmaxWithLoss(ignore_index=-7, reduction="none")(x, t))
    assert np.isnan(got).tolist() == [False, False, True]
    assert got[1] == 0.0


def test_a_single_value(xpv):
    x, t = (xpv.asarray([[a]], "float32") for a in (3.0, 1.0))
    loss = xl.MeanSquaredError()
    assert float(loss.forward(x, t)) == 4.0
    assert to_numpy(loss.backward()).tolist() == [[4.0]]


def test_arrays_that_are_given_stay_as_they_are(xpv):
    weights = xpv.asarray([1.0, 2.0], "float32")
    assert xl.SoftmaxWithLoss(class_weights=weights).class_weights is weights


@pytest.mark.only("jax")
def test_a_label_out_of_range_is_nan_where_it_cannot_be_looked_at(xpv):
    import jax

    loss = xl.SoftmaxWithLoss(ignore_index=-1)
    x = xpv.asarray(values((3, 4)), "float32")
    assert math.isnan(jax.jit(loss.apply)({}, x, xpv.asarray([0, 4, 1]))[0])
    assert math.isfinite(jax.jit(loss.apply)({}, x, xpv.asarray([0, -1, 1]))[0])


def test_two_forwards_are_undone_in_reverse_order(xpv):
    loss = xl.MeanSquaredError(reduction="sum")
    a, b = (xpv.asarray(values((2, 2), s), "float32") for s in (0, 1))
    zero = xpv.asarray(np.zeros((2, 2)), "float32")
    loss.forward(a, zero)
    loss.forward(b, zero)
    assert_close(loss.backward(), 2 * to_numpy(b), 1e-6)
    assert_close(loss.backward(), 2 * to_numpy(a), 1e-6)


def test_upstream_gradient_may_be_an_array(xpv):
    x, t = xpv.asarray(values((3, 4)), "float32"), xpv.asarray([0, 1, 2])
    loss = xl.SoftmaxWithLoss()
    loss.forward(x, t)
    one = to_numpy(loss.backward())
    loss.forward(x, t)
    two = loss.backward(xpv.asarray(np.asarray(2.0), "float32"))
    assert_close(two, 2 * one, 1e-6)


@pytest.mark.only("numpy", "torch")
@pytest.mark.parametrize(("dtype", "classes"), [("int8", 300), ("int16", 70_000), ("int64", 3)])
def test_negative_labels_of_any_dtype_are_found(dtype, classes, xpv):
    scores = xpv.asarray(np.zeros((2, classes)), "float32")
    with pytest.raises(ValueError, match="label -1"):
        xl.SoftmaxWithLoss()(scores, xpv.asarray(np.asarray([-1, 2], dtype)))


def test_a_number_of_numpy_as_upstream_gradient_keeps_the_dtype(xpv):
    scores = xpv.asarray(np.zeros((2, 3)), "float32")
    labels = xpv.asarray(np.asarray([0, 1]))
    for loss, t in ((xl.SoftmaxWithLoss(), labels), (xl.Huber(), scores)):
        loss.forward(scores, t)
        assert loss.backward(np.float64(2.0)).dtype == scores.dtype


def test_a_class_masked_by_minus_infinity(xpv):
    loss = xl.SoftmaxWithLoss()
    x = xpv.asarray([[0.0, 1.0, -np.inf]], "float32")
    assert float(loss.forward(x, xpv.asarray([0]))) == pytest.approx(1.3132617, rel=1e-6)
    dx = to_numpy(loss.backward())
    assert np.isfinite(dx).all()
    assert dx[0, 2] == 0


def test_an_unsigned_label_is_not_the_ignored_one(xpv):
    x = xpv.asarray(values((1, 200)), "float32")
    t = xpv.asarray(np.asarray([156], "uint8"))  # -100 modulo 256
    assert float(xl.SoftmaxWithLoss(ignore_index=-100)(x, t)) > 1.0
