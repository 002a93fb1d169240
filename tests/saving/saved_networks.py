"""Networks and layers that are saved, and what a reader that fails must leave alone."""

from __future__ import annotations

import contextlib

from helpers import assert_same_bits

import xplayers as xl
from xplayers.arrays.transfer import to_numpy


class Holder(xl.Layer):
    """Arrays of any dtype."""

    def __init__(self, **arrays):
        self._variables.buffers.update(arrays)


def network(seed=0):
    return xl.Sequential(
        xl.Affine.init(3, 4, rng=seed), xl.BatchNormalization.init(4), xl.Dropout(0.5), xl.Relu()
    )


@contextlib.contextmanager
def untouched(net):
    """Check that the block leaves the network as it was, and everything in it."""
    before = {name: (a, to_numpy(a).copy()) for name, a in net.arrays.items()}
    materialized = [store.materialized for store in net._all_variables.values()]
    yield
    assert [store.materialized for store in net._all_variables.values()] == materialized
    assert list(net.arrays) == list(before)
    for name, a in net.arrays.items():
        assert a is before[name][0]
        assert_same_bits(a, before[name][1], name)
