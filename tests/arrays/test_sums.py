"""Sums of many values of 32 bits: of columns, of channels, and what is computed from them."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import (
    TOLERANCE,
    assert_at_home,
    assert_close,
    assert_same_arrays,
    assert_same_bits,
    values,
)

import xplayers as xl
from xplayers.accelerate.host.sums import PART, rows_added
from xplayers.arrays.products import channel_sums, column_sums
from xplayers.arrays.transfer import to_numpy

SHAPES = [
    (0, 3), (1, 3), (PART, 5), (2 * PART, 5), (2 * PART + 1, 5), (3 * PART - 1, 1), (70_001, 3),
    (70_001, 1), (5, 0), (300, 2, 3), (2 * PART * PART + 77, 2), (4,),
]  # fmt: skip


OWN = pytest.mark.only("numpy", "readonly", "torch", "jax", "cupy")  # others sum as they do


@OWN
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fill", [None, 0.1, 1000.1])
def test_columns(shape, fill, xpv):
    a = 1000.0 + values(shape) if fill is None else np.full(shape, fill)
    most = 4 if xpv.backend == "cupy" else 2  # its threads add up a hundred rows, one by one
    for dtype in xpv.floats:
        x = xpv.asarray(a if "16" not in dtype else a / 1e4, dtype)
        got = column_sums(x)
        assert_at_home(got, x)
        exact = to_numpy(x).astype("float64").sum(axis=0)
        assert_close(got, exact, most * TOLERANCE[dtype])


@OWN
@pytest.mark.parametrize(
    "shape", [(70_001, 2), (300, 3, 7), (128, 4, 6, 5), (2, 3, 80, 90), (0, 2, 3)]
)
def test_channels(shape, xpv):
    for dtype in xpv.floats:
        x = xpv.asarray(values(shape) + 0.5, dtype)
        exact = to_numpy(x).astype("float64").sum(axis=tuple({*range(len(shape))} - {1}))
        got = channel_sums(x)
        assert_at_home(got, x)
        assert_close(got, exact, 3 * TOLERANCE[dtype])


def test_rows_may_lie_as_they_like():
    a = values((400, 6)).astype("float32")
    for lay in (np.asfortranarray, lambda a: a[:, ::-1], lambda a: np.repeat(a, 2, 0)[::2]):
        assert_close(rows_added(lay(a)), lay(a).astype("float64").sum(0), 1e-6)
    out = np.empty(6, "float32")
    assert rows_added(a, out) is out
    assert_same_bits(out, rows_added(a))


def test_a_column_that_is_not_finite_spoils_no_other():
    a = np.ones((1000, 4), "float32")
    a[500, 1], a[3, 2] = np.inf, np.nan
    got = rows_added(a)
    np.testing.assert_equal(got, np.asarray([1000, np.inf, np.nan, 1000], "float32"))


@pytest.mark.only("numpy", "readonly")
class TestGradientsOfBiases:
    """Of 0.1 everywhere: NumPy's sum of a million of them is 100,958."""

    def grads(self, layer, x, shape, xpv):
        layer.forward(x)
        layer.backward(xpv.asarray(np.full(shape, 0.1), "float32"))
        return {name: to_numpy(g).astype("float64") for name, g in layer.grads.items()}

    @pytest.mark.parametrize("n", [1000, 200_000])
    def test_affine(self, n, xpv):
        grads = self.grads(
            xl.Affine.init(1, 3, rng=0), xpv.asarray(np.ones((n, 1)), "float32"), (n, 3), xpv
        )
        assert_close(grads["b"], np.full(3, np.float32(0.1) * float(n)), 1e-6)

    def test_convolutions(self, xpv):
        for layer in (
            xl.Convolution.init(2, 3, 1, rng=0), xl.Convolution.init(2, 3, 3, padding=1, rng=0),
            xl.ConvolutionTranspose.init(2, 3, 1, rng=0),
        ):  # fmt: skip
            shape = (4000, 3, 5, 5)
            x = xpv.asarray(np.ones((4000, 2, 5, 5)), "float32")
            grads = self.grads(layer, x, shape, xpv)
            assert_close(grads["b"], np.full(3, np.float32(0.1) * 100_000.0), 2e-6)

    def test_normalizations(self, xpv):
        n = 50_000
        for layer, shape in (
            (xl.BatchNormalization.init(3), (n, 3)), (xl.LayerNormalization.init(3), (n, 3)),
            (xl.GroupNormalization.init(4, 2), (n, 4, 2)), (xl.RmsNormalization.init(3), (n, 3)),
        ):  # fmt: skip
            x = xpv.asarray(values(shape), "float32")
            grads = self.grads(layer, x, shape, xpv)
            if "beta" in grads:
                count = np.float32(0.1) * float(np.prod(shape) // shape[1])
                assert_close(grads["beta"], np.full(shape[1], count), 1e-6)

    def test_sequences(self, xpv):
        for layer, time in ((xl.Embedding.init(2, 3, rng=0), 1), (xl.Rnn.init(3, 2, rng=0), 5)):
            n = 60_000
            if time == 1:
                x, shape = xpv.asarray(np.zeros((n, 1), "int64")), (n, 1, 3)
                grads = self.grads(layer, x, shape, xpv)
                assert_close(grads["W"], np.outer([1, 0], np.full(3, 0.1 * n)), 5e-6)
        layer = xl.PositionalEmbedding.init(4, 3, rng=0)
        grads = self.grads(layer, xpv.asarray(np.ones((n, 4, 3)), "float32"), (n, 4, 3), xpv)
        assert_close(grads["W"], np.full((4, 3), np.float32(0.1) * float(n)), 1e-6)


@pytest.mark.only("numpy", "readonly")
class TestBatchNormalization:
    @pytest.mark.parametrize("shape", [(65_536, 8), (2000, 3, 4, 5), (40, 3, 40, 40), (7, 3)])
    @pytest.mark.parametrize("far", [0.0, 1000.0, -1e5])
    def test_far_from_zero(self, shape, far, xpv):
        """Both ways, against 64 bits of the same numbers."""
        x = (far + np.random.default_rng(0).random(shape)).astype("float32")
        exact = x.astype("float64")
        axes = tuple({*range(len(shape))} - {1})
        mean, var = exact.mean(axes, keepdims=True), exact.var(axes, keepdims=True)
        layer = xl.BatchNormalization.init(shape[1], momentum=0.0)
        y = layer.forward(xpv.asarray(x))
        assert_close(y, (exact - mean) / np.sqrt(var + 1e-5), 2e-6)
        assert_close(layer.running_mean, mean.ravel(), 1e-6)
        assert_close(layer.running_var, var.ravel(), 2e-6)
        dy = values(shape, 1)
        dx = layer.backward(xpv.asarray(dy, "float32"))
        oracle = xl.BatchNormalization.init(shape[1], dtype="float64")
        oracle.forward(exact)
        assert_close(dx, oracle.backward(dy), 1e-5)

    @pytest.mark.parametrize("shape", [(65_536, 4), (7, 4), (30, 4, 6, 6), (3, 4, 2)])
    def test_constant_columns_are_zero(self, shape, xpv):
        for value in (1000.1, 0.1, -3e7, 1e-30, 0.0):
            layer = xl.BatchNormalization.init(4)
            y = layer.forward(xpv.asarray(np.full(shape, value), "float32"))
            assert np.abs(to_numpy(y)).max() < 1e-6, value

    @pytest.mark.parametrize("shape", [(50, 3), (20, 3, 5, 5)])
    @pytest.mark.parametrize("size", [1e-30, 1e-20, 1e18, 1e20, 1e30, 1e37])
    def test_squares_that_are_no_numbers(self, shape, size, xpv):
        x = values(shape)
        x[:, 1] *= size
        layer = xl.BatchNormalization.init(3)
        oracle = xl.BatchNormalization.init(3, dtype="float64")
        x = x.astype("float32")
        dy = values(shape, 1)
        assert_close(layer.forward(xpv.asarray(x)), oracle.forward(x.astype("float64")), 2e-6)
        dx, want = to_numpy(layer.backward(xpv.asarray(dy, "float32"))), oracle.backward(dy)
        for channel in range(3):
            scale = np.abs(want[:, channel]).max()
            assert_close(dx[:, channel] / scale, want[:, channel] / scale, 1e-5)
        assert not np.isnan(to_numpy(layer.running_var)).any()

    def test_a_channel_that_is_not_finite_spoils_no_other(self, xpv):
        x = values((20, 3)).astype("float32")
        want = to_numpy(xl.BatchNormalization.init(3).forward(x))
        for bad in (np.inf, np.nan):
            x[4, 1] = bad
            with np.errstate(invalid="ignore"):
                got = to_numpy(xl.BatchNormalization.init(3).forward(xpv.asarray(x)))
            assert_close(got[:, ::2], want[:, ::2], 1e-6)

    def test_a_replayed_step_gives_the_same_bits(self, xpv):
        params = []
        for compiled in (False, "auto"):
            net = xl.Sequential(
                xl.Convolution.init(2, 3, 3, rng=0), xl.BatchNormalization.init(3),
                xl.Flatten(), xl.Affine.init(75, 4, rng=0), xl.BatchNormalization.init(4),
            )  # fmt: skip
            step = xl.TrainStep(net, xl.SoftmaxWithLoss(), xl.SGD(lr=0.1), compile=compiled)
            for i in range(5):
                x = values((300, 2, 7, 7), i) + (1000.0 if i > 2 else 0.0)
                step(xpv.asarray(x, "float32"), xpv.asarray(np.arange(300) % 4))
            params.append({**net.params, **net.buffers})
        assert_same_arrays(params[0], params[1])


NORMS = [
    (lambda: xl.LayerNormalization.init(6, dtype="float64"), (4, 6)),
    (lambda: xl.LayerNormalization.init(2, 3, dtype="float64"), (4, 2, 3)),
    (lambda: xl.RmsNormalization.init(6, dtype="float64"), (4, 6)),
    (lambda: xl.GroupNormalization.init(4, 2, dtype="float64"), (3, 4, 3)),
]


@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e-20, 1.0, 1e15, 1e19, 1e20, 1e30, 1e37])
@pytest.mark.parametrize(("make", "shape"), NORMS)
def test_norms_of_squares_that_are_no_numbers(make, shape, size, xpv):
    """Rows of that size beside others, both ways, against 64 bits; without eps they are scaled."""
    for eps in (1e-5, 0.0):
        if eps == 0.0 and size < 1e-36:
            continue  # JAX takes such numbers for 0
        oracle = make()
        oracle.eps = eps
        x, dy = values(shape), values(shape, 1)
        x[1] *= size
        layer = make().to(like=xpv.asarray([0.0], "float32"))
        layer.eps = eps
        there = xpv.asarray(x, "float32")
        y, want = layer.forward(there), oracle.forward(to_numpy(there).astype("float64"))
        assert_close(y, want, 2e-6)
        dx, want = to_numpy(layer.backward(xpv.asarray(dy, "float32"))), oracle.backward(dy)
        for got, row in zip(dx, want, strict=True):
            scale = np.abs(row).max()
            if 1e-36 < scale < 1e36:
                assert_close(got / np.float32(scale), row / scale, 2e-5)


@pytest.mark.parametrize("size", [1.0, 1e15, 1e19, 1e20, 1e25, 1e30])
@pytest.mark.parametrize("shape", [(64, 3), (4, 3, 5), (3, 3, 4, 2)])
def test_a_batch_of_squares_that_are_no_numbers(shape, size, xpv):
    """A channel of that size beside others, both ways, against 64 bits."""
    for eps in (1e-5, 1e-12, 0.0):
        if eps == 1e-12 and size > 1e27 and xpv.backend not in ("numpy", "torch"):
            continue  # beyond what is promised where values are not looked at
        oracle = xl.BatchNormalization.init(3, dtype="float64", eps=eps)
        x, dy = values(shape), values(shape, 1)
        x[:, 1] *= size
        layer = xl.BatchNormalization.init(3, eps=eps).to(like=xpv.asarray([0.0], "float32"))
        there = xpv.asarray(x, "float32")
        with np.errstate(over="ignore"):
            y = layer.forward(there)
        assert_close(y, oracle.forward(to_numpy(there).astype("float64")), 2e-6)
        dx, want = to_numpy(layer.backward(xpv.asarray(dy, "float32"))), oracle.backward(dy)
        for channel in range(3):
            scale = np.abs(want[:, channel]).max()
            assert_close(
                dx[:, channel] / np.float32(scale), want[:, channel] / scale, 2e-5, f"{channel}"
            )
        assert_close(layer.running_mean / size, oracle.running_mean / size, 1e-6)


@pytest.mark.only("numpy", "torch", "jax")
@pytest.mark.parametrize("compile", [False, "auto"])
def test_a_step_on_squares_that_are_no_numbers(compile, xpv):
    x = xpv.asarray(values((16, 4)) * np.asarray([1.0, 1e20, 1e25, 1e-3]), "float32")
    made = []
    for scale in (1.0, 1e-20):
        net = xl.Sequential(xl.BatchNormalization.init(4, eps=1e-12), xl.Affine.init(4, 3, rng=0))
        step = xl.TrainStep(net, xl.SoftmaxWithLoss(), xl.SGD(0.1), compile=compile)
        with np.errstate(over="ignore"):
            batch = x * xpv.asarray([1.0, scale, scale * 1e-4, 1.0], "float32")
            losses = [float(step(batch, xpv.asarray(np.arange(16) % 3))) for _ in range(6)]
        made.append(losses)
    np.testing.assert_allclose(*made, rtol=1e-5)


@pytest.mark.parametrize(("make", "shape"), NORMS)
def test_norms_of_equal_values(make, shape, xpv):
    for value in (1000.1, 0.1, 1.7e-3, -3e-5, -3e7, 1e30):
        layer = make().to(like=xpv.asarray([0.0], "float32"))
        y = to_numpy(layer.forward(xpv.asarray(np.full(shape, value), "float32")))
        if isinstance(layer, xl.RmsNormalization):
            assert_close(y, np.full(shape, value / np.sqrt(value**2 + layer.eps)), 1e-4)
        else:
            assert not y.any()


@pytest.mark.parametrize(("make", "shape"), NORMS)
def test_a_sample_that_is_not_finite_spoils_no_other(make, shape, xpv):
    x = values(shape)
    layer = make().to(like=xpv.asarray([0.0], "float32"))
    want = to_numpy(layer.forward(xpv.asarray(x, "float32")))
    for bad in (np.inf, np.nan):
        x[1].reshape(-1)[2] = bad
        with np.errstate(invalid="ignore"):
            got = to_numpy(layer.forward(xpv.asarray(x, "float32")))
        assert_close(got[::2], want[::2], 1e-6)
