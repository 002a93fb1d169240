"""Defects that were found by reading, each with the test that would have caught it."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_same_bits, needs_values, values

import xplayers as xl
from xplayers import functional as F
from xplayers._arrays import dtype_name, to_numpy
from xplayers.elementwise import elementwise


def test_gelu_and_silu_of_large_values_in_every_dtype(xpv):
    for dtype in xpv.floats:
        x = xpv.asarray([300.0, -300.0, 6e4, -6e4], dtype)
        ones = xpv.asarray(np.ones(4), dtype)
        for layer in (xl.Gelu(), xl.Gelu("none"), xl.Silu()):
            y = to_numpy(layer.forward(x)).astype("float64")
            assert np.allclose(y, [300, 0, 6e4, 0], rtol=1e-2, atol=1e-4), (layer, dtype)
            dx = to_numpy(layer.backward(ones)).astype("float64")
            assert np.allclose(dx, [1, 0, 1, 0], atol=1e-4), (layer, dtype)


def test_the_gradient_of_a_bias_does_not_saturate_in_sixteen_bits(xpv):
    if "float16" not in xpv.floats:
        pytest.skip("no float16 here")
    layer = xl.Affine.init(4, 3, rng=0)
    y = layer.forward(xpv.asarray(np.ones((10_000, 4)), "float16"))
    layer.backward(xpv.asarray(np.ones(y.shape), "float16"))
    assert to_numpy(layer.db).tolist() == [10_000] * 3


def test_a_class_masked_by_minus_infinity(xpv):
    loss = xl.SoftmaxWithLoss()
    x = xpv.asarray([[0.0, 1.0, -np.inf]], "float32")
    assert float(loss.forward(x, xpv.asarray([0]))) == pytest.approx(1.3132617, rel=1e-6)
    dx = to_numpy(loss.backward())
    assert np.isfinite(dx).all()
    assert dx[0, 2] == 0


def test_statistics_stay_in_thirty_two_bits(xpv):
    if "float16" not in xpv.floats:
        pytest.skip("no float16 here")
    layer = xl.BatchNormalization.init(3)
    layer.forward(xpv.asarray(values((50, 3), scale=1000.0), "float16"))
    assert dtype_name(layer.running_var.dtype) == "float32"
    assert np.isfinite(to_numpy(layer.running_var)).all()
    assert dtype_name(layer.to(dtype="float16").running_var.dtype) == "float32"


def test_a_gradient_of_another_shape_is_refused(xpv):
    for p, g in [((3,), (2, 3)), ((2, 3), (3,))]:
        params = {"W": xpv.asarray(np.zeros(p), "float32")}
        with pytest.raises(ValueError, match="the gradient of W has shape .*; expected"):
            xl.SGD().update(params, {"W": xpv.asarray(np.ones(g), "float32")})


def test_out_of_another_shape_or_dtype_is_refused():
    for out in (np.zeros(7), np.zeros(5, "float32"), np.zeros(5, "int64")):
        with pytest.raises(ValueError, match=r"out is .*; the result is float64 of shape \(5,\)"):
            F.sigmoid(np.ones(5), out=out)


def test_one_array_as_two_operands_and_as_out():
    @elementwise
    def two(xp, a, b):
        return a * 2.0, b * 3.0

    for n in (10, 10_000):
        x = np.ones(n)
        a, b = two(x, x, out=(x, np.zeros(n)))
        assert (a[0], b[0]) == (2.0, 3.0)


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


def test_options_that_are_equal_and_of_other_types():
    @elementwise(integers=True)
    def plus(xp, x, *, a):
        return x + a

    x = np.arange(10_000)
    assert plus(x, a=1).dtype == "int64"
    assert plus(x, a=1.0).dtype == "float64"


def test_errstate_reaches_the_threads():
    @elementwise
    def log(xp, x):
        return xp.log(x)

    with np.errstate(all="ignore"):
        assert np.isneginf(log(np.zeros(2_000_000))).all()
    x = np.ones(2_000_000)
    x[-1] = 0.0
    with np.errstate(all="raise"), pytest.raises(FloatingPointError):
        log(x)


def test_adam_without_memory_and_with_nonsense(xpv):
    params = {"W": xpv.asarray([1.0, 2.0], "float32")}
    grads = {"W": xpv.asarray([0.5, -0.5], "float32")}
    for betas in ({"beta1": 0.0}, {"beta2": 0.0}):
        new, _ = xl.Adam(**betas).step(params, grads, xl.Adam().init(params))
        assert np.allclose(to_numpy(new["W"]), [0.999, 2.001], atol=1e-6)
    with pytest.raises(ValueError, match="Adam: beta1 is 1.0; expected 0 to less than 1"):
        xl.Adam(beta1=1.0)


def test_a_step_that_goes_on_from_a_state(xpv):
    net = xl.mlp([3, 2], rng=0).to(like=xpv.asarray([0.0], "float32"))
    optimizer = xl.Adam()
    optimizer.state = optimizer.init(net.params)
    step = xl.TrainStep(net, xl.SoftmaxWithLoss(class_weights=[1.0, 2.0]), optimizer)
    step(xpv.asarray(values((4, 3)), "float32"), xpv.asarray([0, 1, 0, 1]))
    assert int(optimizer.state["count"]) == 1


def test_another_schedule_is_another_function(xpv):
    net = xl.mlp([3, 2], rng=0)
    optimizer = xl.SGD(lr=xl.schedules.Constant(0.0))
    step = xl.TrainStep(net, xl.SoftmaxWithLoss(), optimizer)
    x, t = xpv.asarray(values((4, 3)), "float32"), xpv.asarray([0, 1, 0, 1])
    step(x, t)
    assert not to_numpy(net.params["0.b"]).any()
    optimizer.lr = xl.schedules.Constant(1.0)
    step(x, t)
    assert to_numpy(net.params["0.b"]).any()


@pytest.mark.only("torch")
def test_a_target_on_the_tape_is_refused(xpv):
    x, t = (xpv.asarray(values((4, 2), s), "float32") for s in (0, 1))
    t.requires_grad_()
    with pytest.raises(TypeError, match="target is a torch tensor that requires grad"):
        xl.MeanSquaredError().forward(x, t)
    step = xl.TrainStep(xl.mlp([2, 2], rng=0), xl.MeanSquaredError(), xl.SGD())
    with pytest.raises(TypeError, match="t is a torch tensor that requires grad"):
        step(x, t)


def test_labels_out_of_range_are_not_counted_elsewhere(xpv):
    with pytest.raises(TypeError, match="confusion_matrix: .*labels are integers"):
        xl.confusion_matrix(xpv.asarray([0, 1]), xpv.asarray([0.0, 1.7], "float32"), 3)
    needs_values(xpv)
    with pytest.raises(ValueError, match="label 4 in y is out of range; expected 0 to 2"):
        xl.confusion_matrix(xpv.asarray([4, 0]), xpv.asarray([0, 1]), 3)


@pytest.mark.parametrize(("y", "t"), [([4, 0], [0, 1]), ([-1, 0], [1, 1]), ([2, 0], [-1, 1])])
def test_pairs_out_of_range_are_not_counted_where_values_are_not_looked_at(y, t, xpv, monkeypatch):
    monkeypatch.setattr("xplayers.metrics.on_host", lambda a: False)
    counts = to_numpy(xl.confusion_matrix(xpv.asarray(y), xpv.asarray(t), 3))
    assert counts.tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_an_unsigned_label_is_not_the_ignored_one(xpv):
    x = xpv.asarray(values((1, 200)), "float32")
    t = xpv.asarray(np.asarray([156], "uint8"))  # -100 modulo 256
    assert float(xl.SoftmaxWithLoss(ignore_index=-100)(x, t)) > 1.0


def test_a_failed_call_does_not_place_the_parameters(xpv):
    net = xl.mlp([2, 2], rng=0)
    with pytest.raises(TypeError, match="expected floating-point"):
        net.forward(xpv.asarray(np.ones((1, 2), "int32")))
    net.forward(xpv.asarray(np.ones((1, 2)), xpv.floats[0]))


def test_names_that_collide():
    with pytest.raises(ValueError, match="the name '0' is that of a positional layer"):
        xl.Sequential(xl.Relu(), **{"0": xl.Tanh()})
    with pytest.raises(ValueError, match="a part cannot be called 'params', which is an attribute"):
        xl.Sequential(params=xl.Relu())


def test_a_loss_says_how_it_is_evaluated():
    loss, x = xl.MeanSquaredError(), np.zeros((1, 1))
    for _ in range(loss.pending_limit):
        loss.forward(x, x)
    with pytest.raises(RuntimeError, match=r"call the loss itself, loss\(scores, target\)"):
        loss.forward(x, x)


def test_probabilities_of_float64_are_not_cut_at_those_of_float32():
    y = np.asarray([[1e-200, 1.0]])
    assert float(F.cross_entropy_error(y, np.asarray([0]))) == pytest.approx(200 * np.log(10))


def test_layers_side_by_side_may_take_integers(xpv):
    net = xl.Parallel(xl.Embedding.init(5, 3, rng=0), xl.Embedding.init(5, 3, rng=1))
    assert net.predict(xpv.asarray(np.asarray([[0, 4]]))).shape == (1, 2, 3)


def test_a_moved_array_is_a_copy():
    x = values((3,))
    assert_same_bits(xl.move(x, like=x), x)
