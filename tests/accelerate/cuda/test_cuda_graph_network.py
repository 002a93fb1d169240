"""The step of a network as a captured graph, without a GPU: `emulated_graph` is its CuPy."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from emulator.emulated_graph import EmulatedGemm, GpuArray, plain, same

import xplayers as xl
from xplayers.accelerate import cupy
from xplayers.accelerate.cuda.graph import CapturedStep, CaptureError
from xplayers.arrays import operation
from xplayers.arrays.operation import laid
from xplayers.training import AccumulatedStep, TrainStep


@pytest.fixture(autouse=True)
def no_numbers(monkeypatch):
    """Let the optimizers keep 0-d arrays as they are, though these are arrays of NumPy."""
    monkeypatch.setattr("xplayers.optimizers.base._NUMBERS", (float, int, np.generic))
    monkeypatch.setattr("xplayers.optimizers.base.host_number", lambda a: None)


def networks():
    yield "mlp", xl.mlp([6, 8, 3], rng=0)
    yield "dropout", xl.Sequential(
        xl.Affine.init(6, 8, rng=0), xl.BatchNormalization.init(8), xl.Relu(), xl.Dropout(0.3),
        xl.Affine.init(8, 3, rng=1),
    )  # fmt: skip


def on_device(cuda, tree):
    if isinstance(tree, dict):
        return {name: on_device(cuda, a) for name, a in tree.items()}
    return cuda.array(tree)


KINDS = {
    "whole": TrainStep,
    "in parts": lambda *a: AccumulatedStep(*a, parts=2),
    "float16": lambda *a: TrainStep(*a, precision=xl.MixedPrecision("float16")),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["mlp", "dropout"])
def test_a_network_learns_the_same(cuda, make, name, kind):
    """The same step function, as it stands and from its graph: to the last bit.

    With float16 the third batch overflows: that this step is skipped, and the scale is halved, is
    found out on the device.
    """
    rng = np.random.default_rng(3)
    data = [
        (rng.standard_normal((4, 6)).astype("float32"), rng.integers(0, 3, 4)) for _ in range(4)
    ]
    if kind == "float16":
        data[2][0][1, 3] = np.inf
    results = []
    for captured in (False, True):
        net = dict(networks())[name]
        step = KINDS[kind](net, xl.SoftmaxWithLoss(), xl.Adam(0.01))
        params, buffers = on_device(cuda, dict(net.params)), on_device(cuda, dict(net.buffers))
        state = {"optimizer": on_device(cuda, step.optimizer.init(dict(net.params)))}
        if step.precision is not None:
            state["precision"] = on_device(cuda, step.precision.init(np.zeros(1, "float32")))

        def pure(*arguments, step=step):
            return step.pure(*arguments, donate=True)

        take = make(pure) if captured else pure
        losses = []
        gemm = EmulatedGemm()
        for x, t in data:
            with gemm.products(), np.errstate(all="ignore"):  # as on a GPU
                rate = cuda.array(0.01, "float32")
                value, params, buffers, state = take(
                    params, buffers, {}, state, cuda.array(x), cuda.array(t), rate
                )
            losses.append(float(value))
        results.append((losses, plain(params), plain(buffers), plain(state)))
    assert np.array_equal(results[0][0], results[1][0], equal_nan=True)
    assert len(set(results[0][0])) == 4
    for a, b in zip(results[0][1:], results[1][1:], strict=True):
        assert same(a, b)
    state, skipped = results[1][3], kind == "float16"
    assert int(state["optimizer"]["count"]) == 4 - skipped
    assert all(np.isfinite(a).all() for a in results[1][1].values())
    if skipped:
        assert int(state["precision"]["skipped_steps"]) == 1
        assert float(state["precision"]["scale"]) == 2.0**15


@pytest.fixture
def as_cupy(cuda, monkeypatch):
    """Let `TrainStep` take emulated arrays for those of CuPy."""
    monkeypatch.setitem(operation._TABLES, GpuArray, cupy.BODIES)
    monkeypatch.setattr("xplayers.accelerate.cuda.gemm.Gemm", EmulatedGemm)
    captured = functools.partial(CapturedStep, cuda=cuda)
    monkeypatch.setattr("xplayers.accelerate.cuda.graph.CapturedStep", captured)


def device_step(cuda, **options):
    """Return a step of a network, its loss and state on the device."""
    net = xl.mlp([6, 8, 3], rng=0)
    for store in net._all_variables.values():
        store.params |= on_device(cuda, store.params)
        store.materialized = True
    step = TrainStep(net, xl.SoftmaxWithLoss(), xl.Adam(0.01), **options)
    step.optimizer.state = on_device(cuda, step.optimizer.init(dict(net.params)))
    return step


def test_a_step_by_graph_is_a_step(cuda, as_cupy):
    """One by one and several in a launch, against the step as it stands with the same products."""
    rng = np.random.default_rng(3)
    x = cuda.array(rng.standard_normal((12, 6)).astype("float32"))
    t = cuda.array(rng.integers(0, 3, 12))
    index = cuda.array(rng.permutation(12).reshape(4, 3))
    found = []
    for how in ("plain", "graph", "many"):
        gemm = {"gemm": EmulatedGemm} if how == "graph" else {"gemm": "cublaslt"}
        compiled = {"compile": False if how == "plain" else "graph"}
        step = device_step(cuda, **compiled, **gemm)
        losses = []
        for part in (index[:2], index[2:]):
            if how == "many":
                losses += [float(v) for v in plain(step.many(x, t, part))]
            else:
                losses += [float(step(x[part[i]], t[part[i]])) for i in range(2)]
            step.optimizer.lr = 0.002
        assert int(step.optimizer.state["count"]) == 4
        params = plain({**step.net.params})
        found.append((losses, params))
        step.close()
    for losses, params in found[1:]:
        assert losses == found[0][0]
        assert same(params, found[0][1])
    assert all(gemm.closed and gemm.planned for gemm in EmulatedGemm.made)
    assert len(EmulatedGemm.made) == 3


def test_a_graph_is_of_fused_kernels(cuda, as_cupy):
    seen = []
    step = device_step(
        cuda,
        compile="graph",
        reduce_grads=lambda grads: seen.append(bool(laid("total", "cupy"))) or grads,
    )
    step(cuda.array(np.ones((4, 6), "float32")), cuda.array([0, 1, 2, 0]))
    assert seen
    assert all(seen)
    assert not bool(laid("total", "cupy"))
    step.close()


def test_several_steps_are_one_launch(cuda, as_cupy):
    step = device_step(cuda, compile="graph")
    x, t = cuda.array(np.ones((8, 6), "float32")), cuda.array(np.arange(8) % 3)
    index = cuda.array(np.arange(8).reshape(4, 2))
    step.many(x, t, index)
    cuda.log.clear()
    step.many(x, t, index)
    assert [entry for entry in cuda.log if "launch" in entry] == ["launch on null"]


def test_the_layer_that_cannot_be_captured_is_named(cuda, make):
    net, loss, optimizer = xl.mlp([6, 8, 3], rng=0), xl.SoftmaxWithLoss(), xl.SGD(0.1)
    step = TrainStep(net, loss, optimizer)
    params = {k: cuda.array(a) for k, a in net.params.items()}
    state = {"optimizer": {"count": cuda.array(0, "int32")}}
    x, t = cuda.array(np.ones((4, 6), "float32")), cuda.array([0, 1, 2, 0])
    message = (
        "NotImplementedError: calling cuBLAS API during .* In part '0' of Sequential. Use comp"
    )
    with pytest.raises(CaptureError, match=message):
        make(step.pure, gemm=None)(params, {}, {}, state, x, t, 0.1)
