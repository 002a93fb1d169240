"""Which results of an operation are written to memory that is given, and what is written there."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_same_bits, values
from replay_code import one_call

import xplayers as xl
from xplayers.accelerate.replay.in_place import into, with_tensors
from xplayers.accelerate.replay.recording import (
    Recording,
    Register,
)


@one_call
def _with_place(x, out=None):
    return np.add(x, 1.0, out=out)


@one_call
def _without_place(x):
    return x + 1.0


@one_call
def _with_options(x, *, by=1.0, out=None):
    return np.add(x, by, out=out)


# What is called, on an array of shape (40, 3), one like it, one of (3, 5) and one of (40, 3, 2);
# and whether the result may be written over an operand: None where it makes new memory.
NUMPY = {
    "add": (lambda xp, a, b, c, d: a + b, True),
    "add in another dtype": (lambda xp, a, b, c, d: xp.add(a, b, dtype=xp.float64), None),
    "subtract a number": (lambda xp, a, b, c, d: 1.0 - a, True),
    "compare": (lambda xp, a, b, c, d: a > b, True),
    "function": (lambda xp, a, b, c, d: xp.exp(a), True),
    "negative": (lambda xp, a, b, c, d: -a, True),
    "maximum": (lambda xp, a, b, c, d: xp.maximum(a, b), True),
    "power": (lambda xp, a, b, c, d: a**2.0, None),
    "power of two arrays": (lambda xp, a, b, c, d: xp.abs(a) ** b, None),
    "product": (lambda xp, a, b, c, d: a @ c, False),
    "sum": (lambda xp, a, b, c, d: xp.sum(a, axis=0), False),
    "sum of rows": (lambda xp, a, b, c, d: xp.sum(a, axis=-1, keepdims=True), False),
    "largest of short rows": (lambda xp, a, b, c, d: xp.max(a, axis=-1), False),
    "smallest of short rows": (lambda xp, a, b, c, d: xp.min(a, axis=1, keepdims=True), False),
    "largest of columns": (lambda xp, a, b, c, d: xp.max(a, axis=0), False),
    "sum in another dtype": (lambda xp, a, b, c, d: xp.sum(a, axis=0, dtype=xp.float64), None),
    "sum by position": (lambda xp, a, b, c, d: xp.sum(a, 0), None),
    "mean": (lambda xp, a, b, c, d: xp.mean(a, axis=0), None),
    "product of columns": (lambda xp, a, b, c, d: xp.prod(a, axis=0), False),
    "any": (lambda xp, a, b, c, d: xp.any(a > 0, axis=0), False),
    "all": (lambda xp, a, b, c, d: xp.all(a > 0, axis=1, keepdims=True), False),
    "cast": (lambda xp, a, b, c, d: xp.astype(a, xp.float64), False),
    "cast to integers": (lambda xp, a, b, c, d: xp.astype(a, xp.int32), False),
    "where": (lambda xp, a, b, c, d: xp.where(a > b, a, b), None),
    "one's own": (lambda xp, a, b, c, d: _with_place(a), False),
    "one's own without": (lambda xp, a, b, c, d: _without_place(a), None),
    "one's own with options": (lambda xp, a, b, c, d: _with_options(a, by=2.0), None),
}
TORCH = {
    "add": (lambda xp, a, b, c, d: a + b, True),
    "add twice": (lambda xp, a, b, c, d: xp.add(a, b, alpha=2.0), None),
    "add a truth value": (lambda xp, a, b, c, d: a + True, None),
    "multiply by an integer": (lambda xp, a, b, c, d: a * 2, True),
    "multiply by what was computed": (lambda xp, a, b, c, d: a * xp.sum(a).item(), None),
    "subtract a number": (lambda xp, a, b, c, d: a - 1.0, True),
    "from a number": (lambda xp, a, b, c, d: 1.0 - a, None),
    "compare": (lambda xp, a, b, c, d: a > 0, True),
    "function": (lambda xp, a, b, c, d: xp.exp(a), True),
    "negative": (lambda xp, a, b, c, d: -a, True),
    "root": (lambda xp, a, b, c, d: xp.sqrt(xp.abs(a)), True),
    "maximum": (lambda xp, a, b, c, d: xp.maximum(a, b), True),
    "minimum": (lambda xp, a, b, c, d: xp.minimum(a, b), True),
    "maximum with a number": (lambda xp, a, b, c, d: xp.maximum(a, 0.0), None),
    "two dtypes": (lambda xp, a, b, c, d: a + xp.astype(b, xp.float64), None),
    "product": (lambda xp, a, b, c, d: a @ c, False),
    "product with a vector": (lambda xp, a, b, c, d: a @ c[:, 0], False),
    "gather": (lambda xp, a, b, c, d: xp.gather(a, 1, xp.argmax(b, axis=1, keepdims=True)), False),
    "product of three axes": (lambda xp, a, b, c, d: xp.matmul(d, d.mT), False),
    "sum": (lambda xp, a, b, c, d: xp.sum(a, axis=0), False),
    "sum of rows": (lambda xp, a, b, c, d: xp.sum(a, axis=-1, keepdims=True), False),
    "largest": (lambda xp, a, b, c, d: xp.max(a, axis=1), False),
    "smallest": (lambda xp, a, b, c, d: xp.min(a, axis=0, keepdims=True), False),
    "sum by position": (lambda xp, a, b, c, d: __import__("torch").sum(a, 0), None),
    "sum of integers": (lambda xp, a, b, c, d: xp.sum(xp.astype(a, xp.int32), axis=0), None),
    "sum of all": (lambda xp, a, b, c, d: xp.sum(a), None),
    "sum of two axes": (lambda xp, a, b, c, d: xp.sum(d, axis=(0, 1)), None),
    "sum in another dtype": (lambda xp, a, b, c, d: xp.sum(a, axis=0, dtype=xp.float64), None),
    "mean": (lambda xp, a, b, c, d: xp.mean(a, axis=0), None),
    "cast": (lambda xp, a, b, c, d: xp.astype(a, xp.float64), False),
    "power": (lambda xp, a, b, c, d: a**2.0, None),
    "where": (lambda xp, a, b, c, d: xp.where(a > b, a, b), None),
}
CASES = [("numpy", n) for n in NUMPY] + [("torch", n) for n in TORCH]


@pytest.mark.only("numpy", "torch")
@pytest.mark.parametrize(("library", "name"), CASES)
def test_results_with_places(library, name, xpv):
    if library != xpv.backend:
        pytest.skip("a case of the other library")
    function, over = {"numpy": NUMPY, "torch": TORCH}[library][name]
    shapes = ((40, 3), (40, 3), (3, 5), (40, 3, 2))
    arrays = [xpv.asarray(values(s, i), "float32") for i, s in enumerate(shapes)]
    xp = xl.namespace(arrays[0])
    recording = Recording()
    expected = function(recording.input(arrays[0]).xp, *map(recording.input, arrays)).value
    operation = recording.operations[-1]
    written = into(operation, recording.infos, arrays[0])
    if over is None:
        assert written is None
        return
    write, args, may_be_over = written
    assert may_be_over is over
    known = dict(zip(recording.inputs[1:], arrays, strict=True))
    for o in recording.operations[:-1]:  # what comes before: operands that are made themselves
        given = [known.get(a, a) if isinstance(a, Register) else a for a in o.args]
        known[o.results[0]] = o.function(*given, **o.kwargs)
    given = [known[a] if isinstance(a, Register) else a for a in args]
    out = xp.zeros_like(expected)
    write(*given, out=out)
    assert_same_bits(out, expected)
    if over and out.dtype == arrays[0].dtype:
        place = xp.asarray(arrays[0], copy=True)
        write(*[place if g is arrays[0] else g for g in given], out=place)
        assert_same_bits(place, expected)


@pytest.mark.parametrize(
    ("shape", "axis", "short"),
    [((40, 3), -1, True), ((40, 3), 1, True), ((40, 3), 0, False), ((3, 5), 1, False),
     ((3, 3), 1, False), ((4, 3), 1, True), ((40, 31), 1, True), ((40, 32), 1, False),
     ((40, 3, 2), 1, False), ((40, 3, 2), -1, False)],
)  # fmt: skip
def test_the_largest_values_of_short_rows_are_found_by_columns(shape, axis, short):
    """Where they are faster so: NumPy goes row by row else."""
    for name in ("max", "min", "sum"):
        for x in (values(shape), np.asfortranarray(values(shape))):
            recording = Recording()
            a = recording.input(x)
            getattr(a.xp, name)(a, axis=axis)
            write, *_ = into(recording.operations[0], recording.infos, x)
            fast = short and name != "sum" and x.flags.c_contiguous
            assert write.__name__.endswith("of short rows") is fast
            out = np.empty_like(x.sum(axis))
            write(x, out)
            assert_same_bits(out, getattr(x, name)(axis))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(2, 2, 2), (8, 16, 4), (33, 5, 7), (128, 784, 50), (7, 300, 2)])
def test_products_of_matrices_have_one_call_of_blas(shape, dtype):
    """`numpy.dot`, which costs less than `numpy.matmul`, and gives the same bits."""
    n, k, m = shape
    for a in (values((n, k), 1), values((k, n), 1).T):
        for b in (values((k, m), 2), values((m, k), 2).T):
            a, b = a.astype(dtype, copy=False), b.astype(dtype, copy=False)
            assert _written(a, b) is np.dot
            out = np.empty((n, m), dtype)
            np.dot(a, b, out)
            assert_same_bits(out, a @ b)
    assert_same_bits(np.dot(a, a.T), a @ a.T)


@pytest.mark.parametrize("name", ["one row", "one column", "gaps", "half", "two dtypes", "vector"])
def test_other_products_have_the_call_of_numpy(name):
    a, b = values((8, 6)), values((6, 5))
    a, b = {
        "one row": (a[:1], b), "one column": (a, b[:, :1].copy()),
        "gaps": (a, values((6, 10))[:, ::2]),
        "half": (a.astype("float16"), b.astype("float16")), "two dtypes": (a, b.astype("float32")),
        "vector": (a, b[:, 0].copy()),
    }[name]  # fmt: skip
    assert _written(a, b) is np.matmul


def _written(a, b):
    recording = Recording()
    recording.input(a) @ recording.input(b)
    return into(recording.operations[0], recording.infos, a)[0]


NUMBERS = {
    "add": (lambda x: x + 0.1, "float32"),
    "subtract": (lambda x: x - 0.1, "float64"),
    "multiply by an integer": (lambda x: x * 3, "float32"),
    "multiply by a large integer": (lambda x: x * 2**53, "float32"),
    "multiply by what rounds twice": (lambda x: x * (2**60 + 2**36 + 1), None),
    "multiply by what is infinite in float32": (lambda x: x * 1e300, "float32"),
    "multiply by infinity": (lambda x: x * float("inf"), "float32"),
    "divide": (lambda x: x / 0.3, "float64"),
    "divide by zero": (lambda x: x / 0, "float32"),
    "compare": (lambda x: x > 0.1, "float32"),
    "not equal": (lambda x: x != 0, "float64"),
    "count": (lambda x: x + 1, "int32"),
    "count by numbers that are not of the dtype": (lambda x: x + 2**31, None),
    "integers and a fraction": (lambda x: x * 0.5, None),
    "a quotient of integers": (lambda x: x / 3, None),
    "16 bits": (lambda x: x * 0.1, None),
    "from a number": (lambda x: 1.0 - x, None),
    "reciprocal": (lambda x: 3.0 / x, None),
    "power": (lambda x: x**2.0, None),
    "a truth value": (lambda x: x + True, None),
    "twice": (lambda x: x.xp.add(x, 1.0, alpha=3.0), None),
}


@pytest.mark.only("torch")
@pytest.mark.parametrize("shape", [(), (37,), (5, 3)])
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_tensors_of_the_dtype_that_they_take_on(name, shape, xpv):
    function, dtype = NUMBERS[name]
    others = {"integers": "int32", "a quotient": "int64", "count": "int32", "16": "bfloat16"}
    own = dtype or next((d for start, d in others.items() if name.startswith(start)), "float32")
    x = xpv.asarray(values(shape, 1) * 100, own)
    recording = Recording()
    expected = function(recording.input(x))
    operation = with_tensors(recording.operations[-1], recording.infos)
    number = operation.args[1]
    if dtype is None:
        assert operation is recording.operations[-1]
        return
    assert (number.shape, number.dtype) == ((), xpv.asarray([1], dtype).dtype)
    assert_same_bits(operation.function(x, number), expected.value)
    write, (_, again), _ = into(operation, recording.infos, x)
    out = xl.namespace(x).empty_like(expected.value)
    write(x, again, out=out)
    assert_same_bits(out, expected.value)
