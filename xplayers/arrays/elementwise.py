"""One pass over memory for functions that work element by element.

An activation, its derivative and an optimizer's rule are written as plain functions of a namespace
and arrays. Called, such a function runs as it stands on every library, with two differences: NumPy
evaluates it in blocks that stay in the cache and, where the arrays are large, in threads; and it
takes ``out=``. The plain function remains the definition, and both give the same bits. On CuPy
arrays it can be one kernel, on request: see `xplayers.cuda`.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from xplayers._checks import flag, number
from xplayers._checks import function as checked
from xplayers._jit import LARGEST, compiled, elements_before, exact_source
from xplayers._memory import empty
from xplayers._parallel import share, usable_cores
from xplayers._recording import StandIn
from xplayers._roots import with_exact_root
from xplayers._tape import BITS, Untraceable, can_be_kept, constants_key, kept_into
from xplayers._trace import Program, trace
from xplayers.arrays.namespaces import (
    check_real,
    converted,
    is_floating,
    is_traced,
    namespace,
    on_host,
)
from xplayers.cuda.switch import is_fused

# Measured. In one thread the blocks of a rule's operands should stay in a second-level cache of
# 1 MB, and be long enough that the call of a ufunc (1 us) is small beside its work. Threads want
# longer ones: a thread that has to wait for the interpreter lock wakes up some 100 us later.
BLOCK = 32_768
PART = 131_072  # what a thread takes at once, and its block
STRAIGHT = BLOCK * 3 // 2  # arrays up to this size are one block
PLAIN = 4096  # up to this size the operators of the function itself cost less than a look-up
# Below this size a second thread costs more than it gains in a training step: after each matrix
# product OpenBLAS keeps its threads spinning for 100 ms, and they take the other cores.
THREADED = 3_000_000
THREADED_KERNEL = 500_000  # machine code needs no interpreter lock, and waits for memory alone

MOST = 256  # programs of one function that are kept

_NUMPY = (np.ndarray, np.generic)
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
        self.function = function
        self.__name__, self.__qualname__ = function.__name__, function.__qualname__
        self.integers = integers
        parameters = list(inspect.signature(function).parameters.values())
        self.__signature__ = inspect.Signature(parameters[1:])  # without xp, for help()
        # Options that are numbers, which a scalar of NumPy would give a dtype.
        self._numbers = [p.name for p in parameters if type(p.default) is float]
        others = () if self._numbers else (bool, str, type(None), _Elementwise)
        self._sure = {float, int, *others}  # types of options that are as they should be
        self._programs: dict[Any, Program | None] = {}
        self._plain = PLAIN

    def __repr__(self) -> str:
        return f"<elementwise {self.__name__}{self.__signature__}>"

    def __reduce__(self) -> str:
        return self.__qualname__  # pickled by name, as functions are

    def __call__(self, *operands: Any, out: Any = None, **options: Any) -> Any:
        first: Any = operands[0] if operands else None
        xp = namespace(first, self.__name__)
        if first.dtype is not _FLOAT32 and not is_floating(first):
            self._check_integers(first)
        if options:
            for value in options.values():
                if type(value) not in self._sure or value != value:  # NaN
                    self._check_options(options)
                    break
        if isinstance(first, StandIn):
            return self._recorded(xp, operands, out, options)
        if isinstance(first, _NUMPY):
            if type(first) is np.ndarray and first.size > self._plain:
                done, results = self._in_one_pass(operands, out, options)
                if done:
                    return results
            if len(operands) > 1 and first.shape:  # beside a 0-d array, others are arrays like it
                operands = (first, *[_scalar(a) for a in operands[1:]])
            results = self.function(xp, *operands, **options)
            return results if out is None else _write(xp, results, out)
        if xp.__name__ == "array_api_compat.torch":
            if first.is_cpu:
                if out is not None and self._through_numpy(operands, out, options):
                    return out
                xp = with_exact_root(xp)
        elif is_fused(xp):
            from xplayers.cuda.kernels import evaluate

            done, results = evaluate(self, operands, out, options)
            if done:
                return results
        if out is None and len(operands) > 1:
            operands = (first, *[_scalar(a) for a in operands[1:]])
        results = self.function(xp, *operands, **options)
        return results if out is None else _write(xp, results, out)

    def _check_options(self, options: dict[str, Any]) -> None:
        """Check options that are numbers, and let them be Python's."""
        for name, value in options.items():
            if name in self._numbers:
                options[name] = number(self.__name__, name, value)
            elif isinstance(value, _NUMPY) and not value.shape:
                options[name] = value.item()

    def _check_integers(self, first: Any) -> None:
        """Check the first operand, which is not floating-point."""
        if self.integers:
            check_real(self.__name__, "x", first)
            return
        hint = converted("x", first.dtype, "float32")
        message = f"{self.__name__}: x is {first.dtype}; expected floating-point values. {hint}"
        raise TypeError(message)

    def if_fused(self, *operands: Any, **options: Any) -> Any:
        """Return ``call(*operands)`` of CuPy arrays that are to be kernels; else as it stands.

        For the arithmetic of a few 0-d arrays, which is a launch for each operation otherwise.
        """
        xp = namespace(operands[0])
        if is_fused(xp):
            return self(*operands, **options)
        return self.function(xp, *operands, **options)

    def rows(
        self, rows: Sequence[Sequence[Any]], *, outs: Sequence[Any] | None = None, **options: Any
    ) -> list[Any]:
        """Return ``[call(*row, out=out, **options)]``, for rows that do not wait for each other.

        CuPy arrays whose elementwise functions are kernels take one launch for all of them.
        """
        outs = [None] * len(rows) if outs is None else outs
        if rows and is_fused(namespace(rows[0][0])):
            from xplayers.cuda.kernels import evaluate_rows

            return evaluate_rows(self, rows, outs, options)
        return [self(*row, out=out, **options) for row, out in zip(rows, outs, strict=True)]

    def _in_one_pass(
        self, operands: tuple, out: Any, options: dict[str, Any], exact: bool = False
    ) -> tuple[bool, Any]:
        """Evaluate the program of the function; ``(False, None)`` where that is unfit.

        With `exact` only a program whose results every library has to round alike.
        """
        fit = _fit(operands, out)
        if fit is None:
            return False, None
        values, outs, kinds, aliases = fit
        program = self._program(values, kinds, aliases, options)
        if program is None or (exact and not _is_alike(program, operands)):
            return False, None
        if not outs:
            outs = tuple([empty(values[0].shape, dtype) for dtype in program.result_dtypes])
        elif tuple([o.dtype for o in outs]) != program.result_dtypes:
            return False, None
        self._count(program, outs[0].size)
        _run(program, values, outs)
        return True, outs if program.many else outs[0]

    def _program(
        self, values: list, kinds: list, aliases: list, options: dict[str, Any]
    ) -> Program | None:
        constants = constants_key(options) if options else ()
        if constants is None:
            return None
        key = (*kinds, None, *aliases, *constants)
        try:
            return self._programs[key]
        except KeyError:
            program = self._trace(values, tuple(aliases), options)
            self.keep(key, program)
            return program

    def keep(self, key: Any, program: Any) -> None:
        """Keep a program, and forget the oldest one where there are many.

        An option that is another number in each call leads to a program a call.
        """
        programs = self._programs
        if len(programs) >= MOST:
            with contextlib.suppress(StopIteration, RuntimeError):  # of another thread
                programs.pop(next(iter(programs)), None)
        programs[key] = program

    def _count(self, program: Program, elements: int) -> None:
        """Compile a program that has been run over enough elements."""
        if program.kernel is None and program.work <= elements_before():
            program.work += elements
            if program.work > elements_before():
                program.kernel = compiled(program)
                self._plain = PLAIN if program.kernel is None else -1

    def prepared(
        self, values: list, outs: tuple, options: dict[str, Any]
    ) -> Callable[..., None] | None:
        """Return ``run(*scalars)``, which writes into `outs` in each call; None if that is unfit.

        `values` are the operands: NumPy arrays, whose values change, and numbers, which `run` takes
        in their order. An array of `outs` may be one of `values`.
        """
        fit = _fit(tuple(values), outs)
        if fit is None:
            return None
        given, outs, kinds, aliases = fit
        if int in kinds:  # one that is too large is no number for a kernel
            return None
        program = self._program(given, kinds, aliases, options)
        if program is None or tuple([o.dtype for o in outs]) != program.result_dtypes:
            return None
        arrays = [v for v in given if isinstance(v, np.ndarray)]
        if any(isinstance(v, np.ndarray) for v in given[len(arrays) :]):
            return None  # numbers come after the arrays
        # contiguous arrays as vectors: what every call would do otherwise
        arrays = [a.ravel() for a in arrays]
        flat = tuple([o.ravel() for o in outs])
        n = flat[0].size
        fixed = program.bound(arrays, flat) if n <= STRAIGHT else None
        if fixed is not None and elements_before() == math.inf:
            fixed.__name__ = self.__name__  # for profiles
            return fixed

        def run(*scalars: Any) -> None:
            nonlocal kernel
            if kernel is not None:
                return kernel(*scalars)
            self._count(program, n)
            if program.kernel is not None and n < THREADED_KERNEL:
                kernel = program.kernel.bound(arrays, flat)
                return kernel(*scalars)
            return fixed(*scalars) if fixed else _run(program, [*arrays, *scalars], flat)

        kernel = None
        run.__name__ = self.__name__
        return run

    def _recorded(self, xp: Any, operands: tuple, out: Any, options: dict[str, Any]) -> Any:
        """Evaluate stand-ins: as one operation of the recording, or as the function stands."""
        operands = (operands[0], *map(_scalar_of_host, operands[1:]))
        values = [a.value if isinstance(a, StandIn) else a for a in operands]
        if not self._is_one_call(values, out, options):
            if xp.__name__ == "array_api_compat.torch" and on_host(operands[0]):
                xp = with_exact_root(xp)
            return self.function(xp, *operands, **options)
        recording = operands[0].recording
        given = None
        if out is not None:  # what was given up is written when all has gone well
            outs = [
                o.value if isinstance(o, StandIn) else o
                for o in (out if isinstance(out, tuple) else (out,))
            ]
            given = tuple([namespace(o).empty_like(o) for o in outs])
            given = given if isinstance(out, tuple) else given[0]
        results = self(*values, out=given, **options)
        many = isinstance(results, tuple)
        made = [recording.fresh(r) for r in (results if many else (results,))]
        # A 0-d tensor of the host takes part as a number, as it does without a recording.
        operands = tuple(
            [a.item() if isinstance(a, StandIn) and not a.shape else a for a in operands]
        )
        recording.add("elementwise", self, operands, options, made, many=many)
        return tuple(made) if many else made[0]

    def _is_one_call(self, values: list, out: Any, options: dict[str, Any]) -> bool:
        """Whether a replay can leave the operands to a program, with the same bits."""
        seen = as_numpy(values)
        fit = _fit(tuple(seen), None) if seen is not None and values[0].shape else None
        if fit is None:
            return False
        program = self._program(fit[0], fit[2], [], options)
        if program is None or seen is values:
            return program is not None
        return _is_alike(program, values)

    def _through_numpy(self, operands: tuple, out: Any, options: dict[str, Any]) -> bool:
        """Write into tensors on the CPU, where NumPy can see them: it gives the same bits."""
        outs = out if isinstance(out, tuple) else (out,)
        try:
            seen = {id(a): a.numpy() for a in (*operands, *outs) if hasattr(a, "numpy")}
        except (TypeError, RuntimeError):  # bfloat16; a transformation of torch.func
            return False
        values = tuple([seen.get(id(a), a) for a in operands])
        return self._in_one_pass(values, tuple([seen[id(o)] for o in outs]), options, exact=True)[0]

    def _trace(self, values: list, aliases: tuple, options: dict[str, Any]) -> Program | None:
        # ones, as there may be no element
        samples = [np.ones(1, a.dtype) if isinstance(a, np.ndarray) else a for a in values]
        try:
            program = trace(functools.partial(self.function, **options), samples, aliases)
        except Untraceable:
            return None
        program.source = exact_source(program)
        return program


def _is_alike(program: Program, operands: Sequence[Any]) -> bool:
    """Whether NumPy gives the bits that PyTorch gives."""
    # A 0-d tensor has a dtype that what is made of scalars is rounded to; a number has none.
    source = program.source
    alike = source is not None and source.as_torch
    return alike and not any(hasattr(operands[r], "shape") for r in program.combined)


def kept(xp: Any, condition: Any, a: Any) -> Any:
    """Return `a` where the condition holds, else 0, also where `a` is infinite or NaN.

    In place of ``a * condition``, in elementwise functions and elsewhere, and as fast: where
    PyTorch selects on the CPU, it is ten times as slow as NumPy here.
    """
    if type(a) is np.ndarray:
        found = _kept_on_host(condition, a)
        if found is not None:
            return found
    elif xp.__name__ == "array_api_compat.torch" and not is_traced():
        with contextlib.suppress(*_UNSEEN):
            found = _kept_on_host(condition.numpy(), a.numpy())
            if found is not None:
                return as_given(found, a)
    return xp.where(condition, a, 0.0)


def _kept_on_host(condition: Any, a: np.ndarray) -> np.ndarray | None:
    if a.size <= PLAIN and a.ndim and a.dtype.char in BITS:
        return (a.view(BITS[a.dtype.char]) * condition).view(a.dtype)  # `kept_into`, in two calls
    if not can_be_kept(condition, a, a) or a.shape != condition.shape:
        return None
    out = empty(a.shape, a.dtype)
    kept_into(condition, a, out)
    return out


def seen_now(a: Any) -> np.ndarray | None:
    """Return an array as NumPy sees it, whose values may be looked at; None if they may not."""
    if type(a) is np.ndarray:
        return a
    if isinstance(a, StandIn) or namespace(a).__name__ != "array_api_compat.torch" or is_traced():
        return None
    try:
        return a.numpy()
    except _UNSEEN:
        return None


def as_given(found: np.ndarray, like: Any) -> Any:
    """Return what was computed from `seen_now(like)` as an array of that library."""
    return found if isinstance(like, np.ndarray) else sys.modules["torch"].from_numpy(found)


# What tensors raise that NumPy cannot see: a device, bfloat16, a transformation of torch.func; and
# stand-ins for tensors.
_UNSEEN = (TypeError, RuntimeError, AttributeError)


def as_numpy(values: list) -> list | None:
    """Return the operands as NumPy sees them; None where there is one that it cannot."""
    if isinstance(values[0], np.ndarray):
        return values
    if namespace(values[0]).__name__ != "array_api_compat.torch" or not on_host(values[0]):
        return None
    try:
        return [a.numpy() if hasattr(a, "numpy") else a for a in values]
    except (TypeError, RuntimeError):  # bfloat16; a transformation of torch.func
        return None


def _scalar_of_host(a: Any) -> Any:
    """Return the stand-in for a NumPy scalar as that for a Python number, as `_scalar` does."""
    if isinstance(a, StandIn) and isinstance(a.value, _NUMPY) and not a.shape:
        return a.item()
    return _scalar(a)


def _scalar(a: Any) -> Any:
    """Return a 0-d array as a Python number: it takes part in arithmetic without a dtype."""
    return a.item() if isinstance(a, _NUMPY) and not a.ndim else a


def _fit(operands: tuple, out: Any) -> tuple[list, tuple, list, list] | None:
    """Return operands and outs as a program takes them, their kinds, and which is in whose place.

    None, unless all arrays are contiguous and of one shape.
    """
    shape = operands[0].shape
    if not shape:  # the others are arrays too, and NumPy makes scalars of results
        return None
    values, kinds = [], []
    for a in operands:
        kind: Any = type(a)
        if kind is np.ndarray and a.shape == shape:
            if not a.flags.c_contiguous:
                return None
            kind = a.dtype
        elif kind is not float:
            a = _scalar(a)
            kind = type(a)
            if kind is int:
                if not -LARGEST <= a <= LARGEST:
                    return None
            elif kind not in (float, bool):
                return None
        values.append(a)
        kinds.append(kind)
    outs = () if out is None else out if isinstance(out, tuple) else (out,)
    ids = [*map(id, operands)] if outs else []
    aliases = []  # for each of them the operand that it is
    for o in outs:
        if type(o) is not np.ndarray or o.shape != shape:
            return None
        flags = o.flags
        times = ids.count(id(o))
        if not (flags.c_contiguous and flags.writeable) or times > 1:
            return None
        aliases.append(ids.index(id(o)) if times else None)
    return values, outs, kinds, aliases


def _run(program: Program, values: list, outs: tuple) -> None:
    """Run `program`, in blocks where the arrays are large, and in threads where it pays."""
    n = outs[0].size
    if program.kernel is not None and n < THREADED_KERNEL:
        return program.kernel(values, outs)
    if program.kernel is None and n <= STRAIGHT:
        return program.straight(values, outs)
    values = [a.ravel() if isinstance(a, np.ndarray) else a for a in values]
    flat = [o.ravel() for o in outs]
    threaded = program.kernel is not None or n >= THREADED
    if not threaded or usable_cores() == 1:
        return program.run(values, flat, 0, n, BLOCK)

    def run(starts: Iterator[int]) -> None:
        for start in starts:
            program.run(values, flat, start, min(start + PART, n), PART)

    return share(run, range(0, n, PART))


def _write(xp: Any, results: Any, out: Any) -> Any:
    """Put `results` into `out` where the arrays can be written, else return them as they are."""
    if isinstance(out, tuple):
        return tuple(_write(xp, r, o) for r, o in zip(results, out, strict=True))
    if out is results:
        return out
    if tuple(out.shape) != tuple(results.shape) or out.dtype != results.dtype:
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
