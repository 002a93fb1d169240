"""Schedules: their shapes, and steps whose number is a device array."""

from __future__ import annotations

import dataclasses
import inspect
import math
import pickle

import numpy as np
import pytest
from helpers import assert_at_home, assert_close, values

import xplayers as xl
from xplayers import schedules as s
from xplayers.arrays.transfer import to_numpy

CASES = {
    "constant": (s.Constant(0.5), lambda t: 0.5),
    "step": (s.Step(1.0, every=10, factor=0.5), lambda t: 0.5 ** (t // 10)),
    "exponential": (s.Exponential(1.0, every=10), lambda t: 0.1 ** (t / 10)),
    "cosine": (
        s.Cosine(1.0, steps=20, final=0.2),
        lambda t: 0.2 + 0.8 * (1 + math.cos(math.pi * min(t / 20, 1))) / 2,
    ),
    "warm-up": (
        s.WarmUp(5, s.Exponential(1.0, every=10)),
        lambda t: (t + 1) / 5 if t < 5 else 0.1 ** ((t - 5) / 10),
    ),
}


def test_every_schedule_is_tested():
    public = {v for n in s.__all__ if inspect.isclass(v := getattr(s, n))} - {s.Schedule}
    assert public == {type(schedule) for schedule, _ in CASES.values()} | {s.OneCycle}


@pytest.mark.parametrize("name", CASES)
def test_values(name, xpv):
    schedule, expected = CASES[name]
    for t in [0, 1, 4, 5, 9, 10, 19, 20, 35]:
        assert isinstance(schedule(t), float)
        assert schedule(t) == pytest.approx(expected(t), rel=1e-12)
    for t in (0, 5, 20):
        step = xpv.asarray(np.asarray(t, "int32"))
        rate = schedule(step)
        assert rate.shape == ()
        assert float(rate) == pytest.approx(expected(t), rel=1e-5)


def test_one_cycle_rises_and_falls_once():
    schedule = s.OneCycle(1.0, steps=100, rise=0.25, start_factor=10, final_factor=100)
    rates = [schedule(t) for t in range(120)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[25] == max(rates) == pytest.approx(1.0)
    assert all(np.diff(rates[:26]) > 0)
    assert all(np.diff(rates[25:101]) < 0)
    assert rates[100] == rates[-1] == pytest.approx(0.01)


def test_one_cycle_is_torch_s():
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.7, total_steps=101, pct_start=0.3, div_factor=25, final_div_factor=400
    )
    ours = s.OneCycle(0.7, steps=100, rise=0.293)  # torch: 0.3 of 101 steps, less one
    optimizer.step()
    for t in range(101):
        assert ours(t) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        if t < 100:
            theirs.step()


@pytest.mark.parametrize("name", CASES)
def test_a_schedule_is_data(name):
    schedule, _ = CASES[name]
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert eval(repr(schedule), vars(s).copy()) == schedule
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.lr = 3


def test_in_the_place_of_a_learning_rate(xpv):
    x, t = xpv.asarray(values((8, 4)), "float32"), xpv.asarray(np.arange(8) % 3)
    schedule = s.Step(0.5, every=2)
    nets = [xl.mlp([4, 3], rng=0) for _ in range(2)]
    by_schedule = xl.TrainStep(nets[0], xl.SoftmaxWithLoss(), xl.SGD(lr=schedule))
    by_hand = xl.TrainStep(nets[1], xl.SoftmaxWithLoss(), xl.SGD())
    for i in range(5):
        by_schedule(x, t)
        by_hand(x, t, lr=schedule(i))
    for name, p in nets[0].params.items():
        assert_close(p, to_numpy(nets[1].params[name]), 1e-6)
        assert_at_home(p, x)


def test_mistakes():
    with pytest.raises(ValueError, match="Cosine: steps is 0; expected a positive number"):
        s.Cosine(1.0, steps=0)
    with pytest.raises(ValueError, match="Step: every is -1"):
        s.Step(1.0, every=-1)
    with pytest.raises(ValueError, match="OneCycle: rise is 1.5; expected a fraction between"):
        s.OneCycle(1.0, steps=10, rise=1.5)
    with pytest.raises(TypeError, match="Constant: step is a str"):
        s.Constant(1.0)("a")


def test_schedules_of_ones_own_are_not_taken_for_each_other():
    class Mine(xl.schedules.Schedule):
        def rate(self, xp, t):
            return 0.1 + 0.0 * t

    assert Mine() != Mine()
    assert xl.schedules.Constant(0.1) == xl.schedules.Constant(0.1)
    assert hash(xl.schedules.Constant(0.1)) == hash(xl.schedules.Constant(0.1))
