"""Where layers and losses keep their arrays, and how these are reached by name and attribute."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any

from xplayers.arrays.namespaces import (
    Array,
    as_plain,
    check_floating,
    check_off_tape,
    check_real,
    dtype_is_half,
    dtype_name,
    is_floating,
    is_half,
    move,
    namespace,
)
from xplayers.arrays.packing import packed, unpacked
from xplayers.arrays.writing import owner

_changes = [0]


def epoch() -> int:
    """Return a number that is another one after a setting of a layer or loss has changed.

    Settings are attributes, and which arrays there are. What is compiled was made from them, and
    asks before it is used whether it has to look anew.
    """
    return _changes[0]


def settings_changed() -> None:
    """Say that a setting has changed."""
    _changes[0] += 1


# All stores, by their id: arrays of two may share memory though no container has both.
_living: weakref.WeakValueDictionary[int, Store] = weakref.WeakValueDictionary()


def shared_outside(arrays: Iterable[Array], stores: Iterable[Store]) -> bool:
    """Whether an array of a layer that is not one of `stores` lies in the memory of `arrays`."""
    owners, inside = set(map(owner, arrays)), set(map(id, stores))
    others = [store for ref in _living.valuerefs() if (store := ref()) is not None]
    return any(
        owner(a) in owners
        for store in others if id(store) not in inside
        for held in (store.params, store.buffers) for a in list(held.values())
    )  # fmt: skip


class Store:
    """The arrays of one layer. Several containers may share it; they then share the parameters."""

    __slots__ = ("__weakref__", "buffers", "fresh", "grads", "params", "placed", "version")

    def __init__(self) -> None:
        _living[id(self)] = self
        self.params: dict[str, Array] = {}
        self.buffers: dict[str, Array] = {}
        self.grads: dict[str, Array] = {}
        self.placed = True  # False: host values that will follow the first input
        self.fresh = True  # the next backward starts the gradients afresh
        self.version = 0  # how often parameters have been written over

    def __getstate__(self) -> dict[str, Any]:
        return {name: packed(getattr(self, name)) for name in self.__slots__[1:]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        _living[id(self)] = self
        for name, value in state.items():
            setattr(self, name, unpacked(value))

    def moved(self, *, dtype: Any = None, **where: Any) -> tuple[dict, dict]:
        """Return parameters and buffers moved; only floating-point ones change their dtype."""
        params = {name: move(a, dtype=dtype, **where) for name, a in self.params.items()}
        # Statistics and weights of losses stay in at least float32.
        like = where.get("like")
        to_half = is_half(like) if dtype is None and like is not None else dtype_is_half(dtype)
        wide = "float32" if to_half else dtype
        buffers = {
            name: move(a, dtype=wide if is_floating(a) else None, **where)
            for name, a in self.buffers.items()
        }
        return params, buffers

    def take(self, params: Mapping[str, Array], buffers: Mapping[str, Array]) -> None:
        """Keep what `moved` has returned."""
        self.params.update(params)
        self.buffers.update(buffers)
        self.placed = True
        settings_changed()


class Parameter:
    """A parameter of a layer, declared in its class: ``W = Parameter()``."""

    kind = "params"

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, layer: Any, owner: type | None = None) -> Any:
        return self if layer is None else getattr(layer._store, self.kind).get(self.name)

    def __set__(self, layer: Any, value: Any) -> None:
        arrays = getattr(layer._store, self.kind)
        if value is None:
            if self.name in arrays:
                message = f"{type(layer).__name__}: {self.name} cannot become None."
                raise TypeError(message)
            return  # a parameter that this layer goes without, as a convolution without b
        check_kept(type(layer).__name__, self.name, value, self.kind)
        if self.name in arrays:
            check_shape(self.name, value, arrays[self.name])
        arrays[self.name] = as_plain(value)
        settings_changed()


class Buffer(Parameter):
    """An array that a layer keeps but does not learn, as running statistics."""

    kind = "buffers"


class Gradient:
    """The gradient of a parameter by attribute, declared in its class: ``dW = Gradient()``."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name.removeprefix("d")

    def __get__(self, layer: Any, owner: type | None = None) -> Any:
        return self if layer is None else layer._store.grads.get(self.name)


def check_kept(owner: str, name: str, value: Any, kind: str) -> None:
    """Check that `value` is an array that a layer can keep."""
    namespace(value, owner, name)
    check_off_tape(owner, name, value)
    if kind == "params":
        check_floating(owner, name, value)
    check_real(owner, name, value)


def check_shape(name: str, value: Array, old: Array) -> None:
    """Check that `value` may take the place of `old`."""
    if value.shape != old.shape:
        message = f"{name} has shape {tuple(old.shape)}; got {tuple(value.shape)}."
        raise ValueError(message)


class Live(MutableMapping[str, Array]):
    """A flat view of the arrays of one or many layers; what is written goes to the layers.

    Parameters that are tied are one, under the first of their names; the others can be read and
    written.
    """

    def __init__(self, stores: Mapping[str, Store], kind: str, ties: Any = None) -> None:
        self._stores, self._kind = stores, kind  # prefix -> store
        self._ties = ties  # as in `layers.ties`

    def _find(self, name: str) -> tuple[dict[str, Array], str]:
        prefix, _, key = name.rpartition(".") if isinstance(name, str) else ("", "", name)
        arrays = getattr(self._stores[prefix], self._kind) if prefix in self._stores else {}
        if key not in arrays:
            message = f"no {name!r} in {self._kind}; there are {', '.join(self) or 'none'}"
            raise KeyError(message)
        return arrays, key

    def __getitem__(self, name: str) -> Array:
        arrays, key = self._find(name)
        return arrays[key]

    def __setitem__(self, name: str, value: Array) -> None:
        arrays, key = self._find(name)
        check_kept(self._kind, name, value, self._kind)
        check_shape(name, value, arrays[key])
        value = as_plain(value)
        rows = self._ties.rows() if self._ties is not None and self._kind == "params" else ()
        if value is arrays[key]:  # as after `params[name] -= ...`: it has been written over
            self._stores[name.rpartition(".")[0]].version += 1
            return
        arrays[key] = value
        for row in rows:
            if name == row.name:  # the first one has the array, the others follow it
                row.first_store.params[row.first_key] = value.T if row.transposed else value
        if rows and self._ties is not None:
            self._ties.follow()
        settings_changed()

    def updated(self, new: Mapping[str, Array], *, in_place: bool) -> None:
        """Take the `new` arrays of an update; `in_place`: others have been written over."""
        for name, value in new.items():
            arrays, key = self._find(name)
            check_shape(name, value, arrays[key])
            arrays[key] = value
        if new and self._ties is not None and self._ties.rows():
            self._ties.follow()
        if in_place:
            for store in self._stores.values():
                store.version += 1

    def __delitem__(self, name: str) -> None:
        message = f"cannot delete {name!r}: the layers need all their {self._kind}."
        raise TypeError(message)

    def __iter__(self) -> Iterator[str]:
        return iter(self.copy())

    def copy(self) -> dict[str, Array]:
        """Return the arrays by name as a plain dict, which does not follow the layers."""
        arrays = self.every()
        for row in self._ties.rows() if self._ties is not None else ():
            arrays.pop(row.name, None)
        return arrays

    def every(self) -> dict[str, Array]:
        """Return the arrays by every name, where some are tied under several."""
        return {
            (f"{prefix}.{key}" if prefix else key): a
            for prefix, store in self._stores.items()
            for key, a in getattr(store, self._kind).items()
        }

    def __len__(self) -> int:
        if self._ties is not None and self._ties.rows():
            return len(self.copy())
        return sum(len(getattr(store, self._kind)) for store in self._stores.values())

    def __repr__(self) -> str:
        rows = (f"{k!r}: {dtype_name(a.dtype)}{tuple(a.shape)}" for k, a in self.copy().items())
        return "{" + ", ".join(rows) + "}"


class Located:
    """Where the arrays of a network are, found once: for what asks for them in every step."""

    def __init__(self, live: Live | None = None) -> None:
        self._places = [] if live is None else [(name, *live._find(name)) for name in live]

    def copy(self) -> dict[str, Array]:
        """Return the arrays by name."""
        return {name: arrays[key] for name, arrays, key in self._places}

    def hold(self, arrays: Mapping[str, Array]) -> bool:
        """Whether these are the arrays, the very objects."""
        return len(arrays) == len(self._places) and all(
            held[key] is arrays.get(name) for name, held, key in self._places
        )

    def put(self, new: Mapping[str, Array]) -> None:
        """Take other arrays, of the same shapes, for all of them."""
        for name, arrays, key in self._places:
            arrays[key] = new[name]
