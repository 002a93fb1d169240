"""Events: parameters and buffers are put in, written, moved and tied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

import xplayers as xl
from fuzzer.drawing import floating, keep_all, name_of, values, writable
from fuzzer.libraries import LAYOUTS
from fuzzer.networks import pick
from fuzzer.worlds import World


def assign(world: World, rng: Generator) -> Any:
    names = sorted(world.net.params)
    for name in names if rng.random() < 0.3 else names and [pick(rng, *names)]:
        world.net.params[name] = values(world, rng, world.net.params[name].shape)


def assign_attribute(world: World, rng: Generator) -> Any:
    layers = [layer for _, layer in world.builder.made if len(layer._all_variables) == 1]
    layers = [layer for layer in layers if layer.params and "" in layer._all_variables]
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
    new = a + a * 0 + (1 if not floating(a) else 0)
    if rng.random() < 0.5:
        world.net.buffers[name] = new
    elif not isinstance(a, np.ndarray) or a.flags.writeable:
        with writable(a):
            a[...] = new


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
