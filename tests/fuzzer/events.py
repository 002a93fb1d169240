"""What happens in a history: a table of events, steps and what people do between steps.

An event is a function of a world and of random numbers, which are the same in all worlds. What it
returns, or the error that it raises, has to be the same in all of them too.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import gc
import pickle
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

import xplayers as xl
from fuzzer import settings
from fuzzer.batches import Kind, batch, labels_of
from fuzzer.libraries import LAYOUTS, bits
from fuzzer.networks import pick, seed_of
from fuzzer.settings import (
    LOSSES,
    OPTIMIZERS,
    Manner,
    clip,
    draw_optimizer,
    draw_precision,
    draw_rate,
    draw_reduction,
)
from fuzzer.worlds import Loop, World


@dataclasses.dataclass(frozen=True)
class Row:
    """An event; `still`: it does not end replays."""

    happen: Callable[[World, Generator], Any]
    often: float = 1.0
    still: bool = False


def values(world: World, rng: Generator, shape: Any, scale: float = 0.5) -> Any:
    return world.lib.array(rng.normal(0.0, scale, tuple(shape)), world.dtype)


def name_of(world: World, rng: Generator, kind: str = "params") -> str | None:
    names = sorted(getattr(world.net, kind))
    return pick(rng, *names) if names else None


# Steps.


def steps(world: World, rng: Generator, kind: Kind | None = None, **options: Any) -> Any:
    kind = kind or pick(rng, *world.kinds)
    losses = []
    for _ in range(int(rng.integers(1, 5))):
        losses.append(world.take(*batch(world, rng, kind), **options))
    return losses


def same_batch(world: World, rng: Generator) -> Any:
    """The very same arrays, several times."""
    x, t = batch(world, rng, pick(rng, *world.kinds))
    return [world.take(x, t) for _ in range(4)]


def one_buffer(world: World, rng: Generator) -> Any:
    """Batches are written into one place, and the losses are written over."""
    kind = dataclasses.replace(pick(rng, *world.kinds), x="contiguous", t="contiguous")
    x, t = batch(world, rng, kind, keep=False)
    losses = []
    for _ in range(4):
        new_x, new_t = batch(world, rng, kind)
        x[...], t[...] = new_x, new_t
        loss = world.step(x, t)
        losses.append(loss + 0.0)
        loss[...] = 7.0
    return losses


def at_the_same_time(world: World, rng: Generator) -> Any:
    """Another network is trained in another thread."""
    other = World(world.way, world.lib, world.network, world.dtype, world.placed)
    other.kinds, other.scores, other.unreplayed = world.kinds, world.scores, True
    loss = LOSSES[type(world.step.loss).__name__](rng, world.scores[-1])
    other.step = other.make_step(loss, draw_optimizer(rng), draw_reduction(rng), world.manner)
    there = np.random.default_rng(seed_of(rng))
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(train(other, there)))
    thread.start()
    try:
        return train(world, rng), found
    finally:
        thread.join()


def train(world: World, rng: Generator) -> list[Any]:
    kind = pick(rng, *world.kinds)
    try:
        return [world.take(*batch(world, rng, kind)) for _ in range(8)]
    except Exception as error:
        return [f"{type(error).__name__}"]


def all_sizes(world: World, rng: Generator) -> Any:
    """More kinds of batches than there are replays kept for."""
    first = world.kinds[0]
    sizes = [*range(1, pick(rng, 4, 9, 10)), *([0] if rng.random() < 0.2 else [])]
    order = [*(sizes * int(rng.integers(1, 4))), *rng.permutation(sizes)]
    world.unreplayed = True  # more kinds than replays are kept for
    return [world.take(*batch(world, rng, dataclasses.replace(first, n=int(n)))) for n in order]


def many(world: World, rng: Generator) -> Any:
    x, t = batch(world, rng, dataclasses.replace(pick(rng, *world.kinds), n=12))
    index = rng.permutation(12)[: 2 * 4].reshape(2, 4)
    return world.many(x, t, world.lib.array(index))


def rate_given(world: World, rng: Generator) -> Any:
    lr = float(rng.uniform(0.001, 0.02))
    array = world.lib.array(np.asarray(lr), pick(rng, "float32", "float64"))
    return steps(world, rng, lr=pick(rng, lr, np.float64(lr), np.float32(lr), array, 0, 0.0))


def in_a_thread(world: World, rng: Generator) -> Any:
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(steps(world, rng))
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


def decay_anew(world: World, rng: Generator) -> Any:
    """A weight decay, or another number, that is another one in each step."""
    kind, losses = pick(rng, *world.kinds), []
    names = [k for k, v in vars(world.step.optimizer).items() if type(v) is float and k != "eps"]
    name = pick(rng, *names, "weight_decay")
    for _ in range(5):
        factor = float(rng.uniform(0.8, 0.999))
        setattr(world.step.optimizer, name, getattr(world.step.optimizer, name) * factor)
        losses.append(world.take(*batch(world, rng, kind)))
    return losses


# Parameters and buffers.


def assign(world: World, rng: Generator) -> Any:
    names = sorted(world.net.params)
    for name in names if rng.random() < 0.3 else names and [pick(rng, *names)]:
        world.net.params[name] = values(world, rng, world.net.params[name].shape)


def assign_attribute(world: World, rng: Generator) -> Any:
    layers = [layer for _, layer in world.builder.made if len(layer._stores) == 1]
    layers = [layer for layer in layers if layer.params and "" in layer._stores]
    if layers:
        layer = pick(rng, *layers)
        name = pick(rng, *sorted(layer.params))
        setattr(layer, name, values(world, rng, layer.params[name].shape))


def assign_otherwise(world: World, rng: Generator) -> Any:
    """An array that lies in another way, or is another's too."""
    world.apart = True
    name = name_of(world, rng)
    if name is None:
        return
    old = world.net.params[name]
    shape = tuple(old.shape)
    new = values(world, rng, shape)
    how = pick(rng, "read-only", "transposed", "part", "itself", "another's", "one for all", "view",
               "mapped")  # fmt: skip
    if how == "read-only" and world.lib.name == "numpy":
        new.flags.writeable = False
    elif how == "transposed" and len(shape) == 2:
        new = values(world, rng, shape[::-1]).T
    elif how == "part":
        more = values(world, rng, (*shape, 3))
        new = more[..., 1]
        world.keep(more[..., ::2])
    elif how == "mapped" and world.lib.name == "numpy" and 0 not in shape:
        new = LAYOUTS["mapped"](world.lib, xl.to_numpy(new), world.dtype)
    elif how == "itself":
        new = old
    elif how == "view":
        new = old[...]
    elif how == "one for all" and len(shape):
        new = world.lib.xp.broadcast_to(values(world, rng, (1,) * len(shape)), shape)
    elif how == "another's":
        fits = [k for k, a in sorted(world.net.params.items()) if tuple(a.shape) == shape]
        new = world.net.params[pick(rng, *fits)]
    world.net.params[name] = new


def swap(world: World, rng: Generator) -> Any:
    """Two parameters take each other's arrays."""
    name = name_of(world, rng)
    if name is not None:
        params = world.net.params
        shape = params[name].shape
        other = pick(rng, *[k for k in sorted(params) if params[k].shape == shape])
        params[name], params[other] = params[other], params[name]


def views_of_one(world: World, rng: Generator) -> Any:
    """Parameters that lie side by side in an array of the user."""
    params = world.net.params
    # Each begins at a line of the cache on PyTorch: MKL rounds a product otherwise if it does not,
    # and it is for the step to say where its parameters are.
    line = 1 if world.lib.name == "numpy" else 64
    lengths = [-(-int(np.prod(a.shape)) // line) * line for a in params.values()]
    flat = values(world, rng, (sum(lengths) + 7,))
    start = 0
    for (name, a), length in zip(list(params.items()), lengths, strict=True):
        n = int(np.prod(a.shape))
        params[name] = flat[start : start + n].reshape(tuple(a.shape))
        start += length
    world.apart = True
    world.keep(flat[start:])


def writable(a: Any) -> contextlib.AbstractContextManager[Any]:
    """Let an array be written to that PyTorch has made in its inference mode."""
    if hasattr(a, "is_inference") and a.is_inference():
        return sys.modules["torch"].inference_mode()
    return contextlib.nullcontext()


def write(world: World, rng: Generator) -> Any:
    """In place, through the mapping or the array."""
    name = name_of(world, rng)
    if name is None:
        return
    a = world.net.params[name]
    if world.lib.name == "numpy" and not a.flags.writeable:
        return
    with writable(a):
        if rng.random() < 0.5:
            a *= 0.9
        else:
            a[...] = values(world, rng, a.shape)


def write_buffer(world: World, rng: Generator) -> Any:
    name = name_of(world, rng, "buffers")
    if name is None:
        return
    a = world.net.buffers[name]
    new = a + a * 0 + (1 if not _floating(a) else 0)
    if rng.random() < 0.5:
        world.net.buffers[name] = new
    elif not isinstance(a, np.ndarray) or a.flags.writeable:
        with writable(a):
            a[...] = new


def _floating(a: Any) -> bool:
    return "float" in str(a.dtype)


def remember(world: World, rng: Generator) -> Any:
    """Copy the parameters, for a later event."""
    world.saved["params"] = keep = {k: world.lib.xp.asarray(xl.to_numpy(a).copy(), dtype=a.dtype)
                                    for k, a in world.net.params.items()}  # fmt: skip
    keep_all(world, keep)


def restore(world: World, rng: Generator) -> Any:
    for name, a in world.saved.get("params", {}).items():
        world.net.params[name] = world.lib.xp.asarray(a, copy=True)


def load(world: World, rng: Generator) -> Any:
    path = Path(world.folder) / f"{world.way}.safetensors"
    if rng.random() < 0.5 or not path.exists():
        xl.save(path, world.net)
    if rng.random() < 0.7:
        try:
            xl.load(path, world.net)
        except ValueError as error:  # each world has a file of its own
            raise ValueError(str(error).replace(str(path), "")) from None


def move(world: World, rng: Generator) -> Any:
    """To another dtype and back, or to the place where it is."""
    if rng.random() < 0.6:
        world.net.to(dtype=pick(rng, "float32", "float64", world.dtype))
    if rng.random() < 0.9:
        world.net.to(dtype=world.dtype)
    if rng.random() < 0.3:
        world.tie()


def tie(world: World, rng: Generator) -> Any:
    """Tie what was tied, or two parameters of one shape."""
    world.tie()
    if rng.random() < 0.3:
        name = name_of(world, rng)
        params = world.net.params
        if name is not None:
            fits = [k for k in sorted(params) if params[k].shape == params[name].shape]
            params[pick(rng, *fits)] = params[name]


def untie(world: World, rng: Generator) -> Any:
    for _, made, _ in world.builder.ties:
        made.W = values(world, rng, made.W.shape)


# The optimizer and its state.


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


def keep_all(world: World, tree: Any) -> None:
    for a in tree.values():
        keep_all(world, a) if isinstance(a, dict) else world.keep(a)


def go_back(world: World, rng: Generator) -> Any:
    if "state" in world.saved:
        world.step.state = copy.deepcopy(world.saved["state"])


def bad_state(world: World, rng: Generator) -> Any:
    if world.way != "loop":  # which has no such face
        with contextlib.suppress(ValueError):
            world.step.state = {"other": {}}
            return "accepted"
    return None


# What else a step is made of.


def new_reduction(world: World, rng: Generator) -> Any:
    world.step.reduce_grads = draw_reduction(rng)


def reductions_anew(world: World, rng: Generator) -> Any:
    """A function that is made anew for each step, at the address of the last one."""
    kind, losses = pick(rng, *world.kinds), []
    for _ in range(5):
        limit = float(rng.uniform(0.01, 1.0))
        world.step.reduce_grads = None
        world.computed.clear()
        world.step.reduce_grads = functools.partial(clip, limit=limit)
        losses.append(world.take(*batch(world, rng, kind)))
    return losses


def reduction_fails(world: World, rng: Generator) -> Any:
    def fail(grads: Any) -> Any:
        message = "not now"
        raise ZeroDivisionError(message)

    before = world.step.reduce_grads
    world.step.reduce_grads = fail
    try:
        return steps(world, rng)
    finally:
        world.step.reduce_grads = before


def new_loss(world: World, rng: Generator) -> Any:
    """One of the same kind, since the targets are of its kind."""
    make = LOSSES[type(world.step.loss).__name__]
    world.step.loss = None  # so that the new one may be at the address of the old one
    world.step.loss = make(rng, world.scores[-1])


def loss_weights(world: World, rng: Generator) -> Any:
    """The arrays of the loss are assigned or written."""
    for name, a in list(world.step.loss._store.buffers.items()):
        new = world.lib.xp.asarray(a, copy=True) * 0.5
        if rng.random() < 0.5 or isinstance(a, np.generic):
            setattr(world.step.loss, name, new)
        elif not isinstance(a, np.ndarray) or a.flags.writeable:
            with writable(a):
                a[...] = new


def new_precision(world: World, rng: Generator) -> Any:
    drawn = draw_precision(rng, world.lib.name)
    if getattr(world.step, "precision", None) is not None:
        world.step.precision = None
        world.step.precision = drawn


def new_parts(world: World, rng: Generator) -> Any:
    drawn = int(rng.integers(1, 5))
    if hasattr(world.step, "parts"):
        world.step.parts = drawn


# Passes through the shells, copies, further steps.


def passes(world: World, rng: Generator) -> Any:
    """Forward, and perhaps backward, outside of the step."""
    x, t = batch(world, rng, pick(rng, *world.kinds))
    if world.dtype != _dtype_of(world):
        return None
    y = world.keep(world.net.forward(x))
    dx = None
    if rng.random() < 0.7:
        value = world.step.loss.forward(y, t)
        dx = world.net.backward(world.step.loss.backward())
        dx = value, dx if _is_array(dx) else None, dict(world.net.grads)
    if rng.random() < 0.7:
        world.net.zero_grads()
    return y, dx


def _is_array(a: Any) -> bool:
    return hasattr(a, "dtype")


def _dtype_of(world: World) -> str:
    for a in world.net.params.values():
        return str(a.dtype).removeprefix("torch.")
    return world.dtype


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
    if world.dtype != _dtype_of(world):
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
            if _is_array(a) and bits(expected_y) == bits(y):
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
    if world.dtype != _dtype_of(world):
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


# Mistakes: a step that is refused leaves all as it was.


def mistake(world: World, rng: Generator) -> Any:
    kind = pick(rng, *world.kinds)
    x, t = batch(world, rng, kind)
    shape = tuple(x.shape)
    how = pick(
        rng, "features", "axes", "samples", "labels", "dtype", "kind of x", "kind of t", "targets",
        "float labels", "scalar",
    )  # fmt: skip
    if how == "features":
        x = values(world, rng, (*shape[:-1], shape[-1] + 1))
    elif how == "axes":
        x = values(world, rng, (*shape, 2))
    elif how == "samples":
        t = labels_of(world, rng, dataclasses.replace(kind, n=kind.n + 1))
    elif how == "labels" and not _floating(t):
        t = t + 1000
    elif how == "dtype":
        x = world.lib.array(rng.normal(size=shape), "float64" if world.dtype != "float64" else
                            "float32")  # fmt: skip
    elif how == "kind of x":
        x = shape
    elif how == "kind of t":
        t = [1, 2]
    elif how == "targets":
        t = t[..., None]
    elif how == "float labels":
        t = world.lib.xp.ones_like(t) * 0.5
    else:
        x = values(world, rng, ())
    return world.take(x, t)


def overflow(world: World, rng: Generator) -> Any:
    """Values that are too large for 16 bits: with mixed precision the step is skipped."""
    if getattr(world.step, "precision", None) is None and world.dtype != "float64":
        return None
    x, t = batch(world, rng, pick(rng, *world.kinds))
    if _floating(x) and world.dtype != "float64":
        x = x * 1e30
    return world.take(x, t)


EVENTS: dict[str, Row] = {
    "steps": Row(steps, 25, still=True),
    "same batch": Row(same_batch, 4, still=True),
    "one buffer": Row(one_buffer, 1, still=True),
    "at the same time": Row(at_the_same_time, 0.5),
    "all sizes": Row(all_sizes, 1),
    "many": Row(many, 1),
    "rate given": Row(rate_given, 1, still=True),
    "in a thread": Row(in_a_thread, 0.5, still=True),
    "decay anew": Row(decay_anew, 1, still=True),
    "assign": Row(assign, 2),
    "assign attribute": Row(assign_attribute, 2),
    "assign otherwise": Row(assign_otherwise, 2),
    "swap": Row(swap),
    "views of one": Row(views_of_one),
    "write": Row(write),
    "write buffer": Row(write_buffer),
    "remember": Row(remember, still=True),
    "restore": Row(restore),
    "load": Row(load),
    "move": Row(move),
    "tie": Row(tie, 0.5),
    "untie": Row(untie, 0.3),
    "new optimizer": Row(new_optimizer),
    "attribute": Row(attribute, 2),
    "in place": Row(in_place),
    "option": Row(option),
    "penalty": Row(penalty, 0.5),
    "masked": Row(masked, 0.5),
    "by global": Row(by_global, 0.3),
    "overlapping": Row(overlapping, 0.5),
    "state anew": Row(state_anew),
    "write state": Row(write_state),
    "checkpoint": Row(checkpoint, still=True),
    "go back": Row(go_back),
    "bad state": Row(bad_state, 0.3),
    "new reduction": Row(new_reduction),
    "reductions anew": Row(reductions_anew, 0.5),
    "reduction fails": Row(reduction_fails),
    "new loss": Row(new_loss),
    "loss weights": Row(loss_weights, 0.5),
    "new precision": Row(new_precision, 0.3),
    "new parts": Row(new_parts, 0.5),
    "passes": Row(passes, 2),
    "predict": Row(predict, 2, still=True),
    "evaluate": Row(evaluate, 0.5, still=True),
    "update in between": Row(update_in_between, 0.5),
    "another step": Row(another_step),
    "shared layer": Row(shared_layer),
    "by hand": Row(by_hand),
    "interrupted": Row(interrupted, 0.5),
    "modes of torch": Row(modes_of_torch, 0.5, still=True),
    "copied": Row(copied, 2),
    "close": Row(close, 0.5),
    "collect": Row(collect, 0.5, still=True),
    "zero grads": Row(zero_grads, 0.5, still=True),
    "mistake": Row(mistake, 2),
    "overflow": Row(overflow, 0.5),
}
