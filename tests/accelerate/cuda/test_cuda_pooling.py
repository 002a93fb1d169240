"""Pooling by CUDA kernels: their source through a host compiler, against the portable layers.

CuPy's arrays lie over host memory. Compilation by CuPy and the launch are all that is missing.
"""

from __future__ import annotations

import numpy as np
import pytest
from cuda_cases import POOLING, THERE, dtype_of
from emulator import launching
from helpers import TOLERANCE, assert_close, assert_same_bits, values

pytest.importorskip("cupy")

from emulator.emulated_gpu import fabricated
from emulator.emulated_kernels import (
    Plainly,
    channels_last,
    emulating_template,
    needs_compiler,
    seen,
)

import xplayers as xl
from xplayers.accelerate.cuda import kernels, pooling
from xplayers.cuda import fused
from xplayers.layers.windows import Window

pytestmark = needs_compiler

GEOMETRIES = [  # shape of x, size, stride, padding
    ((2, 3, 9), 2, None, 0),
    ((2, 3, 10), 3, 2, 1),
    ((2, 3, 7, 9), 2, None, 0),  # leftovers along both axes
    ((2, 3, 8, 9), 3, 2, 1),
    ((2, 3, 7, 8), 3, 1, 1),
    ((2, 3, 11, 10), (2, 3), (3, 5), 0),  # gaps
    ((2, 3, 7, 9), (1, 3), (2, 1), (0, 1)),
    ((2, 3, 6, 5), (4, 2), (1, 2), (2, 1)),
    ((2, 3, 6, 7), 1, 2, 0),
    ((1, 1, 4, 4), 4, None, 0),
    ((2, 40, 5, 4), 2, 1, 0),  # more elements than threads
    ((2, 3, 5, 4, 7), 2, None, 0),
    ((2, 3, 5, 6, 4), (3, 2, 4), (1, 1, 3), (1, 1, 2)),
]
LAYOUTS = ["rows", "channels last"]

each_geometry = pytest.mark.parametrize(("shape", "size", "stride", "padding"), GEOMETRIES)
each_layout = pytest.mark.parametrize("layout", LAYOUTS)
each_dtype = pytest.mark.parametrize("dtype", THERE)


@pytest.fixture
def launches(monkeypatch):
    """Kernels run on the host, and new arrays are in its memory; return what is launched."""
    with fused():
        yield emulating_template(monkeypatch, pooling, POOLING)


@pytest.fixture
def plainly(monkeypatch):
    """The portable code raises: it must not run where there is no GPU."""

    def refused(*args):
        raise Plainly

    for name in ("fold", "slices", "scatter"):
        monkeypatch.setattr(Window, name, refused)
    monkeypatch.setattr("xplayers.layers.pooling.upcast", refused)


def there(a, layout="rows", device=0):
    """Return a CuPy array with the values of `a`, which lie as `layout` says."""
    if layout == "channels last":
        return channels_last(a, device)
    return fabricated(np.array(a, order="C"), device)


def is_laid(a, layout):
    inner = a if layout == "rows" else kernels.channels_last(a)
    return inner.flags.c_contiguous


def portable(layer, x, dy):
    """Return what NumPy gives: in float32 for values of 16 bits, which are rounded once."""
    dtype, wide = x.dtype, np.float64 if x.dtype == np.float64 else np.float32
    with np.errstate(invalid="ignore"):
        y, cache = layer.apply({}, x.astype(wide))
        dx, _ = layer.vjp(cache, dy.astype(wide))
    return y.astype(dtype), dx.astype(dtype)


def by_kernels(layer, x, dy, layout):
    """Return the same by kernels, for gradients in the layout of `x`."""
    x, dy = there(x, layout), there(dy, layout)
    y, cache = layer.apply({}, x)
    dx, grads = layer.vjp(cache, dy)
    assert cache[0] is x
    assert grads == {}
    assert y.dtype == dx.dtype == x.dtype
    assert is_laid(y, layout)
    assert is_laid(dx, layout)
    return seen(y), seen(dx)


def tied(shape, dtype="float32"):
    """Return values of which many are equal, and all that floats can be."""
    x = np.random.default_rng(0).integers(-2, 3, shape).astype(dtype_of(dtype))
    for i, value in enumerate([-0.0, np.nan, np.inf, -np.inf, -0.0, 0.0]):
        x.reshape(-1)[3 + 2 * i :: 29] = value
    return x


def gradient(layer, x, dtype="float32"):
    return values(layer(np.zeros(x.shape)).shape, 1).astype(dtype_of(dtype))


@each_dtype
@each_layout
@each_geometry
def test_max_pooling(shape, size, stride, padding, layout, dtype, launches):
    """All bits of the values; gradients are added up in the order of the portable code."""
    layer, x = xl.MaxPooling(size, stride, padding), tied(shape, dtype)
    dy = gradient(layer, x, dtype)
    y, dx = by_kernels(layer, x, dy, layout)
    want, want_dx = portable(layer, x, dy)
    assert_same_bits(y, want)
    np.testing.assert_array_equal(dx, want_dx)
    assert [name for (name, *_), *_ in launches] == ["max_pooling", "max_grads"]


@each_dtype
@each_layout
@each_geometry
def test_average_pooling(shape, size, stride, padding, layout, dtype, launches):
    layer, x = xl.AveragePooling(size, stride, padding), values(shape).astype(dtype_of(dtype))
    dy = gradient(layer, x, dtype)
    for got, want in zip(by_kernels(layer, x, dy, layout), portable(layer, x, dy), strict=True):
        np.testing.assert_array_equal(got, want)
    assert [name for (name, *_), *_ in launches] == ["average_pooling", "average_grads"]


@each_dtype
@each_layout
@pytest.mark.parametrize(
    "shape",
    [(2, 3, 1), (2, 3, 7, 5), (3, 70, 4, 4), (1, 2, 1025), (2, 33, 40, 30), (2, 3, 2, 3, 2, 3)],
)
def test_global_average_pooling(shape, layout, dtype, launches):
    layer, x = xl.GlobalAveragePooling(), (1.0 + values(shape)).astype(dtype_of(dtype))
    dy = values(shape[:2], 1).astype(x.dtype)
    x_there = there(x, layout)
    y, cache = layer.apply({}, x_there)
    dx, _ = layer.vjp(cache, fabricated(dy))
    assert y.dtype == dx.dtype == x.dtype
    assert is_laid(dx, layout)
    want, want_dx = portable(layer, x.astype("float64"), dy.astype("float64"))
    assert_close(seen(y), want, TOLERANCE[dtype])
    assert_close(seen(dx), want_dx, TOLERANCE[dtype])
    assert len(launches) == 2


@pytest.mark.parametrize(
    ("shape", "layout", "name", "warps", "blocks"),
    [
        ((3, 40, 4, 4), "rows", "row_means", "1", 15),
        ((3, 40, 32, 32), "rows", "row_means", "1", 15),
        ((3, 40, 33, 32), "rows", "row_means", "8", 120),
        ((3, 40, 4, 4), "channels last", "channel_means", "8", 6),
        ((3, 32, 4, 4), "channels last", "channel_means", "8", 3),
    ],
)
def test_who_takes_which_mean(shape, layout, name, warps, blocks, launches):
    pooling.global_average(there(values(shape), layout))
    (((operation, _, kind), *grid),) = launches
    assert (operation, kind, *grid) == (name, warps, blocks, 256)


def test_means_of_many_float16(launches):
    """Their sum is beyond float16, and ones are lost in sums of 16 bits."""
    x = np.full((1, 2, 300, 300), 1.5, "float16")
    for layout in LAYOUTS:
        assert seen(pooling.global_average(there(x, layout))).tolist() == [[1.5, 1.5]]


@pytest.mark.parametrize("padding", [0, 1])
@each_layout
def test_windows_of_minus_infinity(padding, layout, launches):
    """Padding is minus infinity too, but takes no gradient, though it comes first."""
    layer, x = xl.MaxPooling(2, 2, padding), np.full((1, 2, 6, 5), -np.inf, "float32")
    x[0, 0, 2, 2] = 1.0
    dy = gradient(layer, x)
    for got, want in zip(by_kernels(layer, x, dy, layout), portable(layer, x, dy), strict=True):
        np.testing.assert_array_equal(got, want)
    np.testing.assert_allclose(want.sum(), dy.sum(), 1e-5)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@each_geometry
def test_gradients_that_are_not_finite(shape, size, stride, padding, dtype, launches):
    """The same places are not finite as in the portable code: loss scaling has to see them."""
    layer, x = xl.MaxPooling(size, stride, padding), tied(shape, dtype)
    dy = gradient(layer, x, dtype)
    for i, value in enumerate([np.inf, -np.inf, np.nan]):
        dy.reshape(-1)[i::13] = value
    _, dx = by_kernels(layer, x, dy, "rows")
    _, want = portable(layer, x, dy)
    finite = np.isfinite(want)
    np.testing.assert_array_equal(np.isfinite(dx), finite)
    np.testing.assert_array_equal(dx[finite], want[finite])
    assert dy.size < 3 or not finite.all()


def test_by_hand(launches):
    """The first of equal values; a NaN; a window that overlaps; what no window sees."""
    x = np.asarray([[[1.0, 1.0, 9.0, 9.0, 2.0, np.nan, 0.0, 4.0]]], "float32")
    y, dx = by_kernels(xl.MaxPooling(3, 2), x, np.asarray([[[1.0, 2.0, 4.0]]], "float32"), "rows")
    np.testing.assert_array_equal(y, [[[9.0, 9.0, np.nan]]])
    np.testing.assert_array_equal(dx, [[[0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0]]])


# Indices


@each_layout
@each_geometry
def test_indices_of_64_bits(shape, size, stride, padding, layout, launches, monkeypatch):
    monkeypatch.setattr(pooling, "_SHORT", 0)
    for layer in (xl.MaxPooling(size, stride, padding), xl.AveragePooling(size, stride, padding)):
        x = tied(shape)
        dy = gradient(layer, x)
        for got, want in zip(by_kernels(layer, x, dy, layout), portable(layer, x, dy), strict=True):
            np.testing.assert_array_equal(got, want)
    assert {kind for (*_, kind), *_ in launches} == {"i64"}


def test_more_than_an_int_of_elements(launches):
    """There are two windows, 2**31 - 1 apart."""
    x = launching.unwritten(2**31 + 7, "float16").reshape(1, 1, -1)
    x[..., 1], x[..., -8], x[..., -1] = 3.0, 8.0, 16.0
    window = Window((8,), (2**31 - 1,), (1,), ((0, 0),))
    assert seen(pooling.max_pooling(fabricated(x), window)).tolist() == [[[3.0, 16.0]]]
    assert seen(pooling.average_pooling(fabricated(x), window)).tolist() == [[[0.375, 3.0]]]
    assert {kind for (*_, kind), *_ in launches} == {"i64"}


def test_gradients_of_more_than_an_int_of_elements(launches, monkeypatch):
    """Thread 0 of 2**31 has the first element, and the one at 2**31."""
    n = 2**31 + 2
    window = Window((2,), (2,), (1,), ((0, 0),))
    x, y, dy, dx = (launching.unwritten(k, "float16") for k in (n, n // 2, n // 2, n))
    x[-2:], y[-1], dy[0], dy[-1] = 3.0, 3.0, 5.0, 7.0
    x, y, dy = (fabricated(a.reshape(1, 1, -1)) for a in (x, y, dy))
    monkeypatch.setattr(kernels, "empty", lambda like, shape, dtype: fabricated(dx.reshape(shape)))
    launch = launching.launch
    monkeypatch.setattr(
        launching, "launch", lambda *args: launch(*args[:2], 2**23, *args[3:], only=0)
    )
    pooling.max_pooling_gradient(x, y, dy, window)
    assert (dx[0], dx[-2], dx[-1]) == (5.0, 7.0, 0.0)
    pooling.average_pooling_gradient(x, dy, window)
    assert (dx[0], dx[-2], dx[-1]) == (2.5, 3.5, 0.0)
    assert {kind for (*_, kind), *_ in launches} == {"i64"}


def test_windows_of_more_than_an_int(launches):
    layer, x = xl.MaxPooling(2**31, 1, 2**30), values((1, 2, 3)).astype("float32")
    y, _ = layer.apply({}, fabricated(x))
    np.testing.assert_array_equal(seen(y), np.repeat(x.max(axis=2, keepdims=True), 4, axis=2))
    assert launches[0][0][-1] == "i64"


@pytest.mark.parametrize("d", [1, 2, 3, 5, 7, 11, 641, 1 << 15, (1 << 16) + 1, (1 << 30) - 1])
def test_a_division_by_a_product(d):
    """At all multiples of a divisor, and before them, up to the largest number of an int."""
    number, factor, shift = pooling._divisor(d)
    assert number == d
    assert 0 < factor < 1 << 32
    last = ((1 << 31) - 1) // d
    multiples = {0, 1, 2, last // 2, last - 1, last}
    for n in {max(0, m * d + k) for m in multiples for k in (-1, 0, 1, d - 1)}:
        if n < 1 << 31:
            assert n * factor >> (31 + shift) == n // d
            assert n * factor < 1 << 64


def test_indices_are_short_where_all_fit(launches, monkeypatch):
    monkeypatch.setattr(pooling, "_SHORT", 96)
    window = Window((1,), (2,), (1,), ((0, 0),))
    for shape, kind in (((1, 1, 95), "int"), ((1, 1, 96), "i64"), ((3, 1, 32), "i64")):
        pooling.max_pooling(fabricated(values(shape)), window)
        assert launches[-1][0][-1] == kind


# What is given to the kernels


@pytest.mark.parametrize("layer", [xl.MaxPooling(2), xl.AveragePooling(2)])
@pytest.mark.parametrize("of_x", LAYOUTS)
@pytest.mark.parametrize("of_dy", [*LAYOUTS, "reversed"])
def test_gradients_in_another_layout_are_copied(of_dy, of_x, layer, launches, copies):
    x = values((2, 3, 6, 4)).astype("float32")
    dy = gradient(layer, x)
    _, cache = layer.apply({}, there(x, of_x))
    if of_dy == "reversed":
        dy_there = fabricated(np.ascontiguousarray(dy[..., ::-1]))[..., ::-1]
    else:
        dy_there = there(dy, of_dy)
    dx, _ = layer.vjp(cache, dy_there)
    assert is_laid(dx, of_x)
    np.testing.assert_array_equal(seen(dx), portable(layer, x, dy)[1])
    assert len(copies) == (of_dy != of_x)


@each_layout
def test_shapes_with_two_layouts_are_not_copied(layout, launches, copies):
    """One window, or one channel: both layouts are the same memory."""
    for shape, size in (((2, 3, 4, 4), 4), ((2, 1, 4, 4), 2)):
        layer, x = xl.MaxPooling(size), values(shape).astype("float32")
        dy = gradient(layer, x)
        _, cache = layer.apply({}, there(x, layout))
        for of_dy in LAYOUTS:
            dx, _ = layer.vjp(cache, there(dy, of_dy))
            np.testing.assert_array_equal(seen(dx), portable(layer, x, dy)[1])
    assert not copies


TWO = Window((2, 2), (2, 2), (1, 1), ((0, 0),) * 2)
ONES = np.ones((2, 3, 4, 4), "float32")
Y = np.ones((2, 3, 2, 2), "float32")


@pytest.mark.parametrize(
    ("x", "window"),
    [
        (lambda: fabricated(ONES)[:, :, ::-1], TWO),
        (lambda: fabricated(ONES).transpose(0, 1, 3, 2), TWO),
        (lambda: fabricated(np.ones((0, 3, 4, 4), "float32")), TWO),
        (lambda: fabricated(ONES.astype("int32")), TWO),
        (lambda: fabricated(ONES.astype("complex64")), TWO),
        (
            lambda: fabricated(np.ones((1, 1, 2, 2, 2, 2), "float32")),
            Window((2,) * 4, (2,) * 4, (1,) * 4, ((0, 0),) * 4),
        ),
    ],
)
def test_what_is_nothing_for_a_kernel(x, window, launches):
    assert pooling.max_pooling(x(), window) is NotImplemented
    assert pooling.average_pooling(x(), window) is NotImplemented
    if window is TWO:
        assert pooling.global_average(x()) is NotImplemented
    assert not launches


def gradients(x=ONES, y=Y, dy=Y, device=0):
    """Return what gradients the kernels give, for a `dy` on a device."""
    x, y, dy = fabricated(x), fabricated(y), fabricated(dy, device)
    return pooling.max_pooling_gradient(x, y, dy, TWO), pooling.average_pooling_gradient(x, dy, TWO)


def test_gradients_that_are_nothing_for_a_kernel(launches):
    assert all(dx is not None for dx in gradients())
    launches.clear()
    for options in (
        {"dy": Y.astype("float64")},
        {"dy": np.ones((2, 3, 2, 3), "float32")},
        {"x": ONES.astype("float16")},
        {"device": 1},
    ):
        assert gradients(**options) == (NotImplemented, NotImplemented)
    assert gradients(y=Y.astype("float64"))[0] is NotImplemented
    other = np.ones((2, 3, 2, 3), "float32")
    assert gradients(y=other)[0] is NotImplemented
    assert gradients(y=other, dy=other)[0] is NotImplemented
    for dy in (Y, Y[:, :2, 0, 0], Y.astype("float64")[..., 0, 0]):
        assert pooling.global_average_gradient(fabricated(ONES), fabricated(dy)) is NotImplemented
    assert [name for (name, *_), *_ in launches] == ["average_grads"] * 2  # which do without y


LAYERS = [xl.MaxPooling(2), xl.AveragePooling(2), xl.GlobalAveragePooling()]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_the_portable_code_computes_the_rest(layer, launches, plainly):
    with pytest.raises(Plainly):
        layer.apply({}, fabricated(ONES)[:, :, ::-1])
    with fused(False), pytest.raises(Plainly):
        layer.apply({}, fabricated(ONES))
    assert not launches
    layer.apply({}, fabricated(ONES))
    assert len(launches) == 1


@pytest.mark.parametrize("layer", LAYERS[:2], ids=str)
def test_so_it_does_with_gradients(layer, launches, plainly):
    _, cache = layer.apply({}, fabricated(ONES))
    with fused(False), pytest.raises(Plainly):
        layer.vjp(cache, fabricated(Y))
    assert len(launches) == 1


def test_other_libraries_are_as_before(launches):
    for layer in LAYERS:
        layer.backward(np.ones_like(layer.forward(ONES)))
    assert not launches


def test_the_launcher_has_the_source():
    launcher = pooling._launcher("max_pooling", np.dtype("float16"), "int")
    body, name = pooling.source("max_pooling", np.dtype("float16"), "int")
    assert launcher._kernel.name == name == "xplayers_max_pooling"
    assert launcher._kernel.code == f"{pooling.template()}\n{body}"


@pytest.mark.parametrize("n", [256, 257, 10_000])
def test_blocks(n, launches):
    x, window = fabricated(values((1, 1, 2 * n))), Window((2,), (2,), (1,), ((0, 0),))
    y = pooling.max_pooling(x, window)
    pooling.max_pooling_gradient(x, y, y, window)
    assert [blocks for _, blocks, _ in launches] == [-(-n // 256), -(-2 * n // 256)]
