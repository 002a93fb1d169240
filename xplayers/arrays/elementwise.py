"""One pass over memory for functions that work element by element.

An activation, its derivative and an optimizer's rule are written as plain functions of a namespace
and arrays. Called, such a function is evaluated by the body that its arrays have (`evaluate`): on
NumPy in blocks that stay in the cache and, where the arrays are large, in threads; on CuPy, where
that is asked for, by one kernel. Else it runs as it stands, which is the definition. It takes
``out=`` everywhere.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Sequence
from types import FunctionType
from typing import Any

import numpy as np

from xplayers._calls import refusal, wrong_call
from xplayers._checks import flag, number
from xplayers._checks import function as checked
from xplayers.arrays.checks import check_real, converted
from xplayers.arrays.namespaces import Array, Namespace, is_floating, namespace
from xplayers.arrays.operation import operation

MOST = 256  # programs of one function that are kept

_HOST = (np.ndarray, np.generic)
_FLOAT32 = np.dtype("float32")


def elementwise(function: Callable[..., Any] | None = None, *, integers: bool = False) -> Any:
    """Make a pure element-by-element function of a namespace and arrays one pass over memory.

    Parameters
    ----------
    function : callable
        ``function(xp, *operands, **options) -> array or tuple of arrays``. Operands are arrays of
        one shape, and scalars (Python numbers or 0-d arrays) that may change from call to call;
        options are constants. It uses ``xp`` and operators only, never the shape of an array, and
        each result is a new value, not an operand.
    integers : bool
        Whether integer arrays are accepted too; else they raise a TypeError.

    Returns
    -------
    callable
        ``call(*operands, out=None, **options)``. With ``out`` (an array or a tuple, one for each
        result) the results are written there where the library allows it, and returned; rebind
        them, since libraries without mutation return new arrays. An array of ``out`` may be one of
        the operands, and must not overlap any operand otherwise. ``call.rows(rows, outs=None,
        **options)`` does so for many tuples of operands, as for all parameters of a network.

    Examples
    --------
    >>> import numpy as np
    >>> @elementwise
    ... def square(xp, x):
    ...     return x * x
    >>> square(np.asarray([1.0, -3.0]))
    array([1., 9.])
    """
    flag("elementwise", "integers", integers)
    if function is None:
        return functools.partial(elementwise, integers=integers)
    expected = "a function of a namespace and arrays"
    return _Elementwise(checked("elementwise", "function", function, expected), integers)


class _Elementwise:
    """The callable that `elementwise` returns."""

    is_constant = True  # as an option of another one

    def __init__(self, function: Callable[..., Any], integers: bool) -> None:
        functools.update_wrapper(self, function)
        self.function = function  # the plain function
        self.__name__, self.__qualname__ = function.__name__, function.__qualname__
        self.integers = integers
        parameters = list(inspect.signature(function).parameters.values())
        self.__signature__ = inspect.Signature(parameters[1:])  # without xp, for help()
        # Options that are numbers, which a scalar of NumPy would give a dtype.
        self._numbers = [p.name for p in parameters if type(p.default) is float]
        others = () if self._numbers else (bool, str, type(None), FunctionType, _Elementwise)
        self._sure = {float, int, *others}  # types of options that are as they should be
        self.programs: dict[Any, Any] = {}  # what bodies have made of it, for operands of a kind
        self.compiled = False  # whether one of them has been, so that small arrays pay too

    def __repr__(self) -> str:
        return f"<elementwise {self.__name__}{self.__signature__}>"

    def __reduce__(self) -> str:
        return self.__qualname__  # pickled by name, as functions are

    def __call__(self, *operands: Any, out: Any = None, **options: Any) -> Any:
        try:  # which costs nothing
            first: Any = operands[0] if operands else None
            namespace(first, self.__name__)
            if first.dtype is not _FLOAT32 and not is_floating(first):
                self._check_integers(first)
            if options:
                for value in options.values():
                    if type(value) not in self._sure or value != value:  # NaN
                        self._check_options(options)
                        break
            return evaluate(first, self, operands, out, options)
        except TypeError:
            refused = self._refused(operands, options)
            if refused is None:
                raise
        raise refused

    def _refused(self, operands: tuple[Any, ...], options: dict[str, Any]) -> TypeError | None:
        """Return the error of a call with arguments that are missing, too many or unknown."""
        parameters = [
            p.replace(kind=p.POSITIONAL_ONLY)
            if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
            else p
            for p in self.__signature__.parameters.values()
        ]
        signature = inspect.Signature(parameters)
        wrong = wrong_call(signature, operands, options)
        if not wrong:
            return None
        return refusal(self.__name__, self.__signature__, options, wrong, "", self.__name__)

    def _check_options(self, options: dict[str, Any]) -> None:
        """Check options that are numbers, and let them be Python's."""
        for name, value in options.items():
            if name in self._numbers:
                options[name] = number(self.__name__, name, value)
            elif isinstance(value, _HOST) and not value.shape:
                options[name] = value.item()

    def _check_integers(self, first: Any) -> None:
        """Check the first operand, which is not floating-point."""
        if self.integers:
            check_real(self.__name__, "x", first)
            return
        hint = converted("x", first.dtype, "float32")
        message = f"{self.__name__}: x is {first.dtype}; expected floating-point values. {hint}"
        raise TypeError(message)

    def rows(
        self, rows: Iterable[Sequence[Any]], *, outs: Iterable[Any] | None = None, **options: Any
    ) -> list[Any]:
        """Return ``[call(*row, out=out, **options)]``, for rows that do not wait for each other.

        CuPy arrays whose elementwise functions are kernels take one launch for all of them.
        """
        pairs = ((row, None) for row in rows) if outs is None else zip(rows, outs, strict=True)
        return [*self.each(pairs, **options)]

    def each(self, pairs: Iterable[tuple[Sequence[Any], Any]], **options: Any) -> Iterable[Any]:
        """As `rows`, of pairs of a row and an out; they may be made when they are asked for."""
        pairs = iter(pairs)
        for first in pairs:
            return evaluate_rows(first[0][0], self, itertools.chain([first], pairs), options)
        return ()

    def keep(self, key: Any, program: Any) -> None:
        """Keep a program, and forget the oldest one where there are many.

        An option that is another number in each call leads to a program a call.
        """
        if len(self.programs) >= MOST:
            with contextlib.suppress(StopIteration, RuntimeError):  # of another thread
                self.programs.pop(next(iter(self.programs)), None)
        self.programs[key] = program


@operation
def evaluate(x: Array, function: Any, operands: tuple, out: Any, options: dict[str, Any]) -> Any:
    """Return ``function(*operands, **options)``, in `out` where the library allows it.

    `function` is what `elementwise` has made, `x` its first operand.
    """
    return as_it_stands(namespace(x), function, operands, out, options)


@operation
def evaluate_rows(
    x: Array, function: Any, pairs: Iterable[tuple[Sequence[Any], Any]], options: dict[str, Any]
) -> Iterable[Any]:
    """Return ``function(*row, out=out, **options)`` for pairs of a row and an out, one by one."""
    return (function(*row, out=out, **options) for row, out in pairs)


@operation
def zero_unless(a: Array, condition: Array, xp: Namespace) -> Array:
    """Return `a` where the condition holds, else 0, also where `a` is infinite or NaN."""
    return xp.where(condition, a, 0.0)


def as_it_stands(
    xp: Namespace, function: Any, operands: tuple, out: Any, options: dict[str, Any]
) -> Any:
    """Evaluate the plain function with the operators of a library."""
    first = operands[0]
    # beside a 0-d array of NumPy, others are arrays like it
    if len(operands) > 1 and (first.shape or not isinstance(first, _HOST)):
        operands = tuple([a if type(a) is float else scalar(a) for a in operands])
    results = function.function(xp, *operands, **options)
    return results if out is None else _write(results, out)


def scalar(a: Any) -> Any:
    """Return a 0-d array of NumPy as a Python number, which takes part without a dtype."""
    return a.item() if isinstance(a, _HOST) and not a.ndim else a


def _write(results: Any, out: Any) -> Any:
    """Put `results` into `out` where the arrays can be written, else return them as they are."""
    if isinstance(out, tuple):
        return tuple([_write(r, o) for r, o in zip(results, out, strict=True)])
    if out is results:
        return out
    if out.shape != results.shape or out.dtype != results.dtype:
        message = (
            f"out is {out.dtype} of shape {tuple(out.shape)}; the result is {results.dtype} of "
            f"shape {tuple(results.shape)}."
        )
        raise ValueError(message)
    try:
        out[...] = results
    except (TypeError, ValueError, RuntimeError):  # JAX; read-only NumPy; torch inference tensors
        return results
    return out
