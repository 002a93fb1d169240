"""What a pure function of arrays does, written down while it does it.

The function gets tracers in the place of its arrays. A tracer holds the array, computes with it
as the library does, and adds every call to a list: the namespace that `xplayers` takes from it, the
operators and the views all lead there. What depends on a value (`float`, `bool`, an `if`) or is not
an operation of arrays cannot be written down, and raises.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from xplayers.accelerate.operators import Operators
from xplayers.accelerate.pytorch.plain import has_channels_last
from xplayers.arrays.namespaces import Array, Namespace, device, introduce, namespace
from xplayers.arrays.operation import tabulate
from xplayers.arrays.transfer import to_numpy

_NUMPY: Any = np
# What may return its argument because there is nothing to do.
_AS_IT_IS = ("astype", "asarray", "reshape", "squeeze", "broadcast_to", "positive", "real")
MOST = 20_000  # operations; a longer list takes seconds to compile


class NotRecordable(RuntimeError):
    """The function does something that a list of operations cannot say."""

    # no TypeError, of which torch makes "try the other operand"


class Register(int):
    """The number of a value in a recording: an input, a constant or a result."""


class Operation(NamedTuple):
    """One call. Where a value stands in `args` there is its `Register`."""

    name: str  # as in the standard, ``getitem``, ``elementwise`` or ``call``
    function: Callable[..., Any]
    args: tuple
    kwargs: dict[str, Any]
    results: tuple[Register, ...]
    writes: bool = False  # into the memory of its first argument, which is its result
    many: bool = False  # whether it returns a tuple or list of its results, which may be one


class ValueInfo(NamedTuple):
    """What a register holds, as far as the place of its memory is concerned."""

    root: int  # the register in whose memory it lies; its own number if it has its own
    number: bool  # a scalar of Python or NumPy, which has no memory
    shape: tuple[int, ...]
    dtype: Any  # of a number its type
    ordered: bool  # whether its elements lie in row-major order without gaps
    turned: bool = False  # whether those of its transpose do
    last: bool = False  # whether they lie so but for channels, which are last: images of PyTorch


class Recording:
    """The operations of one run, in order."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.infos: list[ValueInfo] = []
        self.inputs: list[Register] = []
        self.constants: dict[Register, Array] = {}
        self.numbers: dict[Register, Any] = {}  # what `item` has returned
        self._constant_of: dict[int, Register] = {}
        self._bits: dict[Register, bytes] = {}  # of constants when they were used

    def input(self, value: Array) -> Any:
        """Return the tracer for an argument of the function: an array or a number."""
        tracer = self.tracer(value)
        self.inputs.append(tracer.register)
        return tracer

    def call(self, name: str, function: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        """Call `function` with the values of `args`, and write that down."""
        if kwargs.get("out") is not None:
            message = f"{name} writes to an array"
            raise NotRecordable(message)
        results = function(*values(args), **values(kwargs))
        if results is NotImplemented:
            return NotImplemented
        many, known = isinstance(results, (tuple, list)), len(self.infos)
        if many and type(results) not in (tuple, list):
            message = f"{name} returns a {type(results).__name__}"
            raise NotRecordable(message)
        # A result that a body leaves out, as it always does, is None in each replay too.
        tracers = [
            self.tracer(None) if many and r is None else self._result(r, args, kwargs)
            for r in (results if many else (results,))
        ]
        if len(self.infos) == known:  # what came back are arguments themselves
            if name not in _AS_IT_IS:  # most likely written over
                message = f"{name} returns its argument"
                raise NotRecordable(message)
            return tracers[0]
        self.add(name, function, args, kwargs, tracers, many=many)
        return (
            type(results)([None if m.value is None else m for m in tracers]) if many else tracers[0]
        )

    def add(
        self,
        name: str,
        function: Callable[..., Any],
        args: tuple,
        kwargs: dict,
        tracers: list[Any],
        *,
        writes: bool = False,
        many: bool = False,
    ) -> None:
        """Write down one call."""
        if len(self.operations) >= MOST:
            message = f"more than {MOST} operations"
            raise NotRecordable(message)
        arguments, named = (mapped(self._reference, a) for a in (args, kwargs))
        if writes:
            self.numbers.clear()
        results = tuple([m.register for m in tracers])
        self.operations.append(Operation(name, function, arguments, named, results, writes, many))

    def _result(self, value: Any, args: tuple, kwargs: dict) -> Any:
        if isinstance(value, (bool, int, str)) or value is None:
            message = f"a {type(value).__name__} was computed from an array"
            raise NotRecordable(message)
        seen = list(instances(Tracer, (args, kwargs)))
        for s in seen:
            if s.value is value and not _is_number(value):
                return s
        root = next((s for s in seen if _share(s.value, value)), None)
        return self.tracer(value, root)

    def tracer(self, value: Any, view_of: Any = None) -> Any:
        """Return a tracer for `value`, which has memory of its own or is a view."""
        register = Register(len(self.infos))
        root = register if view_of is None else self.infos[view_of.register].root
        if _is_number(value) or value is None:
            self.infos.append(ValueInfo(root, True, (), type(value), True))
            return _class_of(_NUMPY)(self, register, value)
        shape, turned = tuple(value.shape), isinstance(value, np.ndarray) and value.flags.fnc
        ordered = is_ordered(value)
        last = not ordered and hasattr(value, "is_contiguous") and has_channels_last(value)
        self.infos.append(ValueInfo(root, False, shape, value.dtype, ordered, turned, last))
        return _class_of(namespace(value))(self, register, value)

    def _reference(self, arg: Any) -> Any:
        """Return what stands for `arg` in an operation: of an array its register."""
        if isinstance(arg, Tracer):
            if arg.recording is not self:
                message = "a value of another recording"
                raise NotRecordable(message)
            return arg.register
        if isinstance(arg, RecordingNamespace):
            return arg._real
        if hasattr(arg, "shape") and hasattr(arg, "dtype") and not isinstance(arg, type):
            if id(arg) not in self._constant_of:
                register = self.tracer(arg).register
                self._constant_of[id(arg)], self.constants[register] = register, arg
                self._bits[register] = to_numpy(arg).tobytes()
            register = self._constant_of[id(arg)]
            self._check_constant(register)
            return register
        return arg

    def _check_constant(self, register: Register) -> None:
        if to_numpy(self.constants[register]).tobytes() != self._bits[register]:
            message = "an array of the function's own has changed after it was used"
            raise NotRecordable(message)

    def finish(self) -> None:
        """Check that the constants are what they were."""
        for register in self.constants:
            self._check_constant(register)

    def before_write(self, to: Any) -> None:
        """Refuse to write to an input: the function is called again where it is not recordable."""
        if self.infos[to.register].root in self.inputs:
            message = "the function writes to its argument"
            raise NotRecordable(message)


class Tracer(Operators):
    """An array that writes down what is done with it. One subclass for each namespace."""

    xp: Any

    def __init__(self, recording: Recording, register: Register, value: Any) -> None:
        self.recording, self.register, self.value = recording, register, value

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return self.xp

    def __array_ufunc__(
        self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **kwargs: Any
    ) -> Any:
        """Take an operator of a NumPy array, or a function that was called as ``np.exp``."""
        if method != "__call__" or out is not None:
            message = f"{ufunc.__name__}.{method} writes to an array"
            raise NotRecordable(message)
        return self.recording.call(ufunc.__name__, ufunc, inputs, kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return self.recording.call(function.__name__, function, args, kwargs)

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        if name.startswith("__i") or (name.endswith("_") and not name.endswith("__")):
            message = f"{name} writes to an array"
            raise NotRecordable(message)
        recording = next(instances(Tracer, (args, kwargs))).recording
        return recording.call(name, function, args, kwargs or {})

    @property
    def shape(self) -> tuple[int, ...]:
        return getattr(self.value, "shape", ())

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def dtype(self) -> Any:
        return self.value.dtype

    @property
    def device(self) -> Any:
        return device(self.value)

    @property
    def T(self) -> Any:
        return self.recording.call("T", _t, (self,), {})

    @property
    def mT(self) -> Any:
        return self.recording.call("mT", _mt, (self,), {})

    def item(self) -> Any:
        """Return the tracer for the value of a 0-d array of the host, a Python number."""
        if not hasattr(self.value, "item"):
            return self
        number = self.recording.numbers.get(self.register)
        if number is None:
            number = self.recording.numbers[self.register] = self.recording.tracer(
                self.value.item()
            )
            self.recording.add("item", _item, (self,), {}, [number])
        return number

    def operate(self, name: str, function: Callable[..., Any], operands: tuple) -> Any:
        return self.recording.call(name, function, operands, {})

    def operate_in_place(self, name: str, function: Callable[..., Any], other: Any) -> Any:
        in_place = f"i{function.__name__.strip('_')}"
        if not hasattr(type(self.value), f"__{in_place}__"):  # the name gets a new value
            return self.operate(name, function, (self, other))
        self.recording.before_write(self)
        getattr(operator, in_place)(self.value, values(other))
        self.recording.add(name, function, (self, other), {}, [self], writes=True)
        return self

    def __getitem__(self, index: Any) -> Any:
        return self.recording.call("getitem", operator.getitem, (self, index), {})

    def __setitem__(self, index: Any, value: Any) -> None:
        self.recording.before_write(self)
        self.value[values(index)] = values(value)
        args = (self, index, value)
        self.recording.add("setitem", operator.setitem, args, {}, [self], writes=True)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        message = "the function looks at a value"
        raise NotRecordable(message)

    __bool__ = __int__ = __float__ = __index__ = __complex__ = __array__ = _refuse


def _t(a: Array) -> Array:
    return a.T


def _mt(a: Array) -> Array:
    return a.mT


def _item(a: Any) -> Any:
    return a.item()


class RecordingNamespace:
    """The namespace of a library, whose functions take tracers too."""

    def __init__(self, real: Namespace) -> None:
        self._real, self.__name__ = real, real.__name__

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._real, name)
        if not callable(value) or isinstance(value, type):
            return value

        def function(*args: Any, **kwargs: Any) -> Any:
            seen = next(instances(Tracer, (args, kwargs)), None)
            if seen is None:
                return value(*args, **kwargs)
            return seen.recording.call(name, value, args, kwargs)

        self.__dict__[name] = function
        return function


@functools.cache
def _class_of(xp: Any) -> type[Tracer]:
    """Return the class of tracers for the arrays of `xp`, and let `namespace` know it."""
    if isinstance(xp, RecordingNamespace):
        message = "a recording inside a recording"
        raise NotRecordable(message)
    kind = type("Tracer", (Tracer,), {"xp": RecordingNamespace(xp)})
    introduce(kind, kind.xp)
    from xplayers.accelerate.replay.bodies import BODIES

    tabulate(kind, BODIES)
    return kind


def over_operands(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function as one whose `out` may be one of its arguments."""
    function.over_operands = True  # pyright: ignore[reportFunctionMemberAccess]
    return function


def instances(kind: type, arg: Any) -> Iterator[Any]:
    """Return what is of that `kind` in an argument: it, or parts of tuples, lists and dicts."""
    if isinstance(arg, kind):
        yield arg
    elif type(arg) in (tuple, list):
        for a in arg:
            yield from instances(kind, a)
    elif type(arg) is dict:
        for a in arg.values():
            yield from instances(kind, a)


def mapped(function: Callable[[Any], Any], arg: Any) -> Any:
    """Return ``function(arg)``, of tuples, lists and dicts with the results for their parts."""
    if type(arg) in (tuple, list):
        return type(arg)([mapped(function, a) for a in arg])
    if type(arg) is dict:
        return {k: mapped(function, a) for k, a in arg.items()}
    return function(arg)


def values(arg: Any) -> Any:
    """Return `arg` with the arrays in the place of their tracers."""
    return mapped(_value, arg)


def _value(arg: Any) -> Any:
    if isinstance(arg, Tracer):
        return arg.value
    return arg._real if isinstance(arg, RecordingNamespace) else arg


def _is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float, np.generic))


def is_ordered(a: Array) -> bool:
    """Whether the elements lie in row-major order without gaps, and autograd looks away."""
    if isinstance(a, np.ndarray):
        return a.flags.c_contiguous
    if hasattr(a, "is_contiguous"):
        return a.is_contiguous() and not a.requires_grad
    return not hasattr(a, "flags") or a.flags.c_contiguous


def _share(a: Any, b: Any) -> bool:
    """Whether two arrays of a library lie in one piece of memory."""
    if _is_number(a) or _is_number(b):
        return False
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and np.may_share_memory(a, b)
    if hasattr(a, "untyped_storage"):
        return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr() != 0
    return a.data.mem is b.data.mem  # CuPy


def same(a: Recording, b: Recording) -> bool:
    """Whether two recordings say the same, bit by bit of their constants."""
    return (
        a.infos == b.infos
        and a.inputs == b.inputs
        and _equal(tuple(a.operations), tuple(b.operations))
        and a.constants.keys() == b.constants.keys()
        and all(_same_bits(c, b.constants[r]) for r, c in a.constants.items())
    )


def _equal(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    return bool(a == b) or (a != a and b != b)


def _same_bits(a: Array, b: Array) -> bool:
    if a is b:
        return True
    return a.shape == b.shape and to_numpy(a).tobytes() == to_numpy(b).tobytes()
