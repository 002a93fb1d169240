"""Further inputs of a layer, and which gradient belongs to which of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from xplayers.layers.containers import Sequential


class Number(int):
    """The number of an array, in a tree of which the arrays are a list."""


def share_out(
    layer: Any, grads: Sequence[Any], inputs: Sequence[Any], named: Mapping[str, Any],
    places: list[Any], floating: Sequence[bool],
) -> None:  # fmt: skip
    """Put the gradients of further inputs in their places in a list.

    `inputs` and `named` have numbers in the place of arrays, `floating` says which of them have
    gradients. What `vjp` returns after that of ``x`` is in the order in which a layer declares its
    inputs, and of a `Sequential` as it says.
    """
    if isinstance(layer, Sequential):
        *grads, by_part = grads if grads and type(grads[-1]) is dict else (*grads, {})
        parts = {part.name: part.layer for part in layer._parts}
        for name, others in by_part.items():
            share_out(parts[name], others, (), named[name], places, floating)
        first = layer._parts[0]
        own = {k: tree for k, tree in named.items() if k not in parts}
        named = {**own, **named.get(first.name, {})}
        share_out(first.layer, grads, inputs, named, places, floating)
        return
    bound = inspect.signature(layer.apply).bind({}, None, *inputs, **named)
    bound.apply_defaults()
    _, _, *others = bound.arguments.values()
    slots = [i for i in others if i is None or (type(i) is Number and floating[i])]
    if len(grads) < len(slots):  # inputs that are None have none
        slots = [i for i in slots if i is not None]
    for i, d in zip(slots, grads, strict=False):
        if i is not None:
            places[i] = d


def without_gradient(owner: str, fix: str) -> str:
    """Return what is said of an input that is differentiated, but has no gradient."""
    return f"{owner}: an input that has no gradient in this layer is differentiated. {fix}"
