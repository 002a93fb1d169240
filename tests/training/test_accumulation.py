"""A batch in parts, and the other options of a step that a trainer takes."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_close, assert_same_arrays
from trainers import CLASSES, LOSSES, N, T, X, copies, network, trainer

import xplayers as xl
from xplayers.arrays.transfer import to_numpy
from xplayers.training.accumulation import AccumulatedStep, slices
from xplayers.training.precision import MixedPrecision
from xplayers.training.step import TrainStep


@pytest.mark.only("numpy", "strict", "torch", "jax")
@pytest.mark.parametrize("name", [*LOSSES, "sum"])
def test_parts_of_a_batch_make_the_step_of_the_whole(name, xpv):
    if xpv.backend == "jax" and name != "both":
        pytest.skip("each is compiled; one is enough")
    make = LOSSES.get(name, lambda: xl.SoftmaxWithLoss(reduction="sum"))
    x, t = xpv.asarray(X), xpv.asarray(np.sort(T))
    nets = [xl.mlp([4, 6, CLASSES], xl.Tanh, rng=0) for _ in range(2)]
    whole = TrainStep(nets[0], make(), xl.SGD(0.1))
    parts = AccumulatedStep(nets[1], make(), xl.SGD(0.1), parts=4)  # of 6, 6, 6 and 4
    for _ in range(2):
        assert_close(parts(x, t), float(whole(x, t)), 1e-5)
    for key, p in nets[0].params.items():
        assert_close(nets[1].params[key], to_numpy(p), 1e-5)


def test_parts_have_their_own_statistics_and_masks():
    net = network()
    AccumulatedStep(net, xl.SoftmaxWithLoss(), xl.SGD(0.0), parts=2)(X, T)
    expected = network()
    for part in (X[:11], X[11:]):
        expected.forward(part)
    assert_same_arrays(expected.buffers, net.buffers)


def test_parts_in_mixed_precision_and_of_wrong_targets():
    net = xl.mlp([4, 6, CLASSES], rng=0)
    precision = MixedPrecision("float16")
    step = AccumulatedStep(net, xl.SoftmaxWithLoss(), xl.SGD(0.1), parts=3, precision=precision)
    other = xl.mlp([4, 6, CLASSES], rng=0)
    TrainStep(other, xl.SoftmaxWithLoss(), xl.SGD(0.1))(X, T)
    step(X, T)
    assert int(step.state["precision"]["good_steps"]) == 1
    for key, p in other.params.items():
        assert net.params[key].dtype == np.float32
        assert_close(net.params[key], p, 1e-3)
    with pytest.raises(ValueError, match="label 3 is out of range"):
        step(X, np.full(N, 3))
    sizes = [part.stop - part.start for part in slices(N, 4)]
    assert sizes == [6, 6, 6, 4]
    assert [len(slices(n, 4)) for n in (0, 1, 4, 5, 9)] == [1, 1, 4, 3, 3]
    with pytest.raises(ValueError, match="parts is 0; expected .* 1"):
        AccumulatedStep(net, xl.SoftmaxWithLoss(), xl.SGD(), parts=0)


def test_replayed_parts_weigh_the_loss_as_eager_ones():
    """The weight of a part is float64 here, its gradient float32: where it is rounded shows."""
    rng, nets = np.random.default_rng(0), []
    weights = rng.uniform(0.5, 2.0, 84)
    batches = [(rng.standard_normal((64, 2)), rng.integers(0, 84, 64)) for _ in range(12)]
    for compile in ("auto", False):
        net = xl.Sequential(
            *(xl.Affine.init(n, m, rng=n, dtype="float64") for n, m in ((2, 70), (70, 84)))
        )
        loss = xl.SoftmaxWithLoss(class_weights=weights)
        step = AccumulatedStep(
            net, loss, xl.Adam(0.01), parts=3, precision=MixedPrecision("float16"), compile=compile
        )
        for x, t in batches:
            step(x, t)
        nets.append(net)
    assert_same_arrays(nets[0].params, nets[1].params)


def test_accumulate_and_options_reach_the_step():
    net, whole = (xl.mlp([4, 6, CLASSES], rng=0) for _ in range(2))
    trainer(net, xl.SGD(0.1), accumulate=3).fit(X, T)
    trainer(whole, xl.SGD(0.1)).fit(X, T)
    for key, p in whole.params.items():
        assert_close(net.params[key], p, 1e-5)
    options = {"compile": False, "precision": MixedPrecision("float16")}
    step = trainer(**options).train_step
    assert (step.compile, step.precision) == (False, options["precision"])
    with pytest.raises(TypeError, match="precission"):
        trainer(precission=None)


def test_gradients_are_clipped():
    net = xl.mlp([4, CLASSES], rng=0)
    before, seen = copies(net), []

    def reduce_grads(grads):
        seen.append(grads)
        return {name: 1e3 * g for name, g in grads.items()}

    trainer(
        net, xl.SGD(1.0), batch_size=N, epochs=1, clip_norm=1e-2, reduce_grads=reduce_grads
    ).fit(X, T)
    moved = np.concatenate([(net.params[k] - before[k]).ravel() for k in before])
    assert np.linalg.norm(moved) == pytest.approx(1e-2, rel=1e-3)
    assert len(seen) == 1
    with pytest.raises(ValueError, match="limit is -1"):
        trainer(clip_norm=-1)
