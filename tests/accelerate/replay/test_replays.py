"""When a step is recorded, replayed or computed anew, and where its results are written."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_same_bits, values

import xplayers as xl
from xplayers.accelerate.replay import steps as module
from xplayers.accelerate.replay.recording import Tracer
from xplayers.accelerate.replay.steps import MOST, REMEMBERED, Replays

pytestmark = pytest.mark.only("numpy", "torch")


def step(params, buffers, loss, state, x, *, numbers=None):
    """Return the value of a step, and the next parameters, buffers and state."""
    xp = xl.namespace(x)
    rate = (numbers or {}).get("lr", 0.5)
    value = xp.sum(params["W"] * x) + xp.sum(loss["w"])
    moment = state["m"]["W"] * 0.5 + x
    new = {"W": params["W"] - moment * rate, "b": params["b"] * 2.0}
    return value, new, {"mean": buffers["mean"] + x}, {"m": {"W": moment}, "t": state["t"] + 1}


class Loop:
    """Steps on trees of arrays, recorded and replayed, beside the same steps without that."""

    def __init__(self, xpv, function=step):
        self.xpv, self.function, self.replays = xpv, function, Replays()
        self.trees, self.plain = self.made(), self.made()
        self.calls = []  # with tracers, or not
        self.hold()

    def made(self):
        W, b, mean, m = (self.xpv.asarray(values((2, 3), i), "float32") for i in range(4))
        t = self.xpv.asarray(np.asarray(1, "int32"))
        w = self.xpv.asarray(np.ones(2), "float32")
        return {"W": W, "b": b}, {"mean": mean}, {"w": w}, {"m": {"W": m}, "t": t}

    def hold(self):
        params, buffers, _, state = self.trees
        self.replays.hold([params, buffers, {}, state["m"]], self.trees)

    def counted(self, *given, **options):
        self.calls.append(isinstance(given[4], Tracer))
        return self.function(*given, **options)

    def step(self, key="key", seed=7, effects="none", **numbers):
        """Do a step and say how: a number of calls of the function, 0 for a replay."""
        x = self.xpv.asarray(values((2, 3), seed), "float32")
        self.calls.clear()
        replay = self.replays.find(key, self.trees)
        if replay is not None:
            value = replay(x, *numbers.values())
        else:
            value, params, buffers, state = self.replays.record(
                key, self.counted, self.trees, (x,), numbers, lambda: effects
            )
            self.trees = params, buffers, self.trees[2], state
            self.hold()
        expected, params, buffers, state = self.function(*self.plain, x, numbers=numbers)
        self.plain = params, buffers, self.plain[2], state
        assert_same_bits(value, expected)
        assert not isinstance(value, Tracer if self.calls[-1:] == [False] else (np.generic, Tracer))
        self.compare()
        return len(self.calls)

    def compare(self):
        for a, b in zip(leaves(self.trees), leaves(self.plain), strict=True):
            assert_same_bits(a, b)


def leaves(tree):
    if isinstance(tree, dict):
        return [a for k in sorted(tree) for a in leaves(tree[k])]
    return [a for v in tree for a in leaves(v)] if isinstance(tree, tuple) else [tree]


def test_the_third_step_is_replayed(xpv):
    loop = Loop(xpv)
    homes = leaves(loop.trees)
    assert [loop.step(seed=i) for i in range(5)] == [1, 1, 0, 0, 0]
    assert [a is b for a, b in zip(leaves(loop.trees), homes, strict=True)] == [True] * len(homes)


def test_numbers_are_inputs(xpv):
    loop = Loop(xpv)
    for lr in (0.1, 0.2, 0.3, 0.4):
        loop.step(lr=lr)
    assert len(loop.replays.replays) == 1


def test_each_kind_has_a_replay_of_its_own(xpv):
    loop = Loop(xpv)
    for key in range(MOST):
        assert [loop.step(key) for _ in range(3)] == [1, 1, 0]
    assert [loop.step(MOST) for _ in range(4)] == [1] * 4  # there is no room for another one
    assert loop.calls == [False]
    assert [loop.step(key) for key in range(MOST)] == [0] * MOST
    assert not loop.replays._recordings
    loop.replays.forget()
    assert [loop.step(0) for _ in range(3)] == [1, 1, 0]


def test_a_kind_that_came_once_is_forgotten_in_the_end(xpv):
    loop = Loop(xpv)
    for key in range(MOST + 1):
        loop.step(key)
    assert list(loop.replays._recordings) == list(range(1, MOST + 1))
    assert [loop.step(key) for key in (1, 1)] == [1, 0]
    assert [loop.step(key) for key in (0, 0, 0)] == [1, 1, 0]


def looking(params, buffers, loss, state, x, *, numbers=None):
    value, *new = step(params, buffers, loss, state, x, numbers=numbers)
    return (value, *new) if float(value) != 0.25 else (value * 2.0, *new)


def drawing(params, buffers, loss, state, x, *, numbers=None):
    """Return what is another one in each step."""
    value, params, buffers, state = step(params, buffers, loss, state, x, numbers=numbers)
    return value, params | {"b": params["b"] * float(next(drawn))}, buffers, state


def without_the_batch(params, buffers, loss, state, x, *, numbers=None):
    _, *new = step(params, buffers, loss, state, x, numbers=numbers)
    return xl.namespace(x).ones((2,), dtype=x.dtype), *new


def test_what_cannot_be_written_down_is_computed_from_then_on(xpv):
    for function in (looking, without_the_batch):
        loop = Loop(xpv, function)
        homes = leaves(loop.trees)
        assert not loop.replays.is_refused("key")
        assert loop.step() == 2
        assert loop.calls == [True, False]
        assert loop.replays.is_refused("key")
        assert [loop.step() for _ in range(3)] == [1, 1, 1]
        assert loop.calls == [False]
        assert all(a is b for a, b in zip(leaves(loop.trees), homes, strict=True))
        assert loop.step("another") == 2


def test_what_differs_from_step_to_step_is_computed(xpv):
    global drawn
    loop = Loop(xpv, drawing)
    for n in range(4):
        drawn = iter([n, n])  # for the step and the one beside it
        loop.step()
        assert loop.replays.is_refused("key") == (n > 0)
    assert not loop.replays.replays


def test_the_kinds_that_are_refused_are_remembered_for_a_while(xpv):
    loop = Loop(xpv, looking)
    for key in range(REMEMBERED):
        loop.step(key)
    assert all(map(loop.replays.is_refused, range(REMEMBERED)))
    loop.step(REMEMBERED)
    assert not loop.replays.is_refused(0)
    assert all(map(loop.replays.is_refused, range(1, REMEMBERED + 1)))


def test_what_a_step_does_besides_refuses_it(xpv):
    loop = Loop(xpv)
    assert loop.step(effects="some") == 1
    assert loop.replays.is_refused("key")
    loop = Loop(xpv)
    assert loop.step(effects="traces") == 2
    assert loop.replays.is_refused("key")


def test_an_error_is_that_of_the_step(xpv):
    def failing(*given, numbers=None):
        raise ArithmeticError

    loop = Loop(xpv, failing)
    for _ in range(2):
        with pytest.raises(ArithmeticError):
            loop.step()
        assert loop.calls == [True, False]
        assert not loop.replays.is_refused("key")  # of the next batch it may be right


def test_other_arrays_end_all_replays(xpv):
    def other_array(loop):
        for trees in (loop.trees, loop.plain):
            trees[0]["b"] = loop.xpv.asarray(np.ones((2, 3)), "float32")

    def other_moment(loop):
        for trees in (loop.trees, loop.plain):
            trees[3]["m"]["W"] = loop.xpv.asarray(np.ones((2, 3)), "float32")

    def other_tree(loop):
        loop.trees = (dict(loop.trees[0]), *loop.trees[1:])

    def another_name(loop):
        loop.trees[0]["c"] = loop.trees[0]["b"]

    for change in (other_array, other_moment, other_tree):
        loop = Loop(xpv)
        assert [loop.step(key) for key in "aaabbb"] == [1, 1, 0] * 2
        change(loop)
        assert loop.replays.find("a", loop.trees) is None
        assert not loop.replays.replays
        loop.hold()
        assert [loop.step(key) for key in "aaabbb"] == [1, 1, 0] * 2
    loop = Loop(xpv)
    assert [loop.step() for _ in range(3)] == [1, 1, 0]
    another_name(loop)
    assert loop.replays.find("key", loop.trees) is None


def exchanged(params, buffers, loss, state, x, *, numbers=None):
    """Return old values under other names."""
    value, _, buffers, state = step(params, buffers, loss, state, x, numbers=numbers)
    return value, {"W": params["b"], "b": params["W"]}, buffers, state


def exchanged_and_looking(*given, numbers=None):
    looking(*given, numbers=numbers)
    return exchanged(*given, numbers=numbers)


def turned_and_looking(params, buffers, loss, state, x, *, numbers=None):
    """Return views of old values."""
    value, _, buffers, state = looking(params, buffers, loss, state, x, numbers=numbers)
    xp = xl.namespace(x)
    return value, {"W": xp.flip(params["W"], axis=0), "b": params["W"][:, :]}, buffers, state


@pytest.mark.parametrize("function", [exchanged, exchanged_and_looking, turned_and_looking])
def test_new_values_that_are_old_ones(function, xpv):
    loop = Loop(xpv, function)
    for _ in range(4):
        loop.step()


def test_the_order_of_names_decides_nothing(xpv):
    loop = Loop(xpv)
    loop.step()
    params, buffers, loss, state = loop.trees
    loop.trees = ({"b": params["b"], "W": params["W"]}, buffers, loss, {"t": state["t"], **state})
    loop.hold()
    loop.step()
    assert list(loop.trees[0]) == ["b", "W"]
    assert loop.step() == 0


@pytest.mark.parametrize(
    "other",
    [
        lambda xp, a: a[:1, :],
        lambda xp, a: xp.astype(a, xp.float64),
        lambda xp, a: 3.0,
        lambda xp, a: {"inner": a},
    ],
    ids=["shape", "dtype", "number", "dict"],
)
def test_other_kinds_of_values_stay_where_they_are(other, xpv):
    """They are taken as they come, and no replay writes to what was there."""

    def function(params, buffers, loss, state, x, *, numbers=None):
        value, new, buffers, state = step(params, buffers, loss, state, x, numbers=numbers)
        return value, new | {"b": other(xl.namespace(x), new["W"])}, buffers, state

    loop = Loop(xpv, function)
    before = loop.trees[0]["b"]
    kept = xl.namespace(before).asarray(before, copy=True)
    x = xpv.asarray(values((2, 3)), "float32")
    _, params, _, _ = loop.replays.record("key", function, loop.trees, (x,), {})
    assert params["b"] is not before
    assert_same_bits(before, kept)
    assert type(params["b"]) in (dict, float, type(before))


def test_arguments_may_be_left_out(xpv):
    def function(params, buffers, loss, state, x, weights, *, numbers=None):
        assert weights is None
        return step(params, buffers, loss, state, x, numbers=numbers)

    replays, trees = Replays(), Loop(xpv).trees
    x = xpv.asarray(values((2, 3)), "float32")
    for _ in range(2):
        replays.record("key", function, trees, (x, None), {})
    assert len(replays.replays) == 1


def test_arrays_that_cannot_be_written_are_replaced():
    fixed, row = np.ones(3), np.ones(1)
    fixed.flags.writeable = False
    wide = np.lib.stride_tricks.as_strided(row, (3,), (0,))
    own = np.ones(3)
    tree = {"a": fixed, "b": {"c": wide, "d": np.float32(2.0)}, "e": own, "f": 3.0}
    module._make_writable(tree)
    assert tree["e"] is own
    assert tree["f"] == 3.0
    for a in (tree["a"], tree["b"]["c"], tree["b"]["d"]):
        assert type(a) is np.ndarray
        assert a.flags.writeable
        assert not np.shares_memory(a, fixed)
        assert not np.shares_memory(a, row)
    assert tree["b"]["d"].dtype == np.float32
    a = tree["a"]
    module._make_writable(tree)
    assert tree["a"] is a


def test_tensors_that_cannot_be_written_are_replaced():
    torch = pytest.importorskip("torch")
    with torch.inference_mode():
        fixed = torch.ones(3)
    row, own = torch.ones(1), torch.ones(3)
    tree = {"a": fixed, "b": {"c": row.expand(3)}, "d": own}
    module._make_writable(tree)
    assert tree["d"] is own
    assert not tree["a"].is_inference()
    assert tree["b"]["c"].is_contiguous()


def test_libraries_whose_steps_are_replayed(xpv):
    assert Replays.fit(xpv.asarray([1.0]))
    if xpv.backend == "torch":
        import torch

        assert not Replays.fit(torch.ones(1, device="meta"))
        with torch.inference_mode():
            assert not Replays.fit(torch.ones(1))
            assert Replays.fit(np.ones(1))
