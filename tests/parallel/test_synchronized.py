"""Batch normalization over the batches of all ranks, ``synchronized=True``: it is that of one."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from groups import part_of, together
from helpers import assert_same_arrays, says, taker, values
from trainers import T, X
from trainers import network as regular

import xplayers as xl
from xplayers.arrays.transfer import to_numpy
from xplayers.parallel import SelfGroup
from xplayers.training.exchange import Exchange
from xplayers.training.synchronizing import synchronized

pytestmark = pytest.mark.only("numpy", "torch")
CLASSES = 3
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}


def dense(dtype):
    """Return a network whose first layer is normalized, and one behind it."""
    return xl.Sequential(
        xl.BatchNormalization.init(6, dtype=dtype),
        xl.Affine.init(6, 8, rng=0, dtype=dtype),
        xl.BatchNormalization.init(8, dtype=dtype),
        xl.Relu(),
        xl.Affine.init(8, CLASSES, rng=1, dtype=dtype),
    )


def convolutional(dtype):
    return xl.Sequential(
        xl.Convolution.init(2, 4, 3, rng=0, padding=1, dtype=dtype),
        xl.BatchNormalization.init(4, dtype=dtype),
        xl.Relu(),
        xl.MaxPooling(2),
        xl.Convolution.init(4, 3, 3, rng=1, dtype=dtype),
        xl.BatchNormalization.init(3, momentum=0.7, dtype=dtype),
        xl.Flatten(),
        xl.Affine.init(3, CLASSES, rng=1, dtype=dtype),
    )


SHAPES = {dense: (6,), convolutional: (2, 6, 6)}


def batches(xpv, sizes, dtype="float32", shape=(6,), mean=3.0):
    """Return batches in which the parts of the ranks have other means."""
    made = []
    for seed, n in enumerate(sizes):
        x = values((n, *shape), seed) + mean
        x[n // 2 :] *= 2.0
        t = np.random.default_rng(seed).choice(CLASSES, n, p=[0.6, 0.3, 0.1])
        made.append((xpv.asarray(x.astype(dtype)), xpv.asarray(t)))
    return made


def trained(group, data, make, loss=None, optimizer=None, **options):
    """Return the step and its losses after a step on this rank's part of each batch."""
    step = xl.TrainStep(
        make(), loss or xl.SoftmaxWithLoss(), optimizer or xl.Momentum(0.01), group=group, **options
    )
    losses = []
    for batch in data:
        mine = part_of(group, int(batch[0].shape[0]))
        losses.append(float(step(*(a[mine, ...] for a in batch))))
    return step, losses


def assert_as_one(data, make, tolerance, size=2, **options):
    """Check that ranks agree in all bits, and with one process up to rounding; return the steps."""
    one, losses = trained(None, data, make, **copy.deepcopy(options))
    results = together(
        size, lambda group: trained(group, data, make, **copy.deepcopy(options)), synchronized=True
    )
    for step, these in results:
        assert_same_arrays(step.net.arrays, results[0][0].net.arrays)
        assert these == results[0][1]
    assert results[0][1] == pytest.approx(losses, rel=10 * tolerance)
    for name, a in one.net.arrays.items():
        got, a = to_numpy(results[0][0].net.arrays[name]), to_numpy(a)
        atol = tolerance * max(1.0, float(np.abs(a).max()))
        np.testing.assert_allclose(got, a, rtol=0, atol=atol, err_msg=name)
    return [step for step, _ in results]


@pytest.mark.parametrize("make", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_step_is_that_of_one_process(xpv, dtype, make):
    """Of 15 and 14 samples, in float64 of 10, 10 and 9; parameters and running statistics.

    In float32 the rounding of one process grows as fast, where its samples come in another order.
    """
    size, steps = (2, 5) if dtype == "float32" else (3, 20)
    data = batches(xpv, [29] * steps, dtype, SHAPES[make])
    assert_as_one(data, lambda: make(dtype), TOLERANCE[dtype], size)


@pytest.mark.parametrize("make", SHAPES)
def test_statistics_of_parts_are_another_step(xpv, make):
    """As without the option: what is tested above would else be nothing."""
    data = batches(xpv, [29] * 2, "float64", SHAPES[make])
    one, _ = trained(None, data, lambda: make("float64"))
    (other, _), _ = together(2, lambda group: trained(group, data, lambda: make("float64")))
    apart = [np.abs(to_numpy(a) - to_numpy(other.net.params[k])).max()
             for k, a in one.net.params.items()]  # fmt: skip
    assert max(apart) > 1e-4


@pytest.mark.parametrize(
    "loss",
    [
        xl.SoftmaxWithLoss([1.0, 2.0, 5.0]),
        xl.SoftmaxWithLoss([1.0, 2.0, 5.0], ignore_index=1, label_smoothing=0.1),
        xl.SoftmaxWithLoss(reduction="sum"),
    ],
    ids=["weights", "ignored", "sum"],
)
def test_parts_of_other_weights(xpv, loss):
    """The sums of the backward are of gradients of the loss of the whole batch."""
    rate = 1e-4 if loss.reduction == "sum" else 0.01
    data = batches(xpv, [29, 30, 7, 29] * 2, "float64")
    assert_as_one(data, lambda: dense("float64"), 1e-12, loss=loss, optimizer=xl.SGD(rate))


def test_a_part_of_which_all_labels_are_ignored(xpv):
    """Its samples are in the statistics, and so in the gradient."""
    ((x, _),) = batches(xpv, [8], "float64")
    t = xpv.asarray(np.asarray([0, 1, 2, 1, -1, -1, -1, -1]))
    loss = xl.SoftmaxWithLoss(ignore_index=-1)
    assert_as_one([(x, t)] * 5, lambda: small("float64"), 1e-12, loss=loss)


def small(dtype):
    return xl.Sequential(xl.Affine.init(6, 4, rng=0, dtype=dtype), *dense_end(dtype))


def dense_end(dtype):
    return (
        xl.BatchNormalization.init(4, dtype=dtype),
        xl.Relu(),
        xl.Affine.init(4, CLASSES, rng=1, dtype=dtype),
    )


def test_weights_of_samples(xpv):
    data = []
    for seed, (x, t) in enumerate(batches(xpv, [29, 30] * 3, "float64")):
        w = np.random.default_rng(seed).uniform(0.0, 2.0, int(x.shape[0]))
        data.append((x, t, xpv.asarray(w)))
    assert_as_one(data, lambda: dense("float64"), 1e-12)


@pytest.mark.parametrize("compile", ["auto", False])
def test_ranks_without_samples_take_part_in_the_sums(xpv, compile):
    data = batches(xpv, [4, 8, 2, 4, 8, 2, 4, 8, 2], "float64")
    assert_as_one(data, lambda: dense("float64"), 1e-12, size=3, compile=compile)


def test_steps_stay_replayed_and_take_few_sums(xpv):
    data = batches(xpv, [29] * 6)
    for step in assert_as_one(data, lambda: dense("float32"), 1e-6):
        assert len(taker(step).replays.replays) == 1
        assert not taker(step).replays._refused
        # For each of two layers two sums forward and one back, one of weights, one of gradients.
        assert step.group.sums == 8 * len(data) + 2


def test_a_step_that_cannot_be_recorded_takes_its_sums_once(xpv):
    """One rank has kinds of batches that the other has not: only it computes those twice."""

    def looks(grads):
        return {k: g * (1.0 if float(xl.namespace(g).sum(g)) < 1e9 else 0.0)
                for k, g in grads.items()}  # fmt: skip

    data = batches(xpv, [29, 30, 27, 28, 29, 30])
    for step in assert_as_one(data, lambda: dense("float32"), 1e-6, reduce_grads=looks):
        assert step.group.sums == 8 * len(data) + 2


def test_large_means(xpv):
    """The variance is the mean square of what is centred by the mean of all."""
    data = batches(xpv, [29] * 3, "float64", mean=1e6)
    steps = assert_as_one(data, lambda: dense("float64"), 1e-9)
    x = to_numpy(data[0][0])
    var = 0.9**3 + sum(0.1 * 0.9 ** (2 - i) * to_numpy(a).var(0) for i, (a, _) in enumerate(data))
    np.testing.assert_allclose(to_numpy(steps[0].net.buffers["0.running_var"]), var, rtol=1e-9)
    assert x.mean() > 1e5


def normalized(group, x, dy=None, **options):
    """Return what a layer makes of this rank's part of a batch: output, statistics, gradient."""
    layer = xl.BatchNormalization.init(int(x.shape[1]), momentum=0.0, **options)
    mine = part_of(group, int(x.shape[0]))
    with synchronized(Exchange(group), x):
        y = layer.forward(x[mine, ...])
        dx = layer.backward((x if dy is None else dy)[mine, ...])
    return [to_numpy(a) for a in (y, layer.running_mean, layer.running_var, dx)]


def whole(xpv, x, dy=None, size=2, **options):
    """Return that of all ranks together; the statistics are the same on all."""
    options["dtype"] = x.dtype.name
    x, dy = (None if a is None else xpv.asarray(a) for a in (x, dy))
    parts = together(size, lambda group: normalized(group, x, dy, **options), synchronized=True)
    for part in parts:
        for i in (1, 2):
            np.testing.assert_array_equal(part[i], parts[0][i])
    y, dx = (np.concatenate([part[i] for part in parts]) for i in (0, 3))
    return y, *parts[0][1:3], dx


@pytest.mark.parametrize("shape", [(29, 8), (15, 8, 3, 3)])
def test_means_far_from_the_values(xpv, shape):
    """As exact as the layer of one process: what is left of a rounded mean is subtracted."""
    x = (np.random.default_rng(0).random(shape) + 1000).astype("float32")
    dy = values(shape, 1).astype("float32")
    y, mean, var, dx = whole(xpv, x, dy)
    alone = xl.BatchNormalization.init(8, momentum=0.0, dtype="float64")
    expected = alone.forward(x.astype("float64"))
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(mean, alone.running_mean, rtol=2e-7)
    np.testing.assert_allclose(var, alone.running_var, rtol=1e-5)
    np.testing.assert_allclose(dx, alone.backward(dy.astype("float64")), rtol=0, atol=5e-5)


@pytest.mark.parametrize("value", [1000.1, -1e-30, 1e14, 1e30, 3e38])
@pytest.mark.parametrize("eps", [1e-5, 0.0])
def test_equal_values_become_0(xpv, value, eps):
    x = np.full((29, 3), value, "float32")
    y, mean, var, _ = whole(xpv, x, np.ones_like(x), size=3, eps=eps)
    np.testing.assert_array_equal(y, 0.0)
    np.testing.assert_array_equal(var, 0.0)
    np.testing.assert_allclose(mean, np.full(3, value, "float32"), rtol=2e-7)


@pytest.mark.parametrize("largest", [1e14, 1e30, 3e38])
@pytest.mark.parametrize("everywhere", [True, False])
def test_squares_that_overflow(xpv, largest, everywhere):
    """The ranks agree which channels are made less, where one of them alone has large values."""
    x, dy = values((29, 3), 0), values((29, 3), 1).astype("float32")
    x[:, 1] *= largest / np.abs(x[:, 1]).max() if everywhere else 1.0
    x[0, 1] = largest
    y, mean, var, dx = whole(xpv, x.astype("float32"), dy)
    alone = xl.BatchNormalization.init(3, momentum=0.0, dtype="float64")
    expected = alone.forward(x.astype("float32").astype("float64"))
    np.testing.assert_allclose(y, expected, rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(mean, alone.running_mean, rtol=1e-5, atol=1e-6)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(var, alone.running_var.astype("float32"), rtol=1e-5)
    wanted = alone.backward(dy.astype("float64"))
    scale = np.maximum(np.abs(wanted).max(axis=0), 1e-37)  # of each channel
    np.testing.assert_allclose(dx / scale, wanted / scale, rtol=0, atol=1e-3)


def test_values_that_are_none_are_seen(xpv):
    x = values((8, 2), 0).astype("float32")
    x[5, 0], x[6, 1] = np.nan, np.inf
    y, *_ = whole(xpv, x, np.ones_like(x))
    assert np.isnan(y).all()  # of all ranks


def test_halves(xpv):
    if xpv.backend == "numpy":
        pytest.skip("NumPy has no bfloat16")
    precision = xl.MixedPrecision("bfloat16")
    assert_as_one(batches(xpv, [29] * 8), lambda: dense("float32"), 3e-2, precision=precision)


def test_a_run_is_that_of_one_process(xpv):
    x, t = xpv.asarray(X), xpv.asarray(T)

    def fitted(group):
        net = regular()
        trainer = xl.Trainer(
            xl.Sequential(*[layer for layer in net if not isinstance(layer, xl.Dropout)]),
            xl.SoftmaxWithLoss(), xl.Momentum(0.05), batch_size=8, epochs=4, seed=5, group=group,
            progress=False,
        )  # fmt: skip
        history = trainer.fit(x, t, validation=(x[:7, ...], t[:7]))
        return trainer.net.arrays, history["val_loss"].tolist()

    arrays, losses = fitted(None)
    for these, values_ in together(2, fitted, synchronized=True):
        assert values_ == pytest.approx(losses, rel=1e-5)
        for name, a in arrays.items():
            np.testing.assert_allclose(to_numpy(these[name]), to_numpy(a), rtol=0, atol=2e-6)


def test_other_layers_and_other_steps_compute_as_before(xpv):
    """Nothing is left behind when a step ends, also with an error."""
    ((x, t),) = batches(xpv, [8])
    before = dense("float32").forward(x)

    def work(group):
        step, _ = trained(group, [(x, t)], lambda: dense("float32"))
        with pytest.raises(ValueError, match="is out of range"):
            step(x[part_of(group, 8), ...], t[part_of(group, 8)] + 7)
        return dense("float32").forward(x)

    for after in together(2, work, synchronized=True):
        np.testing.assert_array_equal(to_numpy(after), to_numpy(before))


def test_micro_batches_are_refused(xpv):
    group = SelfGroup()
    group.synchronized = True
    words = says("AccumulatedStep: group has synchronized=True; expected False")
    with pytest.raises(ValueError, match=words):
        xl.AccumulatedStep(dense("float32"), xl.SoftmaxWithLoss(), xl.SGD(), parts=2, group=group)


def test_ranks_that_differ_are_refused(xpv):
    ((x, t),) = batches(xpv, [8])

    def work(group):
        group.synchronized = group.rank == 1
        with pytest.raises(ValueError, match=says("synchronized is True on rank 1, False on rank")):
            trained(group, [(x, t)], lambda: dense("float32"))

    together(2, work)
