"""Convolutions through cuDNN: graphs, layouts and plans, without a GPU.

`emulated_cudnn` emulates the library, on CuPy arrays over host memory.
"""

from __future__ import annotations

import gc
import sys
import weakref

import pytest
from helpers import assert_close, values

import xplayers as xl
from xplayers.layers.convolution import Convolution, ConvolutionTranspose
from xplayers.layers.windows import Window

cupy = pytest.importorskip("cupy")

from emulator.emulated_cudnn import (  # noqa: E402
    FAILS,
    EmulatedCudnn,
    EmulatedGraph,
    EmulatedRuntime,
    assert_valid,
    host_dtype,
)
from emulator.emulated_gpu import fabricated, host  # noqa: E402
from emulator.emulated_graph import EmulatedCuda  # noqa: E402

from xplayers.accelerate.cuda import cudnn  # noqa: E402
from xplayers.accelerate.cuda.cudnn import Cudnn, active  # noqa: E402
from xplayers.accelerate.cuda.cudnn_plans import CANDIDATES, Runtime  # noqa: E402
from xplayers.accelerate.cuda.gemm import NotPlanned  # noqa: E402
from xplayers.accelerate.cuda.graph import Graph  # noqa: E402
from xplayers.accelerate.cupy import BODIES  # noqa: E402

LAYERS = {
    "image": (lambda: Convolution.init(3, 4, 3, bias=False, rng=0), (2, 3, 7, 6)),
    "options": (
        lambda: Convolution.init(
            4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2, bias=False,
            rng=0,
        ),
        (2, 4, 9, 8),
    ),
    "same": (lambda: Convolution.init(3, 5, 4, padding="same", bias=False, rng=0), (2, 3, 6, 6)),
    "sequence": (
        lambda: Convolution.init(3, 4, (3,), stride=2, padding=1, bias=False, rng=0), (2, 3, 11),
    ),
    "volume": (lambda: Convolution.init(2, 3, (2, 3, 2), bias=False, rng=0), (2, 2, 4, 5, 4)),
    "depthwise": (lambda: Convolution.init(4, 4, 3, groups=4, bias=False, rng=0), (2, 4, 6, 5)),
    "transposed": (
        lambda: ConvolutionTranspose.init(
            4, 3, 3, stride=2, padding=1, output_padding=1, bias=False, rng=0
        ),
        (2, 4, 5, 4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, dtype, dnn):
    make, shape = LAYERS[name]
    layer = make()
    x = values(shape).astype(dtype)
    W = layer.W.astype(dtype)
    want, cache = layer.apply({"W": W.astype("float64")}, x.astype("float64"))
    dy = values(want.shape, 1).astype(dtype)
    dx, grads = layer.vjp(cache, dy.astype("float64"))

    y, there = layer.apply({"W": fabricated(W)}, fabricated(x))
    got, (dW,) = layer.vjp(there, fabricated(dy))[0], layer.vjp(there, fabricated(dy))[1].values()
    tolerance = {"float32": 1e-5, "float16": 2e-2}[dtype]
    for a, right in ((y, want), (got, dx), (dW, grads["W"])):
        assert a.dtype == dtype
        assert a.shape == right.shape
        assert_close(host(a), right, tolerance)
    assert dW.flags.c_contiguous  # as W is
    assert len(dnn.plans) == 3  # two for what was done twice
    assert [len(graph.ran) for graph in dnn._runtime.cudnn.graphs] == [1, 2, 2]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_library_finds_the_graphs_valid(name, dtype, dnn, cudnn_library):
    make, shape = LAYERS[name]
    layer, x = make(), values(shape)
    W, x = (fabricated(a.astype(host_dtype(dtype))) for a in (layer.W, x))
    y, cache = layer.apply({"W": W}, x)
    layer.vjp(cache, y)
    assert len(dnn.plans) == 3
    for key in dnn.plans:
        assert {t.dtype for t in (*key.inputs, *key.results)} == {dtype}
        assert_valid(cudnn_library, key)


def test_the_emulated_library_has_the_names_of_the_library(cudnn_library):
    library = cudnn_library
    kinds = ("data_type", "numerical_note", "heur_mode", "norm_forward_phase")
    for kind in kinds:
        for each in getattr(EmulatedCudnn, kind):
            assert hasattr(getattr(library, kind), each.name)
    assert issubclass(library.cudnnGraphNotSupportedError, Exception)
    for name in ("create_handle", "destroy_handle", "set_stream"):
        assert callable(getattr(library, name))
    own = [name for name in vars(EmulatedGraph) if not name.startswith("_") and name != "STAGES"]
    for name in (*EmulatedGraph.STAGES, *own):
        assert callable(getattr(library.pygraph, name))


def test_the_bias_is_added(dnn):
    for make in (Convolution.init, ConvolutionTranspose.init):
        layer = make(3, 4, 3, rng=0)
        layer.b = values((4,), 2).astype("float32")
        x = values((2, 3, 6, 5)).astype("float32")
        arrays = {name: fabricated(a) for name, a in layer.params.items()}
        y, _ = layer.apply(arrays, fabricated(x))
        assert_close(host(y), layer(x), 1e-5)


def test_the_gradient_of_the_bias_is_that_of_the_library(dnn, monkeypatch):
    """A sum over a CuPy array, which cannot be taken here."""
    layer = Convolution.init(3, 4, 3, rng=0)
    x = fabricated(values((2, 3, 6, 5)).astype("float32"))
    arrays = {name: fabricated(a) for name, a in layer.params.items()}
    monkeypatch.setattr(cudnn, "channel_sums", lambda dy: ("sum of", dy))
    y, cache = layer.apply(arrays, x)
    grads = layer.param_grads(cache, y)
    assert grads["b"] == ("sum of", y)
    assert grads["W"].shape == layer.W.shape


def test_arrays_that_begin_anywhere(dnn):
    layer = Convolution.init(1, 4, 3, bias=False, rng=0)
    batch = values((8, 1, 27, 27)).astype("float32")
    for k in range(4):
        y, _ = layer.apply({"W": fabricated(layer.W)}, fabricated(batch)[k : k + 2])
        assert_close(host(y), layer(batch[k : k + 2]), 1e-5)
    assert len(dnn.plans) == 1


def test_a_device_has_its_own_plans(dnn):
    layer = Convolution.init(3, 4, 3, bias=False, rng=0)
    for device in (0, 1, 1):
        x = fabricated(values((2, 3, 6, 5)).astype("float32"), device)
        layer.apply({"W": fabricated(layer.W, device)}, x)
    assert [key.device for key in dnn.plans] == [0, 1]
    assert len(dnn._runtime.cudnn.handles) == 2


def test_nothing_is_planned_in_a_capture(dnn):
    layer = Convolution.init(3, 4, 3, bias=False, rng=0)
    W, x = fabricated(layer.W), fabricated(values((2, 3, 6, 5)).astype("float32"))
    layer.apply({"W": W}, x)
    with dnn.frozen():
        layer.apply({"W": W}, x)
        with pytest.raises(NotPlanned, match="was not planned before the capture"):
            layer.apply({"W": W}, x[:1])
    layer.apply({"W": W}, x[:1])


def test_a_graph_keeps_the_plans_that_it_runs():
    cuda = EmulatedCuda()
    with Cudnn(runtime=EmulatedRuntime()).layers():
        kept = weakref.ref(active())
        seen = []

        def body(x):
            seen.append(active()._frozen)
            return x + x

        graph = Graph(body, (cuda.array(1.0),), [], cuda=cuda, gemm=None, warmup=1)
    gc.collect()
    assert seen == [False, True]
    assert kept() is not None
    graph.close()
    gc.collect()
    assert kept() is None


def test_a_graph_runs_plans_that_are_closed_since():
    """What the device runs is in them, and nobody else has it."""
    cuda, dnn = EmulatedCuda(), Cudnn(runtime=EmulatedRuntime())
    layer = Convolution.init(3, 4, 3, bias=False, rng=0)
    W, x = fabricated(layer.W), fabricated(values((2, 3, 6, 5)).astype("float32"))

    def body(a):
        layer.apply({"W": W}, x)
        return a + a

    with dnn.layers():
        graph = Graph(body, (cuda.array(1.0),), [], cuda=cuda, gemm=None, warmup=1)
    kept = weakref.ref(dnn._runtime.cudnn.graphs.pop())
    dnn.close()
    gc.collect()
    assert kept() is not None
    graph.close()
    gc.collect()
    assert kept() is None


def test_results_are_taken_as_they_lie(dnn):
    """Channels last, from one convolution to the next: nothing is copied but the filters."""
    first = Convolution.init(3, 4, 3, padding=1, bias=False, rng=0)
    x, W = fabricated(values((2, 3, 6, 6)).astype("float32")), fabricated(first.W)
    y, _ = first.apply({"W": W}, x)
    copies = dnn._runtime.copies
    assert copies == 2  # the input and the filters
    second = Convolution.init(4, 4, 1, bias=False, rng=1)
    second.apply({"W": dnn._runtime.copied(fabricated(second.W))}, y)
    assert dnn._runtime.copies == copies + 1  # filters of 1 x 1 lie in both orders


@pytest.mark.parametrize(
    ("tf32", "deterministic", "dtype", "unwanted"),
    [
        (False, True, "float32", {"NONDETERMINISTIC", "TENSOR_CORE", "DOWN_CONVERT_INPUTS"}),
        (True, True, "float32", {"NONDETERMINISTIC"}),
        (True, False, "float32", set()),
        (False, True, "float16", {"NONDETERMINISTIC"}),
    ],
)
def test_what_algorithms_may_do(tf32, deterministic, dtype, unwanted):
    dnn = Cudnn(tf32=tf32, deterministic=deterministic, runtime=EmulatedRuntime())
    layer = Convolution.init(3, 4, 3, bias=False, rng=0)
    x = fabricated(values((2, 3, 6, 5)).astype(dtype))
    with dnn.layers():
        layer.apply({"W": fabricated(layer.W.astype(dtype))}, x)
    (graph,) = dnn._runtime.cudnn.graphs
    (notes,) = graph.arguments["deselect_numeric_notes"]
    assert {note.name for note in notes} == {*unwanted, "FFT", "REDUCED_PRECISION_REDUCTION"}
    assert graph.arguments["deselect_workspace_greater_than"] == (1 << 30,)
    assert graph.options["compute_data_type"].name == "FLOAT"


@pytest.mark.parametrize(
    ("times", "autotune", "ran"),
    [
        ((3.0, None, 1.0, 2.0), True, [0, 2, 3, 2]),
        ((3.0, None, 1.0, 2.0), False, [0]),
        ((None, 1.0), True, [1]),  # one is not timed
        ((None, 4.0, 3.0), False, [1]),
        ((9.0,) * CANDIDATES + (1.0,), True, [*range(CANDIDATES), 0]),
        ((None, None), True, []),
        ((2.05, 2.0, 3.0), True, [0, 1, 2, 0]),  # the first one of those that are as fast
        ((3.0, FAILS, 1.0), True, [0, 1, 2, 2]),
    ],
)
def test_the_fastest_of_some_algorithms(times, autotune, ran):
    dnn = Cudnn(autotune=autotune, runtime=EmulatedRuntime(times=times))
    layer = Convolution.init(3, 4, 3, bias=False, rng=0)
    x = values((2, 3, 6, 5)).astype("float32")
    there = fabricated(x), fabricated(layer.W)
    y = dnn.correlate(*there, None, layer._window, 1)
    (graph,) = dnn._runtime.cudnn.graphs
    assert graph.ran == ran
    if not ran:
        assert y is NotImplemented
        assert dnn.correlate(*there, None, layer._window, 1) is NotImplemented
        assert len(dnn._runtime.cudnn.graphs) == 1
        return
    assert_close(host(y), layer.predict(x), 1e-5)
    dnn.correlate(*there, None, layer._window, 1)
    assert graph.ran == [*ran, ran[-1]]
    (plan,) = dnn.plans.values()
    assert plan.workspace == max(1, 48 * ran[-1])


def test_an_algorithm_that_has_no_room_is_not_taken(monkeypatch):
    runtime = EmulatedRuntime(times=(3.0, 2.0, 1.0))
    empty = runtime.empty

    def limited(shape, dtype, device):
        if shape == (96,):  # bytes, of the fastest
            raise MemoryError
        return empty(shape, dtype, device)

    monkeypatch.setattr(runtime, "empty", limited)
    layer, dnn = Convolution.init(3, 4, 3, bias=False, rng=0), Cudnn(runtime=runtime)
    x = values((2, 3, 6, 5)).astype("float32")
    y = dnn.correlate(fabricated(x), fabricated(layer.W), None, layer._window, 1)
    assert_close(host(y), layer.predict(x), 1e-5)
    assert runtime.cudnn.graphs[0].ran == [0, 1, 1]


def test_when_all_algorithms_fail_the_error_is_that_of_the_library():
    dnn = Cudnn(runtime=EmulatedRuntime(times=(FAILS, FAILS)))
    layer, x = Convolution.init(3, 4, 3, bias=False, rng=0), values((2, 3, 6, 5)).astype("float32")
    there = fabricated(x), fabricated(layer.W)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=FAILS):
            dnn.correlate(*there, None, layer._window, 1)
    assert len(dnn._runtime.cudnn.graphs) == 1


def test_errors_of_the_library_are_raised_where_there_is_no_other_graph(monkeypatch):
    """What cuDNN cannot make a graph of with bias and ReLU may do without."""
    broken = []

    def build_operation_graph(self):
        if self.operation in broken:
            raise RuntimeError("cudnnFinalize failed")
        self.done.append("build_operation_graph")

    monkeypatch.setattr(
        EmulatedGraph, "build_operation_graph", build_operation_graph, raising=False
    )
    layer, x = Convolution.init(3, 4, 3, rng=0), values((2, 3, 6, 5)).astype("float32")
    there = [fabricated(a) for a in (x, layer.W, layer.b)]
    dnn = Cudnn(runtime=EmulatedRuntime())
    broken += ["conv_fprop + bias", "conv_fprop + bias + relu"]
    assert dnn.correlate(*there, layer._window, 1, relu=True) is NotImplemented
    assert_close(host(dnn.correlate(*there, layer._window, 1)), layer.predict(x), 1e-5)
    broken.append("conv_fprop")
    dnn = Cudnn(runtime=EmulatedRuntime())
    with pytest.raises(RuntimeError, match="cudnnFinalize"):
        dnn.correlate(*there, layer._window, 1)


def refusing(monkeypatch):
    """Let the portable body say that it was reached; it cannot run here."""

    def columns(*args):
        raise NotImplementedError("portable")

    monkeypatch.setitem(BODIES, "window_columns", columns)


def test_what_cudnn_has_not_is_portable(monkeypatch):
    refusing(monkeypatch)
    layer = Convolution.init(3, 4, 3, bias=False, rng=0)
    dnn = Cudnn(runtime=EmulatedRuntime(["conv_fprop"]))
    x = values((2, 3, 6, 5)).astype("float32")
    with dnn.layers():
        for _ in range(2):
            with pytest.raises(NotImplementedError, match="portable"):
                layer.apply({"W": fabricated(layer.W)}, fabricated(x))
    assert len(dnn._runtime.cudnn.graphs) == 1  # asked once


def test_double_and_what_is_outside_is_portable(dnn, monkeypatch):
    refusing(monkeypatch)
    layer = Convolution.init(3, 4, 3, bias=False, rng=0)
    x = values((2, 3, 6, 5))
    with pytest.raises(NotImplementedError, match="portable"):
        layer.apply({"W": fabricated(layer.W.astype("float64"))}, fabricated(x))
    assert not dnn.plans
    other = Cudnn(runtime=EmulatedRuntime())
    with other.layers():
        pass
    x = x.astype("float32")
    layer.apply({"W": fabricated(layer.W)}, fabricated(x))  # that of the block around it
    assert len(dnn.plans) == 1
    assert not other.plans


def test_a_gradient_without_elements_is_portable(dnn):
    """Its filters saw padding alone."""
    layer = Convolution.init(3, 4, 3, padding=2, bias=False, rng=0)
    dy, W = (fabricated(a.astype("float32")) for a in (values((2, 4, 2, 8)), layer.W))
    window = Window((3, 3), (1, 1), (1, 1), ((2, 2), (2, 2)))
    assert dnn.correlate_transposed(dy, W, None, window, 1, (0, 6)) is NotImplemented
    assert not dnn.plans


def test_numpy_is_computed_as_always(dnn):
    layer = Convolution.init(3, 4, 3, rng=0)
    layer(values((2, 3, 6, 5)).astype("float32"))
    assert not dnn.plans


def test_the_runtime_of_cuda_is_there_before_the_frontend(monkeypatch):
    """It opens it by a name that is found only when it is loaded already."""
    log = []

    class Pathfinder:
        @staticmethod
        def load_nvidia_dynamic_lib(name):
            log.append(name)

    class Frontend:
        @staticmethod
        def backend_version():
            log.append("frontend")

    monkeypatch.setitem(sys.modules, "cuda.pathfinder", Pathfinder)
    monkeypatch.setitem(sys.modules, "cudnn", Frontend)
    Runtime()
    assert log == ["cudart", "frontend"]
    monkeypatch.setattr(Pathfinder, "load_nvidia_dynamic_lib", None)  # it may be found without
    Runtime()


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "cudnn", None)
    with pytest.raises(ImportError, match=r'pip install "xplayers\[cudnn\]"'):
        Cudnn()


def test_a_network(dnn):
    """Its convolutions, of the layer that people use."""
    net = xl.Sequential(xl.Convolution.init(3, 4, 3, bias=False, rng=0))
    x = values((2, 3, 6, 5)).astype("float32")
    want = net.predict(x)
    y, _ = net.apply({"0.W": fabricated(net.params["0.W"])}, fabricated(x))
    assert_close(host(y), want, 1e-5)
