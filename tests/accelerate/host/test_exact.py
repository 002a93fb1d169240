"""The loop of an elementwise function for Numba, and whether PyTorch computes the same bits."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from programs import BY_ID, ROWS, M, X

from xplayers.accelerate.host import machine_code
from xplayers.accelerate.host.machine_code import exact_source
from xplayers.accelerate.host.program import trace

pytestmark = [pytest.mark.only("numpy"), pytest.mark.usefixtures("xpv")]


def head(row, constants):
    """Return what a loop begins with: its arguments, numbers in double, the values of arrays."""
    arrays = [f"x{i}" for i, a in enumerate(row.samples) if isinstance(a, np.ndarray)]
    numbers, outs = (dict.fromkeys(re.findall(rf"\b{c}(\d+)", row.loop)) for c in "cy")
    known = {
        i: repr(float(c)) for i in numbers if math.isfinite(c := constants.get(int(i), math.nan))
    }
    arguments = [*arrays, *[f"s{i}" for i in numbers if i not in known], *[f"y{i}" for i in outs]]
    return [
        f"def kernel({', '.join(arguments)}):",
        *[f"c{i} = D({known.get(i, f's{i}')})" for i in numbers],
        f"for i in range(len({arrays[0]})):",
        *[f"v{x[1:]} = {x}[i]" for x in arrays],
    ]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_loops(row):
    with np.errstate(all="ignore"):
        program = trace(row.function, row.samples, row.over)
        source = exact_source(program)
    if row.loop is None:
        assert source is None
        return
    lines = [line.strip() for line in source.text.splitlines()]
    assert "; ".join(lines) == "; ".join([*head(row, program.constants), row.loop])
    assert (source.as_torch, source.of_ties) == (row.as_torch, row.of_ties)
    assert source.dtype == row.samples[0].dtype


def test_numbers_of_scalars():
    """What is computed from scalars alone is Python's, once a call."""

    def numbers(name):
        row = BY_ID[name]
        return exact_source(trace(row.function, row.samples, row.over)).numbers

    assert numbers("scalars")(3.0, 4.0) == [12.0, -2.0]
    assert numbers("scalars")(True, 2) == [2.0, 0.0]
    assert numbers("scalars_once")(3) == [3.0]
    assert numbers("constants") is None  # they stand in the loop
    assert numbers("a_pole")() == [math.inf]
    assert numbers("product_with_truth") is None


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
    assert machine_code._ties_are_second.__wrapped__()
    monkeypatch.setattr(np, name, replaced(first=True))
    assert not machine_code._ties_are_second.__wrapped__()


@pytest.mark.parametrize(
    ("variable", "elements"),
    [("0", np.inf), ("1", 0), ("", 1 << 29), (None, 1 << 29), ("2", 1 << 29)],
)
def test_when_programs_are_compiled(variable, elements, monkeypatch):
    if variable is None:
        monkeypatch.delenv("XPLAYERS_JIT", raising=False)
    else:
        monkeypatch.setenv("XPLAYERS_JIT", variable)
    monkeypatch.setattr(
        machine_code.importlib.util, "find_spec", lambda name: name == "numba" or None
    )
    assert machine_code.elements_before.__wrapped__() == elements
    monkeypatch.setattr(machine_code.importlib.util, "find_spec", lambda name: None)
    assert machine_code.elements_before.__wrapped__() == np.inf


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
    monkeypatch.setattr(machine_code, "_ties_are_second", lambda: True)
    program = trace(lambda xp, p, m, k: (xp.where(m, p, k * 2.0), p > k), (X, M, 3.0), (0, None))
    program.source = exact_source(program)
    kernel = machine_code.compiled(program)
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
    machine_code.compiled(program).bound([flat[0] + 1], [out])()
    assert out.tolist() == [4.0, 4.0]


def test_what_is_not_compiled(monkeypatch):
    numba = pytest.importorskip("numba")
    program = trace(lambda xp, p: xp.exp(p), (X,), ())
    program.source = exact_source(program)
    assert machine_code.compiled(program) is None
    program = trace(lambda xp, p, g: xp.maximum(p, g), (X, X), ())
    program.source = exact_source(program)
    monkeypatch.setattr(numba, "njit", lambda function, **options: function)
    monkeypatch.setattr(machine_code, "_ties_are_second", lambda: False)
    assert machine_code.compiled(program) is None
    monkeypatch.setattr(machine_code, "_ties_are_second", lambda: True)
    assert machine_code.compiled(program) is not None
    monkeypatch.setattr(numba, "njit", lambda function, **options: 1 / 0)
    assert machine_code.compiled(program) is None
