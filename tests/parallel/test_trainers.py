"""Runs of several ranks against those of one: `Trainer(group=...)`, in threads."""

from __future__ import annotations

import numpy as np
import pytest
from groups import together
from helpers import assert_same_arrays, assert_same_bits, says
from trainers import LOSSES, N, T, X, copies, data, network, table, trainer

import xplayers as xl
from xplayers.arrays.transfer import to_numpy
from xplayers.data import Batches
from xplayers.saving.checkpoint import Checkpoint

pytestmark = pytest.mark.only("numpy", "torch")


def plain():
    """Return a network of which several ranks compute what one does."""
    return xl.Sequential(
        fc1=xl.Affine.init(4, 6, rng=0), relu=xl.Relu(), fc2=xl.Affine.init(6, 3, rng=1)
    )


def fitted(group, x, t=None, make=plain, **options):
    """Return trainer, history and the arrays of the network after a run."""
    fit = {k: options.pop(k) for k in ("validation", "resume") if k in options}
    training = trainer(make(), group=group, **options)
    history = training.fit(x, t, **fit)
    return training, history, copies(training.net)


def assert_agree(results, history, arrays):
    """Check that ranks have the same bits, and those of one process up to rounding."""
    for _, other, those in results:
        assert_same_arrays(those, results[0][2])
        assert table(other) == table(results[0][1])
        assert other.stopped == history.stopped
    for name, a in arrays.items():
        np.testing.assert_allclose(results[0][2][name], a, rtol=0, atol=1e-6, err_msg=name)
    for name, column in table(history).items():
        got = table(results[0][1])[name]
        np.testing.assert_allclose(got, column, rtol=1e-5, atol=1e-6, err_msg=name)


def assert_as_one(*arguments, size=2, **options):
    """Check that ranks agree in all bits, and with one process up to rounding; return theirs."""
    _, history, arrays = fitted(None, *arguments, **options)
    results = together(size, lambda group: fitted(group, *arguments, **options))
    assert_agree(results, history, arrays)
    assert all(other.best_epoch == history.best_epoch for _, other, _ in results)
    return results


def test_a_run_is_that_of_one_process(xpv):
    x, t = data(xpv)
    options = {"validation": (x[:7, ...], t[:7]), "train_metrics": True, "epochs": 4}
    for size in (2, 3):
        results = assert_as_one(x, t, size=size, **options)
    assert results[1][1]["step"].tolist() == [3, 6, 9, 12]


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_that_weigh_samples(xpv, loss):
    x, t = data(xpv)
    options = {"loss": LOSSES[loss](), "validation": (x[:7, ...], t[:7])}
    assert_as_one(x, t, accumulate=2, clip_norm=0.5, **options)


@pytest.mark.parametrize("kind", ["list", "function", "Batches", "own parts", "transform"])
def test_batches_are_taken_in_parts(xpv, kind):
    x, t = data(xpv)

    def moved(a, rng):
        return a + xpv.asarray(rng.normal(size=(a.shape[0], 4)).astype("float32"))

    def source(group):
        if kind == "list":
            return list(xl.minibatches(x, t, 5))
        if kind == "function":
            return lambda epoch: xl.minibatches(x, t, 8, epoch)
        more = {"transform": moved} if kind == "transform" else {}
        more |= {"group": group} if kind != "Batches" else {}
        return Batches(X, T, 8, rng=5, like=x, **more)

    options = {"validation": list(xl.minibatches(x, t, 5)), "train_metrics": True}
    _, history, arrays = fitted(None, source(None), **options)
    results = together(2, lambda group: fitted(group, source(group), **options))
    assert_same_arrays(results[0][2], results[1][2])
    assert table(results[0][1]) == table(results[1][1])
    for name, a in arrays.items():
        np.testing.assert_allclose(results[0][2][name], a, rtol=0, atol=1e-6, err_msg=name)
    for name, column in table(history).items():
        np.testing.assert_allclose(table(results[0][1])[name], column, rtol=1e-5, err_msg=name)


def test_parts_of_minibatches(xpv):
    x, t = data(xpv)
    for drop_last in (False, True):
        whole = list(xl.minibatches(x, t, 5, 3, drop_last))
        parts = together(3, lambda g: list(xl.minibatches(x, t, 5, 3, drop_last, group=g)))  # noqa: B023
        for i, (batch, labels) in enumerate(whole):
            assert_same_bits(np.concatenate([to_numpy(p[i][0]) for p in parts]), batch)
            assert_same_bits(np.concatenate([to_numpy(p[i][1]) for p in parts]), labels)
            sizes = [len(p[i][1]) for p in parts]
            assert max(sizes) - min(sizes) <= 1
            assert sizes[0] == max(sizes)


def test_parts_of_batches_read_no_other_samples():
    class Watched(np.ndarray):
        def __getitem__(self, index):
            if isinstance(index, np.ndarray):
                read.extend(index.tolist())
            return super().__getitem__(index)

    read = []
    (group,) = together(1, lambda group: group)
    group.rank, group.size = 1, 2
    assert [len(t) for _, t in Batches(X.view(Watched), T, 8, group=group)] == [4, 4, 3]
    assert read == [*range(4, 8), *range(12, 16), *range(19, 22)]


@pytest.mark.parametrize("loss", LOSSES)
def test_evaluation_is_exact(xpv, loss):
    x, t = data(xpv)
    net = network().to(like=x)
    metrics = {"accuracy": xl.accuracy, "mean": lambda y, t: 0.5}
    options = {"metrics": metrics, "batch_size": 4}
    one = xl.evaluate(net, LOSSES[loss](), x, t, **options)
    for n in (2, 3, 30):  # more than samples
        for result in together(
            n, lambda g: xl.evaluate(net, LOSSES[loss](), x, t, group=g, **options)
        ):
            assert result["accuracy"] == one["accuracy"]
            assert result == pytest.approx(one, rel=1e-6)
    batches = list(xl.minibatches(x, t, 4))
    for result in together(
        2, lambda g: xl.evaluate(net, LOSSES[loss](), batches, group=g, metrics=metrics)
    ):
        assert result == pytest.approx(one, rel=1e-6)


def test_statistics_and_masks_end_alike_and_the_best_epoch_is_one(xpv):
    x, t = data(xpv)
    results = together(
        2,
        lambda group: fitted(
            group, x, t, network, validation=(x[:7, ...], t[:7]), patience=2, epochs=9
        ),
    )
    (_, history, arrays), (_, other, others) = results
    assert_same_arrays(arrays, others)
    assert table(history) == table(other)
    assert history.stopped == other.stopped
    assert history.best_epoch == other.best_epoch


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("reason", ["callback", "interrupted"])
def test_who_stops_one_stops_all_at_the_same_step(xpv, rank, reason):
    x, t = data(xpv)

    def work(group):
        def stop(event):
            if event.kind == "step" and event.step == 4 and group.rank == rank:
                event.trainer._run.stop(reason)

        training, history, arrays = fitted(group, x, t, callbacks=[stop])
        return history.stopped, training.optimizer.state, arrays

    first, second = together(2, work)
    assert first[0] == second[0] == reason
    assert int(first[1].get("count", 0)) == int(second[1].get("count", 0)) == 5
    assert_same_arrays(first[2], second[2])


def test_who_stops_after_an_epoch_stops_there(xpv):
    x, t = data(xpv)

    def work(group):
        def stop(event):
            if event.kind == "epoch" and event.epoch == 2 and group.rank == 1:
                event.trainer.stop()

        _, history, _ = fitted(group, x, t, callbacks=[stop])
        return len(history), history.stopped

    assert together(2, work) == [(2, "callback")] * 2


def test_a_loss_that_is_not_finite_is_found_on_its_rank(xpv):
    x, t = data(xpv)
    bad = X.copy()
    bad[-1] = np.nan  # the last sample, which is of the last rank

    def batches(epoch):
        return [(x, t)] * 7 + [(xpv.asarray(bad), t)] + [(x, t)] * 4

    def work(group):
        training = trainer(plain(), group=group, optimizer=xl.SGD(0.01))
        with pytest.raises(xl.NonFiniteLoss) as error:
            training.fit(batches)
        return error.value.step, error.value.where, str(error.value), copies(training.net)

    with np.errstate(all="ignore"):
        first, second = together(2, work)
    assert_same_arrays(first[3], second[3])
    assert first[:3] == second[:3]
    assert first[:2] == (8, "x")
    assert "That is on rank 1." in first[2]


def test_checkpoints_are_written_by_the_first_and_read_by_all(xpv, tmp_path):
    x, t = data(xpv)

    def part(group, folder, epochs, **more):
        checkpoint = Checkpoint(folder, every_steps=2)
        options = {"checkpoint": checkpoint, "make": network, "validation": (x[:7, ...], t[:7])}
        return fitted(group, x, t, epochs=epochs, patience=9, **options, **more)

    whole = together(2, lambda group: part(group, tmp_path / "whole", 4))
    together(2, lambda group: part(group, tmp_path / "parts", 2))
    names = [p.name for p in sorted((tmp_path / "parts").iterdir())]
    assert names == [f"step-00000000{step}.safetensors" for step in (2, 4, 6)]
    resumed = together(2, lambda group: part(group, tmp_path / "parts", 4, resume=True))
    for (_, history, arrays), (_, other, others) in zip(whole, resumed, strict=True):
        assert_same_arrays(arrays, others)
        assert table(history) == table(other)


def test_a_run_continues_on_another_number_of_ranks(xpv, tmp_path, capsys):
    x, t = data(xpv)
    _, history, arrays = fitted(None, x, t, epochs=4)

    def part(group, epochs, resume):
        checkpoint = Checkpoint(tmp_path)
        return fitted(group, x, t, epochs=epochs, checkpoint=checkpoint, resume=resume)

    together(2, lambda group: part(group, 2, False))
    capsys.readouterr()
    results = together(3, lambda group: part(group, 3, True))
    words = "Trainer.fit: the checkpoint is of a run in 2 processes, this one has 3: "
    assert capsys.readouterr().err.count(words) == 1
    assert_same_arrays(results[0][2], results[2][2])
    _, other, others = part(None, 4, True)
    assert "of a run in 3 processes, this one has 1" in capsys.readouterr().err
    for name, a in arrays.items():
        np.testing.assert_allclose(others[name], a, rtol=0, atol=1e-6, err_msg=name)
    assert table(other)["step"] == table(history)["step"]


def test_ranks_that_see_other_checkpoints_are_told(xpv, tmp_path):
    x, t = data(xpv)
    fitted(None, x, t, epochs=1, checkpoint=Checkpoint(tmp_path / "0"))

    def work(group):
        checkpoint = Checkpoint(tmp_path / str(group.rank))
        training = trainer(plain(), checkpoint=checkpoint, group=group)
        training.checkpoint.folder, folder = tmp_path / "0", training.checkpoint.folder
        compare = training.train_step._exchange.compare

        def then(owner, identity):
            compare(owner, identity)
            training.checkpoint.folder = folder

        training.train_step._exchange.compare = then
        with pytest.raises(ValueError, match=says("the step to begin at is 0 on rank 1, 3 on ran")):
            training.fit(x, t, resume=True)

    together(2, work)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 4}, "batch_size is 4 on rank 1, 8 on rank 0"),
        ({"seed": 6}, "seed is 6 on rank 1, 5 on rank 0"),
        ({"epochs": 2}, "epochs is 2 on rank 1, 3 on rank 0"),
        ({"accumulate": 2}, "accumulate is 2 on rank 1, 1 on rank 0"),
        ({"optimizer": xl.SGD()}, "optimizer is SGD(lr=0.01"),
        ({"clip_norm": 1.0}, "clip_norm is 1.0 on rank 1, None on rank 0"),
        ({"x": 2.0}, "x is float32 (22, 4) "),
        ({"n": 20}, "samples is 20 on rank 1, 22 on rank 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_ranks_that_differ_are_refused(xpv, options, words):
    x, t = data(xpv)

    def work(group):
        mine = dict(options) if group.rank else {}
        factor, n = mine.pop("x", 1.0), mine.pop("n", N)
        training = trainer(plain(), group=group, **mine)
        with pytest.raises(ValueError, match=says("Trainer.fit: the processes differ: ")) as error:
            training.fit(x[:n, ...] * factor, t[:n])
        return str(error.value)

    first, second = together(2, work)
    assert first == second
    assert words in first


@pytest.mark.parametrize("shorter", [0, 1])
def test_batches_of_unknown_number_have_to_be_as_many(xpv, shorter):
    x, t = data(xpv)

    def work(group):
        def batches(epoch):
            yield from [(x, t)] * (3 - (group.rank == shorter and epoch == 1))

        training = trainer(plain(), group=group)
        words = f"epoch 2 has a batch 3 on rank {1 - shorter}, and none on rank {shorter}."
        with pytest.raises(ValueError, match=says(words)):
            training.fit(batches)
        return training.history["step"].tolist()

    assert together(2, work) == [[3], [3]]


def test_batches_of_a_function(xpv):
    x, t = data(xpv)
    assert_as_one(lambda epoch: iter([(x, t), (x[epoch + 1 :, ...], t[epoch + 1 :])]))


def test_batches_smaller_than_the_number_of_ranks(xpv):
    x, t = data(xpv)

    def work(group):
        with pytest.raises(ValueError, match=says("batch_size is 2, in 3 processes; expected")):
            trainer(plain(), group=group, batch_size=2).fit(x, t)

    together(3, work)


def test_only_the_first_speaks(xpv, capsys, tmp_path):
    x, t = data(xpv)
    own = [xl.Progress("lines")]
    for options in ({"progress": "lines"}, {"callbacks": own}):
        together(2, lambda group: fitted(group, x, t, **options))  # noqa: B023
        assert capsys.readouterr().err.count("epoch 3") == 1
    tables = xl.TensorBoard(tmp_path)
    for group, callbacks in together(
        2, lambda g: (g, trainer(group=g, callbacks=[tables]).callbacks)
    ):
        assert callbacks == [tables] * (group.rank == 0)


def test_an_exit_in_a_callback_ends_all(xpv):
    x, t = data(xpv)

    def leave(event):
        if event.kind == "step" and event.step == 2:
            raise SystemExit(7)

    def work(group):
        codes = []
        abort = group.abort
        group.abort = lambda code: (codes.append(code), abort(code))
        callbacks = [leave] if group.rank else []
        with pytest.raises((SystemExit, Exception)):
            trainer(plain(), group=group, callbacks=callbacks).fit(x, t)
        return codes

    assert together(2, work) == [[], [7]]


def test_the_clock_of_the_first_goes(xpv, monkeypatch, tmp_path):
    """Losses are fetched, and checkpoints written, by it, at the same steps on all."""
    from xplayers.training import run

    monkeypatch.setattr(run, "LATEST", -1.0)
    x, t = data(xpv)
    seen = {}

    def work(group):
        def note(event):
            if event.kind in ("losses", "checkpoint"):
                seen.setdefault(group.rank, []).append((event.kind, event.step))

        checkpoint = Checkpoint(tmp_path, every_minutes=1e-9)
        return fitted(group, x, t, callbacks=[note], checkpoint=checkpoint)[2]

    together(2, work)
    assert seen[0] == seen[1]
    assert [step for kind, step in seen[0] if kind == "losses"] == [*range(1, 10)]
