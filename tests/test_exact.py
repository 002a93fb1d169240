"""The loop of an elementwise function for Numba, and whether PyTorch computes the same bits."""

from __future__ import annotations

import numpy as np
import pytest

from xplayers import _jit
from xplayers._jit import exact_source
from xplayers._trace import trace

pytestmark = [pytest.mark.only("numpy"), pytest.mark.usefixtures("xpv")]

X, D, M, N = (np.ones(1, dtype) for dtype in ("float32", "float64", "bool", "int32"))
CASES = []


def case(code, *samples, over=(), as_torch=True, of_ties=False):
    """Mark a function with its loop, samples of its operands, and what it is written over."""

    def marked(function):
        CASES.append((function, code, samples, over, as_torch, of_ties))
        return function

    return marked


@case(
    "def kernel(x0, x1, s2, y0):; c2 = D(s2); for i in range(len(x0)):; v0 = x0[i]; "
    "v1 = x1[i]; v3 = c2 * v1; v4 = v0 - v3; y0[i] = v4",
    X,
    X,
    1.0,
)
def descent(xp, p, g, lr):
    return p - lr * g


@case(
    "def kernel(x0, x1, s2):; c2 = D(s2); for i in range(len(x0)):; v0 = x0[i]; v1 = x1[i]; "
    "v3 = c2 * v1; v4 = v0 - v3; x0[i] = v4",
    X,
    X,
    1.0,
    over=(0,),
)
def descent_in_place(xp, p, g, lr):
    return p - lr * g


@case(
    "def kernel(x0, x1, y0):; for i in range(len(x0)):; v0 = x0[i]; v1 = x1[i]; "
    "v2 = v0 + v1; y0[i] = v2",
    D,
    D,
)
def in_double(xp, p, g):
    return p + g


@case(
    "def kernel(x0, x1, y0):; for i in range(len(x0)):; v0 = x0[i]; v1 = x1[i]; "
    "v2 = v0 / v1; v3 = abs(v0); v4 = sqrt(v3); y0[i] = v2; x0[i] = v4",
    X,
    X,
    over=(None, 0),
)
def two_results(xp, p, g):
    return (p / g, xp.sqrt(xp.abs(p)))


@case(
    "def kernel(x0, s1, s3, y0):; c1 = D(s1); c3 = D(s3); for i in range(len(x0)):; "
    "v0 = x0[i]; v2 = c1 * v0; v4 = v2 - c3; y0[i] = v4",
    X,
)
def constants(xp, p):
    return 2.0 * p - 1


@case(
    "def kernel(x0, x1, y0):; for i in range(len(x0)):; v0 = x0[i]; v1 = x1[i]; v2 = -v0; "
    "v3 = v1 * v1; v4 = v2 + v3; y0[i] = v4",
    X,
    X,
)
def negated(xp, p, g):
    return -p + xp.square(g)


@case("def kernel(x0, y0):; for i in range(len(x0)):; v0 = x0[i]; v1 = v0 * v0; y0[i] = v1", X)
def power_of_two(xp, p):
    return p**2


@case(
    "def kernel(x0, x1, s3, y0):; c3 = D(s3); for i in range(len(x0)):; v0 = x0[i]; "
    "v1 = x1[i]; v2 = v0 < v1; v4 = v0 <= c3; v5 = v2 == v4; v6 = v0 if v5 else v1; "
    "y0[i] = v6",
    X,
    X,
)
def compared(xp, p, g):
    return xp.where((p < g) == (p <= 1.0), p, g)


@case(
    "def kernel(x0, s1, s3, y0):; c1 = D(s1); c3 = D(s3); for i in range(len(x0)):; "
    "v0 = x0[i]; v2 = v0 != c1; v4 = v0 if v2 else c3; y0[i] = v4",
    X,
)
def compared_with_numbers(xp, p):
    return xp.where(p != 2, p, 0.0)


@case(
    "def kernel(x0, s1, y0):; c1 = D(s1); for i in range(len(x0)):; v0 = x0[i]; "
    "v2 = v0 > c1; v3 = D(v2); v4 = v3 * v0; y0[i] = v4",
    X,
)
def as_number(xp, p):
    return xp.astype(p > 0.0, p.dtype) * p


@case(
    "def kernel(x0, x1, y0):; for i in range(len(x0)):; v0 = x0[i]; v1 = x1[i]; v2 = v0; "
    "v3 = v2 * v1; y0[i] = v3",
    X,
    X,
)
def as_it_is(xp, p, g):
    return xp.astype(p, g.dtype) * g


@case(
    "def kernel(x0, x1, s2, s4, y0):; c2 = D(s2); c4 = D(s4); for i in range(len(x0)):; "
    "v0 = x0[i]; v1 = x1[i]; v3 = v0 >= c2; v5 = v0 if v3 else c4; v6 = v0 if v1 else v5; "
    "y0[i] = v6",
    X,
    M,
)
def truth(xp, p, m):
    return xp.where(m, p, xp.where(p >= 0.0, p, 1.0))


@case(
    "def kernel(x0, x1, y0):; for i in range(len(x0)):; v0 = x0[i]; v1 = x1[i]; v2 = D(v1); "
    "v3 = v0 * v2; y0[i] = v3",
    X,
    M,
)
def truth_as_number(xp, p, m):
    return p * xp.astype(m, p.dtype)


@case(
    "def kernel(x0, x1, s3, y0):; c3 = D(s3); for i in range(len(x0)):; v0 = x0[i]; "
    "v1 = x1[i]; v4 = v0 if (c3 != 0) else v1; y0[i] = v4",
    X,
    X,
    True,
)
def truth_by_a_number(xp, p, g, m):
    return xp.where(m, p, g)


@case(
    "def kernel(x0, x1, s2, s5, y0):; c2 = D(s2); c5 = D(s5); for i in range(len(x0)):; "
    "v0 = x0[i]; v1 = x1[i]; v3 = v0 > c2; v4 = v1 != v3; v6 = v0 if v4 else c5; y0[i] = v6",
    X,
    M,
)
def truths(xp, p, m):
    return xp.where(m != (p > 0.0), p, 1.0)


@case(
    "def kernel(x0, x1, s2, y0):; c2 = D(s2); for i in range(len(x0)):; v0 = x0[i]; "
    "v1 = x1[i]; v3 = v0 > c2; v4 = v1 if v1 else v3; y0[i] = v4",
    X,
    M,
)
def selected_truths(xp, p, m):
    return xp.where(m, m, p > 0.0)


@case(
    "def kernel(x0, s1, y0):; c1 = D(s1); for i in range(len(x0)):; v0 = x0[i]; "
    "v2 = v0 > c1; y0[i] = v2",
    X,
)
def truth_is_returned(xp, p):
    return p > 0.0


@case(
    "def kernel(x0, x1, s3, y0):; c3 = D(s3); for i in range(len(x0)):; v0 = x0[i]; "
    "v1 = x1[i]; v2 = v0 if v0 > v1 or v0 != v0 else v1; "
    "v4 = v0 if v0 < c3 or v0 != v0 else c3; v5 = v2 + v4; y0[i] = v5",
    X,
    X,
    of_ties=True,
)
def largest(xp, p, g):
    return xp.maximum(p, g) + xp.minimum(p, 0.0)


@case(
    "def kernel(x0, s3, s6, y0):; c3 = D(s3); c6 = D(s6); for i in range(len(x0)):; "
    "v0 = x0[i]; v4 = v0 * c3; v7 = v4 + c6; y0[i] = v7",
    X,
    1.0,
    2.0,
)
def scalars(xp, p, a, b):
    return p * (a * b) + (1.0 - a)


@case(
    "def kernel(x0, s1, y0):; c1 = D(s1); for i in range(len(x0)):; v0 = x0[i]; "
    "v2 = v0 * c1; v3 = v0 / c1; v4 = v2 + v3; y0[i] = v4",
    X,
    1.0,
)
def scalars_once(xp, p, a):
    return p * a + p / a


@case(
    "def kernel(x0, s1, y0):; c1 = D(s1); for i in range(len(x0)):; v0 = x0[i]; "
    "v2 = v0 * c1; y0[i] = v2",
    X,
    3,
)
def integer_operand(xp, p, k):
    return p * k


@case(
    "def kernel(x0, s1, y0):; c1 = D(s1); for i in range(len(x0)):; v0 = x0[i]; "
    "v2 = c1 / v0; y0[i] = v2",
    X,
)
def reciprocal(xp, p):
    return 1.0 / p


@case(
    "def kernel(x0, s1, y0):; c1 = D(s1); for i in range(len(x0)):; v0 = x0[i]; "
    "v2 = c1 / v0; y0[i] = v2",
    X,
)
def negative_reciprocal(xp, p):
    return -1 / p


@case(
    "def kernel(x0, s1, y0):; c1 = D(s1); for i in range(len(x0)):; v0 = x0[i]; "
    "v2 = v0 / c1; y0[i] = v2",
    X,
)
def quotient(xp, p):
    return p / 2.0


@case(
    "def kernel(x0, s1, y0):; c1 = D(s1); for i in range(len(x0)):; v0 = x0[i]; "
    "v2 = c1 / v0; y0[i] = v2",
    X,
    as_torch=False,
)
def other_quotient(xp, p):
    return 2.0 / p


@case(
    "def kernel(x0, s1, y0):; c1 = D(s1); for i in range(len(x0)):; v0 = x0[i]; "
    "v2 = c1 / v0; y0[i] = v2",
    X,
    1.0,
    as_torch=False,
)
def quotient_of_an_operand(xp, p, a):
    return a / p


@case(None, X)
def exponential(xp, p):
    return xp.exp(p)


@case(None, X, D)
def mixed(xp, p, d):
    return p + d


@case(None, X)
def cast_to_double(xp, p):
    return xp.astype(p, xp.float64)


@case(None, N)
def integers(xp, n):
    return n + 1


@case(None, np.ones(1, "float16"))
def halves(xp, p):
    return p + 1.0


@case(None, X)
def large_integer(xp, p):
    return p + 9007199254740993


@case(
    "def kernel(x0, s1, y0):; c1 = D(s1); for i in range(len(x0)):; v0 = x0[i]; "
    "v2 = v0 + c1; y0[i] = v2",
    X,
)
def largest_integer(xp, p):
    return p + 9007199254740992


@case(None, X, 2.0)
def scalar_of_another_dtype(xp, p, b):
    return p * xp.sqrt(b)


@case(None, M)
def truth_values_alone(xp, m):
    return ~m


@case(
    "def kernel(x0, x1, y0):; for i in range(len(x0)):; v0 = x0[i]; v1 = x1[i]; "
    "v2 = v0 + D(v1); y0[i] = v2",
    X,
    M,
)
def truth_in_a_sum(xp, p, m):
    return p + m


@case(None, X)
def selection_of_numbers(xp, p):
    return xp.where(p > 0.0, 1.0, 2.0) * p


@case(None, X, X)
def number_as_condition(xp, p, g):
    return xp.where(p, g, 1.0)


@case(None, X)
def truth_of_numbers(xp, p):
    return xp.astype(p, xp.bool)


@case(None, X, M)
def largest_of_truths(xp, p, m):
    return xp.maximum(m, p > 0.0)


@pytest.mark.parametrize(
    ("function", "code", "samples", "over", "as_torch", "of_ties"),
    CASES,
    ids=lambda f: getattr(f, "__name__", ""),
)
def test_loops(function, code, samples, over, as_torch, of_ties):
    with np.errstate(all="ignore"):
        source = exact_source(trace(function, samples, over))
    if code is None:
        assert source is None
        return
    assert "; ".join(line.strip() for line in source.text.splitlines()) == code
    assert (source.as_torch, source.of_ties) == (as_torch, of_ties)
    assert source.dtype == samples[0].dtype


def test_numbers_of_scalars():
    """What is computed from scalars alone is Python's, once a call."""
    numbers = exact_source(trace(scalars, (X, 1.0, 2.0), ())).numbers
    assert numbers(3.0, 4.0) == [12.0, -2.0]
    assert numbers(True, 2) == [2.0, 0.0]
    assert exact_source(trace(scalars_once, (X, 1.0), ())).numbers(3) == [3.0]
    assert exact_source(trace(constants, (X,), ())).numbers() == [2.0, 1.0]
    assert exact_source(trace(truth_as_number, (X, M), ())).numbers is None


@pytest.mark.parametrize("name", ["maximum", "minimum"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("axes", [0, 1])
def test_of_zeros_numpy_has_to_take_the_second(name, dtype, negative, axes, monkeypatch):
    """Else nothing that asks for the larger one is compiled."""

    def replaced(first):
        def function(a, b):
            odd = (a.dtype, np.ndim(b), np.signbit(b).all()) == (dtype, axes, negative)
            return a + 0 * a if first and odd else np.broadcast_to(b, a.shape)

        return function

    for each in ("maximum", "minimum"):
        monkeypatch.setattr(np, each, replaced(first=False))
    assert _jit._ties_are_second.__wrapped__()
    monkeypatch.setattr(np, name, replaced(first=True))
    assert not _jit._ties_are_second.__wrapped__()


@pytest.mark.parametrize(
    ("variable", "elements"),
    [("0", np.inf), ("1", 0), ("", 1 << 24), (None, 1 << 24), ("2", 1 << 24)],
)
def test_when_programs_are_compiled(variable, elements, monkeypatch):
    if variable is None:
        monkeypatch.delenv("XPLAYERS_JIT", raising=False)
    else:
        monkeypatch.setenv("XPLAYERS_JIT", variable)
    monkeypatch.setattr(_jit.importlib.util, "find_spec", lambda name: name == "numba" or None)
    assert _jit.elements_before.__wrapped__() == elements
    monkeypatch.setattr(_jit.importlib.util, "find_spec", lambda name: None)
    assert _jit.elements_before.__wrapped__() == np.inf


def test_what_numba_is_asked_for(monkeypatch):
    """A loop that needs no interpreter lock and divides as NumPy does, for the dtypes of it."""
    numba = pytest.importorskip("numba")
    asked, given = [], []

    def njit(function, **options):
        asked.append(options)

        def loop(*arrays):
            given.append([(a.dtype, a.size) if isinstance(a, np.ndarray) else a for a in arrays])
            return function(*arrays)

        return loop

    monkeypatch.setattr(numba, "njit", njit)
    monkeypatch.setattr(_jit, "_ties_are_second", lambda: True)
    program = trace(lambda xp, p, m, k: (xp.where(m, p, k * 2.0), p > k), (X, M, 3.0), (0, None))
    program.source = exact_source(program)
    kernel = _jit.compiled(program)
    assert asked == [{"nogil": True, "error_model": "numpy"}]
    one, truth = np.dtype("float32"), np.dtype("bool")
    assert given == [[(one, 0), (truth, 0), 6.0, 3.0, (truth, 0)]]
    p, m, above = (
        np.asarray([[1, 5]], "float32"),
        np.asarray([[True, False]]),
        np.empty((1, 2), bool),
    )
    kernel([p, m, 4.0], [p, above])
    assert (p.tolist(), above.tolist()) == ([[1.0, 8.0]], [[False, True]])
    flat = [p.ravel(), m.ravel()]
    kernel.bound(flat, [flat[0], above.ravel()])(0.5)
    assert (p.tolist(), above.tolist()) == ([[1.0, 1.0]], [[True, True]])
    program = trace(lambda xp, p: p * p, (X,), ())
    program.source = exact_source(program)
    out = np.empty(2, "float32")
    _jit.compiled(program).bound([flat[0] + 1], [out])()
    assert out.tolist() == [4.0, 4.0]


def test_what_is_not_compiled(monkeypatch):
    numba = pytest.importorskip("numba")
    program = trace(lambda xp, p: xp.exp(p), (X,), ())
    program.source = exact_source(program)
    assert _jit.compiled(program) is None
    program = trace(lambda xp, p, g: xp.maximum(p, g), (X, X), ())
    program.source = exact_source(program)
    monkeypatch.setattr(numba, "njit", lambda function, **options: function)
    monkeypatch.setattr(_jit, "_ties_are_second", lambda: False)
    assert _jit.compiled(program) is None
    monkeypatch.setattr(_jit, "_ties_are_second", lambda: True)
    assert _jit.compiled(program) is not None
    monkeypatch.setattr(numba, "njit", lambda function, **options: 1 / 0)
    assert _jit.compiled(program) is None
