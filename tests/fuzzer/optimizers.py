"""Events: the optimizer, its numbers and its state."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import numpy as np
from numpy.random import Generator

import xplayers as xl
from fuzzer import settings
from fuzzer.batches import batch
from fuzzer.drawing import keep_all, name_of, values, writable
from fuzzer.networks import pick
from fuzzer.settings import (
    OPTIMIZERS,
    draw_optimizer,
    draw_rate,
)
from fuzzer.worlds import World


def new_optimizer(world: World, rng: Generator) -> Any:
    """One with the state of the last, or without any."""
    old = world.step.optimizer
    new = draw_optimizer(rng)
    if rng.random() < 0.6:
        name = pick(rng, *_alike(type(old).__name__))
        new = OPTIMIZERS[name](rng, draw_rate(rng))
        new = _with_state(new, old, world)
    world.step.optimizer = new


def _with_state(new: Any, old: Any, world: World) -> Any:
    """Give `new` the state of `old`, of its own where `old` goes on: a step gives it up."""
    goes_on = any(step.optimizer is old for step in world.others)
    new.state = copy.deepcopy(old.state) if goes_on else old.state
    return new


def _alike(name: str) -> tuple[str, ...]:
    for group in (("Adam", "AdamW"), ("Momentum", "Nesterov"), ("AdaGrad", "RMSprop"), ("SGD",)):
        if name in group:
            return group
    return (name,)


def attribute(world: World, rng: Generator) -> Any:
    """An attribute of the optimizer is changed."""
    optimizer = world.step.optimizer
    names = [n for n in vars(optimizer) if n not in ("state", "eps")]
    name = pick(rng, *names)
    if name == "lr":
        optimizer.lr = draw_rate(rng)
    elif name == "power":
        optimizer.power = pick(rng, 1, 2, 3)
    elif name == "factors":  # a list, in place
        optimizer.factors[0] *= 0.7
    elif name == "scale":  # an array
        if optimizer.scale is None:
            optimizer.scale = world.lib.array(np.asarray(0.5), world.dtype)
        else:
            optimizer.scale[...] = float(rng.uniform(0.5, 1.0))
    elif name == "eps_hat":
        optimizer.eps_hat = not optimizer.eps_hat
    elif name == "weight_decay":
        optimizer.weight_decay = pick(rng, 0.0, 0.01, 0.2, np.float64(0.1), 0)
    else:  # beta1, momentum, ...
        kind = pick(rng, float, float, np.float64)
        setattr(optimizer, name, kind(pick(rng, 0.5, 0.8, 0.9, float(rng.uniform(0.5, 0.95)))))


def in_place(world: World, rng: Generator) -> Any:
    """What a schedule or a reduction holds is changed where it stands."""
    lr, reduce = world.step.optimizer.lr, world.step.reduce_grads
    if hasattr(lr, "box"):
        lr.box[0] *= 0.7
    elif isinstance(lr, np.ndarray):
        lr[...] = 0.7 * lr
    elif hasattr(lr, "lr") and not isinstance(lr, xl.schedules.Schedule):
        lr.lr *= 0.7
    clipper = getattr(reduce, "__self__", reduce)
    if hasattr(clipper, "limit"):
        clipper.limit *= 0.7


def option(world: World, rng: Generator) -> Any:
    """An option of a layer or of the loss is changed."""
    makers = [layer for _, layer in world.builder.made] + [world.step.loss]
    found = [
        (layer, name) for layer in makers for name, v in vars(layer).items()
        if type(v) is float and name[0] != "_" and name != "eps"
    ]  # fmt: skip
    if found:
        layer, name = pick(rng, *found)
        setattr(layer, name, float(rng.uniform(0.1, 0.9)))


def penalty(world: World, rng: Generator) -> Any:
    """A reduction that looks at the parameters by itself."""
    net, world.unreplayed = world.net, True
    world.step.reduce_grads = lambda grads: {k: g + 0.01 * net.params[k] for k, g in grads.items()}


def masked(world: World, rng: Generator) -> Any:
    """A reduction that holds arrays, which are written to later."""
    if "masks" in world.saved and rng.random() < 0.5:
        for mask in world.saved["masks"].values():
            mask[...] = float(rng.random())
        return
    masks = {k: world.lib.xp.ones_like(a) for k, a in world.net.params.items()}
    world.saved["masks"] = masks
    factor = pick(rng, 1.0, 2.0)  # 2: what gradients are multiplied by is computed
    reduce = Masked(masks, factor)
    if rng.random() < 0.5:
        reduce = lambda grads: {k: g * (factor * masks[k]) for k, g in grads.items()}  # noqa: E731
        reduce.unreplayed = True  # what is in a dict of a function may be another thing at any time
    world.step.reduce_grads = reduce


class Masked:
    """Multiplies gradients by arrays that others may write to."""

    def __init__(self, masks: dict[str, Any], factor: float) -> None:
        self.masks, self.factor = masks, factor

    def __call__(self, grads: dict[str, Any]) -> dict[str, Any]:
        return {k: g * (self.factor * self.masks[k]) for k, g in grads.items()}


def by_global(world: World, rng: Generator) -> Any:
    """A reduction that reads a variable of its module, which is another one later."""
    world.step.reduce_grads = settings._by_global
    kind, losses = pick(rng, *world.kinds), []
    for _ in range(2):
        settings.set_limit(float(rng.uniform(0.01, 1.0)))
        losses += [world.take(*batch(world, rng, kind)) for _ in range(4)]
    world.step.reduce_grads = None
    return losses


def overlapping(world: World, rng: Generator) -> Any:
    """Parameters or buffers that share memory in another way than as one and the same."""
    world.apart = world.unreplayed = True
    how = pick(rng, "part", "reversed", "buffers", "transposed")
    params, buffers = world.net.params, world.net.buffers
    if how == "buffers":
        name = name_of(world, rng, "buffers")
        if name is not None:
            fits = [k for k in sorted(buffers) if buffers[k].shape == buffers[name].shape]
            other = pick(rng, *fits)
            if buffers[other].dtype == buffers[name].dtype:
                buffers[other] = buffers[name]
        return
    name = name_of(world, rng)
    shape = tuple(params[name].shape)
    if how == "transposed" and len(shape) > 2 and shape[-1] == shape[-2]:
        fits = [k for k in sorted(params) if tuple(params[k].shape) == shape]
        params[pick(rng, *fits)] = world.lib.xp.moveaxis(params[name], -1, -2)
    elif how == "reversed" and shape and world.lib.name == "numpy":
        params[name] = params[name][::-1]
    elif shape and world.lib.name == "numpy":  # see `views_of_one`
        more = values(world, rng, (shape[0] + 1, *shape[1:]))
        fits = [k for k in sorted(params) if tuple(params[k].shape) == shape]
        params[name], params[pick(rng, *fits)] = more[1:], more[:-1]


def state_anew(world: World, rng: Generator) -> Any:
    optimizer = world.step.optimizer
    how = pick(rng, "none", "copied", "the same dict", "initial", "shared arrays", "backwards")
    if optimizer.state is None:
        return
    if how == "none":
        optimizer.state = None
    elif how == "copied":
        optimizer.state = copy.deepcopy(optimizer.state)
    elif how == "the same dict":
        optimizer.state = dict(optimizer.state)
    elif how == "backwards":
        optimizer.state = {
            k: dict(reversed(v.items())) if isinstance(v, dict) else v
            for k, v in reversed(optimizer.state.items())
        }
    elif how == "initial":
        optimizer.state = optimizer.init(dict(world.net.params))
    else:
        optimizer.state = {
            k: dict(v) if isinstance(v, dict) else v for k, v in optimizer.state.items()
        }


def write_state(world: World, rng: Generator) -> Any:
    """A part of the state is assigned, or written in place."""
    state = world.step.optimizer.state
    if state is None:
        return
    key = pick(rng, *sorted(state))
    if key == "count":
        n = int(rng.integers(0, 20))
        array = world.lib.array(np.asarray(n), pick(rng, "int32", "int32", "int64"))
        state["count"] = pick(rng, array, array, array, np.int32(n), n)
        return
    if not state[key]:
        return
    name = pick(rng, *sorted(state[key]))
    if rng.random() < 0.5:
        state[key][name] = state[key][name] * 0.5
    else:
        with writable(state[key][name]):
            state[key][name] *= 0.5


def checkpoint(world: World, rng: Generator) -> Any:
    world.saved["state"] = copy.deepcopy(world.step.state)
    keep_all(world, world.saved["state"])


def go_back(world: World, rng: Generator) -> Any:
    if "state" in world.saved:
        world.step.state = copy.deepcopy(world.saved["state"])


def bad_state(world: World, rng: Generator) -> Any:
    if world.way != "loop":  # which has no such face
        with contextlib.suppress(ValueError):
            world.step.state = {"other": {}}
            return "accepted"
    return None
