"""Steps that do not depend on their history: on what was changed, refused or put in in between."""

import copy
import functools
import gc
import pickle

import numpy as np
import pytest
from changed_steps import EXACT, by_hand, full, net, same
from helpers import assert_same_bits, taker, values

import xplayers as xl
from xplayers import AccumulatedStep, TrainStep


@pytest.mark.only(*EXACT)
def test_kinds_that_are_computed_anew(xpv):
    """Nine sizes: one more than there are replays."""

    def history(step, take):
        for _ in range(3):
            for n in range(1, 9):
                take(n)
        take(9)
        for _ in range(5):
            take(1)

    assert same(xpv, history, net)["count "] == 30
    same(xpv, history)


def test_a_batch_that_is_refused_changes_nothing(xpv):
    def history(step, take):
        for _ in range(3):
            take(4)
        with pytest.raises(ValueError, match="label 7"):
            step(xpv.asarray(values((4, 6)), "float32"), xpv.asarray(np.full(4, 7)))
        for n in (4, 5, 4):
            take(n)

    if xpv.backend in EXACT:
        same(xpv, history, loop=False)


def empty(step, take):
    for n in (4, 4, 4, 0, 4, 0, 4, 4):
        take(n)


def test_empty_batches(xpv):
    assert same(xpv, empty, net)["count "] == 8


def put_in(step, xpv):
    step.net.params["0.W"] = xpv.asarray(np.zeros((6, 6), "float32"))


def set_attribute(step, xpv):
    step.net[0].W = xpv.asarray(np.zeros((6, 6), "float32"))


def move(step, xpv):
    step.net.to(dtype="float32")


def forward(step, xpv):
    step.net.forward(xpv.asarray(values((5, 6)), "float32"))
    step.net.zero_grads()


def load(step, xpv):
    step.net.params.update({k: p * 0.5 for k, p in step.net.params.items()})


def restore(step, xpv):
    step.state = {k: v for k, v in step.state.items()}


def write_over(step, xpv):
    if xpv.backend != "jax":
        step.net.params["0.b"][...] = 0.25


@pytest.mark.parametrize(
    "change", [put_in, set_attribute, move, forward, load, restore, write_over]
)
@pytest.mark.parametrize("between", [0, 1])
def test_arrays_that_were_put_in(change, between, xpv):
    if xpv.backend == "jax" and not (between and change in (put_in, move, restore)):
        pytest.skip("it compiles for seconds, and has no homes")

    def history(step, take):
        for _ in range(3):
            take(8)
        change(step, xpv)
        for _ in range(between):
            take(5)
        for _ in range(4):
            take(8)

    same(xpv, history, full if xpv.backend in EXACT else net)


def another_optimizer(step):
    new = xl.AdamW(weight_decay=0.3)
    new.state, step.optimizer = step.optimizer.state, new


def setting(name, value):
    def change(step):
        setattr(step.optimizer, name, value)

    change.__name__ = f"{name} {value}"
    return change


CHANGES = [
    another_optimizer,
    *[setting(*pair) for pair in (
        ("beta1", 0.5), ("beta2", 0.9), ("eps", 1e-2), ("eps", 0.0), ("weight_decay", 0.1),
        ("lr", 0.05), ("lr", xl.schedules.Exponential(0.1, 2)), ("eps_hat", False),
    )],
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_what_a_step_is_made_of_may_change(change, xpv):
    if xpv.backend == "jax" and change.__name__ in ("beta2 0.9", "eps 0.01", "lr 0.05"):
        pytest.skip("it compiles for seconds, and others are alike")

    def history(step, take):
        for _ in range(3):
            take(4)
        change(step)
        for _ in range(4):
            take(4)

    same(xpv, history, net)


def test_settings_of_layers_and_losses_may_change(xpv):
    def history(step, take):
        for _ in range(3):
            take(4)
        step.net[2].rate = 0.7
        for _ in range(3):
            take(4)
        step.loss.label_smoothing = 0.2
        for _ in range(3):
            take(4)
        step.loss = xl.SoftmaxWithLoss(ignore_index=1)
        for _ in range(3):
            take(4)

    same(xpv, history, lambda: net(xl.Dropout(0.3)), loop=xpv.backend in EXACT)


class Factors(xl.Layer):
    """Has a list, which can change without an attribute being set."""

    def __init__(self):
        self.factors = [2.0]

    def apply(self, arrays, x):
        return x * self.factors[0], ()

    def vjp(self, cache, dy):
        return dy * self.factors[0], {}


def test_a_list_may_change_in_place(xpv):
    def history(step, take):
        for _ in range(4):
            take(4)
        step.net[2].factors[0] = -1.0
        for _ in range(4):
            take(4)

    same(xpv, history, lambda: net(Factors()))


class Keeping(xl.Layer):
    """Leaves something behind: what people do to look at it later."""

    def apply(self, arrays, x):
        self.y = x * 2.0
        return self.y, ()

    def vjp(self, cache, dy):
        return dy * 2.0, {}


@pytest.mark.only(*EXACT)
def test_what_a_layer_leaves_behind_is_an_array(xpv):
    def history(step, take):
        for _ in range(6):
            take(4)
            assert type(step.net[2].y) is type(step.net.params["0.W"])

    same(xpv, history, lambda: net(Keeping()))


def test_reductions_that_are_made_anew(xpv):
    same_for = (
        5 if xpv.backend in EXACT else 1
    )  # a replay comes after two, what JAX compiles at once
    for make in (
        lambda f: functools.partial(lambda grads, f: {k: g * f for k, g in grads.items()}, f=f),
        lambda f: lambda grads: {k: g * f for k, g in grads.items()},
    ):

        def history(step, take, make=make):
            for i in range(same_for + 3):
                step.reduce_grads = make(1.0 if i < same_for else 0.5)
                gc.collect()
                take(4)

        same(xpv, history, net, loop=False)


def test_parts_may_change(xpv):
    def history(step, take):
        for parts in (2, 2, 2, 3, 3, 1, 2):
            step.parts = parts
            take(6)

    same(xpv, history, net, loop=False, step=AccumulatedStep, parts=2)


@pytest.mark.only("numpy")
def test_files_mapped_to_memory_are_replayed(xpv, tmp_path):
    np.save(tmp_path / "x.npy", values((32, 6)).astype("float32"))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    step = TrainStep(net(), xl.SoftmaxWithLoss(), xl.SGD())
    for i in range(0, 32, 8):
        step(x[i : i + 8], np.arange(8) % 3)
    assert len(taker(step).replays.replays) == 1


def test_steps_are_copied_and_pickled(xpv):
    def history(step, take):
        for _ in range(3):
            take(4)
        if isinstance(take.__defaults__, tuple):  # the copies go on as the step itself
            for again in (copy.deepcopy(step), pickle.loads(pickle.dumps(step))):
                x = xpv.asarray(values((4, 6)), "float32")
                other = copy.deepcopy(step)
                a, b = (s(x, xpv.asarray(np.arange(4) % 3)) for s in (again, other))
                assert_same_bits(a, b, "loss")
        take(4)

    same(xpv, history, net)


def test_backward_after_an_update(xpv):
    """The cache has the arrays of forward, which an update in place has written over."""
    x, t = xpv.asarray(values((4, 6)), "float32"), xpv.asarray(np.arange(4) % 3)
    step = TrainStep(net(), xl.SoftmaxWithLoss(), xl.SGD())
    for update in (
        lambda: by_hand(step, x, t),
        lambda: step(x, t),
        lambda: step.optimizer.update(
            step.net.params, {k: p * 0.5 for k, p in step.net.params.items()}
        ),
    ):
        step(x, t)
        y = step.net.forward(x)
        update()
        if xpv.backend == "jax":
            step.net.zero_grads()
            continue
        with pytest.raises(RuntimeError, match="have been overwritten since forward"):
            step.net.backward(y)
        step.net.zero_grads()
    y = step.net.forward(x)
    step.net.params["0.W"] = step.net.params["0.W"] * 2.0  # another array: the old one is there
    step.net.backward(y)


LIMIT = 1.0


def by_global(grads):
    return xl.clip_by_norm(grads, LIMIT)


def with_limit(limit):
    def clip(grads, *, limit=limit):
        return xl.clip_by_norm(grads, limit)

    return clip


def test_functions_that_use_what_is_around_them(xpv, monkeypatch):
    mask, limits = xpv.asarray(np.asarray(0.5, "float32")), [0.1]

    def history(step, take):
        for reduce in (
            by_global,
            with_limit(1.0),
            with_limit(0.01),
            lambda grads: xl.clip_by_norm(grads, limits[0]),
            lambda grads: {k: g * (2.0 * mask) for k, g in grads.items()},
            lambda grads: {k: g + 0.01 * step.net.params[k] for k, g in grads.items()},
        ):
            step.reduce_grads = reduce
            for i in range(7):
                if i == 3:
                    monkeypatch.setitem(globals(), "LIMIT", 0.01)
                    limits[0] *= 0.5
                    if xpv.backend in ("numpy", "torch"):
                        mask[...] = mask * 0.5
                take(4, lr=0.0 if i < 3 else 0.1)
            monkeypatch.setitem(globals(), "LIMIT", 1.0)
        limits[0] = 0.1
        if xpv.backend in ("numpy", "torch"):
            mask[...] = 0.5

    same(xpv, history, net, xl.SGD, loop=False)


@pytest.mark.only("numpy", "torch")
@pytest.mark.parametrize("lie", ["turned", "expanded"])
def test_parameters_that_lie_otherwise(lie, xpv):
    """In another order, whose products have other bits; or on top of themselves."""

    def make():
        layers = net()
        if lie == "turned":
            layers[0].W = xpv.asarray(values((6, 6)), "float32").T
        else:
            one = xpv.asarray(np.asarray([0.5], "float32"))
            layers[0].b = xl.namespace(one).broadcast_to(one, (6,))
        return layers.to(like=xpv.asarray([1.0], "float32"))

    def history(step, take):
        for _ in range(6):
            take(4)

    same(xpv, history, make)


@pytest.mark.only("numpy", "torch")
def test_buffers_that_share_memory(xpv):
    def make():
        layers = full()
        layers.to(like=xpv.asarray([1.0], "float32"))
        layers[2].running_var = layers[2].running_mean
        return layers

    def history(step, take):
        for _ in range(5):
            take(4)

    same(xpv, history, make)


@pytest.mark.only("torch")
def test_parameters_of_the_inference_mode(xpv):
    def history(step, take):
        take(4)
        with xpv.xp.inference_mode():
            for _ in range(3):
                take(4)
        for _ in range(3):
            take(4)

    same(xpv, history)


@pytest.mark.parametrize("compile", ["auto", False])
def test_a_first_step_that_is_refused_leaves_no_state(xpv, compile):
    step = TrainStep(net(), xl.SoftmaxWithLoss(), xl.Adam(), compile=compile)
    x = xpv.asarray(values((8, 6)), "float32")
    with pytest.raises(TypeError):
        step(x, xpv.asarray(values((8,)), "float32"))  # no labels
    assert step.state == {}
    assert step.optimizer.state is None
    step(x, xpv.asarray(np.arange(8) % 3))
    state = step.state["optimizer"]
    with pytest.raises(TypeError):
        step(x, xpv.asarray(values((8,)), "float32"))
    assert step.optimizer.state is state
    assert int(state["count"]) == 1


@pytest.mark.only("numpy", "torch")
def test_buffers_that_come_to_share_memory(xpv):
    """Two that were one array are two after the next step, as in the loop."""

    def history(step, take):
        take(8), take(8), take(8)
        buffers = step.net.buffers
        buffers["2.running_var"] = buffers["2.running_mean"]
        take(8), take(8), take(8), take(8)

    same(xpv, history, lambda: net(xl.BatchNormalization.init(6)))


@pytest.mark.only("numpy", "torch")
def test_a_change_while_another_kind_is_recorded(xpv):
    """Replays of other kinds were made of what it was before."""

    class Factor(xl.Layer):
        def __init__(self):
            self.factor = 1.0

        def apply(self, arrays, x):
            if x.shape[0] == 3:
                self.factor = 2.0
            return x * self.factor, (x,)

        def vjp(self, cache, dy):
            return dy * self.factor, {}

    losses = []
    for compiled in ("auto", False):
        net = xl.Sequential(xl.Affine.init(5, 4, rng=0), Factor())
        step = TrainStep(net, xl.SoftmaxWithLoss(), xl.SGD(0.1), compile=compiled)
        losses.append([])
        for n in (4, 4, 4, 4, 4, 3, 4, 4, 4, 3, 4):
            x = xpv.asarray(values((n, 5), n), "float32")
            losses[-1].append(float(step(x, xpv.asarray(np.arange(n)))))
    assert losses[0] == losses[1]
