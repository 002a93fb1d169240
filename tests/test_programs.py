"""What an elementwise function is for NumPy: which calls, on which memory, at once or in blocks."""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest
from helpers import assert_same_bits, values

from xplayers import _trace
from xplayers._tape import Untraceable
from xplayers._trace import trace

pytestmark = [pytest.mark.only("numpy"), pytest.mark.usefixtures("xpv")]

X, D, M, N = (np.ones(1, dtype) for dtype in ("float32", "float64", "bool", "int32"))


def traced(monkeypatch, function, samples, aliases=()):
    """Return the program of a function, and the lines of its source."""
    lines = {}
    define = _trace._Source._define_function

    def kept(source, head, body):
        lines[head.partition("(")[0]] = [in_words(source.defined, line) for line in body]
        define(source, head, body)

    monkeypatch.setattr(_trace._Source, "_define_function", kept)
    return trace(function, samples, aliases), lines


def in_words(defined, line):
    def word(match):
        value = defined.get(match[0], match[0])
        if isinstance(value, _trace._ConstantRow):
            return f"row[{value.value!r}, {value.whole.dtype}]"
        if isinstance(value, functools.partial):
            return f"{value.func.__name__}[{', '.join(map(str, value.keywords.values()))}]"
        if isinstance(value, (str, np.dtype)):
            return str(value)
        return getattr(value, "__name__", type(value).__name__)

    return re.sub(r"\b[fdr]\d+\b", word, line)


CASES = []


def case(code, *samples, over=()):
    """Mark a function with its code, samples of its operands, and what it is written over."""

    def marked(function):
        CASES.append((function, code, samples, over))
        return function

    return marked


@case("multiply(s2, x1, y0); subtract(x0, y0, y0)", X, X, 1.0)
def descent(xp, p, g, lr):
    return p - lr * g


@case(
    "w0 = empty(y0.shape, float32); multiply(s2, x1, w0); subtract(x0, w0, y0)",
    X,
    X,
    1.0,
    over=(0,),
)
def descent_in_place(xp, p, g, lr):
    return p - lr * g


@case(
    "w0 = empty(y0.shape, float32); add(x0, x1, w0); multiply(x0, x1, y1); Cast(w0, y0)",
    X,
    X,
    over=(0, None),
)
def over_what_is_read_later(xp, p, g):
    return (p + g, p * g)


@case("add(x0, x1, y0); multiply(x0, x1, y1)", X, X, over=(None, 0))
def over_what_is_read_before(xp, p, g):
    return (p + g, p * g)


@case(
    "w0 = empty(y0.shape, bool); w1 = empty(y0.shape, float32); greater(x0, x1, w0); "
    "where_into(w0, x0, x1, w1); Cast(w1, y0)",
    X,
    X,
    over=(0,),
)
def over_what_a_selection_reads(xp, p, g):
    return xp.where(p > g, p, g)


@case(
    "w0 = empty(y0.shape, bool); greater(x0, s2, w0); where_into(w0, x1, s4, y0)", X, X, over=(0,)
)
def over_what_a_selection_does_not_read(xp, p, g):
    return xp.where(p > 0.0, g, 1.0)


@case(
    "w0 = empty(y0.shape, float32); add(x0, x1, w0); multiply(x1, s3, y1); Cast(w0, y0)",
    X,
    X,
    over=(1, 0),
)
def over_both(xp, p, g):
    return (p + g, g * 2.0)


@case("w0 = empty(y0.shape, float64); multiply(x0, x1, w0); Cast(w0, y0)", X, D, over=(0,))
def over_what_a_cast_reads(xp, p, g):
    return xp.astype(p * g, p.dtype)


@case("add(x0, x1, y0); multiply(x0, x1, y1)", X, X)
def two_results(xp, p, g):
    return (p + g, p * g)


@case("add(x0, s1, y0); Cast(y0, y1)", X)
def one_result_twice(xp, p):
    return (lambda y: (y, y))(p + 1.0)


@case("add(x0, s1, y0); multiply(y0, s3, y1); multiply(y0, s5, y2); exp(y2, y2)", X)
def results_of_results(xp, p):
    return (lambda y: (y, y * 2.0, xp.exp(y * 2.0)))(p + 1.0)


@case("multiply(x0, s1, y1); greater(y1, s3, y0); multiply(x0, s5, y1); exp(y1, y1)", X)
def results_of_two_dtypes(xp, p):
    return (p * 2.0 > 1.0, xp.exp(p * 2.0))


@case("tanh(x0, y0); add(y0, s2, y0); exp(y0, y0); multiply(y0, x0, y0)", X)
def chain(xp, p):
    return xp.exp(xp.tanh(p) + 1.0) * p


@case(
    "w0 = empty(y0.shape, float32); w1 = empty(y0.shape, float32); exp(x0, y0); "
    "tanh(x0, w0); add(y0, w0, y0); sin(x0, w0); cos(x0, w1); subtract(w0, w1, w0); "
    "multiply(y0, w0, y0)",
    X,
)
def two_branches(xp, p):
    return (xp.exp(p) + xp.tanh(p)) * (xp.sin(p) - xp.cos(p))


@case(
    "w0 = empty(y0.shape, float32); w1 = empty(y0.shape, float32); sin(x0, w0); "
    "multiply(w0, s2, w0); exp(w0, w0); cos(x0, w1); multiply(w1, s6, w1); exp(w1, w1); "
    "multiply(w1, x0, y0); add(w0, y0, y0)",
    X,
    over=(0,),
)
def scratch_serves_again(xp, p):
    return xp.exp(xp.sin(p) * 2.0) + xp.exp(xp.cos(p) * 2.0) * p


@case(
    "w0 = empty(y0.shape, float32); multiply(x0, s2, y0); multiply(x1, s4, w0); add(y0, w0, y0)",
    X,
    X,
    over=(0,),
)
def a_moment_is_made_over_the_last_one(xp, m, g):
    return m * 0.5 + g * 2.0


@case(
    "w0 = empty(y0.shape, float32); multiply(x1, s2, w0); multiply(x0, x0, y0); add(w0, y0, y0)",
    X,
    X,
    over=(0,),
)
def not_before_that_is_read(xp, m, g):
    return g * 2.0 + m * m


@case(
    "w0 = empty(y0.shape, bool); w1 = empty(y0.shape, float32); "
    "w2 = empty(y0.shape, float32); w3 = empty(y0.shape, float32); greater(x0, s1, w0); "
    "exp(x0, w1); sin(x0, w2); where_into(w0, w1, w2, w3); multiply(w3, x0, y0)",
    X,
    over=(0,),
)
def scratch_of_two_dtypes(xp, p):
    return xp.where(p > 0.0, xp.exp(p), xp.sin(p)) * p


@case(
    "w0 = empty(y0.shape, float32); w1 = empty(y0.shape, float32); "
    "where_into(x1, x0, s2, w0); where_into(x1, w0, s4, w1); add(w1, x0, y0)",
    X,
    M,
    over=(0,),
)
def scratch_of_selections(xp, p, m):
    return xp.where(m, xp.where(m, p, 1.0), 2.0) + p


@case("row0 = row[0.0, float32](y0.shape); maximum(x0, row0, out=y0)", X)
def relu(xp, p):
    return xp.maximum(p, 0.0)


@case("row0 = row[-0.0, float32](y0.shape); minimum(row0, x0, out=y0)", X)
def relu_the_other_way_round(xp, p):
    return xp.minimum(-0.0, p)


@case(
    "row0 = row[0.0, float32](y0.shape); w0 = empty(y0.shape, float32); "
    "row1 = full(y0.shape, s1, float32); maximum(x0, row0, out=y0); multiply(y0, s1, y0); "
    "minimum(x0, row1, out=w0); add(y0, w0, y0)",
    X,
    1.0,
)
def clipped(xp, p, k):
    return xp.maximum(p, 0.0) * k + xp.minimum(p, k)


@case("maximum(x0, x1, out=y0)", X, X)
def largest_of_two(xp, p, g):
    return xp.maximum(p, g)


@case("greater[unsafe](x0, s1, y0); multiply(y0, x0, y0)", X)
def truth_as_number(xp, p):
    return xp.astype(p > 0.0, p.dtype) * p


@case(
    "w0 = empty(y0.shape, bool); w1 = empty(y0.shape, float32); greater_equal(x0, s1, w0); "
    "Cast(w0, y0); where_into(w0, x0, s4, w1); multiply(y0, w1, y0)",
    X,
)
def truth_as_number_twice(xp, p):
    return (lambda m: xp.astype(m, p.dtype) * xp.where(m, p, 1.0))(p >= 0.0)


@case("greater[unsafe](x0, s1, y0); multiply(y0, x0, y0)", X)
def truth_as_another_number(xp, p):
    return xp.astype(p > 0.0, xp.float64) * p


@case("multiply[float32](x0, x1, y0)", X, M)
def product_with_truth(xp, p, m):
    return p * xp.astype(m, p.dtype)


@case("multiply[float64](x1, x0, y0)", X, M)
def product_with_truth_as_double(xp, p, m):
    return xp.astype(m, xp.float64) * p


@case("w0 = empty(y0.shape, float32); Cast(x1, y0); multiply(x0, y0, w0); add(w0, y0, y0)", X, M)
def product_with_truth_read_again(xp, p, m):
    return (lambda c: p * c + c)(xp.astype(m, p.dtype))


@case("Cast(x1, y0); multiply(x0, y0, y0)", X, N)
def product_with_integers(xp, p, i):
    return p * xp.astype(i, p.dtype)


@case("Cast(x1, y0); add(x0, y0, y0)", X, M)
def sum_with_truth(xp, p, m):
    return p + xp.astype(m, p.dtype)


@case("w0 = empty(y0.shape, float32); multiply(x0, s1, w0); Cast(w0, y0)", X)
def number_as_truth(xp, p):
    return xp.astype(p * 2.0, xp.bool)


@case("x0_bits = x0.view(int32); y0_bits = y0.view(int32); multiply(x0_bits, x1, y0_bits)", X, M)
def kept(xp, p, m):
    return xp.where(m, p, 0.0)


@case("where_into(x1, x0, s2, y0)", X, M)
def kept_or_minus_zero(xp, p, m):
    return xp.where(m, p, -0.0)


@case("where_into(x1, x0, s2, y0)", X, M)
def kept_or_one(xp, p, m):
    return xp.where(m, p, 1.0)


@case("where_into(x1, x0, s2, y0)", X, M)
def kept_or_integer(xp, p, m):
    return xp.where(m, p, 0)


@case("where_into(x1, x0, x2, y0)", X, M, X)
def kept_or_array(xp, p, m, g):
    return xp.where(m, p, g)


@case(
    "y0_bits = y0.view(int64); w0 = empty(y0.shape, float64); w0_bits = w0.view(int64); "
    "Cast(x0, w0); multiply(w0_bits, x1, y0_bits)", X, M,
)  # fmt: skip
def kept_in_another_dtype(xp, p, m):
    return xp.where(m, xp.astype(p, xp.float64), 0.0)


@case("s3 = truth(s2); where_into(s3, x0, x1, y0)", X, X, True)
def kept_by_a_number(xp, p, g, m):
    return xp.where(m, p, g)


@case(
    "x0_bits = x0.view(int32); y0_bits = y0.view(int32); w0 = empty(y0.shape, bool); "
    "Cast(x0, w0); multiply(x0_bits, w0, y0_bits)", X,
)  # fmt: skip
def kept_by_numbers(xp, p):
    return xp.where(p, p, 0.0)


@case(
    "s3 = mul(s1, s2); s5 = sub(s3, s4); s8 = sub(s7, s1); multiply(x0, s5, y0); add(y0, s8, y0)",
    X,
    1.0,
    2.0,
)
def scalars(xp, p, a, b):
    return p * (a * b - 1.0) + (1.0 - a)


@case("s2 = sqrt(s1); multiply(x0, s2, y0)", X, 2.0)
def scalars_of_numpy(xp, p, b):
    return p * xp.sqrt(b)


@case("s2 = sqrt(s1); s3 = methodcaller(s2); multiply(x0, s3, y0)", X, 2.0)
def scalar_cast(xp, p, b):
    return p * xp.astype(xp.sqrt(b), xp.float32)


@case("w0 = empty(y0.shape, float32); power_into(x0, s1, y0); square(x0, w0); add(y0, w0, y0)", X)
def power(xp, p):
    return p**3.0 + p**2


@case("power_into(x0, s1, y0)", N)
def power_of_integers(xp, p):
    return p**2


@case(
    "w0 = empty(y0.shape, float32); negative(x0, y0); positive(x0, w0); add(y0, w0, y0); "
    "absolute(x0, w0); remainder(w0, s5, w0); floor_divide(y0, w0, y0)",
    X,
)
def operators(xp, p):
    return (-p + +p) // (abs(p) % 3.0)


@case(
    "w0 = empty(y0.shape, float32); subtract(s1, x0, y0); divide(s3, x0, w0); "
    "divide(y0, w0, y0); floor_divide(s6, x0, w0); add(y0, w0, y0); remainder(s9, x0, w0); "
    "subtract(y0, w0, y0); power_into(s12, x0, w0); add(y0, w0, y0)",
    X,
)
def operators_from_the_right(xp, p):
    return (2.0 - p) / (1.0 / p) + 3.0 // p - 5.0 % p + 2.0**p


@case(
    "w0 = empty(y0.shape, bool); w1 = empty(y0.shape, bool); less(x0, x1, y0); "
    "less_equal(x0, x1, w0); bitwise_xor(y0, w0, y0); equal(x0, x1, w0); "
    "not_equal(x0, x1, w1); bitwise_or(w0, w1, w0); invert(w0, w1); bitwise_and(y0, w1, y0)",
    X,
    X,
)
def comparisons(xp, p, g):
    return ((p < g) ^ (p <= g)) & ~((p == g) | (p != g))


@case(
    "w0 = empty(y0.shape, int32); w1 = empty(y0.shape, int32); left_shift(x0, s1, y0); "
    "bitwise_or(y0, s3, y0); left_shift(s5, x0, w0); right_shift(x0, s7, w1); "
    "bitwise_and(w0, w1, w1); right_shift(s10, x0, w0); bitwise_and(w1, w0, w1); "
    "bitwise_xor(y0, w1, y0)",
    N,
)
def bits(xp, i):
    return ((i << 3) | 1) ^ (1 << i) & (i >> 2) & (7 >> i)


@pytest.mark.parametrize(
    ("function", "code", "samples", "over"), CASES, ids=lambda f: getattr(f, "__name__", "")
)
def test_code(function, code, samples, over, monkeypatch):
    with np.errstate(all="ignore"):
        program, lines = traced(monkeypatch, function, samples, over)
        assert "; ".join(lines["straight"][2:]) == code
        # it is what the function says, at once and in blocks
        n = 40_000
        operands = [operand(s, n, i) for i, s in enumerate(samples)]
        expected = function(np, *operands)
    expected = expected if program.many else (expected,)
    for run in (program.straight, functools.partial(in_blocks, program)):
        given = [a.copy() if isinstance(a, np.ndarray) else a for a in operands]
        aliases = over or (None,) * len(expected)
        outs = [given[k] if k is not None else np.empty_like(e)
                for k, e in zip(aliases, expected, strict=True)]  # fmt: skip
        with np.errstate(all="ignore"):
            run(given, outs)
        for got, e in zip(outs, expected, strict=True):
            assert_same_bits(got, e)


def operand(sample, n, seed):
    if not isinstance(sample, np.ndarray):
        return sample
    if sample.dtype == np.int32:
        return np.arange(n, dtype="int32") % 7 + 1
    return (values((n,), seed) if sample.dtype != bool else values((n,), seed) > 0).astype(
        sample.dtype
    )


def in_blocks(program, operands, outs):
    program.run(operands, outs, 0, 20_000, 7000)
    program.run(operands, outs, 20_000, 40_000, 20_000)


def test_the_loop_over_blocks(monkeypatch):
    """Memory and rows are made once, as long as a block or what there is."""

    def function(xp, p, k):
        return xp.maximum(p, 0.0) * (k * 2.0) + xp.minimum(p, k)

    program, lines = traced(monkeypatch, function, (X, 1.0))
    assert lines["loop"] == [
        "(X0, s1,) = operands",
        "(Y0,) = outs",
        "n = len(Y0)",
        "s5 = mul(s1, s4)",
        "W0 = empty((min(block, n), *width), float32)",
        "row0 = row[0.0, float32](width or n)",
        "row1 = full(width or n, s1, float32)",
        "for lo in range(0, n, block):",
        "    hi = lo + block",
        "    x0 = X0[lo:hi]",
        "    y0 = Y0[lo:hi]",
        "    w0 = W0[: n - lo]",
        "    maximum(x0, row0, out=y0)",
        "    multiply(y0, s5, y0)",
        "    minimum(x0, row1, out=w0)",
        "    add(y0, w0, y0)",
    ]
    assert lines["bound"] == [
        "(x0,) = arrays",
        "(y0,) = outs",
        "row0 = row[0.0, float32](y0.shape)",
        "def run(s1):",
        "    s5 = mul(s1, s4)",
        "    w0 = empty(y0.shape, float32)",
        "    row1 = full(y0.shape, s1, float32)",
        "    maximum(x0, row0, out=y0)",
        "    multiply(y0, s5, y0)",
        "    minimum(x0, row1, out=w0)",
        "    add(y0, w0, y0)",
        "return run",
    ]
    assert program.has_rows
    assert not program.single
    assert program.arrays == [0]
    assert program.combined == [1]  # the scalar that meets another one
    assert (program.many, program.result_dtypes, program.aliases) == (False, (X.dtype,), (None,))
    run = program.bound([np.asarray([-1.0, 2.0], "float32")], [out := np.empty(2, "float32")])
    run(3.0)
    assert out.tolist() == [-1.0, 14.0]


def test_rows_of_one_number_are_shared(monkeypatch):
    rows = [_trace._constant_row(0.0, "0.0", np.dtype("float32")) for _ in range(2)]
    assert rows[0] is rows[1]
    assert _trace._constant_row(-0.0, "-0.0", np.dtype("float32")) is not rows[0]
    row = _trace._ConstantRow(2.0, np.dtype("float32"))
    a, b, c = row((3, 2)), row(6), row(4)
    assert (a.shape, a.dtype, b.shape, c.shape) == ((3, 2), np.float32, (6,), (4,))
    assert np.shares_memory(a, b)
    assert np.shares_memory(b, c)
    assert a.min() == a.max() == 2.0
    assert not a.flags.writeable
    assert not np.shares_memory(row(7), a)


NOT_TRACED = {
    "a branch": lambda xp, x, k, i: x if x > 0 else -x,
    "a loop": lambda xp, x, k, i: sum(x),
    "in place": lambda xp, x, k, i: x.__iadd__(1.0),
    "a shape": lambda xp, x, k, i: x * x.shape[0],
    "a number of it": lambda xp, x, k, i: x * float(x),
    "a sum": lambda xp, x, k, i: x * xp.sum(x),
    "a sum by a ufunc": lambda xp, x, k, i: x * np.add.reduce(x),
    "an option of a ufunc": lambda xp, x, k, i: np.add(x, x, dtype="float64"),
    "memory of a ufunc": lambda xp, x, k, i: np.add(x, x, out=np.ones(1)),
    "two results of a ufunc": lambda xp, x, k, i: np.modf(x)[0] * 1.0,
    "a product of matrices": lambda xp, x, k, i: np.matmul(x, x),
    "an array": lambda xp, x, k, i: x + np.ones(1),
    "a complex number": lambda xp, x, k, i: x + 1j,
    "a power of scalars": lambda xp, x, k, i: x * k**2.0,
    "a root of an integer": lambda xp, x, k, i: x * xp.sqrt(i),
    "a selection of scalars": lambda xp, x, k, i: x * xp.where(k, 1.0, 2.0),
    "a selection with two arguments": lambda xp, x, k, i: xp.where(x)[0] * 1.0,
    "a function of three": lambda xp, x, k, i: np.clip(x, 0.0, 1.0),
    "a list": lambda xp, x, k, i: [x + 1.0],
    "a scalar": lambda xp, x, k, i: k + 1.0,
    "nothing": lambda xp, x, k, i: None,
    "an error": lambda xp, x, k, i: x.nonsense,
}


@pytest.mark.parametrize("name", NOT_TRACED)
def test_what_is_no_list_of_ufuncs_is_not_traced(name):
    with pytest.raises(Untraceable):
        trace(NOT_TRACED[name], (X, 1.0, 2), ())


def test_a_result_that_is_an_operand_is_refused():
    with pytest.raises(RuntimeError, match="returned an operand"):
        trace(lambda xp, x: (x * 1.0, x), (X,), ())
