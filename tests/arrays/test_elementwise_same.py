"""Functions drawn at random: whichever way they are evaluated, the same bits, dtypes and errors."""

from __future__ import annotations

import itertools
import operator
import warnings
from typing import Any

import numpy as np
import pytest
from helpers import values
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xplayers import namespace
from xplayers.accelerate.host import elementwise as engine
from xplayers.accelerate.host import program, threads
from xplayers.accelerate.host.roots import with_exact_root
from xplayers.accelerate.torch import _through_numpy
from xplayers.arrays.elementwise import elementwise

# Around the thresholds of `small`.
SIZES = (0, 1, 8, 9, 16, 17, 20, 21, 33, 50, 69)
DTYPES = (*("float32", "float64") * 4, "float16", "int64", "int8", "uint8", "bool")
NUMBERS = (
    *(0.5, 2.0, -1.5, 3.0, 0.0, -0.0) * 4,
    0.0, -0.0, 1.0, 2.0, -1.0, 0.5, 3, 2, 0, -1, 1, True, False, 1e-300, 1e300, float("inf"),
    float("nan"), 0.1, 300, 10**20, -(2**63), 2**60 + 2**36 + 1, np.float64(0.1), np.float32(0.1),
    np.float64(2.0), np.int64(3), np.bool_(True), np.int8(2),
)  # fmt: skip
UNARY = {
    "neg": operator.neg, "pos": operator.pos, "abs": abs, "invert": operator.invert,
}  # fmt: skip
BINARY = {
    name: getattr(operator, name)
    for name in (
        "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "lt", "le", "gt", "ge", "eq",
        "ne", "and_", "or_", "xor",
    )
}  # fmt: skip
FUNCTIONS = ("sqrt", "exp", "square", "isnan", "tanh", "sign", "floor", "log1p", "reciprocal")
OF_TWO = ("maximum", "minimum", "add", "multiply", "divide", "arctan2", "power", "greater", "equal")

leaves = st.one_of(
    st.tuples(st.just("x"), st.integers(0, 2)),
    st.tuples(st.just("x"), st.integers(0, 2)),
    st.tuples(st.just("s"), st.integers(0, 1)),
    st.tuples(st.just("c"), st.sampled_from(NUMBERS)),
    st.tuples(st.just("o"), st.sampled_from(["alpha", "beta"])),
)


def nodes(inner, unary=UNARY, binary=BINARY, functions=FUNCTIONS, of_two=OF_TWO, dtypes=DTYPES):
    return st.one_of(
        st.tuples(st.just("unary"), st.sampled_from([*unary]), inner),
        st.tuples(st.just("binary"), st.sampled_from([*binary]), inner, inner),
        st.tuples(st.just("binary"), st.sampled_from([*binary]), inner, inner),
        st.tuples(st.just("function"), st.sampled_from(functions), inner),
        st.tuples(st.just("function"), st.sampled_from(of_two), inner, inner),
        st.tuples(st.just("where"), inner, inner, inner),
        st.tuples(st.just("cast"), st.sampled_from(dtypes), inner),
    )


trees = nodes(st.recursive(leaves, nodes, max_leaves=8))


def exact_nodes(inner):
    return nodes(
        inner, ("neg", "abs"), ("add", "sub", "mul", "truediv", "lt", "ge", "eq", "ne"),
        ("sqrt", "square"), ("maximum", "minimum", "add", "multiply", "greater"), ("like",),
    )  # fmt: skip


exact_trees = exact_nodes(st.recursive(leaves, exact_nodes, max_leaves=8))


def evaluated(tree: Any, xp: Any, operands: Any, options: Any) -> Any:
    kind, *rest = tree
    if kind == "x":
        return operands[rest[0]]
    if kind == "s":
        return operands[3 + rest[0]]
    if kind == "c":
        return rest[0]
    if kind == "o":
        return options[rest[0]]
    name, *inner = rest if kind != "where" else (None, *rest)
    given = [evaluated(t, xp, operands, options) for t in inner]
    if kind == "unary":
        return UNARY[name](*given)
    if kind == "binary":
        return BINARY[name](*given)
    if kind == "cast":
        return xp.astype(given[0], operands[0].dtype if name == "like" else np.dtype(name))
    return xp.where(*given) if kind == "where" else getattr(xp, name)(*given)


def function_of(trees: Any) -> Any:
    @elementwise(integers=True)
    def drawn(xp, *operands, alpha, beta):
        made = [evaluated(t, xp, operands, {"alpha": alpha, "beta": beta}) for t in trees]
        return tuple(made) if len(made) > 1 else made[0]

    return drawn


def small(monkeypatch):
    """Let the paths of large arrays be taken by small ones."""
    for name, size in (("STRAIGHT", 20), ("BLOCK", 16), ("PART", 32), ("THREADED", 50)):
        monkeypatch.setattr(engine, name, size)
    monkeypatch.setattr(engine, "THREADED_KERNEL", 40)
    monkeypatch.setattr(engine, "PLAIN", 8)
    monkeypatch.setattr(program, "ROW", 16)
    for module in (engine, threads):
        monkeypatch.setattr(module, "usable_cores", lambda: 2)


def arrays(n, dtypes, seed):
    """Return three operands, with what is special among their values."""
    special = np.asarray([0.0, -0.0, 1.0, np.inf, -np.inf, np.nan, 1e-42, -3.0])
    made = []
    for i, dtype in enumerate(dtypes):
        x = values((n,), seed + i)
        x[i::3] = special[(np.arange(len(x[i::3])) + seed) % len(special)]
        made.append(np.nan_to_num(x, posinf=3, neginf=-3).astype(dtype) if dtype[0] in "iu"
                    else x.astype(dtype))  # fmt: skip
    return made


def outcome(call, *args, **kwargs):
    try:
        results = call(*args, **kwargs)
    except Exception as error:
        return type(error)
    return results if isinstance(results, tuple) else (results,)


def assert_same(got, expected):
    if isinstance(got, type) or isinstance(expected, type):
        assert got == expected, f"{got} in place of {expected}"
        return
    for a, b in zip(got, expected, strict=True):
        assert type(a) is type(b)
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if a.dtype.kind == "O":  # a large integer of Python, whose bytes are an address
            assert a.item() == b.item()
            continue
        if a.dtype.kind == "f":
            assert (np.isnan(a) == np.isnan(b)).all()
            a, b = (np.where(np.isnan(v), 0, v).astype(v.dtype) for v in (a, b))
        assert a.tobytes() == b.tobytes(), f"{a} in place of {b}"


calls = st.fixed_dictionaries(
    {
        "dtypes": st.tuples(*[st.sampled_from(DTYPES)] * 3),
        "scalars": st.tuples(*[st.sampled_from(NUMBERS)] * 2),
        "options": st.fixed_dictionaries(
            {"alpha": st.sampled_from(NUMBERS), "beta": st.sampled_from(NUMBERS)}
        ),
        "seed": st.integers(0, 9),
    }
)


def as_number(value):
    """Return a scalar of NumPy as Python's: as an operand or option it has no dtype."""
    return value.item() if isinstance(value, np.generic) else value


def check(function, call, sizes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for n in sizes:
            operands = (*arrays(n, call["dtypes"], call["seed"]), *call["scalars"])
            plain = (*operands[:3], *map(as_number, call["scalars"]))
            options = {name: as_number(value) for name, value in call["options"].items()}
            expected = outcome(function.function, np, *plain, **options)
            assert_same(outcome(function, *operands, **call["options"]), expected)


quick = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@quick
@given(st.lists(trees, min_size=1, max_size=2), st.lists(calls, min_size=1, max_size=3))
def test_sizes_types_and_numbers(monkeypatch, trees, calls):
    with monkeypatch.context() as patch:
        small(patch)
        patch.setattr(engine, "elements_before", lambda: float("inf"))
        function = function_of(trees)
        for call in calls:
            check(function, call, SIZES)


exact_calls = st.fixed_dictionaries(
    {
        "dtypes": st.sampled_from(
            [*itertools.product(("float32", "bool"), repeat=3)][:-1]
            + [*itertools.product(("float64", "bool"), repeat=3)][:-1]
        ),
        "scalars": st.tuples(*[st.sampled_from(NUMBERS)] * 2),
        "options": st.fixed_dictionaries(
            {"alpha": st.sampled_from(NUMBERS), "beta": st.sampled_from(NUMBERS)}
        ),
        "seed": st.integers(0, 9),
    }
)


def as_python(function, **options):
    """Stand in for `numba.njit`: the same loop, by the scalars of NumPy."""
    return function


@quick
@given(st.lists(exact_trees, min_size=1, max_size=2), st.lists(exact_calls, max_size=3))
def test_loops_for_numba(monkeypatch, trees, calls):
    numba = pytest.importorskip("numba")
    with monkeypatch.context() as patch:
        small(patch)
        patch.setattr(numba, "njit", as_python)
        patch.setattr(engine, "elements_before", lambda: 0)
        function = function_of(trees)
        for call in calls:
            check(function, call, (9, 1, 45))


@settings(quick, max_examples=6)
@given(st.lists(exact_trees, min_size=1, max_size=2), exact_calls)
def test_numba(monkeypatch, trees, call):
    pytest.importorskip("numba")
    with monkeypatch.context() as patch:
        small(patch)
        patch.setattr(engine, "elements_before", lambda: 0)
        check(function_of(trees), call, SIZES)


@quick
@given(exact_trees, exact_calls)
def test_tensors_through_numpy(tree, call):
    """Where tensors are written by NumPy, they get the bits of PyTorch, but for the sign of 0.

    Of 0.0 and -0.0 PyTorch takes one or the other as the larger one, by the place in the array.
    """
    torch = pytest.importorskip("torch")
    function = function_of([tree])
    for n in (9, 37):
        operands = [torch.asarray(a) for a in arrays(n, call["dtypes"], call["seed"])]
        given = (*operands, *map(as_number, call["scalars"]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plain = with_exact_root(namespace(operands[0]))
            expected = outcome(function.function, plain, *given, **call["options"])
            if isinstance(expected, type) or getattr(expected[0], "shape", ()) != (n,):
                return
            out = torch.empty_like(expected[0])
            if _through_numpy(function, given, out, call["options"]) is out:
                a, b = out.numpy(), expected[0].numpy()
                assert_same((a + a.dtype.type(0),), (b + b.dtype.type(0),))


@pytest.mark.parametrize(
    "function",
    [
        lambda xp, y, mask: y - (mask + 1e300),
        lambda xp, y, mask: y - mask / 3,
        lambda xp, y, mask: y - 0.1 * mask,
        lambda xp, y, mask: y - xp.where(y > 0, mask, 0.1),
        lambda xp, y, mask: y - xp.where(y > 0, 0.1, mask),
        lambda xp, y, mask: y - xp.astype(mask, y.dtype) * 0.1,  # computed here
        lambda xp, y, mask: y - xp.add(0.5, 2e-9),
        lambda xp, y, mask, s: y - xp.sqrt(xp.add(s, 2.0)),
    ],
)
def test_numbers_that_pytorch_makes_of_numbers_or_truth_values_have_its_dtype(function):
    torch = pytest.importorskip("torch")
    y, mask = torch.linspace(-1, 1, 5000, dtype=torch.float64), torch.arange(5000) % 3 > 0
    operands = (y, mask, 0.5)[: function.__code__.co_argcount - 1]
    expected = function(namespace(y), *operands)
    assert torch.equal(elementwise(function)(*operands, out=torch.empty_like(y)), expected)


def test_a_number_by_a_tensor_is_left_to_pytorch():
    torch = pytest.importorskip("torch")

    @elementwise
    def quotient(xp, x, s):
        return s / x

    x = torch.linspace(0.1, 3, 5000)
    assert torch.equal(quotient(x, -1.5, out=torch.empty(5000)), -1.5 / x)
