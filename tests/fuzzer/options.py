"""Events: what else a step is made of: reductions, its loss, precision and parts."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.random import Generator

from fuzzer.batches import batch
from fuzzer.drawing import writable
from fuzzer.networks import pick
from fuzzer.settings import (
    LOSSES,
    clip,
    draw_precision,
    draw_reduction,
)
from fuzzer.steps import steps
from fuzzer.worlds import World


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
    for name, a in list(world.step.loss._variables.buffers.items()):
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
