"""Which way an elementwise function takes: as it stands, at once, in blocks, threads, compiled."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from helpers import assert_same_bits, values

import xplayers as xl
from xplayers import elementwise
from xplayers.accelerate.host import elementwise as engine
from xplayers.accelerate.host.elementwise import in_one_pass, prepared
from xplayers.accelerate.replay.recording import Operation, Recording
from xplayers.accelerate.tape import select_into
from xplayers.arrays.elementwise import zero_unless

portable = sys.modules["xplayers.arrays.elementwise"]  # the package shows the function
BLOCK, PART, STRAIGHT, PLAIN = engine.BLOCK, engine.PART, engine.STRAIGHT, engine.PLAIN
THREADED, THREADED_KERNEL = engine.THREADED, engine.THREADED_KERNEL


@elementwise
def scaled(xp, x, y, by, *, shift=0.0):
    return x * by + y * shift


@elementwise
def both(xp, x, y):
    return x + y, x > y


class Program:
    """A program that says what it was asked to do."""

    def __init__(self, kernel=False):
        self.calls = []
        self.kernel = self._called("kernel") if kernel else None
        self.straight = self._called("straight")

    def _called(self, name):
        return lambda values, outs: self.calls.append((name, values, outs))

    def run(self, values, outs, start, stop, block):
        assert {v.shape for v in (*values, *outs) if isinstance(v, np.ndarray)} == {(N[0],)}
        self.calls.append((start, stop, block))


N = [0]
WAYS = [
    (STRAIGHT, False, 2, "straight"), (STRAIGHT + 1, False, 2, BLOCK),
    (THREADED - 1, False, 2, BLOCK), (THREADED, False, 2, PART), (THREADED, False, 1, BLOCK),
    (PART + 1, True, 2, "kernel"), (THREADED_KERNEL - 1, True, 2, "kernel"),
    (THREADED_KERNEL, True, 2, PART), (THREADED_KERNEL, True, 1, BLOCK), (1, True, 1, "kernel"),
]  # fmt: skip


@pytest.mark.parametrize(("n", "kernel", "cores", "way"), WAYS)
def test_the_size_decides_how_a_program_is_run(n, kernel, cores, way, monkeypatch):
    N[0] = n
    monkeypatch.setattr(engine, "usable_cores", lambda: cores)
    monkeypatch.setattr(engine, "share", lambda run, starts: run(iter(starts)))
    program = Program(kernel)
    given, outs = [np.empty((1, n), "int8"), 2.0], (np.empty((1, n), "int8"),)
    engine._run(program, given, outs)
    if isinstance(way, str):
        ((name, got, made),) = program.calls
        assert name == way
        assert got is given
        assert made is outs
    elif way == PART:
        starts = range(0, n, PART)
        assert program.calls == [(s, min(s + PART, n), PART) for s in starts]
    else:
        assert program.calls == [(0, n, way)]


def test_small_arrays_are_computed_as_the_function_stands(monkeypatch):
    """A look-up costs more there, unless there is machine code."""
    asked = []
    monkeypatch.setattr(engine, "in_one_pass", lambda *given: asked.append(given) or NotImplemented)
    for n in (0, PLAIN, PLAIN + 1):
        x = values((n,))
        got = scaled(x, x, 2.0, shift=3.0)
        assert_same_bits(got, scaled.function(np, x, x, 2.0, shift=3.0))
        assert len(asked) == (n > PLAIN)
    (function, operands, out, options), *_ = asked
    assert function is scaled
    assert [a is b for a, b in zip(operands, (x, x, 2.0), strict=True)] == [True] * 3
    assert (out, options) == (None, {"shift": 3.0})
    monkeypatch.setattr(scaled, "compiled", True)
    scaled(values((3,)), values((3,)), 2.0)
    assert len(asked) == 2


class Kernel:
    def __init__(self):
        self.calls = []

    def __call__(self, operands, outs):
        self.calls.append("at once")

    def bound(self, arrays, outs):
        assert all(a.ndim == 1 for a in (*arrays, *outs))
        return lambda *scalars: self.calls.append(scalars)


@pytest.fixture
def compiler(monkeypatch):
    """Compile programs after ten thousand elements, into what does nothing."""
    made = []

    def compiled(program):
        made.append(Kernel())
        return made[-1]

    monkeypatch.setattr(engine, "compiled", compiled)
    monkeypatch.setattr(engine, "elements_before", lambda: 10_000)
    monkeypatch.setattr(scaled, "programs", {})
    monkeypatch.setattr(scaled, "compiled", False)
    return made


def test_a_program_is_compiled_when_it_has_computed_enough(compiler):
    x = values((5000,))
    for k in range(3):
        scaled(x, x, 2.0)
        assert len(compiler) == (k > 1)
    assert compiler[0].calls == ["at once"]
    assert scaled.compiled
    scaled(x[:3], x[:3], 2.0)  # of any size from now on
    assert compiler[0].calls == ["at once"] * 2
    assert len(compiler) == 1


def test_what_cannot_be_compiled_is_not_tried_again(monkeypatch, compiler):
    asked = []
    monkeypatch.setattr(engine, "compiled", asked.append)
    x = values((6000,))
    for _ in range(4):
        assert_same_bits(scaled(x, x, 2.0), x * 2.0 + x * 0.0)
    assert len(asked) == 1
    assert not scaled.compiled


def test_a_prepared_call_takes_machine_code_when_it_is_worth_it(compiler):
    x, out = values((50, 100)), np.empty((50, 100))
    run = prepared(scaled, [x, x, 1.0], (out,), {"shift": 0.5})
    assert run.__name__ == "scaled"
    for by in (2.0, 3.0):
        run(by)
        assert_same_bits(out, x * by + x * 0.5)
    assert not compiler
    run(4.0)
    run(5.0)
    assert compiler[0].calls == [(4.0,), (5.0,)]
    large = np.ones(THREADED_KERNEL)
    run = prepared(scaled, [large, large, 1.0], (np.empty_like(large),), {"shift": 0.5})
    run(2.0)
    assert len(compiler) == 1  # it is the same program
    assert len(compiler[0].calls) > 2


def test_a_prepared_call_is_bound_where_there_is_no_compiler(monkeypatch):
    monkeypatch.setattr(engine, "elements_before", lambda: math.inf)
    ran = []
    plain = engine._run
    monkeypatch.setattr(engine, "_run", lambda *given: (ran.append(given), plain(*given)))
    for n in (STRAIGHT, STRAIGHT + 1):
        x, out = values((1, n)), np.empty((1, n))
        run = prepared(scaled, [x, out, 1.0], (out,), {})
        assert run.__name__ == "scaled"
        out[...] = 1.0
        run(3.0)
        assert_same_bits(out, x * 3.0 + 1.0 * 0.0)
        assert len(ran) == (n > STRAIGHT)


def test_what_cannot_be_prepared():
    x, out = values((4,)), np.empty(4)
    assert prepared(scaled, [x, x, 1.0], (out,), {}) is not None
    for given, outs, options in (
        ([x, x, 1], (out,), {}),  # an integer, which may be too large next time
        ([x, x[:2], 1.0], (out,), {}),
        ([x, x, 1.0], (np.empty(4, "float32"),), {}),
        ([x, x, 1.0], (np.empty(5),), {}),
        ([x, x, 1.0], (out,), {"shift": np.ones(4)}),
        ([x, 1.0, x], (out,), {}),  # numbers come after the arrays
    ):
        assert prepared(scaled, given, outs, options) is None


def test_what_fits_a_program():
    x, y, t = np.ones((2, 3)), np.zeros((2, 3), "float32"), np.ones((3, 2)).T
    fit = engine._fit
    given, outs, kinds, aliases = fit((x, y, 2.0, 3, True, np.float32(0.5), np.asarray(4)), None)
    assert given[0] is x
    assert given[1] is y
    assert given[2:] == [2.0, 3, True, 0.5, 4]
    assert list(map(type, given[2:])) == [float, int, bool, float, int] == kinds[2:]
    assert (outs, kinds[:2], aliases) == ((), [x.dtype, y.dtype], [])
    new = np.empty((2, 3))
    assert fit((x, y), new)[1:] == ((new,), [x.dtype, y.dtype], [None])
    assert fit((x, y), (y, new, x))[3] == [1, None, 0]
    largest = engine.LARGEST
    for k in (largest, -largest):
        assert fit((x, k), None) is not None
        assert fit((x, k + (1 if k > 0 else -1)), None) is None
    readonly = np.ones((2, 3))
    readonly.flags.writeable = False
    assert fit((readonly,), new) is not None
    for operands, out in (
        ((np.ones(()),), None), ((t,), None), ((x, t), None), ((x, np.ones(3)), None),
        ((x, "name"), None), ((x, None), None), ((x, 1j), None), ((x,), t), ((x,), np.ones(3)),
        ((x,), readonly), ((x, x), x), ((x,), (new, t)), ((x,), [new]), ((x,), new.view(np.matrix)),
        ((x, y.view(np.matrix)), None),
    ):  # fmt: skip
        assert fit(operands, out) is None


# What a recording writes down of them


@pytest.mark.only("numpy", "torch")
def test_one_operation_of_a_recording(xpv):
    recording = Recording()
    a, b = (xpv.asarray(values((3,), i), "float32") for i in range(2))
    x, y = map(recording.input, (a, b))
    n = recording.input(2.0)
    got = scaled(x, y, n, shift=3.0)
    given = (x.register, y.register, n.register)
    assert recording.operations == [
        Operation("elementwise", scaled, given, {"shift": 3.0}, (got.register,))
    ]
    assert recording.infos[got.register].root == got.register
    assert_same_bits(got.value, scaled(a, b, 2.0, shift=3.0))
    one, other = both(x, y)
    made = (one.register, other.register)
    assert recording.operations[1] == Operation("elementwise", both, given[:2], {}, made, many=True)
    for got, expected in zip((one, other), both(a, b), strict=True):
        assert_same_bits(got.value, expected)


@pytest.mark.only("numpy", "torch")
def test_a_recorded_call_does_not_write_to_what_is_given(xpv):
    recording = Recording()
    a, b = (xpv.asarray(values((3,), i), "float32") for i in range(2))
    before = values((3,), 0).astype("float32")
    x, y = map(recording.input, (a, b))
    got = scaled(x, y, 2.0, out=x)
    assert got is not x
    assert_same_bits(a, before)
    assert_same_bits(got.value, scaled(a, b, 2.0))
    truth = xl.namespace(a).zeros_like(b > a)
    pair = both(x, y, out=(x, truth))
    assert type(pair) is tuple
    assert_same_bits(a, before)
    assert not truth.any()
    for got, expected in zip(pair, both(a, b), strict=True):
        assert_same_bits(got.value, expected)


@pytest.mark.only("numpy", "torch")
def test_0d_arrays_take_part_as_numbers(xpv):
    recording = Recording()
    x = recording.input(xpv.asarray(values((3,)), "float32"))
    rate = recording.input(xpv.asarray(np.asarray(0.5), "float32"))
    got = scaled(x, x, rate)
    item, operation = recording.operations
    assert (item.name, item.args) == ("item", (rate.register,))
    assert operation.args == (x.register, x.register, *item.results)
    assert recording.infos[item.results[0]].dtype is float
    assert_same_bits(got.value, x.value * 0.5 + x.value * 0.0)


@pytest.mark.only("numpy", "torch")
def test_what_is_no_program_is_recorded_as_it_stands(xpv):
    @elementwise
    def rooted(xp, x):
        return xp.sqrt(x) * xp.exp(x)

    recording = Recording()
    a = xpv.asarray(np.abs(values((2, 3))), "float32")
    x = recording.input(a)
    got = rooted(x)
    names = [o.name for o in recording.operations]
    # PyTorch's exponentials differ from those of NumPy, and its root is one of ours.
    assert names == (["elementwise"] if xpv.backend == "numpy" else ["call", "exp", "multiply"])
    assert_same_bits(got.value, rooted(a))
    recording = Recording()
    x = recording.input(xl.namespace(a).permute_dims(a, (1, 0)))
    y = recording.input(a[0, 0])
    for each in (x, y):
        rooted(each)
    assert "elementwise" not in [o.name for o in recording.operations]


def test_what_numpy_cannot_see_is_recorded_as_it_stands():
    torch = pytest.importorskip("torch")
    recording = Recording()
    x = recording.input(torch.ones(3, dtype=torch.bfloat16))
    got = scaled(x, x, 2.0)
    assert "elementwise" not in [o.name for o in recording.operations]
    assert (got.value == 2.0).all()


# A selection that is as fast as a product


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("n", [1, PLAIN, PLAIN + 1])
def test_what_is_kept(n, dtype, monkeypatch):
    ways = []
    monkeypatch.setattr(engine, "select_into", lambda *given: (ways.append(0), select_into(*given)))

    class Namespace:
        @staticmethod
        def where(*given):
            ways.append(1)
            return np.where(*given)

    a = values((n,)).astype(dtype)
    a[:1] = np.inf
    condition = values((n,), 1) > 0
    condition[:1] = False
    expected = np.where(condition, a, np.asarray(0.0, dtype))
    got = zero_unless(a, condition, Namespace)
    assert_same_bits(got, expected)
    assert ways == ([0] if n > PLAIN else [])
    one = (a[:1].reshape(()), condition[:1].reshape(()))
    for other, where, way in (
        (a.astype("longdouble"), condition, [1]),
        (a.reshape(1, n), condition, [] if n <= PLAIN else [1]),
        (*one, [0]),
    ):
        ways.clear()
        got = zero_unless(other, where, Namespace)
        expected = np.where(where, other, np.asarray(0.0, other.dtype))
        assert (ways, got.dtype, got.shape) == (way, other.dtype, expected.shape)
        assert (got == expected).all()


def test_what_is_kept_of_tensors(monkeypatch):
    torch = pytest.importorskip("torch")
    ways = []
    monkeypatch.setattr(engine, "select_into", lambda *given: (ways.append(0), select_into(*given)))
    xp = xl.namespace(torch.ones(1))
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for n in (3, PLAIN + 1):
            a = torch.asarray(values((n,)), dtype=dtype)
            a[0] = torch.nan
            condition = torch.asarray(values((n,), 1) > 0)
            condition[0] = False
            got = zero_unless(a, condition, xp)
            assert isinstance(got, torch.Tensor)
            assert torch.equal(got, torch.where(condition, a, torch.zeros(1, dtype=dtype)))
            assert len(ways) == (dtype != torch.bfloat16 and n > PLAIN)
            ways.clear()


def test_rows(xpv):
    rows = [[xpv.asarray(values(s, i), "float32") for i in range(2)] for s in ((3,), (2, 2))]
    got = scaled.rows([(*row, 2.0) for row in rows], shift=0.5)
    for a, (x, y) in zip(got, rows, strict=True):
        assert_same_bits(a, scaled(x, y, 2.0, shift=0.5))
    outs = [xl.namespace(x).zeros_like(x) for x, _ in rows]
    got = scaled.rows([(*row, 2.0) for row in rows], outs=outs, shift=0.5)
    for a, out, (x, y) in zip(got, outs, rows, strict=True):
        assert_same_bits(a, scaled(x, y, 2.0, shift=0.5))
        assert a is out or xpv.backend in ("jax", "readonly")
    assert scaled.rows([]) == []
    with pytest.raises(ValueError, match="shorter"):
        scaled.rows([(*row, 2.0) for row in rows], outs=outs[:1])


def test_one_pass():
    x, y = values((2, 3)), values((2, 3), 1)
    expected = x * 2.0 + y * 0.5
    options = {"shift": 0.5}
    got = in_one_pass(scaled, (x, y, 2.0), None, options)
    assert_same_bits(got, expected)
    out = np.empty((2, 3))
    got = in_one_pass(scaled, (x, y, 2.0), out, options)
    assert got is out
    assert_same_bits(got, expected)
    assert in_one_pass(scaled, (x, y, 2.0), out, options, exact=True) is out
    total, larger = in_one_pass(both, (x, y), None, {})
    assert_same_bits(total, x + y)
    assert_same_bits(larger, x > y)
    outs = np.empty((2, 3)), np.empty((2, 3), bool)
    got = in_one_pass(both, (x, y), outs, {})
    assert [a is b for a, b in zip(got, outs, strict=True)] == [True, True]
    for function, operands, out, exact in (
        (scaled, (x, y[:1], 2.0), None, False),
        (scaled, (x, y, 2.0), np.empty((2, 3), "float32"), False),
        (both, (x, y), (outs[1], outs[0]), False),
        (elementwise(lambda xp, x: x - xp.sum(x)), (x,), None, False),
        (elementwise(lambda xp, x: xp.exp(x)), (x,), None, True),  # as every library rounds it
        (elementwise(lambda xp, x: 2.0 / x), (x,), None, True),
        (elementwise(lambda xp, x, a: x * (a * a)), (x, np.asarray(2.0)), None, True),
    ):
        assert in_one_pass(function, operands, out, {}, exact) is NotImplemented
    product = elementwise(lambda xp, x, a: x * (a * a))
    for function, operands, exact in (
        (product, (x, 2.0), True),
        (product, (x, np.asarray(2.0)), False),
        (scaled, (x, y, np.asarray(2.0)), True),
    ):
        assert in_one_pass(function, operands, None, {}, exact) is not NotImplemented


def test_results_are_written_where_that_can_be(xpv):
    a, b = (xpv.asarray(values((3,), i), "float32") for i in range(2))
    xp = xl.namespace(a)
    out = xp.zeros_like(a)
    got = portable._write(a, out)
    assert_same_bits(got, a)
    assert got is out or xpv.backend in ("jax", "readonly")
    outs = (xp.zeros_like(a), xp.zeros_like(b))
    made = portable._write((a, b), outs)
    assert type(made) is tuple
    for got, expected, out in zip(made, (a, b), outs, strict=True):
        assert_same_bits(got, expected)
        assert got is out or xpv.backend in ("jax", "readonly")
    assert portable._write(a, a) is a
    for wrong in (a[:2], xp.astype(a, xp.int32)):
        with pytest.raises(ValueError, match=r"out is .* of shape \(.*\); the result is .*"):
            portable._write(a, wrong)


@pytest.mark.only("numpy")
def test_memory_that_cannot_be_written_is_left_alone(xpv):
    a, out = values((3,)), np.zeros(3)
    out.flags.writeable = False
    assert portable._write(a, out) is a
