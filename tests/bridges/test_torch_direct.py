"""Modules where no transformation is active: the same as where one is."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from cases import LAYERS
from helpers import values

import xplayers as xl

torch = pytest.importorskip("torch")
from torch.func import functional_call  # noqa: E402

from xplayers.torch import Module  # noqa: E402


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.id)
def test_both_ways_are_the_same(case, training):
    """Other tensors in the place of the parameters take the general way."""
    results = []
    for general in (False, True):
        module = Module(case.make()).double().train(training)
        if case.integers:
            x = torch.tensor(np.random.default_rng(0).integers(0, case.integers, case.shape))
        else:
            x = torch.tensor(values(case.shape), requires_grad=True)
        params = dict(module.named_parameters())
        wanted = [*params.values(), *([x] if x.requires_grad else [])]
        others = {name: p * 1.0 for name, p in params.items()}
        y = functional_call(module, others, (x,)) if general else module(x)
        dy = torch.tensor(values(tuple(y.shape), 3))
        grads = torch.autograd.grad(y, wanted, dy, allow_unused=True) if wanted else ()
        results.append((y.detach(), grads, dict(module.named_buffers())))
    torch.testing.assert_close(results[0], results[1], rtol=1e-13, atol=1e-13)


def test_a_parameter_that_is_written_to_is_noticed():
    module = Module(xl.Affine.init(4, 3, rng=0))
    y = module(torch.ones(2, 4, requires_grad=True))
    with torch.no_grad():
        module.W.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("make", [xl.Tanh, lambda: xl.mlp([4, 5, 2], xl.Tanh, rng=0)])
def test_an_output_is_freed_when_it_goes(make):
    module = Module(make())
    gc.disable()
    try:
        y = module(torch.ones(2, 4, requires_grad=True))
        there = weakref.ref(y)
        del y
        assert there() is None
    finally:
        gc.enable()


def test_what_a_layer_gives_as_it_is_stays_outside_of_the_graph():
    class Given(xl.Layer):
        def apply(self, arrays, x, other):
            return other, ()

        def vjp(self, cache, dy):
            return 0.0 * dy, {}

    other = torch.ones(3)
    y = Module(Given())(torch.ones(3, requires_grad=True), other)
    y.sum().backward()
    assert other.grad_fn is None
    assert not other.requires_grad


def test_without_gradients():
    """Neither a pass that nobody differentiates nor one for inference leaves anything behind."""
    module, x = Module(xl.mlp([4, 3], rng=0)), torch.ones(2, 4)
    with torch.no_grad():
        assert module(x).grad_fn is None
        assert module.eval()(x).grad_fn is None
    assert module(x).grad_fn is not None
    module.requires_grad_(False)
    assert module.train()(x).grad_fn is None
