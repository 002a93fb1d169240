"""Kernels of dropout: the masks and the bits of the portable body."""

import numpy as np
import pytest
from helpers import assert_same_bits

import xplayers as xl
from xplayers.accelerate.host import dropout as bodies
from xplayers.arrays.operation import portable_body
from xplayers.layers.dropout import drop, masked

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("for_all_sizes")]


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0 - 2.0**-24, 1.0])
@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 3, 1000), (70_001,)])
@pytest.mark.parametrize(("count", "seed"), [(0, 0), (7, -3), (-1, 2**40 + 5)])
def test_dropout(shape, rate, count, seed):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    x.reshape(-1)[:1] = [-np.inf]
    scale = 0.0 if rate == 1.0 else 1.0 / (1.0 - rate)
    arguments = np.asarray([count], np.int32), seed, rate, scale
    with np.errstate(all="ignore"):
        for a, b in zip(drop(x, *arguments), portable_body(drop)(x, *arguments), strict=True):
            assert_same_bits(a, b)
        keep = drop(x, *arguments)[1]
        assert_same_bits(masked(x, keep, scale), portable_body(masked)(x, keep, scale))


def test_any_layout_and_other_dtypes():
    x = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    layer = xl.Dropout(0.3)
    y, (keep,) = layer.apply(layer.buffers, x)
    for other in (np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2]):
        other.flags.writeable = False
        z, (mask,) = layer.apply(layer.buffers, other)
        assert_same_bits(z, y)
        assert_same_bits(mask, keep)
        assert_same_bits(masked(other, np.asfortranarray(keep), 2.0), masked(x, keep, 2.0))
    for dtype in ("float16", "float64"):
        z, (mask,) = layer.apply(layer.buffers, x.astype(dtype))
        assert z.dtype == dtype
        assert_same_bits(mask, keep)
    assert bodies.masked(x, keep[:1], 2.0) is NotImplemented
    assert bodies.masked(x[:0], keep[:0], 2.0) is NotImplemented
