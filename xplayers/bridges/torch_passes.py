"""A pass through a layer as a function of PyTorch's autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xplayers.arrays.namespaces import is_floating
from xplayers.bridges import imported
from xplayers.bridges.inputs import Number, share_out, without_gradient
from xplayers.bridges.torch_again import Counts, is_again
from xplayers.losses import Loss

torch = imported("torch", "PyTorch")


def _numbered(tree: Any, number: Callable[[Any], int]) -> Any:
    """Return a tree with numbers in the place of its tensors."""
    kind = type(tree)
    if kind is tuple or kind is list:
        return tuple([_numbered(t, number) for t in tree])
    if isinstance(tree, torch.Tensor):
        return Number(number(tree))
    if isinstance(tree, Mapping):
        return {k: _numbered(t, number) for k, t in tree.items()}
    return tree


def _restored(tree: Any, tensors: Sequence[Any]) -> Any:
    """Return the tree with tensors in the place of their numbers."""
    kind = type(tree)
    if kind is Number:
        return tensors[tree]
    if kind is tuple:
        return tuple([_restored(t, tensors) for t in tree])
    if kind is dict:
        return {k: _restored(t, tensors) for k, t in tree.items()}
    return tree


def as_they_are(function: Callable[..., Any], like: Any, *arguments: Any) -> Any:
    """Call a function of tensors that are on the device of `like`, without ``torch.autocast``."""
    if not torch._C._is_any_autocast_enabled():
        return function(*arguments)
    with torch.autocast(like.device.type, enabled=False):
        return function(*arguments)


def forward_mode(layer: Any) -> str:
    """Return what is said of a derivative in forward mode."""
    return (
        f"{layer._owner}: a derivative in forward mode; xplayers has those of reverse "
        "mode alone: torch.func.vjp, grad or jacrev in the place of jvp, jacfwd or hessian."
    )


class Pass:
    """A pass through a layer, as functions of lists of tensors.

    Parameters
    ----------
    layer : Layer or Loss
        What is applied.
    names : sequence of str
        Its parameters, and then its buffers, which come first in the list.
    has_buffers : bool
        Whether there are buffers, which a pass may change.
    counts : Counts, optional
        The counters of earlier passes; without it none is computed again.
    """

    def __init__(
        self, layer: Any, names: Sequence[str], has_buffers: bool, counts: Counts | None = None
    ) -> None:
        self.layer, self.names, self._has_buffers = layer, names, has_buffers
        self._counts = counts
        # Trees of numbers: further inputs by place and by name, and which tensors are floating.
        self._inputs: tuple[tuple, Mapping[str, Any], Sequence[bool]] = (), {}, ()

    def flattened(self, inputs: tuple, named: Mapping[str, Any]) -> list[Any]:
        """Return the tensors of further inputs, which come last, after ``x``."""
        leaves: list[Any] = []

        def number(a: Any) -> int:
            leaves.append(a)
            return len(leaves) - 1

        trees = _numbered(inputs, number), _numbered(named, number)
        self._inputs = *trees, [is_floating(a) for a in leaves]
        return leaves

    def apply(self, arguments: Sequence[Any]) -> list[Any]:
        """Return the output, and the tensors of the cache that are no arguments."""
        layer, names = self.layer, self.names
        x, *leaves = arguments[len(names) :]
        arrays: dict[str, Any] = dict(zip(names, arguments, strict=False))
        again = self._counts is not None and is_again()
        if self._counts is not None and self._has_buffers and not isinstance(layer, Loss):
            buffers = {k: a for k in layer.buffers if not (a := arrays[k]).is_floating_point()}
            if buffers:
                arrays.update(self._counts.of_pass(layer._owner, buffers))
        if layer._ties.rows():
            arrays = layer._ties.expanded(arrays)
        inputs, named, _ = _restored(self._inputs, leaves) if leaves else self._inputs
        if isinstance(layer, Loss):
            y, cache = layer._evaluate(x, *inputs, arrays=arrays, **named)
        else:
            y, cache = layer.apply(arrays, x, *inputs, **named)
        places = {id(a): i for i, a in enumerate(arguments)}
        places[id(y)] = len(arguments)
        updated: dict[str, Any] = {}
        if self._has_buffers and not again and not isinstance(layer, Loss):
            updated = layer.updated_buffers(arrays, cache)
            for name in updated:  # which is written to
                places.pop(id(arrays[name]))
        results, numbers = [y], {}
        self.saved: list[int] = []  # tensors of the cache, by places in arguments and results

        def number(a: Any) -> int:
            known = numbers.get(id(a))
            if known is None:
                known = numbers[id(a)] = len(self.saved)
                index = places.get(id(a))
                if index is None:
                    index = len(arguments) + len(results)
                    results.append(a)
                self.saved.append(index)
            return known

        self._cache = _numbered(cache, number)
        for name, a in updated.items():
            results = [r.clone() if r is arrays[name] else r for r in results]
            if not torch._C._functorch.is_batchedtensor(a):
                arrays[name].copy_(a)
        return results

    def gradients(self, needed: Sequence[bool], dy: Any, saved: Sequence[Any]) -> list[Any]:
        """Return the gradients of the arguments; None where there is none."""
        layer, n = self.layer, len(self.names)
        cache = _restored(self._cache, [a.detach() for a in saved])
        grads: Mapping[str, Any] = {}
        dx, dy = None, dy.detach()
        if isinstance(layer, Loss):
            dx = layer.vjp(cache, dy)
        elif any(needed[n:]):
            dx, grads = layer.vjp(cache, dy)
        else:
            grads = layer.param_grads(cache, dy)
        if layer._ties.rows():
            grads = layer._ties.gathered(grads)
        inputs, named, floating = self._inputs
        of_leaves = [None] * len(floating)
        if type(dx) is tuple:
            dx, *others = dx
            share_out(layer, others, inputs, named, of_leaves, floating)
        results = [*map(grads.get, self.names), dx, *of_leaves]
        if any([need and d is None for need, d in zip(needed[n:], results[n:], strict=True)]):
            raise RuntimeError(without_gradient(layer._owner, "Pass it as a.detach()."))
        return results


class Applied(torch.autograd.Function):
    """The output of a pass; and a tensor without elements, which requires grad as that does."""

    generate_vmap_rule = True

    @staticmethod
    def forward(step: Pass, *arguments: Any) -> Any:
        y, *results = step.apply([a.detach() for a in arguments])
        return y, y.new_empty(0), *results

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        step, *arguments = inputs
        y, witness, *results = output
        ctx.step = step
        tensors = [*arguments, y, *results]
        ctx.save_for_backward(witness, *[tensors[i] for i in step.saved])
        ctx.mark_non_differentiable(*results)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, dy: Any, *_: Any) -> Any:
        step, needed = ctx.step, ctx.needs_input_grad[1:]
        if dy is None:
            return (None,) * (1 + len(needed))
        witness, *saved = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody may ask for a second derivative
            return None, *Gradients.apply(step, needed, dy, witness, *saved)
        return None, *as_they_are(step.gradients, dy, needed, dy, saved)

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(forward_mode(ctx.step.layer))


class Gradients(torch.autograd.Function):
    """The gradients of a pass, which have none themselves.

    They depend on the witness, which requires grad whatever the cache has: so a second derivative
    always comes by here.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(step: Pass, needed: Sequence[bool], dy: Any, witness: Any, *saved: Any) -> Any:
        return tuple(step.gradients(needed, dy, saved))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.step = inputs[0]

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        message = (
            f"{ctx.step.layer._owner}: a second derivative; PyTorch does not record what computes "
            "its gradient, so it would be wrong. Second derivatives are in xplayers.jax, and in "
            "evaluation mode: module.eval()."
        )
        raise RuntimeError(message)

    jvp = backward
