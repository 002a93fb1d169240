"""Evaluation: loss and metrics of a whole data set, alone and after each epoch."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import values
from trainers import CLASSES, LOSSES, N, T, X, masked, network, trainer

import xplayers as xl
from xplayers.training.evaluation import evaluate
from xplayers.training.fetching import BLOCK, fetched


@pytest.mark.only("numpy", "strict", "torch", "jax")
@pytest.mark.parametrize("name", LOSSES)
def test_evaluation_is_that_of_the_whole_set(name, xpv):
    if xpv.backend == "jax" and name != "both":
        pytest.skip("each is compiled; one is enough")
    x = xpv.asarray(X)
    labels = np.sort(T)  # whole batches are ignored
    jax = xpv.backend == "jax"  # compiles each shape
    t, net, loss = xpv.asarray(labels), masked() if jax else network(), LOSSES[name]()
    size = 11 if jax else 4
    results = evaluate(net, loss, x, t, metrics={"accuracy": xl.accuracy}, batch_size=size)
    y = net.predict(x)
    assert results["loss"] == pytest.approx(float(loss(y, t)), rel=1e-6)
    assert results["accuracy"] == pytest.approx(float(xl.accuracy(y, t)), rel=1e-6)


def test_evaluation_of_other_losses_and_batches():
    net, target = network(), values((N, CLASSES)).astype("float32")
    y = net.predict(X)
    mean = evaluate(net, xl.MeanSquaredError(), X, target, batch_size=5)
    assert mean == {"loss": pytest.approx(float(xl.MeanSquaredError()(y, target)), rel=1e-6)}
    batches = [(X[:3], T[:3]), (X[3:3], T[3:3]), (X[3:], T[3:])]
    total = evaluate(net, xl.SoftmaxWithLoss(reduction="sum"), batches)
    assert total["loss"] == pytest.approx(float(xl.SoftmaxWithLoss()(y, T)), rel=1e-6)
    assert list(evaluate(net, xl.SoftmaxWithLoss(ignore_index=1), batches)) == ["loss"]
    results = evaluate(net, xl.SoftmaxWithLoss(), batches)
    assert results["accuracy"] == pytest.approx(float(xl.accuracy(y, T)), rel=1e-6)
    weighted = xl.SoftmaxWithLoss([1.0, 3.0, 9.0])
    soft = np.full((N, CLASSES), 1 / 3, "float32")
    soft_loss = float(weighted(y, soft))
    assert evaluate(net, weighted, X, soft, batch_size=5)["loss"] == pytest.approx(soft_loss)
    assert math.isnan(evaluate(net, xl.SoftmaxWithLoss(), [])["loss"])


def test_many_batches_are_collected_in_blocks(monkeypatch):
    transfers = []
    monkeypatch.setattr(
        "xplayers.training.evaluation.fetched",
        lambda values: transfers.append(len(values)) or fetched(values),
    )
    x = values((3 * BLOCK + 1, 4)).astype("float32")
    t, net, loss = np.arange(len(x)) % CLASSES, network(), xl.SoftmaxWithLoss([1.0, 2.0, 3.0])
    results = evaluate(net, loss, x, t, batch_size=1)
    assert results["loss"] == pytest.approx(float(loss(net.predict(x), t)), rel=1e-5)
    assert sum(transfers) == 3 * len(x)  # loss, accuracy, weight
    assert BLOCK - 3 < max(transfers) <= BLOCK


def test_metrics_may_be_numbers_and_must_be_one():
    loss, net = xl.SoftmaxWithLoss(), network()
    results = evaluate(net, loss, X, T, metrics={"n": lambda y, t: len(y)}, batch_size=8)
    assert results["n"] == pytest.approx((8 * 8 + 8 * 8 + 6 * 6) / N)
    with pytest.raises(ValueError, match=r"metric rows has shape \(22,\); expected a scalar"):
        evaluate(net, loss, X, T, metrics={"rows": lambda y, t: y[:, 0]})


def test_training_metrics_and_validation_columns():
    net = network()
    history = trainer(net, train_metrics=True, eval_batch_size=5).fit(X, T, validation=(X, T))
    assert history.columns == (
        "epoch", "step", "loss", "accuracy", "val_loss", "val_accuracy", "lr", "seconds",
        "samples_per_s",
    )  # fmt: skip
    assert history["accuracy"].tolist() == history["val_accuracy"].tolist()
    assert history["val_accuracy"][-1] == pytest.approx(float(xl.accuracy(net(X), T)))
    assert history["lr"].tolist() == [0.01] * 3
    assert np.all(history["seconds"] > 0)
    batches = trainer(train_metrics=True).fit([(X, T)], validation=[(X, T)])
    assert batches["accuracy"].tolist() == batches["val_accuracy"].tolist()


def test_the_learning_rate_is_that_of_the_last_step():
    schedule = xl.schedules.Exponential(0.1, every=3)
    history = trainer(optimizer=xl.SGD(schedule)).fit(X, T)
    np.testing.assert_allclose(history["lr"], [schedule(2), schedule(5), schedule(8)], rtol=1e-6)
