"""The trainer: the same numbers as a loop, and what it tells on the way."""

from __future__ import annotations

import ast
import copy
import gc
import importlib
import inspect
import math
import os
import pickle
import sys
import time
import tracemalloc

import numpy as np
import pytest
from helpers import values
from trainers import (
    CLASSES,
    N,
    T,
    X,
    assert_same_network,
    data,
    loop,
    masked,
    network,
    table,
    trainer,
)

import xplayers as xl
from xplayers.arrays.transfer import to_numpy
from xplayers.training import run as run_module
from xplayers.training.fetching import BLOCK, fetched
from xplayers.training.trainer import Trainer

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


def test_a_fraction_is_held_out(xpv):
    x, t = xpv.asarray(np.tile(X, (3, 1)), "float32"), xpv.asarray(np.tile(T, 3))
    weights = xpv.asarray(np.linspace(0.5, 2, len(T) * 3), "float32")
    rest, held_out = xl.data.split(x, t, 0.25, rng=5)
    first, again = (trainer(epochs=2) for _ in range(2))
    history = first.fit(x, t, 0.25)
    assert history["val_loss"].tolist() == again.fit(*rest, held_out)["val_loss"].tolist()
    assert history["loss"].tolist() == again.history["loss"].tolist()
    with_weights = trainer(epochs=2).fit(x, t, 0.25, sample_weight=weights)
    assert with_weights["val_loss"].tolist() != history["val_loss"].tolist()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((X, T, 0.0), ValueError, "Trainer.fit: validation is 0.0; expected"),
        ((X, T, 1.0), ValueError, "Trainer.fit: validation is 1.0; expected"),
        (([(X, T)], None, 0.2), TypeError, "validation=0.2 goes with arrays, not with batches"),
        ((X, T[:3], 0.2), ValueError, r"Trainer.fit: x has shape \(22, 4\), t has shape \(3,\)"),
    ],
)
def test_fractions_that_do_not_fit(arguments, error, words):
    with pytest.raises(error, match=words):
        trainer().fit(*arguments)


def test_a_second_fit_goes_on_from_the_parameters():
    net, twice = network(), network()
    once = trainer(net, epochs=1)
    once.fit(X, T)
    assert once.fit(X, T)["epoch"].tolist() == [1]
    expected = Trainer(
        twice, xl.SoftmaxWithLoss(), once.optimizer, batch_size=8, epochs=1, progress=False
    )
    assert expected.optimizer.state["count"] == 6


# Copies


@pytest.mark.parametrize(
    "options",
    [{}, {"clip_norm": 1.0, "patience": 2}, {"accumulate": 2, "progress": True}],
    ids=lambda options: "-".join(options) or "plain",
)
def test_a_trainer_that_was_used_is_copied_and_pickled(options):
    used = trainer(**options)
    used.fit(X, T)
    copies = [copy.deepcopy(used), pickle.loads(pickle.dumps(used))]
    history = used.fit(X, T, validation=(X, T))
    for other in copies:
        assert repr(other) == repr(used)
        assert other.train_step.net is other.net
        assert table(other.fit(X, T, validation=(X, T))) == table(history)
        assert_same_network(other.net, used.net)


def test_a_copy_that_is_taken_in_a_run_does_not_run():
    copies = []

    def take(event):
        if event.step == 4 and not copies:
            event.trainer.callbacks.remove(take)
            copies.append(pickle.loads(pickle.dumps(event.trainer)))

    original = trainer(callbacks=[take], progress=True)
    original.fit(X, T)
    copies[0].stop()  # nothing runs: nothing happens
    assert copies[0].fit(X, T).stopped == "finished"


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
    for module in ("host.elementwise", "replay.steps"):
        name = f"xplayers.accelerate.{module}"
        monkeypatch.setattr(importlib.import_module(name), "on_host", lambda x: False)
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
        numbers = fetched([xpv.asarray(i / 3, "float32") for i in range(n)])
        assert numbers.dtype == np.float64
        assert numbers.tolist() == [float(np.float32(i / 3)) for i in range(n)]
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


@pytest.mark.parametrize("steps", [10_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_resident_memory_is_flat(steps, monkeypatch):
    # Numba, which would be imported after so many steps, is 130 MB by itself.
    monkeypatch.setenv("XPLAYERS_JIT", "0")

    def resident():
        gc.collect()
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    sizes = {}

    def watch(event):
        if event.kind == "step" and event.step in (1_000, 10_000, 100_000, 1_000_000):
            sizes[event.step] = resident()

    net = xl.mlp([4, CLASSES], rng=0)
    trains = trainer(net, epochs=10, callbacks=[watch])
    trains.fit(lambda epoch: ((X[:2], T[:2]) for _ in range(steps // 10)))
    grown = {step: size - sizes[1_000] for step, size in sizes.items()}
    print(f"bytes more than after 1,000 steps: {grown}")  # noqa: T201 - a figure
    assert grown[steps] < 1 << 20


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


def test_a_callback_can_set_options_of_the_run():
    def extend(event):
        if event.kind == "epoch":
            event.trainer.epochs = 2 if event.epoch == 1 else event.trainer.epochs

    def begin(event):
        if event.kind == "begin":
            event.trainer.epochs, event.trainer.patience = 5, 1

    assert len(trainer(epochs=1, callbacks=[extend]).fit(X, T)) == 2
    assert len(trainer(epochs=9, callbacks=[extend]).fit(X, T)) == 2
    stopping = trainer(optimizer=xl.SGD(0.0), callbacks=[begin])
    assert (stopping.fit(X, T).stopped, stopping.patience) == ("patience", 1)


def test_a_run_knows_no_trainer():
    for module in (
        "training.run", "training.identity", "training.evaluation", "reports.events",
        "reports.history", "saving.checkpoint",
    ):  # fmt: skip
        tree = ast.parse(inspect.getsource(sys.modules[f"xplayers.{module}"]))
        for node in ast.walk(tree):
            assert getattr(node, "attr", "") != "trainer", f"{module}, line {node.lineno}"
            assert "trainer" not in str(getattr(node, "module", "")), module


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
        ((iter([(X, T)]),), ValueError, "batches is an iterator, which can be used only once"),
        (([],), ValueError, "there is no batch in epoch 1. Pass an iterable that can be used"),
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
