"""Parts of a `Sequential` that are computed as one, in the contexts that have a way to.

What may be joined is said by a `Joiner`, which a context adds for as long as it lasts: `Gemm` joins
affine maps and activations (`xplayers.cuda.chain`), `Cudnn` convolutions and ReLU
(`xplayers.cuda.rectified`).
"""

from __future__ import annotations

import contextlib
import contextvars
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from xplayers._arrays import Array
from xplayers.layers.base import Cache
from xplayers.layers.containers import JOINS, Part, Sequential

# Returns parts, some of which are several of those that are given.
Joiner = Callable[[Sequence[Part]], list[Part]]

_joiners: contextvars.ContextVar[tuple[Joiner, ...]] = contextvars.ContextVar("joiners", default=())
# What was made of the parts of a container, by the joiners; None where nothing was.
_made: weakref.WeakKeyDictionary[Sequential, dict[tuple[Joiner, ...], list[Part] | None]]
_made = weakref.WeakKeyDictionary()


class Joint(Sequential):
    """Layers of a container that are computed as one, or layer by layer: the cache says which.

    A subclass computes `apply` and `infer`, and the two functions below of what it has kept.
    """

    kept: type  # of the caches of its own passes

    def _backward(self, kept: Any, dy: Array) -> tuple[Array, dict[str, Array]]:
        """Return the gradient that goes on to the input, and those of the parameters."""
        raise NotImplementedError

    def _input_grad(self, kept: Any, dz: Array) -> Array:
        """Return the gradient of the input from that one."""
        raise NotImplementedError

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        if not isinstance(cache, self.kept):
            return super().vjp(cache, dy)
        dz, grads = self._backward(cache, dy)
        return self._input_grad(cache, dz), grads

    def param_grads(self, cache: Cache, dy: Array) -> dict[str, Array]:
        if not isinstance(cache, self.kept):
            return super().param_grads(cache, dy)
        return self._backward(cache, dy)[1]

    def updated_buffers(self, arrays: Mapping[str, Array], cache: Cache) -> dict[str, Array]:
        return {}  # its layers have none

    def _locate(
        self, error: Exception, part: Part, more: Sequence[Any], options: Mapping[str, Any]
    ) -> None:
        """The container that the layers belong to does so."""


@contextlib.contextmanager
def joining(array: type, joiner: Joiner) -> Iterator[None]:
    """Let parts of containers be joined for arrays of a type, in this context."""
    JOINS[array] = joined
    before = _joiners.get()
    token = _joiners.set(before if joiner in before else (*before, joiner))
    try:
        yield
    finally:
        _joiners.reset(token)


def joined(net: Sequential) -> list[Part] | None:
    """Return the parts of a container, joined as this context says; None where none are."""
    joiners = _joiners.get()
    if not joiners or isinstance(net, Joint):
        return None
    made = _made.setdefault(net, {})
    if joiners not in made:
        parts = list(net._parts)
        for join in joiners:
            parts = join(parts)
        made[joiners] = parts if len(parts) < len(net._parts) else None
    return made[joiners]


def as_part(joint: Joint, run: Sequence[Part]) -> Part:
    """Return a joint as the part that stands for a run; its arrays have the names they have there.

    Parameters
    ----------
    joint : Joint
        Of the layers of the run.
    run : sequence of Part
        Neighbours in a container.
    """
    names = {
        inner: outer
        for mine, part in zip(joint._parts, run, strict=True)
        for key, outer in part.names.items()
        if (inner := mine.names[key])
    }
    return Part(f"{run[0].name} to {run[-1].name}", joint, names)
