"""Subclasses of NumPy's arrays, as files mapped to memory: they are the arrays, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from cases import LAYERS
from helpers import assert_same_arrays, assert_same_bits, values
from loss_cases import LOSSES

import xplayers as xl


class Own(np.ndarray):
    """An array of somebody's own."""


@pytest.fixture(params=["mapped", "own"])
def mapped(request, tmp_path):
    """Returns an array as a file that is mapped to memory, or as one of a class of one's own."""
    if request.param == "own":
        return lambda a: a.view(Own)

    def write(a):
        np.save(tmp_path / f"{len(list(tmp_path.iterdir()))}.npy", a)
        return np.load(tmp_path / f"{len(list(tmp_path.iterdir())) - 1}.npy", mmap_mode="r")

    return write


@pytest.mark.parametrize("case", LAYERS, ids=lambda c: c.id)
def test_a_layer_of_one(case, mapped):
    x = values(case.shape).astype("float32")
    if case.integers is not None:
        x = np.random.default_rng(0).integers(0, case.integers, case.shape)
    dy = values(case.make().predict(x).shape, seed=1).astype("float32")
    found = []
    for kind in (np.asarray, mapped):
        layer = case.make()
        y = layer.forward(kind(x))
        dx = layer.backward(kind(dy.astype(y.dtype)))
        found.append([y, layer.predict(kind(x)), *([] if dx is None else [dx]),
                      *layer.grads.values(), *layer.buffers.values()])  # fmt: skip
    for a, b in zip(*found, strict=True):
        assert type(a) is type(b)
        assert_same_bits(a, b)


@pytest.mark.parametrize("case", LOSSES, ids=lambda c: c.id)
def test_a_loss_of_one(case, mapped):
    scores = values(case.shape).astype("float32")
    target = case.target(np.random.default_rng(0), case.shape)
    target = target.astype("float32") if target.dtype.kind == "f" else target
    found = []
    for kind in (np.asarray, mapped):
        loss = case.make()
        value = loss.forward(kind(scores), kind(target))
        found.append([value, loss.backward(np.ones_like(value)), loss(kind(scores), kind(target))])
    for a, b in zip(*found, strict=True):
        assert type(a) is type(b)
        assert_same_bits(a, b)


def test_a_step_on_one(mapped):
    """The loss hands its gradient on, which has to go the same way in a replay."""
    x, t = values((8, 3, 2, 4)).astype("float32"), values((8, 5), 1).astype("float32") ** 2 % 1.0
    runs = []
    for kind in (np.asarray, mapped):
        for compile in ("auto", False):
            net = xl.Sequential(
                xl.Convolution.init(3, 3, (2, 3), rng=0), xl.Affine.init(6, 5, rng=1)
            )
            step = xl.TrainStep(net, xl.SigmoidWithLoss(), xl.SGD(), compile=compile)
            for _ in range(4):
                step(kind(x), kind(t))
            runs.append(net.params.copy())
    for other in runs[1:]:
        assert_same_arrays(runs[0], other)


def test_a_parameter_that_is_one(mapped):
    """As of a file of weights that is read bit by bit."""
    x, W = values((3, 1, 5)).astype("float32"), values((2, 1, 3), 1).astype("float32")
    b = values((2,), 2).astype("float32")
    found = []
    for kind in (np.asarray, mapped):
        layer = xl.Convolution(kind(W), kind(b))
        other = xl.Convolution.init(1, 2, (3,))
        other.params["W"], other.b = kind(W), kind(b)
        for made in (layer, other):
            assert {type(a) for a in made.params.values()} == {np.ndarray}
            y = made.forward(x)
            found.append([y, made.backward(y), made.dW, made.db])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert_same_bits(a, b)
