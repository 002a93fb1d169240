"""What can be checked of the CuPy path where CuPy is installed and there is no GPU.

CuPy arrays over host memory need no driver: dispatch, checks and words work on them, kernels do not
run. With a GPU, the whole table runs on CuPy: ``pytest --xp=cupy``.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
from emulator.emulated_gpu import fabricated

import xplayers as xl
from xplayers.arrays.checks import check_input, described
from xplayers.arrays.namespaces import (
    device,
    dtype_name,
    is_floating,
    is_half,
    is_integer,
    named_dtype,
    on_host,
)
from xplayers.arrays.transfer import is_out_of_memory

cupy = pytest.importorskip("cupy")


@pytest.fixture
def x():
    return fabricated(np.ones((32, 784), "float32"))


def test_what_the_array_says(x):
    assert xl.namespace(x).__name__ == "array_api_compat.cupy"
    assert is_floating(x)
    assert not is_integer(x)
    assert dtype_name(x.dtype) == "float32"
    assert not on_host(x)
    assert described(x) == "a cupy array on cuda:0"
    assert device(x).id == 0


def test_bfloat16_is_that_of_ml_dtypes(x, monkeypatch):
    """CuPy has no name for it, and takes it by that dtype."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    xp = xl.namespace(x)
    assert named_dtype(xp, "bfloat16") == cupy.dtype("bfloat16") == ml_dtypes.bfloat16
    assert named_dtype(xp, "float32") == x.dtype
    assert named_dtype(xp, "float31") is None
    half = fabricated(np.zeros((3, 4), ml_dtypes.bfloat16))
    assert is_floating(half)
    assert is_half(half)
    assert xl.MixedPrecision()._dtype(xp) == half.dtype
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(TypeError, match="cupy has no bfloat16; pip install ml-dtypes"):
        xl.MixedPrecision()._dtype(xp)


def test_the_parameters_of_the_caller_are_not_moved(x):
    layer = xl.Affine(np.ones((784, 100), "float32"), np.ones(100, "float32"))
    message = (
        r"Affine\(784 -> 100\): x is a cupy array on cuda:0, W is a numpy array on the CPU\. "
        r"Call layer\.to\(like=x\)\."
    )
    with pytest.raises(TypeError, match=message):
        layer.forward(x)


def test_numpy_into_a_layer_on_the_gpu(x):
    check_input("Affine", x, {"W": fabricated(np.ones((784, 2), "float32"))})
    with pytest.raises(
        TypeError, match=r"x is a numpy array on the CPU, W is a cupy array on cuda"
    ):
        check_input("Affine", np.ones((1, 784), "float32"), {"W": x})
    with pytest.raises(TypeError, match="target is a numpy array on the CPU, scores is a cupy"):
        xl.SoftmaxWithLoss().forward(x, np.zeros(32, "int64"))
    with pytest.raises(TypeError, match="minibatches: t is a numpy array on the CPU"):
        xl.minibatches(x, np.zeros(32), 4)


def test_labels_on_a_gpu_are_not_looked_at(x, monkeypatch):
    """A look would wait for the device in every step."""
    monkeypatch.setattr(
        "xplayers.losses.softmax.check_labels", lambda *a, **k: pytest.fail("a look")
    )
    xl.SoftmaxWithLoss().check(x, fabricated(np.zeros(32, "int64")))


def test_arrays_on_two_gpus():
    layer = xl.Affine(fabricated(np.ones((784, 2), "float32")), fabricated(np.ones(2, "float32")))
    other = fabricated(np.ones((4, 784), "float32"), device=1)
    message = (
        r"x is a cupy array on cuda:1, W is a cupy array on cuda:0\. Call layer\.to\(like=x\)\."
    )
    with pytest.raises(TypeError, match=message):
        layer.forward(other)
    with pytest.raises(TypeError, match="b is a cupy array on cuda:1, W is a cupy array on cuda:0"):
        xl.Affine(layer.W, fabricated(np.ones(2, "float32"), device=1))
    step = xl.TrainStep(xl.Sequential(layer), xl.SoftmaxWithLoss(), xl.SGD())
    with pytest.raises(TypeError, match="t is a cupy array on cuda:1, x is a cupy array on cuda:0"):
        step(fabricated(np.ones((4, 784), "float32")), fabricated(np.zeros(4, "int64"), device=1))


def test_memory_of_a_gpu_that_is_full():
    assert is_out_of_memory(cupy.cuda.memory.OutOfMemoryError(1 << 40, 1 << 37))


@pytest.mark.skipif(cupy.is_available(), reason="there is a GPU")
def test_moving_to_a_gpu_that_is_not_there():
    net = xl.Affine(np.ones((3, 2), "float32"), np.ones(2, "float32"))
    message = (
        r"cupy cannot compute here \(.*\)\. `xplayers info` says why and what to do; without an"
    )
    with pytest.raises(RuntimeError, match=message):
        net.to(xp=cupy)
    assert isinstance(net.W, np.ndarray)
    with pytest.raises(RuntimeError, match=message):
        xl.move(np.ones(3), xp=cupy)
