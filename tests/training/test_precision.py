"""Mixed precision: the curve of float32, skipped steps to the bit, and the scale of the loss."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from helpers import assert_close, assert_same_arrays, assert_same_bits, taker, values

import xplayers as xl
from xplayers import MixedPrecision, TrainStep
from xplayers.arrays.namespaces import dtype_name
from xplayers.arrays.transfer import to_numpy

HALF = pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
LIBRARIES = pytest.mark.only("numpy", "torch", "cupy", "jax")
EAGER = pytest.mark.only(
    "numpy", "readonly", "torch", "cupy"
)  # where a compilation would show nothing new


def need(xpv, dtype):
    if dtype not in xpv.floats:
        pytest.skip(f"no {dtype} here")


def deep():
    """A network with buffers of both kinds, and arrays which NumPy evaluates in blocks."""
    return xl.Sequential(
        xl.Affine.init(6, 700, rng=0),
        xl.BatchNormalization.init(700),
        xl.Relu(),
        xl.Dropout(0.1, seed=1),
        xl.Affine.init(700, 3, rng=1),
    )


def batch(xpv, seed=0):
    x = values((8, 6), seed, scale=1.0)
    return xpv.asarray(x, "float32"), xpv.asarray(x[:, :3].argmax(axis=1))


def broken(xpv):
    x, t = (to_numpy(a).copy() for a in batch(xpv))
    x[3, 2] = np.inf
    return xpv.asarray(x, "float32"), xpv.asarray(t)


def leaves(tree, name=""):
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, f"{name}.{key}")
    else:
        yield name, np.array(to_numpy(tree))  # a copy: the next step writes over it


def everything(step):
    """Return a copy of all that a step changes, but the scale and its counters."""
    state = step.state["optimizer"]
    return dict(leaves({"net": step.net.arrays, "optimizer": state}))


def scaling(step):
    state = step.state["precision"]
    return tuple(float(state[k]) for k in ("scale", "good_steps", "skipped_steps"))


class Watch(xl.Layer):
    """Writes down what passes through it."""

    def __init__(self):
        self.seen = []

    def apply(self, arrays, x):
        self.seen.append(dtype_name(x.dtype))
        return x + 0.0, ()

    def vjp(self, cache, dy):
        self.seen.append(dtype_name(dy.dtype))
        return dy + 0.0, {}


# Learning


def curve(xpv, precision, steps=30):
    (x, t), _ = xl.data.load_digits()
    watch = Watch()
    net = xl.Sequential(
        xl.Affine.init(64, 32, rng=0),
        xl.BatchNormalization.init(32),
        watch,
        xl.Relu(),
        xl.Affine.init(32, 10, rng=1),
    )
    step = TrainStep(net, xl.SoftmaxWithLoss(), xl.Adam(lr=0.03), precision=precision)
    batches = [slice(i * 40, i * 40 + 40) for i in range(steps)]
    losses = [step(xpv.asarray(x[b], "float32"), xpv.asarray(t[b])) for b in batches]
    assert {dtype_name(v.dtype) for v in losses} == {"float32"}
    assert {dtype_name(a.dtype) for a in net.arrays.values()} == {"float32"}  # buffers too
    return np.asarray([float(v) for v in losses]), set(watch.seen), step


_in_float32 = {}


def curve_in_float32(xpv):
    if xpv.name not in _in_float32:
        _in_float32[xpv.name] = curve(xpv, None)[0]
    return _in_float32[xpv.name]


@LIBRARIES
@HALF
def test_the_losses_are_those_of_float32(dtype, xpv):
    need(xpv, dtype)
    expected = curve_in_float32(xpv)
    losses, seen, step = curve(xpv, MixedPrecision(dtype))
    assert seen == {dtype}  # the network did compute in it, forward and backward
    assert expected[-5:].mean() < 0.5 < 2 < expected[0]
    error = np.max(np.abs(losses - expected))
    assert 1e-6 < error < {"float16": 4e-3, "bfloat16": 2e-2}[dtype]
    scale = {"float16": 2.0**16, "bfloat16": 1.0}[dtype]
    assert scaling(step) == (scale, 30, 0)


@EAGER
@HALF
@pytest.mark.parametrize(
    ("make", "soft"),
    [
        (lambda: xl.SoftmaxWithLoss(class_weights=[1.0, 2.0, 3.0]), False),
        (lambda: xl.SoftmaxWithLoss(label_smoothing=0.1, reduction="sum"), False),
        (lambda: xl.SigmoidWithLoss(pos_weight=[1.0, 2.0, 0.5]), True),
        (lambda: xl.MeanSquaredError(), True),
        (lambda: xl.Huber(0.3), True),
    ],
    ids=["class_weights", "sum", "pos_weight", "squares", "huber"],
)
def test_losses(make, soft, dtype, xpv):
    need(xpv, dtype)
    x, t = batch(xpv)
    if soft:
        t = xpv.asarray(np.eye(3)[to_numpy(t)], "float32")
    curves = []
    for precision in (None, MixedPrecision(dtype, loss_scale=256)):
        step = TrainStep(xl.mlp([6, 8, 3], rng=0), make(), xl.SGD(lr=0.1), precision=precision)
        curves.append([float(step(x, t)) for _ in range(8)])
        assert {dtype_name(a.dtype) for a in step.loss.arrays.values()} <= {"float32"}
    assert curves[0][-1] < 0.9 * curves[0][0]
    assert_close(*map(np.asarray, curves[::-1]), {"float16": 2e-3, "bfloat16": 2e-2}[dtype])


@EAGER
@HALF
def test_integers_go_in_as_they_are(dtype, xpv):
    """300 is no number of bfloat16; a float16 of 2049 would be another one."""
    need(xpv, dtype)
    watch = Watch()
    losses = []
    for precision in (None, MixedPrecision(dtype)):
        net = xl.Sequential(
            xl.Embedding.init(3000, 4, rng=0), watch, xl.Flatten(), xl.Affine.init(8, 2, rng=1)
        )
        step = TrainStep(net, xl.SoftmaxWithLoss(), xl.SGD(lr=2.0), precision=precision)
        x = xpv.asarray(np.asarray([[299, 2049], [301, 2051], [299, 2047]]))
        before = to_numpy(net.params["0.W"]).copy()
        losses.append([float(step(x, xpv.asarray(np.asarray([0, 1, 1])))) for _ in range(20)])
        moved = np.any(to_numpy(net.params["0.W"]) != before, axis=1)
        assert list(np.nonzero(moved)[0]) == [299, 301, 2047, 2049, 2051]
        assert dtype_name(net.params["0.W"].dtype) == "float32"
    assert watch.seen[-1] == dtype
    assert losses[0][-1] < 0.7 * losses[0][0]
    assert_close(*map(np.asarray, losses[::-1]), {"float16": 2e-3, "bfloat16": 2e-2}[dtype])


@EAGER
def test_scaling_keeps_small_gradients(xpv):
    """The gradient 2**-27 is 0 in float16, whose smallest number is 2**-24."""
    x, t = xpv.asarray([[2.0**-14]], "float32"), xpv.asarray([[2.0**-14]], "float32")
    weights = {}
    for name, precision in (
        ("float32", None),
        ("not scaled", MixedPrecision("float16", loss_scale=1)),
        ("scaled", MixedPrecision("float16", loss_scale=2**16)),
        ("dynamic", MixedPrecision("float16")),
    ):
        W, b = xpv.asarray([[0.0]], "float32"), xpv.asarray([0.0], "float32")
        net, sgd = xl.Sequential(xl.Affine(W, b)), xl.SGD(lr=2.0**27)
        TrainStep(net, xl.MeanSquaredError(), sgd, precision=precision)(x, t)
        weights[name] = float(net.params["0.W"][0, 0])
    assert weights == {"float32": 1.0, "not scaled": 0.0, "scaled": 1.0, "dynamic": 1.0}


# Skipping


@LIBRARIES
@HALF
def test_a_skipped_step_leaves_every_bit(dtype, xpv):
    need(xpv, dtype)
    precision = MixedPrecision(dtype, "dynamic", growth_interval=3)
    step = TrainStep(deep(), xl.SoftmaxWithLoss(), xl.Adam(lr=0.01), precision=precision)
    seen = []
    for good in (True, True, False, False, True, True, True, True, False):
        before = everything(step) if seen else None
        step(*(batch(xpv) if good else broken(xpv)))
        seen.append(scaling(step))
        after = everything(step)
        for name in before or ():
            if not good:
                assert_same_bits(after[name], before[name], name)
            elif not name.endswith((".b", ".count")):  # a bias below a normalization stays
                assert np.any(after[name] != before[name]), name
    assert int(step.state["optimizer"]["count"]) == int(step.net.buffers["3.count"][0]) == 6
    assert [s / 2.0**16 for s, _, _ in seen] == [
        1,
        1,
        1 / 2,
        1 / 4,
        1 / 4,
        1 / 4,
        1 / 2,
        1 / 2,
        1 / 4,
    ]
    assert [n for _, n, _ in seen] == [1, 2, 0, 0, 1, 2, 0, 1, 0]
    assert [n for _, _, n in seen] == [0, 0, 1, 2, 2, 2, 2, 2, 3]
    assert {type(a) for a in step.state["precision"].values()} == {type(batch(xpv)[0])}
    if xpv.backend == "jax":
        (function,) = taker(step).functions.values()
        assert function._cache_size() == 1


@EAGER
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_one_value_of_any_gradient_is_enough(value, xpv):
    x, t = batch(xpv)
    for name in deep().params:

        def plant(grads, name=name):
            g = to_numpy(grads[name]).copy()
            g.reshape(-1)[-1] = value
            return {**grads, name: xpv.asarray(g)}

        step = TrainStep(
            deep(), xl.SoftmaxWithLoss(), xl.SGD(), reduce_grads=plant,
            precision=MixedPrecision("float16"),
        )  # fmt: skip
        before = dict(leaves(step.net.arrays))
        step(x, t)
        assert scaling(step) == (2.0**15, 0, 1), name
        for key, a in leaves(step.net.arrays):
            assert_same_bits(a, before[key], key)


@EAGER
@HALF
@pytest.mark.parametrize("name", ["SGD", "Momentum", "AdaGrad", "AdamW"])
def test_a_run_with_a_bad_batch_is_the_run_without_it(name, dtype, xpv):
    need(xpv, dtype)
    ends = []
    for at in (2, None):
        step = TrainStep(
            deep(), xl.SoftmaxWithLoss(), getattr(xl, name)(lr=xl.schedules.Cosine(0.01, 9)),
            precision=MixedPrecision(dtype, loss_scale=1024),
        )  # fmt: skip
        for i in range(4):
            if i == at:
                step(*broken(xpv))
            step(*batch(xpv, seed=i))
        ends.append(everything(step))
        assert scaling(step) == (1024, 4 if at is None else 2, 0 if at is None else 1)
    assert_same_arrays(ends[0], ends[1])


@EAGER
def test_a_scale_that_is_too_large_comes_down(xpv):
    precision = MixedPrecision("float16", init_scale=2.0**30)
    step = TrainStep(
        xl.mlp([6, 8, 3], rng=0), xl.SoftmaxWithLoss(), xl.Adam(0.03), precision=precision
    )
    x, t = batch(xpv)
    losses = [float(step(x, t)) for _ in range(60)]
    scale, good, skipped = scaling(step)
    assert skipped >= 10
    assert scale == 2.0 ** (30 - skipped)
    assert good + skipped == 60
    assert losses[0] == losses[int(skipped) - 1]  # nothing has moved till then
    assert losses[-1] < 0.1 * losses[0]


def test_the_scale_stays_a_normal_number():
    precision = MixedPrecision("float16", growth_interval=1)
    state = precision.init(np.ones(1, "float32"))
    for good, end in ((np.asarray(False), 2.0**-126), (np.asarray(True), 2.0**126)):
        for _ in range(300):
            state = precision.updated(state, good)
        assert state["scale"] == end
        assert state["scale"].dtype == "float32"
    assert int(state["skipped_steps"]) == 300


@EAGER
@pytest.mark.parametrize("precision", [None, MixedPrecision("float16")])
def test_arrays_are_written_in_place(precision, xpv):
    """Whoever holds the arrays of the network, as the book's dict does, sees each step."""
    step = TrainStep(deep(), xl.SoftmaxWithLoss(), xl.Adam(), precision=precision)
    step(*batch(xpv))
    params, m = dict(step.net.params), dict(step.state["optimizer"]["m"])
    for make in (batch, broken) if precision else (batch,):
        step(*make(xpv))
        assert all(step.net.params[k] is a for k, a in params.items())
        assert all(step.state["optimizer"]["m"][k] is a for k, a in m.items())


@EAGER
@HALF
def test_pure_writes_to_nothing(dtype, xpv):
    need(xpv, dtype)
    step = TrainStep(deep(), xl.SoftmaxWithLoss(), xl.Adam(), precision=MixedPrecision(dtype))
    step(*batch(xpv))
    arrays = {"params": dict(step.net.params), "buffers": dict(step.net.buffers)}
    before = dict(leaves({**arrays, "state": step.state}))
    value, params, *_ = step.pure(
        arrays["params"], arrays["buffers"], {}, step.state, *batch(xpv), 0.1
    )
    assert float(value) > 0
    assert np.any(to_numpy(params["0.W"]) != before[".params.0.W"])
    for name, a in leaves({**arrays, "state": step.state}):
        assert_same_bits(a, before[name], name)


@pytest.mark.only("torch")
@HALF
@pytest.mark.parametrize("make", [batch, broken])
def test_nothing_waits_for_the_device(make, dtype, xpv, monkeypatch):
    torch = pytest.importorskip("torch")
    precision = MixedPrecision(dtype, "dynamic")
    step = TrainStep(
        deep(), xl.SoftmaxWithLoss(), xl.Adam(), precision=precision,
        reduce_grads=lambda grads: xl.clip_by_norm(grads, 1.0),
    )  # fmt: skip
    x, t = make(xpv)
    t = xpv.asarray(np.eye(3)[to_numpy(t)], "float32")  # labels are looked at on the host
    step(x, t)

    def look(self, *args, **kwargs):
        raise AssertionError("a value was looked at")

    def elsewhere(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")  # without waiting

    with monkeypatch.context() as patch:
        for name in (
            "__bool__", "__float__", "__int__", "__index__", "__array__", "__iter__",
            "item", "tolist", "cpu", "nonzero",
        ):  # fmt: skip
            patch.setattr(torch.Tensor, name, look)
        patch.setattr(torch.Tensor, "numpy", elsewhere)
        patch.setattr(torch.Tensor, "is_cpu", property(lambda self: False))
        # As on a GPU: on the CPU the optimizer's rule and its constants go through NumPy.
        for name in ("losses.softmax", "accelerate.host.elementwise", "accelerate.replay.steps"):
            patch.setattr(sys.modules[f"xplayers.{name}"], "on_host", lambda x: False)
        with pytest.raises(AssertionError, match="a value was looked at"):
            bool(x[0, 0] > 0)
        step(x, t)
    assert scaling(step)[2] == (0 if make is batch else 2)


# The hook


@EAGER
@HALF
def test_the_hook_gets_gradients_of_the_loss_in_float32(dtype, xpv):
    need(xpv, dtype)
    x, t = batch(xpv)
    seen = []

    def look(grads):
        seen.append({name: (dtype_name(g.dtype), to_numpy(g).copy()) for name, g in grads.items()})
        return grads

    for precision in (None, MixedPrecision(dtype, loss_scale=512.0)):
        net = xl.mlp([6, 8, 3], rng=0)
        TrainStep(net, xl.SoftmaxWithLoss(), xl.SGD(), reduce_grads=look, precision=precision)(x, t)
    for name, (kind, g) in seen[1].items():
        assert kind == "float32"
        assert_close(g, seen[0][name][1], {"float16": 5e-3, "bfloat16": 5e-2}[dtype], name)


@EAGER
def test_clipping_does_not_hide_an_overflow(xpv):
    """An infinite gradient that is clipped to 1 would be a step in a wrong direction."""

    def clip(grads):
        xp = xl.namespace(next(iter(grads.values())))
        cut = {name: xp.where(g > 1.0, 1.0, g) for name, g in grads.items()}
        return {name: xp.where(g < -1.0, -1.0, g) for name, g in cut.items()}

    x, t = xpv.asarray([[300.0], [300.0]], "float32"), xpv.asarray([[1.0], [1.0]], "float32")
    for loss_scale, skipped in ((1.0, 0), (2.0**16, 1)):  # 2 * 300 * 2**16 overflows
        net = xl.Sequential(
            xl.Affine(xpv.asarray([[0.0]], "float32"), xpv.asarray([0.0], "float32"))
        )
        step = TrainStep(
            net, xl.MeanSquaredError(), xl.SGD(lr=1.0), reduce_grads=clip,
            precision=MixedPrecision("float16", loss_scale=loss_scale),
        )  # fmt: skip
        step(x, t)
        assert scaling(step)[2] == skipped
        assert float(net.params["0.W"][0, 0]) == 1.0 - skipped


# What does not fit


@pytest.mark.only("numpy", "strict")
@HALF
def test_a_library_without_the_dtype(dtype, xpv):
    if dtype in xpv.floats:
        pytest.skip("it has it")
    step = TrainStep(deep(), xl.SoftmaxWithLoss(), xl.SGD(), precision=MixedPrecision(dtype))
    library = {"numpy": "numpy", "strict": "array_api_strict"}[xpv.backend]
    fix = "use " + ("MixedPrecision('float16'), or " if library == "numpy" else "")
    message = f"MixedPrecision: {library} has no {dtype}; {fix}arrays of another library"
    with pytest.raises(TypeError) as caught:
        step(*batch(xpv))
    assert str(caught.value).startswith(message)


@EAGER
@HALF
def test_parameters_that_are_16_bit_already(dtype, xpv):
    need(xpv, dtype)
    step = TrainStep(deep(), xl.SoftmaxWithLoss(), xl.SGD(), precision=MixedPrecision(dtype))
    x, t = batch(xpv)
    half = xl.move(x, dtype=dtype)
    with pytest.raises(TypeError, match=r"0\.W is .*float16; expected float32"):
        step(half, t)  # a network that has no place yet follows the first input
    step.net.to(dtype="float32")  # what the message says
    step.optimizer.state = None
    step(x, t)
    with pytest.raises(TypeError, match=r"x is .*float16, 0\.W is .*float32"):
        step(half, t)


def test_a_step_takes_the_policy_and_not_its_name():
    with pytest.raises(TypeError, match="precision is 'float16'; expected MixedPrecision"):
        TrainStep(deep(), xl.SoftmaxWithLoss(), xl.SGD(), precision="float16")
