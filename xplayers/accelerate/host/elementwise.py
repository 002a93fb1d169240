"""Elementwise functions on the CPU: blocks that stay in the cache, threads, machine code."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from xplayers.accelerate.host.activations import kernel_of
from xplayers.accelerate.host.machine_code import LARGEST, compiled, elements_before, exact_source
from xplayers.accelerate.host.memory import empty
from xplayers.accelerate.host.program import Program, trace
from xplayers.accelerate.host.threads import share, usable_cores
from xplayers.accelerate.tape import BITS, Untraceable, constants_key, select_into, selects_bits
from xplayers.arrays.elementwise import as_it_stands, scalar
from xplayers.arrays.namespaces import namespace, on_host

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


def evaluate(x: Any, function: Any, operands: tuple, out: Any, options: dict[str, Any]) -> Any:
    """Evaluate a function of large NumPy arrays, or one that is machine code, in one pass."""
    kernel = kernel_of(function, x, out)
    if kernel is not None:
        return kernel(x, out)
    if (x.size > PLAIN or function.compiled) and type(x) is np.ndarray:
        results = in_one_pass(function, operands, out, options)
        if results is not NotImplemented:
            return results
    if out is None and all([type(a) is np.ndarray and a.ndim for a in operands]):
        return function.function(namespace(x), *operands, **options)  # the common case, told fast
    return as_it_stands(namespace(x), function, operands, out, options)


def in_one_pass(
    function: Any, operands: Sequence[Any], out: Any, options: dict[str, Any], exact: bool = False
) -> Any:
    """Evaluate the program of a function; NotImplemented where that is unfit.

    With `exact` only a program whose results every library has to round alike.
    """
    fit = _fit(operands, out)
    if fit is None:
        return NotImplemented
    values, outs, kinds, aliases = fit
    program = _program(function, values, kinds, aliases, options)
    if program is None or (exact and not is_alike(program, operands)):
        return NotImplemented
    if not outs:
        outs = tuple([empty(values[0].shape, dtype) for dtype in program.result_dtypes])
    elif tuple([o.dtype for o in outs]) != program.result_dtypes:
        return NotImplemented
    _count(function, program, outs[0].size)
    _run(program, values, outs)
    return outs if program.many else outs[0]


def program_of(function: Any, operands: Sequence[Any], options: dict[str, Any]) -> Program | None:
    """Return the program of a function for NumPy arrays and numbers; None where that is unfit."""
    fit = _fit(operands, None)
    return None if fit is None else _program(function, fit[0], fit[2], [], options)


def prepared(
    function: Any, values: list, outs: tuple, options: dict[str, Any]
) -> Callable[..., None] | None:
    """Return ``run(*scalars)``, which writes into `outs` in each call; None if that is unfit.

    `values` are the operands: NumPy arrays, whose values change, and numbers, which `run` takes
    in their order. An array of `outs` may be one of `values`.
    """
    fit = _fit(tuple(values), outs)
    if fit is None:
        return None
    operands, outs, kinds, aliases = fit
    if int in kinds:  # one that is too large is no number for a kernel
        return None
    program = _program(function, operands, kinds, aliases, options)
    if program is None or tuple([o.dtype for o in outs]) != program.result_dtypes:
        return None
    arrays = [v for v in operands if isinstance(v, np.ndarray)]
    if any(isinstance(v, np.ndarray) for v in operands[len(arrays) :]):
        return None  # numbers come after the arrays
    # contiguous arrays as vectors: what every call would do otherwise
    arrays = [a.ravel() for a in arrays]
    flat = tuple([o.ravel() for o in outs])
    n = flat[0].size
    fixed = program.bound(arrays, flat) if n <= STRAIGHT else None
    if fixed is not None and elements_before() == math.inf:
        fixed.__name__ = function.__name__  # for profiles
        return fixed

    def run(*scalars: Any) -> None:
        nonlocal kernel
        if kernel is not None:
            return kernel(*scalars)
        _count(function, program, n)
        if program.kernel is not None and n < THREADED_KERNEL:
            kernel = program.kernel.bound(arrays, flat)
            return kernel(*scalars)
        return fixed(*scalars) if fixed else _run(program, [*arrays, *scalars], flat)

    kernel = None
    run.__name__ = function.__name__
    return run


def viewed(values: list) -> list | None:
    """Return tensors on the CPU as NumPy sees them; None where there is one that it cannot."""
    if isinstance(values[0], np.ndarray):
        return values
    if not hasattr(values[0], "numpy") or not on_host(values[0]):
        return None
    try:
        return [a.numpy() if hasattr(a, "numpy") else a for a in values]
    except (TypeError, RuntimeError):  # bfloat16; a transformation of torch.func
        return None


def _program(
    function: Any, values: list, kinds: list, aliases: list, options: dict[str, Any]
) -> Program | None:
    constants = constants_key(options) if options else ()
    if constants is None:
        return None
    key = (*kinds, None, *aliases, *constants)
    try:
        return function.programs[key]
    except KeyError:
        program = _traced(function, values, tuple(aliases), options)
        function.keep(key, program)
        return program


def _traced(function: Any, values: list, aliases: tuple, options: dict[str, Any]) -> Program | None:
    # ones, as there may be no element
    samples = [np.ones(1, a.dtype) if isinstance(a, np.ndarray) else a for a in values]
    try:
        program = trace(functools.partial(function.function, **options), samples, aliases)
    except Untraceable:
        return None
    program.source = exact_source(program)
    return program


def _count(function: Any, program: Program, elements: int) -> None:
    """Compile a program that has been run over enough elements."""
    if program.kernel is None and program.work <= elements_before():
        program.work += elements
        if program.work > elements_before():
            program.kernel = compiled(program)
            function.compiled = program.kernel is not None


def is_alike(program: Program, operands: Sequence[Any]) -> bool:
    """Whether NumPy gives the bits that PyTorch gives."""
    # A 0-d tensor has a dtype that what is made of scalars is rounded to; a number has none.
    source = program.source
    alike = source is not None and source.as_torch
    return alike and not any(hasattr(operands[r], "shape") for r in program.combined)


def zero_unless(a: Any, condition: Any, xp: Any) -> Any:
    """Select without a branch; PyTorch's own selection on the CPU is ten times as slow."""
    if type(a) is not np.ndarray:
        return NotImplemented
    if a.size <= PLAIN and a.ndim and a.dtype.char in BITS:
        return (a.view(BITS[a.dtype.char]) * condition).view(a.dtype)  # `select_into`, in two calls
    if not selects_bits(condition, a, a) or a.shape != condition.shape:
        return NotImplemented
    out = empty(a.shape, a.dtype)
    select_into(condition, a, out)
    return out


def _fit(operands: Sequence[Any], out: Any) -> tuple[list, tuple, list, list] | None:
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
            a = scalar(a)
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
