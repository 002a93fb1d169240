"""Layers as modules of PyTorch: ``Module(layer)`` in one memory with the layer.

The parameters and buffers of both are the same, so an optimizer of either library changes both.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

from xplayers._checks import instance
from xplayers.arrays.checks import check_input, check_same, described
from xplayers.arrays.namespaces import Array, is_floating, is_half, library, namespace
from xplayers.layers.base import Layer
from xplayers.layers.containers import Sequential
from xplayers.layers.variables import settings_changed
from xplayers.losses import Loss

try:
    torch: Any = import_module("torch")  # not this module, as checks of types would take it
except ImportError as error:
    message = 'xplayers.torch needs PyTorch: pip install "xplayers[torch]".'
    raise ImportError(message) from error

__all__ = ["Module"]


class _Part(torch.nn.Module):
    """The arrays of one layer as parameters and buffers, by their names in the layer."""

    def __init__(self, root: Module | None = None) -> None:
        super().__init__()
        object.__setattr__(self, "_root", root)  # what this is a part of

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in self._parameters or name in self._buffers:
            (self._root or self)._take()


class Module(_Part):
    """A layer, network or loss as a ``torch.nn.Module``, with the gradients of xplayers.

    Parameters
    ----------
    layer : Layer or Loss
        Its arrays are tensors, or initial values, which become tensors on the CPU. The names of
        ``layer.params`` and ``layer.buffers`` are those of ``state_dict()``.

    Raises
    ------
    TypeError
        If it is no layer, or has arrays of another library.

    Notes
    -----
    Parameters and buffers are the layer's, in one memory. What PyTorch does to the module is done
    to the layer: steps of an optimizer, ``load_state_dict``, ``to``, ``half``, ``double``; running
    statistics stay in at least float32. Arrays that the layer gets, by ``layer.params[...] = a`` or
    `xplayers.load`, are in the module when it is used next. Copies and pickles have a layer of
    their own. Tied parameters are one, under the first of their names.

    In training mode the module computes by ``layer.apply`` and its gradients by ``layer.vjp``, and
    buffers change in the forward pass. In evaluation mode it computes by ``layer.infer``, which
    autograd records as any function. ``torch.func.grad`` and ``torch.func.vmap`` go through both;
    under ``vmap`` a dropout drops the same elements in all samples, and statistics that would
    differ between the samples are not updated.

    In training mode a gradient has no gradient: PyTorch does not record what computes ``vjp``, so
    a second derivative raises an error, as a derivative in forward mode does.

    Examples
    --------
    >>> import torch, xplayers as xl
    >>> from xplayers.torch import Module
    >>> layer = xl.mlp([4, 8, 2], rng=0)
    >>> net = torch.nn.Sequential(Module(layer), torch.nn.LogSoftmax(dim=1))
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    >>> net(torch.ones(3, 4))[:, 0].sum().backward()
    >>> before = layer.params["2.b"].clone()
    >>> optimizer.step()
    >>> bool((layer.params["2.b"] != before).any())
    True
    """

    def __init__(self, layer: Layer | Loss) -> None:
        instance("Module", "layer", layer, Layer | Loss, "a layer or a loss of xplayers")
        super().__init__()
        if not all(v.materialized for v in layer._all_variables.values()):
            with layer._ties.preserved():
                for variables in layer._all_variables.values():
                    if not variables.materialized:
                        variables.replace(*variables.moved(xp=torch))
        for name, a in layer.arrays.items():
            if library(a) != "torch":
                message = (
                    f"Module: {name} is a {library(a)} array; expected a tensor. "
                    "Call layer.to(xp=torch)."
                )
                raise TypeError(message)
        self.layer = layer
        self._find_places()

    def _find_places(self) -> None:
        """Give each array of the layer a place, in the submodule that its name says."""
        places, self._aliases = [], self._tied()
        for prefix, variables in self.layer._all_variables.items():
            part: Any = self
            for name in prefix.split(".") if prefix else ():  # past the names that PyTorch refuses
                part = part._modules.setdefault(name, _Part(self))
            path = f"{prefix}." if prefix else ""
            for key, a in variables.params.items():
                if path + key in self._aliases:
                    part._parameters.pop(key, None)
                    continue
                parameter = part._parameters.setdefault(key, torch.nn.Parameter(a))
                parameter.data = a
                places.append(_Place(path + key, part, "_parameters", key, variables.params))
            for key, a in variables.buffers.items():
                part._buffers[key] = a
                places.append(_Place(path + key, part, "_buffers", key, variables.buffers))
        self._places = places

    def _tied(self) -> list[str]:
        return [row.name for row in self.layer._ties.rows()]

    def forward(self, x: Any, *inputs: Any, **named: Any) -> Any:
        """Return the output of the layer, which takes these inputs; of a loss its value."""
        self._follow()
        layer: Any = self.layer
        tensors = {place.name: place.tensor for place in self._places}
        try:
            if isinstance(layer, Layer):
                self._check(x, tensors)
            if self.training or isinstance(layer, Loss):
                step = _Pass(layer, [*tensors], (x, inputs, named))
                return _Applied.apply(step, *tensors.values(), *step.leaves)[0]
            if not torch.is_grad_enabled():
                tensors = {name: a.detach() for name, a in tensors.items()}
            return layer.infer(layer._ties.expanded(tensors), x, *inputs, **named)
        except TypeError:
            if isinstance(layer, Layer):
                layer._check_inputs(inputs, named)
            raise

    def _check(self, x: Any, tensors: Mapping[str, Any]) -> None:
        """Check that the input can meet the arrays of the layer."""
        layer: Any = self.layer
        owner = layer._owner
        namespace(x, owner)
        if not isinstance(x, torch.Tensor):
            message = f"{owner}: x is {described(x)}; expected a tensor: torch.asarray(x)."
            raise TypeError(message)
        params = {p.name: tensors[p.name] for p in self._places if p.kind == "_parameters"}
        check_input(owner, x.detach(), params, integers=layer.integer_input)
        for place in self._places:
            if place.kind == "_buffers":
                check_same(owner, place.name, tensors[place.name], x, fix=_MOVE)

    def _follow(self) -> None:
        """Let the module have the arrays that the layer has been given, and the other way round."""
        if self._tied() != self._aliases:
            self._find_places()
        for place in self._places:
            place.follow()

    def _take(self) -> None:
        """Let the layer have the tensors that the module has been given."""
        layer = self.layer
        tied = layer._ties.rows()
        for place in self._places:
            place.take()
        if tied:
            layer._ties.synchronize()
        settings_changed()

    # What PyTorch calls.

    def _apply(self, fn: Callable[[Any], Any], recurse: bool = True) -> Module:
        self._follow()
        buffers = {id(place.own) for place in self._places if place.kind == "_buffers"}

        def applied(a: Any) -> Any:
            b = fn(a)
            wide = id(a) in buffers and is_half(b)  # as in `layer.to`
            return a.to(device=b.device, dtype=torch.float32) if wide else b

        super()._apply(applied, recurse)
        self._take()
        self.layer.zero_grads()
        return self

    def state_dict(self, *args: Any, **options: Any) -> Any:
        self._follow()
        return super().state_dict(*args, **options)

    def named_parameters(self, *args: Any, **options: Any) -> Iterator[tuple[str, Any]]:
        self._follow()
        return super().named_parameters(*args, **options)

    def named_buffers(self, *args: Any, **options: Any) -> Iterator[tuple[str, Any]]:
        self._follow()
        return super().named_buffers(*args, **options)

    def __getattr__(self, name: str) -> Any:
        if "_places" in self.__dict__:
            self._follow()
        return super().__getattr__(name)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_places"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._find_places()

    def __repr__(self) -> str:
        return f"Module({self.layer!r})"


_MOVE = "Call module.to(x.device)."


class _Place:
    """Where an array is: in a module, and in a layer."""

    __slots__ = ("array", "arrays", "held", "key", "kind", "name", "own", "part")

    def __init__(self, name: str, part: Any, kind: str, key: str, arrays: dict[str, Array]) -> None:
        self.name, self.part, self.kind, self.key, self.arrays = name, part, kind, key, arrays
        self.held = part.__dict__[kind]
        self.own = self.held[key]  # of the module
        self.array = arrays[key]  # of the layer, in the same memory

    @property
    def tensor(self) -> Any:
        """What the module computes with: another one in ``torch.func.functional_call``."""
        held = self.held.get(self.key)
        return getattr(self.part, self.key) if held is None else held  # or a parametrization

    def follow(self) -> None:
        """Take over what has changed on one side, most likely that of the layer."""
        own, a = self.own, self.arrays[self.key]
        if self.held.get(self.key) is not own:
            return
        if a is not self.array:
            self.array = a
            if self.kind == "_buffers":
                self.held[self.key] = self.own = a
                return
            if own.grad is not None and (own.grad.dtype != a.dtype or own.grad.device != a.device):
                own.grad = None
            own.data = a
        elif own.data_ptr() != a.data_ptr():  # something has set ``own.data``
            self.take()

    def take(self) -> None:
        """Let the layer have what the module has."""
        own = self.held.get(self.key)
        if own is not None:
            self.own = own
            self.arrays[self.key] = self.array = own.detach()


class _Number(int):
    """The number of a tensor, in a tree of which the tensors are a list."""


def _numbered(tree: Any, number: Callable[[Any], int]) -> Any:
    """Return a tree with numbers in the place of its tensors."""
    if isinstance(tree, torch.Tensor):
        return _Number(number(tree))
    if type(tree) in (tuple, list):
        return tuple([_numbered(t, number) for t in tree])
    if isinstance(tree, Mapping):
        return {k: _numbered(t, number) for k, t in tree.items()}
    return tree


def _restored(tree: Any, tensors: Sequence[Any]) -> Any:
    """Return the tree with tensors in the place of their numbers."""
    if type(tree) is _Number:
        return tensors[tree]
    if type(tree) is tuple:
        return tuple([_restored(t, tensors) for t in tree])
    if type(tree) is dict:
        return {k: _restored(t, tensors) for k, t in tree.items()}
    return tree


def _share_out(
    layer: Any, grads: Sequence[Any], inputs: Sequence[Any], named: Mapping[str, Any],
    places: list[Any], floating: Sequence[bool],
) -> None:  # fmt: skip
    """Put the gradients of further inputs, which are trees of numbers, in their places."""
    if isinstance(layer, Sequential):
        *grads, by_part = grads if grads and type(grads[-1]) is dict else (*grads, {})
        parts = {part.name: part.layer for part in layer._parts}
        for name, others in by_part.items():
            _share_out(parts[name], others, (), named[name], places, floating)
        layer, first = layer._parts[0].layer, layer._parts[0].name
        own = {k: tree for k, tree in named.items() if k not in parts}
        named = {**own, **named.get(first, {})}
        _share_out(layer, grads, inputs, named, places, floating)
        return
    bound = inspect.signature(layer.apply).bind({}, None, *inputs, **named)
    bound.apply_defaults()
    _, _, *others = bound.arguments.values()
    slots = [i for i in others if i is None or (type(i) is _Number and floating[i])]
    if len(grads) < len(slots):  # inputs that are None have none
        slots = [i for i in slots if i is not None]
    for i, d in zip(slots, grads, strict=False):
        if i is not None:
            places[i] = d


class _Pass:
    """A pass through a layer, as functions of one list of tensors.

    Parameters
    ----------
    layer : Layer or Loss
        What is applied.
    names : list of str
        Its parameters and buffers, which come first in the list.
    inputs : tuple
        ``x``, further inputs, and those by name: `leaves` are their tensors, which come after.
    """

    def __init__(self, layer: Any, names: list[str], inputs: tuple[Any, tuple, Mapping]) -> None:
        self.layer, self.names = layer, names
        self.leaves: list[Any] = []
        self._inputs = _numbered(inputs, self._add_leaf)
        self._floating = [is_floating(a) for a in self.leaves]

    def _add_leaf(self, a: Any) -> int:
        self.leaves.append(a)
        return len(self.leaves) - 1

    def apply(self, arguments: Sequence[Any]) -> list[Any]:
        """Return the output, and the tensors of the cache that are no arguments."""
        layer, n = self.layer, len(self.names)
        arrays = layer._ties.expanded(dict(zip(self.names, arguments, strict=False)))
        x, inputs, named = _restored(self._inputs, arguments[n:])
        if isinstance(layer, Loss):
            y, cache = layer._evaluate(x, *inputs, arrays=arrays, **named)
            updated = {}
        else:
            y, cache = layer.apply(arrays, x, *inputs, **named)
            updated = layer.updated_buffers(arrays, cache)
        places = {id(a): i for i, a in enumerate((*arguments, y))}
        for i, name in enumerate(self.names):
            if name in updated:
                del places[id(arguments[i])]  # it is written to
        results, numbers = [y], {}
        self.saved: list[int] = []  # tensors of the cache, by places in arguments and results

        def number(a: Any) -> int:
            if id(a) not in numbers:
                place, numbers[id(a)] = places.get(id(a)), len(self.saved)
                if place is None:
                    place = len(arguments) + len(results)
                    results.append(a)
                self.saved.append(place)
            return numbers[id(a)]

        self._cache = _numbered(cache, number)
        for name, a in updated.items():
            results = [r.clone() if r is arrays[name] else r for r in results]
            if not torch._C._functorch.is_batchedtensor(a):
                arrays[name].copy_(a)
        return results

    def gradients(self, needed: Sequence[bool], dy: Any, saved: Sequence[Any]) -> tuple[Any, ...]:
        """Return the gradients of the arguments; None where there is none."""
        layer, n = self.layer, len(self.names)
        cache = _restored(self._cache, saved)
        dx, grads = None, {}
        if isinstance(layer, Loss):
            dx = layer.vjp(cache, dy)
        elif any(needed[n:]):
            dx, grads = layer.vjp(cache, dy)
        else:
            grads = layer.param_grads(cache, dy)
        grads = layer._ties.gathered(grads)
        of_inputs: list[Any] = [None] * len(self.leaves)
        if dx is not None:
            x, inputs, named = self._inputs
            of_inputs[x], *others = dx if type(dx) is tuple else (dx,)
            if others:
                _share_out(layer, others, inputs, named, of_inputs, self._floating)
        if any(need and d is None for need, d in zip(needed[n:], of_inputs, strict=True)):
            message = (
                f"{layer._owner}: an input requires grad, but has no gradient in this layer. "
                "Pass it detached: a.detach()."
            )
            raise RuntimeError(message)
        return *map(grads.get, self.names), *of_inputs


class _Applied(torch.autograd.Function):
    """The output of a pass; and a tensor without elements, which requires grad as that does."""

    generate_vmap_rule = True

    @staticmethod
    def forward(step: _Pass, *arguments: Any) -> Any:
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
        return None, *_Gradients.apply(step, needed, dy, *ctx.saved_tensors)

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        message = (
            f"{ctx.step.layer._owner}: a derivative in forward mode; xplayers has those of reverse "
            "mode alone: torch.func.vjp, grad or jacrev in the place of jvp, jacfwd or hessian."
        )
        raise RuntimeError(message)


class _Gradients(torch.autograd.Function):
    """The gradients of a pass, which have none themselves.

    They depend on the witness, which requires grad whatever the cache has: so a second derivative
    always comes by here.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(step: _Pass, needed: Sequence[bool], dy: Any, witness: Any, *saved: Any) -> Any:
        return step.gradients(needed, dy.detach(), [a.detach() for a in saved])

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
