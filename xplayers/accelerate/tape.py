"""The operations of an elementwise function, written down while it runs once.

The function is called with tracers that record every operation on them. Each tracer carries a
sample of one element, so dtypes come from NumPy itself and no promotion rule is repeated here.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import struct
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from xplayers.accelerate.operators import Operators
from xplayers.arrays.operation import tabulate

Step = tuple[Any, tuple[int, ...], int]  # operation, registers of its inputs, register it makes


class Untraceable(Exception):
    """The function does something that is not a ufunc, a cast or ``where``."""


def _refused(self: Tracer, *args: Any) -> Any:
    raise Untraceable


class Tracer(Operators):
    """A tracer for an operand or an intermediate result."""

    __array_priority__ = 1000.0  # NumPy's scalars leave operators to it

    def __init__(self, tape: Tape, register: int, sample: Any) -> None:
        self.tape, self.register, self.sample = tape, register, sample

    @property
    def dtype(self) -> Any:
        return self.sample.dtype

    @property
    def scalar(self) -> bool:
        return not isinstance(self.sample, np.ndarray)

    def astype(self, dtype: Any, copy: bool = True) -> Tracer:
        if self.scalar:  # of NumPy: Python's have no such method
            cast = operator.methodcaller("astype", dtype)
            return self.tape.record(cast, (self,), cast(self.sample))
        return self.tape.record(Cast(), (self,), self.sample.astype(dtype))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Tracer:
        if method != "__call__" or kwargs:
            raise Untraceable
        return self.tape.apply(ufunc, inputs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Tracer:
        if func is not np.where or len(args) != 3 or kwargs:
            raise Untraceable
        return self.tape.where(*args)

    def operate(self, name: str, function: Callable[..., Any], operands: tuple) -> Tracer:
        return self.tape.arithmetic(name, function, operands)

    def operate_in_place(self, name: str, function: Callable[..., Any], other: Any) -> Tracer:
        raise Untraceable  # it writes into an array, which may be an operand

    __bool__ = __float__ = __int__ = __index__ = __complex__ = __array__ = __iter__ = _refused


tabulate(Tracer, {})  # all operations of it are portable


class _Namespace:
    """NumPy, whose ``astype`` takes tracers too."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def astype(x: Tracer, dtype: Any, copy: bool = True) -> Tracer:
        return x.astype(dtype, copy=copy)


class Cast:
    """The operation ``astype``."""

    def __call__(self, a: np.ndarray, out: np.ndarray) -> None:
        np.copyto(out, a, casting="unsafe")


BITS = {np.dtype(f"f{n}").char: np.dtype(f"i{n}") for n in (2, 4, 8)}


def select_into(condition: np.ndarray, a: np.ndarray, out: np.ndarray) -> None:
    """Write `a` where the condition holds, else 0, for numbers of up to eight bytes.

    As integers: a selection by a mask that nobody foresees takes the CPU ten times as long as a
    product, and a product of floats is NaN where `a` is infinite.
    """
    bits = BITS[out.dtype.char]
    np.multiply(a.view(bits), condition, out.view(bits))


def where_into(condition: Any, a: Any, b: Any, out: np.ndarray) -> None:
    """Write what ``where`` selects."""
    np.copyto(out, _cast_as_where_does(b, out))
    np.copyto(out, _cast_as_where_does(a, out), where=condition)


def _cast_as_where_does(a: Any, out: np.ndarray) -> Any:
    """Return an integer of Python by way of int64, where others do not ask whether it fits."""
    return np.asarray(a).astype(out.dtype) if type(a) is int else a


def power_into(a: Any, b: Any, out: np.ndarray) -> None:
    """Write a power."""
    # The operator takes a square, a root or a quotient where `numpy.power` does not.
    np.copyto(out, a**b)


def selects_bits(condition: Any, a: Any, out: Any, otherwise: Any = 0.0) -> bool:
    """Whether `select_into` selects between `a` and `otherwise`: both arrays, and a number."""
    return (
        type(condition) is type(a) is np.ndarray
        and condition.dtype == np.bool_
        and a.dtype == out.dtype
        and out.dtype.kind == "f"
        and out.dtype.itemsize <= 8
        and type(otherwise) is float
        and math.copysign(1.0, otherwise) > otherwise == 0.0
    )


class Tape:
    """The operations so far. Registers: the operands first, then constants and results."""

    def __init__(self, samples: Sequence[Any]) -> None:
        self.operands = [Tracer(self, i, s) for i, s in enumerate(samples)]
        self.registers: list[Any] = list(samples)  # a sample each
        self.constants: dict[int, Any] = {}
        self.once: list[Step] = []  # scalars only: once a call
        self.steps: list[Step] = []  # once a block

    power: Any = staticmethod(power_into)  # what an array is raised to a power by

    def samples(self, inputs: Sequence[Any]) -> list[Any]:
        """Return the samples of the inputs of an operation."""
        return [i.sample if isinstance(i, Tracer) else i for i in inputs]

    def arithmetic(self, name: str, function: Callable[..., Any], inputs: tuple) -> Tracer:
        """Record an operator of Python, which NumPy calls `name`.

        Numbers alone are left to Python, which makes Python numbers of them, without a dtype.
        """
        if all(i.scalar if isinstance(i, Tracer) else _is_number(i) for i in inputs):
            if function is operator.pow:  # a float, or a complex number: that depends on the values
                raise Untraceable
            with np.errstate(all="ignore"):
                return self.record(function, inputs, function(*self.samples(inputs)))
        if function is not operator.pow:
            return self.apply(getattr(np, name), inputs)
        base, exponent = inputs
        a, b = self.samples(inputs)
        if type(exponent) in (int, float) and exponent == 2 and a.dtype.kind == "f":
            return self.apply(np.square, (base,))
        with np.errstate(all="ignore"):
            return self.record(self.power, inputs, a**b)

    def apply(self, ufunc: Any, inputs: tuple) -> Tracer:
        """Record a ufunc. That of numbers alone is a scalar of NumPy, which has a dtype."""
        if ufunc.nout != 1 or ufunc.signature is not None:
            raise Untraceable
        samples = self.samples(inputs)
        arrays = any(isinstance(s, np.ndarray) for s in samples)
        if not arrays and any(type(s) is int for s in samples):
            raise Untraceable  # their dtype depends on how large they are
        with np.errstate(all="ignore"):
            return self.record(ufunc, inputs, ufunc(*samples))

    def where(self, condition: Any, a: Any, b: Any) -> Tracer:
        """Record ``where``."""
        samples = self.samples((condition, a, b))
        if not any(isinstance(sample, np.ndarray) for sample in samples):
            raise Untraceable
        if not isinstance(samples[0], np.ndarray):
            condition = self.record(operator.truth, (condition,), bool(samples[0]))
        elif condition.dtype != np.bool_:
            condition = condition.astype(np.bool_)
        return self.record(where_into, (condition, a, b), np.where(*samples))

    def record(self, operation: Any, inputs: Sequence[Any], sample: Any) -> Tracer:
        """Write down one operation, which has made `sample` of the samples of its inputs."""
        values = [i if isinstance(i, Tracer) else self.constant(i) for i in inputs]
        value = Tracer(self, len(self.registers), sample)
        self.registers.append(sample)
        where = self.once if all(v.scalar for v in values) else self.steps
        where.append((operation, tuple(v.register for v in values), value.register))
        return value

    def run(self, function: Callable[..., Any]) -> tuple[list[int], bool]:
        """Write down ``function(xp, *operands)``.

        Returns the registers of its results, and whether it returns a tuple of them.
        """
        try:
            results = function(_Namespace(), *self.operands)
        except Untraceable:
            raise
        except Exception as error:  # what NumPy cannot dispatch, and errors of the function itself
            raise Untraceable from error
        many = isinstance(results, tuple)
        values = results if many else (results,)
        if not all(isinstance(v, Tracer) and not v.scalar for v in values):
            raise Untraceable
        if any(v is o for v in values for o in self.operands):
            message = "an elementwise function returned an operand; its results are new values."
            raise RuntimeError(message)
        return [v.register for v in values], many

    def constant(self, value: Any) -> Tracer:
        if not _is_number(value):
            raise Untraceable
        self.constants[len(self.registers)] = value
        self.registers.append(value)
        return Tracer(self, len(self.registers) - 1, value)


def _is_number(value: Any) -> bool:
    """Whether it is a real number of Python, which has no dtype, or a scalar of NumPy."""
    return type(value) in (bool, int, float) or isinstance(value, _SCALARS)


_SCALARS = (np.bool_, np.integer, np.floating)


# Values of these types are what they say, as long as they are there.
_SAYING = frozenset({
    bool, int, str, bytes, type(None), type, np.ufunc, types.FunctionType,
    types.BuiltinFunctionType,
})  # fmt: skip
_bits = struct.Struct("d").pack  # which tell 0.0 from -0.0, and are equal of what is no number


def constants_key(options: Mapping[str, Any]) -> tuple | None:
    """Return what tells the options of one program from those of all others.

    None where nothing does: a list, an array or an object with attributes may change.
    """
    key: list[Any] = []
    try:
        for name, value in options.items():
            kind = type(value)
            if kind is float:  # as `value_key`, without a call
                key += (name, kind, _bits(value))
            elif kind in _SAYING:
                key += (name, kind, value)
            else:
                key += (name, *value_key(value))
    except Untraceable:
        return None
    return tuple(key)


def value_key(value: Any) -> tuple:
    """Return what is equal for the very same value alone: 1, 1.0 and True differ."""
    kind = type(value)
    if kind in _SAYING or getattr(kind, "is_constant", False) is True:
        return kind, value
    if kind is float:
        return kind, _bits(value)
    if isinstance(value, np.dtype):
        return kind, value
    if isinstance(value, (np.bool_, np.number)):
        return kind, value.tobytes()
    if isinstance(value, tuple):
        return kind, *map(value_key, value)
    if dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen:
        fields = [f.name for f in dataclasses.fields(kind)]
        if [*getattr(value, "__dict__", fields)] == fields:
            return kind, *[value_key(getattr(value, name)) for name in fields]
    raise Untraceable
