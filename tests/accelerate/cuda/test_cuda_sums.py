"""Sums of columns and channels by CUDA kernels: their source through a host compiler.

CuPy's arrays lie over host memory. Compilation by CuPy and the launch are all that is missing.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from cuda_cases import SUMS, THERE, dtype_of
from emulator import launching
from helpers import assert_same_bits, values

pytest.importorskip("cupy")

from emulator.emulated_gpu import fabricated
from emulator.emulated_kernels import channels_last, emulating_template, needs_compiler, seen

from xplayers.accelerate.cuda import kernels, sums
from xplayers.accelerate.cuda.source import THREADS
from xplayers.arrays.products import channel_sums, column_sums
from xplayers.cuda import fused

pytestmark = needs_compiler

SHAPES = [  # rows, columns
    (1, 1),
    (3, 5),
    (129, 7),
    (16 * THREADS - 1, 1),  # one part
    (32 * THREADS + 5, 1),  # two
    (2000, 4),
    (20, 256),
    (700, 40),  # lanes without a column
    (530, 264),  # the last tile is narrow
    (1031, 33),
    (5003, 64),
    (300, 2, 3, 4),
]
EPS = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-23, "float64": 2.0**-52}


@pytest.fixture
def launches(monkeypatch):
    """Kernels run on the host, and new arrays are in its memory; return what is launched."""
    return emulating_template(monkeypatch, sums, SUMS)


def matrix(shape, dtype, seed=0):
    return values(shape, seed).astype(dtype_of(dtype))


def assert_sums(got, terms, dtype):
    """Assert that sums over the first axis are as near as values of that dtype can be."""
    assert got.shape == terms.shape[1:]
    assert got.dtype == dtype_of(dtype)
    exact = terms.astype("float64")
    # What a tree of additions may lose, and the last rounding.
    inside = EPS["float64" if dtype == "float64" else "float32"]
    bound = 40 * inside * np.abs(exact).sum(axis=0) + EPS[dtype] * np.abs(exact.sum(axis=0))
    error = np.abs(seen(got).astype("float64") - exact.sum(axis=0))
    assert (error <= bound).all(), (error / bound).max()


@pytest.mark.parametrize("dtype", THERE)
@pytest.mark.parametrize("shape", SHAPES)
def test_sums_of_columns(launches, shape, dtype):
    x = matrix(shape, dtype)
    assert_sums(sums.column_sums(fabricated(x)), x, dtype)


@pytest.mark.parametrize("dtype", THERE)
def test_whole_numbers_are_added_up_exactly(launches, dtype):
    """Each value once: a row, a column or a part that is missed or taken twice shows."""
    for rows, columns, *_ in SHAPES:
        x = np.zeros((rows, columns), dtype_of(dtype))
        at = np.random.default_rng(rows).integers(0, rows, 40)
        for k, row in enumerate(at):
            x[row, k % columns] = 1 + k % 3
        x[-1] = 2
        x[0, -1] = 3
        got = seen(sums.column_sums(fabricated(x))).astype("float64")
        assert (got == x.astype("float64").sum(axis=0)).all(), (rows, columns)


def test_memory_that_begins_anywhere(launches):
    memory = np.arange(2000, dtype="float32")
    for start in range(4):
        x = memory[start : start + 1600].reshape(200, 8)
        assert_sums(sums.column_sums(fabricated(x)), x, "float32")
    assert {width for (width, *_), *_ in launches} == {4, 1}


def test_what_is_beside_the_matrix_is_not_read(launches):
    for shape in SHAPES:
        n = math.prod(shape)
        memory = np.full(n + 64, np.nan, "float32")
        memory[32:-32] = 1.0
        got = sums.column_sums(fabricated(memory[32:-32].reshape(shape)))
        assert (seen(got) == shape[0]).all(), shape


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((128, 512), [4]),  # a bias of a layer: one launch
        ((8192, 4096), [512, 32]),
        ((131_072, 32), [256, 1]),  # of the images of a batch
        ((1_000_000, 1), [244, 1]),
    ],
)
def test_rows_are_shared_out_among_blocks(monkeypatch, shape, expected):
    launched = []
    monkeypatch.setattr(sums, "_launcher", lambda *case: lambda *a: launched.append(a[1]))
    monkeypatch.setattr(
        kernels, "empty", lambda like, shape, dtype: fabricated(np.empty(shape, dtype))
    )
    sums.column_sums(fabricated(launching.unwritten(shape[0] * shape[1], "float32").reshape(shape)))
    assert launched == expected


@pytest.mark.parametrize("dtype", THERE)
def test_the_sum_of_all_and_its_quotient(launches, dtype):
    for a in (matrix((), dtype), matrix((7,), dtype), matrix((9, 8, 30, 31), dtype)):
        for divisor in (1.0, 7.0):
            there = [fabricated(a)] + ([channels_last(a)] if a.ndim == 4 else [])
            for x in there:
                got = sums.total(x, divisor)
                assert got.shape == ()
                wide = a.reshape(-1).astype("float64")
                assert_sums(got, wide / divisor, dtype)
    assert sums.total(fabricated(matrix((6, 8), dtype)[:, ::2])) is NotImplemented
    assert sums.total(fabricated(matrix((0,), dtype))) is NotImplemented


@pytest.mark.parametrize("dtype", THERE)
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (3, 8, 9), (2, 16, 3, 4, 5), (9, 32, 30, 31)])
def test_sums_of_channels(launches, shape, dtype):
    x = matrix(shape, dtype)
    got = sums.channel_sums(channels_last(x))
    assert_sums(got, np.moveaxis(x, 1, -1).reshape(-1, shape[1]), dtype)


@pytest.mark.parametrize("dtype", THERE)
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (3, 8, 9), (2, 16, 3, 4, 5), (9, 32, 30, 31)])
def test_gradient_of_relu_with_its_sums(launches, shape, dtype):
    x, dy = matrix(shape, dtype), matrix(shape, dtype, 1)
    y = np.maximum(x, 0)
    y[0, 0, 0] = -0.0
    want = np.where(y > 0, dy, np.zeros_like(dy))
    dx, db = sums.relu_grads(channels_last(dy), channels_last(y))
    assert kernels.channels_last(dx).flags.c_contiguous
    assert_same_bits(seen(dx), want)
    assert_sums(db, np.moveaxis(want, 1, -1).reshape(-1, shape[1]), dtype)


@pytest.mark.parametrize("dtype", THERE)
@pytest.mark.parametrize("channels", [3, 33, 40, 264])
def test_nothing_is_written_beside_the_gradient(launches, monkeypatch, channels, dtype):
    """Also by the threads of a line that have no column."""
    shape, around = (2, channels, 9, 31), 512
    y, dy = np.maximum(matrix(shape, dtype), 0), matrix(shape, dtype, 1)
    made = []

    def empty(like, shape, dtype):
        memory = np.full(math.prod(shape) + 2 * around, 77, dtype)
        made.append(memory)
        return fabricated(memory[around:-around].reshape(shape))

    monkeypatch.setattr(kernels, "empty", empty)
    sums.relu_grads(channels_last(dy), channels_last(y))
    for memory in made:
        assert (memory[:around].astype("float64") == 77).all()
        assert (memory[-around:].astype("float64") == 77).all()
    assert len(made) >= 2


@pytest.mark.parametrize("which", [0, 1])
def test_gradients_and_results_that_begin_anywhere(launches, which):
    shape = (2, 8, 9, 7)
    given = [matrix(shape, "float32", 1), np.maximum(matrix(shape, "float32"), 0)]
    there = [channels_last(a) for a in given]
    memory = np.zeros(given[which].size + 1, "float32")
    inner = memory[1:].reshape(2, 9, 7, 8)
    inner[...] = np.moveaxis(given[which], 1, -1)
    there[which] = kernels.channels_first(fabricated(inner))
    dx, _ = sums.relu_grads(*there)
    assert_same_bits(seen(dx), np.where(given[1] > 0, given[0], 0))
    assert launches[0][0][:2] == (1, True)


def test_gradients_that_are_not_finite(launches):
    """They are selected, as in the portable code: infinity times 0 would be no number."""
    y = np.asarray([1.0, 0.0, np.nan, 2.0] * 2, "float32").reshape(1, 1, 8)
    dy = np.asarray([np.inf, np.inf, 1.0, np.nan, -np.inf, np.nan, 3.0, 4.0], "float32")
    dx, db = sums.relu_grads(channels_last(dy.reshape(1, 1, 8)), channels_last(y))
    assert_same_bits(seen(dx), np.where(y > 0, dy.reshape(1, 1, 8), 0))
    assert np.isnan(seen(db)).all()


def test_a_gradient_by_rows_is_copied(launches, copies):
    y, dy = matrix((2, 3, 5, 4), "float32"), matrix((2, 3, 5, 4), "float32", 1)
    dx, _ = sums.relu_grads(fabricated(dy), channels_last(y))
    assert copies == [(2, 5, 4, 3)]
    assert_same_bits(seen(dx), np.where(y > 0, dy, 0))


def test_layers_ask_for_them(launches):
    """In `fused` alone: elsewhere it is the sum of CuPy, which cannot run here."""
    d, images = matrix((40, 8), "float16"), matrix((2, 3, 5, 4), "float32")
    with fused():
        assert_sums(column_sums(fabricated(d)), d, "float16")
        columns = np.moveaxis(images, 1, -1).reshape(-1, 3)
        assert_sums(channel_sums(channels_last(images)), columns, "float32")
    assert len(launches) == 2
    for call in (
        lambda: column_sums(fabricated(d)),
        lambda: channel_sums(channels_last(images)),
    ):
        with pytest.raises(Exception, match="CUDA_ERROR|cuda"):
            call()
    with fused(), pytest.raises(Exception, match="CUDA_ERROR|cuda"):
        channel_sums(fabricated(images))  # by rows


def test_what_is_nothing_for_a_kernel(launches):
    x = matrix((6, 8), "float32")
    images = matrix((2, 3, 5, 4), "float32")
    there = channels_last(images)
    assert sums.column_sums(fabricated(x[:, ::2])) is NotImplemented
    assert sums.column_sums(fabricated(x[0])) is NotImplemented
    assert sums.column_sums(fabricated(x[:0, :0])) is NotImplemented
    assert sums.column_sums(fabricated(np.zeros((0, 8), "float32"))) is NotImplemented
    assert sums.column_sums(fabricated(np.zeros((8, 0), "float32"))) is NotImplemented
    assert sums.column_sums(fabricated(x.astype("int32"))) is NotImplemented
    assert sums.channel_sums(fabricated(images)) is NotImplemented  # by rows
    assert sums.channel_sums(channels_last(images[:, :0])) is NotImplemented
    assert sums.channel_sums(fabricated(x)) is NotImplemented
    for dy, y in itertools.chain(
        [(fabricated(x), fabricated(x)), (fabricated(images), fabricated(images))],
        [(channels_last(images.astype("float16")), there), (channels_last(images, 1), there)],
        [(channels_last(images[:1]), there)],
        [(channels_last(images[:0]), channels_last(images[:0]))],
        [(channels_last(images.astype("int32")), channels_last(images.astype("int32")))],
    ):
        assert sums.relu_grads(dy, y) is NotImplemented
    assert not launches
