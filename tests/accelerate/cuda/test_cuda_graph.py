"""A captured step: what is copied where, kept, put back and given back, without a GPU.

`emulated_graph` emulates CuPy: it records operations while a stream captures, and runs
them when the graph is launched.
"""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from emulator.emulated_graph import EmulatedGemm, GpuArray, plain, same

from xplayers.accelerate.cuda.graph import CapturedStep, CaptureError, Graph
from xplayers.arrays.transfer import is_out_of_memory

# A step of a few lines: a line through points, with momentum in its state.


def line(params, buffers, loss_arrays, state, x, t, lr):
    w, v = params["w"], state["v"]
    d = x * w - t
    v = v * 0.5 + np.sum(d * x)
    buffers = {"seen": buffers["seen"] + x.shape[0]}
    return np.sum(d * d) * loss_arrays["weight"], {"w": w - lr * v}, buffers, {"v": v}


@pytest.fixture
def trees(cuda):
    def trees():
        one = cuda.array(1.0, "float32")
        return {"w": cuda.array(2.0, "float32")}, {"seen": cuda.array(0)}, {"weight": one}, {
            "v": cuda.array(0.0, "float32")
        }  # fmt: skip

    return trees


@pytest.fixture
def batch(cuda):
    def batch(seed=0, n=4):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal(n).astype("float32")
        return cuda.array(x), cuda.array(3 * x + 1)

    return batch


def expected(trees, batches, rates):
    """The steps one by one, as they stand."""
    given = tuple({k: plain(a) for k, a in tree.items()} for tree in trees)
    values = []
    for (x, t), lr in zip(batches, rates, strict=True):
        value, params, buffers, state = line(*given, plain(x), plain(t), np.float32(lr))
        given = (params, buffers, given[2], state)
        values.append(value)
    return values, given


def test_a_step_is_what_it_is_without_a_graph(make, trees, batch):
    step, given = make(line), trees()
    batches, rates = [batch(i) for i in range(4)], [0.1, 0.1, 0.05, 0.01]
    values, after = expected(given, batches, rates)
    got = []
    for (x, t), lr in zip(batches, rates, strict=True):
        value, *rest = step(*given, x, t, lr)
        given = (rest[0], rest[1], given[2], rest[2])
        got.append(value)  # is not written over by the next step
    assert [float(v) for v in got] == [float(v) for v in values]
    for tree, right in zip(given, after, strict=True):
        assert same(plain(tree), {k: np.asarray(a) for k, a in right.items()})


def test_batches_are_not_written_to(make, trees, batch):
    step, given, batches = make(line), trees(), [batch(0), batch(1)]
    for x, t in batches:
        step(*given, x, t, 0.1)
    for (x, t), (x0, t0) in zip(batches, [batch(0), batch(1)], strict=True):
        assert same(plain(x), plain(x0))
        assert same(plain(t), plain(t0))


def test_targets_of_another_dtype_are_captured_by_themselves(cuda, make, trees, batch):
    step, given = make(line), trees()
    x, t = batch()
    step(*given, x, t, 0.1)
    step(*given, x, t.astype("float64"), 0.1)
    assert cuda.log.count("begin") == 2


def test_a_step_may_change_the_dicts_that_it_gets(make, trees, batch):
    def changes(params, buffers, loss_arrays, state, x, t, lr):
        value, after, buffers, state = line(params, buffers, loss_arrays, state, x, t, lr)
        params.update(after)
        return value, params, buffers, state

    step, given = make(changes), trees()
    right = expected(given, [batch()] * 2, [0.1] * 2)
    for _ in range(2):
        step(*given, *batch(), 0.1)
    assert float(given[0]["w"]) == float(right[1][0]["w"])


def test_a_product_that_was_not_planned_is_an_error(cuda, make, trees, batch):
    def another(*arguments):
        if cuda.tape is not None:
            EmulatedGemm.made[0].product(np.ones((2, 2)), np.ones((2, 2)))
        return line(*arguments)

    with pytest.raises(CaptureError, match="was not planned"):
        make(another)(*trees(), *batch(), 0.1)


def test_a_shape_is_captured_once(cuda, make, trees, batch):
    step, given = make(line, warmup=3), trees()
    ran = 0

    def counted(*arguments):
        nonlocal ran
        ran += 1
        return line(*arguments)

    step.pure = counted
    for _ in range(5):
        step(*given, *batch(), 0.1)
    assert ran == 3 + 1
    assert cuda.log.count("begin") == 1
    assert cuda.log.count("launch on null") == 5
    step(*given, *batch(n=3), 0.1)
    assert cuda.log.count("begin") == 2
    step(*given, *batch(), 0.1)
    assert cuda.log.count("begin") == 2


def test_arrays_of_the_first_step_are_used_for_good(make, trees, batch):
    step, given = make(line), trees()
    w = given[0]["w"]
    _, params, buffers, state = step(*given, *batch(), 0.1)
    assert params["w"] is w
    assert state["v"] is given[3]["v"]
    # other arrays, as after `load`, are copied in
    state["v"] = GpuArray.cuda.array(5.0, "float32")
    right = expected((params, buffers, given[2], state), [batch(1)], [0.1])
    value, params, _, state = step(params, buffers, given[2], state, *batch(1), 0.1)
    assert params["w"] is w
    assert state["v"] is given[3]["v"]
    assert float(value) == float(right[0][0])
    assert float(state["v"]) == float(right[1][3]["v"])


def test_the_rate_can_be_an_array_or_none(cuda, make, trees, batch):
    step, given = make(line), trees()
    right = expected(given, [batch()] * 3, [0.1, 0.2, 0.1])
    for lr in (0.1, cuda.array(0.2, "float32"), 0.1):  # the last is not that of the step before
        step(*given, *batch(), lr)
    assert float(given[0]["w"]) == float(right[1][0]["w"])

    def scheduled(params, buffers, loss_arrays, state, x, t, lr):
        assert lr is None
        return line(params, buffers, loss_arrays, state, x, t, 0.1)

    given = trees()
    make(scheduled)(*given, *batch(), None)
    assert float(given[0]["w"]) == float(expected(trees(), [batch()], [0.1])[1][0]["w"])


def test_the_rate_of_double_parameters_is_double(cuda, make, batch):
    x, t = batch()
    trees = {"w": cuda.array(2.0)}, {"seen": cuda.array(0)}, {"weight": cuda.array(1.0)}, {
        "v": cuda.array(0.0)
    }  # fmt: skip
    w, d = 2.0, plain(x) * np.float64(2.0) - plain(t)
    make(line)(*trees, x, t, 0.1)
    assert float(trees[0]["w"]) == w - 0.1 * np.sum(d * plain(x))


# Several steps in a launch


def test_many_steps_gather_their_batches(cuda, make, trees, batch):
    x, t = batch(n=20)
    order = np.random.default_rng(1).permutation(20)
    step, given = make(line), trees()
    rows = [order[i : i + 3] for i in range(0, 18, 3)]
    batches = [(x[r], t[r]) for r in rows]
    values, after = expected(given, batches, [0.05] * 6)
    params, buffers, weight, state = given
    got = []
    for launch in (rows[:3], rows[3:]):
        index = cuda.array(launch)
        losses, params, buffers, state = step.many(
            params, buffers, weight, state, x, t, index, 0.05
        )
        assert losses.shape == (3,)
        got += plain(losses).tolist()
    assert got == [float(v) for v in values]
    assert float(params["w"]) == float(after[0]["w"])
    assert int(plain(buffers["seen"])) == 18
    assert cuda.log.count("begin") == 1
    y = cuda.array(plain(x))  # another data set is another graph
    step.many(params, buffers, weight, state, y, t, cuda.array(rows[:3]), 0.05)
    assert cuda.log.count("begin") == 2


# What a capture may cost and leave


def test_a_graph_of_many_steps_is_of_its_arrays_rows_and_kind_of_rate(cuda, make, trees, batch):
    (x, t), index = batch(n=8), cuda.array(np.arange(8).reshape(4, 2))
    other = batch(1, n=8)
    step = make(lambda *a: line(*a[:-1], 0.1 if a[-1] is None else a[-1]), limit=8)

    def captures(x, t, index, lr):
        before = cuda.log.count("begin")
        step.many(*trees(), x, t, index, lr)
        return cuda.log.count("begin") - before

    assert [
        captures(x, t, index, 0.1),
        captures(x, t, index, 0.2),
        captures(other[0], t, index, 0.1),
        captures(x, other[1], index, 0.1),
        captures(x, t, index[:2], 0.1),
        captures(x, t, index, None),
        captures(x, t, index, None),
    ] == [1, 0, 1, 1, 1, 1, 0]


def test_a_graph_of_many_steps_holds_what_it_reads(cuda, make, trees, batch):
    """Else their memory, and their ids, would be given to others."""
    step, (x, t) = make(line), batch(n=8)
    index = cuda.array(np.arange(8).reshape(4, 2))
    step.many(*trees(), x, t, index, 0.1)
    held = [weakref.ref(a) for a in (x, t)]
    del x, t
    gc.collect()
    assert all(a() is not None for a in held)
    step.close()
    gc.collect()
    assert all(a() is None for a in held)


def test_the_warm_up_does_not_train(cuda, make, trees, batch):
    given = trees()
    before = [plain(tree) for tree in given]
    seen = []

    def looked_at(*arguments):
        if cuda.tape is not None:
            seen.extend(plain(tree) for tree in given)
        return line(*arguments)

    make(looked_at, warmup=5)(*given, *batch(), 0.1)
    assert all(same(a, b) for a, b in zip(seen, before, strict=True))


def test_streams_are_in_order(cuda, make, trees, batch):
    step = make(line)
    step(*trees(), *batch(), 0.1)
    assert cuda.log == [
        "non-blocking waits for event of null",
        "wait for non-blocking",
        "begin",
        "end",
        "upload",
        "wait for non-blocking",
        "launch on null",
    ]
    with cuda.Stream():
        for _ in range(2):
            step(*trees(), *batch(), 0.1)
    assert cuda.log[7:] == ["blocking waits for event of null", *["launch on blocking"] * 2]
    step.close()
    assert cuda.log[-1] == "wait for blocking"


def test_memory_of_a_graph_is_its_own_and_given_back(cuda, make, trees, batch):
    step, given = make(line), trees()
    value, *_ = step(*given, *batch(), 0.1)
    (pool,) = cuda.pools
    assert pool.held() > 0
    step.close()
    assert pool.held_at_the_end == 0
    assert pool.held_in_capture == 2  # the batch: no copy of the state
    assert EmulatedGemm.made[0].closed
    assert np.isfinite(float(value))  # lies elsewhere
    w = float(given[0]["w"])
    step(*given, *batch(), 0.1)  # captured again
    assert len(cuda.pools) == 2
    assert float(given[0]["w"]) != w


def test_a_step_that_nobody_holds_is_closed(cuda, trees, batch):
    step = CapturedStep(line, gemm=EmulatedGemm, cuda=cuda)
    step(*trees(), *batch(), 0.1)
    (pool,) = cuda.pools
    del step
    gc.collect()
    assert pool.held_at_the_end == 0


def test_the_graph_that_waited_longest_is_closed(cuda, make, trees, batch):
    step, given = make(line, limit=2), trees()
    for n in (3, 4, 3, 5):
        step(*given, *batch(n=n), 0.1)
    closed = [pool.held_at_the_end for pool in cuda.pools]
    assert closed == [None, 0, None]
    step(*given, *batch(n=3), 0.1)
    assert len(cuda.pools) == 3


def test_no_garbage_is_collected_in_a_capture(cuda, make, trees, batch):
    enabled = []

    def looked_at(*arguments):
        enabled.append((cuda.tape is None, gc.isenabled()))
        return line(*arguments)

    step = make(looked_at)
    step(*trees(), *batch(), 0.1)
    assert enabled == [(True, True), (True, True), (False, False)]
    assert gc.isenabled()
    gc.disable()
    try:
        step(*trees(), *batch(n=3), 0.1)
        assert not gc.isenabled()
    finally:
        gc.enable()


# Errors


@pytest.mark.parametrize("where", ["warm-up", "capture"])
def test_a_step_that_fails_has_not_trained(cuda, make, trees, batch, where):
    given, times = trees(), 0
    before = [plain(tree) for tree in given]

    def fails(params, *rest):
        nonlocal times
        times += 1
        params["w"] *= 2  # written in place before it goes wrong
        if times == (2 if where == "warm-up" else 3):
            raise ZeroDivisionError("on purpose")
        return line(params, *rest)

    step = make(fails)
    error = ZeroDivisionError if where == "warm-up" else CaptureError
    with pytest.raises(error, match="on purpose") as caught:
        step(*given, *batch(), 0.1)
    assert all(same(plain(a), b) for a, b in zip(given, before, strict=True))
    assert cuda.tape is None
    assert gc.isenabled()
    assert cuda.pools[0].held_at_the_end == 0
    if where == "capture":
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
    step.pure = line
    step(*given, *batch(), 0.1)
    assert len(cuda.pools) == 2


def test_a_look_at_a_value_is_named(make, trees, batch):
    def looks(params, *rest):
        value, *after = line(params, *rest)
        float(value)
        return value, *after

    message = (
        r"TrainStep: the step cannot be captured as a CUDA graph: RuntimeError: the "
        r"current stream is capturing, .*\. Use compile=False, which needs no graph\."
    )
    with pytest.raises(CaptureError, match=message):
        make(looks)(*trees(), *batch(), 0.1)


def test_interrupts_stay_what_they_are(cuda, make, trees, batch):
    def interrupted(*arguments):
        if cuda.tape is not None:
            raise KeyboardInterrupt
        return line(*arguments)

    with pytest.raises(KeyboardInterrupt):
        make(interrupted)(*trees(), *batch(), 0.1)
    assert cuda.tape is None
    assert cuda.pools[0].held_at_the_end == 0


class OutOfMemoryError(Exception):
    """As CuPy's."""


@pytest.mark.parametrize("capturing", [False, True])
def test_out_of_memory_closes_other_graphs_and_tries_again(cuda, make, trees, batch, capturing):
    given = trees()

    def full(*arguments):
        nonlocal error
        if error is not None and (cuda.tape is not None) == capturing:
            cuda.fail, error = error, None
        return line(*arguments)

    error = None
    step = make(full)
    step(*given, *batch(n=3), 0.1)
    error = OutOfMemoryError("no room")
    right = expected(given, [batch()], [0.1])
    step(*given, *batch(), 0.1)
    assert float(given[0]["w"]) == float(right[1][0]["w"])
    assert [pool.held_at_the_end for pool in cuda.pools] == [0, 0, None]
    step.close()
    error = OutOfMemoryError("no room")
    with pytest.raises(OutOfMemoryError, match="no room") as caught:
        step(*given, *batch(), 0.1)  # there is nothing to close
    assert is_out_of_memory(caught.value)


def test_arrays_that_are_not_those_of_the_capture(cuda, make, trees, batch):
    step, given = make(line), trees()
    step(*given, *batch(), 0.1)
    wrong = ({"w": cuda.array([2.0], "float32")}, *given[1:])
    message = (
        r"params\.w is float32 of shape \(1,\); captured was float32 of shape \(\)\. Make a new"
    )
    with pytest.raises(ValueError, match=message):
        step(*wrong, *batch(), 0.1)
    with pytest.raises(ValueError, match=r"state differ in m, v from those of the first step"):
        step(*given[:3], {"m": given[3]["v"]}, *batch(), 0.1)


def test_a_graph_takes_the_shape_it_was_captured_with(cuda, batch):
    x, _ = batch()
    graph = Graph(lambda x: np.sum(x), (x,), [], cuda=cuda, gemm=None, warmup=1)
    assert float(graph.launch((x,))) == float(np.sum(plain(x)))
    message = r"an input is float32 of shape \(3,\); captured was float32 of shape \(4,\)"
    with pytest.raises(ValueError, match=message):
        graph.launch((batch(n=3)[0],))
    graph.close()
    graph.close()
    with pytest.raises(RuntimeError, match="the graph is closed"):
        graph.launch((x,))


@pytest.mark.parametrize("options", [{"warmup": 0}, {"limit": 0}])
def test_options(cuda, options):
    with pytest.raises(ValueError, match="expected at least 1"):
        CapturedStep(line, cuda=cuda, **options)
