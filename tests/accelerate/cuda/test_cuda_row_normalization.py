"""Layer and RMS normalization of CuPy arrays by kernels of our own, run by the host."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_cases import dtype_of
from helpers import TOLERANCE, assert_close, values

pytest.importorskip("cupy")

from emulator.emulated_gpu import fabricated
from emulator.emulated_kernels import needs_compiler, seen

import xplayers as xl
from xplayers.accelerate.cuda import normalization

pytestmark = needs_compiler

LAYERS = {"layer": xl.LayerNormalization, "rms": xl.RmsNormalization}


def layer_and_arrays(kind, shape, dtype="float32", **options):
    layer = LAYERS[kind].init(*shape, **options)
    arrays = {
        name: (a + 0.3 * values(a.shape, i)).astype(dtype_of(dtype))
        for i, (name, a) in enumerate(layer.params.items(), 5)
    }
    return layer, arrays


def passed(layer, arrays, x, dy):
    """Return results of a pass by the kernels, those in float64, and the cache of the first."""
    y, cache = layer.apply({k: fabricated(a) for k, a in arrays.items()}, fabricated(x))
    dx, grads = layer.vjp(cache, fabricated(dy))
    wide = {k: a.astype("float64") for k, a in arrays.items()}
    want, kept = layer.apply(wide, x.astype("float64"))
    want_dx, right = layer.vjp(kept, dy.astype("float64"))
    assert grads.keys() == right.keys()
    return (y, dx, *grads.values()), (want, want_dx, *right.values()), cache


@pytest.mark.parametrize(
    ("dtype", "of_params"),
    [("float32", "float32"), ("float16", "float16"), ("float16", "float32"),
     ("bfloat16", "bfloat16"), ("float64", "float64")],
)  # fmt: skip
@pytest.mark.parametrize("columns", [1, 2, 33, 256, 257, 768])
@pytest.mark.parametrize("kind", LAYERS)
def test_layers(kind, columns, dtype, of_params, gpu):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    layer, arrays = layer_and_arrays(kind, (columns,), of_params)
    x, dy = ((1.5 + values((13, columns), i)).astype(dtype_of(dtype)) for i in range(2))
    got, right, _ = passed(layer, arrays, x, dy)
    for a, want in zip(got, right, strict=True):
        assert a.dtype == dtype_of(dtype)
        assert a.shape == want.shape
        # Of one column or two the gradient of x is what eps leaves of it.
        scale = 30.0 if columns <= 2 else np.abs(want).max()
        assert np.abs(seen(a).astype("float64") - want).max() <= TOLERANCE[dtype] * scale
    names = [name for name, *_ in gpu.launches]
    own = [f"xplayers_{kind}_normalization", f"xplayers_{kind}_normalization_grads"]
    assert names == [*own, "xplayers_column_sums"]


@pytest.mark.parametrize("columns", [1023, 2048, 4096])
@pytest.mark.parametrize("kind", LAYERS)
def test_long_rows_take_a_block_each(kind, columns, gpu):
    layer, arrays = layer_and_arrays(kind, (columns,))
    x, dy = (values((3, columns), i).astype("float32") for i in range(2))
    got, right, _ = passed(layer, arrays, x, dy)
    for a, want in zip(got, right, strict=True):
        assert_close(seen(a), want, 1e-5)
    assert gpu.launches[0][1:] == gpu.launches[1][1:] == (3, 256)


@pytest.mark.parametrize(("rows", "launches"), [(255, 3), (1500, 4)])
def test_many_rows_are_added_up_in_parts(rows, launches, gpu):
    layer, arrays = layer_and_arrays("layer", (40,))
    x, dy = (values((rows, 40), i).astype("float32") for i in range(2))
    got, right, _ = passed(layer, arrays, x, dy)
    for a, want in zip(got, right, strict=True):
        assert_close(seen(a), want, 1e-5)
    assert len(gpu.launches) == launches


@pytest.mark.parametrize("kind", LAYERS)
def test_several_axes(kind, gpu):
    layer, arrays = layer_and_arrays(kind, (4, 5))
    x, dy = (values((3, 2, 4, 5), i).astype("float32") for i in range(2))
    got, right, cache = passed(layer, arrays, x, dy)
    for a, want in zip(got, right, strict=True):
        assert a.shape == want.shape
        assert_close(seen(a), want, 1e-5)
    assert cache[1].shape == (3, 2, 1, 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [-0.9, -0.5, 0.5, 0.99])
@pytest.mark.parametrize("kind", LAYERS)
def test_squares_that_do_not_fit(kind, size, dtype, gpu):
    """Values down to the smallest normal numbers and up to the largest, without an eps."""
    exponent = {"float32": 126, "float64": 1020}[dtype] * size
    layer, arrays = layer_and_arrays(kind, (7,), dtype, eps=0.0)
    x = (values((5, 7)) / 4 * 2.0**exponent).astype(dtype)
    x[x == 0] = x.max()
    with np.errstate(all="ignore"):
        want, _ = layer.apply(arrays, x)
        y, cache = layer.apply({k: fabricated(a) for k, a in arrays.items()}, fabricated(x))
        dy = values((5, 7), 1).astype(dtype)
        got, grads = layer.vjp(cache, fabricated(dy))
        _, cache = layer.apply(arrays, (x * 2.0**-exponent).astype(dtype))
        dx, want_grads = layer.vjp(cache, dy)
    assert_close(seen(y), want, TOLERANCE[dtype])
    assert_close(seen(grads["gamma"]), want_grads["gamma"], 10 * TOLERANCE[dtype])
    if abs(exponent) < 100:
        assert_close(seen(got) * 2.0**exponent, dx, 10 * TOLERANCE[dtype])


def test_rows_that_are_equal_and_far_from_0(gpu):
    layer, arrays = layer_and_arrays("layer", (9,))
    x = np.full((4, 9), 1e8 + 8, "float32")
    x[1] += 8 * np.arange(9)
    got, right, _ = passed(layer, arrays, x, values((4, 9), 1).astype("float32"))
    assert_close(seen(got[0]), right[0], 1e-5)
    assert_close(seen(got[2]), right[2], 1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_row_with_a_value_that_is_not_finite(kind, value, gpu):
    layer, arrays = layer_and_arrays(kind, (300,))
    x = values((3, 300)).astype("float32")
    x[1, 257] = value
    with np.errstate(all="ignore"):
        got, right, _ = passed(layer, arrays, x, values((3, 300), 1).astype("float32"))
    y, dx = seen(got[0]), seen(got[1])
    for row in (0, 2):
        assert_close(y[row], right[0][row], 1e-5)
        assert_close(dx[row], right[1][row], 1e-5)
    assert np.isnan(y[1, 257])
    assert np.isnan(dx[1, 257])


def test_what_is_nothing_for_the_kernel(gpu):
    def forward(x, gamma=(6,), dtype="float32"):
        a = fabricated(np.ones(gamma, dtype))
        return normalization.layer_normalization(x, a, a, 1e-5)

    x = fabricated(values((4, 6)).astype("float32"))
    rows = normalization.layer_normalization(x, *[fabricated(np.ones(6, "float32"))] * 2, 1e-5)
    assert len(gpu.launches) == 1
    assert forward(fabricated(values((6, 4)).astype("float32").T)) is NotImplemented
    assert forward(fabricated(values((0, 6)).astype("float32"))) is NotImplemented
    assert forward(fabricated(values((2, 4097)).astype("float32")), (4097,)) is NotImplemented
    assert forward(x, dtype="int32") is NotImplemented
    gamma, dy = fabricated(np.ones(6, "float32")), fabricated(values((4, 6)))
    grads = normalization.layer_normalization_gradient
    assert grads(dy, x, gamma, None, rows[3], rows[2]) is NotImplemented  # float64
    assert grads(x, x, gamma, x, rows[3], rows[2]) is NotImplemented  # the forward was another's
    assert len(gpu.launches) == 1
