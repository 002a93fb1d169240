"""Which epoch is the best one, and what is done where none is better."""

from __future__ import annotations

import math

import numpy as np
import pytest
from trainers import CLASSES, T, X, assert_same_network, copies, network, scripted, trainer

import xplayers as xl


def states_of(epochs):
    """Return a callback that keeps a copy of the network after each epoch."""

    def keep(event):
        if event.kind == "epoch":
            epochs.append(copies(event.trainer.net))

    return keep


def test_patience_stops_and_goes_back_to_the_best():
    net, epochs = network(), []
    stopping = trainer(
        net, epochs=20, patience=2, monitor="val_score", metrics=scripted(1, 3, 2, 3, 9),
        callbacks=[states_of(epochs)],
    )  # fmt: skip
    history = stopping.fit(X, T, validation=[(X, T)])
    assert history.stopped == "patience"
    assert history["val_score"].tolist() == [1, 3, 2, 3]
    assert history.best_epoch == 2
    assert_same_network(net, epochs[1])
    assert np.any(epochs[1]["fc1.W"] != epochs[3]["fc1.W"])


@pytest.mark.parametrize(
    ("options", "best"),
    [
        ({"monitor": "val_score"}, 2),
        ({"monitor": "val_score", "mode": "min"}, 3),
        ({"monitor": "val_score", "restore_best": False}, 4),
        ({"monitor": "val_score", "patience": None, "restore_best": True}, 2),
        ({"monitor": "val_score", "patience": None}, 4),
    ],
)
def test_what_is_best_and_what_is_put_back(options, best):
    net, epochs = network(), []
    trainer(
        net, epochs=4, metrics=scripted(math.nan, 3, 1, 2), callbacks=[states_of(epochs)],
        **{"patience": 4, **options},
    ).fit(X, T, validation=[(X, T)])  # fmt: skip
    assert_same_network(net, epochs[best - 1])


def test_patience_ends_where_nothing_is_a_number():
    net, epochs = network(), []
    history = trainer(
        net, epochs=9, patience=2, monitor="val_score", metrics=scripted(*[math.nan] * 9),
        callbacks=[states_of(epochs)],
    ).fit(X, T, validation=[(X, T)])  # fmt: skip
    assert (history.stopped, len(history), history.best_epoch) == ("patience", 2, None)
    assert_same_network(net, epochs[-1])


def test_the_smaller_loss_is_better():
    history = trainer(optimizer=xl.SGD(0.05), epochs=5, patience=5).fit(X, T, validation=(X, T))
    assert history.best_epoch == 1 + int(np.argmin(history["val_loss"]))
    history = trainer(optimizer=xl.SGD(0.05), epochs=5, patience=5).fit(X, T)
    assert history.best_epoch == 1 + int(np.argmin(history["loss"]))


def test_a_summed_loss_is_told_by_the_sample():
    nets = [xl.mlp([4, CLASSES], rng=0) for _ in range(2)]
    options = {"optimizer": xl.SGD(0.0), "epochs": 1}
    mean = trainer(nets[0], **options).fit(X, T, validation=(X, T))
    summed = {"loss": xl.SoftmaxWithLoss(reduction="sum"), **options, "optimizer": xl.SGD(0.0)}
    history = trainer(nets[1], **summed).fit(X, T, validation=(X, T))
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(history[name], mean[name], rtol=1e-6)
