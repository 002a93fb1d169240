"""What an elementwise function is for NumPy: which calls, on which memory, at once or in blocks."""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest
from helpers import assert_same_bits, values
from programs import ROWS, X

from xplayers.accelerate.host import program
from xplayers.accelerate.host.program import trace
from xplayers.accelerate.tape import Untraceable

pytestmark = [pytest.mark.only("numpy"), pytest.mark.usefixtures("xpv")]


def traced(monkeypatch, function, samples, aliases=()):
    """Return the program of a function, and the lines of its source."""
    lines = {}
    define = program._Source._define_function

    def kept(source, head, body):
        lines[head.partition("(")[0]] = [in_words(source.defined, line) for line in body]
        define(source, head, body)

    monkeypatch.setattr(program._Source, "_define_function", kept)
    return trace(function, samples, aliases), lines


def in_words(defined, line):
    def word(match):
        value = defined.get(match[0], match[0])
        if isinstance(value, program._ConstantRow):
            return f"row[{value.value!r}, {value.whole.dtype}]"
        if isinstance(value, functools.partial):
            return f"{value.func.__name__}[{', '.join(map(str, value.keywords.values()))}]"
        if isinstance(value, (str, np.dtype)):
            return str(value)
        return getattr(value, "__name__", type(value).__name__)

    return re.sub(r"\b[fdr]\d+\b", word, line)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_code(row, monkeypatch):
    with np.errstate(all="ignore"):
        program, lines = traced(monkeypatch, row.function, row.samples, row.over)
        assert "; ".join(lines["straight"][2:]) == row.ufuncs
        # it is what the function says, at once and in blocks
        n = 40_000
        operands = [operand(s, n, i) for i, s in enumerate(row.samples)]
        expected = row.function(np, *operands)
    expected = expected if program.many else (expected,)
    for run in (program.straight, functools.partial(in_blocks, program)):
        given = [a.copy() if isinstance(a, np.ndarray) else a for a in operands]
        aliases = row.over or (None,) * len(expected)
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
        "s5f = c8()",
        "def run(s1):",
        "    s5 = mul(s1, s4)",
        "    w0 = empty(y0.shape, float32)",
        "    row1 = full(y0.shape, s1, float32)",
        "    s5f[()] = s5",
        "    maximum(x0, row0, out=y0)",
        "    multiply(y0, s5f, y0)",
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
    rows = [program._constant_row(0.0, "0.0", np.dtype("float32")) for _ in range(2)]
    assert rows[0] is rows[1]
    assert program._constant_row(-0.0, "-0.0", np.dtype("float32")) is not rows[0]
    row = program._ConstantRow(2.0, np.dtype("float32"))
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
