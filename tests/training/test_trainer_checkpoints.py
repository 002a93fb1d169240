"""Runs of a trainer that are killed, go on from a checkpoint, and end with the same bits."""

from __future__ import annotations

import pytest
from trainers import (
    CLASSES,
    EVERY,
    Exp,
    Killed,
    T,
    X,
    assert_same_network,
    data,
    hot,
    kill_at,
    network,
    run,
    scripted,
    table,
    trainer,
)

import xplayers as xl
from xplayers.saving.checkpoint import Checkpoint
from xplayers.training.failures import NonFiniteLoss


@pytest.mark.parametrize("step", [1, 2, 4, 6, 7, 18])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(step, tmp_path):
    expected, net, resumed = network(), network(), network()
    history = run(expected, tmp_path / "whole")
    with pytest.raises(Killed):
        run(net, tmp_path / "killed", callbacks=kill_at(step))
    second = run(resumed, tmp_path / "killed", resume=True)
    assert_same_network(resumed, expected)
    assert table(second) == table(history)
    assert second.best_epoch == history.best_epoch
    assert (second.stopped, len(second)) == (history.stopped, 6)


@pytest.mark.only("torch", "jax")
def test_a_run_goes_on_to_the_same_bits_on_other_libraries(xpv, tmp_path):
    x, t = data(xpv)
    nets = [xl.mlp([4, CLASSES], rng=0) for _ in range(3)]
    size = 11 if xpv.backend == "jax" else 8  # JAX compiles each shape

    def fit(net, folder, epochs, **options):
        checkpoint = Checkpoint(tmp_path / folder, **EVERY)
        options = {"restore_best": True, "callbacks": [], **options}
        resume = options.pop("resume", False)
        training = trainer(net, batch_size=size, epochs=epochs, checkpoint=checkpoint, **options)
        return training.fit(x, t, resume=resume)

    history = fit(nets[0], "whole", 3)
    with pytest.raises(Killed):
        fit(nets[1], "killed", 3, callbacks=kill_at(5))
    assert table(fit(nets[2], "killed", 3, resume=True)) == table(history)
    assert_same_network(nets[2], nets[0])


def test_a_run_that_is_over_can_be_extended(tmp_path):
    expected, net, same = network(), network(), network()
    run(expected, tmp_path / "whole", patience=None)
    run(net, tmp_path / "short", patience=None, epochs=2)
    seen = []
    options = {"patience": None, "epochs": 2, "callbacks": [lambda event: seen.append(event.kind)]}
    assert table(run(same, tmp_path / "short", True, **options))["epoch"] == [1, 2]
    assert_same_network(same, net)
    assert seen == ["begin", "end"]  # there is nothing to do or to write
    history = run(net, tmp_path / "short", True, patience=None)
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    assert_same_network(net, expected)


def test_patience_goes_through_a_checkpoint(tmp_path):
    def fit(net, folder, resume=False, epochs=9, scores=(5, 4, 6, 7, 8)):
        return trainer(
            net, epochs=epochs, patience=2, monitor="val_score", mode="min",
            metrics=scripted(*scores), checkpoint=Checkpoint(folder),
        ).fit(X, T, validation=[(X, T)], resume=resume)  # fmt: skip

    expected, net, resumed, after = (network() for _ in range(4))
    assert fit(expected, tmp_path / "whole").stopped == "patience"
    fit(net, tmp_path / "parts", epochs=3)
    history = fit(resumed, tmp_path / "parts", True, scores=(7, 8))
    assert (history.stopped, len(history), history.best_epoch) == ("patience", 4, 2)
    assert_same_network(resumed, expected)
    again = fit(after, tmp_path / "parts", True, scores=())
    assert (again.stopped, len(again)) == ("patience", 4)
    assert_same_network(after, expected)


def test_resume_begins_where_there_is_nothing(tmp_path):
    net, expected = network(), network()
    run(net, tmp_path / "a", resume=True)
    run(expected, tmp_path / "b")
    assert_same_network(net, expected)


def test_another_run_is_refused(tmp_path):
    run(network(), tmp_path)
    with pytest.raises(ValueError, match="has the checkpoints of another run; fit"):
        run(network(), tmp_path)
    with pytest.raises(ValueError, match="to another run: batch_size was 8, is 4, seed was 5, is "):
        run(network(), tmp_path, resume=True, batch_size=4, seed=1)
    with pytest.raises(ValueError, match=r"resume=True goes with Trainer\(checkpoint="):
        trainer().fit(X, T, resume=True)


def test_a_checkpoint_is_good_and_named(tmp_path):
    training = trainer(
        xl.Sequential(xl.Affine.init(4, CLASSES, rng=0), hot=Exp()),
        xl.SGD(1e-3),
        epochs=9,
        checkpoint=Checkpoint(tmp_path, every_steps=1, keep=99),
    )
    with pytest.raises(NonFiniteLoss, match=r"The last checkpoint is .*step-000000006\.saf"):
        training.fit(hot(7))
    assert len(list(tmp_path.iterdir())) == 6


def test_a_full_disk_does_not_end_the_run(tmp_path, monkeypatch):
    class Full(Checkpoint):
        calls = 0

        def save(self, step, *args, **kwargs):
            Full.calls += 1
            if step < 5:
                raise OSError(28, "No space left on device")
            return super().save(step, *args, **kwargs)

    net, expected = network(), network()
    with pytest.warns(RuntimeWarning, match="no checkpoint at step 2: .*No space left") as caught:
        trainer(net, checkpoint=Full(tmp_path, every_steps=2)).fit(X, T)
    assert len(caught) == 1
    assert Full.calls == 2  # not at every step: at the end
    trainer(expected).fit(X, T)
    assert_same_network(net, expected)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000009.safetensors"]


def test_events_of_checkpoints(tmp_path):
    seen = []
    trainer(
        epochs=1, checkpoint=Checkpoint(tmp_path, every_steps=2), callbacks=[seen.append]
    ).fit(X, T)  # fmt: skip
    kinds = [event.kind for event in seen]
    assert kinds == [
        "begin", "step", "step", "losses", "checkpoint", "step", "losses", "epoch", "checkpoint",
        "end",
    ]  # fmt: skip


def test_batches_of_ones_own_go_on_too(tmp_path):
    batches = [(X[:8], T[:8]), (X[8:15], T[8:15]), (X[15:], T[15:])]
    nets = [network() for _ in range(2)]
    trainer(nets[0]).fit(batches)
    with pytest.raises(Killed):
        trainer(
            nets[1], checkpoint=Checkpoint(tmp_path, **EVERY), callbacks=kill_at(5)
        ).fit(batches)  # fmt: skip
    trainer(nets[1], checkpoint=Checkpoint(tmp_path, **EVERY)).fit(batches, resume=True)
    assert_same_network(*nets)
