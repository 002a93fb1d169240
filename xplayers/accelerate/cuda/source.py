"""A traced elementwise function as the CUDA C++ source of one vectorised kernel.

The kernel reads each operand once and writes each result once, by 16-byte accesses where all
pointers are aligned, and element by element in the tail and elsewhere. float16 and bfloat16 are
storage: inside is float32, rounded once at the end; float32 and float64 stay what they are.

``+ - * /``, square root, comparisons and casts are exactly rounded (IEEE 754), so a float32
program of these alone gives the bits of NumPy, but for numbers below the normal ones: CuPy lets all
kernels flush those to 0 (``-ftz=true``, after the options of others). This needs `OPTIONS`: CUDA
would contract ``a * b + c`` to one rounding. Exponentials and their like are those of CUDA's
library, as in CuPy, a few units in the last place from NumPy's.

The source is compiled for the architectures of four GPU generations and run through a host compiler
in the tests.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from xplayers.accelerate.cuda.pointer_table import most_rows
from xplayers.accelerate.tape import Cast, Step, Tape, Untraceable, where_into

OPTIONS = ("-std=c++17", "-fmad=false", "-prec-div=true", "-prec-sqrt=true")
THREADS = 256  # of a block
CHUNK = 4  # packs that a thread takes of a row before the block looks for its next one

_COMPARISONS = {
    np.greater: ">", np.greater_equal: ">=", np.less: "<", np.less_equal: "<=",
    np.equal: "==", np.not_equal: "!=",
}  # fmt: skip
# In the dtypes of NumPy's loop, to which the operands have been converted.
ANY: dict[Any, str] = {
    **{ufunc: f"{{}} {sign} {{}}" for ufunc, sign in _COMPARISONS.items()},
    np.positive: "{}",
    # A value that is no number is passed on; of two equal ones it is the second.
    np.maximum: "({0} > {1} || {0} != {0}) ? {0} : {1}",
    np.minimum: "({0} < {1} || {0} != {0}) ? {0} : {1}",
    np.isnan: "{0} != {0}",
    np.isfinite: "{0} - {0} == 0",
    np.isinf: "{0} == {0} && {0} - {0} != 0",
    np.sign: "{0} != {0} ? {0} : ({0} > 0) - ({0} < 0)",
    np.logical_and: "(bool){} && (bool){}",
    np.logical_or: "(bool){} || (bool){}",
    np.logical_xor: "(bool){} != (bool){}",
    np.logical_not: "!(bool){}",
}
FLOATING: dict[Any, str] = {
    np.add: "{} + {}",
    np.subtract: "{} - {}",
    np.multiply: "{} * {}",
    np.divide: "{} / {}",
    np.negative: "-{}",
    np.absolute: "fabs({})",
    np.square: "{0} * {0}",
    np.reciprocal: "1 / {}",
    np.sqrt: "sqrt({})",
    np.power: "pow({}, {})",
    np.arctan: "atan({})",
    np.arctan2: "atan2({}, {})",
    **{
        ufunc: f"{ufunc.__name__}({{}})"
        for ufunc in (
            np.exp, np.exp2, np.expm1, np.log, np.log2, np.log10, np.log1p, np.sin, np.cos, np.tan,
            np.sinh, np.cosh, np.tanh, np.floor, np.ceil, np.trunc, np.rint,
        )
    },
}  # fmt: skip
INTEGER: dict[Any, str] = {
    np.add: "wrapped_add({}, {})",
    np.subtract: "wrapped_subtract({}, {})",
    np.multiply: "wrapped_multiply({}, {})",
    np.negative: "wrapped_subtract(({T})0, {})",
    np.absolute: "{0} < 0 ? wrapped_subtract(({T})0, {0}) : {0}",
    np.square: "wrapped_multiply({0}, {0})",
    np.bitwise_and: "{} & {}",
    np.bitwise_or: "{} | {}",
    np.bitwise_xor: "{} ^ {}",
    np.invert: "~{}",
    np.left_shift: "shifted_left({}, {})",
    np.right_shift: "shifted_right({}, {})",
}
BOOL: dict[Any, str] = {
    np.add: "{} || {}",
    np.multiply: "{} && {}",
    np.bitwise_and: "{} && {}",
    np.bitwise_or: "{} || {}",
    np.bitwise_xor: "{} != {}",
    np.invert: "!{}",
}

_C_NAMES = {
    "bool": "bool", "int8": "signed char", "uint8": "unsigned char", "int16": "short",
    "uint16": "unsigned short", "int32": "int", "uint32": "unsigned", "int64": "i64",
    "uint64": "unsigned long long", "float16": "float16", "bfloat16": "bfloat16",
    "float32": "float", "float64": "double",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Operand:
    """What an operand of a kernel is, beside Python numbers, which are given by value.

    An array is read element by element; a scalar is one value in device memory, so that it may
    change from launch to launch of a captured graph; the index is the number of the element, which
    is not read at all.
    """

    kind: Literal["array", "scalar", "index"]
    dtype: np.dtype


INDEX = Operand("index", np.dtype("int32"))


@dataclasses.dataclass(frozen=True)
class Kernel:
    """The source of a kernel, and what its parameters are.

    ``name(n, *arrays, *results, *cells, *numbers)``: how many elements as a 64-bit integer, the
    operands that are arrays, the results that have memory of their own, the operands that are
    scalars in device memory, and numbers by value. With `rows` the first three are one parameter, a
    table of so many rows at most: ``Rows`` in the prelude.
    """

    name: str
    body: str
    width: int  # elements of a pack
    rows: int
    arrays: tuple[int, ...]  # positions of operands
    own: tuple[int, ...]  # numbers of results
    cells: tuple[int, ...]  # positions of operands
    result_dtypes: tuple[np.dtype, ...]
    many: bool
    scalars: tuple[tuple[int, np.dtype], ...]  # register and dtype
    constants: dict[int, Any]
    once: tuple[Step, ...]

    @property
    def text(self) -> str:
        """The whole translation unit."""
        return f"{library()}\n{self.body}"

    @property
    def chunk(self) -> int:
        """How many elements of a row a block takes at once."""
        return CHUNK * THREADS * self.width

    def arguments(self, operands: Sequence[Any], outs: Sequence[Any]) -> list[Any]:
        """Return the arguments for arrays of one size; `outs` have memory of their own."""
        n = np.int64(math.prod(operands[0].shape))
        return [n, *[operands[r] for r in self.arrays], *outs, *self.scalar_arguments(operands)]

    def scalar_arguments(self, operands: Sequence[Any]) -> list[Any]:
        """Return the arguments from those operands that are no arrays."""
        return [*[operands[r] for r in self.cells], *self._numbers(operands)]

    def _numbers(self, operands: Sequence[Any]) -> list[np.generic]:
        if not self.scalars:
            return []
        registers = {**self.constants, **dict(enumerate(operands))}
        with np.errstate(all="ignore"):  # as on the GPU
            for operation, inputs, result in self.once:
                registers[result] = operation(*[registers[r] for r in inputs])
            return [dtype.type(registers[r]) for r, dtype in self.scalars]


def part(name: str) -> str:
    """Return the source in a file beside this one."""
    return importlib.resources.files("xplayers.accelerate.cuda").joinpath(name).read_text("utf-8")


@functools.cache
def library() -> str:
    """Return the source which all kernels share."""
    return f"{part('half.cuh')}\n{part('prelude.cuh')}"


def c_name(dtype: np.dtype) -> str:
    """Return the C++ type of values of `dtype` in memory."""
    try:
        return _C_NAMES[dtype.name]
    except KeyError:
        raise Untraceable from None


def inside(dtype: np.dtype) -> np.dtype:
    """Return the dtype in which a kernel computes with values of `dtype`."""
    return np.dtype("float32") if dtype.name in ("float16", "bfloat16") else dtype


def translate(
    function: Callable[..., Any],
    operands: Sequence[Any],
    aliases: Sequence[int | None] = (),
    name: str = "",
    rows: bool = False,
) -> Kernel:
    """Return the kernel of ``function(xp, *operands)``.

    Parameters
    ----------
    function : callable
        An elementwise function of a namespace and arrays.
    operands : sequence
        For each an `Operand`, or a Python number.
    aliases : sequence
        For each result the position of the operand over which it is written, or None.
    name : str
        What the kernel is called; by default as the function is.
    rows : bool
        False: it computes with arrays of one size, which are parameters. True: with rows of such,
        each of a size of its own; scalars are the same for all.

    Returns
    -------
    Kernel

    Raises
    ------
    Untraceable
        If the function does more than the operations above, casts and ``where``.
    """
    samples = [_one(o.dtype) if isinstance(o, Operand) else o for o in operands]
    tape = _Tape(samples)
    try:
        results, many = tape.run(function)
    except OverflowError as error:  # a number that its dtype cannot hold
        raise Untraceable from error
    writer = _Writer(tape, operands)
    for step in tape.steps:
        writer.add(step)
    name = re.sub(r"\W", "_", f"xplayers_{name or getattr(function, '__name__', 'kernel')}")
    return writer.kernel(name, results, many, tuple(aliases) or (None,) * len(results), rows)


class _Tape(Tape):
    """Gives Python numbers the dtype of bfloat16 values too, where NumPy would make float32."""

    power = np.power

    def samples(self, inputs: Sequence[Any]) -> list[Any]:
        samples = super().samples(inputs)
        halves = [s.dtype for s in samples if _is_bfloat16(s)]
        weak = (int, float)
        return [_one(halves[0]) if halves and type(s) in weak else s for s in samples]


def _one(dtype: np.dtype) -> np.ndarray:
    """Return an array of a 1. Not by `ones`: with dtypes of ml_dtypes NumPy 2.1.0 may crash."""
    return np.full(1, 1.0, dtype)


def _is_bfloat16(sample: Any) -> bool:
    return isinstance(sample, np.ndarray) and sample.dtype.name == "bfloat16"


class _Writer:
    """Writes the statements of a kernel: those once a thread, and those once an element."""

    def __init__(self, tape: Tape, operands: Sequence[Any]) -> None:
        self.tape = tape
        self.kinds = {i: o.kind for i, o in enumerate(operands) if isinstance(o, Operand)}
        self.uniform = {r for r, kind in self.kinds.items() if kind == "scalar"}
        self.scalars: dict[tuple[int, np.dtype], str] = {}
        self.before = [f"const {self._type(r)} v{r} = widen(*x{r});" for r in sorted(self.uniform)]
        self.steps = [
            f"const {self._type(r)} v{r} = ({self._type(r)})i;"
            for r, kind in self.kinds.items()
            if kind == "index"
        ]

    def add(self, step: Step) -> None:
        """Write one operation down."""
        operation, inputs, result = step
        if isinstance(operation, Cast):
            value = self._cast(inputs[0], self._dtype(result))
        elif operation is where_into:
            dtype = self._dtype(result)
            condition, *both = inputs
            a, b = (self._converted(r, dtype) for r in both)
            value = f"{self._converted(condition, np.dtype(bool))} ? {a} : {b}"
        else:
            value = self._operation(operation, inputs)
        steps = self.steps
        if all(r in self.uniform or not self._is_array(r) for r in inputs):
            self.uniform.add(result)
            steps = self.before
        steps.append(f"const {self._type(result)} v{result} = {value};")

    def kernel(
        self,
        name: str,
        results: list[int],
        many: bool,
        aliases: tuple[int | None, ...],
        of_rows: bool,
    ) -> Kernel:
        """Return the kernel of the steps so far."""
        dtypes = tuple(self._dtype(r) for r in results)
        kinds = [c_name(d) for d in dtypes]
        arrays, cells = self._are("array"), self._are("scalar")
        own = tuple(k for k, alias in enumerate(aliases) if alias is None)
        sizes = [d.itemsize for d in (*map(self._dtype, arrays), *dtypes)]
        width = 16 // min((s for s in sizes if s > 1), default=1)  # masks follow the numbers
        memory = {f"x{r}": self._pointer(r, written=r in aliases) for r in arrays}
        memory |= {f"y{k}": f"{kinds[k]}* __restrict__" for k in own}
        rows = most_rows(len(memory)) if of_rows else 0
        elements = [f"const {self._type(r)} v{r}" for r in arrays]
        writes = [f"r{k} = narrow<{kinds[k]}>(v{r});" for k, r in enumerate(results)]
        body = (_OF_ROWS if rows else _KERNEL).format(
            name=name,
            threads=THREADS,
            chunk=CHUNK * THREADS * width,
            parameters=", ".join(self._parameters(memory, cells, rows)),
            before=_lines(1, self.before),
            element=", ".join([*elements, *(f"{kind}& r{k}" for k, kind in enumerate(kinds))]),
            steps=_lines(2, [*self.steps, *writes]),
            lookups=_lines(
                2, [f"{t} {p} = ({t})rows.at[{j}][row];" for j, (p, t) in enumerate(memory.items())]
            ),
            loops=self._loops(width, arrays, kinds, aliases, memory, depth=2 if rows else 1),
        )
        return Kernel(
            name, body, width, rows, arrays, own, cells, dtypes, many, tuple(self.scalars),
            self.tape.constants, tuple(self.tape.once),
        )  # fmt: skip

    def _loops(
        self,
        width: int,
        arrays: Sequence[int],
        kinds: Sequence[str],
        aliases: Sequence[int | None],
        memory: Iterable[str],
        depth: int,
    ) -> str:
        """Return the loops over packs, and over what is left of them."""
        homes = [f"y{k}" if alias is None else f"x{alias}" for k, alias in enumerate(aliases)]
        loops = _LOOPS.format(
            width=width,
            aligned=" && ".join(f"aligned<{width}>({p})" for p in memory),
            loads=_lines(2, [f"const auto a{r} = load<{width}>(x{r} + i);" for r in arrays]),
            packs=_lines(2, [f"Pack<{kind}, {width}> b{k};" for k, kind in enumerate(kinds)]),
            stores=_lines(2, [f"store({p} + i, b{k});" for k, p in enumerate(homes)]),
            of_packs=", ".join(
                [f"widen(a{r}.v[j])" for r in arrays] + [f"b{k}.v[j]" for k in range(len(kinds))]
            ),
            of_arrays=", ".join([f"widen(x{r}[i])" for r in arrays] + [f"{p}[i]" for p in homes]),
        )
        return textwrap.indent(loops, "    " * depth)

    def _parameters(
        self, memory: Mapping[str, str], cells: Sequence[int], rows: int
    ) -> Iterator[str]:
        if rows:
            yield f"const Rows<{rows}, {len(memory)}> rows"
        else:
            yield "const i64 n"
            yield from (f"{kind} {p}" for p, kind in memory.items())
        for r in cells:
            yield f"{self._pointer(r)} x{r}"
        for (_, dtype), name in self.scalars.items():
            yield f"const {c_name(dtype)} {name}"

    def _are(self, kind: str) -> tuple[int, ...]:
        return tuple(r for r, k in self.kinds.items() if k == kind)

    def _pointer(self, r: int, *, written: bool = False) -> str:
        pointee = c_name(self._dtype(r))
        return f"{pointee}*" if written else f"const {pointee}* __restrict__"

    def _operation(self, ufunc: Any, inputs: Sequence[int]) -> str:
        """Return the expression of a ufunc, its operands in the dtypes of NumPy's loop."""
        samples = self.tape.samples([self._sample(r) for r in inputs])
        kinds = [s.dtype if isinstance(s, np.ndarray) else _weak(s) for s in samples]
        loop = ufunc.resolve_dtypes((*kinds, None))[:-1]
        dtype = loop[0]
        if len({d.kind for d in loop}) > 1:  # int64 > uint64, which C++ would convert
            raise Untraceable
        own = {"f": FLOATING, "V": FLOATING, "i": INTEGER, "u": INTEGER, "b": BOOL}
        form = own.get(dtype.kind, {}).get(ufunc) or ANY.get(ufunc)
        if form is None:
            raise Untraceable
        operands = [self._converted(r, d) for r, d in zip(inputs, loop, strict=True)]
        return form.format(*operands, T=c_name(inside(dtype)))

    def _converted(self, r: int, dtype: np.dtype) -> str:
        """Return the expression of a register, converted to the dtype of a loop."""
        wide = inside(dtype)
        if self._is_array(r):
            same = inside(self._dtype(r)) == wide
            return f"v{r}" if same else f"({c_name(wide)})v{r}"
        value = self.tape.constants.get(r)
        literal = None if value is None else _literal(value, wide)
        if literal is not None:
            return literal
        return self.scalars.setdefault((r, wide), f"s{r}_{wide.kind}{wide.itemsize}")

    def _cast(self, r: int, dtype: np.dtype) -> str:
        value = self._converted(r, dtype)
        source = self._dtype(r)
        if inside(dtype) == dtype or source == dtype or source == np.bool_:
            return value
        return f"widen(narrow<{c_name(dtype)}>({value}))"  # it was asked for

    def _sample(self, r: int) -> Any:
        return self.tape.registers[r]

    def _is_array(self, r: int) -> bool:
        return isinstance(self._sample(r), np.ndarray)

    def _dtype(self, r: int) -> np.dtype:
        return self._sample(r).dtype

    def _type(self, r: int) -> str:
        return c_name(inside(self._dtype(r)))


def _lines(depth: int, lines: Sequence[str]) -> str:
    return "".join(f"{'    ' * depth}{line}\n" for line in lines)


def _weak(number: Any) -> Any:
    """Return what stands for a number where NumPy looks for the loop of a ufunc."""
    if isinstance(number, np.generic):
        return number.dtype
    return np.dtype(bool) if isinstance(number, bool) else type(number)


def _literal(value: Any, dtype: np.dtype) -> str | None:
    """Return a finite number as C++ has it; None where `dtype` cannot hold it."""
    if dtype == np.bool_:
        return "true" if value else "false"
    if dtype.kind != "f":
        number, most = int(value), 1 << 63
        # As a bit pattern: C++ has no literal for the least of 64 bits.
        text = number if -most < number < most else f"{number % (2 * most)}ull"
        return f"({c_name(dtype)})({text})"
    with np.errstate(over="ignore"):
        number = dtype.type(value)
    # The shortest decimal that is read as the same number.
    return f"({number}{_SUFFIX[dtype.itemsize]})" if math.isfinite(number) else None


_SUFFIX = {4: "f", 8: ""}

_KERNEL = """\
extern "C" __global__ void __launch_bounds__({threads})
{name}({parameters})
{{
{before}    const auto element = [&](const i64 i, {element}) {{
{steps}    }};
    const i64 first = blockIdx.x * (i64)blockDim.x + threadIdx.x;
    const i64 stride = gridDim.x * (i64)blockDim.x;
    const i64 begin = 0, end = n;
{loops}}}
"""

# The chunks of all rows are counted through, and a block goes from chunk to chunk.
_OF_ROWS = """\
extern "C" __global__ void __launch_bounds__({threads})
{name}({parameters})
{{
{before}    const auto element = [&](const i64 i, {element}) {{
{steps}    }};
    const i64 first = threadIdx.x, stride = blockDim.x;
    int row = 0;
    #pragma unroll 1
    for (int chunk = blockIdx.x; chunk < rows.start[rows.count]; chunk += gridDim.x) {{
        while (chunk >= rows.start[row + 1]) ++row;
{lookups}        const i64 n = rows.n[row];
        const i64 begin = (chunk - rows.start[row]) * (i64){chunk};
        const i64 end = begin + {chunk} < n ? begin + {chunk} : n;
{loops}    }}
}}
"""

_LOOPS = """\
i64 whole = begin;
if ({aligned}) {{
    whole = end - end % {width};
    #pragma unroll 1
    for (i64 i = begin + {width} * first; i < whole; i += {width} * stride) {{
{loads}{packs}        #pragma unroll
        for (int j = 0; j < {width}; ++j) element(i + j, {of_packs});
{stores}    }}
}}
#pragma unroll 1
for (i64 i = whole + first; i < end; i += stride) element(i, {of_arrays});
"""
