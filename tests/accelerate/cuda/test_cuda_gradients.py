"""What is asked of all gradients of CuPy arrays, by kernels that are run by the host."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_cases import THERE, dtype_of
from helpers import TOLERANCE, assert_close, values

pytest.importorskip("cupy")

from emulator.emulated_gpu import fabricated
from emulator.emulated_kernels import needs_compiler, seen

import xplayers as xl
from xplayers.accelerate.cuda import kernels
from xplayers.accelerate.cuda.gradients import CHUNK, ROWS, sum_of_squares
from xplayers.cuda import fused
from xplayers.optimizers import clipping
from xplayers.training.precision import all_finite

pytestmark = needs_compiler

SHAPES = [(3,), (CHUNK - 1,), (0, 4), (CHUNK,), (3, CHUNK + 1), ()]


def grads_of(dtype, shapes=SHAPES):
    return [np.asarray(values(shape, i)).astype(dtype_of(dtype)) for i, shape in enumerate(shapes)]


def finite(arrays):
    good = all_finite([fabricated(a) for a in arrays])
    assert good.shape == ()
    assert good.dtype == np.bool_
    return bool(seen(good))


@pytest.mark.parametrize("dtype", THERE)
def test_one_value_that_is_not_finite_is_found_wherever_it_is(gpu, dtype):
    grads = grads_of(dtype)
    assert finite(grads)
    assert [name for name, *_ in gpu.launches] == ["xplayers_all_finite"]
    for bad in (np.inf, -np.inf, np.nan):
        for a in grads:
            flat = a.reshape(-1)
            for at in {0, flat.size // 2, flat.size - 1} if flat.size else ():
                before, flat[at] = flat[at].copy(), bad
                assert not finite(grads), (a.shape, at, bad)
                flat[at] = before
    assert finite(grads)


@pytest.mark.parametrize("dtype", THERE)
def test_the_largest_values_are_finite(gpu, dtype):
    largest = {"float16": 65504.0, "bfloat16": 3.38e38, "float32": 3.4e38, "float64": 1.7e308}
    assert finite([np.full(9, -largest[dtype]).astype(dtype_of(dtype)), grads_of(dtype)[0]])


def test_what_is_beside_the_arrays_is_not_looked_at(gpu):
    memory = np.full(3 * CHUNK, np.nan, "float32")
    memory[7 : CHUNK + 9] = 1.0
    assert finite([memory[7 : CHUNK + 9]])


def test_more_arrays_than_a_table_holds_and_of_two_dtypes(gpu):
    grads = grads_of("float32", [(5,)] * (ROWS + 1)) + grads_of("float16", [(5,)])
    assert finite(grads)
    assert len(gpu.launches) == 3
    for a in (grads[0], grads[ROWS - 1], grads[ROWS], grads[-1]):
        a[2] = np.inf
        assert not finite(grads)
        a[2] = 0.0


def test_no_element_at_all(gpu):
    assert finite([np.zeros((0, 3), "float32")])
    assert not gpu.launches


def test_what_is_computed_plainly(gpu, monkeypatch):
    """Where there is no kernel, CuPy is asked, which cannot run here."""
    strided = fabricated(values((4, 6)).astype("float32")[:, ::2])
    for arrays in (
        [strided],
        [fabricated(np.ones(3, "float32")), fabricated(np.ones(3, "float32"), device=1)],
        [fabricated(np.ones(3, "int32"))],
    ):
        with pytest.raises(Exception, match="CUDA_ERROR|cuda"):
            all_finite(arrays)
    with fused(False), pytest.raises(Exception, match="CUDA_ERROR|cuda"):
        all_finite([fabricated(np.ones(3, "float32"))])
    assert not gpu.made


def test_images_with_channels_last(gpu):
    images = kernels.channels_first(fabricated(values((2, 4, 3, 5)).astype("float32")))
    assert bool(seen(all_finite([images])))
    assert len(gpu.launches) == 1
    want = (seen(images).astype("float64") ** 2).sum()
    np.testing.assert_allclose(seen(*sum_of_squares([images])), want, rtol=1e-6)


NARROW = [dtype for dtype in THERE if dtype != "float64"]


@pytest.mark.parametrize("dtype", NARROW)
def test_sum_of_squares(gpu, dtype):
    """Each value counts once, and the bits are the same each time."""
    grads = grads_of(dtype)
    there = [fabricated(a) for a in grads]
    (total,) = sum_of_squares(there)
    assert total.shape == ()
    assert total.dtype == np.float64
    want = sum((a.astype("float64") ** 2).sum() for a in grads)
    np.testing.assert_allclose(seen(total), want, rtol=1e-13)
    assert [name for name, *_ in gpu.launches] == [
        "xplayers_sums_of_squares",
        "xplayers_column_sums",
    ]
    assert seen(*sum_of_squares(there)) == seen(total)
    ones = [np.zeros(a.shape, a.dtype) for a in grads]
    for a in ones:
        a.reshape(-1)[: 1 if a.size < 9 else None : 7] = 2
    count = sum(int((a != 0).sum()) for a in ones)
    assert seen(*sum_of_squares([fabricated(a) for a in ones])) == 4 * count


def test_sum_of_squares_of_two_dtypes_and_more_than_a_table(gpu):
    grads = grads_of("float32", [(5,)] * (ROWS + 1)) + grads_of("float16", [(CHUNK + 2,), (0,)])
    want = sum((a.astype("float64") ** 2).sum() for a in grads)
    for some in (grads, grads[::-1]):
        gpu.launches.clear()
        (total,) = sum_of_squares([fabricated(a) for a in some])
        assert total.dtype == np.float64
        assert [name for name, *_ in gpu.launches].count("xplayers_sums_of_squares") == 3
        np.testing.assert_allclose(seen(total), want, rtol=1e-13)


def test_squares_of_nothing(gpu):
    assert sum_of_squares([fabricated(np.zeros((0, 3), "float32"))]) is NotImplemented
    assert sum_of_squares([fabricated(np.ones(3, "int32"))]) is NotImplemented
    assert not gpu.made


def test_squares_of_64_bits_may_overflow_and_are_left_to_the_portable_code(gpu):
    for dtypes in (["float64"], ["float32", "float64"]):
        assert sum_of_squares([fabricated(np.ones(3, dtype)) for dtype in dtypes]) is NotImplemented
    assert not gpu.made


@pytest.mark.parametrize("size", [1e-45, 1e-38, 1e-30, 1e-20, 1.0, 1e19, 1e20, 6e37])
def test_squares_of_32_bits_do_not_overflow(gpu, size):
    g = (size * np.asarray([3.0, -4.0, 0.0])).astype("float32")
    exact = g.astype("float64")
    np.testing.assert_allclose(seen(*sum_of_squares([fabricated(g)])), exact @ exact, rtol=1e-15)
    (got,) = xl.clip_by_norm({"W": fabricated(g)}, 0.5 * np.linalg.norm(exact)).values()
    np.testing.assert_allclose(seen(got), 0.5 * exact, rtol=1e-6, atol=1e-45)


@pytest.mark.parametrize("dtype", NARROW)
def test_clipping_is_four_kernels(gpu, dtype):
    """The sum of the squares of chunks, its sum, the factor, and the product of all gradients."""
    for function in (clipping._factor, clipping._times):
        function.programs.clear()  # they would run on the GPU of the test before
    grads = {str(i): a for i, a in enumerate(grads_of(dtype, [(300, 20), (41,), (3, 4, 5)]))}
    there = {name: fabricated(a) for name, a in grads.items()}
    for limit in (1.0, 1e4):
        gpu.launches.clear()
        got = xl.clip_by_norm(there, limit)
        assert len(gpu.launches) == 4
        want = xl.clip_by_norm({k: a.astype("float64") for k, a in grads.items()}, limit)
        for name, g in want.items():
            assert got[name].dtype == grads[name].dtype
            assert_close(seen(got[name]), g, TOLERANCE[dtype])


@pytest.mark.parametrize("n", [1, 7, 4096, 4099, 9000])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_squares_are_the_same_bits_wherever_the_array_begins(gpu, dtype, n):
    """It is read by packs, or value by value."""
    a = values((n + 1,)).astype(dtype)
    memory = np.zeros(n + 64, dtype)
    start = -memory.ctypes.data % 64 // memory.itemsize
    found = []
    for offset in (0, 1):
        there = memory[start + offset : start + offset + n]
        there[:] = a[:n]
        found.append(seen(sum_of_squares([fabricated(there)])[0]))
        assert finite([there])
    assert found[0].tobytes() == found[1].tobytes()
    exact = np.square(a[:n].astype("float64")).sum()
    np.testing.assert_allclose(found[0], exact, rtol=1e-12)
