"""What goes wrong in training: numbers that are not finite, Ctrl-C, no more memory."""

from __future__ import annotations

import concurrent.futures
import math
import os
import signal

import numpy as np
import pytest
from trainers import (
    CLASSES,
    Exp,
    N,
    T,
    X,
    assert_same_network,
    copies,
    data,
    hot,
    loop,
    network,
    run,
    table,
    trainer,
)

import xplayers as xl
from xplayers.training.failures import NonFiniteLoss, is_out_of_memory
from xplayers.training.fetching import BLOCK
from xplayers.training.precision import MixedPrecision
from xplayers.training.step import TrainStep

# Numbers that are not finite


@pytest.mark.only("numpy", "strict", "torch", "jax")
def test_a_loss_that_is_not_finite_stops_before_the_step(xpv):
    x, t = data(xpv)
    rate = 1e18
    plain, expected = (xl.mlp([4, 6, CLASSES], rng=0) for _ in range(2))
    with np.errstate(all="ignore"):
        losses = loop(plain, epochs=9, optimizer=xl.SGD(rate))
        (bad, *_) = np.flatnonzero(~np.isfinite([value for value, _ in losses]))
        assert 1 < bad < 9
        loop(expected, steps=bad, epochs=9, optimizer=xl.SGD(rate))
    net = xl.mlp([4, 6, CLASSES], rng=0)
    failing = trainer(net, xl.SGD(rate), epochs=9)
    with pytest.raises(NonFiniteLoss, match=f"the loss of step {bad + 1} is not finite") as caught:
        failing.fit(x, t)
    assert caught.value.step == bad + 1
    assert caught.value.where in ("0", "2")
    assert f"layer '{caught.value.where}', Affine(" in str(caught.value)
    assert failing.history.stopped == "nonfinite"
    if xpv.backend == "numpy":
        assert_same_network(net, expected)
    assert all(np.all(np.isfinite(p)) for p in copies(net).values())


@pytest.mark.parametrize("number", [1, BLOCK, BLOCK + 1, 2 * BLOCK + 30])
def test_the_layer_that_goes_wrong_first_is_found(number, monkeypatch):
    net, expected = (
        xl.Sequential(
            first=xl.Affine.init(4, 6, rng=0),
            block=xl.Residual(xl.Affine.init(6, 6, rng=1), exp=Exp()),
            last=xl.Affine.init(6, CLASSES, rng=2),
        )
        for _ in range(2)
    )
    steps, take = [], TrainStep.__call__

    def counted(self, *args, **kwargs):
        steps.append(1)
        return take(self, *args, **kwargs)

    monkeypatch.setattr(TrainStep, "__call__", counted)
    with pytest.raises(NonFiniteLoss) as caught:
        trainer(net, xl.Momentum(1e-3), epochs=99).fit(hot(number))
    most = number + BLOCK  # when it is seen; from then on only the last steps are repeated
    assert number < len(steps) <= most + BLOCK + 1
    monkeypatch.undo()
    assert (caught.value.step, caught.value.where) == (number, "block.exp")
    assert "layer 'block.exp', Exp, is the first" in str(caught.value)
    step = TrainStep(expected, xl.SoftmaxWithLoss(), xl.Momentum(1e-3))
    for _ in range(number - 1):
        step(X, T)
    assert_same_network(net, expected)


def test_what_is_not_finite_is_named():
    def where(net=None, x=X, t=T, **options):
        with pytest.raises(NonFiniteLoss) as caught:
            trainer(net or xl.mlp([4, CLASSES], rng=0), **options).fit(x, t)
        return caught.value.step, caught.value.where

    bad = X.copy()
    bad[3, 1] = math.inf
    assert where(x=bad, batch_size=N) == (1, "x")
    target = np.full((N, CLASSES), math.nan, "float32")
    assert where(t=target, loss=xl.MeanSquaredError()) == (1, "t")
    spike = xl.SGD(lambda t: np.where(t == 4, math.inf, 0.1))
    assert where(optimizer=spike) == (6, "0.W")
    half = {"precision": MixedPrecision("float16")}
    assert where(x=3e4 * X, **half) == (1, "0")
    assert where(x=3e4 * X, accumulate=3, **half) == (1, "0")
    assert where(t=target, loss=xl.MeanSquaredError(), accumulate=3) == (1, "t")
    steep = xl.Affine(np.full((4, CLASSES), 1e38, "float32"), np.zeros(CLASSES, "float32"))
    assert where(steep, x=100 * X) == (1, "Affine(4 -> 3)")

    class InTraining(Exp):
        def infer(self, arrays, x):
            return x

    fine = xl.Sequential(xl.Affine.init(4, CLASSES, rng=0), hot=InTraining())
    assert where(fine, x=1e3 * X) == (1, "hot")

    class Bad(xl.MeanSquaredError):
        def value_and_derivative(self, xp, arrays, x, t):
            return xp.log(-xp.abs(x) - 1), x

    assert where(t=np.nan_to_num(target), loss=Bad()) == (1, "loss")


def test_batches_that_differ_each_time_cannot_be_repeated():
    poison = iter([1.0] * 5 + [math.nan])
    batches = [lambda: (np.float32(next(poison, 1.0)) * X, T)] * 3
    net = network()
    with pytest.raises(NonFiniteLoss, match="the batches are not reproducible") as caught:
        trainer(net).fit(lambda epoch: (make() for make in batches))
    assert (caught.value.step, caught.value.where) == (6, "")
    once = iter([(X, T), (X * math.nan, T)])
    with pytest.raises(NonFiniteLoss) as caught:
        trainer(network(), epochs=1).fit(once)
    assert (caught.value.step, caught.value.where) == (2, "")


def test_a_loss_that_is_not_finite_may_be_ignored():
    history = trainer(xl.mlp([4, 6, CLASSES], rng=0), xl.SGD(1e18), on_nonfinite="ignore").fit(X, T)
    assert len(history) == 3
    assert math.isnan(history["loss"][-1])


# Ctrl-C and memory


def press_at(*steps):
    def press(event):
        if event.kind == "step" and event.step in steps:
            os.kill(os.getpid(), signal.SIGINT)

    return [press]


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.skipif(os.name == "nt", reason="signals differ")
@pytest.mark.parametrize("step", [4, 5])
def test_ctrl_c_ends_after_the_step(step, tmp_path):
    expected, net, resumed = network(), network(), network()
    history = run(net, tmp_path / "a", callbacks=press_at(step))
    assert history.interrupted
    assert history["step"].tolist() == [3]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    second = run(resumed, tmp_path / "a", resume=True)
    assert not second.interrupted
    assert table(second) == table(run(expected, tmp_path / "b"))
    assert_same_network(resumed, expected)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.skipif(os.name == "nt", reason="signals differ")
def test_a_second_ctrl_c_ends_at_once():
    def press_twice(event):
        if event.kind == "step" and event.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    stopped = trainer(callbacks=[press_twice])
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(X, T)
    assert int(stopped.optimizer.state["count"]) == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_training_goes_on_in_another_thread():
    nets, expected = [network() for _ in range(2)], network()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(lambda net: trainer(net).fit(X, T), nets))
        # There too: the memory of a thread begins elsewhere, and NumPy 2.1 then adds otherwise.
        pool.submit(loop, expected).result()
    for net in nets:
        assert_same_network(net, expected)


def test_a_listener_of_others_is_left_alone():
    def mine(number, frame):
        raise AssertionError

    before = signal.signal(signal.SIGINT, mine)
    try:
        seen = []
        trainer(callbacks=[lambda event: seen.append(signal.getsignal(signal.SIGINT))]).fit(X, T)
        assert set(seen) == {mine}
    finally:
        signal.signal(signal.SIGINT, before)


def allocate(xpv):
    """Ask for more memory than there is."""
    if xpv.backend == "torch":
        return xpv.xp.empty(1 << 45)
    return xpv.xp.zeros(1 << 40 if xpv.backend == "jax" else 1 << 45, dtype=xpv.xp.float32)


class Large(xl.Layer):
    """More than there is memory for, where a batch has more than `most` samples."""

    def __init__(self, xpv, most):
        self.xpv, self.most = xpv, most

    def apply(self, arrays, x):
        if x.shape[0] > self.most:
            allocate(self.xpv)
        return x, ()

    def vjp(self, cache, dy):
        return dy, {}


@pytest.mark.only("numpy", "torch", "jax")
def test_out_of_memory_says_what_to_do(xpv):
    x, t = data(xpv)
    net = xl.Sequential(Large(xpv, most=4), xl.Affine.init(4, CLASSES, rng=0))
    with pytest.raises(MemoryError, match=r"in step 1, with batches of 8 samples\. Use accum.*=2"):
        trainer(net, compile=False).fit(x, t)
    with pytest.raises(MemoryError, match=r"in the evaluation.* batches of 8 samples.* eval_batch"):
        trainer(net, batch_size=2, eval_batch_size=8, compile=False).fit(x, t, validation=(x, t))
    if xpv.backend == "numpy":
        accumulated = trainer(net, accumulate=2)
        assert len(accumulated.fit(x, t, validation=[(x[:3], t[:3])])) == 3


def test_out_of_memory_of_gpus_is_told():
    class OutOfMemoryError(RuntimeError):  # as torch.cuda has it
        pass

    assert is_out_of_memory(OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying"))
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert not is_out_of_memory(ValueError("RESOURCE_EXHAUSTED"))
