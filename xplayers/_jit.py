"""A traced program as one loop in machine code, by Numba where it is installed.

Only programs of operations whose results are exactly rounded (IEEE 754: sum, product, quotient,
square root, comparisons) are compiled, so the bits are those of the ufuncs; but no warning tells of
an overflow in them. A program is compiled when it has been run over so many elements that the half
second for it pays; with ``XPLAYERS_JIT=1`` in the environment at once, with ``0`` never.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from xplayers._tape import is_cast, is_where

if TYPE_CHECKING:
    from xplayers._trace import Program

EXACT: dict[Any, str] = {
    np.add: "{} + {}",
    np.subtract: "{} - {}",
    np.multiply: "{} * {}",
    np.divide: "{} / {}",
    np.negative: "-{}",
    np.absolute: "abs({})",
    np.square: "{0} * {0}",
    np.sqrt: "sqrt({})",
    np.greater: "{} > {}",
    np.greater_equal: "{} >= {}",
    np.less: "{} < {}",
    np.less_equal: "{} <= {}",
    np.equal: "{} == {}",
    np.not_equal: "{} != {}",
    # A value that is no number is passed on; of two equal ones it is the second, as SIMD has it.
    np.maximum: "{0} if {0} > {1} or {0} != {0} else {1}",
    np.minimum: "{0} if {0} < {1} or {0} != {0} else {1}",
}


class Kernel:
    """The loop of a program, for arrays of one shape."""

    def __init__(self, program: Program, loop: Callable[..., None]) -> None:
        self._loop = loop
        self._made = [k for k, alias in enumerate(program.aliases) if alias is None]

    def __call__(self, operands: Sequence[Any], outs: Sequence[np.ndarray]) -> None:
        flat = [_flat(a) if isinstance(a, np.ndarray) else float(a) for a in operands]
        self._loop(*flat, *[_flat(outs[k]) for k in self._made])

    def bound(
        self, arrays: Sequence[np.ndarray], outs: Sequence[np.ndarray]
    ) -> Callable[..., None]:
        """Return ``run(*scalars)``, which does the same on this one-dimensional memory."""
        loop, made = self._loop, [outs[k] for k in self._made]
        # A call without scalars, as those of an activation, goes right to the machine code.
        without = functools.partial(loop, *arrays, *made)

        def run(*scalars: Any) -> None:
            if scalars:
                loop(*arrays, *[float(s) for s in scalars], *made)
            else:
                without()

        return run


def compiled(program: Program) -> Kernel | None:
    """Return the loop of `program` in machine code; None where there cannot be one."""
    if program.source is None:
        return None
    try:
        import numba
    except ImportError as error:  # one that has not heard of this NumPy
        warnings.warn(f"xplayers: numba cannot be used: {error}", stacklevel=2)
        return None

    dtype = next(d for d in program.dtypes if d != np.bool_)
    defined: dict[str, Any] = {
        "D": dtype.type, "sqrt": np.sqrt, "inf": math.inf, "nan": math.nan,
    }  # fmt: skip
    exec(program.source, defined)
    loop: Any = numba.njit(defined["kernel"], nogil=True, error_model="numpy")
    return Kernel(program, loop)


def _flat(a: np.ndarray) -> np.ndarray:
    return a if a.ndim == 1 else a.reshape(-1)


def exact_source(program: Program) -> str | None:
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
    floats = {d for d in program.dtypes if d != np.bool_}
    if floats not in ({np.dtype("float32")}, {np.dtype("float64")}):
        return None
    arrays = set(program.arrays)
    names = {r: f"x{r}" if r in arrays else f"s{r}" for r in range(program.n_operands)}
    names |= {r: repr(value) for r, value in program.constants.items()}
    once = []
    for operation, inputs, made in program.once:
        if operation not in EXACT:
            return None
        names[made] = f"s{made}"
        once.append(f"s{made} = {EXACT[operation].format(*[names[r] for r in inputs])}")
    scalars = set(names) - arrays
    steps = [f"v{r} = x{r}[i]" for r in program.arrays]
    narrowed = set()  # scalars have the dtype of the arrays where they meet them
    for operation, inputs, made in program.recorded:
        narrowed |= scalars & set(inputs)
        given = [f"c{r}" if r in scalars else f"v{r}" for r in inputs]
        if operation in EXACT:
            steps.append(f"v{made} = {EXACT[operation].format(*given)}")
        elif is_cast(operation) and program.samples[made].dtype != np.bool_:
            steps.append(f"v{made} = D({given[0]})")
        elif is_where(operation):
            steps.append(f"v{made} = {given[1]} if {given[0]} else {given[2]}")
        else:
            return None
    parameters = [names[r] for r in range(program.n_operands)]
    for k, r in enumerate(program.results):
        alias = program.aliases[k]
        if alias is None:
            parameters.append(f"y{k}")
        steps.append(f"{f'y{k}' if alias is None else f'x{alias}'}[i] = v{r}")
    lines = [
        *once,
        *[f"c{r} = D({names[r]})" for r in sorted(narrowed)],
        f"for i in range(len(x{program.arrays[0]})):",
        *[f"    {step}" for step in steps],
    ]
    return "\n".join([f"def kernel({', '.join(parameters)}):", *[f"    {line}" for line in lines]])


@functools.cache
def elements_before() -> float:
    """Return how many elements a program evaluates before it is compiled."""
    if importlib.util.find_spec("numba") is None:
        return math.inf
    return {"0": math.inf, "1": 0}.get(os.environ.get("XPLAYERS_JIT", ""), 1 << 24)
