"""Which arrays of another framework are which of ours: by name or by order, all or none."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xplayers._checks import instance
from xplayers.arrays.namespaces import Array, namespace
from xplayers.arrays.transfer import to_numpy
from xplayers.layers.base import Layer
from xplayers.layers.containers import Container
from xplayers.saving.foreign import foreign_arrays
from xplayers.saving.network import check_layer, converted_like, put

Arrays = tuple[np.ndarray, ...]
_MOST = 20  # names that an error lists of one kind


class Relation(NamedTuple):
    """Arrays of a module of another framework, and those of a layer that are made of them.

    Parameters
    ----------
    theirs, ours : tuple of str
        Their names in the module, and in the layer.
    take : callable
        Makes ours of theirs.
    give : callable
        Makes theirs of ours.
    optional : bool
        Whether theirs may be missing, as they say nothing that ours need.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    take: Callable[..., Arrays]
    give: Callable[..., Arrays]
    optional: bool = False


def same(theirs: str, ours: str) -> Relation:
    """Return the relation of an array that is the same in both."""
    return Relation((theirs,), (ours,), lambda a: (a,), lambda a: (a,))


def transposed(theirs: str, ours: str, axes: Sequence[int] = (1, 0)) -> Relation:
    """Return the relation of an array whose axes are in another order: ours are theirs' `axes`."""
    back = np.argsort(axes)
    return Relation(
        (theirs,), (ours,), lambda a: (a.transpose(axes),), lambda a: (a.transpose(back),)
    )


def packed(theirs: str, ours: tuple[str, ...], *, is_transposed: bool = False) -> Relation:
    """Return the relation of arrays that are side by side in one, which may be transposed."""

    def take(a: np.ndarray) -> Arrays:
        return tuple(np.split(a.T if is_transposed else a, len(ours), axis=-1))

    def give(*arrays: np.ndarray) -> Arrays:
        whole = np.concatenate(arrays, axis=-1)
        return (whole.T if is_transposed else whole,)

    return Relation((theirs,), ours, take, give)


class Leaf(NamedTuple):
    """A layer with arrays of its own, its name in the network, and their relations."""

    name: str
    layer: Layer
    relations: list[Relation]

    @property
    def suffixes(self) -> list[str]:
        """The names of theirs, within their module."""
        return [name for r in self.relations for name in r.theirs]


class Form:
    """How a framework names and lays out the arrays of its modules.

    Parameters
    ----------
    framework : str
        Its name, for errors.
    rules : mapping of type to callable
        ``rule(layer) -> list of Relation``, by the type of our layer.
    spelled, normal : callable
        ``spelled(prefix, suffix)`` is the key of an array in its files, of which ``normal(key)``
        makes ``prefix.suffix``; None for what has no meaning here.
    """

    def __init__(
        self,
        framework: str,
        rules: Mapping[type[Layer], Callable[..., list[Relation]]],
        spelled: Callable[[str, str], str] = lambda prefix, suffix: joined(prefix, suffix),
        normal: Callable[[str], str | None] = lambda key: key,
    ) -> None:
        self.framework, self.rules, self.spelled, self.normal = framework, rules, spelled, normal

    def leaves(self, owner: str, net: Layer) -> list[Leaf]:
        """Return the layers of a network that have arrays with a meaning there, each once."""
        leaves, seen = [], set()
        for name, layer in layers_of(net):
            if id(layer) in seen or not (layer.params or type(layer) in self.rules):
                continue
            seen.add(id(layer))
            rule = next((self.rules[k] for k in type(layer).__mro__ if k in self.rules), None)
            if rule is None:
                message = (
                    f"{owner}: {layer} (part {name!r}) has no counterpart in {self.framework}. Set "
                    "its arrays by net.params[name] = array."
                )
                raise TypeError(message)
            leaves.append(Leaf(name, layer, rule(layer)))
        return leaves


def joined(prefix: str, suffix: str) -> str:
    """Return a dotted name."""
    return f"{prefix}.{suffix}" if prefix else suffix


def layers_of(layer: Layer, name: str = "") -> Iterator[tuple[str, Layer]]:
    """Yield the layers that a network is made of, by name and in order."""
    if isinstance(layer, Container):
        for part in layer._parts:
            yield from layers_of(part.layer, joined(name, part.name))
    else:
        yield name, layer


def given(owner: str, weights: Any) -> tuple[dict[str, Any], bool]:
    """Return named arrays, and whether their order says something, of a file or a mapping."""
    if isinstance(weights, str | os.PathLike):
        arrays = foreign_arrays(owner, weights)
        return dict(arrays), not os.fspath(weights).lower().endswith(".safetensors")
    expected = "a mapping of arrays by name, or the path of a file"
    weights = instance(owner, "weights", weights, Mapping, expected)
    for name in weights:
        instance(owner, "a name", name, str, "a str")
    return dict(weights), True


def renamed(owner: str, leaves: Sequence[Leaf], names: Mapping[str, str] | None) -> list[str]:
    """Return their module of each of our layers: `names` are of layers or of containers."""
    expected = "a mapping of our names to theirs"
    names = dict(instance(owner, "names", names or {}, Mapping, expected))
    for ours, theirs in names.items():
        for name in (ours, theirs):
            instance(owner, "a name of names", name, str, "a str")
        if ours and not any(f"{leaf.name}.".startswith(f"{ours}.") for leaf in leaves):
            parts = ", ".join(leaf.name for leaf in leaves[:_MOST])
            message = f"{owner}: names has {ours!r}, which is no part; there are {parts}."
            raise ValueError(message)
    return [_renamed(leaf.name, names) for leaf in leaves]


def _renamed(name: str, names: Mapping[str, str]) -> str:
    fit = [ours for ours in names if not ours or f"{name}.".startswith(f"{ours}.")]
    if not fit:
        return name
    ours = max(fit, key=len)
    return joined(names[ours], name[len(ours) :].lstrip(".")).rstrip(".")


def load(
    owner: str,
    net: Layer,
    weights: Mapping[str, Any],
    form: Form,
    names: Mapping[str, str] | None,
    *,
    ordered: bool,
) -> None:
    """Set the arrays of a network to those of another framework; ValueError lists what is amiss."""
    leaves = form.leaves(owner, net)
    keys = {n: key for key in weights if (n := form.normal(key)) is not None}
    prefixes = renamed(owner, leaves, names)
    if names is None and ordered:
        prefixes = _by_name_or_order(leaves, prefixes, keys)
    match = _Match(owner, net, form, {n: weights[key] for n, key in keys.items()})
    for leaf, prefix in zip(leaves, prefixes, strict=True):
        match.take(leaf, prefix)
    match.faults["unexpected"] = [key for n, key in keys.items() if n not in match.used]
    faults = [f"{what}: {_listed(rows)}" for what, rows in match.faults.items() if rows]
    if faults:
        message = (
            f"{owner}: the weights do not fit the network, and nothing is loaded; "
            f"{'; '.join(faults)}."
        )
        if names is None:
            message += " names={ours: theirs} says which module of theirs is which part of ours."
        raise ValueError(message)
    values = {name: to_numpy(a) for name, a in net.arrays.items()}
    put(net, converted_like(net, values | match.new))


def _by_name_or_order(
    leaves: Sequence[Leaf], prefixes: list[str], keys: Mapping[str, str]
) -> list[str]:
    """Return their module of each of ours: of the same names if these fit, else in order."""
    by_name, wanted = _wanted(leaves, prefixes), set(keys)
    if by_name == wanted:
        return prefixes
    in_order = _in_order(leaves, keys)
    # A name that both have, and that is no number, is no accident.
    contrary = any(
        ours != theirs and not ours.rpartition(".")[2].isdigit() and joined(ours, suffix) in keys
        for ours, theirs, leaf in zip(prefixes, in_order, leaves, strict=True)
        for suffix in leaf.suffixes
    )
    fit = _wanted(leaves, in_order) == wanted and not contrary
    return in_order if fit or not by_name & wanted else prefixes


def _wanted(leaves: Sequence[Leaf], prefixes: Sequence[str]) -> set[str]:
    """Return the names of all arrays of theirs."""
    return {
        joined(prefix, suffix)
        for leaf, prefix in zip(leaves, prefixes, strict=True)
        for suffix in leaf.suffixes
    }


def _in_order(leaves: Sequence[Leaf], keys: Mapping[str, str]) -> list[str]:
    """Return the modules in the order of their arrays; where one does not fit, our name."""
    left, prefixes = list(keys), []
    for leaf in leaves:
        modules = [
            left[0][: len(left[0]) - len(suffix)].rstrip(".")
            for suffix in leaf.suffixes
            if left and f".{left[0]}".endswith(f".{suffix}")
        ]
        prefixes.append(min(modules, key=len) if modules else leaf.name)
        taken = {joined(prefixes[-1], suffix) for suffix in leaf.suffixes}
        left = [key for key in left if key not in taken]
    return prefixes


class _Match:
    """What has been found among their arrays, and what is amiss."""

    def __init__(self, owner: str, net: Layer, form: Form, theirs: Mapping[str, Any]) -> None:
        self._owner, self._form, self._theirs = owner, form, theirs
        self._ties = {row.name: row for row in net._ties.rows()}
        self.new: dict[str, np.ndarray] = {}
        self.used: set[str] = set()
        self.faults: dict[str, list[str]] = {"missing": [], "unexpected": [], "not fit": []}

    def take(self, leaf: Leaf, prefix: str) -> None:
        """Take the arrays of one layer."""
        for relation in leaf.relations:
            names = [joined(prefix, suffix) for suffix in relation.theirs]
            spelled = [self._form.spelled(prefix, suffix) for suffix in relation.theirs]
            there = [name in self._theirs for name in names]
            self.used |= set(itertools.compress(names, there))
            ours = [joined(leaf.name, key) for key in relation.ours]
            tied = all(name in self._ties for name in ours)  # another layer has it
            if all(there):
                theirs = [self._values(name, self._theirs[name]) for name in names]
                faults = list(_misfits(leaf.layer, relation, spelled, theirs))
                if not faults:
                    faults = list(self._put(ours, relation.take(*theirs), spelled))
                self.faults["not fit"] += faults
            elif any(there) or not (relation.optional or tied):
                missing = [not here for here in there]
                self.faults["missing"] += itertools.compress(spelled, missing)

    def _values(self, name: str, a: Any) -> np.ndarray:
        namespace(a, self._owner, name)
        return to_numpy(a)

    def _put(self, names: Sequence[str], arrays: Arrays, spelled: Sequence[str]) -> Iterator[str]:
        """Keep arrays for ours; yield those that differ from what they are tied to."""
        for name, a in zip(names, arrays, strict=True):
            tie = self._ties.get(name)
            first = None if tie is None else self.new.get(tie.first)
            if tie is not None and first is not None and not np.array_equal(tie.of(first), a):
                yield f"{spelled[0]} is tied to {tie.first} in the network, and differs from it"
            self.new[name] = a


def _misfits(
    layer: Layer, relation: Relation, names: Sequence[str], theirs: Sequence[np.ndarray]
) -> Iterator[str]:
    """Yield what is amiss with the shapes and kinds of their arrays."""
    ours = [np.broadcast_to(np.int8(0), getattr(layer, name).shape) for name in relation.ours]
    for name, a, like in zip(names, theirs, relation.give(*ours), strict=True):
        if a.shape != like.shape:
            yield f"{name} has shape {a.shape}, expected {like.shape}"
        elif ours and a.dtype.kind not in "fV":
            yield f"{name} is {a.dtype}, expected floating-point values"


def _listed(rows: Sequence[str]) -> str:
    more = f" and {len(rows) - _MOST} more" if len(rows) > _MOST else ""
    return ", ".join(rows[:_MOST]) + more


def collected(
    owner: str, net: Layer, form: Form, names: Mapping[str, str] | None
) -> Iterator[tuple[str, np.ndarray, Array]]:
    """Yield the keys of another framework, the values, and an array of ours that they are of."""
    check_layer(owner, net)
    leaves = form.leaves(owner, net)
    for leaf, prefix in zip(leaves, renamed(owner, leaves, names), strict=True):
        like = next(iter(leaf.layer.params.values()))
        for relation in leaf.relations:
            ours = [to_numpy(getattr(leaf.layer, name)) for name in relation.ours]
            for suffix, a in zip(relation.theirs, relation.give(*ours), strict=True):
                yield form.spelled(prefix, suffix), a, like
