"""What is left out is left out whatever its gradient: nothing is multiplied by 0."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import assert_same_arrays, assert_same_bits, portably, values

import xplayers as xl
from xplayers.accelerate.host.elementwise import PLAIN
from xplayers.accelerate.tape import select_into
from xplayers.arrays.elementwise import zero_unless
from xplayers.arrays.transfer import to_numpy

BAD = [math.inf, -math.inf, math.nan]


def spoilt(shape, dtype, seed=0):
    """Gradients, many of which are not finite."""
    dy = values(shape, seed)
    for i, bad in enumerate(BAD):
        dy.reshape(-1)[i::7] = bad
    return dy.astype("float32" if dtype == "bfloat16" else dtype)


@pytest.mark.parametrize("size", [12, PLAIN + 9])
def test_relu(size, xpv):
    for dtype in xpv.floats:
        x, dy = xpv.asarray(values((size,), 1)[None], dtype), spoilt((1, size), dtype)
        relu = xl.Relu()
        y = to_numpy(relu.forward(x))
        dx = to_numpy(relu.backward(xpv.asarray(dy, dtype)))
        there = to_numpy(xpv.asarray(dy, dtype))
        assert_same_bits(dx, np.where(y > 0, there, 0).astype(dx.dtype))


@pytest.mark.parametrize("options", [
    {"size": 2}, {"size": 2, "stride": 1}, {"size": 3, "stride": 2, "padding": 1},
])  # fmt: skip
def test_max_pooling_gives_an_infinite_gradient_to_one_place(options, xpv):
    for dtype in xpv.floats:
        for bad in BAD:
            layer = xl.MaxPooling(**options)
            x = xpv.asarray(values((2, 3, 6, 5), 1), dtype)
            y = layer.forward(x)
            dy = np.zeros(y.shape)
            dy[1, 2, 1, 1], dy[0, 0, 0, 0] = bad, 1.0
            dx = to_numpy(layer.backward(xpv.asarray(dy, dtype)))
            (where,) = np.argwhere(~np.isfinite(dx))
            assert tuple(where[:2]) == (1, 2)
            np.testing.assert_equal(dx[tuple(where)], dx.dtype.type(bad))
            assert to_numpy(x)[tuple(where)] == to_numpy(y)[1, 2, 1, 1]
            assert dx[np.isfinite(dx)].sum() == 1.0


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 6)])
@pytest.mark.parametrize(("size", "stride"), [(2, None), (2, 1), (3, 2)])
def test_padding_never_wins(shape, size, stride, xpv):
    """Not even where all is minus infinity: the first place inside has the gradient."""
    for dtype in xpv.floats:
        layer = xl.MaxPooling(size, stride, padding=1)
        x = np.full(shape, -math.inf)
        y = layer.forward(xpv.asarray(x, dtype))
        assert (to_numpy(y) == -math.inf).all()
        dy = np.ones(y.shape)
        dx = to_numpy(layer.backward(xpv.asarray(dy, dtype)))
        assert dx.sum() == dy.sum()
        assert dx[..., 0].all() if len(shape) == 3 else dx[..., 0, 0].all()
        x[:, 1] = values(shape)[:, 1]
        layer.forward(xpv.asarray(x, dtype))
        mixed = to_numpy(layer.backward(xpv.asarray(dy, dtype)))
        assert_same_bits(mixed[:, ::2], dx[:, ::2])
        assert mixed.sum() == dy.sum()


@pytest.mark.only("torch")
@pytest.mark.parametrize("filled", [-math.inf, 0.0])
def test_ties_are_pytorchs(filled, xpv):
    import torch

    x = torch.full((2, 3, 7, 6), filled, requires_grad=True)
    for size, stride, padding in [(2, 2, 1), (3, 2, 1), (3, 1, 0), (2, 2, 0)]:
        y = torch.nn.functional.max_pool2d(x, size, stride, padding)
        dy = xpv.asarray(values(tuple(y.shape)), "float32")
        layer = xl.MaxPooling(size, stride, padding)
        layer.forward(x.detach())
        (want,) = torch.autograd.grad(y, x, dy)
        np.testing.assert_allclose(layer.backward(dy).numpy(), want.numpy(), 1e-6, 1e-6)


@pytest.mark.parametrize("rows", [3, 512, 513])
@pytest.mark.parametrize("bad", BAD)
def test_one_row_of_an_embedding_spoils_no_other(rows, bad, xpv):
    for dtype in xpv.floats:
        layer = xl.Embedding.init(rows, 4, rng=0, like=xpv.asarray([0.0], dtype))
        index = np.asarray([[0, 1, 2, 1], [2, 0, 2, 1]])
        dy = values((2, 4, 4), 1)
        want = np.zeros((rows, 4))
        np.add.at(want, index, dy)
        layer.forward(xpv.asarray(index))
        dy[0, 1, 2] = bad
        layer.backward(xpv.asarray(dy, dtype))
        got = to_numpy(layer.dW).astype("float64")
        np.testing.assert_equal(got[1, 2], bad)
        got[1, 2] = want[1, 2]
        assert np.max(np.abs(got - want)) < (0.2 if "16" in dtype else 1e-5)


@pytest.mark.parametrize("rows", [10, 513])
def test_bad_rows_of_an_embedding_do_not_mix(rows, xpv):
    """Each has what its own places add up to: inf less inf is NaN there, and nowhere else."""
    inf, nan = math.inf, math.nan
    index = np.asarray([3, 7, 5, 0, 0, 3, 5, 9, 9, 1])
    dy = values((10, 3), 1)
    dy[0, 0], dy[1, 0], dy[2, :], dy[3, 0], dy[4, 0] = inf, nan, [-inf, -inf, inf], inf, -inf
    dy[6, 2], dy[7, 1] = inf, -inf
    for dtype in xpv.floats:
        layer = xl.Embedding.init(rows, 3, rng=0, like=xpv.asarray([0.0], dtype))
        given, want = xpv.asarray(dy, dtype), np.zeros((rows, 3))
        with np.errstate(invalid="ignore"):
            np.add.at(want, index, to_numpy(given).astype("float64"))
        layer.forward(xpv.asarray(index))
        with np.errstate(invalid="ignore"):
            layer.backward(given)
        got = to_numpy(layer.dW).astype("float64")
        np.testing.assert_allclose(got, want, atol=0.05 if "16" in dtype else 1e-6)
        assert np.isnan(want).sum() == 2


@pytest.mark.only("numpy", "torch")
def test_bodies_sum_as_the_portable_one(xpv, monkeypatch):
    layer, index = xl.Embedding.init(5, 3, rng=0), xpv.asarray(np.arange(40) % 5)
    dy = xpv.asarray(values((40, 3)), "float32")
    grads = []
    for names in ((), ("sums_by_index",)):
        if names:
            portably(monkeypatch, *names)
        layer.forward(index)
        layer.backward(dy)
        grads.append(to_numpy(layer.dW).copy())
        layer.zero_grads()
    np.testing.assert_allclose(*grads, 1e-6)


class TestKept:
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble"])
    def test_it_is_where(self, dtype):
        a = np.asarray([1.5, -1.5, -0.0, 0.0, 3.0, 7.0]).astype(dtype)
        if a.dtype.kind == "f":
            a[-3:] = BAD
        for condition in (np.asarray([True, False] * 3), np.asarray([False, True] * 3)):
            assert_same_bits(zero_unless(a, condition, np), np.where(condition, a, 0).astype(dtype))

    def test_arrays_may_lie_as_they_like(self):
        a, condition = spoilt((6, 8), "float32"), values((6, 8), 1) > 0
        for lay in (np.asfortranarray, lambda a: a[::2, ::-1], lambda a: a.T):
            got = zero_unless(lay(a), lay(condition), np)
            np.testing.assert_array_equal(got, np.where(lay(condition), lay(a), 0))
        out = np.empty((8, 6), "float32")
        select_into(condition.T, a.T, out)
        np.testing.assert_array_equal(out, np.where(condition.T, a.T, 0))


@pytest.mark.only("numpy", "torch")
def test_replayed_steps_leave_out_too(xpv):
    """A batch whose gradients are infinite gives the same bits, recorded or not."""
    params = []
    for compiled in (False, "auto"):
        net = xl.Sequential(
            xl.Embedding.init(9, 4, rng=0), xl.Reshape(2, 4, 4), xl.MaxPooling(2, 1, padding=1),
            xl.Relu(), xl.Dropout(0.3), xl.Flatten(), xl.Affine.init(50, 3, rng=1),
        )  # fmt: skip
        step = xl.TrainStep(
            net, xl.MeanSquaredError(reduction="sum"), xl.SGD(lr=0.01), compile=compiled
        )
        with np.errstate(all="ignore"):
            for i in range(6):
                t = values((4, 3), i)
                t[0, 0] = 1e38 if i == 5 else 0.0
                step(xpv.asarray(np.arange(32).reshape(4, 8) % 9), xpv.asarray(t, "float32"))
        params.append(net.params)
    assert_same_arrays(params[0], params[1])
