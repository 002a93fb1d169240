"""Containers: layers made of layers. They record once for a whole pass."""

from __future__ import annotations

import itertools
import keyword
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from xplayers._checks import generator, instance, shown
from xplayers._checks import sizes as checked_sizes
from xplayers._foreign import NETWORK, of_object
from xplayers.arrays.namespaces import Array, check_input, check_same
from xplayers.arrays.operation import operation
from xplayers.initializers import Rng, he_normal, xavier_normal
from xplayers.layers.activations import Relu, Sigmoid, Softmax, Tanh, activation_named
from xplayers.layers.affine import Affine
from xplayers.layers.base import Cache, Layer, Remembering
from xplayers.layers.ties import Ties
from xplayers.layers.variables import Store


class Part(NamedTuple):
    """A layer of a container, and what the container calls its arrays."""

    name: str
    layer: Layer
    names: dict[str, str]  # of its arrays: name in the layer -> name in the container

    def pick(self, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return the arrays of the layer by its own names."""
        if type(arrays) is _Ready and self.layer._store.params:
            return self.layer._store.params  # what would be picked, without a look-up by name
        return {k: arrays[name] for k, name in self.names.items()} if self.names else {}


# The further inputs of a part, by place and by name.
Given = tuple[Sequence[Any], Mapping[str, Any]]
_NOTHING: Given = (), {}


class _Ready(dict[str, Array]):
    """The arrays of the layers of a container as they are now, when no layer has buffers."""


class Joined(tuple[Cache, ...]):
    """The caches of a pass through other parts, some of which are several parts as one."""

    parts: Sequence[Part]


@operation
def parts_of(x: Array, net: Sequential) -> Sequence[Part]:
    """Return the parts through which `x` goes, some of which may be several parts as one."""
    return net._parts


class Container(Layer):
    """Base of layers made of layers: collects their arrays under dotted names.

    A part that occurs twice is one set of parameters, under the name of its first place.

    Parameters
    ----------
    parts : mapping of str to Layer
        The layers by name.
    """

    _alone = False

    def __init__(self, parts: Mapping[str, Layer]) -> None:
        instance(type(self).__name__, "parts", parts, Mapping, "a mapping of layers by name")
        prefixes: dict[int, str] = {}
        self._stores: dict[str, Store] = {}
        self._parts: list[Part] = []
        for name, layer in parts.items():
            if hasattr(type(self), name):
                message = f"{self._owner}: a part cannot be called {name!r}, which is an attribute."
                raise ValueError(message)
            if not isinstance(layer, Layer):
                part, hint = f"part {name!r}", _hint(type(self).__name__, layer)
                instance(type(self).__name__, part, layer, Layer, "a layer", hint=hint)
            names: dict[str, str] = {}
            for inner, store in layer._stores.items():
                prefix = prefixes.setdefault(id(store), f"{name}.{inner}" if inner else name)
                keys = (*store.params, *store.buffers)
                if keys:
                    self._stores[prefix] = store
                for key in keys:
                    names[f"{inner}.{key}" if inner else key] = f"{prefix}.{key}"
            self._parts.append(Part(name, layer, names))
        self._ties = Ties(self._stores)
        self._find_arrays()

    def _find_arrays(self) -> None:
        # Where each array and gradient lies, so that a call does not build names.
        stores = self._stores.items()
        self._learnt = [store for store in self._stores.values() if store.params]
        self._params = [(f"{p}.{k}", s.params, k) for p, s in stores for k in s.params]
        self._buffers = [(f"{p}.{k}", s.buffers, k) for p, s in stores for k in s.buffers]
        self._grads = {f"{p}.{k}": (s.grads, k) for p, s in stores for k in s.params}

    def __getstate__(self) -> dict[str, Any]:
        located = ("_params", "_buffers", "_grads", "_learnt")
        return {k: v for k, v in super().__getstate__().items() if k not in located}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._find_arrays()

    def _ready(self, x: Array) -> dict[str, Array]:
        if not all([store.placed for store in self._stores.values()]):
            check_input(self._owner, x, {}, integers=self.integer_input)
            self._place(x)
        arrays = {name: params[key] for name, params, key in self._params}
        if not self._buffers:
            arrays = _Ready(arrays)
        check_input(self._owner, x, arrays, integers=self.integer_input)
        for name, buffers, key in self._buffers:
            arrays[name] = buffers[key]
            check_same(self._owner, name, buffers[key], x, fix="Call layer.to(like=x).")
        return arrays

    def _begin(self, arrays: Mapping[str, Array], cache: Cache) -> None:
        for store in self._stores.values():
            store.fresh = True
        if self._buffers:
            self.buffers.update(self.updated_buffers(arrays, cache))

    def _collect(self, grads: Mapping[str, Array]) -> None:
        for store in self._stores.values():
            if store.fresh:
                store.fresh = False
                store.grads.clear()
        tied = grads and self._ties.rows()
        if tied:
            grads = self._ties.gathered(grads)
        for name, grad in grads.items():
            mine, key = self._grads[name]
            mine[key] = mine[key] + grad if key in mine else grad
        if tied:
            self._ties.follow_gradients()

    def _rows(self) -> str:
        """Return the parts as code, one a line."""
        rows, named = [], False
        for part in self._parts:
            code = repr(part.layer).replace("\n", "\n    ")
            if part.name.isidentifier() and not keyword.iskeyword(part.name):
                named, code = True, f"{part.name}={code}"
            elif named or not part.name.isdigit():  # no argument without a name may follow
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
        raise of_object(self, name, NETWORK, "attribute or part")


def _hint(owner: str, part: Any) -> str:
    """Return the next step for what somebody took for a layer."""
    if isinstance(part, list | tuple | Iterator | dict):
        stars = "**" if isinstance(part, dict) else "*"
        return f"Pass the layers one by one: {owner}({stars}layers)."
    if isinstance(part, Remembering):
        return "A loss stands beside the network: loss.forward(net.forward(x), t)."
    words = part if isinstance(part, str) else getattr(part, "__name__", "")
    ours = activation_named(words)
    return f"The layer is {ours}()." if ours else ""


def named(layers: Sequence[Layer], named_layers: Mapping[str, Layer]) -> dict[str, Layer]:
    """Return positional layers under their numbers, and after them the named ones."""
    parts = {str(i): layer for i, layer in enumerate(layers)}
    twice = parts.keys() & named_layers.keys()
    if twice:
        message = f"the name {twice.pop()!r} is that of a positional layer."
        raise ValueError(message)
    return {**parts, **named_layers}


class Sequential(Container):
    """Layers one after the other, ``y = f_n(... f_2(f_1(x)))``.

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
    which shares their parameters. The same layer at two places is one set of parameters.

    Further inputs go to the first layer: ``net.forward(x, key_mask=mask)``. Those of another layer
    are a mapping under its name: ``net.forward(x, attention={"context": c})``. Where a layer has
    gradients of them, as `MultiHeadAttention` of a context, ``backward`` returns ``(dx, ...)`` as
    the first layer does, and last those of the others in tuples by name:
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
        # A layer with buffers that occurs twice goes on from what its first use has left.
        used = [name for p in self._parts for name in p.names.values()]
        self._goes_on = any(used.count(name) > 1 for name in self.buffers)
        # The first part with parameters: below it, no gradient is needed for a parameter.
        self._lowest = next((i for i, p in enumerate(self._parts) if p.layer.params), len(self))

    def apply(
        self, arrays: Mapping[str, Array], x: Array, *inputs: Any, **named: Any
    ) -> tuple[Array, Cache]:
        caches: list[Cache] = []
        given = self._given(inputs, named) if inputs or named else {}
        parts = self._parts if given else parts_of(x, self)
        for part in parts:
            more, options = given.get(part.name, _NOTHING) if given else _NOTHING
            try:
                if more or options:
                    x, cache = part.layer.apply(part.pick(arrays), x, *more, **options)
                else:  # the common case, in a faster call
                    x, cache = part.layer.apply(part.pick(arrays), x)
            except (RuntimeError, TypeError, ValueError) as error:
                self._locate(error, part, more, options)
                raise
            caches.append(cache)
            if self._goes_on:
                arrays = {**arrays, **moved_on(part, arrays, cache)}
        if parts is self._parts:
            return x, tuple(caches)
        cache = Joined(caches)
        cache.parts = parts
        return x, cache

    def infer(self, arrays: Mapping[str, Array], x: Array, *inputs: Any, **named: Any) -> Array:
        given = self._given(inputs, named) if inputs or named else {}
        for part in self._parts if given else parts_of(x, self):
            more, options = given.get(part.name, _NOTHING) if given else _NOTHING
            try:
                if more or options:
                    x = part.layer.infer(part.pick(arrays), x, *more, **options)
                else:
                    x = part.layer.infer(part.pick(arrays), x)
            except (RuntimeError, TypeError, ValueError) as error:
                self._locate(error, part, more, options)
                raise
        return x

    def _given(self, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Given]:
        """Return the further inputs by the parts that they are for."""
        if not self._parts:
            message = f"{self._owner}: there is no layer for a further input."
            raise TypeError(message)
        first, names = self._parts[0].name, [p.name for p in self._parts]
        given: dict[str, Given] = {first: (inputs, {k: named[k] for k in named if k not in names})}
        for name in named.keys() & names:
            instance(self._owner, name, named[name], Mapping, "a mapping of its inputs by name")
            more, options = given.get(name, _NOTHING)
            given[name] = more, {**options, **named[name]}
        return given

    def vjp(self, cache: Cache, dy: Array) -> tuple[Any, dict[str, Array]]:
        grads: dict[str, Array] = {}
        dx, others = _back(self._parts_of(cache), cache, dy, grads, down_to=0)
        if others:
            dx = *(dx if type(dx) is tuple else (dx,)), others
        return dx, grads

    def param_grads(self, cache: Cache, dy: Array) -> dict[str, Array]:
        grads: dict[str, Array] = {}
        parts, at = self._parts_of(cache), self._lowest  # what is joined has parameters
        if at < len(parts):
            dy, _ = _back(parts, cache, dy, grads, down_to=at + 1)
            collect(grads, parts[at], parts[at].layer.param_grads(cache[at], dy))
        return grads

    def updated_buffers(self, arrays: Mapping[str, Array], cache: Cache) -> dict[str, Array]:
        updated: dict[str, Array] = {}
        for part, part_cache in zip(self._parts_of(cache), cache, strict=True):
            updated |= moved_on(part, {**arrays, **updated}, part_cache)
        return updated

    def _parts_of(self, cache: Cache) -> Sequence[Part]:
        """Return the parts that a pass has gone through."""
        return cache.parts if type(cache) is Joined else self._parts

    def _locate(
        self, error: Exception, part: Part, more: Sequence[Any], options: Mapping[str, Any]
    ) -> None:
        if isinstance(error, TypeError):
            part.layer._check_inputs(more, options)
        error.add_note(f"In part {part.name!r} of {type(self).__name__}.")

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
            if any(p.name.isdigit() for p in parts[n:]):  # named ones come before: backwards
                numbered, n = [], 0
            return Sequential(*numbered, **{p.name: p.layer for p in parts[n:]})
        return self._parts[index].layer

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}(\n{self._rows()})" if self._parts else f"{name}()"


def _back(
    parts: Sequence[Part], cache: Cache, dy: Any, grads: dict[str, Array], *, down_to: int
) -> tuple[Any, dict[str, tuple[Any, ...]]]:
    """Return what comes out below, and the gradients of further inputs of parts above the first."""
    others: dict[str, tuple[Any, ...]] = {}
    for i in reversed(range(down_to, len(parts))):
        dy, part_grads = parts[i].layer.vjp(cache[i], dy)
        collect(grads, parts[i], part_grads)
        if i and type(dy) is tuple:
            others[parts[i].name], dy = dy[1:], dy[0]
    return dy, others


def moved_on(part: Part, arrays: Mapping[str, Array], cache: Cache) -> dict[str, Array]:
    """Return the buffers that one use of a part changes."""
    updated = part.layer.updated_buffers(part.pick(arrays), cache) if part.names else {}
    return {part.names[inner]: value for inner, value in updated.items()}


def collect(grads: dict[str, Array], part: Part, part_grads: Mapping[str, Array]) -> None:
    """Add the gradients of one use of a part, by the names of the container."""
    for inner, grad in part_grads.items():
        name = part.names[inner]
        grads[name] = grads[name] + grad if name in grads else grad


def _made(owner: str, activation: Any) -> Layer:
    """Return the layer that `activation` makes when it is called."""
    expected = "what makes a layer when it is called, as the class Relu"
    if isinstance(activation, type) and issubclass(activation, Layer):
        return activation()
    if isinstance(activation, Layer):
        hint = f"Pass the class, {type(activation).__name__}, or lambda: {activation!r}."
        message = f"{owner}: activation is {shown(activation)}; expected {expected}. {hint}"
        raise TypeError(message)
    try:
        made = activation()
    except (IndexError, TypeError):  # a word, or a function of arrays
        made = None
    if not isinstance(made, Layer):
        name = activation if isinstance(activation, str) else getattr(activation, "__name__", "")
        ours = activation_named(name)
        hint = f" Pass activation={ours}." if ours else ""
        message = f"{owner}: activation is {shown(activation)}; expected {expected}.{hint}"
        raise TypeError(message)
    return made


def mlp(
    sizes: Sequence[int],
    activation: Callable[[], Layer] = Relu,
    rng: Rng = None,
    *,
    dtype: str = "float32",
    like: Array = None,
) -> Sequential:
    """Make a multilayer perceptron: affine maps with an activation between them.

    Parameters
    ----------
    sizes : sequence of int
        Width of the input, of each hidden layer, and of the output.
    activation : callable
        Makes the activation: a class as `Relu`, or ``lambda: LeakyRelu(0.1)``.
    rng : int, numpy.random.Generator or None
        The source of the initial values; an int is a seed.
    dtype : str
        Floating dtype of the parameters.
    like : array, optional
        Make the parameters where this array is, as in `Affine.init`.

    Returns
    -------
    Sequential
        The values are `xavier_normal` for `Sigmoid`, `Tanh` and `Softmax`, `he_normal` else.

    Raises
    ------
    ValueError
        If there are fewer than two sizes, or one is not positive.

    Examples
    --------
    >>> from xplayers import mlp
    >>> mlp([784, 50, 10], rng=0)
    Sequential(
        Affine.init(784, 50),
        Relu(),
        Affine.init(50, 10),
    )
    """
    if not isinstance(sizes, Sequence) or isinstance(sizes, str):
        given = [sizes, *([activation] if isinstance(activation, int) else [])]
        widths = f" Write mlp({given})." if len(given) > 1 else ""
        message = f"mlp: sizes is {shown(sizes)}; expected a list of widths, as [784, 100, 10]."
        raise TypeError(message + widths)
    sizes = checked_sizes("mlp", "sizes", sizes, least=None)
    if len(sizes) < 2 or min(sizes) < 1:
        message = f"mlp: sizes is {list(sizes)}; expected two positive widths or more."
        raise ValueError(message)
    rng = generator("mlp", "rng", rng)
    layers: list[Layer] = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers.append(_made("mlp", activation))
        initializer = (
            xavier_normal if isinstance(layers[-1], Sigmoid | Tanh | Softmax) else he_normal
        )
        layers.append(
            Affine.init(n_in, n_out, initializer=initializer, rng=rng, dtype=dtype, like=like)
        )
    return Sequential(*layers[1:])
