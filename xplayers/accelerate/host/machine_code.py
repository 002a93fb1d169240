"""A traced program as one loop in machine code, by Numba where it is installed.

Only programs of operations whose results are exactly rounded (IEEE 754: sum, product, quotient,
square root, comparisons) are compiled, so the bits are those of the ufuncs; but no warning tells of
an overflow in them. A program is compiled when it has been run over so many elements that it would
have saved about the second and a half that Numba takes, of which most is its import: the rule of
40,000 parameters after 13,000 steps, that of ten million after 50. With ``XPLAYERS_JIT=1`` in the
environment that is at once, with ``0`` never.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from xplayers.accelerate.operators import COMPARISON_UFUNCS, COMPARISONS, SIGNS
from xplayers.accelerate.tape import Cast, where_into

if TYPE_CHECKING:
    from xplayers.accelerate.host.program import Program

LARGEST = 1 << 53  # integers beyond it are rounded on their way to floating point, more than once

_EXACT: dict[Any, str] = {
    **{
        getattr(np, name): f"{{}} {SIGNS[name]} {{}}"
        for name in ("add", "subtract", "multiply", "divide", *COMPARISONS)
    },
    np.negative: "-{}",
    np.absolute: "abs({})",
    np.square: "{0} * {0}",
    np.sqrt: "sqrt({})",
    # A value that is no number is passed on; of two equal ones it is the second, as SIMD has it.
    np.maximum: "{0} if {0} > {1} or {0} != {0} else {1}",
    np.minimum: "{0} if {0} < {1} or {0} != {0} else {1}",
}


class Kernel:
    """The loop of a program, for arrays of one shape."""

    def __init__(self, program: Program, loop: Callable[..., None]) -> None:
        self._loop = loop
        self._own = [k for k, alias in enumerate(program.aliases) if alias is None]
        self._numbers = program.source.numbers
        self._no_scalars = len(program.arrays) == program.n_operands

    def __call__(self, operands: Sequence[Any], outs: Sequence[np.ndarray]) -> None:
        flat = [_flat(a) for a in operands if isinstance(a, np.ndarray)]
        numbers = self._numbers
        if numbers is not None:
            flat += numbers(*[a for a in operands if not isinstance(a, np.ndarray)])
        self._loop(*flat, *[_flat(outs[k]) for k in self._own])

    def bound(
        self, arrays: Sequence[np.ndarray], outs: Sequence[np.ndarray]
    ) -> Callable[..., None]:
        """Return ``run(*scalars)``, which does the same on this one-dimensional memory."""
        loop, own, numbers = self._loop, [outs[k] for k in self._own], self._numbers
        if numbers is not None:
            return lambda *scalars: loop(*arrays, *numbers(*scalars), *own)
        # Without numbers, as those of an activation, it goes right to the machine code.
        without = functools.partial(loop, *arrays, *own)
        return without if self._no_scalars else lambda *scalars: without()


def compiled(program: Program) -> Kernel | None:
    """Return the loop of `program` in machine code; None where there cannot be one."""
    if program.source is None:
        return None
    try:
        import numba
    except Exception as error:  # one that has not heard of this NumPy
        warnings.warn(f"xplayers: numba cannot be used: {error}", stacklevel=2)
        return None
    source = program.source
    if source.of_ties and not _ties_are_second():
        return None
    defined: dict[str, Any] = {"D": source.dtype.type, "sqrt": np.sqrt}
    exec(source.text, defined)
    try:
        loop: Any = numba.njit(defined["kernel"], nogil=True, error_model="numpy")
        kernel = Kernel(program, loop)
        # Here, where nothing has been written: what Numba cannot do is left to the ufuncs.
        operands = [np.empty(0, s.dtype) if isinstance(s, np.ndarray) else s
                 for s in program.samples[: program.n_operands]]  # fmt: skip
        with np.errstate(all="ignore"):
            kernel(operands, [
                np.empty(0, dtype) if alias is None else operands[alias]
                for dtype, alias in zip(program.result_dtypes, program.aliases, strict=True)
            ])  # fmt: skip
    except Exception:
        return None
    return kernel


def _flat(a: np.ndarray) -> np.ndarray:
    return a if a.ndim == 1 else a.ravel()


class Source(NamedTuple):
    """The loop of a program in Python, as Numba takes it."""

    text: str
    dtype: np.dtype  # of all numbers in the loop
    numbers: Callable[..., list[float]] | None  # of the scalars, those that the loop takes
    of_ties: bool  # whether it has to choose between 0.0 and -0.0
    as_torch: bool  # whether PyTorch does the same operations


class _Inexact(Exception):
    """Something in a program is no operation of the list above in one dtype."""


def exact_source(program: Program) -> Source | None:
    """Return the source of the loop, or None if an operation is not among the exact ones.

    For ``p - lr * g``, written over ``p``, it is ::

        def kernel(x0, x1, s2):
            c2 = D(s2)
            for i in range(len(x0)):
                v0 = x0[i]
                v1 = x1[i]
                v3 = c2 * v1
                v4 = v0 - v3
                x0[i] = v4
    """
    floats = program.dtypes - {np.dtype(np.bool_)}
    if len(floats) != 1 or not floats <= {np.dtype("float32"), np.dtype("float64")}:
        return None
    try:
        return _Exact(program, *floats).source()
    except _Inexact:
        return None


class _Exact:
    """Writes the loop of a program whose numbers all have one dtype, `D` in the source.

    What is computed from scalars alone is Python's, once a call.
    """

    def __init__(self, program: Program, dtype: np.dtype) -> None:
        self.program, self.dtype = program, dtype
        self.numbers: list[int] = []  # scalars that the loop takes
        # Of numbers NumPy's functions make a scalar, and PyTorch's a tensor of its default dtype.
        of_numbers = any(isinstance(operation, np.ufunc) for operation, *_ in program.once)
        scalars = any(isinstance(c, np.generic) for c in program.constants.values())
        self.as_torch = not (of_numbers or scalars)

    def source(self) -> Source:
        program = self.program
        steps = [f"v{r} = x{r}[i]" for r in program.arrays]
        for operation, inputs, output in program.recorded:
            steps.append(f"v{output} = {self._step(operation, inputs, output)}")
        own = []
        for k, r in enumerate(program.results):
            alias = program.aliases[k]
            own += [f"y{k}"] if alias is None else []
            steps.append(f"{f'y{k}' if alias is None else f'x{alias}'}[i] = v{r}")
        # A constant costs nothing in the machine code, and as an argument a tenth of the call.
        values = {r: float(program.constants[r]) for r in self.numbers if r in program.constants}
        known = {r: repr(value) for r, value in values.items() if math.isfinite(value)}
        taken = [r for r in self.numbers if r not in known]
        parameters = [f"x{r}" for r in program.arrays] + [f"s{r}" for r in taken] + own
        lines = [
            f"def kernel({', '.join(parameters)}):",
            *[f"    c{r} = D({known.get(r, f's{r}')})" for r in self.numbers],
            f"    for i in range(len(x{program.arrays[0]})):",
            *[f"        {step}" for step in steps],
        ]
        ties = any(operation in (np.maximum, np.minimum) for operation, *_ in program.recorded)
        return Source("\n".join(lines), self.dtype, self._scalars(taken), ties, self.as_torch)

    def _step(self, operation: Any, inputs: tuple[int, ...], output: int) -> str:
        """Return the expression of an operation; its numbers have the dtype that NumPy gives."""
        truth = self._is_truth(output)
        if isinstance(operation, Cast) and not truth:
            return self._number(inputs[0])
        numbers = inputs[1:] if operation is where_into else inputs
        arrays = [r for r in numbers if self._is_array(r)]
        if not truth and all(map(self._is_truth, arrays)):
            self.as_torch = False  # it makes numbers of its default dtype of truth values
        if operation is where_into:
            if not arrays:
                raise _Inexact  # PyTorch has another dtype for it than NumPy
            a, b = (self._truth(r) if truth else self._number(r) for r in numbers)
            return f"{a} if {self._truth(inputs[0])} else {b}"
        if operation not in _EXACT or truth != (operation in COMPARISON_UFUNCS):
            raise _Inexact
        if operation is np.divide and not self._is_array(inputs[0]):
            # PyTorch multiplies a number by the reciprocal.
            self.as_torch &= self.program.constants.get(inputs[0]) in (1, -1)
        of_truth = truth and all(map(self._is_truth, arrays))
        return _EXACT[operation].format(*map(self._truth if of_truth else self._number, inputs))

    def _is_array(self, r: int) -> bool:
        return isinstance(self.program.samples[r], np.ndarray)

    def _is_truth(self, r: int) -> bool:
        sample = self.program.samples[r]
        return type(sample) is bool or getattr(sample, "dtype", None) == np.bool_

    def _number(self, r: int) -> str:
        """Return the expression of a register as a number of the dtype."""
        if self._is_array(r):
            return f"D(v{r})" if self._is_truth(r) else f"v{r}"
        sample = self.program.samples[r]
        if isinstance(sample, np.generic):  # it has a say in the dtype
            if sample.dtype not in (self.dtype, np.bool_):
                raise _Inexact
        elif type(sample) is int and r >= self.program.n_operands and not self._is_small(r):
            raise _Inexact
        if r not in self.numbers:
            self.numbers.append(r)
        return f"c{r}"

    def _is_small(self, r: int) -> bool:
        """Whether it is an integer that is known, and exact in floating point."""
        return r in self.program.constants and abs(self.program.constants[r]) <= LARGEST

    def _truth(self, r: int) -> str:
        """Return the expression of a register that is a truth value."""
        if not self._is_truth(r):
            raise _Inexact
        return f"v{r}" if self._is_array(r) else f"({self._number(r)} != 0)"

    def _scalars(self, taken: list[int]) -> Callable[..., list[float]] | None:
        """Return ``numbers(*scalars)``: those that the loop has taken as arguments."""
        program = self.program
        if not taken:
            return None
        names = [f"s{r}" for r in range(program.n_operands) if not self._is_array(r)]
        defined: dict[str, Any] = {f"s{r}": value for r, value in program.constants.items()}
        lines = []
        for k, (operation, inputs, output) in enumerate(program.once):
            defined[f"f{k}"] = operation
            lines.append(f"s{output} = f{k}({', '.join(f's{r}' for r in inputs)})")
        lines.append(f"return [{', '.join(f'float(s{r})' for r in taken)}]")
        body = "\n".join(f"    {line}" for line in lines)
        exec(f"def numbers({', '.join(names)}):\n{body}", defined)
        return defined["numbers"]


@functools.cache
def _ties_are_second() -> bool:
    """Whether NumPy takes the second of two equal values here, as the loops do: of 0.0 and -0.0."""
    zeros = np.zeros(67), np.full(67, -0.0)
    for dtype in ("float32", "float64"):
        for a, b in (zeros, zeros[::-1]):
            a, b = a.astype(dtype), b.astype(dtype)
            for ufunc in (np.maximum, np.minimum):
                for second in (b, b[0].item()):
                    if (np.signbit(ufunc(a, second)) != np.signbit(b)).any():
                        return False
    return True


@functools.cache
def elements_before() -> float:
    """Return how many elements a program evaluates before it is compiled."""
    if importlib.util.find_spec("numba") is None:
        return math.inf
    return {"0": math.inf, "1": 0}.get(os.environ.get("XPLAYERS_JIT", ""), 1 << 29)
