"""Runs in elastic groups of threads, of which some are killed: the others go on with all of it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from elastic_groups import Killed, survivors
from groups import part_of, together
from helpers import assert_same_arrays, says
from test_trainers import assert_agree, fitted, plain
from trainers import N, copies, data, masked, table, trainer

import xplayers as xl
from xplayers.arrays.transfer import to_numpy
from xplayers.parallel import RanksLost
from xplayers.reports.first_process import OfFirst
from xplayers.training.evaluation import evaluate

pytestmark = pytest.mark.only("numpy", "torch")
# Of steps that are recorded, replayed, of other sizes, and the last one; of 3 in an epoch.
STEPS = (0, 1, 2, 4, 7, 8)


class Kill:
    """A callback that kills the rank of a number at an event."""

    def __init__(self, **steps):
        self.steps = {int(name[1:]): step for name, step in steps.items()}
        self.seen = []

    def __call__(self, event):
        group = event.trainer.train_step.group
        self.seen.append((group.number, event.kind, event.step))
        kind = "begin" if self.steps.get(group.number) == 0 else "step"
        if event.kind == kind and event.step == self.steps.get(group.number):
            raise Killed


def assert_goes_on(x, t, left, callbacks=(), size=3, make=plain, **options):
    """Check that the survivors get what one process does, and the same bits; return theirs."""
    _, history, arrays = fitted(None, x, t, make=make, **options)
    options["callbacks"] = [*callbacks, *options.get("callbacks", ())]
    results = survivors(size, lambda group: fitted(group, x, t, make=make, **options))
    assert len(results) == left
    assert_agree(results, history, arrays)
    return results


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_run_goes_on_without_a_rank(xpv, number, step, capsys):
    x, t = data(xpv)
    validation = x[:7, ...], t[:7]
    kill = Kill(**{f"r{number}": step})
    assert_goes_on(x, t, 2, [kill], validation=validation, train_metrics=True)
    words = f"Trainer.fit: rank {number} is lost, 2 processes are left; training goes on from step "
    assert capsys.readouterr().err.count(words) == 1
    assert sum(kind == "regroup" for _, kind, _ in kill.seen) == 2


def test_one_after_the_other(xpv, capsys):
    x, t = data(xpv)
    kill = Kill(r0=2, r2=5)
    assert_goes_on(x, t, 1, [kill], patience=2)
    words = "ranks 0 and 2 are lost, 1 process is left; training goes on from step 5"
    assert words in capsys.readouterr().err


def test_two_at_once(xpv, capsys):
    assert_goes_on(*data(xpv), 1, [Kill(r1=4, r2=4)])
    assert "training goes on from step 4" in capsys.readouterr().err


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_a_rank_that_is_lost_in_an_evaluation(xpv, calls):
    """In the first or second pass of an epoch; what the others have counted is counted anew."""
    x, t = data(xpv)

    def work(group):
        left = [calls]

        def metric(y, t):
            if group is not None and group.number == 1:
                left[0] -= 1
                if not left[0]:
                    raise Killed
            return xl.accuracy(y, t)

        options = {"metrics": {"score": metric}, "validation": (x[:7, ...], t[:7])}
        return fitted(group, x, t, train_metrics=True, eval_batch_size=99, **options)

    _, history, _ = work(None)
    results = survivors(3, work)
    assert len(results) == 2
    for _, other, _ in results:
        for name, column in table(history).items():
            np.testing.assert_allclose(table(other)[name], column, rtol=1e-5, err_msg=name)


def test_what_the_first_one_does_the_next_one_takes_over(xpv, tmp_path, capsys):
    x, t = data(xpv)
    file, events = io.StringIO(), []

    def work(group):
        log = OfFirst(lambda event: events.append((group.number, event.kind, event.step)))
        training = trainer(
            plain(), group=group, callbacks=[Kill(r0=5), log, xl.Progress("lines", file)],
            checkpoint=xl.Checkpoint(tmp_path, every_steps=2),
        )  # fmt: skip
        training.fit(x, t)

    assert len(survivors(3, work)) == 2
    lines = [line.split()[1] for line in file.getvalue().splitlines()]
    assert lines == ["1/3", "2/3", "3/3"]
    shown = [(number, kind) for number, kind, _ in events if kind in ("begin", "epoch", "end")]
    # A thread that is killed has its end; a process has none.
    zero, one = [(0, "begin"), (0, "epoch"), (0, "end")], [(1, "begin"), (1, "epoch")]
    assert sorted(shown) == sorted([*zero, *one, (1, "epoch"), (1, "end")])
    assert (1, "begin", 5) in events
    assert xl.Checkpoint(tmp_path).latest().name == "step-000000009.safetensors"


def test_masks_of_those_that_are_left(xpv):
    """Each rank has masks of its own; the counters of all stay those of one process."""
    x, t = data(xpv)
    _, _, arrays = fitted(None, x, t, make=masked)
    kill = Kill(r0=4)
    results = survivors(3, lambda group: fitted(group, x, t, make=masked, callbacks=[kill]))
    for _, _, those in results:
        assert_same_arrays(those, results[0][2])
    assert results[0][2]["drop.count"].tolist() == arrays["drop.count"].tolist()


def test_a_rank_that_is_lost_while_a_cause_is_found(xpv):
    x, t = data(xpv)
    bad = xpv.asarray(to_numpy(x).copy())
    bad[N - 1, 0] = float("nan")

    def work(group):
        steps = []

        def clip(grads):
            steps.append(0)
            # The third step is seen to be wrong at the end of the epoch, and all are repeated.
            if group.number == 1 and len(steps) > 4:
                raise Killed
            return grads

        training = trainer(plain(), group=group, compile=False, reduce_grads=clip, seed=4)
        with pytest.raises(xl.NonFiniteLoss, match="there is inf or NaN in x") as caught:
            training.fit(bad, t)
        return caught.value.step, copies(training.net)

    (step, arrays), (other, those) = survivors(3, work)
    assert step == other
    assert_same_arrays(arrays, those)
    assert all(np.all(np.isfinite(a)) for a in arrays.values())


def test_a_loop_repeats_the_step(xpv):
    """Also after an evaluation in which a rank was lost, which no step has noticed."""
    x, t = data(xpv)

    def work(group, when=None):
        net = plain()
        step = xl.TrainStep(net, xl.SoftmaxWithLoss(), xl.Adam(0.01), group=group)
        losses, lost = [], []
        for i in range(12):
            if (group and group.number, i) == when:
                raise Killed
            if i == 8:
                losses.append(evaluate(net, xl.SoftmaxWithLoss(), x, t, group=group)["loss"])
            while True:
                rows = part_of(group, N)
                try:
                    losses.append(float(step(x[rows, ...], t[rows])))
                    break
                except RanksLost as error:
                    lost.append(error.ranks)
        return losses, lost

    expected, _ = work(None)
    for when in ((0, 5), (1, 8), (2, 11)):
        for losses, lost in survivors(3, lambda group, when=when: work(group, when)):
            np.testing.assert_allclose(losses, expected, rtol=1e-5)
            assert lost == [(when[0],)]


def test_batches_that_come_once_cannot_be_evaluated_again(xpv):
    x, t = data(xpv)

    def batches(group):
        for i in range(6):
            if group.number == 1 and i == 4:
                raise Killed
            yield x[i : i + 3, ...], t[i : i + 3]

    def work(group):
        with pytest.raises(RanksLost, match=says("rank 1 is lost, 1 process is left")):
            evaluate(plain(), xl.SoftmaxWithLoss(), batches(group), group=group)
        return True

    assert survivors(2, work) == [True]


def test_an_interrupt_is_not_forgotten(xpv):
    x, t = data(xpv)

    def work(group):
        def stop(event):
            if event.kind == "step" and event.step == 4:
                if group.number == 1:
                    raise Killed
                event.trainer.stop()

        _, history, _ = fitted(group, x, t, callbacks=[stop])
        return history.stopped

    assert survivors(3, work) == ["callback"] * 2
    assert survivors(2, work) == ["callback"]


def test_what_is_not_elastic_has_no_progress_on_others(xpv):
    def work(group):
        return len(trainer(plain(), group=group, progress="lines").callbacks)

    assert together(2, work) == [1, 0]
    assert survivors(2, work) == [1, 1]


def normalized():
    """Return a network of which one pass takes several sums, if it is synchronized."""
    return xl.Sequential(
        xl.Affine.init(4, 6, rng=0), xl.BatchNormalization.init(6), xl.Tanh(),
        xl.Affine.init(6, 5, rng=1), xl.BatchNormalization.init(5), xl.Affine.init(5, 3, rng=2),
    )  # fmt: skip


@pytest.mark.parametrize("call", [1, 3, 5, 6, 7, 8, 9, 10, 15, 20, 40, 60, 80])
def test_statistics_of_all_are_of_those_that_are_left(xpv, call):
    """Killed in any sum: before the first step, within a pass, in an evaluation."""
    x, t = data(xpv)

    def work(group):
        options = {"validation": (x[:7, ...], t[:7]), "optimizer": xl.Momentum(0.01)}
        if group is not None:
            group.synchronized = True
            if group.number == call % 3:
                sums, own = iter(range(1, call + 1)), group.sum_

                def sum_(flat):
                    if next(sums) == call:
                        raise Killed
                    own(flat)

                group.sum_ = sum_
        return fitted(group, x, t, make=normalized, **options)

    _, history, arrays = work(None)
    results = survivors(3, work)
    assert len(results) == 2
    assert_agree(results, history, arrays)
