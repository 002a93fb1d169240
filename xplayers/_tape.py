"""The operations of an elementwise function, written down while it runs once.

The function is called with stand-ins that record every operation on them. Each stand-in carries a
sample of one element, so dtypes come from NumPy itself and no promotion rule is repeated here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Step = tuple[Any, tuple[int, ...], int]  # operation, registers of its inputs, register it makes


class Untraceable(Exception):
    """The function does something that is not a ufunc, a cast or ``where``."""


class _Value(np.lib.mixins.NDArrayOperatorsMixin):
    """A stand-in for an operand or an intermediate result."""

    def __init__(self, tape: Tape, register: int, sample: Any) -> None:
        self.tape, self.register, self.sample = tape, register, sample

    @property
    def dtype(self) -> Any:
        return self.sample.dtype

    @property
    def scalar(self) -> bool:
        return not isinstance(self.sample, np.ndarray)

    def astype(self, dtype: Any, copy: bool = True) -> _Value:
        return self.tape.record(Cast(), (self,), self.sample.astype(dtype))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> _Value:
        if method != "__call__" or kwargs or ufunc.nout != 1:
            raise Untraceable
        samples = self.tape.samples(inputs)
        with np.errstate(all="ignore"):
            return self.tape.record(ufunc, inputs, ufunc(*samples))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> _Value:
        if func is not np.where or len(args) != 3 or kwargs:
            raise Untraceable
        samples = self.tape.samples(args)
        if not any(isinstance(sample, np.ndarray) for sample in samples):
            raise Untraceable
        return self.tape.record(where_into, args, np.where(*samples))

    def __bool__(self) -> bool:
        raise Untraceable


class _Namespace:
    """NumPy, whose ``astype`` takes stand-ins too."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def astype(x: _Value, dtype: Any, copy: bool = True) -> _Value:
        return x.astype(dtype, copy=copy)


def is_cast(operation: Any) -> bool:
    """Whether a recorded operation is ``astype``."""
    return isinstance(operation, Cast)


def is_where(operation: Any) -> bool:
    """Whether a recorded operation is ``where``."""
    return operation is where_into


class Cast:
    def __call__(self, a: np.ndarray, out: np.ndarray) -> None:
        np.copyto(out, a, casting="unsafe")


def where_into(condition: Any, a: Any, b: Any, out: np.ndarray) -> None:
    np.copyto(out, b)
    np.copyto(out, a, where=condition)


class Tape:
    """The operations so far. Registers: the operands first, then constants and results."""

    def __init__(self, samples: Sequence[Any]) -> None:
        self.operands = [_Value(self, i, s) for i, s in enumerate(samples)]
        self.registers: list[Any] = list(samples)  # a sample each
        self.constants: dict[int, Any] = {}
        self.once: list[Step] = []  # scalars only: once a call
        self.steps: list[Step] = []  # once a block

    def samples(self, inputs: Sequence[Any]) -> list[Any]:
        """Return the samples of the inputs of an operation."""
        return [i.sample if isinstance(i, _Value) else i for i in inputs]

    def record(self, operation: Any, inputs: Sequence[Any], sample: Any) -> _Value:
        values = [i if isinstance(i, _Value) else self.constant(i) for i in inputs]
        scalars = all(v.scalar for v in values)
        if scalars:
            sample = np.asarray(sample).item()  # a Python number, so that it stays weak
        value = _Value(self, len(self.registers), sample)
        self.registers.append(sample)
        where = self.once if scalars else self.steps
        where.append((operation, tuple(v.register for v in values), value.register))
        return value

    def run(self, function: Callable[..., Any]) -> tuple[list[int], bool]:
        """Write down ``function(xp, *operands)``.

        Returns the registers of its results, and whether it returns a tuple of them.
        """
        try:
            results = function(_Namespace(), *self.operands)
        except (TypeError, ValueError, AttributeError) as error:  # what NumPy cannot dispatch
            raise Untraceable from error
        many = isinstance(results, tuple)
        values = results if many else (results,)
        if not all(isinstance(v, _Value) and not v.scalar for v in values):
            raise Untraceable
        if any(v is o for v in values for o in self.operands):
            message = "an elementwise function returned an operand; its results are new values."
            raise RuntimeError(message)
        return [v.register for v in values], many

    def constant(self, value: Any) -> _Value:
        if not isinstance(value, (bool, int, float)):
            raise Untraceable
        self.constants[len(self.registers)] = value
        self.registers.append(value)
        return _Value(self, len(self.registers) - 1, value)
