"""Modules of PyTorch as layers: ``as_layer(module)`` in one memory with the module."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from xplayers._checks import instance
from xplayers.arrays.namespaces import Array
from xplayers.bridges import imported
from xplayers.layers.base import Cache
from xplayers.layers.containers import Container
from xplayers.layers.ties import Ties
from xplayers.layers.variables import Variables

torch = imported("torch", "PyTorch")


def as_layer(module: Any) -> ModuleLayer:
    """Make a layer of a ``torch.nn.Module``, with the gradients of PyTorch's autograd.

    Parameters
    ----------
    module : torch.nn.Module
        It maps tensors to one tensor. Its parameters and buffers are those of the layer, by their
        names and in one memory; parameters that do not require grad are buffers.

    Returns
    -------
    ModuleLayer
        A layer as any other: it is a part of networks, trained by `TrainStep` and `Trainer`,
        saved and loaded.

    Raises
    ------
    TypeError
        If it is no module.

    Examples
    --------
    >>> import torch, xplayers as xl
    >>> from xplayers.torch import as_layer
    >>> net = xl.Sequential(as_layer(torch.nn.Linear(4, 8)), xl.Relu(), xl.Affine.init(8, 2, rng=0))
    >>> step = xl.TrainStep(net, xl.SoftmaxWithLoss(), xl.Adam())
    >>> value = step(torch.ones(3, 4), torch.asarray([0, 1, 1]))
    >>> list(net.params)
    ['0.weight', '0.bias', '2.W', '2.b']
    """
    expected = "a module of PyTorch, as torch.nn.Linear(4, 3)"
    return ModuleLayer(instance("as_layer", "module", module, torch.nn.Module, expected))


class _Shared(dict[str, Array]):
    """Arrays of a layer by name, which a module has too: `held` are its dicts, by the same names.

    A pickle sets the arrays before there is a module.
    """

    held: Mapping[str, dict[str, Any]] = {}

    def __setitem__(self, name: str, a: Array) -> None:
        super().__setitem__(name, a)
        if name in self.held:
            tensor = self.held[name][name]
            if tensor.grad is not None and tensor.grad.dtype != a.dtype:
                tensor.grad = None
            tensor.data = a

    def update(self, *others: Any, **named: Any) -> None:
        for name, a in dict(*others, **named).items():
            self[name] = a

    def follow(self) -> None:
        """Take the tensors whose memory the module has replaced, as by ``module.half()``."""
        for name, held in self.held.items():
            tensor = held[name]
            if tensor.data_ptr() != self[name].data_ptr() or tensor.dtype != self[name].dtype:
                super().__setitem__(name, tensor.detach())


class ModuleLayer(Container):
    """A ``torch.nn.Module`` as a layer: `as_layer` makes it.

    Training passes compute in training mode, others in evaluation mode, whatever the mode of the
    module. The cache of a pass is what autograd has recorded.

    Examples
    --------
    >>> import torch, xplayers as xl
    >>> from xplayers.torch import as_layer
    >>> layer = as_layer(torch.nn.Linear(2, 1))
    >>> x = torch.ones(3, 2)
    >>> y = layer.forward(x)
    >>> dx = layer.backward(torch.ones(3, 1))
    >>> layer.grads["weight"]
    tensor([[3., 3.]])
    >>> layer.module.weight.data_ptr() == layer.params["weight"].data_ptr()
    True
    """

    def __init__(self, module: Any) -> None:
        super().__init__({})
        self.module = module
        self._all_variables = {}
        for prefix, part in module.named_modules():
            own: dict[str, dict[str, Any]] = {"params": {}, "buffers": {}}  # who has them, by name
            for held in (part._parameters, part._buffers):
                for key, a in held.items():
                    if a is not None:
                        own["params" if a.requires_grad else "buffers"][key] = held
            if not any(own.values()):
                continue
            variables = self._all_variables[prefix] = Variables()
            for kind, held in own.items():
                shared = _Shared({key: held[key][key].detach() for key in held})
                shared.held = held
                setattr(variables, kind, shared)
        self._ties = Ties(self._all_variables)
        self._find_arrays()
        # Without memory of their own: passes bring the tensors.
        self._by_mode = {
            mode: copy.deepcopy(module).to("meta").train(mode) for mode in (True, False)
        }

    def _ready(self, x: Array) -> dict[str, Array]:
        for variables in self._all_variables.values():
            for shared in (variables.params, variables.buffers):
                if isinstance(shared, _Shared):
                    shared.follow()
        self.integer_input = not getattr(x, "is_floating_point", lambda: True)()
        return super()._ready(x)

    def _call(self, mode: bool, arrays: Mapping[str, Array], inputs: tuple, named: Any) -> Any:
        call = torch.func.functional_call
        y = call(self._by_mode[mode], dict(arrays), inputs, named, tie_weights=False)
        if not isinstance(y, torch.Tensor):
            message = f"{self._owner}: the module returns a {type(y).__name__}; expected a tensor."
            raise TypeError(message)
        return y

    def apply(
        self, arrays: Mapping[str, Array], x: Array, *inputs: Any, **named: Any
    ) -> tuple[Array, Cache]:
        names = [name for name, _, _ in self._params]
        buffers = {name: arrays[name].clone() for name, _, _ in self._buffers}
        with torch.inference_mode(False), torch.enable_grad():
            leaves = {name: arrays[name].detach().requires_grad_() for name in names}
            leaf_inputs = tuple([_leaf(a) for a in (x, *inputs)])
            y = self._call(True, {**leaves, **buffers}, leaf_inputs, named)
        return y.detach(), (_Record(y, [*leaves.values(), *leaf_inputs], buffers),)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Any, dict[str, Array]]:
        (record,) = cache
        n = len(self._params)
        wanted = [a for a in record.leaves if getattr(a, "requires_grad", False)]
        gradients: list[Any] = [None] * len(wanted)
        if record.y.requires_grad:
            gradients = [
                *torch.autograd.grad(record.y, wanted, dy, retain_graph=True, allow_unused=True)
            ]
        gradients = [
            torch.zeros_like(a) if d is None else d for a, d in zip(wanted, gradients, strict=True)
        ]
        grads = dict(zip([name for name, _, _ in self._params], gradients, strict=False))
        dx: list[Any] = [*gradients[n:]]
        if not getattr(record.leaves[n], "requires_grad", False):  # integers
            dx = [None, *dx]
        return (dx[0] if len(dx) == 1 else tuple(dx)), grads

    def infer(self, arrays: Mapping[str, Array], x: Array, *inputs: Any, **named: Any) -> Array:
        arrays = {k: a.clone() if k in self._buffer_names else a for k, a in arrays.items()}
        return self._call(False, arrays, (x, *inputs), named)

    def updated_buffers(self, arrays: Mapping[str, Array], cache: Cache) -> dict[str, Array]:
        (record,) = cache
        return record.buffers

    @property
    def _buffer_names(self) -> set[str]:
        return {name for name, _, _ in self._buffers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for variables in self._all_variables.values():
            for shared in (variables.params, variables.buffers):
                shared.update(dict(shared))

    def __repr__(self) -> str:
        return f"as_layer({self.module!r})"


class _Record:
    """What autograd has recorded of a pass; not a tensor, which others would take off its tape."""

    def __init__(self, y: Any, leaves: list[Any], buffers: dict[str, Any]) -> None:
        self.y, self.leaves, self.buffers = y, leaves, buffers


def _leaf(a: Any) -> Any:
    """Return an input as autograd records it."""
    if not isinstance(a, torch.Tensor):
        return a
    a = a.detach()
    return a.requires_grad_() if a.is_floating_point() else a
