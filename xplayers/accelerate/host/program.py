"""What an elementwise function does, written down once as a list of NumPy ufuncs.

`tape` writes the operations down; here they become source, with memory for what lies between them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xplayers.accelerate.operators import COMPARISON_UFUNCS, WITH_NUMBERS, array_of_number
from xplayers.accelerate.tape import (
    BITS,
    Cast,
    Step,
    Tape,
    select_into,
    selects_bits,
    where_into,
)


def trace(
    function: Callable[..., Any], samples: Sequence[Any], aliases: tuple[int | None, ...]
) -> Program:
    """Return the program of ``function(xp, *operands)``.

    `samples` are, for each operand, one element of it (an array of shape ``(1,)``) or a Python
    number; `aliases`, for each result, the operand whose memory it will be written to, or None.
    `Untraceable`: the function does more than ufuncs, casts and ``where``.
    """
    tape = Tape(samples)
    results, many = tape.run(function)
    return Program(tape, results, many, aliases)


# NumPy's loops of maximum and minimum are four times as fast between two arrays as with a scalar.
# So a scalar is spread over one row, which stays in the cache, and the blocks are seen as rows of
# that length. Rows shorter than the buffer of NumPy's iterator (8192) would be copied.
ROW = 16_384


class Program:
    """The steps of one elementwise function for given dtypes, with its memory planned.

    Attributes
    ----------
    straight : callable
        ``straight(operands, outs)`` evaluates arrays of one shape at once.
    bound : callable
        ``bound(arrays, outs)`` returns ``run(*scalars)``, which does the same on this memory.
    """

    def __init__(
        self, tape: Tape, results: list[int], many: bool, aliases: tuple[int | None, ...]
    ) -> None:
        aliases = aliases or (None,) * len(results)  # no memory was given
        self.many, self.results, self.aliases = many, results, aliases
        self.result_dtypes = tuple(tape.registers[r].dtype for r in results)
        self.arrays = [v.register for v in tape.operands if not v.scalar]
        # What was written down, for a compiler.
        self.n_operands = len(tape.operands)
        self.samples, self.constants = tape.registers, tape.constants
        self.once, self.recorded = tape.once, tape.steps
        met = {r for _, inputs, _ in tape.once for r in inputs}
        self.combined = [r for r in range(self.n_operands) if r in met]  # scalars with scalars
        self.dtypes = {s.dtype for s in tape.registers if isinstance(s, np.ndarray)}
        self.source: Any = None  # for it, if all operations are exactly rounded
        self.kernel: Any = None  # what it has made of that
        self.work = 0  # elements so far
        tape.steps = _fused(tape, results)
        memory = _Memory(tape, results, aliases)
        # What a register is called in the source: x, y, w for operands, results and scratch memory,
        # s for a scalar.
        names = {r: f"s{r}" for r in range(len(tape.registers))}
        names |= {r: f"x{r}" for r in self.arrays}
        names |= {r: f"y{k}" for r, k in memory.result_of.items()}
        names |= {r: f"w{i}" for r, i in memory.block_of.items()}
        source = _Source(tape, names, memory.dtypes, len(results))
        for step in tape.steps:
            source.add(tape, step)
        for r, k in memory.copies:
            source.call(Cast(), [names[r]], f"y{k}")
        self.single = len(source.calls) == 1
        self.has_rows = bool(source.rows or source.constant_rows)
        self.straight, self.bound, self._loop = source.compiled()

    def run(
        self, operands: list, outs: list[np.ndarray], start: int, stop: int, block: int
    ) -> None:
        """Evaluate elements `start` to `stop` of the flat `operands` into the flat `outs`."""
        if self.kernel is not None:
            part = [a[start:stop] if isinstance(a, np.ndarray) else a for a in operands]
            self.kernel(part, [out[start:stop] for out in outs])
            return
        if self.single:
            block = stop - start  # each value is touched once: there is nothing to keep in a cache
        if self.has_rows:
            whole = stop - (stop - start) % ROW
            if start < whole:
                self._run(operands, outs, slice(start, whole), max(block // ROW, 1), (ROW,))
            start, block = whole, ROW  # what is left is less than a row, and one block
        if start < stop:
            self._run(operands, outs, slice(start, stop), block, ())

    def _run(
        self, operands: list, outs: list[np.ndarray], part: slice, block: int, width: tuple
    ) -> None:
        """Run the loop over a part of the arrays, seen as rows of `width`, `block` at a time."""
        values = list(operands)
        for r in self.arrays:
            values[r] = values[r][part].reshape(-1, *width)
        self._loop(values, [out[part].reshape(-1, *width) for out in outs], block, width)


class _Source:
    """The source of a program: for arrays that are one block, and for a loop over blocks.

    For ``y = maximum(x, 0) * k``, with the 0 spread over a row, it is ::

        def straight(operands, outs):
            (x0, s1,) = operands
            (y0,) = outs
            row0 = r2(y0.shape)
            f3(x0, row0, out=y0)
            f4(y0, s1, y0)


        def bound(arrays, outs):
            (x0,) = arrays
            (y0,) = outs
            row0 = r2(y0.shape)

            s1f = c5()

            def run(s1):
                s1f[()] = s1
                f3(x0, row0, out=y0)
                f4(y0, s1f, y0)

            return run


        def loop(operands, outs, block, width):
            (X0, s1,) = operands
            (Y0,) = outs
            n = len(Y0)
            row0 = r2(width or n)
            for lo in range(0, n, block):
                hi = lo + block
                x0 = X0[lo:hi]
                y0 = Y0[lo:hi]
                f3(x0, row0, out=y0)
                f4(y0, s1, y0)
    """

    def __init__(self, tape: Tape, names: dict[int, str], dtypes: list, n_outs: int) -> None:
        self.names = names
        self.operands = [names[v.register] for v in tape.operands]
        self.outs = [f"y{k}" for k in range(n_outs)]
        self.scratch = [f"w{i}" for i in range(len(dtypes))]
        # What the source speaks of beside its variables.
        self.defined: dict[str, Any] = {"empty": np.empty, "full": np.full}
        self.defined |= {f"d{i}": dtype for i, dtype in enumerate(dtypes)}
        self.defined |= {names[r]: value for r, value in _constants(tape).items()}
        self.once: list[str] = []
        self.constant_rows: list[tuple[str, str]] = []  # their names, and that of what makes them
        self.rows: list[tuple[str, str, str]] = []  # names of row, scalar and dtype
        self.views: dict[str, str] = {}  # by name, what makes them
        self.calls: list[tuple[str, list[str], str]] = []  # functions, operands, where they write
        self.boxes: dict[str, tuple[str, str]] = {}  # 0-d arrays: their scalars, what makes them
        for operation, inputs, output in tape.once:
            operands = ", ".join(names[r] for r in inputs)
            self.once.append(f"{names[output]} = {self._define('f', operation)}({operands})")

    def add(self, tape: Tape, step: Step) -> None:
        """Add one step."""
        operation, inputs, output = step
        operands = [self.names[r] for r in inputs]
        if operation is select_into:  # of views that are made once
            bits = BITS[tape.registers[output].dtype.char]
            operands = [self._view(operands[1], bits), operands[0]]
            self.call(np.multiply, operands, self._view(self.names[output], bits))
            return
        beside = _dtype_beside(tape, step)
        if beside is not None:
            operands = [self._box(tape, r, beside) for r in inputs]
        if operation in (np.maximum, np.minimum):
            for i, r in enumerate(inputs):
                if not isinstance(tape.registers[r], np.ndarray):
                    operands[i] = self._row(tape, r, tape.registers[output].dtype)
        self.call(operation, operands, self.names[output])

    def _box(self, tape: Tape, r: int, dtype: Any) -> str:
        """Return the name of an input; of a number that changes that of its 0-d array.

        Where the memory is bound, it is put into that in each call.
        """
        name = self.names[r]
        if r in tape.constants or type(tape.registers[r]) is not float or dtype.kind != "f":
            return name
        box = f"{name}{dtype.char}"
        if box not in self.boxes:
            self.boxes[box] = name, self._define("c", functools.partial(np.zeros, (), dtype))
        return box

    def _view(self, name: str, dtype: Any) -> str:
        """Return the name of an array seen as another dtype."""
        view = f"{name}_bits"
        self.views[view] = f"{name}.view({self._define('d', dtype)})"
        return view

    def _row(self, tape: Tape, scalar: int, dtype: Any) -> str:
        """Return the name of a row that is full of a scalar."""
        row = f"row{len(self.rows) + len(self.constant_rows)}"
        if scalar in tape.constants:
            value = tape.constants[scalar]
            output = self._define("r", _constant_row(value, repr(value), dtype))
            self.constant_rows.append((row, output))
        else:
            self.rows.append((row, self.names[scalar], self._define("d", dtype)))
        return row

    def call(self, operation: Any, operands: list[str], output: str) -> None:
        """Add the call of `operation`, by the names of its inputs and of what it makes."""
        # NumPy reads `out` faster by position, but has deprecated that for these two.
        out = f"out={output}" if operation in (np.maximum, np.minimum) else output
        self.calls.append((self._define("f", operation), operands, out))

    def _lines(self, boxed: bool) -> list[str]:
        """Return the calls, with the numbers that change in their 0-d arrays or as they come."""
        names = {} if boxed else {box: scalar for box, (scalar, _) in self.boxes.items()}
        return [
            f"{function}({', '.join([*(names.get(o, o) for o in operands), out])})"
            for function, operands, out in self.calls
        ]

    def compiled(self) -> tuple[Any, Any, Any]:
        """Return the three functions."""
        constant = [f"{row} = {r}(y0.shape)" for row, r in self.constant_rows]
        views = [f"{view} = {output}" for view, output in self.views.items() if view[0] != "w"]
        scratch = [f"{view} = {output}" for view, output in self.views.items() if view[0] == "w"]
        changing = [
            *self.once,
            *[f"{w} = empty(y0.shape, d{i})" for i, w in enumerate(self.scratch)],
            *scratch,
            *[f"{row} = full(y0.shape, {s}, {d})" for row, s, d in self.rows],
        ]
        boxes = [f"{box} = {make}()" for box, (_, make) in self.boxes.items()]
        filled = [f"{box}[()] = {scalar}" for box, (scalar, _) in self.boxes.items()]
        calls = self._lines(boxed=False)
        arrays = [x for x in self.operands if x[0] == "x"]
        scalars = [x for x in self.operands if x[0] != "x"]
        straight = [*_unpacked(self.operands, self.outs), *views, *constant, *changing, *calls]
        bound = [
            *_unpacked(arrays, self.outs, "arrays"),
            *views,
            *constant,
            *boxes,
            f"def run({', '.join(scalars)}):",
            *[f"    {line}" for line in (*changing, *filled, *self._lines(boxed=True))],
            "return run",
        ]
        blocks = arrays + self.outs
        operands = [x.upper() if x[0] == "x" else x for x in self.operands]
        loop = [
            *_unpacked(operands, [y.upper() for y in self.outs]),
            "n = len(Y0)",
            *self.once,
            *[f"{w.upper()} = empty((min(block, n), *width), d{i})"
              for i, w in enumerate(self.scratch)],
            *[f"{row} = {r}(width or n)" for row, r in self.constant_rows],
            *[f"{row} = full(width or n, {s}, {d})" for row, s, d in self.rows],
            "for lo in range(0, n, block):",
            "    hi = lo + block",
            *[f"    {x} = {x.upper()}[lo:hi]" for x in blocks],
            *[f"    {w} = {w.upper()}[: n - lo]" for w in self.scratch],
            *[f"    {line}" for line in (*views, *scratch)],
            *[f"    {call}" for call in calls],
        ]  # fmt: skip
        self._define_function("straight(operands, outs)", straight)
        self._define_function("bound(arrays, outs)", bound)
        self._define_function("loop(operands, outs, block, width)", loop)
        return self.defined["straight"], self.defined["bound"], self.defined["loop"]

    def _define_function(self, head: str, lines: list[str]) -> None:
        exec("\n".join([f"def {head}:", *[f"    {line}" for line in lines]]), self.defined)

    def _define(self, letter: str, value: Any) -> str:
        name = f"{letter}{len(self.defined)}"
        self.defined[name] = value
        return name


_TAKE_NUMBERS = tuple([getattr(np, name) for name in WITH_NUMBERS])


def _dtype_beside(tape: Tape, step: Step) -> Any:
    """Return the dtype that a number takes in a step; None where there is no or another rule."""
    operation, inputs, _ = step
    samples = [tape.registers[r] for r in inputs]
    dtypes = {sample.dtype for sample in samples if isinstance(sample, np.ndarray)}
    return dtypes.pop() if operation in _TAKE_NUMBERS and len(dtypes) == 1 else None


def _constants(tape: Tape) -> dict[int, Any]:
    """Return the constants, those that stand only beside arrays of one dtype as 0-d arrays."""
    dtypes: dict[int, set[Any]] = {r: set() for r in tape.constants}
    for step in (*tape.once, *tape.steps):
        for r in dtypes.keys() & set(step[1]):
            dtypes[r].add(_dtype_beside(tape, step))
    return {
        r: value if None in beside or len(beside) != 1 else array_of_number(value, *beside)
        for r, value in tape.constants.items()
        for beside in [dtypes[r]]
    }  # fmt: skip


def _unpacked(operands: list[str], outs: list[str], name: str = "operands") -> list[str]:
    return [f"({', '.join(operands)},) = {name}", f"({', '.join(outs)},) = outs"]


class _ConstantRow:
    """A row full of one number, for all programs; its memory is made when it is first needed."""

    def __init__(self, value: Any, dtype: Any) -> None:
        self.value, self.whole = value, np.empty(0, dtype)

    def __call__(self, shape: Any) -> np.ndarray:
        n = math.prod(shape) if isinstance(shape, tuple) else shape
        whole = self.whole  # another thread may put another one there
        if len(whole) < n:
            whole = self.whole = np.full(n, self.value, whole.dtype)
            whole.flags.writeable = False
        return whole[:n].reshape(shape)


@functools.lru_cache(maxsize=64)
def _constant_row(value: Any, text: str, dtype: Any) -> _ConstantRow:
    return _ConstantRow(value, dtype)  # `text` tells -0.0 from 0.0


def _fused(tape: Tape, results: list[int]) -> list[Step]:
    """Leave casts between truth values and numbers to the ufunc before or after them.

    ``astype(a > b, dtype)`` and ``c * astype(mask, dtype)`` are then one pass in place of two: the
    ufunc casts while the values are in its buffer.
    """
    steps = [_selection(tape, step) for step in tape.steps]
    uses = [r for _, inputs, _ in steps for r in inputs] + results
    fused: list[Step] = []
    for step in steps:
        operation, inputs, output = step
        before: Any
        before, operands, last = fused[-1] if fused else (None, (-1,), -1)
        if uses.count(last) == 1 and last in inputs:
            dtype = tape.registers[output].dtype
            if isinstance(operation, Cast) and before in COMPARISON_UFUNCS:
                fused[-1] = functools.partial(before, casting="unsafe"), operands, output
                continue
            of_truth = isinstance(before, Cast) and tape.registers[operands[0]].dtype == np.bool_
            if of_truth and operation is np.multiply and dtype == tape.registers[last].dtype:
                inputs = tuple(operands[0] if r == last else r for r in inputs)
                fused[-1] = functools.partial(np.multiply, dtype=dtype), inputs, output
                continue
        fused.append(step)
    return fused


def _selection(tape: Tape, step: Step) -> Step:
    """Return ``where(condition, a, 0.0)`` as a product, which may be written over `a`."""
    operation, inputs, output = step
    if operation is where_into and inputs[2] in tape.constants:
        condition, a, otherwise = (tape.constants.get(r, tape.registers[r]) for r in inputs)
        if selects_bits(condition, a, tape.registers[output], otherwise):
            return select_into, inputs[:2], output
    return step


class _Memory:
    """Which memory each value of a program is written to: that of a result, or a scratch block.

    Attributes
    ----------
    result_of : dict
        For registers, the index of the result whose memory they are written to.
    copies : list
        The registers of results, and their indices, that are copied there afterwards.
    block_of, dtypes : dict, list
        For registers, the scratch block; the dtypes of the blocks.
    """

    def __init__(self, tape: Tape, results: list[int], aliases: tuple[int | None, ...]) -> None:
        self._registers, self._steps, self._aliases = tape.registers, tape.steps, aliases
        self._last_use = {r: at for at, (_, inputs, _) in enumerate(self._steps) for r in inputs}
        # Whether a step may be written over its input: a ufunc, also one that casts.
        self._over = [not (isinstance(f, Cast) or f is where_into) for f, _, _ in self._steps]
        self.result_of: dict[int, int] = {}
        self.copies: list[tuple[int, int]] = []
        self.block_of: dict[int, int] = {}
        self.dtypes: list[Any] = []
        self._assign_results(results)
        self._assign_intermediates()
        self._assign_scratch()

    def _assign_results(self, results: list[int]) -> None:
        """Write results where they belong, unless a later step still reads an operand there.

        A result that appears twice is copied too.
        """
        computed_at = {output: at for at, (_, _, output) in enumerate(self._steps)}
        for k, r in enumerate(results):
            alias, at = self._aliases[k], computed_at[r]
            read_until = -1 if alias is None else self._last_use.get(alias, -1)
            if r not in self.result_of and (alias is None or read_until < at + self._over[at]):
                self.result_of[r] = k
            else:
                self.copies.append((r, k))

    def _assign_intermediates(self) -> None:
        """Write other values where a result will be, until it is computed: less memory to touch.

        Where that memory is an operand's too, they come after its last use.
        """
        assigned = {*self.result_of, *(r for r, _ in self.copies)}
        for end, (_, _, result) in enumerate(self._steps):
            k = self.result_of.get(result)
            if k is None:
                continue
            alias, vacant = (
                self._aliases[k],
                -1,
            )  # the step that reads what is there for the last time
            vacant = vacant if alias is None else self._last_use.get(alias, vacant)
            for at, (_, _, output) in enumerate(self._steps[:end]):
                until = self._last_use.get(output, at)
                fits = at + self._over[at] > vacant and until < end + self._over[end]
                same = self._registers[output].dtype == self._registers[result].dtype
                if output not in assigned and output not in self.result_of and fits and same:
                    self.result_of[output], vacant = k, until

    def _assign_scratch(self) -> None:
        """Write what is left to scratch blocks, which are used again when they are free."""
        copied = {r for r, _ in self.copies}
        free: list[int] = []
        for at, (_, inputs, output) in enumerate(self._steps):
            released = [
                self.block_of[r]
                for r in set(inputs)
                if r in self.block_of and self._last_use[r] == at and r not in copied
            ]
            if output not in self.result_of:
                dtype = self._registers[output].dtype
                ready = free + (released if self._over[at] else [])
                fit = next((b for b in ready if self.dtypes[b] == dtype), None)
                if fit is None:
                    fit = len(self.dtypes)
                    self.dtypes.append(dtype)
                else:
                    (free if fit in free else released).remove(fit)
                self.block_of[output] = fit
            free += released
