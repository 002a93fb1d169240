"""The trainer: the same numbers as a loop, and what it does beside."""

from __future__ import annotations

import concurrent.futures
import gc
import io
import math
import os
import signal
import sys
import time
import tracemalloc

import numpy as np
import pytest
from helpers import assert_close, assert_same_bits, values

import xplayers as xl
from xplayers._arrays import to_numpy
from xplayers.training import run as run_module
from xplayers.training.accumulation import AccumulatedStep, slices
from xplayers.training.blocks import BLOCK, fetched
from xplayers.training.checkpoint import Checkpoint
from xplayers.training.evaluation import evaluate
from xplayers.training.guard import NonFiniteLoss, is_out_of_memory
from xplayers.training.precision import MixedPrecision
from xplayers.training.progress import Progress, clock
from xplayers.training.step import TrainStep
from xplayers.training.tensorboard import TensorBoard
from xplayers.training.trainer import Trainer

N, CLASSES = 22, 3  # samples: with batches of 8 the last has 6
X, T = values((N, 4)).astype("float32"), np.arange(N) % CLASSES


def network():
    """Return a network with masks and running statistics."""
    return xl.Sequential(
        fc1=xl.Affine.init(4, 6, rng=0),
        norm=xl.BatchNormalization.init(6),
        relu=xl.Relu(),
        drop=xl.Dropout(0.3, seed=1),
        fc2=xl.Affine.init(6, CLASSES, rng=1),
    )


def masked():
    """Return a small network with masks."""
    return xl.Sequential(fc1=xl.Affine.init(4, CLASSES, rng=0), drop=xl.Dropout(0.3, seed=1))


def trainer(net=None, optimizer=None, loss=None, **options):
    options = {"batch_size": 8, "epochs": 3, "seed": 5, "progress": False, **options}
    net = network() if net is None else net
    return Trainer(net, loss or xl.SoftmaxWithLoss(), optimizer or xl.Adam(0.01), **options)


def data(xpv):
    return xpv.asarray(X), xpv.asarray(T)


def copies(net):
    return {name: to_numpy(a).copy() for name, a in net.arrays.items()}


def assert_same_network(a, b):
    a, b = (net if isinstance(net, dict) else copies(net) for net in (a, b))
    assert a.keys() == b.keys()
    for name in a:
        assert_same_bits(a[name], b[name], name)


def table(history):
    """Return the columns of a history that are no times."""
    return {
        k: history[k].tolist() for k in history.columns if k not in ("seconds", "samples_per_s")
    }


def loop(net, steps=None, epochs=3, optimizer=None, seed=5):
    """Train with a loop over `TrainStep`, and return the losses with the sizes of the batches."""
    step = TrainStep(net, xl.SoftmaxWithLoss(), optimizer or xl.Adam(0.01))
    found = []
    for epoch in range(epochs):
        for x, t in xl.minibatches(X, T, 8, np.random.default_rng([seed, epoch])):
            if steps is not None and len(found) == steps:
                return found
            found.append((float(step(x, t)), len(x)))
    return found


# The loop


def test_fit_does_what_the_loop_does():
    net, expected = network(), network()
    history = trainer(net).fit(X, T)
    losses = np.asarray(loop(expected)).reshape(3, 3, 2)
    assert_same_network(net, expected)
    means = np.sum(losses[..., 0] * losses[..., 1], axis=1) / N
    np.testing.assert_allclose(history["loss"], means, rtol=1e-15)
    assert history["step"].tolist() == [3, 6, 9]
    assert history["epoch"].tolist() == [1, 2, 3]
    assert history.stopped == "finished"


@pytest.mark.only("numpy", "torch", "jax")
def test_the_same_run_twice_is_the_same_bits(xpv):
    x, t = data(xpv)
    jax = xpv.backend == "jax"  # compiles each shape
    nets = [masked() if jax else network() for _ in range(3)]
    size = 11 if jax else 8
    histories = [trainer(net, batch_size=size).fit(x, t, (x, t)) for net in nets[:2]]
    assert_same_network(*nets[:2])
    assert table(histories[0]) == table(histories[1])
    trainer(nets[2], batch_size=size, seed=6).fit(x, t)
    assert np.any(to_numpy(nets[2].params["fc1.W"]) != to_numpy(nets[0].params["fc1.W"]))


def test_every_sample_comes_once_an_epoch():
    x = np.arange(N, dtype="float32")[:, None]
    seen = []

    class Seeing(xl.Layer):
        def apply(self, arrays, x):
            seen.extend(x[:, 0].tolist())
            return x, ()

        def vjp(self, cache, dy):
            return dy, {}

    net = xl.Sequential(Seeing(), xl.Affine.init(1, CLASSES, rng=0))
    trainer(net, epochs=2).fit(x, T)
    assert sorted(seen[:N]) == sorted(seen[N:]) == list(range(N))
    assert seen[:N] != seen[N:]


def test_a_second_fit_goes_on_from_the_parameters():
    net, twice = network(), network()
    once = trainer(net, epochs=1)
    once.fit(X, T)
    assert once.fit(X, T)["epoch"].tolist() == [1]
    expected = Trainer(
        twice, xl.SoftmaxWithLoss(), once.optimizer, batch_size=8, epochs=1, progress=False
    )
    assert expected.optimizer.state["count"] == 6


# What comes over from the device


def test_losses_come_over_in_blocks(monkeypatch):
    transfers = []
    monkeypatch.setattr(run_module, "LATEST", math.inf)
    monkeypatch.setattr(
        run_module, "fetched", lambda losses: transfers.append(len(losses)) or fetched(losses)
    )
    trainer(batch_size=1, epochs=7, on_nonfinite="ignore").fit(X, T)
    assert transfers == [N] * 7
    transfers.clear()
    batches = [(X, T)] * (2 * BLOCK + 5)
    trainer(epochs=1).fit(batches)
    assert transfers == [BLOCK, BLOCK, 5]
    transfers.clear()
    monkeypatch.setattr(run_module, "LATEST", -1.0)  # always too long ago
    trainer(epochs=1).fit(batches[:4])
    assert transfers == [1, 1, 1, 1, 0]


@pytest.mark.only("torch")
def test_nothing_waits_for_the_device_in_a_step(xpv, monkeypatch):
    import torch

    calls = []
    for name in ("item", "tolist", "cpu", "__bool__", "__float__", "__int__", "__index__"):
        method = getattr(torch.Tensor, name)

        def watched(self, *args, _method=method, _name=name, **kwargs):
            calls.append(_name)
            return _method(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, watched)
    cpu, numpy = torch.Tensor.cpu, torch.Tensor.numpy

    def brought(self):
        there = cpu(self).clone()
        there.is_there = True
        return there

    def as_numpy(self):
        if not hasattr(self, "is_there"):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")  # without waiting
        return numpy(self)

    # As on a GPU: on the CPU the optimizer's rule and its constants go through NumPy.
    monkeypatch.setattr(torch.Tensor, "cpu", brought)
    monkeypatch.setattr(torch.Tensor, "numpy", as_numpy)
    monkeypatch.setattr(torch.Tensor, "is_cpu", property(lambda self: False))
    for module in ("elementwise", "optimizers.base", "training.replays"):
        monkeypatch.setattr(sys.modules[f"xplayers.{module}"], "on_host", lambda x: False)
    monkeypatch.setattr(run_module, "LATEST", math.inf)
    x = xpv.asarray(X)
    target = xpv.asarray(values((N, CLASSES)), "float32")
    net, events = network(), []
    steps = trainer(
        net, loss=xl.MeanSquaredError(), batch_size=1, epochs=1, clip_norm=1.0, accumulate=2,
        callbacks=[lambda event: events.append((event.kind, len(calls)))],
    )  # fmt: skip
    steps.fit(x, target)
    during = [count for kind, count in events if kind == "step"]
    assert len(during) == N
    assert len(set(during)) == 1
    assert len(calls) - during[-1] <= 4  # the block of losses
    assert calls


@pytest.mark.only("numpy", "strict", "torch", "jax")
def test_fetched(xpv):
    for n in (1, 5, 8):
        found = fetched([xpv.asarray(i / 3, "float32") for i in range(n)])
        assert found.dtype == np.float64
        assert found.tolist() == [float(np.float32(i / 3)) for i in range(n)]
    assert fetched([]).shape == (0,)


def memory():
    gc.collect()
    here = tracemalloc.take_snapshot()
    return sum(t.size for t in here.filter_traces([tracemalloc.Filter(True, "*xplayers*")]).traces)


def test_memory_is_flat():
    net = xl.mlp([4, CLASSES], rng=0)
    sizes = []
    steps = trainer(net, epochs=3, callbacks=[lambda event: None])
    steps.callbacks.append(lambda e: sizes.append(memory()) if e.kind == "epoch" else None)
    tracemalloc.start()
    try:
        steps.fit([(X[:2], T[:2])] * 400)
    finally:
        tracemalloc.stop()
    assert sizes[-1] - sizes[0] < 20_000


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_flat_over_a_million_steps(monkeypatch):
    # Numba, which would be imported after so many steps, is 130 MB by itself.
    engine = sys.modules["xplayers.elementwise"]
    monkeypatch.setattr(engine, "elements_before", lambda: math.inf)

    def resident():
        gc.collect()
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    sizes = {}

    def watch(event):
        if event.kind == "step" and event.step in (1_000, 10_000, 100_000, 1_000_000):
            sizes[event.step] = resident()

    net, n = xl.mlp([4, CLASSES], rng=0), 100_000
    steps = trainer(net, epochs=10, callbacks=[watch])
    steps.fit(lambda epoch: ((X[:2], T[:2]) for _ in range(n)))
    grown = {step: size - sizes[1_000] for step, size in sizes.items()}
    print(f"bytes more than after 1,000 steps: {grown}")  # noqa: T201 - a figure
    assert grown[1_000_000] < 1 << 20


@pytest.mark.slow
def test_its_own_cost_is_small():
    """Beside a bare loop over `TrainStep`, of steps that take about a millisecond."""
    x, t = values((6_400, 784)).astype("float32"), np.arange(6_400) % 10
    net = xl.mlp([784, 64, 10], rng=0)
    steps = xl.Trainer(
        net, xl.SoftmaxWithLoss(), xl.Adam(1e-6), batch_size=128, epochs=8, seed=0, progress=False
    )
    step = xl.TrainStep(net, xl.SoftmaxWithLoss(), xl.Adam(1e-6))

    def bare():
        for epoch in range(8):
            for batch in xl.minibatches(x, t, 128, rng=epoch):
                step(*batch)

    def seconds(run):
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    bare(), steps.fit(x, t)
    pairs = [(seconds(bare), seconds(lambda: steps.fit(x, t))) for _ in range(25)]
    cost = np.median([fit / loop for loop, fit in pairs]) - 1
    took = np.median([loop for loop, _ in pairs]) / 400
    print(f"{cost:.2%} of a step of {took * 1e3:.2f} ms")  # noqa: T201 - a figure
    assert cost < 0.03


# Evaluation


LOSSES = {
    "plain": lambda: xl.SoftmaxWithLoss(),
    "weights": lambda: xl.SoftmaxWithLoss([1.0, 2.0, 5.0]),
    "ignored": lambda: xl.SoftmaxWithLoss(ignore_index=1),
    "both": lambda: xl.SoftmaxWithLoss([1.0, 2.0, 5.0], ignore_index=0, label_smoothing=0.1),
}


@pytest.mark.only("numpy", "strict", "torch", "jax")
@pytest.mark.parametrize("name", LOSSES)
def test_evaluation_is_that_of_the_whole_set(name, xpv):
    if xpv.backend == "jax" and name != "both":
        pytest.skip("each is compiled; one is enough")
    x = xpv.asarray(X)
    labels = np.sort(T)  # whole batches are ignored
    jax = xpv.backend == "jax"  # compiles each shape
    t, net, loss = xpv.asarray(labels), masked() if jax else network(), LOSSES[name]()
    size = 11 if jax else 4
    found = evaluate(net, loss, x, t, metrics={"accuracy": xl.accuracy}, batch_size=size)
    y = net.predict(x)
    assert found["loss"] == pytest.approx(float(loss(y, t)), rel=1e-6)
    assert found["accuracy"] == pytest.approx(float(xl.accuracy(y, t)), rel=1e-6)


def test_evaluation_of_other_losses_and_batches():
    net, target = network(), values((N, CLASSES)).astype("float32")
    y = net.predict(X)
    mean = evaluate(net, xl.MeanSquaredError(), X, target, batch_size=5)
    assert mean == {"loss": pytest.approx(float(xl.MeanSquaredError()(y, target)), rel=1e-6)}
    batches = [(X[:3], T[:3]), (X[3:3], T[3:3]), (X[3:], T[3:])]
    total = evaluate(net, xl.SoftmaxWithLoss(reduction="sum"), batches)
    assert total["loss"] == pytest.approx(float(xl.SoftmaxWithLoss()(y, T)), rel=1e-6)
    assert list(evaluate(net, xl.SoftmaxWithLoss(ignore_index=1), batches)) == ["loss"]
    found = evaluate(net, xl.SoftmaxWithLoss(), batches)
    assert found["accuracy"] == pytest.approx(float(xl.accuracy(y, T)), rel=1e-6)
    weighted = xl.SoftmaxWithLoss([1.0, 3.0, 9.0])
    soft = np.full((N, CLASSES), 1 / 3, "float32")
    soft_loss = float(weighted(y, soft))
    assert evaluate(net, weighted, X, soft, batch_size=5)["loss"] == pytest.approx(soft_loss)
    assert math.isnan(evaluate(net, xl.SoftmaxWithLoss(), [])["loss"])


def test_many_batches_are_collected_in_blocks(monkeypatch):
    transfers = []
    monkeypatch.setattr(
        "xplayers.training.evaluation.fetched",
        lambda values: transfers.append(len(values)) or fetched(values),
    )
    x = values((3 * BLOCK + 1, 4)).astype("float32")
    t, net, loss = np.arange(len(x)) % CLASSES, network(), xl.SoftmaxWithLoss([1.0, 2.0, 3.0])
    found = evaluate(net, loss, x, t, batch_size=1)
    assert found["loss"] == pytest.approx(float(loss(net.predict(x), t)), rel=1e-5)
    assert sum(transfers) == 3 * len(x)  # loss, accuracy, weight
    assert BLOCK - 3 < max(transfers) <= BLOCK


def test_metrics_may_be_numbers_and_must_be_one():
    loss, net = xl.SoftmaxWithLoss(), network()
    found = evaluate(net, loss, X, T, metrics={"n": lambda y, t: len(y)}, batch_size=8)
    assert found["n"] == pytest.approx((8 * 8 + 8 * 8 + 6 * 6) / N)
    with pytest.raises(ValueError, match=r"metric rows has shape \(22,\); expected one number"):
        evaluate(net, loss, X, T, metrics={"rows": lambda y, t: y[:, 0]})


def test_training_metrics_and_validation_columns():
    net = network()
    history = trainer(net, train_metrics=True, eval_batch_size=5).fit(X, T, validation=(X, T))
    assert history.columns == (
        "epoch", "step", "loss", "accuracy", "val_loss", "val_accuracy", "lr", "seconds",
        "samples_per_s",
    )  # fmt: skip
    assert history["accuracy"].tolist() == history["val_accuracy"].tolist()
    assert history["val_accuracy"][-1] == pytest.approx(float(xl.accuracy(net(X), T)))
    assert history["lr"].tolist() == [0.01] * 3
    assert np.all(history["seconds"] > 0)
    batches = trainer(train_metrics=True).fit([(X, T)], validation=[(X, T)])
    assert batches["accuracy"].tolist() == batches["val_accuracy"].tolist()


def test_the_learning_rate_is_that_of_the_last_step():
    schedule = xl.schedules.Exponential(0.1, every=3)
    history = trainer(optimizer=xl.SGD(schedule)).fit(X, T)
    np.testing.assert_allclose(history["lr"], [schedule(2), schedule(5), schedule(8)], rtol=1e-6)


# Options of the step


@pytest.mark.only("numpy", "strict", "torch", "jax")
@pytest.mark.parametrize("name", [*LOSSES, "sum"])
def test_parts_of_a_batch_make_the_step_of_the_whole(name, xpv):
    if xpv.backend == "jax" and name != "both":
        pytest.skip("each is compiled; one is enough")
    make = LOSSES.get(name, lambda: xl.SoftmaxWithLoss(reduction="sum"))
    x, t = xpv.asarray(X), xpv.asarray(np.sort(T))
    nets = [xl.mlp([4, 6, CLASSES], xl.Tanh, rng=0) for _ in range(2)]
    whole = TrainStep(nets[0], make(), xl.SGD(0.1))
    parts = AccumulatedStep(nets[1], make(), xl.SGD(0.1), parts=4)  # of 6, 6, 6 and 4
    for _ in range(2):
        assert_close(parts(x, t), float(whole(x, t)), 1e-5)
    for key, p in nets[0].params.items():
        assert_close(nets[1].params[key], to_numpy(p), 1e-5)


def test_parts_have_their_own_statistics_and_masks():
    net = network()
    AccumulatedStep(net, xl.SoftmaxWithLoss(), xl.SGD(0.0), parts=2)(X, T)
    expected = network()
    for part in (X[:11], X[11:]):
        expected.forward(part)
    for name, b in expected.buffers.items():
        assert_same_bits(net.buffers[name], b, name)


def test_parts_in_mixed_precision_and_of_wrong_targets():
    net = xl.mlp([4, 6, CLASSES], rng=0)
    precision = MixedPrecision("float16")
    step = AccumulatedStep(net, xl.SoftmaxWithLoss(), xl.SGD(0.1), parts=3, precision=precision)
    other = xl.mlp([4, 6, CLASSES], rng=0)
    TrainStep(other, xl.SoftmaxWithLoss(), xl.SGD(0.1))(X, T)
    step(X, T)
    assert int(step.state["precision"]["good_steps"]) == 1
    for key, p in other.params.items():
        assert net.params[key].dtype == np.float32
        assert_close(net.params[key], p, 1e-3)
    with pytest.raises(ValueError, match="label 3 is out of range"):
        step(X, np.full(N, 3))
    sizes = [part.stop - part.start for part in slices(N, 4)]
    assert sizes == [6, 6, 6, 4]
    assert [len(slices(n, 4)) for n in (0, 1, 4, 5, 9)] == [1, 1, 4, 3, 3]
    with pytest.raises(ValueError, match="parts is 0; expected .* 1"):
        AccumulatedStep(net, xl.SoftmaxWithLoss(), xl.SGD(), parts=0)


def test_accumulate_and_options_reach_the_step():
    net, whole = (xl.mlp([4, 6, CLASSES], rng=0) for _ in range(2))
    trainer(net, xl.SGD(0.1), accumulate=3).fit(X, T)
    trainer(whole, xl.SGD(0.1)).fit(X, T)
    for key, p in whole.params.items():
        assert_close(net.params[key], p, 1e-5)
    options = {"compile": False, "precision": MixedPrecision("float16")}
    made = trainer(**options).train_step
    assert (made.compile, made.precision) == (False, options["precision"])
    with pytest.raises(TypeError, match="precission"):
        trainer(precission=None)


def test_gradients_are_clipped():
    net = xl.mlp([4, CLASSES], rng=0)
    before, seen = copies(net), []

    def reduce_grads(grads):
        seen.append(grads)
        return {name: 1e3 * g for name, g in grads.items()}

    trainer(
        net, xl.SGD(1.0), batch_size=N, epochs=1, clip_norm=1e-2, reduce_grads=reduce_grads
    ).fit(X, T)
    moved = np.concatenate([(net.params[k] - before[k]).ravel() for k in before])
    assert np.linalg.norm(moved) == pytest.approx(1e-2, rel=1e-3)
    assert len(seen) == 1
    with pytest.raises(ValueError, match="limit is -1"):
        trainer(clip_norm=-1)


# Early stopping


def scripted(*scores):
    """Return a metric that gives one number after the other."""
    each = iter(scores)
    return {"score": lambda y, t: next(each)}


def states_of(epochs):
    """Return a callback that keeps a copy of the network after each epoch."""

    def keep(event):
        if event.kind == "epoch":
            epochs.append(copies(event.trainer.net))

    return keep


def test_patience_stops_and_goes_back_to_the_best():
    net, epochs = network(), []
    stopping = trainer(
        net, epochs=20, patience=2, monitor="val_score", metrics=scripted(1, 3, 2, 3, 9),
        callbacks=[states_of(epochs)],
    )  # fmt: skip
    history = stopping.fit(X, T, validation=[(X, T)])
    assert history.stopped == "patience"
    assert history["val_score"].tolist() == [1, 3, 2, 3]
    assert history.best_epoch == 2
    assert_same_network(net, epochs[1])
    assert np.any(epochs[1]["fc1.W"] != epochs[3]["fc1.W"])


@pytest.mark.parametrize(
    ("options", "best"),
    [
        ({"monitor": "val_score"}, 2),
        ({"monitor": "val_score", "mode": "min"}, 3),
        ({"monitor": "val_score", "restore_best": False}, 4),
        ({"monitor": "val_score", "patience": None, "restore_best": True}, 2),
        ({"monitor": "val_score", "patience": None}, 4),
    ],
)
def test_what_is_best_and_what_is_put_back(options, best):
    net, epochs = network(), []
    trainer(
        net, epochs=4, metrics=scripted(math.nan, 3, 1, 2), callbacks=[states_of(epochs)],
        **{"patience": 4, **options},
    ).fit(X, T, validation=[(X, T)])  # fmt: skip
    assert_same_network(net, epochs[best - 1])


def test_patience_ends_where_nothing_is_a_number():
    net, epochs = network(), []
    history = trainer(
        net, epochs=9, patience=2, monitor="val_score", metrics=scripted(*[math.nan] * 9),
        callbacks=[states_of(epochs)],
    ).fit(X, T, validation=[(X, T)])  # fmt: skip
    assert (history.stopped, len(history), history.best_epoch) == ("patience", 2, None)
    assert_same_network(net, epochs[-1])


def test_the_smaller_loss_is_better():
    history = trainer(optimizer=xl.SGD(0.05), epochs=5, patience=5).fit(X, T, validation=(X, T))
    assert history.best_epoch == 1 + int(np.argmin(history["val_loss"]))
    history = trainer(optimizer=xl.SGD(0.05), epochs=5, patience=5).fit(X, T)
    assert history.best_epoch == 1 + int(np.argmin(history["loss"]))


def test_a_summed_loss_is_told_by_the_sample():
    nets = [xl.mlp([4, CLASSES], rng=0) for _ in range(2)]
    options = {"optimizer": xl.SGD(0.0), "epochs": 1}
    mean = trainer(nets[0], **options).fit(X, T, validation=(X, T))
    summed = {"loss": xl.SoftmaxWithLoss(reduction="sum"), **options, "optimizer": xl.SGD(0.0)}
    history = trainer(nets[1], **summed).fit(X, T, validation=(X, T))
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(history[name], mean[name], rtol=1e-6)


# Events


def test_callbacks_get_events_in_order():
    seen = []
    watched = trainer(epochs=2, callbacks=[seen.append])
    history = watched.fit(X, T, validation=(X, T))
    kinds = [event.kind for event in seen]
    epoch = ["step"] * 3 + ["losses", "epoch"]
    assert kinds == ["begin", *epoch, *epoch, "end"]
    assert [event.epoch for event in seen] == [0, *[1] * 5, *[2] * 5, 2]
    assert [event.step for event in seen] == [0, 1, 2, 3, 3, 3, 4, 5, 6, 6, 6, 6]
    assert [event.samples for event in seen[1:4]] == [8, 16, 22]
    assert {event.total_samples for event in seen} == {2 * N}
    assert all(event.trainer is watched and event.history is history for event in seen)
    steps = [float(event.loss) for event in seen if event.kind == "step"]
    losses = [event.losses for event in seen if event.kind == "losses"]
    assert np.concatenate(losses).tolist() == steps
    assert [event.row for event in seen if event.kind == "epoch"] == list(history)


def test_a_callback_can_stop():
    stopped = trainer(callbacks=[lambda event: event.step == 4 and event.trainer.stop()])
    history = stopped.fit(X, T)
    assert history.stopped == "callback"
    assert len(history) == 1
    assert int(stopped.optimizer.state["count"]) == 4
    stopped.stop()  # nothing runs: nothing happens
    stopped.callbacks.clear()
    assert stopped.fit(X, T).stopped == "finished"


def test_an_error_in_a_callback_ends_the_run_and_tells_the_others():
    def fail(event):
        if event.step == 2:
            raise KeyError("mine")

    kinds = []
    broken = trainer(callbacks=[fail, lambda event: kinds.append(event.kind)])
    with pytest.raises(KeyError, match="mine"):
        broken.fit(X, T)
    assert kinds == ["begin", "step"]  # its own "end" failed too: step is still 2
    assert broken.history.stopped == ""


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


class Exp(xl.Layer):
    """The exponential function, which overflows at 89."""

    def apply(self, arrays, x):
        y = np.exp(x)
        return y, (y,)

    def vjp(self, cache, dy):
        return dy * cache[0], {}


def hot(number):
    """Return batches of which that of step `number` is a thousand times as large."""
    return lambda epoch: [
        (np.float32(1e3 if epoch * 50 + i + 1 == number else 1.0) * X, T) for i in range(50)
    ]


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
        def compared(self, xp, arrays, x, t):
            return xp.log(-xp.abs(x) - 1), x

    assert where(t=np.nan_to_num(target), loss=Bad()) == (1, "loss")


def test_batches_that_differ_each_time_cannot_be_repeated():
    poison = iter([1.0] * 5 + [math.nan])
    batches = [lambda: (np.float32(next(poison, 1.0)) * X, T)] * 3
    net = network()
    with pytest.raises(NonFiniteLoss, match="the batches are not the same when gone") as caught:
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


# Checkpoints


EVERY = {"every_steps": 2}


def run(net, folder, resume=False, optimizer=None, keep=3, **options):
    """Train with everything on that a run remembers."""
    options = {
        "optimizer": optimizer or xl.Adam(xl.schedules.Cosine(0.05, steps=18)),
        "epochs": 6, "patience": 5, "monitor": "val_loss", **options,
    }  # fmt: skip
    checkpoint = Checkpoint(folder, **EVERY, keep=keep)
    training = trainer(net, checkpoint=checkpoint, **options)
    return training.fit(X, T, validation=(X[:7], T[:7]), resume=resume)


class Killed(Exception):
    pass


def kill_at(step):
    def kill(event):
        if event.kind == "step" and event.step == step:
            raise Killed

    return [kill]


@pytest.mark.parametrize("step", [1, 2, 4, 6, 7, 18])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(step, tmp_path):
    expected, net, resumed = network(), network(), network()
    history = run(expected, tmp_path / "whole")
    with pytest.raises(Killed):
        run(net, tmp_path / "killed", callbacks=kill_at(step))
    found = run(resumed, tmp_path / "killed", resume=True)
    assert_same_network(resumed, expected)
    assert table(found) == table(history)
    assert found.best_epoch == history.best_epoch
    assert (found.stopped, len(found)) == (history.stopped, 6)


@pytest.mark.only("torch", "jax")
def test_a_run_goes_on_to_the_same_bits_on_other_libraries(xpv, tmp_path):
    x, t = data(xpv)
    nets = [xl.mlp([4, CLASSES], rng=0) for _ in range(3)]
    size = 11 if xpv.backend == "jax" else 8  # JAX compiles each shape

    def fit(net, folder, epochs, **options):
        checkpoint = Checkpoint(tmp_path / folder, **EVERY)
        options = {"restore_best": True, "callbacks": [], **options}
        resume = options.pop("resume", False)
        training = trainer(net, batch_size=size, epochs=epochs, checkpoint=checkpoint, **options)
        return training.fit(x, t, resume=resume)

    history = fit(nets[0], "whole", 3)
    with pytest.raises(Killed):
        fit(nets[1], "killed", 3, callbacks=kill_at(5))
    assert table(fit(nets[2], "killed", 3, resume=True)) == table(history)
    assert_same_network(nets[2], nets[0])


def test_a_run_that_is_over_can_be_extended(tmp_path):
    expected, net, same = network(), network(), network()
    run(expected, tmp_path / "whole", patience=None)
    run(net, tmp_path / "short", patience=None, epochs=2)
    seen = []
    options = {"patience": None, "epochs": 2, "callbacks": [lambda event: seen.append(event.kind)]}
    assert table(run(same, tmp_path / "short", True, **options))["epoch"] == [1, 2]
    assert_same_network(same, net)
    assert seen == ["begin", "end"]  # there is nothing to do or to write
    history = run(net, tmp_path / "short", True, patience=None)
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    assert_same_network(net, expected)


def test_patience_goes_through_a_checkpoint(tmp_path):
    def fit(net, folder, resume=False, epochs=9, scores=(5, 4, 6, 7, 8)):
        return trainer(
            net, epochs=epochs, patience=2, monitor="val_score", mode="min",
            metrics=scripted(*scores), checkpoint=Checkpoint(folder),
        ).fit(X, T, validation=[(X, T)], resume=resume)  # fmt: skip

    expected, net, resumed, after = (network() for _ in range(4))
    assert fit(expected, tmp_path / "whole").stopped == "patience"
    fit(net, tmp_path / "parts", epochs=3)
    history = fit(resumed, tmp_path / "parts", True, scores=(7, 8))
    assert (history.stopped, len(history), history.best_epoch) == ("patience", 4, 2)
    assert_same_network(resumed, expected)
    again = fit(after, tmp_path / "parts", True, scores=())
    assert (again.stopped, len(again)) == ("patience", 4)
    assert_same_network(after, expected)


def test_resume_begins_where_there_is_nothing(tmp_path):
    net, expected = network(), network()
    run(net, tmp_path / "a", resume=True)
    run(expected, tmp_path / "b")
    assert_same_network(net, expected)


def test_another_run_is_refused(tmp_path):
    run(network(), tmp_path)
    with pytest.raises(ValueError, match="has the checkpoints of another run; fit"):
        run(network(), tmp_path)
    with pytest.raises(ValueError, match="of another run: batch_size was 8, is 4, seed was 5, is "):
        run(network(), tmp_path, resume=True, batch_size=4, seed=1)
    with pytest.raises(ValueError, match=r"resume=True goes with Trainer\(checkpoint="):
        trainer().fit(X, T, resume=True)


def test_a_checkpoint_is_good_and_named(tmp_path):
    training = trainer(
        xl.Sequential(xl.Affine.init(4, CLASSES, rng=0), hot=Exp()),
        xl.SGD(1e-3),
        epochs=9,
        checkpoint=Checkpoint(tmp_path, every_steps=1, keep=99),
    )
    with pytest.raises(NonFiniteLoss, match=r"The last checkpoint is .*step-000000006\.saf"):
        training.fit(hot(7))
    assert len(list(tmp_path.iterdir())) == 6


def test_a_full_disk_does_not_end_the_run(tmp_path, monkeypatch):
    class Full(Checkpoint):
        calls = 0

        def save(self, step, *args, **kwargs):
            Full.calls += 1
            if step < 5:
                raise OSError(28, "No space left on device")
            return super().save(step, *args, **kwargs)

    net, expected = network(), network()
    with pytest.warns(RuntimeWarning, match="no checkpoint at step 2: .*No space left") as caught:
        trainer(net, checkpoint=Full(tmp_path, every_steps=2)).fit(X, T)
    assert len(caught) == 1
    assert Full.calls == 2  # not at every step: at the end
    trainer(expected).fit(X, T)
    assert_same_network(net, expected)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000009.safetensors"]


def test_events_of_checkpoints(tmp_path):
    seen = []
    trainer(
        epochs=1, checkpoint=Checkpoint(tmp_path, every_steps=2), callbacks=[seen.append]
    ).fit(X, T)  # fmt: skip
    kinds = [event.kind for event in seen]
    assert kinds == [
        "begin", "step", "step", "losses", "checkpoint", "step", "losses", "epoch", "checkpoint",
        "end",
    ]  # fmt: skip


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
    found = run(resumed, tmp_path / "a", resume=True)
    assert not found.interrupted
    assert table(found) == table(run(expected, tmp_path / "b"))
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
    with pytest.raises(MemoryError, match=r"in step 1, with batches of 8 samples\. Take accum.*=2"):
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


# What fit takes


def test_batches_of_ones_own():
    batches = [(X[:8], T[:8]), (X[8:], T[8:])]
    nets = [network() for _ in range(3)]
    trainer(nets[0]).fit(batches)
    history = trainer(nets[1]).fit(lambda epoch: iter(batches))
    assert_same_network(*nets[:2])
    assert history["step"].tolist() == [2, 4, 6]
    seen = []
    trainer(nets[2], callbacks=[seen.append]).fit(batches)
    totals = [event.total_samples for event in seen if event.kind in ("begin", "epoch", "end")]
    assert totals == [None, 3 * N, 3 * N, 3 * N, 3 * N]


def test_batches_of_ones_own_go_on_too(tmp_path):
    batches = [(X[:8], T[:8]), (X[8:15], T[8:15]), (X[15:], T[15:])]
    nets = [network() for _ in range(2)]
    trainer(nets[0]).fit(batches)
    with pytest.raises(Killed):
        trainer(
            nets[1], checkpoint=Checkpoint(tmp_path, **EVERY), callbacks=kill_at(5)
        ).fit(batches)  # fmt: skip
    trainer(nets[1], checkpoint=Checkpoint(tmp_path, **EVERY)).fit(batches, resume=True)
    assert_same_network(*nets)


def test_no_epoch_at_all():
    net, expected = network(), network()
    history = trainer(net, epochs=0).fit(X, T)
    assert (len(history), history.stopped) == (0, "finished")
    assert_same_network(net, expected)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((X, T[:5]), ValueError, r"x has shape \(22, 4\), t has shape \(5,\)"),
        ((X[:0], T[:0]), ValueError, "there are no samples"),
        ((X,), TypeError, "t is missing"),
        (((X, X),), TypeError, r"x is a tuple of two arrays; expected fit\(x, t\)"),
        ((5,), TypeError, r"batches is a int; expected an iterable of batches \(x, t\)"),
        ((iter([(X, T)]),), ValueError, "batches is an iterator, which can be gone through once"),
        (([],), ValueError, "there is no batch in epoch 1. Pass batches that can be gone"),
        ((X, T, (X, T[:5])), ValueError, r"validation t has shape \(5,\)"),
        ((X, T, (X.astype("float64"), T)), TypeError, "validation x is float64; expected float32"),
        ((X, T, iter([(X, T)])), ValueError, "validation is an iterator"),
        ((X, T, 5), TypeError, "validation is a int"),
        ((X.tolist(), T), TypeError, "x is a list"),
    ],
)
def test_fit_says_what_does_not_fit(arguments, error, words):
    with pytest.raises(error, match=words):
        trainer().fit(*arguments)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch_size is 0; expected an integer of at least 1"),
        ({"epochs": 2.5}, "epochs is 2.5; expected an integer of at least 0"),
        ({"seed": -1}, "seed is -1"),
        ({"accumulate": True}, "accumulate is True"),
        ({"patience": 0}, "patience is 0"),
        ({"mode": "best"}, "mode is 'best'; expected one of"),
        ({"on_nonfinite": "stop"}, "on_nonfinite is 'stop'"),
        ({"monitor": "val_score"}, "monitor is 'val_score'; expected one of loss"),
        ({"progress": "dots"}, "style is 'dots'; expected 'auto', 'bar' or 'lines'"),
        ({"loss": xl.SoftmaxWithLoss(reduction="none")}, "reduction='none'"),
    ],
)
def test_options_are_checked(options, words):
    with pytest.raises(ValueError, match=words):
        trainer(**options).fit(X, T)


def test_a_folder_is_no_checkpoint():
    with pytest.raises(TypeError, match=r"checkpoint is 'run'; expected Checkpoint\(folder"):
        trainer(checkpoint="run")


@pytest.mark.only("torch")
def test_libraries_are_not_mixed(xpv):
    x, t = data(xpv)
    with pytest.raises(TypeError, match="t is a numpy array on the CPU, x is a torch array"):
        trainer().fit(x, T)
    with pytest.raises(TypeError, match="validation x is a numpy array"):
        trainer().fit(x, t, validation=(X, T))


# What is seen


def test_progress_in_lines():
    file = io.StringIO()
    trainer(epochs=3, callbacks=[Progress("auto", file)]).fit(X, T, validation=(X, T))
    lines = file.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("epoch 1/3  loss ")
    assert "  val_accuracy 0." in lines[0]
    assert " samples/s  0:0" in lines[0]
    assert lines[2].endswith(" 0:00 left")


def test_progress_is_about_twenty_lines(monkeypatch):
    file = io.StringIO()
    trainer(epochs=45, callbacks=[Progress("lines", file)]).fit(X, T)
    epochs = [line.split()[1] for line in file.getvalue().splitlines()]
    assert epochs == [f"{i}/45" for i in range(3, 46, 3)]
    file = io.StringIO()
    trainer(epochs=23, callbacks=[Progress("lines", file)]).fit(X, T)
    assert file.getvalue().splitlines()[-1].startswith("epoch 23/23")
    monkeypatch.setattr("xplayers.training.progress.LONGEST_SILENCE", -1.0)
    file = io.StringIO()
    trainer(epochs=1, callbacks=[Progress("lines", file)]).fit([(X, T)] * (BLOCK + 1))
    assert len(file.getvalue().splitlines()) == 3  # two blocks and the epoch


def test_progress_in_a_bar():
    pytest.importorskip("tqdm")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    file = Terminal()
    trainer(epochs=2, callbacks=[Progress(file=file)]).fit(X, T, validation=(X, T))
    last = file.getvalue().split("\r")[-1]
    assert last.startswith("epoch 2/2: 100%")
    assert "44.0/44.0" in last
    assert "samples/s" in last
    assert "val_accuracy" in last


def test_a_bar_needs_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match="a bar needs tqdm: pip install tqdm"):
        trainer(callbacks=[Progress("bar", io.StringIO())]).fit(X, T)
    trainer(progress="auto").fit(X, T)  # goes without


def test_clock():
    assert [clock(s) for s in (0.4, 59.6, 754, 3723)] == ["0:00", "1:00", "12:34", "1:02:03"]


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    history = trainer(epochs=2, callbacks=[TensorBoard(tmp_path)]).fit(X, T)
    (path,) = tmp_path.iterdir()
    data, found = path.read_bytes(), []
    while data:  # a record: its length, a checksum of that, the event, a checksum of that
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
        data = data[16 + length :]
    steps = [step for tag, step, _ in found if tag == "step/loss"]
    assert steps == [1, 2, 3, 4, 5, 6]
    losses = {step: value for tag, step, value in found if tag == "loss"}
    assert losses == {s: pytest.approx(v) for s, v in zip((3, 6), history["loss"], strict=True)}
    assert {tag for tag, _, _ in found} >= {"lr", "samples_per_s", "seconds"}


def test_tensorboard_needs_a_writer(tmp_path, monkeypatch):
    modules = sys.modules
    monkeypatch.setitem(modules, "tensorboardX", None)
    monkeypatch.setitem(modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboardX"):
        trainer(callbacks=[TensorBoard(tmp_path)]).fit(X, T)
