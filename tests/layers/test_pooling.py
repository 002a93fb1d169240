"""Pooling: of equal values, beside padding, and its gradient on NumPy as the portable body."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import assert_close, assert_same_arrays, assert_same_bits, portably, taker, values

import xplayers as xl
from xplayers.accelerate import numpy as bodies
from xplayers.accelerate.host import pooling, threads
from xplayers.arrays.transfer import to_numpy

GEOMETRIES = [  # shape of x, size, stride
    ((5, 3, 8), 2, None),
    ((5, 3, 9), 3, 4),
    ((5, 3, 7, 9), 2, None),  # leftovers along both axes
    ((5, 3, 8, 6), 2, None),
    ((5, 3, 9, 6), 3, None),
    ((5, 3, 6, 7), 1, None),
    ((5, 3, 6, 7), 1, 2),
    ((5, 3, 7, 10), (2, 3), None),
    ((5, 3, 11, 10), (2, 3), (3, 5)),
    ((5, 3, 10, 9), 2, (4, 2)),
    ((2, 3, 5, 4, 7), 2, None),
    ((2, 3, 7, 4, 6), (3, 1, 2), (3, 2, 3)),
    ((1, 1, 2, 2), 2, None),
]


def case(shape, size, stride, dtype="float32"):
    """A layer, and `x` and `dy` with equal values and all that floats can be."""
    rng = np.random.default_rng(0)
    layer = xl.MaxPooling(size, stride)
    x = rng.integers(-2, 3, shape).astype(dtype)
    dy = rng.normal(size=layer(x).shape).astype(dtype)
    for a, special in [(x, [-0.0, np.nan, np.inf, -np.inf]), (dy, [0.0, -0.0, np.inf, -np.inf])]:
        for i, value in enumerate(special):
            a.reshape(-1)[3 + 2 * i :: 23] = value
    dy.reshape(-1)[8::31] = np.nan
    x[..., : 2 * shape[-1] // 3] -= 1e-3  # not all of them are ties
    return layer, x, dy


def gradient(layer, x, dy):
    with np.errstate(invalid="ignore"):
        layer.forward(x)
        return layer.backward(dy)


def portable(layer, x, dy, monkeypatch):
    with monkeypatch.context() as m:
        portably(m)
        return gradient(layer, x, dy)


@pytest.fixture
def used(monkeypatch):
    """The shapes that the body of NumPy was called with."""
    seen, function = [], pooling.max_pooling_gradient

    def spy(x, *args):
        dx = function(x, *args)
        seen.extend([] if dx is NotImplemented else [x.shape])
        return dx

    monkeypatch.setitem(bodies.BODIES, "max_pooling_gradient", spy)
    return seen


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("limit", [1, 500, 1 << 20])
@pytest.mark.parametrize(("shape", "size", "stride"), GEOMETRIES)
def test_the_bits_are_those_of_the_portable_body(
    shape, size, stride, limit, dtype, used, monkeypatch
):
    monkeypatch.setattr(pooling, "BLOCK_BYTES", limit)
    layer, x, dy = case(shape, size, stride, dtype)
    kept = x.copy(), dy.copy()
    assert_same_bits(gradient(layer, x, dy), portable(layer, x, dy, monkeypatch))
    assert used == [shape]
    for a, before in zip((x, dy), kept, strict=True):
        assert_same_bits(a, before, "what was given")


@pytest.mark.parametrize("limit", [1, 500, 1 << 20])
@pytest.mark.parametrize("lay", [
    np.asfortranarray,
    lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    lambda a: np.ascontiguousarray(a[:, ::-1])[:, ::-1],
    lambda a: np.ascontiguousarray(np.moveaxis(a, 1, -1)).swapaxes(1, -1).swapaxes(2, -1),
])  # fmt: skip
def test_arrays_may_lie_as_they_like(lay, limit, used, monkeypatch):
    monkeypatch.setattr(pooling, "BLOCK_BYTES", limit)
    layer, x, dy = case((5, 3, 7, 9), 2, None)
    expected = portable(layer, x, dy, monkeypatch)
    for a, b in [(lay(x), dy), (x, lay(dy)), (lay(x), lay(dy))]:
        got = gradient(layer, a, b)
        assert_same_bits(got, expected)
        assert got.flags.c_contiguous
    assert len(used) == 3


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((0, 3, 8, 8), {"size": 2}),
        ((2, 0, 8, 8), {"size": 2}),
        ((2, 3, 8, 8), {"size": 2, "padding": 1}),
        ((2, 3, 8, 8), {"size": 3, "stride": 2}),
        ((2, 3, 8, 8), {"size": (2, 2), "stride": (2, 1)}),
    ],
)
def test_what_the_portable_body_keeps(shape, options, used):
    layer, x = xl.MaxPooling(**options), values(shape)
    assert gradient(layer, x, layer(x)).shape == shape
    x, y = values((2, 3, 8)).astype("float16"), values((2, 3, 4)).astype("float16")
    assert gradient(xl.MaxPooling(2), x, y).dtype == "float16"
    assert not used


def test_the_first_of_equal_values_in_a_gap_is_not_seen():
    """By hand: windows of 2 every 3; the last place is left over."""
    x = np.asarray([[[1.0, 1.0, 9.0, 2.0, 5.0, 9.0, 9.0]]])
    dx = gradient(xl.MaxPooling(2, 3), x, np.asarray([[[10.0, 20.0]]]))
    assert dx.tolist() == [[[10.0, 0.0, 0.0, 0.0, 20.0, 0.0, 0.0]]]


def test_what_memory_held_before_does_not_show(monkeypatch):
    """Neither in gaps and leftovers nor elsewhere."""
    layer, x, dy = case((5, 3, 11, 10), (2, 3), (3, 5))
    expected = portable(layer, x, dy, monkeypatch)
    monkeypatch.setattr(pooling, "empty", lambda shape, dtype: np.full(shape, 7.0, dtype))
    assert_same_bits(gradient(layer, x, dy), expected)


@pytest.mark.parametrize(
    ("shape", "limit", "largest"),
    [
        ((5, 3, 4, 4), 1, (1, 1)),
        ((5, 3, 4, 4), 2 * 64, (1, 2)),
        ((5, 3, 4, 4), 7 * 64, (2, 3)),
        ((5, 3, 4, 4), 1 << 20, (5, 3)),
    ],
)
def test_blocks_cover_everything_once(shape, limit, largest, monkeypatch):
    monkeypatch.setattr(pooling, "BLOCK_BYTES", limit)
    x = np.zeros(shape, "float32")
    parts = pooling._parts(x)
    sizes = [x[part].shape[:2] for part in parts]
    assert sizes[0] == largest == tuple(map(max, zip(*sizes, strict=True)))
    for part in parts:
        x[part] += 1.0
    assert np.all(x == 1.0)


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    monkeypatch.setattr(pooling, "BLOCK_BYTES", 3000)
    layer, x, dy = case((64, 3, 12, 13), 2, None)
    expected = portable(layer, x, dy, monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(threads, "_pool", lambda: pool)
        for cores in (1, 2):
            monkeypatch.setattr(threads, "usable_cores", lambda cores=cores: cores)
            for _ in range(3):
                assert_same_bits(gradient(layer, x, dy), expected)


def test_a_replayed_step_gives_the_same_bits(used, monkeypatch):
    """The step that is recorded calls it once, with the arrays of each batch."""
    x, t = values((6, 2, 9, 8)).astype("float32"), np.arange(6) % 3
    results = []
    for compiled in (False, "auto"):
        net = xl.Sequential(
            xl.Convolution.init(2, 4, 3, padding="same", rng=0), xl.Relu(),
            xl.MaxPooling(2), xl.Flatten(), xl.Affine.init(64, 3, rng=1),
        )  # fmt: skip
        step = xl.TrainStep(net, xl.SoftmaxWithLoss(), xl.SGD(lr=0.1), compile=compiled)
        for i in range(6):
            loss = step(np.roll(x, i, axis=0), np.roll(t, i))
        assert not compiled or len(taker(step).replays.replays) == 1
        results.append({**net.params, "loss": np.asarray(loss)})
    assert_same_arrays(results[0], results[1])
    assert set(used) == {(6, 4, 9, 8)}


@pytest.mark.only("torch")
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_tensors_on_the_cpu_go_through_numpy(geometry, xpv):
    layer, x, dy = case(*geometry)
    there = [xpv.asarray(a) for a in (x, dy)]
    layer.forward(x)
    with np.errstate(invalid="ignore"):
        want = layer.backward(dy)
    layer.forward(there[0])
    got = layer.backward(there[1])
    assert_same_bits(got, want)
    assert_same_bits(there[0], x)
    assert_same_bits(there[1], dy)


# Maxima


def test_the_first_of_equal_values_gets_the_gradient(xpv):
    layer = xl.MaxPooling(2)
    layer.forward(xpv.asarray(np.zeros((1, 1, 4, 4)), "float32"))
    dx = to_numpy(layer.backward(xpv.asarray([[[[1.0, 2.0], [3.0, 4.0]]]], "float32")))
    expected = np.zeros((4, 4))
    expected[::2, ::2] = [[1, 2], [3, 4]]
    assert_close(dx[0, 0], expected, 0.0)


def test_padding_never_wins(xpv):
    x = xpv.asarray(np.full((1, 1, 3, 3), -1e30), "float32")
    layer = xl.MaxPooling(3, stride=1, padding=1)
    y = layer.forward(x)
    assert_same_bits(y, x)
    assert to_numpy(layer.backward(y * 0.0 + 1.0)).sum() == 9.0


def test_the_mean_of_sequences():
    layer = xl.GlobalAveragePooling()
    assert layer.forward(np.asarray([[[1.0, 3.0, 5.0]]])).tolist() == [[3.0]]
    assert layer.backward(np.asarray([[6.0]])).tolist() == [[[2.0, 2.0, 2.0]]]


def test_padding_does_not_win_over_infinity_either():
    layer = xl.MaxPooling(2, stride=1, padding=1)
    x = np.asarray([[[np.inf, 0.0]]])
    assert layer.forward(x).tolist() == [[[np.inf, np.inf, 0.0]]]
    assert layer.backward(np.ones((1, 1, 3))).tolist() == [[[2.0, 1.0]]]


@pytest.mark.parametrize("make", [xl.MaxPooling, xl.AveragePooling])
def test_windows_of_one_element_are_a_copy(make, xpv):
    x = xpv.asarray(values((2, 3, 4, 4)), "float32")
    layer = make(1)
    y = layer.forward(x)
    assert_same_bits(y, x)
    assert y is not x
    assert not (isinstance(x, np.ndarray) and np.shares_memory(x, y))
    assert_same_bits(layer.backward(x), x)


def test_an_option_that_is_set_later_counts():
    layer, x = xl.MaxPooling(2), np.arange(16.0).reshape(1, 1, 4, 4)
    assert layer.predict(x).shape == (1, 1, 2, 2)
    layer.stride = [1, 2]
    assert layer.predict(x).shape == (1, 1, 3, 2)
    layer.padding = True
    with pytest.raises(ValueError, match="padding is True; expected an int"):
        layer.predict(x)
