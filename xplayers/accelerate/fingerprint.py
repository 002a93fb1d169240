"""Dependencies of compiled or replayed steps, which are valid only while these are unchanged.

A step is compiled from a network, a loss, an optimizer and user functions, which may be modified
afterwards. A `Fingerprint` identifies an object, down to the values of its attributes, and holds a
reference to each object that it identifies by id, so that the id is not reused.
"""

from __future__ import annotations

import enum
import functools
import operator
import types
from typing import Any

import numpy as np

from xplayers.accelerate.replay.recording import Tracer
from xplayers.layers.base import Module, Observed
from xplayers.layers.containers import Container
from xplayers.layers.variables import epoch

LARGEST = 1 << 20  # bytes of an array whose values are compared in each step
MOST = 5_000  # maximum number of parts of a value; larger ones are not examined

_VALUES = (bool, int, complex, str, bytes, type(None), type(...), range)
# Objects compared by identity.
_OPAQUE = type, types.ModuleType, types.BuiltinFunctionType, np.ufunc, enum.Enum
# Attributes that only the code of layers and containers changes.
_SHELL = frozenset(("_variables", "_all_variables", "_pending", "_ties"))
_CONTAINER = frozenset(
    ("_params", "_buffers", "_grads", "_trainable", "_reuses_buffers", "_lowest", "integer_input")
)


class Fingerprint:
    """The identity of a value and of all its parts: those of the same value have equal keys."""

    def __init__(self, value: Any, *, watch: bool = True) -> None:
        # Parts that may change without an attribute of a layer being set (lists, arrays, objects of
        # unknown classes), with their keys.
        self.watched: list[tuple[Any, Any]] = []
        self.proved = True  # whether all parts could be examined
        self.has_traces = False  # whether a tracer of a recording is among them
        self._watch = watch
        self._references: list[Any] = []  # objects identified by id, kept alive
        self._order: dict[int, int] = {}  # order of visited compound objects, by id
        self._inside = 0  # number of enclosing mutable objects
        self._inside_function = 0
        self.key = self._of(value)

    @property
    def holds(self) -> bool:
        """Whether the watched parts are unchanged."""
        return all(Fingerprint(value, watch=False).key == key for value, key in self.watched)

    def _of(self, value: Any) -> Any:
        kind = type(value)
        if kind is float:
            return kind, value.hex()  # distinguishes -0.0 from 0.0, and NaN equals NaN
        if kind in _VALUES:
            return kind, value
        if isinstance(value, np.generic):
            return kind, value.tobytes()
        if isinstance(value, tuple | frozenset):
            return kind, tuple(map(self._of, value))
        # (Random generators by identity: their next numbers differ, and so do two recordings.)
        if isinstance(value, (*_OPAQUE, np.dtype)) or kind.__module__.startswith("numpy.random"):
            return self._identity(value)
        if len(self._order) > MOST or (self._inside_function and isinstance(value, Observed)):
            self.proved = False  # functions may read parameters, which every step changes
            return id(value)
        if id(value) in self._order:
            return "again", self._order[id(value)]
        self._order[id(value)] = len(self._order)
        self._references.append(value)
        if isinstance(value, Module):
            return self._of_layer(value)
        if isinstance(value, Tracer):
            self.has_traces, self.proved = True, False
            return id(value)
        wrapped = getattr(value, "__wrapped__", None)
        if wrapped is not None and callable(value):  # decorated: the same code
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
        self._references.append(value)
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
            self.proved = False  # calling a function may modify it
        self._inside -= 1
        if self._watch and not self._inside:  # the outermost one includes the others
            self.watched.append((value, Fingerprint(value, watch=False).key))
        return key

    def _of_function(self, function: types.FunctionType) -> Any:
        """Functions with the same code are equal if their closures, globals and defaults are."""
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
            # Large writable arrays are not compared.
            self.proved = self.proved and not a.flags.writeable
            return id(a)
        return id(a), getattr(a, "_version", None)  # PyTorch counts in-place writes

    def _of_layer(self, layer: Module) -> Any:
        of_package = type(layer).__module__.partition(".")[0] == __name__.partition(".")[0]
        is_container = isinstance(layer, Container)
        skipped = _SHELL | _CONTAINER if is_container else _SHELL
        parts: list[Any] = [id(layer)]
        parts += [
            (prefix, self._identity(variables))
            for prefix, variables in layer._all_variables.items()
        ]
        for name, value in vars(layer).items():
            if is_container and name == "_parts":
                parts += [(part.name, self._of(part.layer)) for part in value]
            elif name not in skipped and not (of_package and name[0] == "_"):
                parts.append((name, self._of(value)))
        return tuple(parts)


def _globals(function: types.FunctionType) -> dict[str, Any]:
    """Return the global values (no functions, classes or modules) that it refers to."""
    values = {k: function.__globals__.get(k) for k in function.__code__.co_names}
    code = types.FunctionType | types.ModuleType | types.BuiltinFunctionType | type
    return {
        k: v for k, v in values.items()
        if v is not None and not isinstance(v, code) and not hasattr(v, "__wrapped__")
    }  # fmt: skip


def _uses(function: types.FunctionType) -> bool:
    """Whether it depends on more than its arguments."""
    return bool(function.__closure__ or function.__kwdefaults__ or _globals(function))


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


class Sources:
    """The dependencies of a `TrainStep`, checked before each step."""

    def __init__(self) -> None:
        # The hyperparameters of the optimizer, arguments of compiled and replayed steps; which of
        # them are 0, and so constants: terms multiplied by 0 are left out; and their values.
        self.numbers: dict[str, float] = {}
        self.pattern = self.constants = ""  # of these: strings, whose hashes Python keeps
        self.proved, self.has_traces = True, False  # as in `Fingerprint`
        self._fingerprint: Fingerprint | None = None
        self._epoch = -1
        self._optimizer: Any = None
        self._values: list[Any] = []  # of the attributes of the optimizer
        self._state_index = 0  # of the state among them, which changes in each step

    def hold(self, step: Any) -> bool:
        """Whether all dependencies are unchanged since the last call; `numbers` may differ."""
        optimizer, last = step.optimizer, self._fingerprint
        if last is not None and optimizer is self._optimizer and self._epoch == epoch():
            attributes = vars(optimizer)
            self._values[self._state_index] = optimizer.state
            same = len(attributes) == len(self._values) and all(
                map(operator.is_, attributes.values(), self._values)
            )
            if same and (not last.watched or last.holds):
                return True
        fingerprint = self._update(step)
        return last is not None and last.key == fingerprint.key

    def _update(self, step: Any) -> Fingerprint:
        optimizer = step.optimizer
        attributes = vars(optimizer)
        self._epoch, self._optimizer = epoch(), optimizer
        self._values = list(attributes.values())
        self._state_index = list(attributes).index("state")
        numbers = optimizer._numbers()
        self.numbers = {k: v for k, v in numbers.items() if v != 0}
        self.pattern = repr([(k, type(v), v if v == 0 else None) for k, v in numbers.items()])
        self.constants = repr(self.numbers)
        own = [
            (k, v) for k, v in vars(step).items() if k[0] != "_" and k not in ("optimizer", "group")
        ]
        options = [
            (k, v) for k, v in attributes.items()
            if k not in numbers and k != "state" and (k != "lr" or callable(v))
        ]  # fmt: skip
        ties = [tie[:3] for tie in step.net._ties.rows()]
        fingerprint = Fingerprint((*own, *ties, type(optimizer), id(optimizer), *options))
        self._fingerprint = fingerprint
        self.proved, self.has_traces = fingerprint.proved, fingerprint.has_traces
        return fingerprint
