"""Events: passes through the shells, copies, and further steps on a network."""

from __future__ import annotations

import copy
import dataclasses
import gc
import pickle
from typing import Any

import numpy as np
from numpy.random import Generator

import xplayers as xl
from fuzzer.batches import batch
from fuzzer.drawing import dtype_of, is_array, keep_all, values
from fuzzer.libraries import bits
from fuzzer.networks import pick, seed_of
from fuzzer.optimizers import _with_state
from fuzzer.settings import (
    LOSSES,
    Manner,
    draw_optimizer,
    draw_reduction,
)
from fuzzer.steps import steps
from fuzzer.worlds import Loop, World


def passes(world: World, rng: Generator) -> Any:
    """Forward, and perhaps backward, outside of the step."""
    x, t = batch(world, rng, pick(rng, *world.kinds))
    if world.dtype != dtype_of(world):
        return None
    y = world.keep(world.net.forward(x))
    dx = None
    if rng.random() < 0.7:
        value = world.step.loss.forward(y, t)
        dx = world.net.backward(world.step.loss.backward())
        dx = value, dx if is_array(dx) else None, dict(world.net.grads)
    if rng.random() < 0.7:
        world.net.zero_grads()
    return y, dx


def predict(world: World, rng: Generator) -> Any:
    x, _ = batch(world, rng, pick(rng, *world.kinds))
    return world.keep(world.net.predict(x))


def evaluate(world: World, rng: Generator) -> Any:
    kind = pick(rng, *world.kinds)
    x, t = batch(world, rng, dataclasses.replace(kind, n=7))
    return sorted(xl.evaluate(world.net, world.step.loss, x, t, batch_size=3).items())


def update_in_between(world: World, rng: Generator) -> Any:
    """A backward after an update is refused, or has the values of its forward."""
    x, _ = batch(world, rng, world.kinds[0])
    world.net.zero_grads()
    if world.dtype != dtype_of(world):
        return None
    y = world.net.forward(x)
    dy = values(world, rng, y.shape)
    expected = copy.deepcopy(world.net)
    expected_y = expected.forward(x)
    try:
        dx = expected.backward(dy)
        wanted = {"dx": dx, **expected.grads}
        loss = steps(world, rng)
        try:
            found = {"dx": world.net.backward(dy), **world.net.grads}
        except RuntimeError:
            return loss
        for name, a in wanted.items():
            if is_array(a) and bits(expected_y) == bits(y):
                assert bits(found[name]) == bits(a), f"{name} is of the parameters after the update"
        return loss
    finally:
        world.net.zero_grads()


def another_step(world: World, rng: Generator) -> Any:
    """A second `TrainStep` on the network; both go on in turn."""
    if not world.others or rng.random() < 0.3:
        loss = LOSSES[type(world.step.loss).__name__](rng, world.scores[-1])
        optimizer, reduce = draw_optimizer(rng), draw_reduction(rng)
        if rng.random() < 0.3:
            optimizer = world.step.optimizer
        if rng.random() < 0.3:
            loss = world.step.loss
        world.others = [world.make_step(loss, optimizer, reduce, world.manner)]
    rng_batches = np.random.default_rng(seed_of(rng))
    kind = pick(rng, *world.kinds)
    found = []
    for _ in range(int(rng.integers(1, 5))):
        for step in (*world.others, world.step):
            x, t = batch(world, rng_batches, kind)
            found.append(world.keep(step(x, t)))
    return found


def shared_layer(world: World, rng: Generator) -> Any:
    """A layer of the network is trained in a network of its own, too."""
    before, layer = pick(rng, *world.builder.made)
    if not layer.params or world.builder.integers is not None:
        return None
    net = xl.Sequential(layer, xl.Tanh())
    optimizer, found = draw_optimizer(rng), []
    step = world.make_step(xl.MeanSquaredError(), optimizer, None, Manner(), net)
    for _ in range(int(rng.integers(1, 5))):
        x = values(world, rng, (3, *before))
        shape = net.predict(x).shape
        found.append(world.keep(step(x, values(world, rng, shape))))
    world.others.clear()
    return found


def by_hand(world: World, rng: Generator) -> Any:
    """The optimizer of the step updates by hand."""
    x, t = batch(world, rng, pick(rng, *world.kinds))
    if world.dtype != dtype_of(world):
        return None
    step = Loop(world.net, world.step.loss, world.step.optimizer, None)
    return world.keep(step(x, t))


def interrupted(world: World, rng: Generator) -> Any:
    """Ctrl-C in the middle of a step."""

    def stop(grads: Any) -> Any:
        raise KeyboardInterrupt

    before = world.step.reduce_grads
    world.step.reduce_grads = stop
    try:
        return steps(world, rng)
    except KeyboardInterrupt:
        return "interrupted"
    finally:
        world.step.reduce_grads = before


def modes_of_torch(world: World, rng: Generator) -> Any:
    """A step where PyTorch records gradients, or does not."""
    if world.lib.name != "torch":
        return steps(world, rng)
    xp = world.lib.xp
    mode = pick(rng, xp.no_grad, xp.enable_grad, xp.inference_mode)
    with mode():
        return steps(world, rng)


def copied(world: World, rng: Generator) -> Any:
    """The network, or all of the step, is copied; sometimes one goes on with the copy."""
    how = pick(rng, "pickle", "deepcopy")
    if rng.random() < 0.1:
        old = world.step.optimizer
        world.step.optimizer = _with_state(copy.copy(old), old, world)
    if rng.random() < 0.5:
        net = world.net
        made = pickle.loads(pickle.dumps(net)) if how == "pickle" else copy.deepcopy(net)
        size = len(pickle.dumps(net))
        values_of = [*net.params.values(), *net.buffers.values()]
        fair = sum(_bytes(a) for a in values_of)
        assert size < 2 * fair + 4000 + 400 * len(values_of) + 2000 * len(world.builder.made), (
            f"a pickle of {fair} bytes of arrays has {size} bytes"
        )
        if rng.random() < 0.5:
            world.step.net = made
            world.builder.ties.clear()
            world.others.clear()
            world.adopt(made)
        else:
            keep_all(world, {**made.params, **made.buffers})
        return None
    world.builder.ties.clear()
    world.others.clear()
    try:
        step = pickle.loads(pickle.dumps(world.step)) if how == "pickle" else copy.deepcopy(
            world.step
        )  # fmt: skip
    except Exception:
        return None  # functions of people may have no pickle
    if rng.random() < 0.5:
        world.step = step
        world.adopt(step.net)
    return None


def _bytes(a: Any) -> int:
    return a.nbytes if hasattr(a, "nbytes") else a.numel() * a.element_size()


def close(world: World, rng: Generator) -> Any:
    world.step.close()


def collect(world: World, rng: Generator) -> Any:
    gc.collect()
    world.saved["garbage"] = [np.ones(int(n)) for n in rng.integers(1, 5000, 5)]


def zero_grads(world: World, rng: Generator) -> Any:
    world.net.zero_grads()
