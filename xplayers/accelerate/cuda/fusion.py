"""Parts of a `Sequential` that are computed as one, in the contexts that have a way to.

What may be joined is said by a `Fuser`, which a context adds for as long as it lasts: `Gemm` joins
affine maps and activations (`affine_fusion`), `Cudnn` convolutions and ReLU
(`convolution_fusion`).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xplayers.arrays.namespaces import Array
from xplayers.arrays.operation import Bodies, laid, using
from xplayers.layers.base import Cache
from xplayers.layers.containers import Part, Sequential

# Returns parts, some of which are several of those that are given.
Fuser = Callable[[Sequence[Part]], list[Part]]

# What was made of the parts of a container, by the fusers; None where nothing was.
_made: weakref.WeakKeyDictionary[Sequential, dict[tuple[Fuser, ...], list[Part] | None]]
_made = weakref.WeakKeyDictionary()


class Fusion(Sequential):
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
        self, error: Exception, part: Part, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        """The container that the layers belong to does so."""


def fusing(array: type, fuser: Fuser, bodies: Bodies | None = None) -> Any:
    """Return the context in which parts of containers are joined for arrays of a type.

    `bodies` are laid there too.
    """
    return using(array, {**(bodies or {}), "parts_of": fused_parts, "fuse": fuser})


def fused_parts(x: Array, net: Sequential) -> Any:
    """Return the parts of a container, joined as this context says."""
    fusers = tuple(dict.fromkeys(reversed(laid("fuse", type(x)))))
    if isinstance(net, Fusion):
        return NotImplemented
    made = _made.setdefault(net, {})
    if fusers not in made:
        parts = list(net._parts)
        for fuse in fusers:
            parts = fuse(parts)
        made[fusers] = parts if len(parts) < len(net._parts) else None
    return NotImplemented if made[fusers] is None else made[fusers]


def as_part(fusion: Fusion, run: Sequence[Part]) -> Part:
    """Return a fusion as the part that stands for a run; its arrays have the names they have there.

    Parameters
    ----------
    fusion : Fusion
        Of the layers of the run.
    run : sequence of Part
        Neighbours in a container.
    """
    names = {
        inner: outer
        for mine, part in zip(fusion._parts, run, strict=True)
        for key, outer in part.names.items()
        if (inner := mine.names[key])
    }
    return Part(f"{run[0].name} to {run[-1].name}", fusion, names)
