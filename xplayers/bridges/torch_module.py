"""Layers as modules of PyTorch: ``Module(layer)`` in one memory with the layer.

The parameters and buffers of both are the same, so an optimizer of either library changes both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from xplayers._checks import instance
from xplayers.arrays.checks import check_input, check_same, described
from xplayers.arrays.namespaces import Array, is_half, is_traced, library, namespace
from xplayers.bridges import imported
from xplayers.bridges.torch_again import Counts
from xplayers.bridges.torch_direct import Way, passed
from xplayers.bridges.torch_passes import Applied, Pass
from xplayers.layers.base import Layer
from xplayers.layers.variables import epoch, settings_changed
from xplayers.losses import Loss

torch = imported("torch", "PyTorch")


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

    Under ``torch.autocast`` the layer computes in the dtype of its parameters, to which a
    floating-point input is converted. Where ``torch.utils.checkpoint`` computes a pass again, a
    dropout drops the same elements: each of its passes draws a number from PyTorch's generator,
    which ``checkpoint`` sets back. Running statistics do not change a second time.

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
        self._find_slots()

    def _find_slots(self) -> None:
        """Give each array of the layer a slot, in the submodule that its name says."""
        params, buffers = [], []
        self._aliases, self._epoch = self._tied(), epoch()
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
                params.append(_Slot(path + key, part, "_parameters", key, variables.params))
            for key, a in variables.buffers.items():
                part._buffers[key] = a
                buffers.append(_Slot(path + key, part, "_buffers", key, variables.buffers))
        self._slots, self._n_params = [*params, *buffers], len(params)
        self._way: Way | None = None
        self._counts = Counts()
        self._names = [slot.name for slot in self._slots]

    def _tied(self) -> list[str]:
        return [row.name for row in self.layer._ties.rows()]

    def forward(self, x: Any, *inputs: Any, **named: Any) -> Any:
        """Return the output of the layer, which takes these inputs; of a loss its value."""
        if torch._C._is_any_autocast_enabled() and isinstance(x, torch.Tensor):
            return self._in_their_dtype(x, inputs, named)
        plain = self._follow()
        layer: Any = self.layer
        is_loss = isinstance(layer, Loss)
        if plain and type(x) in _PLAIN and not self._aliases and not is_traced():
            way = self._way or self._made_way()
            try:
                if not is_loss and way.met != (x.dtype, x.device):
                    self._check(x, [*way.arrays.values()])
                    way.met = x.dtype, x.device
                if not (self.training or is_loss):
                    arrays = way.recorded if torch.is_grad_enabled() else way.arrays
                    return layer.infer(arrays, x, *inputs, **named)
                if not (inputs or named) or not _recorded(inputs, named):
                    return passed(way, x, inputs, named)
            except TypeError:
                if not is_loss:
                    layer._check_inputs(inputs, named)
                raise
        return self._general(x, inputs, named)

    def _general(self, x: Any, inputs: tuple, named: dict[str, Any]) -> Any:
        """Compute the output where tensors of others stand in for those of the layer."""
        layer: Any = self.layer
        tensors = [slot.tensor for slot in self._slots]
        is_loss = isinstance(layer, Loss)
        try:
            if not is_loss:
                self._check(x, tensors)
            if self.training or is_loss:
                counts = None if is_traced() else self._counts
                step = Pass(layer, self._names, len(tensors) > self._n_params, counts)
                leaves = step.flattened(inputs, named) if inputs or named else ()
                return Applied.apply(step, *tensors, x, *leaves)[0]
            if not torch.is_grad_enabled():
                tensors = [a.detach() for a in tensors]
            arrays = layer._ties.expanded(dict(zip(self._names, tensors, strict=True)))
            return layer.infer(arrays, x, *inputs, **named)
        except TypeError:
            if not is_loss:
                layer._check_inputs(inputs, named)
            raise

    def _in_their_dtype(self, x: Any, inputs: tuple, named: dict[str, Any]) -> Any:
        """Compute the output in the dtype of the parameters, whatever ``torch.autocast`` says."""
        dtype = next((p.dtype for p in self.parameters()), x.dtype)
        inputs_cast = [
            a.to(dtype) if isinstance(a, torch.Tensor) and a.is_floating_point() else a
            for a in (x, *inputs)
        ]
        with torch.autocast(x.device.type, enabled=False):
            return self.forward(*inputs_cast, **named)

    def _made_way(self) -> Way:
        """Return how the layer is passed with the tensors that it has now."""
        params, buffers = self._slots[: self._n_params], self._slots[self._n_params :]
        self.__dict__["_way"] = way = Way(
            self.layer,
            {slot.name: slot.own for slot in params},
            {slot.name: slot.own for slot in buffers},
            self._counts,
        )
        return way

    def _check(self, x: Any, tensors: list[Any]) -> None:
        """Check that the input can meet the arrays of the layer."""
        layer: Any = self.layer
        if isinstance(x, torch.Tensor) and x.is_floating_point() and not layer.integer_input:
            dtype, device = x.dtype, x.device
            params = tensors[: self._n_params]
            if all([a.device == device for a in tensors]) and all(
                [a.dtype == dtype for a in params]
            ):
                return  # as is common
        owner = layer._owner
        namespace(x, owner)
        if not isinstance(x, torch.Tensor):
            message = f"{owner}: x is {described(x)}; expected a tensor: torch.asarray(x)."
            raise TypeError(message)
        params = dict(zip(self._names[: self._n_params], tensors, strict=False))
        check_input(owner, x.detach(), params, integers=layer.integer_input)
        for name, a in zip(self._names, tensors, strict=True):
            check_same(owner, name, a, x, fix="Call module.to(x.device).")

    def _follow(self) -> bool:
        """Let the module have the arrays that the layer has been given, and the other way round.

        Return whether the module computes with its own tensors, as is common.
        """
        if self._epoch != epoch():
            self._epoch = epoch()
            if self._tied() != self._aliases:
                self._find_slots()
        plain = True
        for slot in self._slots:
            own, key = slot.own, slot.key
            if slot.held.get(key) is not own:
                plain = False
            elif slot.arrays[key] is not slot.array or own.data_ptr() != slot.address:
                slot.follow()
                self.__dict__["_way"] = None
        return plain

    def _take(self) -> None:
        """Let the layer have the tensors that the module has been given."""
        layer = self.layer
        tied = layer._ties.rows()
        for slot in self._slots:
            slot.take()
        self.__dict__["_way"] = None
        if tied:
            layer._ties.synchronize()
        settings_changed()

    # What PyTorch calls.

    def _apply(self, fn: Callable[[Any], Any], recurse: bool = True) -> Module:
        self._follow()
        buffers = {id(slot.own) for slot in self._slots if slot.kind == "_buffers"}

        def applied(a: Any) -> Any:
            b = fn(a)
            wide = id(a) in buffers and is_half(b)  # as by `layer.to`
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
        if "_slots" in self.__dict__:
            self._follow()
        return super().__getattr__(name)

    def __getstate__(self) -> dict[str, Any]:
        derived = "_slots", "_way", "_counts"
        return {k: v for k, v in self.__dict__.items() if k not in derived}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._find_slots()

    def __repr__(self) -> str:
        return f"Module({self.layer!r})"


_PLAIN = torch.Tensor, torch.nn.Parameter


def _recorded(inputs: tuple, named: dict[str, Any]) -> bool:
    """Whether further inputs may be differentiated, or are trees."""
    return any(
        [
            a.requires_grad if isinstance(a, torch.Tensor) else isinstance(a, tuple | list | dict)
            for a in (*inputs, *named.values())
        ]
    )


class _Slot:
    """Where an array is: in a module, and in a layer."""

    __slots__ = ("address", "array", "arrays", "held", "key", "kind", "name", "own", "part")

    def __init__(self, name: str, part: Any, kind: str, key: str, arrays: dict[str, Array]) -> None:
        self.name, self.part, self.kind, self.key, self.arrays = name, part, kind, key, arrays
        self.held = part.__dict__[kind]
        self._set(self.held[key], arrays[key])

    def _set(self, own: Any, array: Array) -> None:
        self.own = own  # of the module
        self.array = array  # of the layer, in the same memory
        self.address = array.data_ptr()

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
        if a is self.array:
            if own.data_ptr() != self.address:  # something has set ``own.data``
                self.take()
            return
        if self.kind == "_buffers":
            self.held[self.key] = own = a
        else:
            if own.grad is not None and (own.grad.dtype != a.dtype or own.grad.device != a.device):
                own.grad = None
            own.data = a
        self._set(own, a)

    def take(self) -> None:
        """Let the layer have what the module has."""
        own = self.held.get(self.key)
        if own is not None:
            self.arrays[self.key] = a = own.detach()
            self._set(own, a)
