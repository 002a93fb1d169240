"""Variables of layers and losses (parameters, buffers, gradients), by name and by attribute."""

from __future__ import annotations

import inspect
import operator
import weakref
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np

from xplayers._checks import required_arguments, shown
from xplayers._foreign import check_arguments
from xplayers.arrays.checks import check_floating, check_off_tape, check_real
from xplayers.arrays.namespaces import (
    Array,
    dtype_is_half,
    dtype_name,
    is_floating,
    is_half,
    namespace,
)
from xplayers.arrays.packing import packed, unpacked
from xplayers.arrays.transfer import as_plain, move
from xplayers.arrays.writing import owner

_changes = [0]


def epoch() -> int:
    """Return a counter of the changes to settings of layers and losses.

    Settings are attributes, and which arrays are held. Compiled code depends on them, and compares
    the counter before each use.
    """
    return _changes[0]


def settings_changed() -> None:
    """Count a change of a setting."""
    _changes[0] += 1


# All instances, by id: arrays of two may share memory although no container has both.
_instances: weakref.WeakValueDictionary[int, Variables] = weakref.WeakValueDictionary()


def shared_outside(arrays: Iterable[Array], all_variables: Iterable[Variables]) -> bool:
    """Whether a layer outside of `all_variables` has an array that shares memory with `arrays`."""
    owners, inside = set(map(owner, arrays)), set(map(id, all_variables))
    others = [variables for ref in _instances.valuerefs() if (variables := ref()) is not None]
    return any(
        owner(a) in owners
        for variables in others if id(variables) not in inside
        for named in (variables.params, variables.buffers) for a in list(named.values())
    )  # fmt: skip


class Variables:
    """The arrays of one layer. Containers that share a layer share them."""

    __slots__ = ("__weakref__", "buffers", "fresh", "grads", "materialized", "params", "version")

    def __init__(self) -> None:
        _instances[id(self)] = self
        self.params: dict[str, Array] = {}
        self.buffers: dict[str, Array] = {}
        self.grads: dict[str, Array] = {}
        # False: initial values on the host, which move to library and device of the first input.
        self.materialized = True
        self.fresh = True  # the next backward overwrites the gradients instead of adding to them
        self.version = 0  # counts in-place writes to the parameters

    def __getstate__(self) -> dict[str, Any]:
        return {name: packed(getattr(self, name)) for name in self.__slots__[1:]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        _instances[id(self)] = self
        for name, value in state.items():
            setattr(self, name, unpacked(value))

    def moved(self, *, dtype: Any = None, **target: Any) -> tuple[dict, dict]:
        """Return copies on the target; only floating-point arrays change their dtype."""
        params = {name: move(a, dtype=dtype, **target) for name, a in self.params.items()}
        # Statistics and weights of losses stay in at least float32.
        like = target.get("like")
        to_half = is_half(like) if dtype is None and like is not None else dtype_is_half(dtype)
        wide = "float32" if to_half else dtype
        buffers = {
            name: move(a, dtype=wide if is_floating(a) else None, **target)
            for name, a in self.buffers.items()
        }
        return params, buffers

    def replace(self, params: Mapping[str, Array], buffers: Mapping[str, Array]) -> None:
        """Replace the arrays by those that `moved` returned."""
        self.params.update(params)
        self.buffers.update(buffers)
        self.materialized = True
        settings_changed()


class Parameter:
    """Descriptor of a parameter of a layer, declared in its class: ``W = Parameter()``.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> class Shift(xl.Layer):
    ...     b, db = xl.Parameter(), xl.Gradient()
    ...
    ...     def __init__(self, b):
    ...         self.b = b
    ...
    ...     def apply(self, arrays, x):
    ...         return x + arrays["b"], ()
    ...
    ...     def vjp(self, cache, dy):
    ...         return dy, {"b": xl.namespace(dy).sum(dy, axis=0)}
    >>> layer = Shift(np.asarray([2.0, 3.0]))
    >>> layer.forward(np.asarray([[1.0, 10.0]]))
    array([[ 3., 13.]])
    >>> layer.params["b"] is layer.b
    True
    """

    kind = "params"

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, layer: Any, owner: type | None = None) -> Any:
        return self if layer is None else getattr(layer._variables, self.kind).get(self.name)

    def __set__(self, layer: Any, value: Any) -> None:
        arrays = getattr(layer._variables, self.kind)
        if value is None:
            if self.name in arrays:
                message = f"{type(layer).__name__}: {self.name} cannot become None."
                raise TypeError(message)
            return  # an optional parameter, as the bias of a convolution
        check_variable(type(layer).__name__, self.name, value, self.kind)
        if self.name in arrays:
            check_shape(type(layer).__name__, self.name, value, arrays[self.name])
        arrays[self.name] = as_plain(value)
        settings_changed()


class Buffer(Parameter):
    """Descriptor of an array that is kept but not trained, as running statistics.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> class Centre(xl.Layer):
    ...     mean = xl.Buffer()
    ...
    ...     def __init__(self, mean):
    ...         self.mean = mean
    ...
    ...     def apply(self, arrays, x):
    ...         return x - arrays["mean"], ()
    ...
    ...     def vjp(self, cache, dy):
    ...         return dy, {}
    >>> layer = Centre(np.asarray([1.0, 10.0]))
    >>> list(layer.buffers), list(layer.params)
    (['mean'], [])
    >>> layer.predict(np.asarray([[1.0, 11.0]]))
    array([[0., 1.]])
    """

    kind = "buffers"


class Gradient:
    """Descriptor of the gradient of a parameter, declared in its class: ``dW = Gradient()``.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> layer = xl.Affine(np.asarray([[2.0], [3.0]]))
    >>> layer.dW is None
    True
    >>> y = layer.forward(np.asarray([[1.0, 10.0]]))
    >>> dx = layer.backward(np.ones_like(y))
    >>> layer.dW
    array([[ 1.],
           [10.]])
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name.removeprefix("d")

    def __get__(self, layer: Any, owner: type | None = None) -> Any:
        return self if layer is None else layer._variables.grads.get(self.name)


def check_variable(owner: str, name: str, value: Any, kind: str) -> None:
    """Check that `value` is an array that can be a variable of a layer."""
    namespace(value, owner, name)
    check_off_tape(owner, name, value)
    if kind == "params":
        check_floating(owner, name, value)
    check_real(owner, name, value)


def check_shape(owner: str, name: str, value: Array, old: Array) -> None:
    """Check that `value` has the shape of `old`, which it replaces."""
    if value.shape != old.shape:
        message = f"{owner}: {name} has shape {tuple(old.shape)}; got {tuple(value.shape)}."
        raise ValueError(message)


def check_constructor(kind: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise an error where sizes are passed to a constructor of arrays, or unknown arguments."""
    first, *rest = [*inspect.signature(kind.__init__).parameters][1:] or [""]
    init: Any = getattr(kind, "init", None)
    of_arrays = isinstance(getattr(kind, first, None), Parameter)
    foreign = sorted(kwargs.keys() - {first, *rest})  # Affine(n_in=4, n_out=3), or in_features=4
    is_size = bool(args) and isinstance(args[0], int | np.integer | tuple)
    has_arrays = bool(args or first in kwargs) and not is_size
    if init is None or not of_arrays or has_arrays or not (foreign or is_size):
        check_arguments(kind.__name__, kind.__init__, args, kwargs)
        return
    try:
        sizes = args[0] if len(args) == 1 and isinstance(args[0], tuple) else args
        inspect.signature(init).bind(*sizes, **kwargs)
        arguments = [*map(shown, sizes), *(f"{k}={shown(v)}" for k, v in kwargs.items())]
    except TypeError:
        arguments = required_arguments(init)
    got = f"{first} is {shown(args[0])}" if is_size else f"there is no {' and no '.join(foreign)}"
    message = (
        f"{kind.__name__}: {got}; expected arrays. A layer with initial values is "
        f"{kind.__name__}.init({', '.join(arguments)})."
    )
    raise TypeError(message)


def replaced_in_layers(old: Mapping[str, Array], new: Mapping[str, Array]) -> None:
    """Let all layers that hold an `old` array hold the `new` one, as if it had been written."""
    by_id = {id(old[name]): a for name, a in new.items()}
    for variables in [v for ref in _instances.valuerefs() if (v := ref()) is not None]:
        for name, a in variables.params.items():
            if id(a) in by_id:
                variables.params[name] = by_id[id(a)]
                variables.version += 1


class VariablesView(MutableMapping[str, Array]):
    """A flat, writable view of the variables of one or more layers, with dotted names.

    Tied parameters are one entry, under the first of their names; the other names can be read and
    written, but are not listed.
    """

    def __init__(self, all_variables: Mapping[str, Variables], kind: str, ties: Any = None) -> None:
        self._all_variables, self._kind = all_variables, kind  # by prefix
        self._ties = ties  # of `layers.ties`

    def _find(self, name: str) -> tuple[dict[str, Array], str]:
        prefix, _, key = name.rpartition(".") if isinstance(name, str) else ("", "", name)
        variables = self._all_variables.get(prefix)
        arrays = {} if variables is None else getattr(variables, self._kind)
        if key not in arrays:
            message = f"no {name!r} in {self._kind}; there are {', '.join(self) or 'none'}"
            raise KeyError(message)
        return arrays, key

    def __getitem__(self, name: str) -> Array:
        arrays, key = self._find(name)
        return arrays[key]

    def __setitem__(self, name: str, value: Array) -> None:
        arrays, key = self._find(name)
        check_variable(self._kind, name, value, self._kind)
        check_shape(self._kind, name, value, arrays[key])
        value = as_plain(value)
        rows = self._ties.rows() if self._ties is not None and self._kind == "params" else ()
        if value is arrays[key]:  # as after `params[name] -= ...`: written in place
            self._all_variables[name.rpartition(".")[0]].version += 1
            return
        arrays[key] = value
        for row in rows:
            if name == row.name:  # the first one holds the array, the others are views of it
                row.first_variables.params[row.first_key] = value.T if row.transposed else value
        if rows and self._ties is not None:
            self._ties.synchronize()
        settings_changed()

    def updated(self, new: Mapping[str, Array], *, in_place: bool) -> None:
        """Replace arrays after an update; `in_place`: the others were written in place."""
        for name, value in new.items():
            arrays, key = self._find(name)
            check_shape(self._kind, name, value, arrays[key])
            arrays[key] = value
        if new and self._ties is not None and self._ties.rows():
            self._ties.synchronize()
        if in_place:
            for variables in self._all_variables.values():
                variables.version += 1

    def __delitem__(self, name: str) -> None:
        message = f"cannot delete {name!r}: the layers need all their {self._kind}."
        raise TypeError(message)

    def __iter__(self) -> Iterator[str]:
        return iter(self.copy())

    def copy(self) -> dict[str, Array]:
        """Return a snapshot: the arrays by name, in a plain dict."""
        arrays = self.with_aliases()
        for row in self._ties.rows() if self._ties is not None else ():
            arrays.pop(row.name, None)
        return arrays

    def with_aliases(self) -> dict[str, Array]:
        """Return the same with tied parameters under all of their names."""
        return {
            (f"{prefix}.{key}" if prefix else key): a
            for prefix, variables in self._all_variables.items()
            for key, a in getattr(variables, self._kind).items()
        }

    def __len__(self) -> int:
        if self._ties is not None and self._ties.rows():
            return len(self.copy())
        return sum(len(getattr(v, self._kind)) for v in self._all_variables.values())

    def __repr__(self) -> str:
        rows = (f"{k!r}: {dtype_name(a.dtype)}{tuple(a.shape)}" for k, a in self.copy().items())
        return "{" + ", ".join(rows) + "}"


class Slots:
    """The dict and key of each variable of a network, looked up once, for use in every step."""

    def __init__(self, view: VariablesView | None = None) -> None:
        self._slots = [] if view is None else [(name, *view._find(name)) for name in view]

    def copy(self) -> dict[str, Array]:
        """Return the arrays by name."""
        return {name: arrays[key] for name, arrays, key in self._slots}

    def put(self, new: Mapping[str, Array]) -> None:
        """Replace all variables by `new` arrays of the same shapes."""
        for name, arrays, key in self._slots:
            arrays[key] = new[name]


def same(arrays: Mapping[str, Array], others: Mapping[str, Array]) -> bool:
    """Whether `arrays` are, name by name, the very objects in `others`."""
    return all(map(operator.is_, arrays.values(), map(others.get, arrays)))
