"""Batches: values and layouts of inputs and targets."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.random import Generator

from fuzzer.libraries import LAYOUTS
from fuzzer.networks import pick


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of batch."""

    n: int
    x: str = "contiguous"  # how the input lies in memory
    t: str = "contiguous"
    labels: str = "int64"  # or "soft", where that is possible


def draw_kinds(rng: Generator) -> tuple[Kind, ...]:
    kinds = []
    layouts = list(LAYOUTS)
    for _ in range(int(rng.integers(1, 4))):
        n = pick(rng, 0, 1, 2, 3, 4, 5, 8, 8, 16, 64)
        lies = [pick(rng, "contiguous", "channels last", pick(rng, *layouts)) for _ in "xt"]
        labels = pick(rng, "int64", "int64", "int32", "int8", "soft")
        kinds.append(Kind(n, *lies, labels))
    return tuple(kinds)


def batch(world: Any, rng: Generator, kind: Kind, *, keep: bool = True) -> tuple[Any, Any]:
    """Return input and target; `keep`: they have to stay as they are."""
    shape = (kind.n, *world.shape)
    if world.builder.integers is not None:
        x, dtype = rng.integers(0, world.builder.integers, shape), "int64"
    else:
        x, dtype = rng.normal(size=shape), world.dtype
    x = LAYOUTS[kind.x](world.lib, x, dtype)
    t = labels_of(world, rng, kind)
    if kind.labels == "soft" and tuple(t.shape) == shape and str(t.dtype) == str(x.dtype) and keep:
        t = x  # the very same array, as of an autoencoder
    if keep:
        world.keep(x)
        world.keep(t)
    return x, t


def labels_of(world: Any, rng: Generator, kind: Kind) -> Any:
    shape = (kind.n, *world.scores)
    loss = type(world.step.loss).__name__
    if loss == "SoftmaxWithLoss" and kind.labels != "soft":
        t, dtype = rng.integers(0, shape[-1], shape[:-1]), kind.labels
    elif loss == "SoftmaxWithLoss":
        t, dtype = rng.dirichlet(np.ones(shape[-1]), shape[:-1]), world.dtype
    elif loss == "SigmoidWithLoss":
        t, dtype = rng.uniform(size=shape), world.dtype
    else:
        t, dtype = rng.normal(size=shape), world.dtype
    return LAYOUTS[kind.t](world.lib, t, dtype)
