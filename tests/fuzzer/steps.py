"""Events: steps as they are taken, alone, in turns and at once, and mistakes in them."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import numpy as np
from numpy.random import Generator

from fuzzer.batches import Kind, batch, labels_of
from fuzzer.drawing import floating, values
from fuzzer.networks import pick, seed_of
from fuzzer.settings import (
    LOSSES,
    draw_optimizer,
    draw_reduction,
)
from fuzzer.worlds import World


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


def weighted(world: World, rng: Generator) -> Any:
    """Weights of samples: others in each step, of which some are 0; now and then none, or wrong."""
    kind, losses = pick(rng, *world.kinds), []
    dtype, wrong = pick(rng, world.dtype, world.dtype, "float32"), rng.random() < 0.1
    shape = (kind.n + wrong,)
    if len(world.scores) > 1 and rng.random() < 0.3:
        shape = (*shape, world.scores[0])  # of the steps of sequences
    for _ in range(int(rng.integers(2, 6))):
        x, t = batch(world, rng, kind)
        w = rng.uniform(0.0, 2.0, shape) * (rng.random(shape) < 0.8)
        w = None if rng.random() < 0.1 else world.keep(world.lib.array(w, dtype))
        losses.append(world.take(x, t, sample_weight=w))
    return losses


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
    elif how == "labels" and not floating(t):
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
    if floating(x) and world.dtype != "float64":
        x = x * 1e30
    return world.take(x, t)
