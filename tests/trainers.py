"""Networks, data and trainers of the tests of training, and how their results are compared."""

from __future__ import annotations

import numpy as np
from helpers import assert_same_arrays, values

import xplayers as xl
from xplayers.arrays.transfer import to_numpy
from xplayers.saving.checkpoint import Checkpoint
from xplayers.training.step import TrainStep
from xplayers.training.trainer import Trainer

N, CLASSES = 22, 3  # samples: with batches of 8 the last has 6
X, T = values((N, 4)).astype("float32"), np.arange(N) % CLASSES


def network():
    """Return a network with masks and running statistics."""
    return xl.Sequential(
        fc1=xl.Affine.init(4, 6, rng=0),
        norm=xl.BatchNormalization.init(6),
        relu=xl.Relu(),
        drop=xl.Dropout(0.3, seed=1),
        fc2=xl.Affine.init(6, CLASSES, rng=1),
    )


def masked():
    """Return a small network with masks."""
    return xl.Sequential(fc1=xl.Affine.init(4, CLASSES, rng=0), drop=xl.Dropout(0.3, seed=1))


def trainer(net=None, optimizer=None, loss=None, **options):
    options = {"batch_size": 8, "epochs": 3, "seed": 5, "progress": False, **options}
    net = network() if net is None else net
    return Trainer(net, loss or xl.SoftmaxWithLoss(), optimizer or xl.Adam(0.01), **options)


def data(xpv):
    return xpv.asarray(X), xpv.asarray(T)


def copies(net):
    return {name: to_numpy(a).copy() for name, a in net.arrays.items()}


def assert_same_network(a, b):
    assert_same_arrays(*(net if isinstance(net, dict) else net.arrays for net in (a, b)))


def table(history):
    """Return the columns of a history that are no times."""
    return {
        k: history[k].tolist() for k in history.columns if k not in ("seconds", "samples_per_s")
    }


def loop(net, steps=None, epochs=3, optimizer=None, seed=5):
    """Train with a loop over `TrainStep`, and return the losses with the sizes of the batches."""
    step = TrainStep(net, xl.SoftmaxWithLoss(), optimizer or xl.Adam(0.01))
    losses = []
    for epoch in range(epochs):
        for x, t in xl.minibatches(X, T, 8, np.random.default_rng([seed, epoch])):
            if steps is not None and len(losses) == steps:
                return losses
            losses.append((float(step(x, t)), len(x)))
    return losses


LOSSES = {
    "plain": lambda: xl.SoftmaxWithLoss(),
    "weights": lambda: xl.SoftmaxWithLoss([1.0, 2.0, 5.0]),
    "ignored": lambda: xl.SoftmaxWithLoss(ignore_index=1),
    "both": lambda: xl.SoftmaxWithLoss([1.0, 2.0, 5.0], ignore_index=0, label_smoothing=0.1),
}


def scripted(*scores):
    """Return a metric that gives one number after the other."""
    each = iter(scores)
    return {"score": lambda y, t: next(each)}


class Exp(xl.Layer):
    """The exponential function, which overflows at 89."""

    def apply(self, arrays, x):
        y = np.exp(x)
        return y, (y,)

    def vjp(self, cache, dy):
        return dy * cache[0], {}


def hot(number):
    """Return batches of which that of step `number` is a thousand times as large."""
    return lambda epoch: [
        (np.float32(1e3 if epoch * 50 + i + 1 == number else 1.0) * X, T) for i in range(50)
    ]


EVERY = {"every_steps": 2}


def run(net, folder, resume=False, optimizer=None, keep=3, **options):
    """Train with everything on that a run remembers."""
    options = {
        "optimizer": optimizer or xl.Adam(xl.schedules.Cosine(0.05, steps=18)),
        "epochs": 6, "patience": 5, "monitor": "val_loss", **options,
    }  # fmt: skip
    checkpoint = Checkpoint(folder, **EVERY, keep=keep)
    training = trainer(net, checkpoint=checkpoint, **options)
    return training.fit(X, T, validation=(X[:7], T[:7]), resume=resume)


class Killed(Exception):
    pass


def kill_at(step):
    def kill(event):
        if event.kind == "step" and event.step == step:
            raise Killed

    return [kill]
