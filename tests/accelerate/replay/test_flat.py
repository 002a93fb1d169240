"""Arrays side by side: nobody else's memory is ever taken for a part of them."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from helpers import to_numpy, values

import xplayers as xl
from xplayers.accelerate.host import memory
from xplayers.accelerate.replay import flat as flat_buffers
from xplayers.accelerate.replay.flat import buffer_of, flattened, side_by_side


@pytest.fixture(autouse=True)
def only_where_arrays_can_be_written(xpv):
    if xpv.backend not in ("numpy", "torch"):
        pytest.skip("steps are replayed on NumPy and PyTorch")


def parts_of(xpv, *shapes):
    like = xpv.asarray(np.zeros(1), "float32")
    return side_by_side(shapes, like.dtype, like)


def test_parts_are_found_again_by_their_buffer(xpv):
    flat, parts = parts_of(xpv, (3, 5), (7,), (), (16,))
    assert buffer_of(parts).shape == flat.shape
    for i in range(4):
        for j in range(i + 1, 5):
            got = buffer_of(parts[i:j])
            got[...] = i + 1.0
            for k, part in enumerate(parts):
                assert (to_numpy(part) == i + 1.0).all() == (i <= k < j)
            flat[...] = 0.0


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_parts_begin_at_lines_of_the_cache(dtype, xpv):
    like = xpv.asarray(np.zeros(1), dtype)
    line = memory.LINE // like.dtype.itemsize
    shapes = ((3,), (2, line), (), (line,), (0,), (line - 1, 1))
    flat, parts = side_by_side(shapes, like.dtype, like)
    assert [tuple(a.shape) for a in parts] == list(shapes)
    assert (tuple(flat.shape), flat.dtype) == ((6 * line,), like.dtype)
    assert not to_numpy(flat).any()
    starts = [0, 1, 3, 4, 5]
    parts = parts[:4] + parts[5:]  # but for the one without elements
    at = flat_buffers.address(flat[1:])[1] - like.dtype.itemsize
    for part, start in zip(parts, starts, strict=True):
        assert flat_buffers.address(part)[1] - at == start * memory.LINE
        part[...] = start + 1.0
        assert (to_numpy(flat)[start * line] == start + 1.0).all()
    assert buffer_of(parts[1:3]).shape == (3 * line,)
    assert flat_buffers.address(buffer_of(parts[1:3])) == flat_buffers.address(parts[1])


@pytest.mark.only("numpy")
def test_a_large_buffer_begins_at_a_line(xpv):
    flat, _ = parts_of(xpv, (memory.SMALLEST,))
    assert flat.ctypes.data % memory.LINE == 0


def test_memory_has_an_address(xpv):
    """What owns it, and where it begins."""
    a, b = (xpv.asarray(values((4, 3), i), "float32") for i in range(2))
    at = [flat_buffers.address(x) for x in (a[:2], a[1:], a[1:][:1], b[1:])]
    assert at[1][0] == at[2][0] or xpv.backend == "numpy"  # of which a view may own a view
    assert [at[1][1] - at[0][1], at[2][1] - at[1][1]] == [12, 0]
    assert at[3][0] not in (at[0][0], at[1][0])
    for x in (a.T, a[:, 1:], 3.0):
        assert flat_buffers.address(x) is None
    assert flat_buffers.address(np.ones(3)) is None  # it owns itself, and is no part of anything


def test_arrays_are_put_side_by_side_once(xpv):
    some = [xpv.asarray(values(s, i), "float32") for i, s in enumerate(((4, 3), (5,)))]
    parts = flattened(some)
    for a, b in zip(parts, some, strict=True):
        assert a is not b
        assert (to_numpy(a) == to_numpy(b)).all()
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert buffer_of(parts) is not None
    again = flattened(parts)
    assert again is not parts
    assert [a is b for a, b in zip(again, parts, strict=True)] == [True, True]


def test_the_arrays_of_each_dtype_lie_together(xpv):
    xp = xl.namespace(xpv.asarray([1.0]))
    single = [xpv.asarray(values(s, i), "float32") for i, s in enumerate(((4, 3), (5,)))]
    double = [xpv.asarray(values((3,), i), "float64") for i in range(2)]
    turned = xp.permute_dims(xpv.asarray(values((4, 3)), "float32"), (1, 0))
    arrays = {"a": single[0], "b": double[0], "c": turned, "d": single[1], "e": double[1]}
    if xpv.backend == "torch":
        arrays["f"] = xpv.asarray(values((5,)), "float32")[1:]  # not where vectors begin
    before = dict(arrays)
    flat_buffers.lay_flat(arrays)
    assert list(arrays) == list(before)
    for name, a in arrays.items():
        assert (to_numpy(a) == to_numpy(before[name])).all()
        assert (a is before[name]) == (name in "cf")
    assert buffer_of([arrays[n] for n in "ad"]) is not None
    assert buffer_of([arrays[n] for n in "be"]) is not None


def test_other_orders_have_no_buffer(xpv):
    _, parts = parts_of(xpv, (16,), (16,), (16,))
    _, others = parts_of(xpv, (16,), (16,))
    a, b, c = parts
    for some in ([b, a], [a, c], [a, a], [a, b, c, a], [a, others[1]], [a, b, c, others[0]]):
        assert buffer_of(some) is None


def test_views_of_parts_are_no_parts(xpv):
    """What lies between a view and the next line of the cache is the rest of the part."""
    _, (a, b) = parts_of(xpv, (2, 8), (16,))
    for view in (a[0, :], a[:1, :], b[:5], a[:, :3]):
        assert buffer_of([view]) is None


def test_arrays_of_somebody_else_have_no_buffer(xpv):
    mine = xpv.asarray(np.zeros(64), "float32")
    assert buffer_of([mine]) is None
    assert buffer_of([mine[:16], mine[16:32]]) is None
    for a in flattened([mine[:16], mine[16:20]]):
        a[...] = 1.0
    assert not to_numpy(mine).any()


def test_a_buffer_ends_with_its_parts(xpv):
    """Its memory is used again, for arrays of which nothing is known."""
    gc.collect()  # of what other tests have left
    n, before = memory.SMALLEST // 4, len(flat_buffers._parts)
    memory.let_go()
    flat, parts = parts_of(xpv, (n - 16,), (5,))
    del flat, parts
    gc.collect()
    assert len(flat_buffers._parts) == before
    mine = memory.empty((n,), "float32")
    mine = mine if xpv.backend == "numpy" else xpv.asarray(mine)
    assert buffer_of([mine[: n - 16], mine[n - 16 : n - 11]]) is None


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
    mine = memory.empty((n + 16,), "float32")  # the size of the buffer, and so its memory
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
