"""Numbers and options of kernels on CuPy: those that are equal but not the same, and of NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_cases import array
from emulator import building
from helpers import assert_same_bits

from xplayers.accelerate.cuda.source import translate
from xplayers.arrays.elementwise import elementwise


def test_scalars_of_numpy_have_a_dtype():
    f4 = array("float32")
    for function in (
        lambda xp, x: x * np.float64(2.5),
        lambda xp, x: x * xp.exp(0.5),
        lambda xp, x: x * (xp.exp(0.5) * 2),
    ):
        assert translate(function, [f4]).result_dtypes == (np.dtype("float64"),)
    kernel = translate(lambda xp, x, s: x * (s * 2 + 1), [f4, 0.5])
    assert kernel.result_dtypes == (np.dtype("float32"),)
    assert kernel.scalar_arguments([None, 3.0]) == [np.float32(7)]
    double = translate(lambda xp, x, s: x * xp.exp(s), [f4, 0.5])
    assert double.scalar_arguments([None, 0.5]) == [np.exp(0.5)]


def test_literals_of_integers_are_of_cpp():
    body = translate(lambda xp, x: x * True + np.int64(-(2**63)), [array("int64")]).body
    assert "True" not in body
    assert "(i64)(1)" in body
    assert "(i64)(9223372036854775808ull)" in body


def test_the_condition_of_where_is_a_truth_value():
    f4 = array("float32")
    kernel = translate(lambda xp, x, s: xp.where(x, x, 2) + xp.where(s, x, 3), [f4, 0.5])
    assert kernel.scalar_arguments([None, 1e-300]) == [np.True_]
    assert kernel.scalar_arguments([None, 0.0]) == [np.False_]


@elementwise
def scaled(xp, x, a):
    return a * x


@elementwise
def by_option(xp, x, *, k):
    return x * (k[0] if isinstance(k, (tuple, list)) else k)


@pytest.mark.skipif(
    building.compiler() is None, reason="no C++ compiler with _Float16 and ucontext.h"
)
def test_rows_and_options_on_the_host():
    pytest.importorskip("cupy")
    from emulator.emulated_gpu import fabricated
    from emulator.emulated_kernels import emulating, seen

    with pytest.MonkeyPatch.context() as patch, emulating(patch):
        x = np.linspace(-1, 1, 8, dtype="float32")
        there = fabricated(x.copy())
        numbers = (0.0, -0.0, 1, True, 1.0, -0.0, 0.0)
        for got, a in zip(scaled.rows([(there, a) for a in numbers]), numbers, strict=True):
            assert_same_bits(seen(got), a * x)
        for k in (0.0, -0.0, (0.0,), (-0.0,), 2, 2.0):
            expected = x * (k[0] if isinstance(k, tuple) else k)
            assert_same_bits(seen(by_option(there, k=k)), expected)
        assert len(by_option.programs) == 6
