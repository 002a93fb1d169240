"""Training steps on CuPy, as they stand and as CUDA graphs.

``pytest --xp=cupy``, on a GPU or with ``--emulated-gpu``. What a capture refuses is what waits for
the device, so that every row of the table can be captured says that none does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math

import emulator
import numpy as np
import pytest
from cases import LAYERS
from helpers import assert_same_arrays, assert_same_bits, values

import xplayers as xl
from xplayers.accelerate.cuda.graph import CaptureError
from xplayers.arrays.transfer import is_out_of_memory, to_numpy
from xplayers.cuda import fused
from xplayers.training import AccumulatedStep, TrainStep, run

pytestmark = pytest.mark.only("cupy")

# More than eight arrays CuPy joins by a kernel to which it brings their addresses.
MANY = [
    dataclasses.replace(LAYERS[0], id=id, make=make, shape=shape)
    for id, make, shape in (
        ("Convolution-5x5", lambda: xl.Convolution.init(2, 3, 5, padding=2, rng=0), (4, 2, 9, 9)),
        ("MaxPooling-4x4", lambda: xl.MaxPooling(4, 2, 1), (4, 2, 9, 9)),
        ("Rnn-12", lambda: xl.Rnn.init(3, 4, rng=0), (4, 12, 3)),
        ("Lstm-12", lambda: xl.Lstm.init(3, 4, bidirectional=True, rng=0), (4, 12, 3)),
        ("Gru-12", lambda: xl.Gru.init(3, 4, reset_after=False, rng=0), (4, 12, 3)),
        ("Parallel-9", lambda: xl.Parallel(*[xl.Affine.init(6, 2, rng=i) for i in range(9)],
                                           combine="concatenate"), (4, 6)),
        ("Sequential-9", lambda: xl.mlp([6, *[5] * 9], rng=0), (4, 6)),
    )
]  # fmt: skip
ROWS = pytest.mark.parametrize("case", [*LAYERS, *MANY], ids=lambda c: c.id)

WAITING = {
    "device to host", "host to device", "cudaMemcpy", "cudaMalloc", "cudaHostAlloc", "cudaFree",
    "cudaDeviceSynchronize", "cudaStreamSynchronize", "cudaEventSynchronize", "cudaStreamQuery",
    "cudaEventQuery",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _products():
    pytest.importorskip("nvmath")


def fixed():
    """Return a `Gemm` whose algorithms are the same each time: two that are timed apart differ."""
    from xplayers.accelerate.cuda.gemm import Gemm

    return Gemm(autotune=False)


@pytest.fixture
def emulated():
    if not emulator.installed():
        pytest.skip("calls are counted and memory is measured in the emulator alone")


@contextlib.contextmanager
def quiet():
    """Nothing inside waits for the device, moves data to it or from it, or asks for memory."""
    with emulator.counting() as counted:
        yield counted
    assert not WAITING & counted.keys(), counted


class Scale(xl.Layer):
    """``y = x * a``: below a layer, it lets the gradient of that one's input be computed."""

    a, da = xl.Parameter(), xl.Gradient()

    def __init__(self, a):
        self.a = a

    def apply(self, arrays, x):
        return x * arrays["a"], (x, arrays["a"])

    def vjp(self, cache, dy):
        x, a = cache
        return dy * a, {"a": xl.namespace(x).sum(dy * x)[None]}


def network(case, xpv):
    layer, floating = case.make(), case.integers is None
    y = layer.predict(values(case.shape) if floating else np.zeros(case.shape, int))
    below = [Scale(np.ones(1, "float32"))] if floating else []
    net = xl.Sequential(*below, layer, xl.Affine.init(int(np.prod(y.shape[1:])), 3, rng=1))
    return net.to(like=xpv.asarray(np.zeros(1), "float32"))


def batches(case, xpv, count):
    for seed in range(count):
        rng = np.random.default_rng(seed)
        x, dtype = rng.standard_normal(case.shape), "float32"
        if case.integers is not None:
            x, dtype = rng.integers(0, case.integers, case.shape), None
        yield xpv.asarray(x, dtype), xpv.asarray(rng.integers(0, 3, case.shape[0]))


def trained(net, given, **options):
    """Return the losses and the arrays after a step on each batch."""
    options = {"gemm": fixed, **options}
    step = TrainStep(net, xl.SoftmaxWithLoss(), xl.Adam(0.01), **options)
    return results(step, [step(x, t) for x, t in given])


def results(step, losses):
    """Return them on the host, and close the step."""
    arrays = {name: to_numpy(a) for name, a in step.net.arrays.items()}
    step.close()
    return [float(v) for v in losses], arrays


def assert_same(found, expected):
    assert found[0] == expected[0]
    assert_same_arrays(found[1], expected[1])


@ROWS
def test_every_layer_in_a_graph(case, xpv):
    """From its graph a step has the bits of one that stands, with the same kernels."""
    given = list(batches(case, xpv, 3))
    with fused():
        expected = trained(network(case, xpv), given, compile=False, gemm=fixed)
    before = [to_numpy(x).copy() for x, _ in given]
    assert_same(trained(network(case, xpv), given, compile="graph"), expected)
    for (x, _), values_before in zip(given, before, strict=True):
        assert_same_bits(x, values_before)  # a graph has a copy of its own
    assert len(set(expected[0])) == 3


@pytest.mark.parametrize("how", ["portable", "fused"])
@ROWS
def test_no_step_waits(case, how, xpv, emulated):
    """After two steps, which compile kernels and take memory."""
    net, given = network(case, xpv), list(batches(case, xpv, 4))
    step = TrainStep(net, xl.SoftmaxWithLoss(), xl.Adam(0.01))
    with fused(how == "fused"):
        for x, t in given[:3]:
            loss = step(x, t)  # as a loop does: to keep them all takes new memory in each step
        with quiet() as counted:
            loss = step(*given[3])
    assert counted["launches"] > 5
    assert np.isfinite(float(loss))


@pytest.mark.parametrize("how", ["portable", "fused"])
def test_weights_of_samples_in_a_graph(how, xpv, emulated):
    rng = np.random.default_rng(0)
    given = []
    for i in range(4):
        x, t = rng.standard_normal((4, 6)), rng.integers(0, 3, 4)
        w = np.asarray([0.0, 1.0, 2.5, 0.5 * i])
        given.append((xpv.asarray(x, "float32"), xpv.asarray(t), xpv.asarray(w, "float32")))
    found = []
    with fused(how == "fused"):
        for options in ({"compile": False}, {"compile": "graph"}):
            net = xl.mlp([6, 5, 3], rng=0)
            step = TrainStep(net, xl.SoftmaxWithLoss(), xl.Adam(0.01), gemm=fixed, **options)
            losses = [step(*batch) for batch in given[:3]]
            if options["compile"] == "graph":
                with quiet() as counted:
                    losses.append(step(*given[3]))
                assert counted["launches"] < 3
            else:
                losses.append(step(*given[3]))
            losses.append(step(*given[0][:2]))  # and without
            found.append(results(step, losses))
    assert_same(found[1], found[0])


def mlp():
    return xl.Sequential(
        xl.Affine.init(20, 64, rng=0), xl.BatchNormalization.init(64), xl.Relu(), xl.Dropout(0.2),
        xl.Affine.init(64, 10, rng=1),
    )  # fmt: skip


def mlp_step(**options):
    options = {"gemm": fixed, **options}
    return TrainStep(mlp(), xl.SoftmaxWithLoss(), xl.Adam(0.01), **options)


def data(xpv, n=64, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 20))
    return xpv.asarray(x, "float32"), xpv.asarray(rng.integers(0, 10, n))


def test_several_steps_are_one_launch(xpv):
    """On rows that the graph gathers, with rates that change between launches."""
    x, t = data(xpv)
    index = xpv.asarray(np.random.default_rng(1).integers(0, 64, (20, 4)))
    expected = mlp_step(compile="graph")
    losses = [expected(x[index[i]], t[index[i]], lr=0.01 / (1 + i // 10)) for i in range(20)]
    step, found = mlp_step(compile="graph"), []
    for i in range(2):
        with emulator.counting() as counted:
            found += list(step.many(x, t, index[10 * i : 10 * i + 10], lr=0.01 / (1 + i)))
    if emulator.installed():
        assert counted["cudaGraphLaunch"] == 1
    assert_same(results(step, found), results(expected, losses))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mixed_precision(dtype, xpv):
    """With float16 the second batch overflows: that its step is skipped is found on the device."""
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    given = [data(xpv) for _ in range(4)]
    if dtype == "float16":
        given[1][0][3, 4] = np.inf
    found = []
    for compiled in (False, "graph"):
        options = {"compile": compiled, "gemm": fixed, "precision": xl.MixedPrecision(dtype)}
        step = mlp_step(**options)
        with fused():
            losses = [step(x, t) for x, t in given]
        skipped = int(step.state["precision"]["skipped_steps"])
        assert skipped == (dtype == "float16")
        assert int(step.optimizer.state["count"]) == 4 - skipped
        losses, arrays = results(step, losses)
        found.append(([str(v) for v in losses], arrays))
    assert_same(*found)


def test_products_on_two_streams_follow_each_other(xpv, emulated):
    """They share what an algorithm works in."""
    import cupy

    gemm, (x, _) = fixed(), data(xpv)
    with emulator.counting() as counted:
        for stream in [cupy.cuda.Stream(non_blocking=True)] * 2 + [cupy.cuda.Stream.null] * 2:
            with stream:
                gemm.matmul(x.T, x)
    assert counted["cudaStreamWaitEvent"] == 1
    cupy.cuda.Device().synchronize()
    gemm.close()


def test_steps_on_two_streams_follow_each_other(xpv, emulated):
    """The second writes its batch where the first reads it."""
    import cupy

    given = [data(xpv, seed=seed) for seed in range(4)]
    expected = mlp_step(compile="graph")
    right = results(expected, [expected(x, t) for x, t in given])
    step, found = mlp_step(compile="graph"), []
    streams = [cupy.cuda.Stream.null, cupy.cuda.Stream(non_blocking=True)]
    for (x, t), stream in zip(given, streams * 2, strict=True):
        with stream:
            found.append(step(x, t))
    cupy.cuda.Device().synchronize()
    assert_same(results(step, found), right)


def test_batches_of_bfloat16_matrices_need_another_library(xpv):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    from xplayers.arrays.products import matmul

    a = xpv.asarray(np.ones((2, 3, 4), "float32")).astype(bfloat16)
    message = r"CuPy does not multiply batches of bfloat16 .*\(2, 3, 4\) @ \(2, 4, 3\).* gemm="
    with pytest.raises(TypeError, match=message):
        matmul(a, a.mT)
    gemm = fixed()
    with gemm.products():
        assert_same_bits(to_numpy(matmul(a, a.mT)), np.full((2, 3, 3), 4, "float32"))
    gemm.close()


def test_accumulated_steps(xpv):
    x, t = data(xpv)
    found = []
    for compiled in (False, "graph"):
        net = mlp()
        options = {"parts": 2, "compile": compiled, "gemm": fixed}
        step = AccumulatedStep(net, xl.SoftmaxWithLoss(), xl.Adam(0.01), **options)
        with fused():
            losses = [step(x, t) for _ in range(3)]
        found.append(results(step, losses))
    assert_same(*found)


def test_the_plain_product_is_refused_in_a_graph_by_name(xpv):
    """As CuPy refuses cuBLAS there; nothing is trained, and the stream captures no more."""
    from xplayers.accelerate.cuda.graph import CapturedStep

    net, (x, t) = xl.mlp([20, 10], rng=0), data(xpv)
    net.forward(x)
    step = TrainStep(net, xl.SoftmaxWithLoss(), xl.SGD(0.1))
    before = {name: to_numpy(a) for name, a in net.params.items()}
    state = {"optimizer": step.optimizer.init(dict(net.params))}
    captured = CapturedStep(step.pure, gemm=None)
    with pytest.raises(CaptureError, match="In part '0' of Sequential. Use compile=False"):
        captured(dict(net.params), {}, {}, state, x, t, 0.1)
    assert_same_arrays(net.params, before)
    assert float(step(x, t)) > 0


class Looking(xl.Layer):
    """A layer of a user that looks at a value."""

    def apply(self, arrays, x):
        return (x if float(x[0, 0]) > 1e9 else x * 1.0), ()

    def vjp(self, cache, dy):
        return dy, {}


def test_a_look_at_a_value_is_named(xpv):
    x, t = data(xpv)
    net = xl.Sequential(xl.Affine.init(20, 10, rng=0), Looking())
    step = TrainStep(net, xl.SoftmaxWithLoss(), xl.SGD(0.1), compile="graph")
    with pytest.raises(CaptureError, match="captur.* In part '1' of Sequential. Use compile=False"):
        step(x, t)
    step = TrainStep(net, xl.SoftmaxWithLoss(), xl.SGD(0.1), compile=False)
    assert float(step(x, t)) > 0


def test_each_shape_has_a_graph(xpv):
    given = [data(xpv, n, seed) for seed, n in enumerate((64, 32, 16, 8, 4, 64, 32))]
    with fused():
        expected = mlp_step(compile=False, gemm=fixed)
        right = results(expected, [expected(x, t) for x, t in given])
    step = mlp_step(compile="graph")
    assert_same(results(step, [step(x, t) for x, t in given]), right)


def test_memory_is_given_back(xpv, emulated):
    """All of it: that of the graphs and of their pools."""
    import cupy

    x, t = data(xpv)
    step = mlp_step(compile="graph")
    step(x, t)
    kept = emulator.used(xpv.device.id)
    for n in (48, 32, 16):
        step(x[:n], t[:n])
    assert emulator.used(xpv.device.id) > kept
    step.close()
    cupy.get_default_memory_pool().free_all_blocks()
    assert emulator.used(xpv.device.id) < kept
    assert float(step(x, t)) > 0
    step.close()


def test_a_gpu_that_is_full(xpv, emulated):
    """Graphs of other shapes are closed for a new one; where that is too little nothing is lost."""
    import cupy

    x, t = data(xpv, 512)
    step = mlp_step(compile="graph")
    losses = [float(step(x[:256], t[:256]))]
    gc.collect()
    cupy.get_default_memory_pool().free_all_blocks()
    with emulator.limited(emulator.used(xpv.device.id) + (1 << 20)):
        losses.append(float(step(x[:256], t[:256])))
        before = {name: to_numpy(a) for name, a in step.net.arrays.items()}
        big = cupy.zeros((2000, 20), "float32"), cupy.zeros(2000, "int64")
        with pytest.raises(cupy.cuda.memory.OutOfMemoryError) as caught:
            step(*big)
    assert is_out_of_memory(caught.value)
    assert_same_arrays(step.net.arrays, before)
    losses.append(float(step(x[:256], t[:256])))
    assert losses[2] < losses[0]
    step.close()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_network_through_cudnn(dtype, xpv):
    """The plans of a graph are those of its warm-up."""
    pytest.importorskip("cudnn")
    from xplayers.accelerate.cuda.cudnn import Cudnn

    half = None
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
        half = xl.MixedPrecision(dtype)
    rng = np.random.default_rng(0)
    given = [
        (xpv.asarray(rng.standard_normal((4, 8, 10, 10)), "float32"),
         xpv.asarray(rng.integers(0, 5, 4)))
        for _ in range(3)
    ]  # fmt: skip
    found = []
    for compiled in (False, "graph"):
        net = xl.Sequential(
            xl.Convolution.init(8, 16, 3, padding=1, rng=0), xl.Relu(), xl.MaxPooling(2),
            xl.Convolution.init(16, 24, 3, bias=False, rng=1), xl.BatchNormalization.init(24),
            xl.Relu(), xl.GlobalAveragePooling(), xl.Affine.init(24, 5, rng=2),
        )  # fmt: skip
        options = {"compile": compiled, "gemm": fixed, "precision": half}
        step = TrainStep(net, xl.SoftmaxWithLoss(), xl.Adam(0.01), **options)
        library = Cudnn(autotune=False)
        with library.layers(), fused():
            losses = [step(x, t) for x, t in given]
        planned = sum(map(bool, library.plans.values()))
        found.append(results(step, losses))
        library.close()
        assert planned == 7  # two convolutions, the first one's input needs no gradient; statistics
    assert_same(*found)


@pytest.mark.parametrize(
    ("compile", "latest", "times"),
    [(False, math.inf, 3), ("graph", math.inf, 3), (False, -1.0, 30)],  # the last: always too late
)
def test_a_trainer_brings_numbers_over_once_in_an_epoch(
    compile, latest, times, xpv, emulated, monkeypatch
):
    """Where the steps of an epoch take longer than `LATEST`, also in between."""
    monkeypatch.setattr(run, "LATEST", latest)
    x, t = data(xpv, 200)
    options = {"batch_size": 20, "epochs": 3, "callbacks": (), "compile": compile}
    options |= {"gemm": fixed} if compile else {}
    trainer = xl.Trainer(mlp(), xl.SoftmaxWithLoss(), xl.Adam(0.01), **options)
    with emulator.counting() as counted:
        history = trainer.fit(x, t)
    assert counted["device to host"] == times
    assert counted["cudaGraphLaunch"] == (30 if compile else 0)
    losses = history["loss"]
    assert losses[2] < losses[0]


def test_a_trainer_on_a_full_gpu_says_what_to_do(xpv, emulated):
    import cupy

    x, t = data(xpv, 512)
    options = {"batch_size": 512, "epochs": 1, "callbacks": ()}
    trainer = xl.Trainer(mlp(), xl.SoftmaxWithLoss(), xl.Adam(0.01), **options)
    gc.collect()  # memory of graphs that nobody has any more would come free
    with (
        cupy.cuda.using_allocator(cupy.cuda.MemoryPool().malloc),
        emulator.limited(emulator.used(xpv.device.id) + (100 << 10)),
        pytest.raises(MemoryError, match="out of memory in step 1, with batches of 512.* accumul"),
    ):
        trainer.fit(x, t)
