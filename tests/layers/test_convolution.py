"""Convolution and pooling beyond the contract: sizes, blocks, bodies, 16 bits."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from helpers import (
    TOLERANCE,
    assert_at_home,
    assert_close,
    assert_same_arrays,
    assert_same_bits,
    portably,
    values,
)

import xplayers as xl
from xplayers.accelerate.host import convolution as host
from xplayers.accelerate.host import threads, winograd
from xplayers.arrays.transfer import to_numpy
from xplayers.layers import windows


def train(layer, x, dy=None):
    """Forward and backward: output, input gradient, gradients of the parameters."""
    y = layer.forward(x)
    dx = layer.backward(y if dy is None else dy)
    return {"y": y, "dx": dx, **layer.grads}


LAYERS = {
    "images": (lambda: xl.Convolution.init(4, 6, 3, stride=2, groups=2, rng=0), (5, 4, 7, 6)),
    "sequences": (lambda: xl.Convolution.init(4, 6, (3,), padding="same", rng=0), (5, 4, 6)),
    "transpose": (lambda: xl.ConvolutionTranspose.init(4, 2, 3, stride=2, rng=0), (5, 4, 3, 2)),
    "maximum": (lambda: xl.MaxPooling(3, stride=2, padding=1), (5, 4, 7, 6)),
    "average": (lambda: xl.AveragePooling(3, stride=2, padding=1), (5, 4, 7, 6)),
}
COLUMNS = {  # of a sample: values of a window, in all channels, times windows
    "images": 4 * 3 * 3 * 3 * 2,
    "sequences": 4 * 3 * 6,
    "transpose": 2 * 3 * 3 * 3 * 2,
    "maximum": 4 * 3 * 3 * 4 * 3,
}
EVERY = pytest.mark.parametrize("kind", LAYERS)


# Against PyTorch, in many geometries


def compare(torch, layer, function, x, *more):
    y = layer.forward(x)
    tx = torch.tensor(x, requires_grad=True)
    tp = [torch.tensor(a, requires_grad=True) for a in layer.params.values()]
    ty = function(tx, *tp, *more)
    assert_close(y, ty.detach().numpy(), 1e-12, f"y of {layer!r}")
    dy = values(y.shape, 1)
    dx = layer.backward(dy)
    ty.backward(torch.tensor(dy))
    assert_close(dx, tx.grad.numpy(), 1e-12, f"dx of {layer!r}")
    for gradient, p in zip(layer.grads.values(), tp, strict=True):
        assert_close(gradient, p.grad.numpy(), 1e-12, f"gradient of {layer!r}")


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_convolutions_of_every_geometry(axes):
    torch = pytest.importorskip("torch")
    function = getattr(torch.nn.functional, f"conv{axes}d")
    shapes = [(7, 8, 7)[:axes], (8, 7, 9)[:axes]]
    # a padding wider than the kernel and a stride longer than it are among them
    for shape, *options in itertools.product(shapes, (1, 2, 4), (0, 1, 5), (1, 2), (1, 2)):
        W = values((4, 4 // options[-1], *(3, 2, 2)[:axes]))
        layer = xl.Convolution(W, values((4,)), *options)
        compare(torch, layer, function, values((2, 4, *shape)), *options)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_transposed_convolutions_of_every_geometry(axes):
    torch = pytest.importorskip("torch")
    function = getattr(torch.nn.functional, f"conv_transpose{axes}d")
    for stride, padding, more in itertools.product((1, 2, 4), (0, 1, 2), (0, 1)):
        if more < stride:
            options = stride, padding, more
            layer = xl.ConvolutionTranspose(
                values((2, 3, *(3, 4, 2)[:axes])), values((3,)), *options
            )
            compare(torch, layer, function, values((2, 2, *(4, 3, 5)[:axes])), *options)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(("kind", "name"), [("Max", "max_pool"), ("Average", "avg_pool")])
def test_poolings_of_every_geometry_and_with_ties(axes, kind, name):
    torch = pytest.importorskip("torch")
    function = getattr(torch.nn.functional, f"{name}{axes}d")
    x = np.random.default_rng(0).integers(0, 3, (2, 3, *(7, 8, 6)[:axes])).astype("float64")
    for size, stride, padding in itertools.product((1, 2, 3), (1, 2, 4), (0, 1)):
        if 2 * padding <= size:
            layer = getattr(xl, f"{kind}Pooling")(size, stride, padding)
            compare(torch, layer, function, x, size, stride, padding)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, (2, 3)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_same_keeps_the_size(kernel, dilation):
    """The odd one of the padding comes after, as in PyTorch."""
    layer = xl.Convolution.init(2, 3, kernel, padding="same", dilation=dilation, dtype="float64")
    x = values((2, 2, 6, 5))
    y = layer(x)
    assert y.shape == (2, 3, 6, 5)
    total = [dilation * (k - 1) for k in layer.W.shape[2:]]
    padded = np.pad(x, [(0, 0), (0, 0), *((t // 2, -(-t // 2)) for t in total)])
    assert_same_bits(y, xl.Convolution(layer.W, layer.b, dilation=dilation)(padded))


def test_a_transposed_convolution_is_the_transpose():
    """<conv(x), y> = <x, transpose(y)> for one and the same W."""
    W, x, y = values((3, 2, 3, 2)), values((2, 2, 8, 7), 1), values((2, 3, 4, 4), 2)
    forward = xl.Convolution(W, stride=2, padding=1)(x)
    back = xl.ConvolutionTranspose(W, stride=2, padding=1, output_padding=(1, 1))(y)
    assert back.shape == x.shape
    assert np.sum(forward * y) == pytest.approx(np.sum(x * back), rel=1e-12)


def test_a_transposed_convolution_may_make_one_value():
    layer = xl.ConvolutionTranspose(values((2, 3, 1)))
    assert layer(values((4, 2, 1))).shape == (4, 3, 1)
    message = re.escape("x has shape (4, 2, 0), so the output would be 1. Use larger")
    with pytest.raises(ValueError, match=message):
        xl.ConvolutionTranspose(values((2, 3, 2)))(values((4, 2, 0)))


def test_a_depthwise_convolution_keeps_the_channels_apart():
    layer = xl.Convolution.init(3, 3, 3, groups=3, padding=1, rng=0)
    x = values((2, 3, 5, 5)).astype("float32")
    y = layer(x)
    x[:, 1, ...] = 0.0
    changed = np.any(layer(x) != y, axis=(0, 2, 3))
    assert changed.tolist() == [False, True, False]


# Blocks


@EVERY
@pytest.mark.only("numpy", "readonly", "strict", "torch", "cupy")
@pytest.mark.parametrize("limit", [1, 3000])
def test_the_size_of_the_blocks_does_not_matter(kind, limit, xpv, monkeypatch):
    make, shape = LAYERS[kind]
    x = xpv.asarray(values(shape), "float32")
    whole = train(make(), x)
    used = []
    count = windows.blocks

    def counted(x, elements):
        parts = count(x, elements)
        assert elements == COLUMNS[kind]
        used.append(len(parts))
        return parts

    portably(monkeypatch)
    monkeypatch.setattr(windows, "COLUMN_BYTES", limit)
    monkeypatch.setattr(windows, "NUMPY_COLUMN_BYTES", limit)
    monkeypatch.setattr(windows, "blocks", counted)
    parts = train(make(), x)
    for name, a in whole.items():
        assert_close(parts[name], to_numpy(a), 1e-6, name)
    if limit == 1 and kind != "average":
        assert set(used) == {5}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_the_columns_of_a_block_stay_below_the_limit(dtype):
    class Batch:
        shape = (1000, 64, 28, 28)

        def __init__(self):
            self.dtype = type("DType", (), {"__str__": lambda _: f"lib.{dtype}"})()

    elements = 64 * 9 * 28 * 28
    parts = windows.blocks(Batch(), elements)
    each = elements * {"float64": 8, "float32": 4}.get(dtype, 2)
    assert max(p.stop - p.start for p in parts) * each <= windows.COLUMN_BYTES
    assert (parts[0].stop + 1) * each > windows.COLUMN_BYTES
    assert [p.start for p in parts[1:]] == [p.stop for p in parts[:-1]]
    assert (parts[0].start, parts[-1].stop) == (0, 1000)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_a_block_at_a_time_is_computed(n, monkeypatch):
    x, seen = values((n, 3, 4)), []

    def compute(a, b):
        seen.append(a.shape[0])
        return a + b

    for limit, expected in [(2 * 12 * 8, [2, 2, 1]), (10**6, [5])]:
        seen.clear()
        monkeypatch.setattr(windows, "NUMPY_COLUMN_BYTES", limit)
        assert_same_bits(windows.in_blocks(np, compute, 12, x, x), x + x)
        assert seen == (expected if n == 5 else [n])
    monkeypatch.setattr(windows, "COLUMN_BYTES", 1)
    assert len(windows.blocks(x, 12)) == 1, "NumPy has a limit of its own"


def test_sums_over_blocks_are_wider_than_16_bits(monkeypatch):
    monkeypatch.setattr(windows, "NUMPY_COLUMN_BYTES", 1)
    layer = xl.Convolution.init(1, 1, (1,), rng=0)
    layer.forward(np.ones((64, 1, 1), "float16"))
    dy = np.ones((64, 1, 1), "float16")
    dy[0] = 2048.0  # in float16, adding 1 to it is lost
    layer.backward(dy)
    assert layer.dW.dtype == "float16"
    assert layer.dW.item() == np.float16(2048.0 + 63.0)


# NumPy has a body of its own


def tiled(shape, padding, n_out=17, dtype="float64"):
    """A convolution that Winograd's algorithm computes, and an input."""
    W, b = values((n_out, shape[1], 3, 3)).astype(dtype), values((n_out,), 1).astype(dtype)
    layer = xl.Convolution(W, b, padding=padding)
    return layer, values(shape, 2).astype(dtype)


@pytest.mark.parametrize("limit", [1, 100_000, 1 << 20])
@pytest.mark.parametrize(
    ("shape", "padding"),
    [
        ((8, 18, 7, 8), 1),
        ((7, 16, 12, 5), "same"),
        ((16, 16, 6, 6), 0),
        ((40, 16, 3, 7), (0, 2)),
        ((5, 16, 9, 8), (2, 0)),
        ((300, 16, 1, 1), 1),
        ((2, 16, 17, 16), 2),
    ],
)
def test_tiles_in_blocks_of_every_size(shape, padding, limit, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(winograd, "BLOCK_BYTES", limit)
    monkeypatch.setattr(threads, "SUMS", 3)
    used = set()
    for name in ("correlate", "filter_grads"):
        function = getattr(winograd, name)

        def spy(*args, function=function, name=name):
            used.add(name)
            return function(*args)

        monkeypatch.setattr(winograd, name, spy)
    layer, x = tiled(shape, padding)
    compare(torch, layer, torch.nn.functional.conv2d, x, 1, padding)
    assert used == {"correlate", "filter_grads"}


def test_tiles_are_as_exact_as_columns(monkeypatch):
    layer, x = tiled((16, 32, 14, 14), 1, 32, "float32")
    dy = values((16, 32, 14, 14), 3).astype("float32")
    exact = tiled((16, 32, 14, 14), 1, 32)[0]
    exact.params.update({name: a.astype("float64") for name, a in layer.params.items()})
    expected = train(exact, x.astype("float64"), dy.astype("float64"))
    for name, a in train(layer, x, dy).items():
        assert_close(a, expected[name], 1e-6, name)


@pytest.mark.parametrize("limit", [1, 3000, 1 << 20])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "options",
    [{"stride": 2, "groups": 2}, {"dilation": 2, "padding": 1}, {"padding": (0, 7)}, {}],
)
def test_numpy_gives_what_the_portable_body_gives(options, bias, limit, monkeypatch):
    layer = xl.Convolution.init(4, 6, (2, 3), bias=bias, rng=0, dtype="float64", **options)
    if bias:
        layer.b = values((6,), 5)
    x = values((5, 4, 18, 19))
    monkeypatch.setattr(host, "BLOCK_BYTES", limit)
    monkeypatch.setattr(threads, "SUMS", 2)
    grads = host.filter_gradient(
        x, layer(x), layer.W.shape, layer._window, layer.groups, bias=False
    )
    assert grads is not NotImplemented
    own = train(layer, x)
    portably(monkeypatch)
    for name, a in train(layer, x).items():
        assert_close(own[name], a, 1e-13, name)


def test_transposed_convolutions_are_convolutions(monkeypatch):
    layer = xl.ConvolutionTranspose(values((4, 2, 3, 2)), values((2,), 1), padding=1)
    own = train(layer, values((3, 4, 9, 10)))
    portably(monkeypatch)
    for name, a in train(layer, values((3, 4, 9, 10))).items():
        assert_close(own[name], a, 1e-13, name)


@pytest.mark.parametrize("make", [lambda: tiled((32, 16, 8, 8), 1), lambda: (
    xl.Convolution.init(1, 4, 5, padding="same", rng=0), values((64, 1, 12, 12)).astype("float32")
)])  # fmt: skip
def test_the_number_of_threads_changes_no_bit(make, two_threads, monkeypatch):
    monkeypatch.setattr(host, "BLOCK_BYTES", 30_000)
    monkeypatch.setattr(winograd, "BLOCK_BYTES", 100_000)
    layer, x = make()
    results = []
    for cores in (1, 2):
        monkeypatch.setattr(threads, "usable_cores", lambda cores=cores: cores)
        results += [train(layer, x) for _ in range(3)]
    for other in results[1:]:
        assert_same_arrays(results[0], other)


# 16 bits


@EVERY
def test_16_bits_stay_16_bits(kind, xpv):
    make, shape = LAYERS[kind]
    for dtype in set(xpv.floats) & {"float16", "bfloat16"}:
        x = xpv.asarray(values(shape), dtype)
        exact = train(make(), to_numpy(x).astype("float32"))
        dy = xpv.asarray(to_numpy(exact["y"]), dtype)
        for name, a in train(make(), x, dy).items():
            assert_at_home(a, x)
            assert_close(a, exact[name], 4 * TOLERANCE[dtype], f"{name} in {dtype}")


def test_sums_that_overflow_16_bits(xpv):
    if "float16" not in xpv.floats:
        pytest.skip("no float16 here")
    x = xpv.asarray(np.full((2, 1, 16, 16), 3e4), "float16")
    for layer in (xl.AveragePooling(16), xl.GlobalAveragePooling()):
        y = to_numpy(layer.forward(x))
        assert np.all(y.astype("float32") == np.float32(np.float16(3e4)))
    layer = xl.Convolution.init(1, 1, 1, rng=0)
    layer.forward(x * 0.0)
    layer.backward(xpv.asarray(np.full((2, 1, 16, 16), 100.0), "float16"))
    assert to_numpy(layer.db).item() == 51200.0


# In a network


def test_a_small_network_learns(xpv):
    rng = np.random.default_rng(0)
    t = rng.integers(0, 2, 16)
    x = rng.normal(size=(16, 1, 6, 6)).astype("float32")
    x[t == 1, :, 2:4, :] += 2.0  # a horizontal bar
    x = xpv.asarray(x)
    net = xl.Sequential(
        xl.Convolution.init(1, 4, 3, padding="same", rng=1),
        xl.Relu(),
        xl.MaxPooling(2),
        xl.Convolution.init(4, 4, 2, rng=2),
        xl.Relu(),
        xl.GlobalAveragePooling(),
        xl.Affine.init(4, 2, rng=3),
    )
    step = xl.TrainStep(net, xl.SoftmaxWithLoss(), xl.Adam(lr=0.03))
    t = xpv.asarray(t)
    losses = [float(step(x, t)) for _ in range(25)]
    assert losses[-1] < losses[0] / 4


# Initial values and code


def test_initial_values():
    layer = xl.Convolution.init(8, 64, 5, groups=2, rng=0)
    assert layer.W.shape == (64, 4, 5, 5)
    assert layer.W.std() == pytest.approx(np.sqrt(2 / (4 * 25)), rel=0.05)
    assert not layer.b.any()
    back = xl.ConvolutionTranspose.init(8, 64, 5, rng=0)
    assert back.W.shape == (8, 64, 5, 5)
    assert back.W.std() == pytest.approx(np.sqrt(2 / (8 * 25)), rel=0.05)
    assert xl.Convolution.init(1, 2, (3,), like=np.ones(1)).W.dtype == "float64"
    assert "b" not in xl.Convolution.init(1, 2, (3,), bias=False).params


@pytest.mark.parametrize(
    "code",
    [
        "Convolution.init(3, 16, 3)",
        "Convolution.init(3, 16, (3, 5), stride=2, padding='same', dilation=(1, 2))",
        "Convolution.init(4, 16, (7,), groups=4, bias=False)",
        "ConvolutionTranspose.init(3, 16, 4, stride=(2, 1), padding=1, output_padding=(1, 0))",
        "MaxPooling(size=2)",
        "AveragePooling(size=(3, 2), stride=2, padding=(1, 0))",
        "GlobalAveragePooling()",
    ],
)
def test_repr_says_everything(code):
    if "same" in code:
        code = code.replace("stride=2, ", "")
    assert repr(eval(code, vars(xl).copy())) == code


def test_lists_are_taken_as_tuples():
    layer = xl.Convolution(values((2, 2, 3, 3)), stride=[1, 2], padding=[0, 1])
    assert repr(layer) == "Convolution.init(2, 2, 3, stride=(1, 2), padding=(0, 1), bias=False)"
    assert repr(xl.MaxPooling([2, 3])) == "MaxPooling(size=(2, 3))"


# PyTorch's own


@pytest.mark.only("torch")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", [k for k in LAYERS if "ool" not in k and k != "average"])
def test_convolution_of_torch_is_the_portable_one(kind, dtype, xpv, monkeypatch):
    """For inputs in any order of memory, which stay as they are."""
    make, shape = LAYERS[kind]
    x = xpv.asarray(values(shape), dtype)
    if x.ndim == 4:
        x = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # channels last
    before = x.clone()
    own = train(make(), x)
    assert_same_bits(x, before)
    portably(monkeypatch)
    portable = train(make(), x)
    for name, a in portable.items():
        assert_close(own[name], to_numpy(a), TOLERANCE[dtype], name)
