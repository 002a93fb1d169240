"""New values in the arrays that are there, which may be each other's old values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers import assert_same_bits, to_numpy, values

import xplayers as xl
from xplayers.arrays.writing import owner, write_over, written


def pair(xpv):
    return [xpv.asarray(values((2, 3), seed), "float32") for seed in (1, 2)]


@pytest.mark.only("numpy", "strict", "torch")
def test_old_values_may_be_new_ones_of_others(xpv):
    a, b = pair(xpv)
    before = [to_numpy(a).copy(), to_numpy(b).copy()]
    found = written({"a": a, "b": b}, {"a": b, "b": a})
    assert found["a"] is a
    assert found["b"] is b
    assert_same_bits(a, before[1])
    assert_same_bits(b, before[0])
    if xpv.backend != "strict":
        write_over([(a, b[::-1] if xpv.backend == "numpy" else b.flip(0)), (b, a)])
        assert_same_bits(a, before[0][::-1])
        assert_same_bits(b, before[1])


def test_what_cannot_be_written_is_replaced(xpv):
    a, b = pair(xpv)
    found = written({"a": a, "b": b}, {"a": a, "b": a})
    assert found["a"] is a
    assert_same_bits(found["b"], a)
    assert (found["b"] is b) == (xpv.backend not in ("jax", "readonly"))


class Swap(xl.SGD):
    """Lets two parameters take each other's values."""

    def step(self, params, grads, state, **options):
        new, state = super().step(params, grads, state, **options)
        return {**new, "0.b": params["1.b"], "1.b": params["0.b"]}, state


@pytest.mark.only("numpy", "torch")
@pytest.mark.parametrize("compile", ["auto", False, "update"])
def test_an_optimizer_that_swaps(xpv, compile):
    net = xl.Sequential(xl.Affine.init(3, 3, rng=0), xl.Affine.init(3, 3, rng=1))
    x, loss, optimizer = xpv.asarray(values((2, 3)), "float32"), xl.MeanSquaredError(), Swap(lr=0.0)
    net.to(like=x)
    first, second = (xpv.asarray(values((3,), seed), "float32") for seed in (1, 2))
    net.params["0.b"], net.params["1.b"] = first, second
    before = [to_numpy(first).copy(), to_numpy(second).copy()]
    step = xl.TrainStep(net, loss, optimizer, compile=compile == "auto" and "auto")
    for i in range(1, 5):
        if compile == "update":
            loss.forward(net.forward(x), x)
            net.backward(loss.backward())
            optimizer.update(net.params, net.grads)
        else:
            step(x, x)
        assert_same_bits(net.params["0.b"], before[i % 2], f"step {i}")
        assert_same_bits(net.params["1.b"], before[1 - i % 2], f"step {i}")
    if compile != "auto":
        assert net.params["0.b"] is first
        assert np.any(to_numpy(first) == before[0])


@pytest.mark.only("numpy", "readonly", "torch")
def test_memory_has_an_owner(xpv):
    a, b = (xpv.asarray(values((4,), i), "float32") for i in range(2))
    views = (a, a[1:], xl.namespace(a).reshape(a, (2, 2)), a[:2][1:])
    if xpv.backend == "torch":
        assert len({owner(v) for v in views}) == 1
    for v, w in itertools.product(views[1:], views[1:]):
        assert owner(v) == owner(w)
    assert owner(b) != owner(a)
    assert owner(b) != owner(a[1:])
