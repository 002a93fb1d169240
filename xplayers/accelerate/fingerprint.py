"""What a compiled or replayed step was made of: it is valid only while that is in place.

A step is made once, from a network, a loss, an optimizer and functions of people's own, and people
change these afterwards. A `Fingerprint` says what a thing is, down to the values of its attributes,
and holds each object that it knows by its identity, so that no other can come to have that.
"""

from __future__ import annotations

import enum
import functools
import operator
import types
from typing import Any

import numpy as np

from xplayers.accelerate.replay.recording import StandIn
from xplayers.layers.base import Module, Observed
from xplayers.layers.containers import Container
from xplayers.layers.variables import epoch

LARGEST = 1 << 20  # bytes of an array whose values are compared in each step
MOST = 5_000  # parts of one value; what has more is not looked through

_VALUES = (bool, int, complex, str, bytes, type(None), type(...), range)
# What is the same as long as it is the same object.
_OPAQUE = type, types.ModuleType, types.BuiltinFunctionType, np.ufunc, enum.Enum
# What the code of layers and containers alone changes.
_SHELL = frozenset(("_store", "_stores", "_pending", "_ties"))
_CONTAINER = frozenset(
    ("_params", "_buffers", "_grads", "_reuses_buffers", "_lowest", "integer_input")
)


class Fingerprint:
    """What a value is, and all that it is made of.

    Attributes
    ----------
    key : object
        Equal to the key of another fingerprint if both are of the same thing.
    watched : list of tuple
        Parts that may change without an attribute of a layer being set (lists, arrays, objects of
        classes that are not known here), with their keys.
    proved : bool
        Whether all parts could be seen.
    has_traces : bool
        Whether a stand-in of a recording is among them.
    """

    def __init__(self, value: Any, *, watch: bool = True) -> None:
        self.watched: list[tuple[Any, Any]] = []
        self.proved, self.has_traces = True, False
        self._watch = watch
        self._held: list[Any] = []  # what is known by its id, and must not die
        self._order: dict[int, int] = {}  # of what contains other things, by id
        self._inside = 0  # how many mutable things surround the one that is looked at
        self._inside_function = 0
        self.key = self._of(value)

    @property
    def holds(self) -> bool:
        """Whether the watched parts are what they were."""
        return all(Fingerprint(value, watch=False).key == key for value, key in self.watched)

    def _of(self, value: Any) -> Any:
        kind = type(value)
        if kind is float:
            return kind, value.hex()  # which tells -0.0 from 0.0, and knows one NaN
        if kind in _VALUES:
            return kind, value
        if isinstance(value, np.generic):
            return kind, value.tobytes()
        if isinstance(value, tuple | frozenset):
            return kind, tuple(map(self._of, value))
        # (Of a source of random numbers the next ones differ, and so do two recordings.)
        if isinstance(value, (*_OPAQUE, np.dtype)) or kind.__module__.startswith("numpy.random"):
            return self._identity(value)
        if len(self._order) > MOST or (self._inside_function and isinstance(value, Observed)):
            self.proved = False  # a function may read parameters, which every step changes
            return id(value)
        if id(value) in self._order:
            return "again", self._order[id(value)]
        self._order[id(value)] = len(self._order)
        self._held.append(value)
        if isinstance(value, Module):
            return self._of_layer(value)
        if isinstance(value, StandIn):
            self.has_traces, self.proved = True, False
            return id(value)
        wrapped = getattr(value, "__wrapped__", None)
        if wrapped is not None and callable(value):  # by a decorator: the same code
            return self._identity(value), self._of(wrapped)
        if isinstance(value, functools.partial):
            return kind, *map(self._of, (value.func, value.args)), self._items(value.keywords)
        if isinstance(value, types.MethodType):
            return kind, self._of(value.__func__), self._of(value.__self__)
        if isinstance(value, types.FunctionType) and not _uses(value):
            return self._of_function(value)
        parameters = getattr(kind, "__dataclass_params__", None)
        if parameters is not None and parameters.frozen:
            return kind, self._items(vars(value))
        return self._of_mutable(value)

    def _identity(self, value: Any) -> int:
        self._held.append(value)
        return id(value)

    def _items(self, attributes: dict[str, Any]) -> Any:
        return tuple([(name, self._of(v)) for name, v in attributes.items()])

    def _of_mutable(self, value: Any) -> Any:
        self._inside += 1
        if isinstance(value, types.FunctionType):
            key = self._of_function(value)
        elif hasattr(value, "shape") and hasattr(value, "dtype"):
            key = self._of_array(value)
        elif isinstance(value, dict):
            key = type(value), id(value), self._items(value)
        elif isinstance(value, list | set):
            key = type(value), id(value), tuple(map(self._of, value))
        elif hasattr(value, "__dict__") and not hasattr(type(value), "__next__"):
            key = type(value), id(value), self._items(vars(value))
        else:
            self.proved, key = False, id(value)
        if self._inside_function and not isinstance(value, types.FunctionType | np.ndarray):
            self.proved = False  # a function may leave something there, as it is called
        self._inside -= 1
        if self._watch and not self._inside:  # the outermost one says all
            self.watched.append((value, Fingerprint(value, watch=False).key))
        return key

    def _of_function(self, function: types.FunctionType) -> Any:
        """Functions of one piece of code are the same if what they use beside arguments is."""
        self._inside_function += 1
        inside = [_contents(cell) for cell in function.__closure__ or ()]
        key = (
            self._identity(function.__code__), self._identity(function.__globals__),
            tuple(map(self._of, inside)), tuple(map(self._of, _globals(function).values())),
            self._of(function.__defaults__), self._items(function.__kwdefaults__ or {}),
        )  # fmt: skip
        self._inside_function -= 1
        return key

    def _of_array(self, a: Any) -> Any:
        if isinstance(a, np.ndarray):
            if a.nbytes <= LARGEST and a.dtype != object:
                return id(a), a.shape, a.dtype.str, a.tobytes()
            # What may have been computed from a large one is not known to be still right.
            self.proved = self.proved and not a.flags.writeable
            return id(a)
        return id(a), getattr(a, "_version", None)  # which PyTorch counts up

    def _of_layer(self, layer: Module) -> Any:
        ours = type(layer).__module__.partition(".")[0] == __name__.partition(".")[0]
        contains = isinstance(layer, Container)
        skipped = _SHELL | _CONTAINER if contains else _SHELL
        parts: list[Any] = [id(layer)]
        parts += [(prefix, self._identity(store)) for prefix, store in layer._stores.items()]
        for name, value in vars(layer).items():
            if contains and name == "_parts":
                parts += [(part.name, self._of(part.layer)) for part in value]
            elif name not in skipped and not (ours and name[0] == "_"):
                parts.append((name, self._of(value)))
        return tuple(parts)


def _globals(function: types.FunctionType) -> dict[str, Any]:
    """Return the values (no functions, classes or modules) that it finds by their names."""
    found = {k: function.__globals__.get(k) for k in function.__code__.co_names}
    code = types.FunctionType | types.ModuleType | types.BuiltinFunctionType | type
    return {
        k: v for k, v in found.items()
        if v is not None and not isinstance(v, code) and not hasattr(v, "__wrapped__")
    }  # fmt: skip


def _uses(function: types.FunctionType) -> bool:
    """Whether it uses more than its arguments, which could change."""
    return bool(function.__closure__ or function.__kwdefaults__ or _globals(function))


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty yet
        return None


class Sources:
    """What a `TrainStep` is made of, asked before each step.

    Attributes
    ----------
    numbers : dict of str to float
        The numbers of the optimizer. They are arguments of what is compiled or replayed.
    pattern : tuple
        Which of them are 0, and so no arguments: what is multiplied by 0 is left out.
    proved, has_traces : bool
        As of a `Fingerprint`.
    """

    def __init__(self) -> None:
        self.numbers: dict[str, float] = {}
        self.pattern: tuple[Any, ...] = ()
        self.proved, self.has_traces = True, False
        self._fingerprint: Fingerprint | None = None
        self._epoch = -1
        self._optimizer: Any = None
        self._values: list[Any] = []  # of the attributes of the optimizer
        self._state_at = 0  # which of them is the state, which changes in each step

    def hold(self, step: Any) -> bool:
        """Whether all is what it was when this was asked last; `numbers` may differ."""
        optimizer, seen = step.optimizer, self._fingerprint
        if seen is not None and optimizer is self._optimizer and self._epoch == epoch():
            attributes = vars(optimizer)
            self._values[self._state_at] = optimizer.state
            alike = len(attributes) == len(self._values) and all(
                map(operator.is_, attributes.values(), self._values)
            )
            if alike and (not seen.watched or seen.holds):
                return True
        fingerprint = self._look(step)
        return seen is not None and seen.key == fingerprint.key

    def _look(self, step: Any) -> Fingerprint:
        optimizer = step.optimizer
        attributes = vars(optimizer)
        self._epoch, self._optimizer = epoch(), optimizer
        self._values, self._state_at = list(attributes.values()), list(attributes).index("state")
        numbers = optimizer._numbers()
        self.numbers = {k: v for k, v in numbers.items() if v != 0}
        self.pattern = tuple([(k, type(v), repr(v) if v == 0 else "") for k, v in numbers.items()])
        own = [(k, v) for k, v in vars(step).items() if k[0] != "_" and k != "optimizer"]
        options = [
            (k, v) for k, v in attributes.items()
            if k not in numbers and k != "state" and (k != "lr" or callable(v))
        ]  # fmt: skip
        ties = [tie[:3] for tie in step.net._ties.rows()]
        fingerprint = Fingerprint((*own, *ties, type(optimizer), id(optimizer), *options))
        self._fingerprint = fingerprint
        self.proved, self.has_traces = fingerprint.proved, fingerprint.has_traces
        return fingerprint
