"""The operators of Python on arrays, and the base of what writes them down."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

# By their names in the standard, which are those of NumPy's functions.
BINARY = {
    "add": operator.add, "subtract": operator.sub, "multiply": operator.mul,
    "divide": operator.truediv, "floor_divide": operator.floordiv, "remainder": operator.mod,
    "pow": operator.pow, "matmul": operator.matmul, "bitwise_and": operator.and_,
    "bitwise_or": operator.or_, "bitwise_xor": operator.xor,
    "bitwise_left_shift": operator.lshift, "bitwise_right_shift": operator.rshift,
}  # fmt: skip
COMPARISONS = {
    "less": operator.lt, "less_equal": operator.le, "greater": operator.gt,
    "greater_equal": operator.ge, "equal": operator.eq, "not_equal": operator.ne,
}  # fmt: skip
UNARY = {
    "negative": operator.neg, "positive": operator.pos, "abs": operator.abs,
    "bitwise_invert": operator.invert,
}  # fmt: skip
COMPARISON_UFUNCS = tuple([getattr(np, name) for name in COMPARISONS])
OPERATORS: dict[str, Callable[..., Any]] = {**BINARY, **COMPARISONS, **UNARY}
WITH_NUMBERS = {"add", "subtract", "multiply", "divide", *COMPARISONS}  # see `array_of_number`
SIGNS = {
    "add": "+", "subtract": "-", "multiply": "*", "divide": "/", "floor_divide": "//",
    "remainder": "%", "pow": "**", "matmul": "@", "bitwise_and": "&", "bitwise_or": "|",
    "bitwise_xor": "^", "bitwise_left_shift": "<<", "bitwise_right_shift": ">>", "less": "<",
    "less_equal": "<=", "greater": ">", "greater_equal": ">=", "equal": "==", "not_equal": "!=",
}  # fmt: skip


def array_of_number(number: Any, dtype: Any) -> Any:
    """Return a number of Python as the 0-d array that NumPy makes of it beside a floating dtype.

    A ufunc takes that in half the time. What would be infinite stays a number.
    """
    if type(number) not in (int, float) or dtype.kind != "f" or not abs(number) < 1 << 53:
        return number
    with np.errstate(over="ignore"):
        there = np.asarray(number, dtype)
    return there if np.isfinite(there) else number


class Operators:
    """Base of tracers, which get to know of every operator that is applied to them."""

    __hash__ = object.__hash__

    def operate(self, name: str, function: Callable[..., Any], operands: tuple) -> Any:
        """Return what stands for ``function(*operands)``, the operation `name` of the standard."""
        raise NotImplementedError

    def operate_in_place(self, name: str, function: Callable[..., Any], other: Any) -> Any:
        """Return what stands for this array after ``self += other``, for the sum as `function`."""
        raise NotImplementedError


def _give_operators() -> None:
    def binary(name: str, function: Any) -> Any:
        return lambda self, other: self.operate(name, function, (self, other))

    def swapped(name: str, function: Any) -> Any:
        return lambda self, other: self.operate(name, function, (other, self))

    def in_place(name: str, function: Any) -> Any:
        return lambda self, other: self.operate_in_place(name, function, other)

    def unary(name: str, function: Any) -> Any:
        return lambda self: self.operate(name, function, (self,))

    kinds = (BINARY, "", binary), (BINARY, "r", swapped), (BINARY, "i", in_place)
    for table, prefix, method in (*kinds, (COMPARISONS, "", binary), (UNARY, "", unary)):
        for name, function in table.items():
            plain = function.__name__.strip("_")
            setattr(Operators, f"__{prefix}{plain}__", method(name, function))


_give_operators()
