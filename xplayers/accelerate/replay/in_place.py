"""How NumPy and PyTorch write the result of an operation to memory that is given."""

from __future__ import annotations

import inspect
import operator
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from xplayers.accelerate.host.machine_code import LARGEST
from xplayers.accelerate.operators import OPERATORS, WITH_NUMBERS, array_of_number
from xplayers.accelerate.replay.recording import Operation, Register, ValueInfo
from xplayers.arrays.namespaces import Array
from xplayers.arrays.operation import body_of, portable_body

REDUCTIONS = {
    "sum": np.add, "max": np.maximum, "min": np.minimum, "prod": np.multiply,
    "all": np.logical_and, "any": np.logical_or,
}  # fmt: skip


def into(operation: Operation, infos: list[ValueInfo], like: Array) -> Any:
    """Return ``(function, args, over)``: ``function(*args, out)`` does the operation.

    `over`: whether `out` may be one of the operands. None where the operation makes new memory.
    """
    if not isinstance(like, np.ndarray):
        return _into_torch(operation, infos)
    name, args, kwargs = operation.name, operation.args, operation.kwargs
    if name == "call":
        function = operation.function
        over = getattr(function, "over_operands", False)
        return (function, args, over) if takes_out(function, like) and not kwargs else None
    function = getattr(np, name, None)
    if operation.function not in (function, OPERATORS.get(name)):
        return None  # another function of that name
    if operation.function is operator.pow:
        return None  # it takes a square root where `numpy.power` does not
    if isinstance(function, np.ufunc) and not kwargs:
        if function is np.matmul and _are_matrices([infos[a] for a in args]):
            return np.dot, args, False  # the same call of BLAS, in half the time if they are small
        return function, args, function.signature is None
    if name in REDUCTIONS and len(args) == 1 and kwargs.keys() <= {"axis", "keepdims"}:
        return _reduction(REDUCTIONS[name], infos[args[0]], **kwargs), args, False
    if name == "astype":
        return _cast, args[:1], False
    return None


def _are_matrices(kinds: list[ValueInfo]) -> bool:
    """Whether BLAS takes both as they lie, and none is a vector, which has a call of its own."""
    return all(
        len(kind.shape) == 2 and min(kind.shape) > 1 and (kind.ordered or kind.turned)
        and kind.dtype.char in "fd" and kind.dtype == kinds[0].dtype
        for kind in kinds
    )  # fmt: skip


def takes_out(function: Callable[..., Any], like: Array) -> bool:
    """Whether a function that was recorded as one call takes memory for its results."""
    # Of an operation that was recorded as such, any of its bodies may compute.
    own = body_of(function, like)
    bodies = [function] if own is None else [own, portable_body(function)]
    return all("out" in inspect.signature(body).parameters for body in bodies)


_TORCH = {
    "add": "add", "subtract": "sub", "multiply": "mul", "divide": "div", "less": "lt",
    "less_equal": "le", "greater": "gt", "greater_equal": "ge", "equal": "eq", "not_equal": "ne",
    "exp": "exp", "expm1": "expm1", "log": "log", "log1p": "log1p", "sqrt": "sqrt", "tanh": "tanh",
    "negative": "neg", "abs": "abs",
}  # fmt: skip


def with_array(operation: Operation, infos: list[ValueInfo]) -> Operation:
    """Return an operation of NumPy with a number as a 0-d array: half the time, the same bits.

    NumPy makes such an array of it in each call, and casts that to the dtype of the other one.
    """
    if not _takes_number(operation) or not infos[operation.args[0]].shape:
        return operation
    a, b = operation.args
    return operation._replace(args=(a, array_of_number(b, infos[a].dtype)))


def _takes_number(operation: Operation) -> bool:
    """Whether it is arithmetic of an array and a number of Python, in this order."""
    if operation.name not in WITH_NUMBERS or len(operation.args) != 2 or operation.kwargs:
        return False
    a, b = operation.args
    return isinstance(a, Register) and type(b) in (int, float)


def with_tensors(operation: Operation, infos: list[ValueInfo]) -> Operation:
    """Return an operation of PyTorch with a number as a 0-d tensor: a third of the time, same bits.

    PyTorch makes such a tensor of it in each call, and casts that to the dtype of the other one.
    """
    torch: Any = sys.modules["torch"]
    if not _takes_number(operation):
        return operation
    a, b = operation.args
    dtype: Any = infos[a].dtype
    if dtype in (torch.float32, torch.float64):
        fit = type(b) is float or abs(b) <= LARGEST
    else:
        integers = dtype in (torch.int32, torch.int64) and operation.name != "divide"
        fit = integers and type(b) is int and abs(b) <= torch.iinfo(dtype).max
    return operation._replace(args=(a, torch.tensor(b, dtype=dtype))) if fit else operation


def _into_torch(operation: Operation, infos: list[ValueInfo]) -> Any:
    torch: Any = sys.modules["torch"]
    name, args, kwargs = operation.name, operation.args, operation.kwargs
    arrays = [isinstance(a, Register) and not infos[a].number for a in args]
    numbers = [type(a) in (int, float, torch.Tensor) for a in args]  # see `with_tensors`
    fit = arrays[:1] == [True] and all(a or n for a, n in zip(arrays, numbers, strict=True))
    if name == "astype" and arrays == [True, False]:
        return _copied, args[:1], False
    if name == "gather" and arrays == [True, False, True] and not kwargs:
        return torch.gather, args, False
    dtypes = {infos[a].dtype for a, is_array in zip(args, arrays, strict=True) if is_array}
    if len(dtypes) > 1:  # the standard and torch promote 0-d tensors differently
        return None
    if name in _TORCH and fit and not kwargs:
        return getattr(torch, _TORCH[name]), args, True
    if name in ("maximum", "minimum") and arrays == [True, True]:
        return getattr(torch, name), args, True
    if name == "matmul":
        two = all(len(infos[a].shape) == 2 for a in args)
        return (torch.mm if two else torch.matmul), args, False
    if name in ("sum", "max", "min") and len(args) == 1 and set(kwargs) <= {"axis", "keepdims"}:
        axis, keepdims = kwargs.get("axis"), kwargs.get("keepdims", False)
        if isinstance(axis, int) and infos[operation.results[0]].dtype == infos[args[0]].dtype:
            function = {"sum": torch.sum, "max": torch.amax, "min": torch.amin}[name]
            return function, (*args, axis, keepdims), False
    return None


def _copied(x: Any, out: Any) -> None:
    out.copy_(x)


def copied_array(a: Array) -> Array:
    """Return a copy of an array of NumPy or PyTorch."""
    return np.array(a) if isinstance(a, np.ndarray) else a.clone()


def along(n: int, axis: int, axes: int) -> np.ndarray:
    """Return 0 to `n` - 1 along one of so many axes."""
    return np.arange(n).reshape([n if i == axis else 1 for i in range(axes)])


def _reduction(
    ufunc: np.ufunc, kind: ValueInfo, axis: Any = None, keepdims: bool = False
) -> Callable[..., Any]:
    reduce: Any = ufunc.reduce
    shape = kind.shape
    short = len(shape) == 2 and axis in (-1, 1) and shape[1] < min(shape[0], 32)
    if short and ufunc in (np.maximum, np.minimum) and kind.ordered:
        # Over a short last axis NumPy goes row by row; over the first it takes whole rows at once.
        # The largest value is the same in any order.
        turned = np.empty(shape[::-1], kind.dtype)

        def into_short(x: np.ndarray, out: np.ndarray) -> None:
            turned[...] = x.T
            reduce(turned, 0, None, out.T, keepdims)

        into_short.__name__ = f"{ufunc.__name__}.reduce of short rows"
        return into_short

    def into(x: np.ndarray, out: np.ndarray) -> None:
        reduce(x, axis, None, out, keepdims)

    into.__name__ = f"{ufunc.__name__}.reduce"  # for profiles
    return into


def _cast(x: np.ndarray, out: np.ndarray) -> None:
    np.copyto(out, x, casting="unsafe")
