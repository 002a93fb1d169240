"""What events draw, and ask of the arrays of a world."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from numpy.random import Generator

from fuzzer.networks import pick
from fuzzer.worlds import World


def values(world: World, rng: Generator, shape: Any, scale: float = 0.5) -> Any:
    return world.lib.array(rng.normal(0.0, scale, tuple(shape)), world.dtype)


def name_of(world: World, rng: Generator, kind: str = "params") -> str | None:
    names = sorted(getattr(world.net, kind))
    return pick(rng, *names) if names else None


def writable(a: Any) -> contextlib.AbstractContextManager[Any]:
    """Let an array be written to that PyTorch has made in its inference mode."""
    if hasattr(a, "is_inference") and a.is_inference():
        return sys.modules["torch"].inference_mode()
    return contextlib.nullcontext()


def floating(a: Any) -> bool:
    return "float" in str(a.dtype)


def keep_all(world: World, tree: Any) -> None:
    for a in tree.values():
        keep_all(world, a) if isinstance(a, dict) else world.keep(a)


def is_array(a: Any) -> bool:
    return hasattr(a, "dtype")


def dtype_of(world: World) -> str:
    for a in world.net.params.values():
        return str(a.dtype).removeprefix("torch.")
    return world.dtype
