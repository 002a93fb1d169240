"""Steps that are replayed: the same bits as steps that are computed anew."""

import pickle
import weakref

import numpy as np
import pytest
from helpers import assert_same_arrays, taker, to_numpy, values
from replay_code import one_call
from replayed import compare, dense, each_word, images, labels, mlp, pair, sequences, vectors, words

import xplayers as xl
from xplayers import AccumulatedStep, MixedPrecision, TrainStep
from xplayers.accelerate.host import convolution, memory, pooling
from xplayers.accelerate.replay.flat import buffer_of

pytestmark = pytest.mark.only("numpy", "readonly", "torch")  # whose steps are replayed


class Noise(xl.Layer):
    """Adds what no function of arrays can give: random numbers."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def apply(self, arrays, x):
        noise = self.rng.standard_normal(tuple(x.shape)).astype("float32")
        return x + xl.namespace(x).asarray(noise), ()

    def vjp(self, cache, dy):
        return dy, {}


class Looking(xl.Layer):
    """Does what depends on a value."""

    def apply(self, arrays, x):
        return (x * 2.0 if float(x[0, 0]) > 0 else x * 3.0), ()

    def vjp(self, cache, dy):
        return dy * 2.0, {}


def tied():
    twice = xl.Affine.init(6, 6, rng=0)
    return xl.Sequential(twice, xl.Tanh(), twice, xl.Affine.init(6, 3, rng=1))


NETS = {
    "mlp": (lambda: mlp(xl.Relu()), vectors, labels),
    "dense targets": (lambda: mlp(xl.Gelu()), vectors, dense),
    "activations": (
        lambda: mlp(xl.Elu(), xl.Sigmoid(), xl.Silu(), xl.Softplus(), xl.LeakyRelu(), xl.Softmax()),
        vectors, labels),
    "normalization": (
        lambda: mlp(xl.BatchNormalization.init(5), xl.LayerNormalization.init(5), xl.Dropout(0.3)),
        vectors, labels),
    "tied": (tied, vectors, labels),
    "images": (
        lambda: xl.Sequential(
            xl.Convolution.init(2, 4, 3, padding="same", rng=0), xl.BatchNormalization.init(4),
            xl.Relu(), xl.MaxPooling(2), xl.Convolution.init(4, 3, 3, stride=2, rng=1),
            xl.Flatten(), xl.Affine.init(3, 3, rng=2)),
        images, labels),
    "means of images": (
        lambda: xl.Sequential(
            xl.Convolution.init(2, 3, 3, rng=0), xl.AveragePooling(2), xl.GlobalAveragePooling()),
        images, labels),
    "residual": (
        lambda: xl.Sequential(xl.Residual(xl.Affine.init(6, 6, rng=0), xl.Relu()),
                              xl.Affine.init(6, 3, rng=1)),
        vectors, labels),
    "recompute": (
        lambda: xl.Sequential(xl.Recompute(mlp(xl.Relu()))), vectors, labels),
    "lstm": (
        lambda: xl.Sequential(xl.Lstm.init(6, 4, rng=0),
                              xl.Affine.init(4, 3, rng=1, flatten=False)),
        sequences, each_word),
    "attention": (
        lambda: xl.Sequential(
            xl.Embedding.init(11, 8, rng=0), xl.MultiHeadAttention.init(8, 2, causal=True, rng=1),
            xl.Affine.init(8, 3, rng=2, flatten=False)),
        words, each_word),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_networks(name, xpv):
    net, x, t = NETS[name]
    compare(xpv, pair(net), x, t)


@pytest.mark.parametrize("name", ["SGD", "Momentum", "Nesterov", "AdaGrad", "RMSprop", "AdamW"])
def test_optimizers(name, xpv):
    net, x, t = NETS["mlp"]
    compare(xpv, pair(net, getattr(xl, name)), x, t)


@pytest.mark.parametrize(
    "loss",
    [
        lambda: xl.SoftmaxWithLoss(class_weights=[1.0, 2.0, 0.5]),
        lambda: xl.SoftmaxWithLoss(label_smoothing=0.1, reduction="sum"),
        lambda: xl.SoftmaxWithLoss(ignore_index=1),
    ],
)
def test_losses(loss, xpv):
    net, x, t = NETS["mlp"]
    compare(xpv, pair(net, loss=loss), x, t)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": lambda: xl.Adam(lr=xl.schedules.Cosine(0.1, 5))},
        {"reduce_grads": lambda g: xl.clip_by_norm(g, 0.1)},
        {"make": AccumulatedStep, "parts": 2},
        {"precision": MixedPrecision("float16")},
    ],
    ids=["schedule", "clipping", "parts", "precision"],
)
def test_schedules_clipping_and_parts(options, xpv):
    net, x, t = NETS["normalization"]
    compare(xpv, pair(net, **options), x, t)


def test_what_cannot_be_replayed_is_computed(xpv):
    _, x, t = NETS["mlp"]
    for layer in (Noise, Looking):
        compare(xpv, pair(lambda layer=layer: mlp(layer())), x, t, kinds=0)


def test_rate_and_options_may_change(xpv):
    net, x, t = NETS["mlp"]
    steps = pair(net)
    for lr, decay in ((0.1, 0.0), (0.2, 0.0), (0.3, 0.5), (0.3, 0.5)):
        for step in steps:
            step.optimizer.lr, step.optimizer.weight_decay = lr, decay
        compare(xpv, steps, x, t, sizes=(4, 4, 4), kinds=1 + (decay > 0))
    for step in steps:
        for _ in range(3):
            step(xpv.asarray(x(4)), xpv.asarray(t(4)), lr=0.01)
    compare(xpv, steps, x, t, sizes=(4,), kinds=2)


def test_arrays_that_are_put_in_are_taken_up(xpv):
    net, x, t = NETS["normalization"]
    steps = pair(net)
    compare(xpv, steps, x, t)
    for step in steps:
        step.net.params["0.b"] = xpv.asarray(np.ones(5, "float32"))
        step.net.buffers["3.count"] = xpv.asarray(np.zeros(1, "int32"))
    compare(xpv, steps, x, t)
    for step in steps:
        step.state = {}
    compare(xpv, steps, x, t)
    for step in steps:
        step.optimizer.state["m"]["0.b"] = xpv.asarray(np.ones(5, "float32"))
    compare(xpv, steps, x, t)


def test_values_are_checked_in_each_step(xpv):
    net, x, t = NETS["mlp"]
    step, _ = pair(net)
    for _ in range(3):
        step(xpv.asarray(x(4)), xpv.asarray(t(4)))
    before = {k: np.array(to_numpy(p)) for k, p in step.net.params.items()}
    with pytest.raises(ValueError, match="label 3 is out of range"):
        step(xpv.asarray(x(4)), xpv.asarray(t(4) + 1))
    assert_same_arrays(step.net.params, before)
    net, x, t = NETS["attention"]
    step, _ = pair(net)
    for _ in range(3):
        step(xpv.asarray(x(4)), xpv.asarray(t(4)))
    with pytest.raises(ValueError, match="x has 11; expected 0 to 10 for a table of 11 rows"):
        step(xpv.asarray(x(4) + 1), xpv.asarray(t(4)))


def test_losses_are_arrays_of_their_own(xpv):
    net, x, t = NETS["mlp"]
    step, _ = pair(net)
    kept = [step(xpv.asarray(x(4)), xpv.asarray(t(4))) for _ in range(5)]
    assert len({float(v) for v in kept}) == 5


def test_parameters_and_moments_are_flat(xpv):
    net, x, t = NETS["mlp"]
    step, _ = pair(net)
    for _ in range(3):
        step(xpv.asarray(x(4)), xpv.asarray(t(4)))
    state = step.state["optimizer"]
    for arrays in (step.net.params, state["m"], state["v"]):
        flat = buffer_of(list(arrays.values()))
        assert flat is not None
        flat[...] = 2.0
        assert all(float(a.min()) == 2.0 for a in arrays.values())


@pytest.mark.only("numpy")  # elsewhere the norm is an array
def test_a_limit_of_the_norm_takes_two_calls(xpv):
    """One for the norm, one for all gradients, which the optimizer takes in one more."""
    sources = []
    for limit in (None, 0.1):
        net, x, t = NETS["mlp"]
        clip = None if limit is None else lambda g: xl.clip_by_norm(g, 0.1)
        step, _ = pair(net, reduce_grads=clip)
        for _ in range(3):
            step(xpv.asarray(x(4)), xpv.asarray(t(4)))
        (replay,) = taker(step).replays.replays.values()
        sources.append(replay.source.splitlines())
    plain, clipped = map(len, sources)
    arithmetic = 6  # root, two units, the larger one, quotient, number
    assert plain + 2 <= clipped <= plain + 2 + arithmetic


def test_memory_of_the_user_is_left_alone(xpv):
    flat = xpv.asarray(np.full(64, 7.0, "float32"))
    if xpv.backend == "readonly":
        pytest.skip("it cannot be written")
    W, b = xl.namespace(flat).reshape(flat[:16], (4, 4)), flat[16:20]
    step = TrainStep(
        xl.Sequential(xl.Affine(W, b)), xl.SoftmaxWithLoss(), xl.SGD(0.1, weight_decay=0.5)
    )
    for _ in range(4):
        step(xpv.asarray(values((3, 4)), "float32"), xpv.asarray(labels(3)))
    assert float(flat[20:].min()) == float(flat[20:].max()) == 7.0


def test_many_kinds_of_batches(xpv):
    net, x, t = NETS["mlp"]
    steps = pair(net)
    for _ in range(2):
        compare(xpv, steps, x, t, sizes=[n for n in range(2, 30)], kinds=0)
    for n in (2, 3):
        compare(xpv, steps, x, t, sizes=[n] * 3, kinds=n - 1)
    compare(xpv, steps, x, t, sizes=[n for n in range(2, 14) for _ in range(3)], kinds=8)
    assert len(taker(steps[0]).replays._recordings) <= 8


def test_a_bad_batch_does_not_end_the_replays_of_its_kind(xpv):
    net, x, t = NETS["mlp"]
    step, _ = pair(net)
    for shift in (0, 1, 0, 0):
        try:
            step(xpv.asarray(x(4)), xpv.asarray(t(4) + shift))
        except ValueError:
            assert shift
    assert len(taker(step).replays.replays) == 1


def test_a_network_is_pickled_between_steps(xpv):
    net, x, t = NETS["mlp"]
    step, _ = pair(net)
    for _ in range(3):
        step(xpv.asarray(x(4)), xpv.asarray(t(4)))
    again = pickle.loads(pickle.dumps(step.net))
    for network in (step.net, again):
        other = TrainStep(network, xl.SoftmaxWithLoss(), xl.SGD())
        for _ in range(3):
            other(xpv.asarray(x(4)), xpv.asarray(t(4)))
    assert_same_arrays(step.net.params, again.params)


def test_losses_that_are_views_are_arrays_of_their_own(xpv):
    class Total(xl.MeanSquaredError):
        def apply(self, arrays, scores, target):
            _, cache = super().apply(arrays, scores, target)
            xp = xl.namespace(scores)
            one = xp.reshape(xp.sum(scores * scores), (1, 1))
            return xp.reshape(xp.sum(one, axis=1), ()), cache

    net, x, t = NETS["dense targets"]
    step, _ = pair(net, loss=Total)
    kept = [step(xpv.asarray(x(4)), xpv.asarray(t(4))) for _ in range(5)]
    assert len({float(v) for v in kept}) == 5


MADE, ALIVE = [], []  # no attributes of a layer: it would be another one in each step


@one_call
def makes(x):
    y = x + 1.0
    MADE[:] = [weakref.ref(y)]
    return y


@one_call
def looks(x):
    ALIVE.append(MADE[0]() is not None)
    return x * 1.0


class Fleeting(xl.Layer):
    """Its first function makes an array that only the operation after it reads."""

    def apply(self, arrays, x):
        return looks(xl.namespace(x).exp(makes(x))), ()

    def vjp(self, cache, dy):
        return dy, {}


@pytest.mark.only("numpy", "torch")
def test_arrays_go_with_their_last_use(xpv):
    layer = Fleeting()
    step = TrainStep(
        xl.Sequential(layer, xl.Affine.init(6, 3, rng=0)), xl.SoftmaxWithLoss(), xl.SGD()
    )
    for _ in range(5):
        step(xpv.asarray(vectors(4)), xpv.asarray(labels(4)))
    assert taker(step).replays.replays
    assert ALIVE[-3:] == [False] * 3


@pytest.mark.only("numpy")
def test_results_of_convolution_and_pooling_have_places(xpv, monkeypatch):
    """Of megabytes: a step takes no memory that is not there after the one before."""
    x = values((64, 1, 32, 32)).astype("float32")
    layers = [xl.Convolution.init(1, 16, 3, padding=1, rng=0), xl.MaxPooling(2)]
    layers += [xl.Convolution.init(16, 32, 3, padding=1, rng=1), xl.MaxPooling(2)]
    head = [xl.Flatten(), xl.Affine.init(32 * 8 * 8, 3, rng=2)]
    step = TrainStep(xl.Sequential(*layers, *head), xl.SoftmaxWithLoss(), xl.SGD())
    for _ in range(3):
        step(x, labels(64))
    taken = []

    def empty(shape, dtype):
        taken.append(shape)
        return np.empty(shape, dtype)

    for module in (convolution, pooling):
        monkeypatch.setattr(module, "empty", empty)
    step(x, labels(64))
    assert taker(step).replays.replays
    assert all(len(shape) != 4 or shape[0] < 64 for shape in taken), taken


@pytest.mark.only("numpy")
def test_what_a_recording_has_computed_is_given_back(xpv):
    memory.let_go()
    x = values((64, 16, 64, 64)).astype("float32")
    net = xl.Sequential(xl.Relu(), xl.GlobalAveragePooling(), xl.Affine.init(16, 3, rng=0))
    step = TrainStep(net, xl.SoftmaxWithLoss(), xl.SGD())
    for _ in range(2):
        step(x, labels(64))
        kept = memory._pool
        free = [n for n, a in kept.items() for i in range(len(a))
                if memory._references(a, i) == memory._FREE]  # fmt: skip
        assert not free
