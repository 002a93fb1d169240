"""Parts of a `Sequential` that are computed as one, in the contexts that have a way to.

What may be joined is said by a `Fuser`, which a context adds for as long as it lasts: `Gemm` joins
affine maps and activations (`affine_fusion`), `Cudnn` convolutions and ReLU
(`convolution_fusion`).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from xplayers.arrays.namespaces import Array
from xplayers.arrays.operation import Bodies, laid, using
from xplayers.layers.base import Cache, Layer
from xplayers.layers.containers import Part, Sequential

# Returns parts, some of which are several of those that are given.
Fuser = Callable[[Sequence[Part]], list[Part]]

# The parts of a container as fusers join them; None where they join nothing.
_fused: weakref.WeakKeyDictionary[Sequential, dict[tuple[Fuser, ...], list[Part] | None]]
_fused = weakref.WeakKeyDictionary()


class Saved(NamedTuple):
    """What a fusion keeps of a pass forward."""

    x: Array
    inputs: tuple[Array, ...]  # of the linear maps, as these multiply them
    weights: tuple[Array, ...]
    aux: tuple[Array | None, ...]  # of the activations: what derivatives need
    caches: tuple[Cache, ...] = ()  # or what their layers keep, where there is no aux


class Fusion(Sequential):
    """Layers of a container that are computed as one, or layer by layer: the cache says which.

    A subclass says what it joins, and computes `apply` and `infer`, and backward of what is saved.

    Parameters
    ----------
    layers : sequence of Layer
    library : callable
        Returns what computes them in the context, a `Gemm` or a `Cudnn`.
    """

    def __init__(self, layers: Sequence[Layer], library: Callable[[], Any]) -> None:
        super().__init__(*layers)
        self._library = library

    @staticmethod
    def length(parts: Sequence[Part]) -> int:
        """Return how many of the first parts are one; 1 where the first is as it was."""
        raise NotImplementedError

    @classmethod
    def joined(cls, parts: Sequence[Part], library: Callable[[], Any]) -> list[Part]:
        """Return the parts of a container with runs of them joined."""
        joined: list[Part] = []
        while parts:
            length = cls.length(parts)
            run, parts = parts[:length], parts[length:]
            layers = [part.layer for part in run]
            joined.append(as_part(cls(layers, library), run) if length > 1 else run[0])
        return joined

    def _backward(self, saved: Saved, dy: Array) -> tuple[Array, dict[str, Array]]:
        """Return the gradient that goes on to the input, and those of the parameters."""
        raise NotImplementedError

    def _input_grad(self, saved: Saved, dz: Array) -> Array:
        """Return the gradient of the input from that one."""
        raise NotImplementedError

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        if not isinstance(cache, Saved):
            return super().vjp(cache, dy)
        dz, grads = self._backward(cache, dy)
        return self._input_grad(cache, dz), grads

    def param_grads(self, cache: Cache, dy: Array) -> dict[str, Array]:
        if not isinstance(cache, Saved):
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
    by_fusers = _fused.setdefault(net, {})
    if fusers not in by_fusers:
        parts = list(net._parts)
        for fuse in fusers:
            parts = fuse(parts)
        by_fusers[fusers] = parts if len(parts) < len(net._parts) else None
    return NotImplemented if by_fusers[fusers] is None else by_fusers[fusers]


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
