"""Layers and optimizers that people write, in steps that are replayed."""

from typing import Any

import numpy as np
import pytest
from helpers import assert_same_arrays, assert_same_bits
from replayed import labels, mlp, pair, vectors

import xplayers as xl

pytestmark = pytest.mark.only("numpy", "readonly", "torch")  # whose steps are replayed


class Custom(xl.Layer):
    def __init__(self, function):
        self.function = function

    def apply(self, arrays, x):
        return self.function(xl.namespace(x), x), ()

    def vjp(self, cache, dy):
        return dy, {}


def clipped_in_place(xp, x):
    y = x * 2.0
    xp.minimum(y, xp.ones_like(y), out=y)
    return y


def into_its_own(xp, x):
    y = xp.ones_like(xp.asarray(np.ones(x.shape, "float32")))
    y += x
    return y


def another_name(xp, x):
    y = xp.zeros(x.shape, dtype=xp.float32)
    z = y
    y += x
    return z + y


def a_constant_that_changes(xp, x):
    e, y = xp.zeros(x.shape[-1], dtype=xp.float32), x * 0.0
    for i in range(x.shape[-1]):
        e[:] = 0.0
        e[i] = i + 1.0
        y = y + x * e
    return y


def a_named_tuple(xp, x):
    q, _ = xp.linalg.qr(x[:2, :2])
    return x * q[0, 0]


def broadcast_index(xp, x):
    index = xp.asarray(np.asarray([[1, 0, 1, 0, 1]]))
    return xp.take_along_axis(x, xp.broadcast_to(index, x.shape), axis=-1)


def powers(xp, x):
    return (x * x + 1.0) ** 0.5 + (x * x + 1.0) ** -1


def product_in_its_place(xp, x):
    """Where PyTorch has no operator in place: there the name gets a new value."""
    y = x * 1.0
    y @= xp.ones((x.shape[-1], x.shape[-1]), dtype=xp.float32)
    return y


def item_before_and_after(xp, x):
    s = xp.sum(x, axis=None) * 1.0
    y = x * 2.0
    y[0, :] = 0.5
    return y + s


def by_a_mask(xp, x):
    y = x * 2.0
    y[y < 0] = 0.5
    return y


LAYERS = [
    clipped_in_place, into_its_own, another_name, a_constant_that_changes, a_named_tuple,
    broadcast_index, powers, product_in_its_place, item_before_and_after, by_a_mask,
]  # fmt: skip


@pytest.mark.parametrize("function", LAYERS, ids=lambda f: f.__name__)
def test_layers_of_ones_own(function, xpv):
    steps = pair(lambda: mlp(Custom(function)))
    for n in (4, 4, 4, 4):
        a, b = (step(xpv.asarray(vectors(n)), xpv.asarray(labels(n))) for step in steps)
        assert_same_bits(a, b, "loss")
    assert_same_arrays(steps[0].net.params, steps[1].net.params)


class WithNorm(xl.Adam):
    """An optimizer that looks at a value when it has changed the parameters."""

    def step(self, params, grads, state, **options):
        new, state = super().step(params, grads, state, **options)
        self.norm = float(sum(xl.namespace(p).sum(p * p) for p in new.values()))
        return new, state


class InPlace(xl.SGD):
    """An optimizer that writes to the parameters itself."""

    def __init__(self, lr=0.1):
        super().__init__(lr)
        self.skipped = ["3.b"]  # no key of a dict

    def step(self, params, grads, state, *, lr: Any = None, donate: bool = False) -> Any:
        for name, p in params.items():
            if name not in self.skipped:
                p -= 0.1 * grads[name]
        return params, {"count": state["count"] + 1}


class WithPrevious(xl.SGD):
    def init(self, params):
        return {**super().init(params), "old": {k: p * 1.0 for k, p in params.items()}}

    def step(self, params, grads, state, **options):
        new, after = super().step(params, grads, {"count": state["count"]}, **options)
        return new, {**after, "old": {k: p * 1.0 for k, p in params.items()}}


@pytest.mark.parametrize("optimizer", [WithNorm, InPlace, lambda: xl.Adam(eps=0.0)])
def test_optimizers_of_ones_own(optimizer, xpv):
    steps = pair(lambda: mlp(xl.Tanh()), optimizer)
    for n in (4, 4, 4, 4):
        a, b = (step(xpv.asarray(vectors(n)), xpv.asarray(labels(n))) for step in steps)
        assert_same_bits(a, b, "loss")
    assert_same_arrays(steps[0].net.params, steps[1].net.params)
