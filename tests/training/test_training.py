"""Whole networks: the plain loop, TrainStep, and the same numbers on every library."""

from __future__ import annotations

import functools
import tracemalloc

import numpy as np
import pytest
from helpers import assert_close, assert_same_arrays, assert_same_bits, taker, values

import xplayers as xl
from xplayers.accelerate.host import memory
from xplayers.arrays.namespaces import dtype_name
from xplayers.arrays.transfer import to_numpy
from xplayers.training import MixedPrecision, TrainStep

STEPS = 100


def losses(asarray, steps=STEPS, batch=50):
    """Train on the digits with the plain loop and return the loss of each step."""
    (x, t), _ = xl.data.load_digits()
    x, t = asarray(x, "float32"), asarray(t)
    net, loss, optimizer = xl.mlp([64, 50, 10], rng=0), xl.SoftmaxWithLoss(), xl.SGD(lr=0.1)
    losses = []
    while len(losses) < steps:
        for batch_x, batch_t in xl.minibatches(x, t, batch, rng=len(losses), drop_last=True):
            losses.append(float(loss.forward(net.forward(batch_x), batch_t)))
            net.backward(loss.backward(), input_grad=False)
            optimizer.update(net.params, net.grads)
    return np.asarray(losses[:steps])


@functools.cache
def losses_on_numpy():
    return losses(lambda a, dtype=None: np.asarray(a, dtype))


def test_the_loop_gives_the_same_losses_on_every_library(xpv):
    expected = losses_on_numpy()
    assert expected[-1] < 0.7 < 2 < expected[0]
    assert np.max(np.abs(losses(xpv.asarray) / expected - 1)) < 1e-5


@pytest.mark.parametrize("name", xl.optimizers.__all__[:-2])
def test_a_network_learns_with_every_optimizer(name):
    if name == "Optimizer":
        pytest.skip("the base class")
    x, t = xl.data.spiral(rng=0)
    net, loss = xl.mlp([2, 50, 3], rng=0), xl.SoftmaxWithLoss()
    rate = {"SGD": 1.0, "Momentum": 0.2, "Nesterov": 0.2}.get(name, 0.03)
    optimizer = getattr(xl, name)(lr=rate)
    for _ in range(300):
        loss.forward(net.forward(x), t)
        net.backward(loss.backward())
        optimizer.update(net.params, net.grads)
    assert float(xl.accuracy(net(x), t)) > 0.9


@pytest.mark.parametrize(
    "name", ["SGD", "Momentum", "Nesterov", "AdaGrad", "RMSprop", "Adam", "AdamW"]
)
def test_step_gives_the_numbers_of_the_loop(name, xpv):
    if xpv.backend == "jax" and name not in ("SGD", "Adam"):
        pytest.skip("each is compiled; two are enough")
    x, t = xpv.asarray(values((8, 6)), "float32"), xpv.asarray(np.arange(8) % 3)
    loss = xl.SoftmaxWithLoss()
    loop, compiled = (xl.mlp([6, 5, 3], xl.Tanh, rng=0) for _ in range(2))
    optimizer = getattr(xl, name)()
    step = TrainStep(compiled, xl.SoftmaxWithLoss(), getattr(xl, name)())
    for _ in range(5):
        expected = loss.forward(loop.forward(x), t)
        loop.backward(loss.backward(), input_grad=False)
        optimizer.update(loop.params, loop.grads)
        value = step(x, t)
        if xpv.backend == "jax":
            assert_close(value, to_numpy(expected), 1e-6)
        else:
            assert_same_bits(value, expected)
    for key, p in loop.params.items():
        if xpv.backend == "jax":
            assert_close(compiled.params[key], to_numpy(p), 1e-6)
        else:
            assert_same_bits(compiled.params[key], p, key)


@pytest.mark.only("jax")
def test_jax_compiles_once(xpv):
    x, t = xpv.asarray(values((8, 6)), "float32"), xpv.asarray(np.arange(8) % 3)
    step = TrainStep(xl.mlp([6, 3], rng=0), xl.SoftmaxWithLoss([1.0, 2.0, 3.0]), xl.Adam())
    for i in range(4):
        step(x, t, lr=0.1 / (i + 1))
    (function,) = taker(step).functions.values()
    assert function._cache_size() == 1
    step(x[:4, :], t[:4])
    assert function._cache_size() == 2


@pytest.mark.only("jax")
def test_jax_without_compiler(xpv):
    x, t = xpv.asarray(values((8, 6)), "float32"), xpv.asarray(np.arange(8) % 3)
    nets = [xl.mlp([6, 3], rng=0) for _ in range(2)]
    for net, how in zip(nets, (False, "auto"), strict=True):
        step = TrainStep(net, xl.SoftmaxWithLoss(), xl.SGD(), compile=how)
        step(x, t)
        step(x, t)
    for name in nets[0].params:
        assert_close(nets[0].params[name], to_numpy(nets[1].params[name]), 1e-6)


def test_step_checks_what_it_gets(xpv):
    step = TrainStep(xl.mlp([6, 3], rng=0), xl.SoftmaxWithLoss(), xl.SGD())
    x = xpv.asarray(values((8, 6)), "float32")
    if xpv.backend not in ("jax", "cupy"):
        with pytest.raises(ValueError, match="label 3 is out of range"):
            step(x, xpv.asarray(np.full(8, 3)))
    with pytest.raises(ValueError, match=r"labels have shape \(8, 1\)"):
        step(x, xpv.asarray(np.zeros((8, 1), "int64")))
    with pytest.raises(ValueError, match=r"Affine\(6 -> 3\): x has shape \(8, 5\)"):
        step(x[:, :5], xpv.asarray(np.zeros(8, "int64")))
    if xpv.xp is not np:
        with pytest.raises(TypeError, match="t is a numpy array"):
            step(x, np.zeros(8, "int64"))


def test_step_options():
    net, loss, sgd = xl.mlp([2, 1], rng=0), xl.MeanSquaredError(), xl.SGD()
    with pytest.raises(
        ValueError, match="compile is 'fast'; expected 'auto', True, False or 'graph'"
    ):
        TrainStep(net, loss, sgd, compile="fast")
    with pytest.raises(ValueError, match="gemm is 'cublas'; expected None, 'cublaslt' or a func"):
        TrainStep(net, loss, sgd, gemm="cublas")
    with pytest.raises(ValueError, match="reduction='none'; expected 'mean' or 'sum'"):
        TrainStep(net, xl.MeanSquaredError(reduction="none"), sgd)
    step = TrainStep(net, loss, sgd, compile=True)
    with pytest.raises(ValueError, match="there is no compiler for numpy arrays"):
        step(np.ones((1, 2), "float32"), np.ones((1, 1), "float32"))


def test_gradients_pass_through_the_hook():
    x, t = values((8, 6)).astype("float32"), np.arange(8) % 3
    seen = []

    def clip(grads):
        seen.append(sorted(grads))
        return xl.clip_by_norm(grads, 1e-3)

    net = xl.mlp([6, 3], rng=0)
    before = {k: p.copy() for k, p in net.params.items()}
    TrainStep(net, xl.SoftmaxWithLoss(), xl.SGD(lr=1.0), reduce_grads=clip)(x, t)
    assert seen == [["0.W", "0.b"]]
    moved = np.concatenate([(net.params[k] - before[k]).ravel() for k in before])
    assert np.linalg.norm(moved) == pytest.approx(1e-3, rel=1e-3)


def test_buffers_go_through_the_step():
    class Count(xl.Layer):
        n = xl.Buffer()

        def __init__(self):
            self.n = np.asarray(0)

        def apply(self, arrays, x):
            return x + 0.0, ()

        def vjp(self, cache, dy):
            return dy, {}

        def updated_buffers(self, arrays, cache):
            return {"n": arrays["n"] + 1}

    net = xl.Sequential(Count(), xl.Affine.init(2, 2, rng=0))
    step = TrainStep(net, xl.MeanSquaredError(), xl.SGD())
    for _ in range(3):
        step(np.ones((1, 2), "float32"), np.ones((1, 2), "float32"))
    assert int(net.buffers["0.n"]) == 3


# The state


def snapshot(tree):
    """Return a copy of a nested dict of arrays, as NumPy arrays: what a checkpoint holds."""
    if isinstance(tree, dict):
        return {name: snapshot(value) for name, value in tree.items()}
    return np.array(to_numpy(tree))


def policies(xpv):
    """No policy, and on libraries with a 16-bit dtype one whose scale grows and falls."""
    half = [d for d in ("float16", "bfloat16") if d in xpv.floats][:1]
    return [None, *(MixedPrecision(d, "dynamic", growth_interval=2) for d in half)]


def new_step(precision=None, optimizer=xl.Adam):
    net = xl.Sequential(
        xl.Affine.init(6, 5, rng=0),
        xl.BatchNormalization.init(5),
        xl.Dropout(0.2),
        xl.Affine.init(5, 3, rng=1),
    )
    return TrainStep(net, xl.SoftmaxWithLoss(), optimizer(lr=0.01), precision=precision)


def test_a_state_that_is_put_back_goes_on_with_the_same_bits(xpv):
    x = values((5, 8, 6)).astype("float32")
    batches = [(xpv.asarray(b), xpv.asarray(np.arange(8) % 3)) for b in x]
    for precision in policies(xpv):
        step = new_step(precision)
        assert step.state == {}
        for b in batches[:3]:
            step(*b)
        arrays, state = snapshot(step.net.arrays), snapshot(step.state)
        assert list(state) == ["optimizer", "precision"][: 1 + (precision is not None)]
        expected = [to_numpy(step(*b)) for b in batches[3:]]
        ends = snapshot(step.state)

        copy = snapshot(state)
        other = step if xpv.backend == "jax" else new_step(precision)  # another one compiles again
        for _ in range(2):  # the state that was put back is still what it was
            other.state = state
            for live in (other.net.params, other.net.buffers):
                live.update({k: xl.move(arrays[k], like=a) for k, a in live.items()})
            for b, value in zip(batches[3:], expected, strict=True):
                assert_same_bits(other(*b), value)
            assert_same_arrays(snapshot(other.state), ends)
            assert_same_arrays(state, copy)


def test_a_state_follows_the_network_to_its_first_input(xpv):
    """From a file it comes as NumPy arrays, while the network has no place yet."""
    x, t = xpv.asarray(values((8, 6)), "float32"), xpv.asarray(np.arange(8) % 3)
    for precision in policies(xpv)[-1:]:
        host = new_step()
        host(values((8, 6)).astype("float32"), np.arange(8) % 3)
        state = snapshot(host.state)
        step = new_step(precision)
        step.state = state
        assert int(step.optimizer.state["count"]) == 1
        step(x, t)
        assert int(step.state["optimizer"]["count"]) == 2
        for name, m in step.state["optimizer"]["m"].items():
            p = step.net.params[name]
            assert xl.namespace(m) is xl.namespace(p)
            assert dtype_name(m.dtype) == "float32"
        # a part that was missing has started afresh
        assert len(step.state) == 1 + (precision is not None)


def test_a_state_is_put_back_in_the_dtypes_of_the_network():
    x, t = values((8, 6)), np.arange(8) % 3
    wide, narrow = new_step(), new_step()
    wide(x, t)  # the parameters follow to float64
    narrow(x.astype("float32"), t)
    narrow.state = wide.state
    assert {a.dtype.name for a in narrow.state["optimizer"]["v"].values()} == {"float32"}
    assert narrow.state["optimizer"]["count"].dtype == "int32"


def test_a_state_of_another_step():
    x, t = values((8, 6)).astype("float32"), np.arange(8) % 3
    adam, mixed = new_step(), new_step(MixedPrecision("float16"))
    adam(x, t)
    mixed(x, t)
    good = snapshot(mixed.state)
    optimizer = good["optimizer"]
    for step, state, message in (
        (new_step(), good, "has precision; expected optimizer. Pass precision=MixedPrecision(...)"),
        (adam, {"optimiser": optimizer}, "has optimiser; expected optimizer."),
        (
            new_step(optimizer=xl.Momentum),
            {"optimizer": optimizer},
            "optimizer has count, m, v; expected count, v.",
        ),
        (adam, {"optimizer": {**optimizer, "m": {}}}, "optimizer.m has nothing; expected 0.W, 0.b"),
        (adam, {"optimizer": optimizer["count"]}, "optimizer has ndarray; expected count, m, v."),
        (
            adam,
            {"optimizer": {**optimizer, "count": np.zeros(1, "int32")}},
            "optimizer.count has shape (1,); expected ().",
        ),
        (
            mixed,
            {"precision": {"scale": good["precision"]["scale"]}},
            "precision has scale; expected good_steps, scale, skipped_steps.",
        ),
    ):
        before = snapshot(step.state)
        with pytest.raises(ValueError, match="TrainStep.state: ") as caught:
            step.state = state
        assert message in str(caught.value)
        assert_same_arrays(snapshot(step.state), before)


def test_a_step_on_numpy_needs_no_memory_but_for_its_arrays(monkeypatch):
    """Parameters, gradients, two moments, and for each layer what it makes and gets back."""
    monkeypatch.setattr(memory, "_pool", {})
    n = 512
    x, t = values((n, 784)).astype("float32"), np.arange(n) % 10
    tracemalloc.start()
    try:
        net = xl.mlp([784, 1024, 1024, 10], rng=0)
        step = TrainStep(net, xl.SoftmaxWithLoss(), xl.Adam())
        for _ in range(2):
            step(x, t)
        tracemalloc.reset_peak()
        step(x, t)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    needed = 4 * sum(p.nbytes for p in net.params.values()) + 2 * n * (1024 + 1024) * 4
    assert peak < 1.15 * needed, f"{peak / needed:.2f} times what is needed"


def test_a_graph_is_for_cupy(xpv):
    step = TrainStep(xl.mlp([6, 3], rng=0), xl.SoftmaxWithLoss(), xl.SGD(), compile="graph")
    if xpv.backend != "cupy":
        x, t = xpv.asarray(values((8, 6)), "float32"), xpv.asarray(np.arange(8) % 3)
        with pytest.raises(
            ValueError, match="compile='graph' is for cupy arrays, not .*; use 'auto'"
        ):
            step(x, t)
        step = TrainStep(step.net, step.loss, step.optimizer, gemm="cublaslt")
        with pytest.raises(ValueError, match="gemm is for cupy arrays, not .*; use None"):
            step(x, t)


@pytest.mark.parametrize("lr", [None, 0.05, xl.schedules.Cosine(0.1, steps=6)])
def test_many_steps_are_steps_one_by_one(xpv, lr):
    """On batches that are gathered, with the optimizer's rate, a given one, and a schedule."""
    host_x, host_t = values((20, 6)), np.arange(20) % 3
    x, t = xpv.asarray(host_x, "float32"), xpv.asarray(host_t)
    index = np.random.default_rng(0).permutation(20)[:18].reshape(6, 3)
    rows = xpv.asarray(index)
    results = []
    for together in (False, True):
        optimizer = xl.Adam(lr if callable(lr) else 0.01)
        step = TrainStep(xl.mlp([6, 4, 3], rng=0), xl.SoftmaxWithLoss(), optimizer)
        options = {} if lr is None or callable(lr) else {"lr": lr}
        if together:
            losses = [step.many(x, t, rows[i : i + 3, :], **options) for i in (0, 3)]
            losses = np.concatenate([to_numpy(f) for f in losses])
        else:
            batches = [(xpv.asarray(host_x[i], "float32"), xpv.asarray(host_t[i])) for i in index]
            losses = np.asarray([float(step(*batch, **options)) for batch in batches], "float32")
        results.append((losses, step.net.params))
    assert results[0][0].shape == results[1][0].shape == (6,)
    assert_same_bits(results[1][0], results[0][0])
    assert_same_arrays(results[0][1], results[1][1])


def test_batches_of_many_steps(xpv):
    step = TrainStep(xl.mlp([6, 3], rng=0), xl.SoftmaxWithLoss(), xl.SGD())
    x, t = xpv.asarray(values((8, 6)), "float32"), xpv.asarray(np.arange(8) % 3)
    for shape in ((4,), (0, 2), (2, 0), (1, 2, 2)):
        with pytest.raises(ValueError, match=r"index has shape .*; expected \(steps, batch\)"):
            step.many(x, t, xpv.asarray(np.zeros(shape, "int64")))
    for mask in (np.ones((2, 4), "bool"), np.zeros((2, 4), "float32")):
        with pytest.raises(TypeError, match=r"index is .*(bool|float32); expected integers"):
            step.many(x, t, xpv.asarray(mask))
    if xpv.xp is not np:
        index = np.zeros((2, 2), "int64")
        with pytest.raises(TypeError, match=r"TrainStep.many: index is a numpy"):
            step.many(x, t, index)
        with pytest.raises(TypeError, match=r"TrainStep.many: t is a numpy"):
            step.many(x, np.arange(8) % 3, xpv.asarray(index))


def test_a_step_that_was_closed_goes_on(xpv):
    x, t = xpv.asarray(values((8, 6)), "float32"), xpv.asarray(np.arange(8) % 3)
    steps = [TrainStep(xl.mlp([6, 3], rng=0), xl.SoftmaxWithLoss(), xl.Adam()) for _ in range(2)]
    for _ in range(3):
        values_of = [step(x, t) for step in steps]
        steps[0].close()
        assert_same_bits(*values_of)


def test_a_network_that_was_moved_is_looked_at_again(xpv):
    x, t = xpv.asarray(values((8, 6)), "float32"), xpv.asarray(np.arange(8) % 3)
    step = TrainStep(xl.mlp([6, 3], rng=0), xl.SoftmaxWithLoss(), xl.SGD())
    for _ in range(3):
        step(x, t)
    other = next((d for d in ("float16", "bfloat16", "float64") if d in xpv.floats), None)
    if other is None:
        pytest.skip("one dtype")
    step.net.to(dtype=other)
    with pytest.raises(TypeError, match=r"x is .*float32, 0\.W is"):
        step(x, t)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TrainStep("net", xl.SoftmaxWithLoss(), xl.SGD()), "net is 'net'; expected"),
        (lambda: TrainStep(xl.Relu, xl.SoftmaxWithLoss(), xl.SGD()), r"Call the class: Relu\(\)"),
        (lambda: TrainStep(xl.Relu(), "softmax", xl.SGD()), "loss is 'softmax'; expected a loss"),
        (lambda: TrainStep(xl.Relu(), xl.SoftmaxWithLoss, xl.SGD()), r"SoftmaxWithLoss\(\)"),
        (lambda: TrainStep(xl.Relu(), xl.SoftmaxWithLoss(), "adam"), "expected an optimizer"),
        (lambda: TrainStep(xl.Relu(), xl.SoftmaxWithLoss(), xl.SGD, "auto"), r"SGD\(\)"),
        (lambda: TrainStep(xl.Relu(), xl.SoftmaxWithLoss(), xl.SGD(), compile="yes"), "compile is"),
        (lambda: TrainStep(xl.Relu(), xl.SoftmaxWithLoss(), xl.SGD(), reduce_grads=1.0),
         "reduce_grads is 1.0; expected a function"),
        (lambda: TrainStep(xl.Relu(), xl.SoftmaxWithLoss(), xl.SGD(), gemm=3), "gemm is 3"),
        (lambda: xl.AccumulatedStep(xl.Relu(), xl.SoftmaxWithLoss(), xl.SGD(), parts=0),
         "AccumulatedStep: parts is 0"),
        (lambda: xl.AccumulatedStep(xl.Relu(), xl.SoftmaxWithLoss(), xl.SGD(), parts=1.5),
         "AccumulatedStep: parts is 1.5"),
        (lambda: TrainStep(xl.mlp([2, 3]), xl.SoftmaxWithLoss(), xl.SGD())(
            np.ones((1, 2), "float32"), np.zeros(1, "int64"), lr="0.1"), "lr is '0.1'"),
    ],
)  # fmt: skip
def test_what_a_step_is_given(make, words):
    with pytest.raises((TypeError, ValueError), match=words):
        make()


def test_a_step_that_goes_on_from_a_state(xpv):
    net = xl.mlp([3, 2], rng=0).to(like=xpv.asarray([0.0], "float32"))
    optimizer = xl.Adam()
    optimizer.state = optimizer.init(net.params)
    step = xl.TrainStep(net, xl.SoftmaxWithLoss(class_weights=[1.0, 2.0]), optimizer)
    step(xpv.asarray(values((4, 3)), "float32"), xpv.asarray([0, 1, 0, 1]))
    assert int(optimizer.state["count"]) == 1
