"""Steps that are replayed where a size is 1: views, parts and results of one are arrays too."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers import assert_same_arrays, assert_same_bits, taker, values

import xplayers as xl
from xplayers import TrainStep
from xplayers.accelerate.replay import compiler
from xplayers.accelerate.replay.foreach import StepProgram
from xplayers.accelerate.replay.recording import NotRecordable, Recording
from xplayers.arrays.elementwise import elementwise


@pytest.fixture(autouse=True)
def only_where_steps_are_replayed(xpv):
    if xpv.backend not in ("numpy", "readonly", "torch"):
        pytest.skip("steps are replayed on NumPy and PyTorch")


def compare(xpv, net, shape, optimizer=xl.SGD, loss=xl.MeanSquaredError, integers=False):
    """Train twice, from a replay and plainly, on batches of another size too."""
    auto, plain = (TrainStep(net(xpv), loss(), optimizer(), compile=how) for how in ("auto", False))
    for n in (shape[0], shape[0], shape[0], 2, 2, 2, shape[0]):
        host = values((n, *shape[1:]))
        x = xpv.asarray(np.abs(host * 3).astype("int64") % 3) if integers else xpv.asarray(host)
        t = xpv.asarray(values(tuple(plain.net.predict(x).shape), seed=n))
        assert_same_bits(auto(x, t), plain(x, t), "loss")
    assert_same_arrays(auto.net.arrays, plain.net.arrays)
    assert len(taker(auto).replays.replays) == len({shape[0], 2})


KINDS = itertools.product((xl.Rnn, xl.Lstm, xl.Gru), (False, True))
SIZES = [(1, 1, 1), (4, 1, 3), (1, 2, 1)]  # batch, time, features


@pytest.mark.parametrize(("kind", "bidirectional"), list(KINDS))
@pytest.mark.parametrize(("n", "time", "hidden"), SIZES)
def test_recurrent_networks(n, time, hidden, kind, bidirectional, xpv):
    def net(xpv):
        rnn = kind.init(3, hidden, bidirectional=bidirectional, rng=0, dtype="float64")
        last = xl.Affine.init(hidden * (1 + bidirectional) * time, 2, rng=1, dtype="float64")
        return xl.Sequential(rnn, last)

    compare(xpv, net, (n, time, 3))


def filters(xpv, *shape):
    return xpv.asarray(values(shape, seed=9, scale=0.3))


def affine(xpv, n_in, n_out):
    return xl.Affine(filters(xpv, n_in, n_out), filters(xpv, n_out))


OTHERS = {
    "a filter as large as its image": (
        lambda xpv: xl.Sequential(xl.Convolution(filters(xpv, 3, 1, 5, 5)), xl.Flatten()),
        (4, 1, 5, 5)),
    "one filter": (lambda xpv: xl.Convolution(filters(xpv, 1, 1, 2, 2)), (4, 1, 2, 2)),
    "filters of one pixel": (lambda xpv: xl.Convolution(filters(xpv, 3, 2, 1, 1)), (1, 2, 1, 1)),
    "groups of one channel": (
        lambda xpv: xl.Convolution(filters(xpv, 2, 1, 3, 3), groups=2), (4, 2, 3, 3)),
    "turned": (lambda xpv: xl.ConvolutionTranspose(filters(xpv, 1, 1, 1, 1)), (4, 1, 1, 1)),
    "one weight": (lambda xpv: affine(xpv, 1, 1), (4, 1)),
    "two weights": (
        lambda xpv: xl.Sequential(affine(xpv, 1, 1), affine(xpv, 1, 1)),
        (1, 1)),
    "pooling": (
        lambda xpv: xl.Sequential(
            xl.Convolution(filters(xpv, 1, 1, 1, 1)), xl.MaxPooling(1), xl.AveragePooling(1),
            xl.GlobalAveragePooling()),
        (4, 1, 1, 1)),
    "normalization": (
        lambda xpv: xl.Sequential(
            xl.Affine.init(1, 1, rng=0, dtype="float64"),
            xl.BatchNormalization.init(1, dtype="float64"),
            xl.LayerNormalization.init(1, dtype="float64"),
            xl.RmsNormalization.init(1, dtype="float64")),
        (3, 1)),
    "one head": (
        lambda xpv: xl.MultiHeadAttention.init(2, 1, rng=0, dtype="float64"), (1, 1, 2)),
    "a part alone": (
        lambda xpv: xl.Sequential(xl.Parallel(affine(xpv, 2, 1))), (4, 2)),
    "parts of one": (
        lambda xpv: xl.Parallel(
            affine(xpv, 1, 1), affine(xpv, 1, 1), combine="concatenate"),
        (4, 1)),
    "activations": (
        lambda xpv: xl.Sequential(
            affine(xpv, 1, 1), xl.Relu(), xl.Gelu(), xl.Silu(), xl.Tanh(),
            xl.Softmax(), xl.Dropout(0.5)),
        (1, 1)),
}  # fmt: skip


@pytest.mark.parametrize("optimizer", [xl.SGD, xl.Adam], ids=lambda o: o.__name__)
@pytest.mark.parametrize("name", OTHERS)
def test_layers(name, optimizer, xpv):
    net, shape = OTHERS[name]
    compare(xpv, net, shape, optimizer)


@pytest.mark.parametrize("optimizer", [xl.SGD, xl.Momentum, xl.Adam], ids=lambda o: o.__name__)
@pytest.mark.parametrize("rows", [1, 3])
def test_words(rows, optimizer, xpv):
    def net(xpv):
        return xl.Sequential(xl.Embedding(filters(xpv, 3, 1)), affine(xpv, rows, 1))

    compare(xpv, net, (4, rows), optimizer, integers=True)


@elementwise
def _alone(xp, x):
    return (x * 2.0,)


class Alone(xl.Layer):
    """Takes the only one of several results."""

    def __init__(self, function):
        self.function = function

    def apply(self, arrays, x):
        xp = xl.namespace(x)
        (y,) = self.function(xp, x)
        return y * 1.5, ()

    def vjp(self, cache, dy):
        return dy * 0.25, {}


@pytest.mark.parametrize(
    "function",
    [
        lambda xp, x: xp.unstack(xp.reshape(x, (1, *x.shape)), axis=0),
        lambda xp, x: xp.unstack(xp.reshape(x * 1.0, (1, *x.shape)), axis=0),
        lambda xp, x: _alone(x),
        lambda xp, x: _alone(x + 1.0),
    ],
    ids=["a view of the input", "a view of a result", "elementwise", "elementwise of a result"],
)
def test_the_only_one_of_several_results(function, xpv):
    def net(xpv):
        return xl.Sequential(affine(xpv, 2, 3), Alone(function), affine(xpv, 3, 2))

    compare(xpv, net, (4, 2))


def test_what_no_replay_can_be_made_of_is_said_in_one_way(xpv, monkeypatch):
    """Whatever goes wrong then, the step is computed as it stands."""

    def broken(self, at, operation, free):
        raise KeyError(at)

    monkeypatch.setattr(compiler._Compiler, "_emit", broken)
    recording = Recording()
    x, p = (recording.input(xpv.asarray(values((2, 2)))) for _ in range(2))
    y = x + p
    task = StepProgram(recording, [x.register], {p.register: p.value}, {}, y.register)
    with pytest.raises(NotRecordable, match="no replay can be made: KeyError: 0"):
        compiler.compiled(task, compiler.BufferPool())
