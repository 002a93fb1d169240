"""Weights of Keras models: the same outputs, in training and inference, and back."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
from helpers import assert_close, assert_same_arrays, values

import xplayers as xl
from xplayers import weights

os.environ.setdefault("KERAS_BACKEND", "torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    keras = pytest.importorskip("keras")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
L = keras.layers


def both(**options):
    """A layer that attends to itself."""
    x = keras.Input((5, 6))
    return keras.Model(x, L.MultiHeadAttention(2, 3, **options)(x, x))


def grouped():
    x = keras.Input((5, 8))
    return keras.Model(x, L.GroupQueryAttention(2, 4, 2)(x, x))


def sequence(layer):
    return L.Bidirectional(layer)


ROWS = {  # theirs, ours, the shape of x: of images with the channels first
    "Dense": (lambda: L.Dense(3), lambda: xl.Affine.init(5, 3), (4, 5)),
    "Dense-no-bias": (
        lambda: L.Dense(3, use_bias=False), lambda: xl.Affine.init(5, 3, bias=False), (4, 5)
    ),
    "Conv1D": (lambda: L.Conv1D(3, 3), lambda: xl.Convolution.init(2, 3, (3,)), (2, 2, 7)),
    "Conv2D": (
        lambda: L.Conv2D(6, (3, 2), strides=2, groups=2),
        lambda: xl.Convolution.init(4, 6, (3, 2), stride=2, groups=2), (2, 4, 7, 6),
    ),
    "Conv3D": (
        lambda: L.Conv3D(3, 2, use_bias=False),
        lambda: xl.Convolution.init(2, 3, (2, 2, 2), bias=False), (2, 2, 4, 5, 4),
    ),
    "Conv1DTranspose": (
        lambda: L.Conv1DTranspose(3, 3, strides=2),
        lambda: xl.ConvolutionTranspose.init(2, 3, (3,), stride=2), (2, 2, 5),
    ),
    "Conv2DTranspose": (
        lambda: L.Conv2DTranspose(3, (3, 2), strides=(2, 1)),
        lambda: xl.ConvolutionTranspose.init(2, 3, (3, 2), stride=(2, 1)), (2, 2, 4, 5),
    ),
    "BatchNormalization": (
        lambda: L.BatchNormalization(momentum=0.9),
        lambda: xl.BatchNormalization.init(3, eps=1e-3), (4, 3, 5, 2),
    ),
    "LayerNormalization": (
        L.LayerNormalization, lambda: xl.LayerNormalization.init(5, eps=1e-3), (2, 4, 5)
    ),
    "GroupNormalization": (
        lambda: L.GroupNormalization(2), lambda: xl.GroupNormalization.init(4, 2, eps=1e-3),
        (2, 4, 3, 3),
    ),
    "RMSNormalization": (L.RMSNormalization, lambda: xl.RmsNormalization.init(5), (2, 4, 5)),
    "SimpleRNN": (
        lambda: L.SimpleRNN(3, return_sequences=True), lambda: xl.Rnn.init(4, 3), (2, 5, 4)
    ),
    "LSTM": (lambda: L.LSTM(3, return_sequences=True), lambda: xl.Lstm.init(4, 3), (2, 5, 4)),
    "GRU": (lambda: L.GRU(3, return_sequences=True), lambda: xl.Gru.init(4, 3), (2, 5, 4)),
    "GRU-published": (
        lambda: L.GRU(3, return_sequences=True, reset_after=False),
        lambda: xl.Gru.init(4, 3, reset_after=False), (2, 5, 4),
    ),
    "Bidirectional-GRU": (
        lambda: sequence(L.GRU(3, return_sequences=True)),
        lambda: xl.Gru.init(4, 3, bidirectional=True), (2, 5, 4),
    ),
    "stacked": (
        lambda: keras.Sequential([sequence(L.LSTM(3, return_sequences=True)),
                                  L.LSTM(2, return_sequences=True)]),
        lambda: xl.Sequential(xl.Lstm.init(4, 3, bidirectional=True), xl.Lstm.init(6, 2)),
        (2, 5, 4),
    ),
    "MultiHeadAttention": (both, lambda: xl.MultiHeadAttention.init(6, 2), (2, 5, 6)),
    "MultiHeadAttention-no-bias": (
        lambda: both(use_bias=False), lambda: xl.MultiHeadAttention.init(6, 2, bias=False),
        (2, 5, 6),
    ),
    "GroupQueryAttention": (
        grouped, lambda: xl.MultiHeadAttention.init(8, 4, n_kv_heads=2), (2, 5, 8)
    ),
}  # fmt: skip
IMAGES = ("Conv", "Batch", "Group")


def channels_last(x, row):
    images = row.startswith(IMAGES) and "Query" not in row
    return np.moveaxis(x, 1, -1) if images else x


def pair(row):
    """Their layer with random weights, ours, and an input."""
    theirs, ours, shape = ROWS[row]
    layer, x = theirs(), values(shape).astype("float32")
    layer(channels_last(x, row))
    shaken(layer)
    return layer, ours().to(xp=np, dtype="float32"), x


def shaken(layer):
    rng = np.random.default_rng(4)
    layer.set_weights([rng.uniform(0.2, 0.8, a.shape) for a in layer.get_weights()])


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("train", [False, True])
def test_the_outputs_are_the_same(row, train):
    layer, net, x = pair(row)
    assert weights.from_keras(net, layer) is net
    expected = keras.ops.convert_to_numpy(layer(channels_last(x, row), training=train))
    if expected.ndim > 2 and row.startswith(IMAGES) and "Query" not in row:
        expected = np.moveaxis(expected, -1, 1)
    assert_close(net.forward(x, train=train), expected, 1e-6)
    if train and row == "BatchNormalization":  # the momentum, and the biased variance
        for ours, theirs in zip(
            (net.running_mean, net.running_var), layer.get_weights()[2:], strict=True
        ):
            assert_close(ours, theirs, 1e-6)


@pytest.mark.parametrize("row", ROWS)
def test_back_and_forth_nothing_changes(row):
    layer, net, _ = pair(row)
    weights.from_keras(net, layer.get_weights())
    back = weights.to_keras(net)
    for ours, theirs in zip(back, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    layer.set_weights(back)
    by_path = {v.path: np.asarray(v) for v in layer.weights}
    again = weights.from_keras(ROWS[row][1]().to(xp=np, dtype="float32"), by_path)
    assert_same_arrays(again.arrays, net.arrays)


def their_images(data_format="channels_last"):
    images = {"data_format": data_format}
    shape = (9, 8, 2) if data_format == "channels_last" else (2, 9, 8)
    return keras.Sequential([
        keras.Input(shape), L.Conv2D(3, 3, activation="relu", **images), L.MaxPooling2D(**images),
        L.Flatten(), L.BatchNormalization(), L.Dense(5, name="fc"), L.Dense(5, name="out"),
    ])  # fmt: skip


def our_images():
    return xl.Sequential(
        xl.Convolution.init(2, 3, 3), xl.Relu(), xl.MaxPooling(2), xl.Flatten(),
        xl.BatchNormalization.init(27, eps=1e-3), fc=xl.Affine.init(27, 5),
        out=xl.Affine.init(5, 5),
    )  # fmt: skip


@pytest.mark.parametrize("names", [None, {"0": "conv", "4": "bn"}])
def test_flattened_images_are_put_in_our_order(names, xpv):
    model = their_images()
    if names:
        model.layers[0].name, model.layers[3].name = "conv", "bn"
    shaken(model)
    x = values((2, 2, 9, 8)).astype("float32")
    net = our_images().to(like=xpv.asarray(x))
    weights.from_keras(net, model)
    expected = keras.ops.convert_to_numpy(model(np.moveaxis(x, 1, -1), training=False))
    assert_close(net.predict(xpv.asarray(x)), expected, 1e-6)
    for ours, theirs in zip(weights.to_keras(net), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_channels_that_come_first_stay():
    model = their_images("channels_first")
    shaken(model)
    net = weights.from_keras(our_images(), model, channels_last=False)
    x = values((2, 2, 9, 8)).astype("float32")
    by_torch = keras.backend.backend() == "torch"  # others have no such images on the CPU
    if by_torch:
        expected = keras.ops.convert_to_numpy(model(x, training=False))
        assert_close(net.predict(x), expected, 1e-6)
    for ours, theirs in zip(
        weights.to_keras(net, channels_last=False), model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_embeddings():
    layer, net = L.Embedding(7, 3), xl.Embedding.init(7, 3)
    x = np.asarray([[1, 6], [0, 1]])
    expected = keras.ops.convert_to_numpy(layer(x))
    np.testing.assert_array_equal(weights.from_keras(net, layer)(x), expected)


def test_files(tmp_path):
    model = their_images()
    shaken(model)
    expected = weights.from_keras(our_images(), model)
    arrays = model.get_weights()
    np.savez(tmp_path / "list.npz", *arrays)
    np.savez(tmp_path / "named.npz", **{v.path: np.asarray(v) for v in model.weights})
    for name in ("list", "named"):
        net = weights.from_keras(our_images(), tmp_path / f"{name}.npz")
        assert_same_arrays(net.arrays, expected.arrays)


def test_another_eps():
    """As many layers have it in both, so they are compared before anything is set."""
    model, net = their_images(), our_images()
    net["4"].eps = 1e-5
    before = dict(net.arrays)
    with pytest.raises(ValueError, match=r"nothing is loaded: 4 has eps 1e-05, theirs 0.001\."):
        weights.from_keras(net, model)
    assert all(net.arrays[name] is a for name, a in before.items())
    weights.from_keras(net, model.get_weights())


def test_what_does_not_fit():
    model = their_images()
    net = our_images()
    before = dict(net.arrays)
    arrays = model.get_weights()
    with pytest.raises(ValueError, match=r"^from_keras: there are 9 arrays, expected 10: 0/kernel"):
        weights.from_keras(net, arrays[:-1])
    arrays[0], arrays[6] = arrays[0][..., :2], arrays[6].T
    with pytest.raises(ValueError, match="nothing is loaded") as caught:
        weights.from_keras(net, arrays)
    assert "0/kernel has shape (3, 3, 2, 2), expected (3, 3, 2, 3)" in str(caught.value)
    assert "fc/kernel has shape (5, 27), expected (27, 5)" in str(caught.value)
    assert all(net.arrays[name] is a for name, a in before.items())
    with pytest.raises(TypeError, match="Keras has no attention with rope_theta"):
        weights.to_keras(xl.MultiHeadAttention.init(4, 2, rope_theta=1e4))
