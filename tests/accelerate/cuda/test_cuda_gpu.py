"""Kernels of our own on CuPy arrays: ``pytest --xp=cupy``, on a GPU or with ``--emulated-gpu``.

They are compiled by CuPy and launched, and compared with NumPy and with the portable code.
"""

from __future__ import annotations

import numpy as np
import pytest
from cuda_cases import CASES
from helpers import TOLERANCE, assert_close, assert_same_bits, values

import xplayers as xl
from xplayers.accelerate.cuda import kernels, pooling, sums
from xplayers.arrays.products import column_sums
from xplayers.arrays.transfer import to_numpy
from xplayers.cuda import fused
from xplayers.training.precision import all_finite

pytestmark = pytest.mark.only("cupy")


@pytest.fixture
def launches(monkeypatch):
    """Return the list of launches, which the test fills."""
    seen = []
    call = kernels.Launcher.__call__

    def counted(self, *args):
        seen.append(args)
        call(self, *args)

    monkeypatch.setattr(kernels.Launcher, "__call__", counted)
    return seen


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("case", [c for c in CASES if "i" not in c.operands], ids=repr)
def test_functions(case, dtype, xpv, launches):
    operands = case.values(100_003, dtype)
    there = [xpv.asarray(a) if isinstance(a, np.ndarray) else a for a in operands]
    with fused():
        got = case.function(*there, **case.options)
    assert len(launches) == 1
    exact = [a.astype("float64") if getattr(a, "dtype", None) == dtype else a for a in operands]
    with np.errstate(all="ignore"):
        want = case.pure(np, *exact)
    for y, w in zip(*(r if isinstance(r, tuple) else (r,) for r in (got, want)), strict=True):
        tolerance = max(TOLERANCE[dtype], TOLERANCE.get(str(y.dtype), 0.0))
        assert_close(y, np.broadcast_to(w, y.shape), tolerance)


def test_dropout(xpv, launches):
    x = values((300, 41)).astype("float32")
    layer = xl.Dropout(0.3, seed=5)
    count = np.asarray([11], "int32")
    with fused():
        y, (keep,) = layer.apply({"count": xpv.asarray(count)}, xpv.asarray(x))
    assert len(launches) == 1
    want, (mask,) = layer.apply({"count": count}, x)
    assert_same_bits(to_numpy(keep), mask)
    assert_close(y, want, TOLERANCE["float32"])


@pytest.mark.parametrize("classes", [10, 1024, 5000])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_softmax_with_loss(classes, dtype, xpv, launches):
    scores, labels = values((33, classes)).astype(dtype), np.arange(33) % classes
    loss = xl.SoftmaxWithLoss()
    with fused():
        value = loss.forward(xpv.asarray(scores), xpv.asarray(labels))
        dx = loss.backward()
    assert len(launches) == (3 if dtype == "float16" else 2)  # that is rounded by itself
    want = loss.forward(scores.astype("float64"), labels)
    assert_close(value, want, min(TOLERANCE[dtype], 1e-6))
    assert_close(dx, loss.backward(), TOLERANCE[dtype])


POOLINGS = [
    (xl.MaxPooling(2), (4, 8, 9, 7)),
    (xl.MaxPooling(3, 2, 1), (4, 33, 9, 7)),
    (xl.MaxPooling((3, 2, 2), 1, (1, 0, 1)), (2, 3, 5, 6, 4)),
    (xl.AveragePooling(2), (4, 8, 30)),
    (xl.AveragePooling(3, 2, 1), (4, 33, 9, 7)),
    (xl.GlobalAveragePooling(), (4, 33, 9, 7)),
    (xl.GlobalAveragePooling(), (4, 5, 40, 30)),
]


@pytest.mark.parametrize("last", [False, True], ids=["rows", "channels last"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("layer", "shape"), POOLINGS, ids=str)
def test_pooling(layer, shape, dtype, last, xpv, launches):
    """Of values with ties; gradients come by rows."""
    x = np.round(values(shape)).astype(dtype)
    want, cache = layer.apply({}, x.astype("float64"))
    dy = values(want.shape, 1).astype(dtype)
    want_dx, _ = layer.vjp(cache, dy.astype("float64"))
    there = xpv.asarray(x)
    if last:
        there = kernels.laid(there, "channels last")
    with fused():
        y, cache = layer.apply({}, there)
        dx, _ = layer.vjp(cache, xpv.asarray(dy))
    assert len(launches) == 2
    assert kernels.layout(dx) == kernels.layout(there)
    assert_close(y, want, TOLERANCE[dtype])
    assert_close(dx, want_dx, TOLERANCE[dtype])


def test_indices_of_64_bits(xpv, launches, monkeypatch):
    monkeypatch.setattr(pooling, "_SHORT", 0)
    layer, x = xl.MaxPooling(3, 2, 1), np.round(values((2, 3, 9, 7))).astype("float32")
    want, cache = layer.apply({}, x)
    dy = values(want.shape, 1).astype("float32")
    want_dx, _ = layer.vjp(cache, dy)
    with fused():
        y, cache = layer.apply({}, xpv.asarray(x))
        dx, _ = layer.vjp(cache, xpv.asarray(dy))
    assert len(launches) == 2
    assert_same_bits(to_numpy(y), want)
    assert_close(dx, want_dx, TOLERANCE["float32"])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_gradients_that_are_not_finite(dtype, xpv, launches):
    host = [values((300, 70)).astype(dtype), values((41,)).astype(dtype)]
    for bad in (None, (0, (299, 69)), (1, (40,))):
        grads = [a.copy() for a in host]
        if bad is not None:
            grads[bad[0]][bad[1]] = np.inf
        with fused():
            good = all_finite([xpv.asarray(g) for g in grads])
        assert bool(good) is (bad is None)
    assert len(launches) == 3


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 1), (129, 7), (1031, 33), (700, 40), (30_000, 32)])
def test_sums_of_columns(shape, dtype, xpv, launches):
    a = values(shape).astype(dtype)
    there = xpv.asarray(a)
    with fused():
        got, again = column_sums(there), column_sums(there)
    assert 2 <= len(launches) <= 4
    assert_close(got, a.astype("float64").sum(axis=0), TOLERANCE[dtype])
    assert_same_bits(to_numpy(got), to_numpy(again))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (40, 32, 30, 31)])
def test_gradient_of_relu_with_its_sums(shape, dtype, xpv, launches):
    y, dy = np.maximum(values(shape), 0).astype(dtype), values(shape, 1).astype(dtype)
    with fused():
        dx, db = sums.relu_grads(xpv.asarray(dy), kernels.laid(xpv.asarray(y), "channels last"))
    assert len(launches) == (2 if shape[0] == 40 else 1)
    assert_same_bits(to_numpy(dx), np.where(y > 0, dy, np.zeros_like(dy)))
    exact = (dy * (y > 0)).astype("float64")
    assert_close(db, exact.sum(axis=(0, 2, 3)), 5 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_clipping(dtype, xpv, launches):
    grads = {str(i): values(s, i).astype(dtype) for i, s in enumerate([(3000, 70), (41,), (5, 6)])}
    want = xl.clip_by_norm({name: g.astype("float64") for name, g in grads.items()}, 3.0)
    with fused():
        got = xl.clip_by_norm({name: xpv.asarray(g) for name, g in grads.items()}, 3.0)
    if dtype != "float64":  # whose squares may overflow, so they are CuPy's
        assert len(launches) == 4
    for name, g in want.items():
        assert_close(got[name], g, TOLERANCE[dtype], name)


def test_training_is_that_of_the_portable_code(xpv, launches):
    """Ten steps; parameters differ by rounding alone."""

    def trained():
        net = xl.Sequential(
            xl.Affine.init(20, 64, rng=0), xl.Gelu(), xl.Dropout(0.2), xl.Affine.init(64, 10, rng=1)
        )
        step = xl.TrainStep(net, xl.SoftmaxWithLoss(), xl.Adam())
        for k in range(10):
            x, t = values((32, 20), k).astype("float32"), np.arange(32) % 10
            step(xpv.asarray(x), xpv.asarray(t))
        return net.params

    want = {name: to_numpy(p) for name, p in trained().items()}
    assert not launches
    with fused():
        got = trained()
    # Two for Gelu, two for Dropout, one for each bias, two for the loss, three for the optimizer.
    assert len(launches) == 10 * 11
    for name, p in got.items():
        assert_close(p, want[name], 1e-4, name)


@pytest.fixture
def library():
    """Return the class `Cudnn`, where there is cuDNN."""
    pytest.importorskip("cudnn")
    from xplayers.accelerate.cuda.cudnn import Cudnn

    return Cudnn


@pytest.fixture
def dnn(library):
    """Return a `Cudnn` that has to have a plan for everything.

    But for convolutions and what follows them in strict float32, which tensor cores do not compute.
    """
    made = library()
    with made.layers():
        yield made
    for key, plan in made.plans.items():
        strict = key.after and key.inputs[0].dtype == "float32"
        assert plan or strict, f"cuDNN has no algorithm for {key}"
    made.close()


def assert_as_portable(layer, x, dtype, xpv, dnn, plans=None):
    """Assert that a pass is that of the portable body in float64; return its cache."""
    host = {k: a.astype(dtype) for k, a in layer.params.items()}
    x = x.astype(dtype)
    want, cache = layer.apply(
        {k: a.astype("float64") for k, a in host.items()}, x.astype("float64")
    )
    dy = values(want.shape, 1).astype(dtype)
    dx, grads = layer.vjp(cache, dy.astype("float64"))
    before = len(dnn.plans)
    y, there = layer.apply({k: xpv.asarray(a) for k, a in host.items()}, xpv.asarray(x))
    got_dx, got = layer.vjp(there, xpv.asarray(dy))
    assert plans in (None, len(dnn.plans) - before)
    pairs = [(got[name], right) for name, right in grads.items()]
    for a, right in ((y, want), (got_dx, dx), *pairs):
        assert_close(a, right, TOLERANCE[dtype])
    return there


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_convolutions_through_cudnn(dtype, xpv, dnn):
    """Those of the emulated library's test, and what the portable body gives for them."""
    for layer, shape in (
        (xl.Convolution.init(8, 16, 3, padding=1, rng=0), (4, 8, 9, 7)),
        (xl.Convolution.init(8, 16, 3, stride=2, padding=1, groups=2, rng=0), (4, 8, 9, 7)),
        (xl.Convolution.init(8, 16, (3,), dilation=2, rng=0), (4, 8, 20)),
        (xl.ConvolutionTranspose.init(8, 16, 4, stride=2, padding=1, rng=0), (4, 8, 5, 6)),
    ):
        assert_as_portable(layer, values(shape), dtype, xpv, dnn, plans=3)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_convolutions_and_relu_as_one(dtype, xpv, dnn, launches):
    for bias in (True, False):
        net = xl.Sequential(xl.Convolution.init(8, 16, 3, padding=1, bias=bias, rng=0), xl.Relu())
        with fused():
            assert_as_portable(net, values((4, 8, 9, 7)), dtype, xpv, dnn)
    if all(dnn.plans.values()):
        assert len(launches) == 2  # of backward, with or without sums
    x = values((4, 8, 9, 7)).astype(dtype)
    x[1, 2, 3, 4] = np.nan
    y = to_numpy(net.to(like=xpv.asarray(x)).predict(xpv.asarray(x)))
    assert np.isnan(y[1, :, 2:5, 3:6]).all()
    assert not np.isnan(y[0]).any()  # Winograd's tiles may spread it over an image


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_normalizations_through_cudnn(dtype, xpv, dnn):
    for layer, shape in (
        (xl.BatchNormalization.init(8), (16, 8)),
        (xl.BatchNormalization.init(8, eps=1e-2), (4, 8, 20)),
        (xl.BatchNormalization.init(16), (4, 16, 9, 7)),
        (xl.BatchNormalization.init(8), (2, 8, 3, 4, 5)),
        (xl.LayerNormalization.init(33), (6, 33)),
        (xl.LayerNormalization.init(64, eps=1e-2), (4, 9, 64)),
        (xl.LayerNormalization.init(4, 5), (3, 2, 4, 5)),
        (xl.RmsNormalization.init(64), (4, 9, 64)),
    ):
        assert_as_portable(layer, 1.0 + values(shape), dtype, xpv, dnn, plans=2)


def test_running_statistics_through_cudnn(xpv, dnn):
    """Of a batch whose mean is large, too: a sum of squares would have no digit left."""
    for mean, tolerance in ((0.0, 1e-5), (1000.0, 1e-3)):
        layer, x = xl.BatchNormalization.init(8), mean + values((16, 8, 9, 7))
        x = x.astype("float32")
        layer.forward(xpv.asarray(x))
        exact = x.astype("float64")
        axes = (0, 2, 3)
        assert_close(layer.running_mean, 0.1 * exact.mean(axis=axes), 1e-5)
        assert_close(layer.running_var, 0.9 + 0.1 * exact.var(axis=axes), tolerance)
    assert dnn.plans


def test_what_cudnn_has_not_is_portable(xpv, library):
    """Channels that are not a multiple of 16 bytes."""
    dnn, layer, x = library(), xl.BatchNormalization.init(3), values((4, 3, 5, 5))
    with dnn.layers():
        y = layer.forward(xpv.asarray(x.astype("float32")))
        dx = layer.backward(xpv.asarray(values(x.shape, 1).astype("float32")))
    host = xl.BatchNormalization.init(3, dtype="float64")
    assert_close(y, host.forward(x), 1e-5)
    assert_close(dx, host.backward(values(x.shape, 1)), 1e-5)
    assert list(dnn.plans.values()) == [None]
    dnn.close()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_affine_maps_and_activations_as_products_alone(dtype, xpv):
    """With the epilogues of cuBLASLt, against NumPy in float64."""
    pytest.importorskip("nvmath")
    from xplayers.accelerate.cuda.gemm import Gemm

    net = xl.Sequential(
        xl.Affine.init(64, 48, rng=0), xl.Relu(), xl.Affine.init(48, 40, rng=1), xl.Gelu(),
        xl.Affine.init(40, 16, rng=2),
    )  # fmt: skip
    host = {name: a.astype(dtype) for name, a in net.arrays.items()}
    x, dy = values((32, 64)).astype(dtype), values((32, 16), 1).astype(dtype)
    wide = {name: a.astype("float64") for name, a in host.items()}
    want, cache = net.apply(wide, x.astype("float64"))
    dx, grads = net.vjp(cache, dy.astype("float64"))
    gemm = Gemm()
    with gemm.products():
        y, kept = net.apply({k: xpv.asarray(a) for k, a in host.items()}, xpv.asarray(x))
        got_dx, got = net.vjp(kept, xpv.asarray(dy))
    found = {key.epilogue for key in gemm.plans}
    for a, right in ((y, want), (got_dx, dx), *((got[name], g) for name, g in grads.items())):
        assert_close(a, right, TOLERANCE[dtype])
    assert found >= {"relu_aux_bias", "gelu_aux_bias", "drelu_bgrad", "dgelu_bgrad", "bgradb"}
    gemm.close()
