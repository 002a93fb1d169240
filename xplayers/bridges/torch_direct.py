"""A pass through a layer where no transformation is active: the common case, with little in it.

`torch_passes` has the general one, as a function that ``torch.func`` may transform. This one has no
list of arguments to bind, computes with the arrays of the layer as they are, and saves what `vjp`
needs as it comes. Both give the same gradients and refuse a second derivative.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from xplayers.bridges import imported
from xplayers.bridges.inputs import without_gradient
from xplayers.bridges.torch_again import Counts, is_again
from xplayers.bridges.torch_passes import Gradients, as_they_are, forward_mode
from xplayers.losses import Loss

torch = imported("torch", "PyTorch")


class _Leaf:
    """What stands for a tensor in the tree of a cache."""


_LEAF = _Leaf()
_TENSOR = torch.Tensor


def _without_leaves(tree: Any, leaves: list[Any]) -> Any:
    """Return a tree with the place of each tensor, which is added to `leaves`."""
    kind = type(tree)
    if kind is _TENSOR:
        leaves.append(tree)
        return _LEAF
    if kind is tuple:
        return tuple([_without_leaves(t, leaves) for t in tree])
    if isinstance(tree, torch.Tensor):
        leaves.append(tree)
        return _LEAF
    if isinstance(tree, tuple | list):
        return tuple([_without_leaves(t, leaves) for t in tree])
    if isinstance(tree, Mapping):
        return {k: _without_leaves(t, leaves) for k, t in tree.items()}
    return tree


def _with_leaves(tree: Any, leaves: Iterator[Any]) -> Any:
    """Return the tree with its tensors, in their order."""
    if tree is _LEAF:
        return next(leaves)
    if type(tree) is tuple:
        return tuple([_with_leaves(t, leaves) for t in tree])
    if type(tree) is dict:
        return {k: _with_leaves(t, leaves) for k, t in tree.items()}
    return tree


class Way:
    """How one layer is passed, made once for the tensors that it has.

    Parameters
    ----------
    layer : Layer or Loss
        What is applied.
    params, buffers : mapping
        The tensors of the module by name, of which the layer has the memory.
    counts : Counts
        The counters of earlier passes.
    """

    def __init__(self, layer: Any, params: Any, buffers: Any, counts: Counts) -> None:
        self.layer, self.names, self._counts = layer, [*params], counts
        self.owners = [*params.values()]
        self.recorded = {**params, **buffers}  # which autograd records
        self.met: Any = None  # device and dtype of an input that has been checked
        self.arrays = {name: a.detach() for name, a in self.recorded.items()}
        self._owner_of = {id(self.arrays[name]): a for name, a in params.items()}
        self._own = {id(a) for a in self.arrays.values()}
        self._is_loss = isinstance(layer, Loss)
        self._has_buffers = bool(buffers) and not self._is_loss
        self._counters = {
            k: self.arrays[k] for k, a in buffers.items()
            if self._has_buffers and not a.is_floating_point()
        }  # fmt: skip

    def forward(self, ctx: Any, x: Any, inputs: tuple, named: Mapping[str, Any]) -> Any:
        """Compute the output, and save in `ctx` what its gradient needs.

        Where that is derived from parameters and input, and the output is not in it, a witness
        comes with the output: a tensor that requires grad whatever is saved, so that a second
        derivative comes by `Gradients`.
        """
        layer, arrays = self.layer, self.arrays
        seen = x.detach() if x.requires_grad else x
        if self._counters:
            arrays = {**arrays, **self._counts.of_pass(layer._owner, self._counters)}
        if self._is_loss:
            y, cache = layer._evaluate(seen, *inputs, arrays=arrays, **named)
        elif inputs or named:
            y, cache = layer.apply(arrays, seen, *inputs, **named)
        else:
            y, cache = layer.apply(arrays, seen)
        leaves: list[Any] = []
        tree = _without_leaves(cache, leaves)
        owner_of, saved, derived, has_y = self._owner_of, [], False, False
        for a in leaves:
            if a is seen:
                saved.append(x)
                continue
            owner = owner_of.get(id(a))
            if owner is None:
                derived, has_y = True, has_y or a is y
            saved.append(a if owner is None else owner)
        if self._has_buffers and not is_again():
            for name, a in layer.updated_buffers(arrays, cache).items():
                buffer = self.arrays[name]
                saved = [s.clone() if s is buffer else s for s in saved]
                y = y.clone() if y is buffer else y
                buffer.copy_(a)
        if y is seen or id(y) in self._own or any([y is a for a in (*inputs, *named.values())]):
            y, has_y = y.detach(), False
        ctx.way, ctx.tree = self, tree
        if has_y or not derived:  # what is saved depends on parameters and input as autograd sees
            ctx.save_for_backward(*saved)
            return y
        witness = y.new_empty(0)  # without elements; it requires grad as the output does
        ctx.save_for_backward(*saved, witness)
        ctx.set_materialize_grads(False)
        return y, witness

    def gradients(self, tree: Any, needed: Sequence[bool], dy: Any, saved: Sequence[Any]) -> Any:
        """Return the gradients of the input, and of the parameters; None where there is none."""
        layer = self.layer
        leaves = iter([a.detach() if a.requires_grad else a for a in saved])
        cache = _with_leaves(tree, leaves)
        dy = dy.detach() if dy.requires_grad else dy
        dx, grads = None, {}
        if self._is_loss:
            dx = layer.vjp(cache, dy)
        elif needed[0]:
            dx, grads = layer.vjp(cache, dy)
        else:
            grads = layer.param_grads(cache, dy)
        if type(dx) is tuple:
            dx = dx[0]
        if dx is None and needed[0]:
            raise RuntimeError(without_gradient(layer._owner, "Pass it as a.detach()."))
        return dx, *map(grads.get, self.names)


class _Again:
    """The gradients of one pass, as `Gradients` asks for them."""

    def __init__(self, ctx: Any) -> None:
        self.layer, self._way, self._tree = ctx.way.layer, ctx.way, ctx.tree

    def gradients(self, needed: Sequence[bool], dy: Any, saved: Sequence[Any]) -> Any:
        return self._way.gradients(self._tree, needed, dy, saved)


class Direct(torch.autograd.Function):
    """The output of a pass, and its witness."""

    @staticmethod
    def forward(ctx: Any, way: Way, inputs: tuple, named: Any, x: Any, *_: Any) -> Any:
        return way.forward(ctx, x, inputs, named)

    @staticmethod
    def backward(ctx: Any, dy: Any, *_: Any) -> Any:
        needed = ctx.needs_input_grad[3:]
        if dy is None:
            return (None,) * (3 + len(needed))
        saved = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody may ask for a second derivative
            return None, None, None, *Gradients.apply(_Again(ctx), needed, dy, None, *saved)
        return None, None, None, *as_they_are(ctx.way.gradients, dy, ctx.tree, needed, dy, saved)

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(forward_mode(ctx.way.layer))


# What `Direct.apply` calls where no transformation is active, which the module has seen.
applied = super(torch.autograd.Function, Direct).apply


def passed(way: Way, x: Any, inputs: tuple, named: Mapping[str, Any]) -> Any:
    """Return the output of a pass, which autograd records."""
    y = applied(way, inputs, named, x, *way.owners)
    return y[0] if type(y) is tuple else y
