"""The one-pass engine where numbers, dtypes, options and sizes are unusual."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers import assert_same_bits, values

from xplayers import functional
from xplayers.accelerate.host import elementwise as engine
from xplayers.accelerate.host.elementwise import prepared
from xplayers.arrays.elementwise import MOST, elementwise

AROUND = (engine.PLAIN - 1, engine.PLAIN, engine.PLAIN + 1, engine.STRAIGHT + 1)


def by_exp(xp, x, s):
    return x * xp.exp(s)


def by_arithmetic(xp, x, s):
    return x * ((2.0 * s + 1) / 3) - (s > 0.25)


def by_a_large_integer(xp, x, s):
    return x * 10**20 + (2**60 + 2**36 + 1)


def by_a_scalar_of_numpy(xp, x, s):
    return (x + np.float64(0.1)) * np.float32(0.1) - np.int64(3)


def by_a_truth_value(xp, x, s):
    return x * True + (x > 0) * s


def by_counts(xp, x, s):
    return ((x > 0) + (x < 1)) * (x > 0.5) * s  # sums of truth values are truth values


def by_powers(xp, x, s):
    return x**2 + x**2.0 + x**-1 + x**0.5 + x**3 + x**s + 2**x


def by_where(xp, x, s):
    return xp.where(x, x * 2, 3) + xp.where(s, x, 1) + xp.where(x > 0, 300, x)


def by_where_of_numbers(xp, x, s):
    return x * xp.where(x > 0, 0.1, 0.2)


def by_a_comparison_of_another_dtype(xp, x, s):
    return xp.where(x > np.float64(0.1), x, -x)


def by_maximum(xp, x, s):
    return xp.maximum(x, s) + xp.minimum(x, np.float64(0.5)) + xp.maximum(10**20, x)


KINDS = [
    by_exp, by_arithmetic, by_a_large_integer, by_a_scalar_of_numpy, by_a_truth_value, by_counts,
    by_powers, by_where, by_where_of_numbers, by_a_comparison_of_another_dtype, by_maximum,
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("function", KINDS, ids=lambda f: f.__name__)
def test_no_size_decides(function, jit, monkeypatch):
    if jit:
        pytest.importorskip("numba")
    monkeypatch.setattr(engine, "elements_before", lambda: 0 if jit else float("inf"))
    call = elementwise(function)
    for dtype in ("float16", "float32", "float64"):
        for n in (*AROUND, 3) if not jit else (engine.PLAIN + 1, 3):
            x = values((n,), scale=1.0).astype(dtype)
            x[:3] = (0.1, 0.0, -0.0)
            for s in (0.3, 2, True):
                assert_same_bits(call(x, s), function(np, x, s))


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "bool"])
def test_integers(dtype, monkeypatch):
    @elementwise(integers=True)
    def mixed(xp, x, s):
        return x + x, x * s, xp.maximum(x, 1), xp.where(x, x, 0), x > 0, x / 3

    for n in AROUND:
        x = np.arange(n).astype(dtype)
        for s in (2, 0.5, True):
            for a, b in zip(mixed(x, s), mixed.function(np, x, s), strict=True):
                assert_same_bits(a, b)


@pytest.mark.parametrize("n", [10, 5000])
def test_errors_are_those_of_the_function(n):
    @elementwise(integers=True)
    def times(xp, x, s):
        return x * s

    x = np.ones(n, "int64")
    assert_same_bits(times(x, 3), x * 3)
    with pytest.raises(OverflowError):
        times(x, 10**20)
    with pytest.raises(OverflowError):
        times(x.astype("uint8"), 300)
    with pytest.raises(ZeroDivisionError):
        elementwise(lambda xp, x, s: x * (1 / s))(x.astype("float32"), 0)


def test_an_array_of_no_axes_gives_what_it_gives(monkeypatch):
    for work in (float("inf"), 0):  # before its programs are compiled, and after
        monkeypatch.setattr(engine, "elements_before", lambda work=work: work)
        functional.relu(np.ones(5000, "float32"))
        y = functional.relu(np.asarray(2.0, "float32"))
        assert type(y) is np.float32


def test_operands_of_other_kinds_are_left_to_numpy(tmp_path):
    @elementwise
    def product(xp, x, y):
        return x * y

    x = values((5000,)).astype("float32")
    mapped = np.memmap(tmp_path / "y", "float64", "w+", shape=(10_000,))
    mapped[:] = values((10_000,))
    for y in (mapped[::2], mapped[:1], mapped[5000:], 2j, x[:1]):
        assert_same_bits(product(x, y), x * y)


class Pair(NamedTuple):
    a: Any
    b: Any


@dataclasses.dataclass(frozen=True)
class Fixed:
    a: Any


@dataclasses.dataclass
class Changing:
    a: Any


def times_all(xp, x, *, k):
    """Return a product by all numbers in an option, and the sign of the first."""
    found, first = [k], None
    while found:
        k = found.pop(0)
        if isinstance(k, (tuple, list)):
            found += k
        elif isinstance(k, (Fixed, Changing)):
            found.append(k.a)
        else:
            x, first = x * k, k if first is None else first
    return xp.where(xp.signbit(first), x, x + first) if isinstance(first, float) else x * 1.5


ALIKE = [
    [0.0, -0.0], [1, 1.0, True, np.float64(1.0), np.float32(1.0), np.int64(1)],
    [(2,), (2.0,), (True, 2), ((2,),), Pair(2, 1), Pair(2.0, 1), (2, 1), [2], [2.0]],
    [(0.0,), (-0.0,), (0,), Fixed(0.0), Fixed(-0.0), Fixed((0.0,)), Fixed(0)],
    [float("nan"), np.float64("nan"), -float("nan")], [np.ones(1), np.ones(1, "float32")],
]  # fmt: skip


@pytest.mark.parametrize("options", ALIKE, ids=repr)
@pytest.mark.parametrize("n", [10, 5000])
def test_options_that_are_equal_but_not_the_same(options, n):
    call, x = elementwise(times_all), values((n,)).astype("float32")
    for k in options * 2:
        number = k.item() if isinstance(k, np.generic) else k  # it has no dtype as an option
        assert_same_bits(call(x, k=k), times_all(np, x, k=number))


def test_options_that_change_in_place():
    call, x = elementwise(times_all), values((5000,)).astype("float32")
    for k in ([2.0], Changing(2.0), Fixed([2.0])):
        assert_same_bits(call(x, k=k), times_all(np, x, k=k))
        for inner in (k, getattr(k, "a", None)):
            if isinstance(inner, list):
                inner[0] = 3.0
        if isinstance(k, Changing):
            k.a = 3.0
        assert_same_bits(call(x, k=k), times_all(np, x, k=k))


def test_other_options_do_not_fill_the_memory():
    call, x = elementwise(times_all), values((5000,)).astype("float32")
    for _ in range(5):
        call(x, k=float("nan"))
    assert len(call.programs) == 1
    for i in range(2 * MOST):
        call(x, k=1.0 + i)
    assert len(call.programs) == MOST
    assert_same_bits(call(x, k=1.0), times_all(np, x, k=1.0))


def test_functions_are_options():
    @elementwise
    def chained(xp, x, *, derivative):
        return x * derivative(xp, x)

    x = values((5000,)).astype("float32")
    one, two = (lambda xp, x: x + 1.0), (lambda xp, x: x + 2.0)
    for f in (one, two, one, functools.partial(two)):
        assert_same_bits(chained(x, derivative=f), x * f(np, x))


def test_what_numba_cannot_compile_is_left_to_numpy(monkeypatch):
    numba = pytest.importorskip("numba")

    def broken(function, **options):
        def loop(*args):
            message = "not today"
            raise numba.core.errors.TypingError(message)

        return loop

    monkeypatch.setattr(numba, "njit", broken)
    monkeypatch.setattr(engine, "elements_before", lambda: 0)
    x = values((5000,)).astype("float32")
    p = x.copy()

    @elementwise
    def rule(xp, p, g):
        return p - 0.1 * g

    for _ in range(3):
        expected = rule.function(np, p, x)
        rule(p, x, out=p)
        assert_same_bits(p, expected)
    run = prepared(rule, [p, x], (p,), {})
    expected = rule.function(np, p, x)
    run()
    assert_same_bits(p, expected)
