"""Steps whose optimizer changes, looks at its numbers or counts."""

import pytest
from changed_steps import EXACT, net, same
from helpers import taker, to_numpy, values

import xplayers as xl


@pytest.mark.only("numpy", "torch")
def test_numbers_of_the_optimizer_are_arguments(xpv):
    """A weight decay that is set anew in each step: one replay, and no memory."""
    steps = []

    def history(step, take):
        steps.append(step)
        for i in range(12):
            step.optimizer.weight_decay = 0.01 * (i + 1)
            step.optimizer.lr = 0.1 / (i + 1)
            take(4)

    same(xpv, history)
    assert len(taker(steps[0]).replays.replays) == 1


class Looking(xl.Adam):
    """Looks at its numbers, so they are constants of what is recorded or compiled."""

    def constants(self, t):
        *betas, eps, correction = super().constants(t)
        return (*betas, float(eps) if self.eps > 1e-3 else eps, correction)


def test_an_optimizer_that_looks_at_its_numbers(xpv):
    def history(step, take):
        for eps in (1e-7, 1e-7, 1e-7, 1e-2, 1e-2, 1e-2, 1e-7, 1e-7):
            step.optimizer.eps = eps
            take(4)

    same(xpv, history, net, Looking)


class Counting(xl.SGD):
    """Sets an attribute in each step."""

    def step(self, params, grads, state, **options):
        self.steps = getattr(self, "steps", 0) + 1
        return super().step(params, grads, state, **options)


@pytest.mark.only(*EXACT)
def test_an_optimizer_that_counts(xpv):
    def history(step, take):
        for i in range(6):
            take(4)
            assert step.optimizer.steps == i + 1

    same(xpv, history, net, Counting)


class Schedule:
    """A schedule of one's own that cannot be hashed."""

    def __eq__(self, other):
        return self is other

    __hash__ = None

    def __call__(self, step):
        return xl.schedules.Exponential(0.1, 2)(step)


def test_a_schedule_that_cannot_be_hashed(xpv):
    def history(step, take):
        for _ in range(5):
            take(4)

    same(xpv, history, net, lambda: xl.SGD(lr=Schedule()))


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
