"""Batches and networks whose steps are replayed, and the comparison with steps that are not."""

from typing import Any

import numpy as np
from helpers import assert_same_arrays, assert_same_bits, taker, values

import xplayers as xl
from xplayers import TrainStep


def images(n):
    return values((n, 2, 8, 8)).astype("float32")


def vectors(n):
    return values((n, 6)).astype("float32")


def sequences(n):
    return values((n, 5, 6)).astype("float32")


def words(n):
    return np.arange(n * 5).reshape(n, 5) * 7 % 11


def labels(n):
    return np.arange(n) % 3


def dense(n):
    return np.eye(3, dtype="float32")[labels(n)]


def each_word(n):
    return words(n) % 3


def mlp(*between):
    return xl.Sequential(xl.Affine.init(6, 5, rng=0), *between, xl.Affine.init(5, 3, rng=1))


def pair(
    net, optimizer: Any = xl.Adam, loss: Any = xl.SoftmaxWithLoss, make: Any = TrainStep, **options
):
    """Return a step that is replayed, and one that is not."""
    return [
        make(net(), loss(), optimizer(), compile=how, **options) for how in ("auto", False)
    ]  # fmt: skip


def compare(xpv, steps, x, t, sizes=(4, 4, 4, 3, 3, 4, 3), kinds=2):
    for n in sizes:
        a, b = (step(xpv.asarray(x(n)), xpv.asarray(t(n))) for step in steps)
        assert_same_bits(a, b, "loss")
    arrays = [step.net.arrays for step in steps]
    assert_same_arrays(arrays[0], arrays[1])
    assert len(taker(steps[0]).replays.replays) == kinds
