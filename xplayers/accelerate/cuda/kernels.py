"""Generated kernels on CuPy arrays: which operands fit, what is kept, how a kernel is launched."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from xplayers.accelerate.cuda.pointer_table import table_of
from xplayers.accelerate.cuda.source import INDEX, OPTIONS, THREADS, Kernel, Operand, translate
from xplayers.accelerate.tape import Untraceable, constants_key, value_key

RESIDENT = 2048  # threads that a multiprocessor holds at most


class Launcher:
    """Runs a kernel where its arrays are, on CuPy's current stream there.

    It is compiled at the first launch on a device, and CuPy keeps what it has compiled on disk.
    """

    def __init__(self, text: str, name: str) -> None:
        cupy: Any = importlib.import_module("cupy")

        self._kernel = cupy.RawKernel(text, name, OPTIONS)

    def __call__(self, device: Any, blocks: int, threads: int, args: Sequence[Any]) -> None:
        """Launch at most so many blocks as the device holds at once; kernels loop over the rest."""
        most = _multiprocessors(device.id) * (RESIDENT // threads)
        with device:
            self._kernel((min(blocks, most),), (threads,), tuple(args))


@functools.cache
def _multiprocessors(device_id: int) -> int:
    cupy: Any = importlib.import_module("cupy")

    return cupy.cuda.Device(device_id).attributes["MultiProcessorCount"]


class Plan:
    """A kernel of an elementwise function, for operands of given kinds."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.launcher = Launcher(kernel.text, kernel.name)

    def run(self, operands: Sequence[Any], outs: Sequence[Any]) -> None:
        """Evaluate all elements."""
        kernel, first = self.kernel, operands[0]
        if first.size:
            args = kernel.arguments(operands, [outs[k] for k in kernel.own])
            blocks = -(-first.size // (kernel.width * THREADS))
            self.launcher(first.device, blocks, THREADS, args)

    def run_rows(self, rows: Sequence[tuple[Sequence[Any], Sequence[Any]]]) -> None:
        """Evaluate all elements of rows of operands and results, whose scalars are the same."""
        kernel, operands = self.kernel, rows[0][0]
        scalars, device = kernel.scalar_arguments(operands), operands[0].device
        for start in range(0, len(rows), kernel.rows):
            some = [
                [*[operands[r] for r in kernel.arrays], *[outs[k] for k in kernel.own]]
                for operands, outs in rows[start : start + kernel.rows]
            ]
            table, chunks = table_of(some, kernel.rows, kernel.chunk)
            if chunks:
                self.launcher(device, chunks, THREADS, [table, *scalars])


def evaluate(
    x: Any, function: Any, operands: Sequence[Any], out: Any, options: dict[str, Any]
) -> Any:
    """Evaluate an elementwise function by a kernel.

    Parameters
    ----------
    x : array
        The first operand.
    function : callable
        What `xplayers.arrays.elementwise` returns.
    operands : sequence
        CuPy arrays of the shape of the first one, 0-d CuPy arrays, Python numbers, and `INDEX`.
    out : array, tuple of array or None
        Memory of the results; an operand, or apart from all of them.
    options : dict
        Constants of the function.

    Returns
    -------
    array or tuple of array
        `out`, or new arrays; NotImplemented where this is nothing for a kernel.
    """
    prepared = _prepared(function, operands, out, options)
    if prepared is None:
        return NotImplemented
    plan, outs = prepared
    plan.run(operands, outs)
    return outs if plan.kernel.many else outs[0]


def evaluate_rows(
    x: Any, function: Any, pairs: Iterable[tuple[Sequence[Any], Any]], options: dict[str, Any]
) -> list[Any]:
    """Evaluate an elementwise function for rows of operands, in one launch where they are alike.

    Parameters
    ----------
    x, function, options
        As in `evaluate`.
    pairs : iterable of tuple
        Operands as there, and memory of the results or None.

    Returns
    -------
    list
        The results of each row.

    Notes
    -----
    The addresses of all arrays are an argument of the kernel, so they may lie anywhere. A captured
    graph keeps them, as it keeps those of other kernels.
    """
    results: list[Any] = []
    alike: dict[Any, list[tuple[Sequence[Any], Any]]] = {}
    for row, out in pairs:
        prepared = _prepared(function, row, out, options, rows=True)
        if prepared is None:
            results.append(function(*row, out=out, **options))
            continue
        plan, row_outs = prepared
        scalars = [value_key(a) if isinstance(a, float | int) else id(a)
                   for r, a in enumerate(row) if r not in plan.kernel.arrays]  # fmt: skip
        alike.setdefault((plan, row[0].data.device_id, *scalars), []).append((row, row_outs))
        results.append(row_outs if plan.kernel.many else row_outs[0])
    for (plan, *_), members in alike.items():
        plan.run_rows(members)
    return results


def _prepared(
    function: Any,
    operands: Sequence[Any],
    out: Any,
    options: dict[str, Any],
    *,
    rows: bool = False,
) -> tuple[Plan, tuple[Any, ...]] | None:
    """Return the plan of a function, and the memory of its results; None if it is unfit."""
    fit = _fit(operands, out)
    if fit is None:
        return None
    kinds, outs, aliases = fit
    constants = constants_key(options)
    if constants is None:
        return None
    key = ("cuda rows" if rows else "cuda", *kinds, None, *aliases, *constants)
    try:
        plan = function.programs[key]
    except KeyError:
        plan = _plan(function, operands, kinds, aliases, options, rows)
        function.keep(key, plan)
    if plan is None:
        return None
    dtypes = plan.kernel.result_dtypes
    if not outs:
        outs = tuple([_alike(operands[0], dtype) for dtype in dtypes])
    elif tuple([o.dtype for o in outs]) != dtypes:
        return None
    return plan, outs


def _plan(
    function: Any,
    operands: Sequence[Any],
    kinds: Sequence[Any],
    aliases: Sequence[int | None],
    options: dict[str, Any],
    rows: bool,
) -> Plan | None:
    traced = []
    for a, kind in zip(operands, kinds, strict=True):
        if isinstance(kind, np.dtype):
            traced.append(Operand("array", kind))
        elif isinstance(kind, tuple):
            traced.append(Operand("scalar", *kind))
        else:
            traced.append(a)
    pure = functools.partial(function.function, **options)
    name = function.__name__.strip("_")
    try:
        return Plan(translate(pure, traced, aliases, f"{name}_rows" if rows else name, rows))
    except Untraceable:
        return None


def _fit(operands: Sequence[Any], out: Any) -> tuple[list, tuple, list] | None:
    """Return the kinds of the operands, the outs, and which operand each of these is, if any.

    None, unless all arrays have one shape, one dense layout and one device. The kind of an array is
    its dtype, of a scalar in device memory a tuple of that, and of a number its type.
    """
    first = operands[0]
    array, shape, device = type(first), first.shape, first.data.device_id
    order = layout(first)
    counted = any(a is INDEX for a in operands)  # by rows, whatever the layout
    if order is None or (counted and order != "rows"):
        return None
    kinds: list[Any] = []
    pointers: list[int | None] = []
    for a in operands:
        kind: Any = type(a)
        pointer = None
        if kind is array:
            memory, kind = a.data, a.dtype
            if memory.device_id != device:
                return None
            if a.shape == shape:
                if layout(a) != order:
                    return None
                pointer = memory.ptr
            elif a.ndim:
                return None
            else:
                kind = (kind,)
        elif a is INDEX:
            kind = a
        elif kind not in (float, int, bool):
            return None
        kinds.append(kind)
        pointers.append(pointer)
    outs = () if out is None else out if isinstance(out, tuple) else (out,)
    aliases = []
    for o in outs:
        if type(o) is not array or o.shape != shape or layout(o) != order:
            return None
        memory = o.data
        times = pointers.count(memory.ptr)
        if times > 1 or memory.device_id != device:
            return None
        alias = pointers.index(memory.ptr) if times else None
        if alias is not None and kinds[alias] != o.dtype:
            return None
        aliases.append(alias)
    return kinds, outs, aliases if any(alias is not None for alias in aliases) else []


def layout(a: Any) -> str | None:
    """Return in which order the elements of a dense array lie; None for another array."""
    if a.flags.c_contiguous:
        return "rows"
    if a.ndim > 2 and channels_last(a).flags.c_contiguous:
        return "channels last"
    return None


def channels_last(a: Any) -> Any:
    """Return a view of ``(n, c, *sizes)`` with the channels as the last axis."""
    return a.transpose(0, *range(2, a.ndim), 1)


def channels_first(a: Any) -> Any:
    """Return a view of ``(n, *sizes, c)`` with the channels as the second axis."""
    return a.transpose(0, a.ndim - 1, *range(1, a.ndim - 1))


def laid(a: Any, order: str) -> Any:
    """Return `a` with its elements in the order that `layout` names, itself or a copy."""
    inner = a if order == "rows" else channels_last(a)
    if inner.flags.c_contiguous:
        return a
    return copied(a) if order == "rows" else channels_first(copied(inner))


def empty_laid(like: Any, shape: tuple[int, ...], dtype: np.dtype, order: str) -> Any:
    """Return an array without values, with its elements in the order that `layout` names."""
    if order == "rows":
        return empty(like, shape, dtype)
    return channels_first(empty(like, (shape[0], *shape[2:], shape[1]), dtype))


def _alike(a: Any, dtype: np.dtype) -> Any:
    """Return an array without values, of the shape and layout of `a`."""
    return empty_laid(a, a.shape, dtype, "rows" if a.flags.c_contiguous else "channels last")


def empty(like: Any, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    """Return an array without values on the device of the array `like`."""
    cupy: Any = importlib.import_module("cupy")

    with like.device:
        return cupy.empty(shape, dtype)


def full(like: Any, value: bool) -> Any:
    """Return a 0-d array of a truth value on the device of the array `like`."""
    cupy: Any = importlib.import_module("cupy")

    with like.device:
        return cupy.full((), value)


def copied(a: Any) -> Any:
    """Return a copy of `a` by rows, on its device."""
    with a.device:
        return a.copy(order="C")
