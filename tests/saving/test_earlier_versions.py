"""What earlier versions of this package have written: converted, or refused by name."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from helpers import assert_close, assert_same_arrays, assert_same_bits, values
from optimizer_cases import gradients, start

import xplayers as xl
from xplayers.arrays.transfer import to_numpy
from xplayers.optimizers.base import Optimizer
from xplayers.saving.network import RECORD, load, read_metadata
from xplayers.saving.safetensors import write

OLD = (
    r"has the moments of Adam as earlier versions of xplayers stored them, m / \(1 - beta1\) and v"
)


def trained(optimizer, asarray, steps=3):
    params = {k: asarray(p, "float32") for k, p in start().items()}
    for i in range(steps):
        optimizer.update(params, {k: asarray(g, "float32") for k, g in gradients(i).items()})
    return params


def old_state(optimizer):
    """The state as version 1 has it: without the factors."""
    rates = {"m": 1 - optimizer.beta1, "v": 1 - optimizer.beta2}
    old = {m: {k: a / rate for k, a in optimizer.state[m].items()} for m, rate in rates.items()}
    return {**old, "count": optimizer.state["count"]}


# Pickles


def old_pickle(monkeypatch, *objects):
    with monkeypatch.context() as patch:
        patch.setattr(xl.Adam, "__getstate__", Optimizer.__getstate__)
        return pickle.dumps(objects)


@pytest.mark.parametrize("make", [xl.Adam, lambda: xl.AdamW(0.01, 0.0, 0.9, eps_hat=False)])
def test_a_pickle_is_converted(make, xpv, monkeypatch):
    optimizer = make()
    params = trained(optimizer, xpv.asarray)
    state, optimizer.state = optimizer.state, old_state(optimizer)
    (other,) = pickle.loads(old_pickle(monkeypatch, optimizer))
    assert repr(other) == repr(optimizer)
    assert vars(other).keys() == vars(optimizer).keys()
    for m in ("m", "v"):
        for k, a in state[m].items():
            assert_close(other.state[m][k], to_numpy(a), 1e-6, k)
    optimizer.state = state
    again = {k: xpv.asarray(to_numpy(p), "float32") for k, p in params.items()}
    grads = {k: xpv.asarray(g, "float32") for k, g in gradients(3).items()}
    other.update(again, grads)
    optimizer.update(params, grads)
    for k, p in params.items():
        assert_close(again[k], to_numpy(p), 1e-6, k)


def test_a_pickle_is_converted_once(monkeypatch):
    optimizer = xl.Adam()
    trained(optimizer, np.asarray)
    again = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(optimizer))))
    for m in ("m", "v"):
        assert_same_arrays(optimizer.state[m], again.state[m])
    (fresh,) = pickle.loads(old_pickle(monkeypatch, xl.Adam(beta1=0.5)))
    assert repr(fresh) == "Adam(beta1=0.5)"
    assert fresh.state is None


def test_a_used_step_in_a_pickle_is_converted(monkeypatch):
    step = new_step()
    step.state = {"optimizer": old_state(step.optimizer)}
    (other,) = pickle.loads(old_pickle(monkeypatch, step))
    expected = new_step()
    for m in ("m", "v"):
        for k, a in expected.optimizer.state[m].items():
            assert_close(other.optimizer.state[m][k], a, 1e-6, k)


# Checkpoints


def new_step(optimizer=xl.Adam):
    step = xl.TrainStep(xl.mlp([4, 5, 3], rng=0), xl.SoftmaxWithLoss(), optimizer())
    for i in range(3):
        step(values((6, 4), i).astype("float32"), np.arange(6) % 3)
    return step


def old_file(path, net, state, metadata=None):
    """Write a checkpoint as version 1 does."""

    def flat(prefix, state):
        for name, a in state.items():
            yield from (
                flat(f"{prefix}/{name}", a) if isinstance(a, dict) else [(f"{prefix}/{name}", a)]
            )

    def structure(state):
        return {k: structure(a) if isinstance(a, dict) else None for k, a in state.items()}

    record = {"step": 3, "state": structure(state), "rng_state": None, "metadata": metadata or {}}
    arrays = {**net.arrays, **dict(flat("checkpoint/state", state))}
    arrays[RECORD] = np.frombuffer(json.dumps(record).encode(), "uint8")
    path.parent.mkdir(exist_ok=True)
    write(path, arrays, {"net": repr(net), "step": "3"})


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("optimizer", [xl.Adam, xl.AdamW])
def test_a_checkpoint_is_refused_by_name(depth, optimizer, tmp_path):
    step = new_step(optimizer)
    state = old_state(step.optimizer)
    for name in ("optimizer", "step")[:depth]:
        state = {name: state}
    path = tmp_path / "run" / "step-000000003.safetensors"
    old_file(path, step.net, state, {"a": 1})
    net = xl.mlp([4, 5, 3], rng=1)
    before = {k: p.copy() for k, p in net.params.items()}
    checkpoint = xl.Checkpoint(tmp_path / "run")
    with pytest.raises(ValueError, match=rf"step-000000003\.safetensors: {OLD}.*load\(path, net\)"):
        checkpoint.restore(net)
    assert_same_arrays(net.params, before)
    # What it says to do.
    assert checkpoint.latest() == path
    assert read_metadata(path) == load(path, net) == {"a": 1}
    assert_same_arrays(net.params, step.net.params)


@pytest.mark.parametrize("optimizer", [xl.SGD, xl.Momentum, xl.AdaGrad, xl.RMSprop])
def test_checkpoints_of_other_optimizers_are_read(optimizer, tmp_path):
    step, other = new_step(optimizer), new_step(optimizer)
    old_file(tmp_path / "run" / "step-000000003.safetensors", step.net, step.state)
    saved = xl.Checkpoint(tmp_path / "run").restore(other.net)
    other.state = saved.state
    batch = values((6, 4), 4).astype("float32"), np.arange(6) % 3
    assert_same_bits(other(*batch), step(*batch))


def test_a_checkpoint_without_a_state_is_read(tmp_path):
    net = xl.mlp([4, 5, 3], rng=0)
    old_file(tmp_path / "run" / "step-000000003.safetensors", net, {})
    assert xl.Checkpoint(tmp_path / "run").restore(net).step == 3


def test_a_run_of_a_trainer_is_refused_by_name(tmp_path):
    x, t = values((12, 4)).astype("float32"), np.arange(12) % 3

    def fit(epochs, resume):
        trainer = xl.Trainer(
            xl.mlp([4, 5, 3], rng=0), xl.SoftmaxWithLoss(), xl.Adam(), batch_size=4, epochs=epochs,
            seed=0, checkpoint=xl.Checkpoint(tmp_path, keep=1), progress=False,
        )  # fmt: skip
        trainer.fit(x, t, resume=resume)
        return trainer

    trainer = fit(1, resume=False)
    (path,) = tmp_path.iterdir()
    metadata = read_metadata(path)
    state = {"step": {"optimizer": old_state(trainer.optimizer)}}
    path.unlink()
    old_file(path, trainer.net, state, metadata)
    with pytest.raises(ValueError, match=OLD):
        fit(2, resume=True)
