"""What things say that they are: code where they are made of numbers and of each other."""

from __future__ import annotations

import numpy as np
import pytest

import xplayers as xl


def net():
    return xl.Sequential(xl.Affine.init(3, 4, rng=0), xl.Relu(), out=xl.Affine.init(4, 2, rng=1))


def evaluated(thing):
    """Make it again from its code."""
    return eval(repr(thing), vars(xl).copy())


@pytest.mark.parametrize(
    "layer",
    [
        net(), net()[::-1], net()[1:], net()[2:], net()[::-1][1:], net()[::2][::-1],
        xl.Sequential(xl.Relu(), **{"a": xl.Tanh(), "0.5": xl.Relu()}), xl.Sequential(),
        xl.Parallel(xl.Affine.init(2, 3, bias=False), b=xl.Affine.init(2, 3, flatten=False)),
        xl.Residual(norm=xl.LayerNormalization.init(4), attention=xl.MultiHeadAttention.init(4, 2)),
    ],
    ids=lambda layer: ",".join(part.name for part in layer._parts),
)  # fmt: skip
def test_a_network_is_its_code(layer):
    again = evaluated(layer)
    assert repr(again) == repr(layer) == str(layer)
    assert [p.name for p in again._parts] == [p.name for p in layer._parts]


def test_slices_keep_the_order():
    x = np.ones((2, 4), "float32")
    first, relu, last = whole = net()
    assert list(whole[::-1]) == [last, relu, first]
    assert [*whole[::-1].params] == ["out.W", "out.b", "0.W", "0.b"]
    assert list(whole[::-1][::-1]) == [first, relu, last]
    assert list(whole[1:]) == [relu, last]
    assert [*whole[:2].params] == ["0.W", "0.b"]
    mixed = xl.Sequential(**{"7": relu, "x": last, "0": first})
    assert list(mixed[:]) == [relu, last, first]
    y = xl.Sequential(last, xl.Affine.init(2, 3, rng=3))[::-1]
    assert list(y)[1] is last
    assert whole[::-1][:2].predict(x).shape == (2, 2)


@pytest.mark.parametrize("kind", [xl.TrainStep, xl.AccumulatedStep])
def test_a_step_is_its_code(kind):
    options = {"parts": 2} if kind is xl.AccumulatedStep else {}
    step = kind(net(), xl.Huber(delta=2.0), xl.Adam(lr=0.1), compile=False, **options)
    assert repr(evaluated(step)) == repr(step) == str(step)
    assert "    Huber(delta=2.0),\n    Adam(lr=0.1),\n" in repr(step)
    assert "    compile=False,\n" in repr(step)


def test_a_trainer_is_its_code():
    trainer = xl.Trainer(net(), xl.SoftmaxWithLoss(), xl.SGD(), epochs=3, seed=7)
    assert repr(evaluated(trainer)) == repr(trainer)
    assert repr(trainer).endswith(
        "    SoftmaxWithLoss(),\n    SGD(),\n    batch_size=32,\n    epochs=3,\n    seed=7,\n)"
    )


def test_data_and_files_are_named(tmp_path):
    x, t = np.zeros((4, 3), "float32"), np.zeros(4, "int64")
    assert repr(xl.Batches(x, t, 2, rng=5)) == (
        "Batches(<float32 array of shape (4, 3)>, <int64 array of shape (4,)>, 2, rng=5)"
    )
    checkpoint = xl.Checkpoint(tmp_path, every_steps=10)
    assert repr(checkpoint) == f"Checkpoint({str(tmp_path)!r}, every_steps=10, keep=3)"
    assert repr(evaluated(checkpoint)) == repr(checkpoint)


def test_parts_are_completed():
    assert {"out", "params", "forward"} <= set(dir(net()))
    assert "0" not in dir(net())


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (xl.Affine.init(4, 3), "Affine(4 -> 3)"),
        (xl.Convolution.init(4, 6, (3, 2), groups=2), "Convolution(4 -> 6, 3x2)"),
        (xl.ConvolutionTranspose.init(4, 6, (3,)), "ConvolutionTranspose(4 -> 6, 3)"),
        (xl.MaxPooling(2), "MaxPooling(2)"),
        (xl.AveragePooling((2, 3)), "AveragePooling(2x3)"),
        (xl.BatchNormalization.init(3), "BatchNormalization(3)"),
        (xl.LayerNormalization.init(2, 3), "LayerNormalization(2, 3)"),
        (xl.GroupNormalization.init(6, 2), "GroupNormalization(6, 2)"),
        (xl.RmsNormalization.init(2, 3), "RmsNormalization(2, 3)"),
        (xl.Lstm.init(4, 3), "Lstm(4 -> 3)"),
        (xl.Gru.init(4, 3, bidirectional=True), "Gru(4 -> 3, bidirectional)"),
        (xl.MultiHeadAttention.init(4, 2), "MultiHeadAttention(4, 2 heads)"),
        (xl.MultiHeadAttention.init(4, 2, causal=True), "MultiHeadAttention(4, 2 heads, causal)"),
        (xl.Embedding.init(5, 3), "Embedding(5, 3)"),
        (xl.Reshape(2, 3), "Reshape(2, 3)"),
        (xl.Transpose(2, 1), "Transpose(2, 1)"),
        (xl.Sequential(xl.Relu()), "Sequential"),
        (xl.Huber(), "Huber"),
    ],
    ids=str,
)
def test_what_the_errors_call_a_layer(layer, name):
    assert layer._owner == name
    assert str(layer) == (repr(layer) if isinstance(layer, xl.Container) else name)
