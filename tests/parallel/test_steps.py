"""Steps of several ranks against those of one: `TrainStep(group=...)`, in threads."""

from __future__ import annotations

import copy
import functools
import pickle

import numpy as np
import pytest
from groups import part_of, together
from helpers import TOLERANCE, assert_close, assert_same_arrays, host_params, says, taker, values

import xplayers as xl
from xplayers.arrays.transfer import to_numpy
from xplayers.parallel import SelfGroup

pytestmark = pytest.mark.only("numpy", "torch")
CLASSES = 3


def batches(xpv, sizes, dtype="float32", shape=(6,)):
    """Return batches of these sizes, the labels of which are not all as common."""
    made = []
    for seed, n in enumerate(sizes):
        x = values((n, *shape), seed).astype(dtype)
        t = np.random.default_rng(seed).choice(CLASSES, n, p=[0.6, 0.3, 0.1])
        made.append((xpv.asarray(x), xpv.asarray(t)))
    return made


def perceptron(dtype="float32"):
    return xl.Sequential(
        fc1=xl.Affine.init(6, 8, rng=0, dtype=dtype),
        relu=xl.Relu(),
        fc2=xl.Affine.init(8, CLASSES, rng=1, dtype=dtype),
    )


def trained(group, data, make=perceptron, loss=None, optimizer=None, kind=xl.TrainStep, **options):
    """Return the step and its losses after a step on this rank's part of each batch."""
    step = kind(
        make(), loss or xl.SoftmaxWithLoss(), optimizer or xl.Momentum(0.05), group=group, **options
    )
    losses = []
    for batch in data:
        mine = part_of(group, int(batch[0].shape[0]))
        losses.append(to_numpy(step(*(a[mine, ...] for a in batch))).astype("float64"))
    return step, np.asarray(losses)


def assert_as_one(data, size=2, tolerance=1e-6, **options):
    """Check that ranks agree in all bits, and with one process up to rounding; return the steps."""
    one, losses = trained(None, data, **copy.deepcopy(options))
    results = together(size, lambda group: trained(group, data, **copy.deepcopy(options)))
    first = results[0]
    for step, these in results[1:]:
        assert_same_arrays(step.net.arrays, first[0].net.arrays)
        assert_same_arrays(step.state, first[0].state)
        np.testing.assert_array_equal(these, first[1])
    assert_close(first[1], losses, 10 * tolerance, "losses")
    params = host_params(first[0].net)
    for name, a in host_params(one.net).items():
        np.testing.assert_allclose(params[name], a, rtol=0, atol=tolerance, err_msg=name)
    return [step for step, _ in results]


@pytest.mark.parametrize(("dtype", "size"), [("float32", 2), ("float64", 3)])
def test_a_hundred_steps_are_those_of_one_process(xpv, dtype, size):
    data = batches(xpv, [29] * 100, dtype)  # 15 and 14
    steps = assert_as_one(
        data, size, TOLERANCE[dtype], make=lambda: perceptron(dtype), optimizer=xl.Adam(0.01)
    )
    for step in steps:
        assert step.group.sums == 100 + 2  # one in each, and two of texts before


@pytest.mark.parametrize(
    "loss",
    [
        xl.SoftmaxWithLoss([1.0, 2.0, 5.0]),
        xl.SoftmaxWithLoss(ignore_index=0),  # 0.6 of them
        xl.SoftmaxWithLoss([1.0, 2.0, 5.0], ignore_index=1, label_smoothing=0.1),
        xl.SoftmaxWithLoss(reduction="sum"),
    ],
    ids=["weights", "ignored", "both", "sum"],
)
@pytest.mark.parametrize("kind", [xl.TrainStep, xl.AccumulatedStep])
def test_parts_of_other_weights_and_sizes(xpv, loss, kind):
    more = {"parts": 3} if kind is xl.AccumulatedStep else {}
    more["optimizer"] = xl.SGD(0.001 if loss.reduction == "sum" else 0.05)
    assert_as_one(batches(xpv, [29, 30, 7, 29, 3] * 2), loss=loss, kind=kind, **more)


@pytest.mark.parametrize("compile", ["auto", False])
def test_ranks_without_samples_add_nothing(xpv, compile):
    data = batches(xpv, [1, 8, 2, 1, 8, 2, 1, 8, 2])
    steps = assert_as_one(data, 3, compile=compile, make=regular)
    assert int(steps[2].net.buffers["drop.count"][0]) == len(data)


@pytest.mark.parametrize(
    "loss",
    [xl.SoftmaxWithLoss(), xl.SoftmaxWithLoss([1.0, 2.0, 5.0], ignore_index=1), xl.Huber(),
     xl.SoftmaxWithLoss(reduction="sum")],
    ids=["labels", "weights", "huber", "sum"],
)  # fmt: skip
@pytest.mark.parametrize("kind", [xl.TrainStep, xl.AccumulatedStep])
def test_weights_of_samples_sum_over_the_ranks(xpv, loss, kind):
    more = {"parts": 3} if kind is xl.AccumulatedStep else {}
    data = []
    for seed, (x, t) in enumerate(batches(xpv, [29, 30, 7, 29, 3] * 2)):
        w = np.random.default_rng(seed).uniform(0.0, 2.0, int(x.shape[0]))
        w[len(w) // 2 + 1 :] *= seed % 2  # a rank without a weight
        t = x[:, :CLASSES] if isinstance(loss, xl.Huber) else t
        data.append((x, t, xpv.asarray(w, "float32")))
    assert_as_one(data, loss=loss, kind=kind, optimizer=xl.SGD(0.001), **more)


def test_a_part_of_which_all_labels_are_ignored(xpv):
    ((x, t),) = batches(xpv, [8])
    t = xpv.asarray(np.asarray([0, 1, 2, 1, -1, -1, -1, -1]))
    assert_as_one([(x, t)] * 4, loss=xl.SoftmaxWithLoss(ignore_index=-1))


def test_other_losses(xpv):
    data = [(x, x[:, :CLASSES]) for x, _ in batches(xpv, [9] * 5)]
    for loss in (xl.MeanSquaredError(), xl.Huber(), xl.MeanSquaredError(reduction="sum")):
        assert_as_one(data, loss=loss, optimizer=xl.SGD(0.001))


def test_clipping_sees_the_gradients_of_the_whole_batch(xpv):
    limit = 1e-3
    steps = assert_as_one(
        batches(xpv, [15] * 6),
        optimizer=xl.SGD(1.0),
        reduce_grads=lambda grads: xl.clip_by_norm(grads, limit),
    )
    assert steps[0].net.params is not None


def test_networks_for_images_and_sequences(xpv):
    def convolutional():
        return xl.Sequential(
            xl.Convolution.init(2, 4, 3, rng=0, padding=1),
            xl.Relu(),
            xl.MaxPooling(2),
            xl.Flatten(),
            xl.Affine.init(4 * 9, CLASSES, rng=1),
        )

    def transformer():
        attention = xl.Residual(
            xl.LayerNormalization.init(8), xl.MultiHeadAttention.init(8, 2, rng=2, causal=True)
        )
        return xl.Sequential(
            xl.Affine.init(4, 8, rng=0, flatten=False),
            attention,
            xl.Affine.init(8, CLASSES, rng=1, flatten=False),
        )

    assert_as_one(batches(xpv, [9] * 8, shape=(2, 6, 6)), make=convolutional)
    images = batches(xpv, [9] * 8, shape=(5, 4))
    data = [(x, xpv.asarray(np.arange(45).reshape(9, 5) % CLASSES)) for x, _ in images]
    assert_as_one(data, make=transformer)
    assert_as_one(data, make=transformer, loss=xl.SoftmaxWithLoss([1.0, 2.0, 5.0], ignore_index=0))


def regular():
    """Return a network with masks and running statistics."""
    return xl.Sequential(
        fc1=xl.Affine.init(6, 8, rng=0),
        drop=xl.Dropout(0.0, seed=1),
        fc2=xl.Affine.init(8, CLASSES, rng=1),
    )


def normalized(drop=0.0):
    return xl.Sequential(
        norm=xl.BatchNormalization.init(6),
        drop=xl.Dropout(drop, seed=1),
        fc=xl.Affine.init(6, CLASSES, rng=1),
    )


def test_running_statistics_are_averaged_by_samples(xpv):
    ((x, t),) = batches(xpv, [29])
    weights = xl.SoftmaxWithLoss([1.0, 2.0, 5.0])
    results = together(2, lambda group: trained(group, [(x, t)] * 3, normalized, weights))
    assert_same_arrays(results[0][0].net.arrays, results[1][0].net.arrays)
    buffers, host = results[0][0].net.buffers, to_numpy(x).astype("float64")
    mean = (1 - 0.9**3) * host.mean(0)
    var = 0.9**3 + (1 - 0.9**3) * (15 * host[:15].var(0) + 14 * host[15:].var(0)) / 29
    assert_close(buffers["norm.running_mean"], mean, 1e-6)
    assert_close(buffers["norm.running_var"], var, 1e-6)


class Fixed(xl.Layer):
    """A layer with a buffer that never changes, and one of whole numbers."""

    mask, calls = xl.Buffer(), xl.Buffer()

    def __init__(self):
        self.mask, self.calls = np.float32([0.1, 0.7, 0.3] * 2), np.zeros(1, "int32")
        self._variables.materialized = False

    def apply(self, arrays, x):
        return x * arrays["mask"], (arrays["mask"],)

    def vjp(self, cache, dy):
        return dy * cache[0], {}

    def updated_buffers(self, arrays, cache):
        return {"calls": arrays["calls"] + 1}


def test_buffers_that_do_not_change_keep_their_bits(xpv):
    def make():
        return xl.Sequential(Fixed(), *perceptron())

    for step in assert_as_one(batches(xpv, [29] * 4), 3, make=make):
        np.testing.assert_array_equal(to_numpy(step.net.buffers["0.mask"]), Fixed().mask)
        assert to_numpy(step.net.buffers["0.calls"]).tolist() == [4]


class Watched(xl.SoftmaxWithLoss):
    """A loss that notes which scores are 0."""

    def __init__(self, zeros):
        super().__init__()
        self.zeros = zeros

    def apply(self, arrays, scores, target):
        self.zeros.append((to_numpy(scores) == 0).tolist())
        return super().apply(arrays, scores, target)


def test_masks_differ_by_rank_and_the_first_has_those_of_one_process(xpv):
    ((_, t),) = batches(xpv, [8])
    ones = xpv.asarray(np.ones((2, 6), "float32"))

    def mask(group):
        """Return what a network for which each rank has the same samples drops in its 2nd step."""
        make = lambda: xl.Sequential(fc=xl.Affine.init(6, 3), drop=xl.Dropout(0.5))  # noqa: E731
        masks = []
        loss = Watched(masks)
        step = xl.TrainStep(make(), loss, xl.SGD(0.0), compile=False, group=group)
        step(ones, t[:2, ...])
        step(ones, t[:2, ...])
        return masks[1]

    (one,) = together(1, mask)
    first, *others = together(4, mask)
    assert first == one
    assert all(a != b for i, a in enumerate([first, *others]) for b in others[i:])


def test_masks_are_counted_alike_on_all_ranks(xpv):
    data = batches(xpv, [9, 8, 1, 9])  # 5 and 4 samples are other numbers of parts
    make = lambda: normalized(0.5)  # noqa: E731
    kind = {"kind": xl.AccumulatedStep, "parts": 4}
    results = together(2, lambda group: trained(group, data, make, **kind))
    assert_same_arrays(results[0][0].net.arrays, results[1][0].net.arrays)


@pytest.mark.parametrize("loss_scale", [None, 1024.0])
def test_mixed_precision(xpv, loss_scale):
    if xpv.backend == "numpy" and loss_scale is None:
        pytest.skip("NumPy has no bfloat16")
    dtype = "float16" if xpv.backend == "numpy" else "bfloat16"
    precision = xl.MixedPrecision(dtype, loss_scale=loss_scale)
    assert_as_one(batches(xpv, [29] * 8), tolerance=TOLERANCE["bfloat16"], precision=precision)


def test_overflow_on_one_rank_skips_the_step_on_all(xpv):
    ((x, t),) = batches(xpv, [8])
    huge = xpv.asarray(np.concatenate([to_numpy(x)[:7], 1e30 * to_numpy(x)[7:]]))
    precision = xl.MixedPrecision("float16", loss_scale="dynamic", init_scale=8.0)

    def work(group):
        step, _ = trained(group, [(x, t), (huge, t), (x, t), (huge, t)], precision=precision)
        return {**step.state["precision"], **step.net.arrays}

    with np.errstate(all="ignore"):
        first, second = together(2, work)
    assert_same_arrays(first, second)
    assert int(first["skipped_steps"]) == 2
    assert float(first["scale"]) == 2.0


def test_halves_of_parameters_travel_as_float32(xpv):
    def half():
        return perceptron().to(like=xpv.asarray(np.zeros(1, "float32"))).to(dtype="float16")

    data = [(xpv.asarray(to_numpy(x).astype("float16")), t) for x, t in batches(xpv, [30] * 4)]
    assert_as_one(data, tolerance=TOLERANCE["float16"], make=half, optimizer=xl.SGD(0.05))


def test_tied_parameters(xpv):
    def make():
        W = xpv.asarray(values((CLASSES, 4), 3, 0.5).astype("float32"))
        b = xpv.asarray(np.zeros(CLASSES, "float32"))
        return xl.Sequential(xl.Embedding(W), xl.Affine(W.T, b, flatten=False))

    tokens = [xpv.asarray(np.random.default_rng(i).integers(0, CLASSES, (9, 4))) for i in range(6)]
    assert_as_one([(x, x) for x in tokens], make=make)


def test_steps_stay_replayed(xpv):
    results = together(2, lambda group: trained(group, batches(xpv, [29, 30] * 4)))
    for step, _ in results:
        replays = taker(step).replays
        assert len(replays.replays) == 1 + step.group.rank  # of 15, and of 14 samples
        assert not replays._refused


def test_a_step_that_cannot_be_recorded_sums_once_in_each_update(xpv):
    """One rank has kinds of batches that the other has not: only it computes those twice."""

    def looks(grads):
        return {k: g * (1.0 if float(xl.namespace(g).sum(g)) < 1e9 else 0.0)
                for k, g in grads.items()}  # fmt: skip

    data = batches(xpv, [29, 30, 27, 28, 29, 30])  # of the second rank 14, 15, 13, 14
    for step in assert_as_one(data, reduce_grads=looks):
        assert step.group.sums == len(data) + 2


def test_the_first_step_begins_with_the_arrays_of_rank_0(xpv):
    ((x, t),) = batches(xpv, [8])

    def work(group):
        net = normalized().to(like=x)
        if group.rank:
            for variables in (net.params, net.buffers):
                variables.update({k: a + a * 0 + 1 for k, a in variables.items()})
        step, _ = trained(group, [(x, t)] * 2, lambda: net)
        return step.net.arrays

    first, second = together(2, work)
    assert_same_arrays(first, second)
    assert int(to_numpy(first["drop.count"])[0]) == 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda r: (perceptron(), xl.SGD(0.1 + 0.4 * r)),
            "SGD(lr=0.5, weight_decay=0.0) on rank 1",
        ),
        (lambda r: (xl.mlp([6, 3 + r, 3], rng=0), xl.SGD()), "0.W float32 (6, 4)"),
        (lambda r: ([perceptron, normalized][r](), xl.SGD()), "norm.gamma"),
    ],
    ids=["rate", "sizes", "layers"],
)
def test_ranks_that_differ_are_refused(xpv, make, words):
    (x, t) = batches(xpv, [8])[0]

    def work(group):
        net, optimizer = make(group.rank)
        step = xl.TrainStep(net, xl.SoftmaxWithLoss(), optimizer, group=group)
        with pytest.raises(ValueError, match=says("TrainStep: the processes differ: ")) as error:
            step(x, t)
        return str(error.value)

    first, second = together(2, work)
    assert first == second
    assert words in first
    assert "on rank 1" in first


def test_other_clipping_is_refused(xpv):
    (x, t) = batches(xpv, [8])[0]

    def work(group):
        clip = functools.partial(xl.clip_by_norm, limit=1.0 + group.rank)
        step = xl.TrainStep(
            perceptron(), xl.SoftmaxWithLoss(), xl.SGD(), group=group, reduce_grads=clip
        )
        words = "reduce_grads is partial(clip_by_norm, limit=2.0) on rank 1, partial(clip_by_norm, "
        with pytest.raises(ValueError, match=says(words)):
            step(x, t)

    together(2, work)


def test_a_group_of_one_is_no_group(xpv):
    data = batches(xpv, [29] * 4)
    one, _ = trained(None, data)
    alone, _ = trained(SelfGroup(), data)
    assert_same_arrays(alone.net.arrays, one.net.arrays)


@pytest.mark.parametrize("group", [2, "mpi", SelfGroup, object()])
def test_what_is_no_group(group, xpv):
    with pytest.raises(TypeError, match=says("TrainStep: group is")):
        xl.TrainStep(perceptron(), xl.SoftmaxWithLoss(), xl.SGD(), group=group)


def test_a_step_with_a_group_is_copied_and_pickled(xpv):
    step, _ = trained(SelfGroup(), batches(xpv, [8]))
    for again in (copy.deepcopy(step), pickle.loads(pickle.dumps(step))):
        assert again.group.size == 1
        assert again(*batches(xpv, [8])[0]) is not None
