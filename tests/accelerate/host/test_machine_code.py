"""Programs that Numba compiles: the bits of the plain functions, and no others."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import helpers
import numpy as np
import pytest
from helpers import assert_same_bits, values

import xplayers as xl
from xplayers import functional
from xplayers.accelerate.host import elementwise as engine
from xplayers.accelerate.host import machine_code, threads
from xplayers.arrays.elementwise import elementwise

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="numba is not installed"
)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(engine, "elements_before", lambda: 0)


def kernels(function):
    return [program.kernel for program in function.programs.values()]


everything = elementwise(helpers.everything)


def special(n, dtype, seed=0):
    """Return values of all sizes, and those that are no numbers."""
    x = values((n,), seed) * 10.0 ** np.random.default_rng(seed).integers(-45, 39, n)
    with np.errstate(over="ignore"):
        x = x.astype(dtype)
    x[:6] = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-42][: len(x[:6])]
    return x


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [0, 1, 5, 1000, 70_001])
def test_the_bits_are_those_of_the_ufuncs(n, dtype):
    x, y = special(n, dtype), special(n, dtype, 1)[::-1].copy()
    with np.errstate(all="ignore"):
        expected = everything.function(np, x, y, 0.7)
        got = everything(x, y, 0.7)
    assert all(kernels(everything))
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        assert_same_bits(np.nan_to_num(a), np.nan_to_num(b))


OPTIMIZERS = [
    xl.SGD(), xl.SGD(weight_decay=0.1), xl.Momentum(), xl.Nesterov(), xl.AdaGrad(), xl.RMSprop(),
    xl.Adam(), xl.Adam(eps_hat=False), xl.Adam(weight_decay=0.1), xl.AdamW(),
]  # fmt: skip


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_optimizers_take_the_same_steps(optimizer, dtype, monkeypatch):
    def run():
        params = {"W": values((300, 41)).astype(dtype), "b": values((7,)).astype(dtype)}
        state = optimizer.init(params)
        for k in range(3):
            grads = {n: values(p.shape, k).astype(dtype) for n, p in params.items()}
            grads["W"].flags.writeable = False
            params, state = optimizer.step(params, grads, state, donate=True)
        return [*params.values(), *(a for m in optimizer.moments for a in state[m].values())]

    apply = sys.modules["xplayers.optimizers.base"]._apply
    monkeypatch.setattr(apply, "programs", {})
    got = run()
    assert kernels(apply)
    assert all(kernels(apply))
    monkeypatch.setattr(apply, "programs", {})
    monkeypatch.setattr(engine, "elements_before", lambda: float("inf"))
    for a, b in zip(got, run(), strict=True):
        assert_same_bits(a, b)
    assert not any(kernels(apply))


def test_in_threads(monkeypatch):
    for module in (engine, threads):
        monkeypatch.setattr(module, "usable_cores", lambda: 3)
    monkeypatch.setattr(threads, "_threads", None)
    monkeypatch.setattr(engine, "THREADED_KERNEL", 100_000)
    x, y = values((300_001,)), values((300_001,), 1)
    for a, b in zip(everything(x, y, 0.7), everything.function(np, x, y, 0.7), strict=True):
        assert_same_bits(a, b)


def test_it_begins_when_it_is_worth_it(monkeypatch):
    @elementwise
    def double(xp, x):
        return x + x

    monkeypatch.setattr(engine, "elements_before", lambda: 25_000)
    x = values((10_000,))
    for compiled in (False, False, True, True):
        assert_same_bits(double(x), x + x)
        assert [k is not None for k in kernels(double)] == [compiled]


@pytest.mark.parametrize("function", [functional.sigmoid, functional.tanh, functional.gelu])
def test_what_is_not_exactly_rounded_is_left_to_numpy(function, monkeypatch):
    monkeypatch.setattr(function, "programs", {})
    x = values((10_000,)).astype("float32")
    assert_same_bits(function(x), function.function(np, x))
    assert kernels(function) == [None]


def test_16_bits_are_left_to_numpy(monkeypatch):
    monkeypatch.setattr(everything, "programs", {})
    x, y = values((10_000,)).astype("float16"), values((10_000,), 1).astype("float16")
    for a, b in zip(everything(x, y, 0.7), everything.function(np, x, y, 0.7), strict=True):
        assert_same_bits(a, b)
    assert kernels(everything) == [None]


def test_a_numba_that_cannot_be_imported_is_a_warning(monkeypatch):
    monkeypatch.setattr(everything, "programs", {})
    monkeypatch.setitem(sys.modules, "numba", None)
    x, y = values((10_000,)), values((10_000,), 1)
    with pytest.warns(UserWarning, match="xplayers: numba cannot be used: "):
        everything(x, y, 0.7)
    for a, b in zip(everything(x, y, 0.7), everything.function(np, x, y, 0.7), strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize(("setting", "expected"), [("0", "inf"), ("1", "0"), ("", "536870912")])
def test_the_environment_decides(setting, expected):
    of = "xplayers.accelerate.host.machine_code"
    code = f"from {of} import elements_before; print(elements_before())"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"XPLAYERS_JIT": setting},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == expected
    assert machine_code.elements_before() in (float("inf"), 0, 1 << 29)
