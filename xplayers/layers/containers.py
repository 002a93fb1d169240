"""Containers: layers made of layers. A pass has one cache for all of them."""

from __future__ import annotations

import keyword
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from xplayers._checks import instance, integer
from xplayers._foreign import NETWORK, missing_attribute
from xplayers.arrays.checks import check_input, check_same
from xplayers.arrays.namespaces import Array
from xplayers.arrays.operation import operation
from xplayers.layers.activations import activation_named
from xplayers.layers.base import Cache, Layer, Module
from xplayers.layers.places import (
    check_grads,
    check_pair,
    locate,
    locate_backward,
    unknown_gradient,
)
from xplayers.layers.ties import Ties
from xplayers.layers.variables import Variables


class Part(NamedTuple):
    """A layer of a container, and the names of its arrays in the container."""

    name: str
    layer: Layer
    names: dict[str, str]  # of its arrays: name in the layer -> name in the container

    def pick(self, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return the arrays of the layer by their names in the layer."""
        if not self.names:
            return {}
        if type(arrays) is _CurrentParams and self.layer._variables.params:
            return self.layer._variables.params  # the same arrays, without a look-up by name
        return {k: arrays[name] for k, name in self.names.items()}


# The further inputs of a part: positional and keyword arguments.
FurtherInputs = tuple[Sequence[Any], Mapping[str, Any]]
_NO_INPUTS: FurtherInputs = (), {}


class _CurrentParams(dict[str, Array]):
    """The current parameters of a container whose layers have no buffers."""


class Joined(tuple[Cache, ...]):
    """The caches of a pass through other `parts`, some of which stand for several layers."""

    parts: Sequence[Part]


@operation
def parts_of(x: Array, net: Sequential) -> Sequence[Part]:
    """Return the parts to apply to `x`; a part may stand for several fused layers."""
    return net._parts


class Container(Layer):
    """Base of layers made of layers: collects their arrays under dotted names.

    A part that occurs twice is one set of parameters, under the name of its first occurrence.

    Parameters
    ----------
    parts : mapping of str to Layer
        The layers by name.

    Examples
    --------
    >>> import xplayers as xl
    >>> net = xl.Sequential(xl.Affine.init(3, 4), head=xl.Affine.init(4, 2))
    >>> isinstance(net, xl.Container), list(net.params)
    (True, ['0.W', '0.b', 'head.W', 'head.b'])
    >>> net["head"] is net.head is net[1]
    True
    """

    _has_parts = True

    def __init__(self, parts: Mapping[str, Layer]) -> None:
        instance(type(self).__name__, "parts", parts, Mapping, "a mapping of layers by name")
        prefixes: dict[int, str] = {}
        self._all_variables: dict[str, Variables] = {}
        self._parts: list[Part] = []
        for name, layer in parts.items():
            if hasattr(type(self), name):
                message = f"{self._owner}: a part cannot be called {name!r}, which is an attribute."
                raise ValueError(message)
            if not isinstance(layer, Layer):
                part, hint = f"part {name!r}", _hint(type(self).__name__, layer)
                instance(type(self).__name__, part, layer, Layer, "a layer", hint=hint)
            names: dict[str, str] = {}
            for inner, variables in layer._all_variables.items():
                prefix = prefixes.setdefault(id(variables), f"{name}.{inner}" if inner else name)
                keys = (*variables.params, *variables.buffers)
                if keys:
                    self._all_variables[prefix] = variables
                for key in keys:
                    names[f"{inner}.{key}" if inner else key] = f"{prefix}.{key}"
            self._parts.append(Part(name, layer, names))
        self._ties = Ties(self._all_variables)
        self._find_arrays()

    def _find_arrays(self) -> None:
        # The dict and key of each array and gradient, so that a call does not build names.
        all_variables = self._all_variables.items()
        self._trainable = [v for v in self._all_variables.values() if v.params]
        self._params = [(_dotted(p, k), v.params, k) for p, v in all_variables for k in v.params]
        self._buffers = [(_dotted(p, k), v.buffers, k) for p, v in all_variables for k in v.buffers]
        self._grads = {_dotted(p, k): (v.grads, k) for p, v in all_variables for k in v.params}
        # A layer with buffers that occurs twice: its second use needs the buffers of the first.
        used = [name for p in self._parts for name in p.names.values()]
        self._reuses_buffers = any(used.count(name) > 1 for name, _, _ in self._buffers)

    def __getstate__(self) -> dict[str, Any]:
        derived = ("_params", "_buffers", "_grads", "_trainable")
        return {k: v for k, v in super().__getstate__().items() if k not in derived}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._find_arrays()

    def _in(self, part: Part, method: str, *arguments: Any) -> Any:
        """Call a pure function of a part; an error names the part."""
        try:
            result = getattr(part.layer, method)(*arguments)
            if method != "infer" and type(result) is not tuple:
                check_pair(part.layer, method, result)
        except Exception as error:
            locate(error, self, part)
            raise
        return result

    def _ready(self, x: Array) -> dict[str, Array]:
        if not all([v.materialized for v in self._all_variables.values()]):
            check_input(self._owner, x, {}, integers=self.integer_input)
            self._materialize(x)
        arrays = {name: params[key] for name, params, key in self._params}
        if not self._buffers:
            arrays = _CurrentParams(arrays)
        check_input(self._owner, x, arrays, integers=self.integer_input)
        for name, buffers, key in self._buffers:
            arrays[name] = buffers[key]
            check_same(self._owner, name, buffers[key], x, fix="Call layer.to(like=x).")
        return arrays

    def _begin(self, arrays: Mapping[str, Array], cache: Cache) -> None:
        for variables in self._all_variables.values():
            variables.fresh = True
        if self._buffers:
            self.buffers.update(self.updated_buffers(arrays, cache))

    def _collect(self, grads: Mapping[str, Array]) -> None:
        for variables in self._all_variables.values():
            if variables.fresh:
                variables.fresh = False
                variables.grads.clear()
        tied = grads and self._ties.rows()
        if tied:
            grads = self._ties.gathered(grads)
        for name, grad in grads.items():
            own, key = self._grads[name]
            own[key] = own[key] + grad if key in own else grad
        if tied:
            self._ties.synchronize_gradients()

    def _rows(self) -> str:
        """Return the parts as code, one a line."""
        rows, named = [], False
        for part in self._parts:
            code = repr(part.layer).replace("\n", "\n    ")
            if part.name.isidentifier() and not keyword.iskeyword(part.name):
                named, code = True, f"{part.name}={code}"
            elif named or not part.name.isdigit():  # positional arguments cannot follow keywords
                named, code = True, f"**{{{part.name!r}: {code}}}"
            rows.append(f"    {code},\n")
        return "".join(rows)

    def __str__(self) -> str:
        return repr(self)

    @property
    def _owner(self) -> str:
        return type(self).__name__

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(p.name for p in self._parts if p.name.isidentifier())})

    def __getattr__(self, name: str) -> Any:
        for part in self.__dict__.get("_parts", ()):
            if part.name == name:
                return part.layer
        raise missing_attribute(self, name, NETWORK, "attribute or part")


def _dotted(prefix: str, key: str) -> str:
    return f"{prefix}.{key}" if prefix else key


def _hint(owner: str, part: Any) -> str:
    """Return the next step for an object that is not a layer."""
    if isinstance(part, list | tuple | Iterator | dict):
        stars = "**" if isinstance(part, dict) else "*"
        return f"Pass the layers one by one: {owner}({stars}layers)."
    if isinstance(part, Module):
        return "A loss is not part of the network: loss.forward(net.forward(x), t)."
    name = activation_named(part if isinstance(part, str) else getattr(part, "__name__", ""))
    return f"The layer is {name}()." if name else ""


def named(layers: Sequence[Layer], named_layers: Mapping[str, Layer]) -> dict[str, Layer]:
    """Return the layers by name: positional ones under their numbers, then the named ones."""
    parts = {str(i): layer for i, layer in enumerate(layers)}
    duplicates = parts.keys() & named_layers.keys()
    if duplicates:
        message = f"the name {duplicates.pop()!r} is that of a positional layer."
        raise ValueError(message)
    return {**parts, **named_layers}


class Sequential(Container):
    """Layers one after the other, ``y = f_n(...f_2(f_1(x)))``.

    Backward applies their backward in reverse order.

    Parameters
    ----------
    *layers : Layer
        Layers in order, named ``"0"``, ``"1"``, ...
    **named_layers : Layer
        Further layers by name, after those: ``Sequential(fc1=..., relu=..., fc2=...)``.

    Notes
    -----
    ``net[0]`` and ``net["fc1"]`` are layers, ``net[:2]`` is a new container of the same layers,
    which shares their parameters. A layer that occurs twice shares its parameters.

    Further inputs go to the first layer: ``net.forward(x, key_mask=mask)``. Those of another layer
    are a mapping under its name: ``net.forward(x, attention={"context": c})``. Where further inputs
    have gradients, as the context of `MultiHeadAttention`, ``backward`` returns ``(dx, ...)`` like
    the first layer, and last a dict of the gradients of the other layers' inputs:
    ``(dx, {"attention": (dcontext,)})``.

    Examples
    --------
    >>> from xplayers import Affine, Relu, Sequential
    >>> net = Sequential(Affine.init(2, 3, rng=0), Relu(), Affine.init(3, 1, rng=1))
    >>> list(net.params)
    ['0.W', '0.b', '2.W', '2.b']
    >>> net[:2]
    Sequential(
        Affine.init(2, 3),
        Relu(),
    )
    """

    def __init__(self, *layers: Layer, **named_layers: Layer) -> None:
        super().__init__(named(layers, named_layers))
        self.integer_input = bool(self._parts) and self._parts[0].layer.integer_input
        # The first part with parameters: backward for parameters stops there.
        self._lowest = next((i for i, p in enumerate(self._parts) if p.layer.params), len(self))

    def apply(
        self, arrays: Mapping[str, Array], x: Array, *inputs: Any, **named: Any
    ) -> tuple[Array, Cache]:
        caches: list[Cache] = []
        further = self._further_inputs(inputs, named) if inputs or named else {}
        parts = self._parts if further else parts_of(x, self)
        reuses_buffers = self._reuses_buffers
        for part in parts:
            try:
                if further:
                    args, kwargs = further.get(part.name, _NO_INPUTS)
                    result = part.layer.apply(part.pick(arrays), x, *args, **kwargs)
                else:  # the common case, as a faster call
                    result = part.layer.apply(part.pick(arrays), x)
                if type(result) is not tuple:
                    check_pair(part.layer, "apply", result)
                x, cache = result
            except Exception as error:
                self._locate(error, part, *further.get(part.name, _NO_INPUTS))
                raise
            caches.append(cache)
            if reuses_buffers:
                arrays = {**arrays, **updated_part_buffers(part, arrays, cache)}
        if parts is self._parts:
            return x, tuple(caches)
        cache = Joined(caches)
        cache.parts = parts
        return x, cache

    def infer(self, arrays: Mapping[str, Array], x: Array, *inputs: Any, **named: Any) -> Array:
        further = self._further_inputs(inputs, named) if inputs or named else {}
        for part in self._parts if further else parts_of(x, self):
            try:
                if further:
                    args, kwargs = further.get(part.name, _NO_INPUTS)
                    x = part.layer.infer(part.pick(arrays), x, *args, **kwargs)
                else:
                    x = part.layer.infer(part.pick(arrays), x)
            except Exception as error:
                self._locate(error, part, *further.get(part.name, _NO_INPUTS))
                raise
        return x

    def _further_inputs(
        self, inputs: tuple[Any, ...], named: Mapping[str, Any]
    ) -> dict[str, FurtherInputs]:
        """Return the further inputs by part."""
        if not self._parts:
            message = f"{self._owner}: there is no layer for a further input."
            raise TypeError(message)
        first, names = self._parts[0].name, [p.name for p in self._parts]
        of_first = inputs, {k: named[k] for k in named if k not in names}
        further: dict[str, FurtherInputs] = {first: of_first}
        for name in named.keys() & names:
            instance(self._owner, name, named[name], Mapping, "a mapping of its inputs by name")
            args, kwargs = further.get(name, _NO_INPUTS)
            further[name] = args, {**kwargs, **named[name]}
        return further

    def vjp(self, cache: Cache, dy: Array) -> tuple[Any, dict[str, Array]]:
        grads: dict[str, Array] = {}
        dx, further = self._back_through(cache, dy, grads, down_to=0)
        if further:
            dx = *(dx if type(dx) is tuple else (dx,)), further
        return dx, grads

    def param_grads(self, cache: Cache, dy: Array) -> dict[str, Array]:
        grads: dict[str, Array] = {}
        parts, i = self._parts_of(cache), self._lowest  # valid for fused parts, all with parameters
        if i < len(parts):
            dy, _ = self._back_through(cache, dy, grads, down_to=i + 1)
            try:
                collect(grads, parts[i], parts[i].layer.param_grads(cache[i], dy))
            except Exception as error:
                locate_backward(error, self, parts, i, dy)
                raise
        return grads

    def _back_through(
        self, cache: Cache, dy: Any, grads: dict[str, Array], *, down_to: int
    ) -> tuple[Any, dict[str, tuple[Any, ...]]]:
        """Return the gradient of the input, and those of further inputs of parts after the first.

        The gradients of parameters are added to `grads`.
        """
        parts, further = self._parts_of(cache), {}
        for i in reversed(range(down_to, len(parts))):
            part = parts[i]
            try:
                result = part.layer.vjp(cache[i], dy)
                if type(result) is not tuple:
                    check_pair(part.layer, "vjp", result)
                collect(grads, part, result[1])
                dy = result[0]
            except Exception as error:
                locate_backward(error, self, parts, i, dy)
                raise
            if i and type(dy) is tuple:
                further[part.name], dy = dy[1:], dy[0]
        return dy, further

    def updated_buffers(self, arrays: Mapping[str, Array], cache: Cache) -> dict[str, Array]:
        updated: dict[str, Array] = {}
        for part, part_cache in zip(self._parts_of(cache), cache, strict=True):
            updated |= updated_part_buffers(part, {**arrays, **updated}, part_cache)
        return updated

    def _parts_of(self, cache: Cache) -> Sequence[Part]:
        """Return the parts that a pass applied."""
        return cache.parts if type(cache) is Joined else self._parts

    def _locate(
        self, error: Exception, part: Part, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        if isinstance(error, TypeError):
            part.layer._check_inputs(args, kwargs)
        locate(error, self, part)

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[Layer]:
        return (part.layer for part in self._parts)

    def __getitem__(self, index: int | str | slice) -> Any:
        if isinstance(index, str):
            return getattr(self, index)
        if isinstance(index, slice):
            parts = self._parts[index]
            numbered = [p.layer for p in parts if p.name.isdigit()]
            n = len(numbered)
            if any(p.name.isdigit() for p in parts[n:]):  # reversed: named ones come first
                numbered, n = [], 0
            return Sequential(*numbered, **{p.name: p.layer for p in parts[n:]})
        try:
            return self._parts[integer(self._owner, "index", index, least=None)].layer
        except IndexError:
            message = f"{self._owner}: index is {index}; it has {len(self)} parts."
            raise IndexError(message) from None

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}(\n{self._rows()})" if self._parts else f"{name}()"


def updated_part_buffers(part: Part, arrays: Mapping[str, Array], cache: Cache) -> dict[str, Array]:
    """Return the buffers that one use of a part changes, by their names in the container."""
    updated = part.layer.updated_buffers(part.pick(arrays), cache) if part.names else {}
    return {part.names[inner]: value for inner, value in updated.items()}


def collect(grads: dict[str, Array], part: Part, part_grads: Mapping[str, Array]) -> None:
    """Accumulate the gradients of one use of a part, by their names in the container."""
    if type(part_grads) is not dict:
        check_grads(part.layer, part_grads)
    for inner, grad in part_grads.items():
        try:
            name = part.names[inner]
        except KeyError:
            raise unknown_gradient(part.layer, inner) from None
        grads[name] = grads[name] + grad if name in grads else grad
