"""The one-pass engine: the bits of the plain function, whatever the shape, layout or size."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from helpers import assert_at_home, assert_close, assert_same_bits, python, values

from xplayers import functional
from xplayers.accelerate.host import elementwise as engine
from xplayers.accelerate.host import threads
from xplayers.accelerate.host.elementwise import prepared
from xplayers.arrays.elementwise import elementwise
from xplayers.arrays.transfer import to_numpy

SIZES = [0, 1, 7, 4097, 49_153, 65_537, 262_144, 600_001]


@elementwise
def rule(xp, p, g, m, lr, beta, *, decay=0.0):
    """Return a step with momentum; has scalars, constants, a cast and an option."""
    g = g + decay * p if decay else g
    m = beta * m + (1.0 - beta) * g
    return p - lr * m * xp.astype(g > 0, g.dtype), m


@elementwise
def selection(xp, x, y):
    """Return something with ``where``, which may not write over its inputs."""
    return xp.where(x > y, x * y, -x)


@elementwise
def untraceable(xp, x):
    """Return what is no ufunc: the engine has to step back."""
    return x - xp.sum(x) * 0.0


@elementwise
def branching(xp, x, k):
    """Return what depends on the value of an operand."""
    return x * 2.0 if k > 0 else x * 3.0


def operands(n, dtype="float32"):
    return [values((n,), seed).astype(dtype) for seed in range(3)]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_bits_are_those_of_the_plain_function(n, dtype):
    p, g, m = operands(n, dtype)
    for options in ({}, {"decay": 0.1}):
        expected = rule.function(np, p, g, m, 0.1, 0.9, **options)
        for got, plain in zip(rule(p, g, m, 0.1, 0.9, **options), expected, strict=True):
            assert_same_bits(got, plain)


@pytest.mark.parametrize("n", SIZES)
def test_results_can_be_written_over_the_operands(n):
    p, g, m = operands(n)
    expected = rule.function(np, p, g, m, 0.1, 0.9)
    got = rule(p, g, m, 0.1, 0.9, out=(p, m))
    assert got[0] is p
    assert got[1] is m
    for a, b in zip(got, expected, strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("n", SIZES)
def test_an_operand_that_is_needed_later_is_not_lost(n):
    p, g, m = operands(n)
    expected = rule.function(np, p, g, m, 0.1, 0.9)
    rule(p, g, m, 0.1, 0.9, out=(m, p))  # the other way round
    assert_same_bits(m, expected[0])
    assert_same_bits(p, expected[1])
    x, y = operands(n)[:2]
    selected = selection.function(np, x, y)
    for out in (0, 1):
        x, y = operands(n)[:2]
        assert_same_bits(selection(x, y, out=(x, y)[out]), selected)


@pytest.mark.parametrize("n", [5000, 60_000])
def test_a_constant_keeps_its_sign(n):
    @elementwise
    def both(xp, x):
        return xp.maximum(x, 0.0), xp.maximum(x, -0.0), xp.minimum(xp.abs(x), 0)

    x = np.full(n, -1.0, "float32")
    for y, expected in zip(both(x), both.function(np, x), strict=True):
        assert_same_bits(y, expected)
        assert y.flags.writeable


@pytest.mark.parametrize("n", [100, 5000, 60_000])
def test_a_prepared_call_reads_and_writes_the_same_memory(n):
    p, g, m = operands(n)
    run = prepared(rule, [p, g, m, 0.0, 0.0], (p, m), {})
    for lr in (0.1, 0.3):
        expected = rule.function(np, p.copy(), g.copy(), m.copy(), lr, 0.9)
        run(lr, 0.9)
        assert_same_bits(p, expected[0])
        assert_same_bits(m, expected[1])
        g *= 2


@pytest.mark.parametrize("cores", [1, 2, 3, 7])
def test_any_number_of_threads_gives_the_same(monkeypatch, cores):
    for module in (engine, threads):
        monkeypatch.setattr(module, "usable_cores", lambda: cores)
    monkeypatch.setattr(threads, "_threads", None)
    monkeypatch.setattr(engine, "THREADED", 100_000)
    p, g, m = operands(1_000_003)
    expected = rule.function(np, p, g, m, 0.1, 0.9)
    for got, plain in zip(rule(p, g, m, 0.1, 0.9), expected, strict=True):
        assert_same_bits(got, plain)


def test_shape_and_odd_layouts():
    x = values((300, 400)).astype("float32")
    expected = functional.silu.function(np, x)
    assert_same_bits(functional.silu(x), expected)
    for odd in (x.T, x[::2], x[:, ::-1], np.asfortranarray(x)):
        assert_same_bits(functional.silu(odd), functional.silu.function(np, odd))


def test_operands_of_several_shapes_broadcast():
    x, row = values((300, 400)), values((400,))
    assert_same_bits(selection(x, row), selection.function(np, x, row))


def test_scalars_may_change_and_do_not_decide_the_dtype():
    p, g, m = operands(5000)
    for lr in (0.1, 0.2, np.float32(0.3), np.asarray(0.4, "float32")):
        got, _ = rule(p, g, m, lr, 0.9)
        assert got.dtype == "float32"
        assert_same_bits(got, rule.function(np, p, g, m, float(lr), 0.9)[0])


def test_what_cannot_be_traced_is_computed_as_it_stands():
    x = values((5000,))
    assert_same_bits(untraceable(x), untraceable.function(np, x))
    for k in (1.0, -1.0):
        assert_same_bits(branching(x, k), branching.function(np, x, k))


def test_no_array_of_full_size_but_the_result(monkeypatch):
    import tracemalloc

    x = values((4_000_000,)).astype("float32")
    functional.gelu(x[:100_000])
    tracemalloc.start()
    y = functional.gelu(x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.6 * y.nbytes, f"{peak / y.nbytes:.2f} times the result"


def test_on_every_library(xpv):
    for dtype in xpv.floats:
        p, g, m = (xpv.asarray(a, dtype) for a in operands(50))
        new, moment = rule(p, g, m, 0.1, 0.9, out=(p, m))
        assert_at_home(new, g)
        expected = rule.function(
            np, *(to_numpy(xpv.asarray(a, dtype)).astype("float64") for a in operands(50)), 0.1, 0.9
        )
        tolerance = {"float64": 1e-12, "float32": 1e-6}.get(dtype, 0.03)
        assert_close(new, expected[0], tolerance)
        assert_close(moment, expected[1], tolerance)
        if xpv.backend in ("numpy", "strict", "torch", "cupy"):
            assert new is p


def test_tensors_on_the_cpu_go_through_numpy(monkeypatch):
    torch = pytest.importorskip("torch")
    calls = []
    one_pass = engine.in_one_pass

    def counted(*args, **kwargs):
        results = one_pass(*args, **kwargs)
        calls.append(results is not NotImplemented)
        return results

    monkeypatch.setattr(engine, "in_one_pass", counted)
    for dtype in (torch.float32, torch.float64):
        p, g, m = (torch.asarray(a, dtype=dtype) for a in operands(5000))
        plain = [a.numpy().copy() for a in (p, g, m)]
        expected = rule.function(np, *plain, 0.1, 0.9)
        new, moment = rule(p, g, m, torch.asarray(0.1, dtype=torch.float64), 0.9, out=(p, m))
        assert new is p
        assert moment is m
        for got, e in zip((new, moment), expected, strict=True):
            assert_same_bits(got.numpy(), e)
    assert calls == [True, True]
    # Not where NumPy would round otherwise, or cannot see the values.
    x = torch.linspace(-5, 5, 5000)
    assert torch.equal(functional.sigmoid(x, out=torch.empty(5000)), functional.sigmoid(x))
    half = [torch.ones(5000, dtype=torch.bfloat16) for _ in range(3)]
    assert rule(*half, 0.1, 0.9, out=(half[0], half[2]))[0] is half[0]
    assert not any(calls[2:])


def test_it_pickles_by_name_and_prints_its_signature():
    assert pickle.loads(pickle.dumps(functional.relu)) is functional.relu
    assert repr(functional.leaky_relu) == "<elementwise leaky_relu(x, *, alpha=0.01)>"
    assert rule.__doc__.startswith("Return a step")


def test_a_forked_child_computes_too():
    """Threads do not survive a fork; a pool that waits for them would hang."""
    code = """
import os, sys
import numpy as np
from xplayers import functional
from xplayers import elementwise
x = np.ones(1_000_000, "float32")
functional.sigmoid(x)
pid = os.fork()
if pid == 0:
    os._exit(0 if functional.sigmoid(x)[0] > 0.7 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    if not hasattr(__import__("os"), "fork"):
        pytest.skip("no fork here")
    assert python("-c", code).returncode == 0


def test_a_result_that_is_an_operand_is_refused():
    @elementwise
    def swap(xp, x, y):
        return y, x

    with pytest.raises(RuntimeError, match="returned an operand; its results are new values"):
        swap(values((5000,)), values((5000,)))


def test_out_of_another_shape_or_dtype_is_refused():
    for out in (np.zeros(7), np.zeros(5, "float32"), np.zeros(5, "int64")):
        with pytest.raises(ValueError, match=r"out is .*; the result is float64 of shape \(5,\)"):
            functional.sigmoid(np.ones(5), out=out)


def test_one_array_as_two_operands_and_as_out():
    @elementwise
    def two(xp, a, b):
        return a * 2.0, b * 3.0

    for n in (10, 10_000):
        x = np.ones(n)
        a, b = two(x, x, out=(x, np.zeros(n)))
        assert (a[0], b[0]) == (2.0, 3.0)


def test_options_that_are_equal_and_of_other_types():
    @elementwise(integers=True)
    def plus(xp, x, *, a):
        return x + a

    x = np.arange(10_000)
    assert plus(x, a=1).dtype == "int64"
    assert plus(x, a=1.0).dtype == "float64"


def test_errstate_reaches_the_threads():
    @elementwise
    def log(xp, x):
        return xp.log(x)

    with np.errstate(all="ignore"):
        assert np.isneginf(log(np.zeros(2_000_000))).all()
    x = np.ones(2_000_000)
    x[-1] = 0.0
    with np.errstate(all="raise"), pytest.raises(FloatingPointError):
        log(x)
