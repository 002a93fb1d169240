"""What an elementwise function does, written down once as a list of NumPy ufuncs.

The function is called with stand-ins that record every operation on them. Each stand-in carries a
sample of one element, so dtypes come from NumPy itself and no promotion rule is repeated here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


class Untraceable(Exception):
    """The function does something that is not a ufunc, a cast or ``where``."""


class _Value(np.lib.mixins.NDArrayOperatorsMixin):
    """A stand-in for an operand or an intermediate result."""

    def __init__(self, tape: _Tape, register: int, sample: Any) -> None:
        self.tape, self.register, self.sample = tape, register, sample

    @property
    def dtype(self) -> Any:
        return self.sample.dtype

    @property
    def scalar(self) -> bool:
        return not isinstance(self.sample, np.ndarray)

    def astype(self, dtype: Any, copy: bool = True) -> _Value:
        return self.tape.record(_cast(dtype), (self,), self.sample.astype(dtype))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> _Value:
        if method != "__call__" or kwargs or ufunc.nout != 1:
            raise Untraceable
        samples = [i.sample if isinstance(i, _Value) else i for i in inputs]
        with np.errstate(all="ignore"):
            return self.tape.record(ufunc, inputs, ufunc(*samples))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> _Value:
        if func is not np.where or len(args) != 3 or kwargs:
            raise Untraceable
        samples = [i.sample if isinstance(i, _Value) else i for i in args]
        return self.tape.record(_where, args, np.where(*samples))

    def __bool__(self) -> bool:
        raise Untraceable


class _Namespace:
    """NumPy, whose ``astype`` takes stand-ins too."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def astype(x: _Value, dtype: Any, copy: bool = True) -> _Value:
        return x.astype(dtype, copy=copy)


def _cast(dtype: Any) -> Callable[..., None]:
    def cast(a: np.ndarray, out: np.ndarray) -> None:
        np.copyto(out, a, casting="unsafe")

    return cast


def _where(condition: Any, a: Any, b: Any, out: np.ndarray) -> None:
    np.copyto(out, b)
    np.copyto(out, a, where=condition)


class _Tape:
    """The operations so far. Registers: the operands first, then constants and results."""

    def __init__(self, samples: Sequence[Any]) -> None:
        self.operands = [_Value(self, i, s) for i, s in enumerate(samples)]
        self.registers: list[Any] = list(samples)  # a sample each
        self.constants: dict[int, Any] = {}
        self.once: list[tuple[Any, tuple[int, ...], int]] = []  # scalars only: once a call
        self.steps: list[tuple[Any, tuple[int, ...], int]] = []  # once a block

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

    def constant(self, value: Any) -> _Value:
        if not isinstance(value, (bool, int, float)):
            raise Untraceable
        self.constants[len(self.registers)] = value
        self.registers.append(value)
        return _Value(self, len(self.registers) - 1, value)


def trace(
    function: Callable[..., Any], samples: Sequence[Any], aliases: tuple[int | None, ...]
) -> Program:
    """Return the program of ``function(xp, *operands)``.

    Parameters
    ----------
    function : callable
        The elementwise function.
    samples : sequence
        For each operand one element of it (an array of shape ``(1,)``), or a Python number.
    aliases : tuple
        For each result the operand whose memory it will be written to, or None.

    Returns
    -------
    Program

    Raises
    ------
    Untraceable
        If the function does more than ufuncs, casts and ``where``.
    """
    tape = _Tape(samples)
    try:
        results = function(_Namespace(), *tape.operands)
    except (TypeError, ValueError, AttributeError) as error:  # a function NumPy cannot dispatch
        raise Untraceable from error
    many = isinstance(results, tuple)
    values = results if many else (results,)
    if not all(isinstance(v, _Value) and not v.scalar for v in values):
        raise Untraceable
    if any(v is o for v in values for o in tape.operands):
        message = "an elementwise function returned an operand; its results are new values."
        raise RuntimeError(message)
    return Program(tape, [v.register for v in values], many, aliases)


class Program:
    """The steps of one elementwise function for given dtypes, with its scratch memory planned."""

    def __init__(
        self, tape: _Tape, results: list[int], many: bool, aliases: tuple[int | None, ...]
    ) -> None:
        self.many = many
        self.constants, self.once = tape.constants, tape.once
        self.n_registers = len(tape.registers)
        scalar = [not isinstance(sample, np.ndarray) for sample in tape.registers]
        self.arrays = [v.register for v in tape.operands if not v.scalar]
        self.result_dtypes = tuple(tape.registers[r].dtype for r in results)
        last_use = {r: at for at, (_, inputs, _) in enumerate(tape.steps) for r in inputs}
        made_at = {made: at for at, (_, _, made) in enumerate(tape.steps)}

        # A result is made where it belongs, unless that memory is an operand which a later step
        # still reads (or the result appears twice): then it is copied at the end of the block.
        home: dict[int, int] = {}  # register -> index of the result array
        self.copies: list[tuple[int, int]] = []
        for k, r in enumerate(results):
            alias = aliases[k] if aliases else None
            at = made_at[r]
            ufunc = isinstance(tape.steps[at][0], np.ufunc)  # may write over its input
            free = alias is None or last_use.get(alias, -1) < at + ufunc
            if r not in home and free:
                home[r] = k
            else:
                self.copies.append((r, k))

        # NumPy's loops for these two are four times as fast between arrays as with a scalar.
        self.filled: list[tuple[int, int, Any]] = []  # register, the scalar's register, dtype
        for at, (operation, inputs, made) in enumerate(tape.steps):
            if operation in (np.maximum, np.minimum) and len({scalar[r] for r in inputs}) == 2:
                with_arrays = []
                for r in inputs:
                    if scalar[r]:
                        self.filled.append((self.n_registers, r, tape.registers[made].dtype))
                        r, self.n_registers = self.n_registers, self.n_registers + 1
                    with_arrays.append(r)
                tape.steps[at] = (operation, tuple(with_arrays), made)

        # Scratch blocks are used again as soon as nobody reads them any more.
        kept = {r for r, _ in self.copies} | set(home)
        self.scratch_dtypes: list[Any] = []
        free_blocks: list[int] = []
        block_of: dict[int, int] = {}
        self.steps = []
        for at, (operation, inputs, made) in enumerate(tape.steps):
            released = [
                block_of[r]
                for r in set(inputs)
                if r in block_of and last_use[r] == at and r not in kept
            ]
            dtype = tape.registers[made].dtype
            if made not in home:
                # Only a ufunc may write over its own input: a cast and `where` may not.
                ready = free_blocks + (released if isinstance(operation, np.ufunc) else [])
                fit = next((b for b in ready if self.scratch_dtypes[b] == dtype), None)
                if fit is None:
                    fit = len(self.scratch_dtypes)
                    self.scratch_dtypes.append(dtype)
                elif fit in free_blocks:
                    free_blocks.remove(fit)
                else:
                    released.remove(fit)
                block_of[made] = fit
            free_blocks += released
            self.steps.append((operation, inputs, made))
        self.home, self.block_of = home, block_of

    def run(
        self, operands: list, outs: list[np.ndarray], start: int, stop: int, block: int
    ) -> None:
        """Evaluate elements `start` to `stop` of the flat `operands` into the flat `outs`."""
        registers: list[Any] = [*operands, *[None] * (self.n_registers - len(operands))]
        for r, value in self.constants.items():
            registers[r] = value
        for operation, inputs, made in self.once:
            registers[made] = operation(*[registers[i] for i in inputs]).item()
        block = min(block, stop - start)
        scratch = [np.empty(block, dtype) for dtype in self.scratch_dtypes]
        whole = [(r, scratch[b]) for r, b in self.block_of.items()]
        whole += [(r, np.full(block, registers[s], dtype)) for r, s, dtype in self.filled]
        for r, values in whole:
            registers[r] = values
        for lo in range(start, stop, block or 1):
            hi = min(lo + block, stop)
            for r in self.arrays:
                registers[r] = operands[r][lo:hi]
            for r, k in self.home.items():
                registers[r] = outs[k][lo:hi]
            if hi - lo < block:
                for r, values in whole:
                    registers[r] = values[: hi - lo]
            for operation, inputs, made in self.steps:
                operation(*[registers[i] for i in inputs], out=registers[made])
            for r, k in self.copies:
                outs[k][lo:hi] = registers[r]
