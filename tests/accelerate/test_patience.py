"""Where what a step is made of changes again and again, steps are computed as they stand."""

import sys

import numpy as np
import pytest
from helpers import values

import xplayers as xl
from xplayers.accelerate import patience
from xplayers.accelerate.replay import steps as replays


def network():
    return xl.mlp([6, 5, 3], rng=0)


def assign_parameter(step, i):
    step.net.params["0.W"] = step.net.params["0.W"] * 1.0


def set_attribute(step, i):
    step.loss.label_smoothing = 0.01 * (1 + i % 2)


@pytest.fixture
def recorded(monkeypatch):
    """The steps that are recorded."""
    steps, record = [], replays.Recording

    def counted():
        steps.append(1)
        return record()

    monkeypatch.setattr(replays, "Recording", counted)
    return steps


@pytest.mark.parametrize("every", [1, 2, 3, 5])
@pytest.mark.parametrize("change", [assign_parameter, set_attribute], ids=["array", "option"])
def test_ends_recording(recorded, change, every):
    step = xl.TrainStep(network(), xl.SoftmaxWithLoss(), xl.Adam())
    x, t = values((8, 6)).astype("float32"), np.arange(8) % 3
    for i in range(200):
        if i % every == 0:
            change(step, i)
        step(x, t)
    # Two for each of a few changes, while the waiting grows to 64 steps.
    assert len(recorded) <= 18


def test_ends_with_the_changes(recorded):
    step = xl.TrainStep(network(), xl.SoftmaxWithLoss(), xl.Adam())
    x, t = values((8, 6)).astype("float32"), np.arange(8) % 3
    for i in range(50):
        set_attribute(step, i)
        step(x, t)
    before = len(recorded)
    for _ in range(64):
        step(x, t)
    step(x, t), step(x, t)
    assert len(recorded) == before + 2
    # What is used often is made anew at once.
    for _ in range(20):
        step(x, t)
    for i in range(3):
        set_attribute(step, i)
        step(x, t), step(x, t)
    assert len(recorded) == before + 8


def test_goes_by_the_last_changes():
    wait = patience.Patience()
    waits = []
    for _ in range(13):
        wait.changed()
        waits.append(next(n for n in range(100) if wait.over()))
    assert waits == [0, 0, 0, 0, 2, 4, 8, 16, 32, 64, 64, 64, 64]
    wait.uses = 15
    wait.changed()
    assert not wait.over()
    wait.uses = 16
    wait.changed()
    assert wait.over()


def test_ends_compiling(xpv, monkeypatch):
    if xpv.backend != "jax":
        pytest.skip("the others are recorded")
    jax, made = sys.modules["jax"], []
    jit = jax.jit

    def counted(*args, **kwargs):
        made.append(1)
        return jit(*args, **kwargs)

    monkeypatch.setattr(jax, "jit", counted)
    step = xl.TrainStep(xl.mlp([6, 3], rng=0), xl.SoftmaxWithLoss(), xl.SGD())
    x, t = xpv.asarray(values((8, 6)), "float32"), xpv.asarray(np.arange(8) % 3)
    for i in range(8):
        set_attribute(step, i)
        step(x, t)
    assert len(made) == 4
    for _ in range(32):
        step(x, t)
    assert len(made) == 5
