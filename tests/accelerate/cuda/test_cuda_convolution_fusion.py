"""Convolutions and ReLU as one: graphs and gradients, without a GPU.

Emulated: what computes both, by NumPy; `emulated_cudnn` for the library, on CuPy arrays over host
memory, with the kernels of our own run by the host.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from helpers import assert_close, assert_same_arrays, assert_same_bits, values

pytest.importorskip("cupy")

from emulator.emulated_cudnn import EmulatedRuntime, assert_valid, host_dtype
from emulator.emulated_gpu import fabricated, host
from emulator.emulated_kernels import emulating, needs_compiler

import xplayers as xl
from xplayers.accelerate.cuda import kernels
from xplayers.accelerate.cuda.convolution_fusion import ConvolutionFusion
from xplayers.accelerate.cuda.cudnn import Cudnn
from xplayers.accelerate.cuda.fusion import Saved, fusing
from xplayers.accelerate.cuda.planner import NotPlanned
from xplayers.layers import correlation
from xplayers.layers.containers import Joined, parts_of


class Both:
    """What a `Cudnn` is asked for, on NumPy arrays."""

    def __init__(self, *, able=True):
        self.able = able
        self.asked = 0

    def correlate(self, x, W, b, window, groups, *, relu):
        assert relu
        self.asked += 1
        y = correlation.correlate(x, W, b, window, groups)
        return np.maximum(y, 0) if self.able else NotImplemented


def layers(bias=True):
    first = xl.Convolution.init(3, 4, 3, padding=1, bias=bias, rng=0)
    second = xl.Convolution.init(4, 6, (3, 2), stride=(2, 1), groups=2, bias=bias, rng=1)
    if bias:
        first.b, second.b = values((4,), 2).astype("float32"), values((6,), 3).astype("float32")
    return [first, xl.Relu(), xl.MaxPooling(2), second, xl.Relu()]


def assert_same_pass(net, arrays, x, dy, tolerance=1e-12):
    """Within the context a pass is what it is outside; `arrays` and `x` in double precision."""
    want, cache = net.apply(arrays, x)
    dx, grads = net.vjp(cache, dy)
    both = Both()
    with fusing(np.ndarray, functools.partial(ConvolutionFusion.joined, library=lambda: both)):
        y, cache = net.apply(arrays, x)
        got_dx, got = net.vjp(cache, dy)
        inferred = net.infer(arrays, x)
        assert both.asked == 2 * sum(
            isinstance(part.layer, ConvolutionFusion) for part in cache.parts
        )
    assert type(cache) is Joined
    for a, right in ((y, want), (inferred, want), (got_dx, dx)):
        assert_close(a, right, tolerance)
    for result in (got, net.param_grads(cache, dy)):
        assert result.keys() == grads.keys()
        for name, g in grads.items():
            assert_close(result[name], g, tolerance, name)
    return cache


def wide(net):
    return {name: a.astype("float64") for name, a in net.arrays.items()}


@pytest.mark.parametrize("bias", [True, False])
def test_a_network(bias):
    net = xl.Sequential(*layers(bias))
    x = values((2, 3, 9, 8))
    dy = values(net.predict(x.astype("float32")).shape, 1)
    cache = assert_same_pass(net, wide(net), x, dy)
    assert [type(c) for c in cache] == [Saved, tuple, Saved]
    assert [part.name for part in cache.parts] == ["0 to 1", "2", "3 to 4"]


def test_a_layer_that_occurs_twice():
    one = xl.Convolution.init(3, 3, 3, padding="same", rng=0)
    net = xl.Sequential(one, xl.Relu(), one, xl.Relu())
    assert list(net.params) == ["0.W", "0.b"]
    assert_same_pass(net, wide(net), values((2, 3, 5, 4)), values((2, 3, 5, 4), 1))


def test_which_parts_are_joined():
    def names(*layers):
        parts = ConvolutionFusion.joined(xl.Sequential(*layers)._parts, Both)
        return [part.name for part in parts]

    def conv():
        return xl.Convolution.init(3, 3, 3, rng=0)

    assert names(conv(), xl.Relu(), xl.Relu(), conv(), xl.Relu()) == ["0 to 1", "2", "3 to 4"]
    assert names(xl.Relu(), conv(), xl.LeakyRelu(), conv()) == ["0", "1", "2", "3"]
    assert names(xl.ConvolutionTranspose.init(3, 3, 3, rng=0), xl.Relu()) == ["0", "1"]
    assert names(xl.Affine.init(3, 3, rng=0), xl.Relu()) == ["0", "1"]
    assert names() == []


def test_what_cannot_be_done_at_once_is_done_by_the_layers():
    net, both = xl.Sequential(*layers()), Both(able=False)
    x = values((2, 3, 9, 8)).astype("float32")
    want, before = net.apply(net.arrays, x)
    dx, grads = net.vjp(before, want)
    with fusing(np.ndarray, functools.partial(ConvolutionFusion.joined, library=lambda: both)):
        y, cache = net.apply(net.arrays, x)
        inferred = net.infer(net.arrays, x)
    assert both.asked == 4
    assert [type(c) for c in cache] == [tuple, tuple, tuple]
    got_dx, got = net.vjp(cache, want)
    for a, right in ((y, want), (inferred, want), (got_dx, dx)):
        assert_same_bits(a, right)
    for result in (got, net.param_grads(cache, want)):
        assert_same_arrays(grads, result)


def test_contexts_in_one_another():
    """A fuser counts once, and each context ends with its own."""
    net, x = xl.Sequential(*layers()), np.ones(1)
    rectified = functools.partial(ConvolutionFusion.joined, library=Both)

    def halves(parts):
        return list(parts[:2])

    assert parts_of(x, net) is net._parts
    with fusing(np.ndarray, rectified):
        outer = parts_of(x, net)
        assert len(outer) == 3
        with fusing(np.ndarray, rectified):
            assert parts_of(x, net) is outer
        with fusing(np.ndarray, halves):
            assert [part.name for part in parts_of(x, net)] == ["0 to 1", "2"]
        assert len(parts_of(x, net[1:3])) == 2  # nothing to join
        assert parts_of(x, net) is outer
    assert parts_of(x, net) is net._parts


def test_errors_name_the_parts():
    net = xl.Sequential(*layers())
    with (
        fusing(np.ndarray, functools.partial(ConvolutionFusion.joined, library=Both)),
        pytest.raises(ValueError, match=r"Convolution\(3 -> 4, 3x3\): x has shape") as error,
    ):
        net.apply(net.arrays, values((2, 5, 9, 8)).astype("float32"))
    assert error.value.__notes__ == ["In part '0 to 1' of Sequential."]


# Through cuDNN, on CuPy arrays


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_network_through_cudnn(monkeypatch, dnn, dtype, bias):
    net, kind = xl.Sequential(*layers(bias)), host_dtype(dtype)
    x = values((2, 3, 9, 8)).astype(kind)
    arrays = {name: a.astype(kind) for name, a in net.arrays.items()}
    exact = {name: a.astype("float64") for name, a in arrays.items()}
    want, cache = net.apply(exact, x.astype("float64"))
    dy = values(want.shape, 1).astype(kind)
    dx, grads = net.vjp(cache, dy.astype("float64"))

    there = {name: fabricated(a) for name, a in arrays.items()}
    with emulating(monkeypatch) as gpu:
        monkeypatch.setattr(kernels, "copied", dnn._runtime.copied)
        y, cache = net.apply(there, fabricated(x))
        got_dx, got = net.vjp(cache, fabricated(dy))
        inferred = net.infer(there, fabricated(x))
        launched = [name.removeprefix("xplayers_") for name, *_ in gpu.launches]
    tolerance = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}[dtype]
    for a, right in ((y, want), (got_dx, dx), (inferred, want)):
        assert a.dtype == kind
        assert_close(host(a), right, tolerance)
    assert got.keys() == grads.keys()
    for name, g in grads.items():
        assert got[name].dtype == kind
        assert_close(host(got[name]), g, tolerance, name)
    # Of our own there is one kernel for a ReLU, in backward.
    assert launched == ["max_pooling", "relu_grads", "max_grads", "relu_grads", "max_pooling"]
    after = ("bias", "relu") if bias else ("relu",)
    assert [key.after for key in dnn.plans] == [after, after, (), (), (), ()]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 9), (2, 3, 9, 8), (2, 3, 5, 6, 4)])
def test_the_library_finds_the_graphs_valid(dnn, cudnn_library, shape, dtype, bias):
    size = (3,) * (len(shape) - 2)
    layer, relu = xl.Convolution.init(3, 4, size, padding=1, bias=bias, rng=0), xl.Relu()
    there = {k: fabricated(a.astype(host_dtype(dtype))) for k, a in layer.arrays.items()}
    x = fabricated(values(shape).astype(host_dtype(dtype)))
    layer.apply(there, x)
    net = xl.Sequential(layer, relu)
    net.apply({f"0.{name}": a for name, a in there.items()}, x)
    assert len(dnn.plans) == 2
    for key in dnn.plans:
        assert_valid(cudnn_library, key)


def test_what_cudnn_has_no_algorithm_for():
    """First ReLU is left to itself, then the bias is."""
    layer = xl.Convolution.init(3, 4, 3, rng=0)
    layer.b = values((4,), 2).astype("float32")
    x = values((2, 3, 9, 8)).astype("float32")
    there = {name: fabricated(a) for name, a in layer.arrays.items()}
    window = layer._window
    for unsupported, relu, asked in (
        ([], True, ["conv_fprop + bias + relu"]),
        (["conv_fprop + bias + relu"], True, ["conv_fprop + bias + relu"]),
        ([], False, ["conv_fprop + bias"]),
        (["conv_fprop + bias"], False, ["conv_fprop + bias", "conv_fprop"]),
        (["conv_fprop + bias", "conv_fprop"], False, ["conv_fprop + bias", "conv_fprop"]),
    ):
        dnn = Cudnn(runtime=EmulatedRuntime(unsupported))
        y = dnn.correlate(fabricated(x), there["W"], there["b"], window, 1, relu=relu)
        assert [graph.operation for graph in dnn._runtime.cudnn.graphs] == asked
        if asked[-1] in unsupported:
            assert y is NotImplemented
        else:
            want = layer.predict(x)
            assert_close(host(y), np.maximum(want, 0) if relu else want, 1e-5)


def test_a_plan_is_named_by_all_that_it_does(dnn):
    layer = xl.Convolution.init(3, 4, 3, rng=0)
    there = {name: fabricated(a) for name, a in layer.arrays.items()}
    x = fabricated(values((2, 3, 9, 8)).astype("float32"))
    with (
        dnn.frozen(),
        pytest.raises(NotPlanned, match=r"conv_fprop \+ bias \(image \(2, 3, 9, 8\)"),
    ):
        layer.apply(there, x)
