"""Clipping by the norm of all gradients: whatever their size, and what is no limit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import (
    TOLERANCE,
    assert_at_home,
    assert_close,
    assert_same_arrays,
    assert_same_bits,
    portably,
    share_memory,
    values,
)

import xplayers as xl
from xplayers.arrays.transfer import to_numpy


def gradients():
    return {"W": values((3, 4), 10), "b": values((4,), 30, scale=1e-3)}


class TestClipByNorm:
    def test_a_large_norm_becomes_the_limit(self, xpv):
        grads = {k: xpv.asarray(g, "float32") for k, g in gradients().items()}
        clipped = xl.clip_by_norm(grads, 0.5)
        flat = np.concatenate([to_numpy(g).ravel() for g in clipped.values()])
        assert np.linalg.norm(flat) == pytest.approx(0.5, rel=1e-6)
        whole = np.concatenate([to_numpy(g).ravel() for g in grads.values()])
        assert_close(flat, whole * (0.5 / np.linalg.norm(whole)), TOLERANCE["float32"])
        for k, g in clipped.items():
            assert_at_home(g, grads[k])

    def test_the_norm_of_many_elements(self, xpv):
        grads = {"W": values((2, 3, 70_001), 1), "b": values((3,), 2), "none": np.zeros((0, 4))}
        clipped = xl.clip_by_norm({k: xpv.asarray(g, "float32") for k, g in grads.items()}, 0.5)
        flat = np.concatenate([to_numpy(g).ravel() for g in clipped.values()])
        assert np.linalg.norm(flat.astype("float64")) == pytest.approx(0.5, rel=1e-6)

    def test_a_small_norm_is_left(self, xpv):
        grads = {k: xpv.asarray(g, "float32") for k, g in gradients().items()}
        assert_same_arrays(xl.clip_by_norm(grads, 1e3), grads)

    def test_zero_gradients_stay_zero(self, xpv):
        clipped = xl.clip_by_norm({"W": xpv.asarray(np.zeros(3), "float32")}, 1.0)
        assert not to_numpy(clipped["W"]).any()

    def test_sixteen_bits_do_not_overflow(self, xpv):
        if "float16" not in xpv.floats:
            pytest.skip("no float16 here")
        big = {"W": xpv.asarray(np.full(1000, 300.0), "float16")}  # the sum of squares is 9e7
        got = to_numpy(xl.clip_by_norm(big, 1.0)["W"]).astype("float64")
        assert np.linalg.norm(got) == pytest.approx(1.0, rel=1e-2)

    def test_nothing_and_nonsense(self, xpv):
        assert xl.clip_by_norm({}, 1.0) == {}
        empty = xpv.asarray(np.zeros((0, 3)), "float32")
        assert xl.clip_by_norm({"W": empty}, 1.0)["W"].shape == (0, 3)
        for grads in ({}, {"W": xpv.asarray(np.ones(3), "float32")}):
            for limit in (0.0, -1.0, math.nan, -math.inf):
                with pytest.raises(ValueError, match="limit is .*; expected a positive number"):
                    xl.clip_by_norm(grads, limit)
            for limit in ("1", None, True, [1.0]):
                with pytest.raises(TypeError, match="limit is .*; expected a positive number"):
                    xl.clip_by_norm(grads, limit)

    def test_limits_are_numbers_of_any_kind(self, xpv):
        g = {"W": xpv.asarray([3.0, 4.0], "float32")}
        for limit in (2, np.float32(2.0), np.float64(2.0), np.int64(2)):
            got = xl.clip_by_norm(g, limit)["W"]
            assert_at_home(got, g["W"])
            assert_close(got, [1.2, 1.6], 1e-6)

    @pytest.mark.parametrize("values_there", [[3.0, 4.0], [math.inf, math.nan], [0.0, 1e38]])
    def test_an_infinite_limit_changes_nothing(self, values_there, xpv):
        for dtype in xpv.floats:
            largest = 1e4 if dtype == "float16" else math.inf
            g = xpv.asarray(np.minimum(values_there, largest), dtype)
            (got,) = xl.clip_by_norm({"W": g}, math.inf).values()
            assert_same_bits(got, g)
            assert not share_memory(got, g)

    def test_limits_beyond_the_dtype_change_nothing(self, xpv):
        for dtype in xpv.floats:
            g = xpv.asarray([3.0, 4.0], dtype)
            for limit in (1e5, 1e39, 1e300):
                assert_same_bits(xl.clip_by_norm({"W": g}, limit)["W"], g)
            for limit in (1e-45, 1e-300):
                got = to_numpy(xl.clip_by_norm({"W": g}, limit)["W"]).astype("float64")
                assert np.linalg.norm(got) < 1e-37

    @pytest.mark.parametrize("exponent", [-37, -30, -23, -13, -12, 0, 12, 13, 19, 20, 37])
    def test_squares_may_overflow_or_be_nothing(self, exponent, xpv):
        for dtype in xpv.floats:
            size = 10.0**exponent
            if dtype == "float16":
                size = min(max(size, 1e-6), 1e4)
            elif dtype == "float64":
                size **= 8.0
                size = max(size, 1e-300)
            g = {"W": xpv.asarray([3 * size, 4 * size], dtype), "b": xpv.asarray([[0.0]], dtype)}
            exact = to_numpy(g["W"]).astype("float64")
            norm = math.hypot(*exact)
            for factor in (0.5, 1.0):
                got = xl.clip_by_norm(g, factor * norm)["W"]
                got = to_numpy(got).astype("float64")
                rounded = max(TOLERANCE[dtype] * 4, 1e-7 / size if dtype == "float16" else 0.0)
                np.testing.assert_allclose(got, factor * exact, rounded)
            assert_same_bits(xl.clip_by_norm(g, 2.0 * norm)["W"], g["W"])
            if size > 1.0 and dtype != "float16":
                got = to_numpy(xl.clip_by_norm(g, 1.0)["W"]).astype("float64")
                np.testing.assert_allclose(got, [0.6, 0.8], 4 * TOLERANCE[dtype])

    def test_the_norm_itself_may_be_no_number(self, xpv):
        """Of two values near the largest."""
        for dtype in xpv.floats:
            size = {"float16": 6e4, "float64": 1.5e308}.get(dtype, 3e38)
            g = {str(i): xpv.asarray([size], dtype) for i in range(2)}
            for got in xl.clip_by_norm(g, 1e4).values():
                assert_close(got, [1e4 / math.sqrt(2)], 4 * TOLERANCE[dtype])

    def test_large_and_small_gradients_together(self, xpv):
        g = {"W": xpv.asarray([3e19, 1.0], "float32"), "b": xpv.asarray([4e19, 1e-30], "float32")}
        clipped = xl.clip_by_norm(g, 1.0)
        assert_close(clipped["W"], [0.6, 2e-20], 1e-6)
        assert_close(clipped["b"], [0.8, 0.0], 1e-6)

    def test_what_is_not_finite_is_seen_in_all(self, xpv):
        with np.errstate(invalid="ignore"):
            g = {"W": xpv.asarray([math.inf, 1.0], "float32"), "b": xpv.asarray([2.0], "float32")}
            clipped = {k: to_numpy(a) for k, a in xl.clip_by_norm(g, 1.0).items()}
            assert np.isnan(clipped["W"][0])
            assert clipped["W"][1] == clipped["b"][0] == 0.0
            g["W"] = xpv.asarray([math.nan, 1.0], "float32")
            for got in xl.clip_by_norm(g, 1.0).values():
                assert np.isnan(to_numpy(got)).all()

    @pytest.mark.doubles
    def test_dtypes_side_by_side(self, xpv):
        if "float64" not in xpv.floats:
            pytest.skip("no float64 here")
        for size in (1.0, 1e30, 1e-30):
            g = {k: xpv.asarray([size * v], k) for k, v in (("float32", 3.0), ("float64", 4.0))}
            clipped = xl.clip_by_norm(g, size)
            for (k, got), want in zip(clipped.items(), (0.6, 0.8), strict=True):
                assert_at_home(got, g[k])
                assert_close(to_numpy(got).astype("float64") / size, [want], 1e-6)


@pytest.mark.only("numpy", "torch")
def test_the_host_gives_what_the_portable_code_gives(xpv, monkeypatch):
    for size in (0.0, 1e-38, 1e-25, 1.0, 1e25, 3e37):
        g = {"W": xpv.asarray(size * values((40, 30)), "float32")}
        want = xl.clip_by_norm(g, 0.1 * size + 1e-37)["W"]
        with monkeypatch.context() as m:
            portably(m)
            got = xl.clip_by_norm(g, 0.1 * size + 1e-37)["W"]
        np.testing.assert_allclose(to_numpy(got), to_numpy(want), 1e-5, atol=1e-44)


@pytest.mark.only("numpy", "torch")
@pytest.mark.parametrize("size", [1e-35, 1.0, 1e30])
def test_a_replayed_step_clips_with_the_same_bits(size, xpv):
    params = []
    for compiled in (False, "auto"):
        net = xl.mlp([5, 4, 3], rng=0)
        step = xl.TrainStep(
            net, xl.SoftmaxWithLoss(), xl.SGD(), compile=compiled,
            reduce_grads=lambda grads: xl.clip_by_norm(
                {k: g * size for k, g in grads.items()}, 0.01
            ),
        )  # fmt: skip
        for i in range(5):
            step(xpv.asarray(values((6, 5), i), "float32"), xpv.asarray(np.arange(6) % 3))
        params.append(net.params)
        assert all(np.isfinite(to_numpy(p)).all() for p in net.params.values())
    assert_same_arrays(params[0], params[1])
