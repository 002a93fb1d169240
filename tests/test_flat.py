"""Arrays side by side: nobody else's memory is ever taken for a part of them."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from helpers import to_numpy, values

import xplayers as xl
from xplayers import _flat, _memory
from xplayers._flat import flattened, side_by_side, whole


@pytest.fixture(autouse=True)
def only_where_arrays_can_be_written(xpv):
    if xpv.backend not in ("numpy", "torch"):
        pytest.skip("steps are replayed on NumPy and PyTorch")


def parts_of(xpv, *shapes):
    like = xpv.asarray(np.zeros(1), "float32")
    return side_by_side(shapes, like.dtype, like)


def test_parts_are_found_again_by_their_buffer(xpv):
    flat, parts = parts_of(xpv, (3, 5), (7,), (), (16,))
    assert whole(parts).shape == flat.shape
    for i in range(4):
        for j in range(i + 1, 5):
            got = whole(parts[i:j])
            got[...] = i + 1.0
            for k, part in enumerate(parts):
                assert (to_numpy(part) == i + 1.0).all() == (i <= k < j)
            flat[...] = 0.0


def test_other_orders_have_no_buffer(xpv):
    _, parts = parts_of(xpv, (16,), (16,), (16,))
    _, others = parts_of(xpv, (16,), (16,))
    a, b, c = parts
    for some in ([b, a], [a, c], [a, a], [a, b, c, a], [a, others[1]], [a, b, c, others[0]]):
        assert whole(some) is None


def test_views_of_parts_are_no_parts(xpv):
    """What lies between a view and the next line of the cache is the rest of the part."""
    _, (a, b) = parts_of(xpv, (2, 8), (16,))
    for view in (a[0, :], a[:1, :], b[:5], a[:, :3]):
        assert whole([view]) is None


def test_arrays_of_somebody_else_have_no_buffer(xpv):
    mine = xpv.asarray(np.zeros(64), "float32")
    assert whole([mine]) is None
    assert whole([mine[:16], mine[16:32]]) is None
    for a in flattened([mine[:16], mine[16:20]]):
        a[...] = 1.0
    assert not to_numpy(mine).any()


def test_a_buffer_ends_with_its_parts(xpv):
    """Its memory is used again, for arrays of which nothing is known."""
    gc.collect()  # of what other tests have left
    n, before = _memory.SMALLEST // 4, len(_flat._parts)
    _memory.let_go()
    flat, parts = parts_of(xpv, (n - 16,), (5,))
    del flat, parts
    gc.collect()
    assert len(_flat._parts) == before
    mine = _memory.empty((n,), "float32")
    mine = mine if xpv.backend == "numpy" else xpv.asarray(mine)
    assert whole([mine[: n - 16], mine[n - 16 : n - 11]]) is None


def test_an_optimizer_writes_to_its_parameters_alone(xpv):
    """A network whose parameters lie in an array of the user, where a buffer has been before."""
    n = 1 << 18
    x, t = xpv.asarray(values((2, n)), "float32"), xpv.asarray(values((2, 1)), "float32")
    net = xl.Affine.init(n, 1, rng=0)
    step = xl.TrainStep(net, xl.MeanSquaredError(), xl.SGD(lr=1e-6))
    for _ in range(3):
        step(x, t)
    del net, step
    gc.collect()
    mine = _memory.empty((n + 16,), "float32")  # the size of the buffer, and so its memory
    mine = mine if xpv.backend == "numpy" else xpv.asarray(mine)
    mine[...] = 0.0
    net = xl.Affine(mine[:n].reshape(n, 1), mine[n : n + 1])
    step = xl.TrainStep(net, xl.MeanSquaredError(), xl.AdamW(lr=1e-6, weight_decay=0.5))
    mine[n + 1 :] = 3.0  # and there is more after them
    for _ in range(4):
        step(x, t)
    assert (to_numpy(mine)[n + 1 :] == 3.0).all()


def test_parameters_that_are_rows_of_another(xpv):
    """Parameters of one network are views into one of another, which lies in a buffer."""
    x, t = xpv.asarray(values((4, 8)), "float32"), xpv.asarray(values((4, 8), 1), "float32")
    net = xl.Affine.init(8, 8, rng=0)
    step = xl.TrainStep(net, xl.MeanSquaredError(), xl.Adam(lr=0.1))
    for _ in range(3):
        step(x, t)
    W = to_numpy(net.W).copy()
    other = xl.Sequential(*[xl.RmsNormalization(net.W[i, :]) for i in (0, 2)])
    step = xl.TrainStep(other, xl.MeanSquaredError(), xl.AdamW(lr=0.1, weight_decay=0.5))
    for _ in range(4):
        step(x, t)
    assert (to_numpy(net.W)[1::2] == W[1::2]).all()
