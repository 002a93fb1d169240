"""Images of PyTorch: in which order they lie in memory, and that results do not depend on it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers import assert_close, assert_same_bits, values

import xplayers as xl
from xplayers.accelerate.pytorch.plain import (
    FEW,
    are_best_last,
    channels_last,
    empty_channels_last,
    has_channels_last,
)
from xplayers.accelerate.replay.recording import Recording
from xplayers.arrays.operation import body_of, portable_body
from xplayers.arrays.transfer import to_numpy
from xplayers.layers import pooling
from xplayers.layers.windows import geometry

torch = pytest.importorskip("torch")


def images(*shape, seed=0, dtype="float32"):
    return torch.from_numpy(values(shape, seed)).to(getattr(torch, dtype))


def last(a):
    return a.contiguous(memory_format=torch.channels_last)


def test_what_lies_so():
    a = images(2, 6, 4, 3)
    assert has_channels_last(last(a))
    assert not has_channels_last(a)
    assert not has_channels_last(a.permute(2, 3, 0, 1))
    assert not has_channels_last(last(a)[:, 1:])
    assert not has_channels_last(last(images(2, 1, 4, 3)))  # by rows as well
    assert not has_channels_last(images(4, 3).T)
    assert are_best_last(last(a))
    assert not are_best_last(a)
    assert are_best_last(images(2, FEW, 4, 3))
    assert not are_best_last(images(2, FEW + 1, 4, 3))
    assert not are_best_last(images(2, 1, 4, 3, dtype="float64"))
    assert not are_best_last(images(2, 1, 4, 3).requires_grad_())
    assert not are_best_last(images(2, 1, 4))
    assert not are_best_last(torch.ones(2, 1, 4, 3, device="meta"))


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 1, 5, 4), (3, 4, 1, 1), (1, 1, 1, 7)])
def test_strides_say_what_comes_last(shape):
    _, c, h, w = shape
    strides = (c * h * w, 1, c * w, c)
    a = images(*shape)
    for there in (a, last(a), images(*(n + 1 for n in shape))[tuple(map(slice, shape))]):
        laid = channels_last(there)
        assert laid.stride() == strides
        assert_same_bits(laid, there)
    assert channels_last(laid) is laid
    empty = empty_channels_last(shape, a.double())
    assert (tuple(empty.shape), empty.stride(), empty.dtype) == (shape, strides, torch.float64)


OPTIONS = [
    {},
    {"padding": "same"},
    {"stride": 2, "padding": (1, 0)},
    {"dilation": 2},
    {"groups": 2},
    {"bias": False},
]


@pytest.mark.parametrize("channels", [2, 6])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_convolution(channels, options, size):
    layer = xl.Convolution.init(channels, 8, size, rng=0, **options)
    there = xl.Convolution.init(channels, 8, size, rng=0, **options).to(like=torch.ones(1))
    x = values((3, channels, 9, 7), 1).astype("float32")
    y = layer.forward(x)
    dy = values(y.shape, 2).astype("float32")
    dx = layer.backward(dy)
    laid = [(a, last(a)) for a in map(torch.from_numpy, (x, dy))]
    for x_there, dy_there in itertools.product(*laid):
        y_there = there.forward(x_there)
        assert has_channels_last(y_there) == are_best_last(x_there)
        assert_close(to_numpy(y_there), y, 1e-5)
        assert_close(to_numpy(there.backward(dy_there)), dx, 1e-5)
        for name, grad in there.grads.items():
            assert grad.is_contiguous()
            assert_close(to_numpy(grad), layer.grads[name], 1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_strides_of_axes_of_length_1_choose_no_kernel(dtype):
    """They say to PyTorch that channels come last, where `is_contiguous` says rows."""
    layer = xl.Convolution.init(1, 2, (3, 2), rng=0, dtype=dtype)
    layer = layer.to(like=torch.ones(1, dtype=getattr(torch, dtype)))
    layer.b = layer.b + 0.7
    x, dy = images(8, 1, 5, 3, dtype=dtype), images(8, 2, 3, 2, seed=1, dtype=dtype)
    results = []
    for strides in [(15, 15, 3, 1), (15, 1, 3, 1)]:
        there = x.as_strided(x.shape, strides)
        assert there.is_contiguous()
        results.append((layer.forward(there), layer.backward(dy), *layer.grads.values()))
    for a, b in zip(*results, strict=True):
        assert_same_bits(a, b)


def test_transposed_convolution_keeps_the_order():
    there = xl.ConvolutionTranspose.init(6, 5, 3, rng=0).to(like=torch.ones(1))
    x = images(2, 6, 4, 3)
    y = there.forward(last(x))
    dx = there.backward(torch.ones_like(y))
    assert has_channels_last(y)
    assert has_channels_last(dx)
    y_rows = there.forward(x)
    dx_rows = there.backward(torch.ones(y.shape))
    assert y_rows.is_contiguous()
    assert dx_rows.is_contiguous()
    assert_close(to_numpy(y), to_numpy(y_rows), 1e-5)
    assert_close(to_numpy(dx), to_numpy(dx_rows), 1e-5)


WINDOWS = [(2, None, 0), (3, 2, 1), ((2, 3), 1, 1), (2, (4, 2), 0), (1, 2, 0), (5, 3, 2)]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("shape", [(2, 6, 7, 8), (2, 1, 5, 5), (1, 16, 9, 9)])
def test_max_pooling_of_all_that_values_can_be(shape, window, dtype):
    size, stride, padding = window
    layer = xl.MaxPooling(size, stride=stride, padding=padding)
    rng = np.random.default_rng(0)
    x = rng.integers(-2, 3, shape).astype("float32")  # many are equal
    flat = x.reshape(-1)
    flat[::11], flat[5::37], flat[7::41], flat[9::43] = -np.inf, np.nan, np.inf, -0.0
    x[0, 0] = -np.inf
    y = layer.forward(x)
    dy = rng.integers(-3, 4, y.shape).astype("float32")
    dx = layer.backward(dy)
    there, dy_there = (last(torch.from_numpy(a).to(getattr(torch, dtype))) for a in (x, dy))
    y_there = layer.forward(there)
    dx_there = layer.backward(dy_there)
    assert y_there.dtype == dx_there.dtype == there.dtype
    np.testing.assert_array_equal(to_numpy(y_there.float()), y)
    np.testing.assert_array_equal(to_numpy(dx_there.float()), dx)


def test_max_pooling_where_a_gradient_is_infinite_beside_nan():
    layer, x = xl.MaxPooling(2), last(images(1, 5, 4, 4))
    x[0, 0, 0, 0] = torch.nan
    y = layer.forward(x)
    dy = torch.ones_like(y)
    dy[0, 0, 0, 0] = torch.inf
    dx = layer.backward(dy)
    assert not dx[0, 0, :2, :2].any()
    assert dx.sum() == y.numel() - 1


def test_who_keeps_places():
    window = geometry("", (2, 2), 2, 0)
    body = body_of(pooling.max_pooling_with_places, images(1, 6, 4, 4))
    y, places = body(last(images(1, 6, 4, 4)), window)
    assert places.shape == y.shape
    assert has_channels_last(y)
    overlapping = geometry("", (2, 2), 1, 0)
    for x, windows in [
        (images(1, 6, 4, 4), window),
        (last(images(1, 6, 4, 4)).int(), window),
        (last(images(1, 6, 4, 4)).requires_grad_(), window),
        (last(images(1, 6, 4, 4, dtype="float16")), overlapping),  # sums of 16 bits
        (images(1, 6, 4), geometry("", (2,), 2, 0)),
    ]:
        assert body(x, windows) is NotImplemented
    x, dy = last(images(1, 6, 4, 4)), last(images(1, 6, 2, 2))
    want = portable_body(pooling.max_pooling_gradient)(x, y, dy, window)
    assert_same_bits(pooling.max_pooling_gradient(x, y, dy, window, places), want)
    out = torch.full_like(x, torch.nan)
    assert pooling.max_pooling_gradient(x, y, dy, window, places, out=out) is out
    assert_same_bits(out, want)
    out = torch.full_like(x, torch.nan)
    assert pooling.max_pooling_gradient(x, y, dy, window, out=out) is out  # by NumPy
    assert_same_bits(out, want)


def network(channels):
    rng = np.random.default_rng(0)
    part = xl.Sequential(
        xl.Convolution.init(6, 6, 3, padding="same", rng=rng), xl.Gelu(), xl.Dropout(0.2, seed=1)
    )
    return xl.Sequential(
        xl.Convolution.init(channels, 6, 3, padding="same", rng=rng),
        xl.BatchNormalization.init(6),
        xl.Relu(),
        xl.Residual(part),
        xl.MaxPooling(2),
        xl.Convolution.init(6, 8, 2, stride=2, rng=rng),
        xl.GroupNormalization.init(8, 2),
        xl.Sigmoid(),
        xl.AveragePooling(2),
        xl.Convolution.init(8, 3, 1, rng=rng),
        xl.Flatten(),
        xl.Affine.init(3, 4, rng=rng),
    ).to(like=torch.ones(1))


@pytest.mark.parametrize("lay", [lambda a: a, last], ids=["rows", "channels last"])
@pytest.mark.parametrize("channels", [1, 3, 6])
def test_replays_lay_images_as_plain_steps_do(channels, lay):
    x, t = lay(images(5, channels, 8, 8)), torch.arange(5) % 4
    steps = [
        xl.TrainStep(network(channels), xl.SoftmaxWithLoss(), xl.Adam(0.01), compile=compiled)
        for compiled in ("auto", False)
    ]
    for _ in range(6):
        replayed, plain = (step(x, t) for step in steps)
        assert_same_bits(replayed, plain)
    for a, b in zip(*(step.net.params.values() for step in steps), strict=True):
        assert_same_bits(a, b)
        assert a.is_contiguous()


def test_a_recording_says_what_lies_so():
    recording = Recording()
    rows, there = recording.input(images(2, 6, 4, 3)), recording.input(last(images(2, 6, 4, 3)))
    infos = [recording.infos[tracer.register] for tracer in (rows, there, there * 2.0)]
    assert [(info.ordered, info.last) for info in infos] == [
        (True, False), (False, True), (False, True)
    ]  # fmt: skip
    assert not recording.infos[recording.input(np.ones((2, 6, 4, 3))).register].last
