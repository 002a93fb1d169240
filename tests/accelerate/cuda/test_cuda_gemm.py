"""Matrix products through cuBLASLt: keys, layouts and calls, on CuPy arrays over host memory.

The library itself is not called: `emulated_gpu.EmulatedCublasLt` computes what the descriptors say.
With a GPU, ``python -m benchmarks gpu`` compares every epilogue with float64.
"""

from __future__ import annotations

import contextlib
import sys

import numpy as np
import pytest
from emulator.emulated_gpu import (
    EmulatedCublasLt,
    EmulatedRuntime,
    fabricated,
    gelu,
    gelu_derivative,
    host,
)

import xplayers as xl
from xplayers.arrays.products import matmul, product

cupy = pytest.importorskip("cupy")

from xplayers.accelerate.cuda import layouts  # noqa: E402
from xplayers.accelerate.cuda.gemm import Gemm, NoAlgorithm, NotPlanned  # noqa: E402

# Kernels of CuPy on the memory of the host would break its context for all that follows.
without_gpu = pytest.mark.skipif(cupy.is_available(), reason="there is a GPU")


@pytest.fixture
def runtime():
    return EmulatedRuntime()


@pytest.fixture
def gemm(runtime):
    made = Gemm(runtime=runtime)
    yield made
    made.close()
    assert not runtime.lt.objects  # nothing is left behind


def values(*shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def close(got, expected, dtype="float32"):
    tolerance = {"float16": 2e-2, "float32": 1e-5, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(host(got), expected, rtol=tolerance, atol=tolerance)


LAYOUTS = {
    "rows": lambda a: a,
    "columns": lambda a: np.array(a.T, order="C").T,
    "rows of a larger one": lambda a: np.pad(a, ((0, 0), (3, 2)))[:, 3:-2],
    "columns of a larger one": lambda a: np.pad(a.T, ((0, 0), (1, 3)))[:, 1:-3].T,
    "every other": lambda a: np.repeat(np.repeat(a, 2, axis=0), 2, axis=1)[::2, ::2],
    "backwards": lambda a: np.array(a[::-1, ::-1])[::-1, ::-1],
}


@pytest.mark.parametrize("second", LAYOUTS)
@pytest.mark.parametrize("first", LAYOUTS)
def test_a_product_of_any_layout(gemm, runtime, first, second):
    a, b = values(5, 7), values(7, 3, seed=1)
    d = gemm.matmul(fabricated(LAYOUTS[first](a)), fabricated(LAYOUTS[second](b)))
    assert d.shape == (5, 3)
    close(d, a.astype("float64") @ b)
    assert runtime.copies == sum(name in ("every other", "backwards") for name in (first, second))


def test_rows_that_lie_on_each_other_are_copied(gemm, runtime):
    a, b = values(5), values(5, 3, seed=1)
    rows = np.broadcast_to(a, (4, 5))
    close(gemm.matmul(fabricated(rows), fabricated(b)), rows @ b)
    assert runtime.copies == 1


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 1), (4, 1, 3), (1, 1, 6), (6, 5, 1)])
def test_axes_of_length_one(gemm, shape):
    m, k, n = shape
    a, b = values(m, k), values(k, n, seed=1)
    close(gemm.matmul(fabricated(a), fabricated(b)), a @ b)
    close(gemm.matmul(fabricated(LAYOUTS["columns"](a)), fabricated(b.T.copy().T)), a @ b)


@pytest.mark.parametrize(
    ("first", "second"),
    [((6, 4, 5), (6, 5, 3)), ((4, 5), (6, 5, 3)), ((6, 4, 5), (5, 3)), ((2, 3, 4, 5), (2, 3, 5, 2)),
     ((1, 4, 5), (6, 5, 3)), ((2, 1, 4, 5), (5, 3)), ((3, 4, 5), (2, 3, 5, 2)),
     ((2, 1, 4, 5), (2, 3, 5, 2))],
)  # fmt: skip
def test_batches(gemm, first, second):
    a, b = values(*first), values(*second, seed=1)
    d = gemm.matmul(fabricated(a), fabricated(b))
    assert d.shape == (a @ b).shape
    close(d, a @ b)
    d = gemm.matmul(fabricated(b.mT), fabricated(a.mT))
    close(d, b.mT @ a.mT)


@pytest.mark.parametrize("part", [slice(None, None, 2), slice(2)])
def test_a_batch_of_unequal_distances_is_copied(gemm, runtime, part):
    a, b = values(4, 3, 2, 5)[:, part], values(4, 2, 5, 3, seed=1)
    close(gemm.matmul(fabricated(a), fabricated(b)), a @ b)
    assert runtime.copies == 1


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dtypes(gemm, dtype):
    a, b = values(8, 16, dtype=dtype), values(16, 8, dtype=dtype, seed=1)
    d = gemm.matmul(fabricated(a), fabricated(b))
    assert d.dtype == dtype
    close(d, a.astype("float64") @ b.astype("float64"), dtype)


def test_sums_of_halves_can_be_kept_in_float32(gemm):
    a, b = values(8, 16, dtype="float16"), values(16, 8, dtype="float16", seed=1)
    d = gemm.matmul(fabricated(a), fabricated(b), dtype="float32")
    assert d.dtype == "float32"
    close(d, a.astype("float64") @ b.astype("float64"))


def descriptors(runtime):
    return [o for o in runtime.lt.objects.values() if "compute" in o]


def test_precision_is_an_argument(gemm, runtime):
    a, b = fabricated(values(4, 4)), fabricated(values(4, 4))
    for compute, number in (("float32", 68), ("tf32", 77), ("bfloat16", 75)):
        gemm.matmul(a, b, compute=compute)
        assert descriptors(runtime)[-1]["compute"] == number
    double = fabricated(values(4, 4, dtype="float64"))
    with pytest.raises(ValueError, match="is 'tf32' for float64 matrices; expected float64"):
        gemm.matmul(double, double, compute="tf32")
    with pytest.raises(ValueError, match="compute is 'fast'"):
        Gemm("fast", runtime=runtime)
    with contextlib.closing(Gemm("tf32", runtime=runtime)) as tf32:
        tf32.matmul(a, b)
        assert descriptors(runtime)[-1]["compute"] == 77
        tf32.matmul(double, double)  # for which it means nothing
        assert descriptors(runtime)[-1]["compute"] == 70


RELU = (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype("float64"))
GELU = (gelu, gelu_derivative)


@pytest.mark.parametrize("n", [3, 128, 130])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("name", "functions"), [("relu", RELU), ("gelu", GELU)])
def test_activations_and_their_derivatives(gemm, name, functions, bias, n):
    function, derivative = functions
    x, W, b, dy, V = (
        values(*shape, dtype="float64", seed=i)
        for i, shape in enumerate([(6, 5), (5, n), (n,), (6, 4), (n, 4)])
    )
    z = x @ W + (b if bias else 0)
    vectors = {"bias": fabricated(b)} if bias else {}
    suffix = "_bias" if bias else ""
    y = gemm.matmul(fabricated(x), fabricated(W), epilogue=name + suffix, **vectors)
    close(y, function(z), "float64")
    y, aux = gemm.matmul(fabricated(x), fabricated(W), epilogue=f"{name}_aux{suffix}", **vectors)
    close(y, function(z), "float64")

    # the way back through the layer above, whose weights are V
    dz = (dy @ V.T) * derivative(z)
    V = fabricated(V.T)
    close(gemm.matmul(fabricated(dy), V, epilogue=f"d{name}", aux=aux), dz, "float64")
    got, db = gemm.matmul(fabricated(dy), V, epilogue=f"d{name}_bgrad", aux=aux)
    close(got, dz, "float64")
    close(db, dz.sum(axis=0), "float64")


def test_bias_and_its_gradient(gemm):
    x, W, b, dy = values(6, 5), values(5, 3, seed=1), values(3, seed=2), values(6, 3, seed=3)
    close(gemm.matmul(fabricated(x), fabricated(W), epilogue="bias", bias=fabricated(b)), x @ W + b)
    dW, db = gemm.matmul(fabricated(x.T), fabricated(dy), epilogue="bgradb")
    close(dW, x.T @ dy)
    close(db, dy.sum(axis=0))


def test_the_result_goes_where_it_is_wanted(gemm):
    a, b, memory = values(4, 5), values(5, 3, seed=1), np.zeros((4, 8), "float32")
    out = fabricated(memory)[:, 2:5]
    assert gemm.matmul(fabricated(a), fabricated(b), out=out) is out
    np.testing.assert_allclose(memory[:, 2:5], a @ b, rtol=1e-5)
    assert not memory[:, :2].any()
    assert not memory[:, 5:].any()
    with pytest.raises(ValueError, match=r"out has shape \(4, 4\); expected \(4, 3\)"):
        gemm.matmul(fabricated(a), fabricated(b), out=fabricated(values(4, 4)))
    with pytest.raises(ValueError, match="contiguous rows"):
        gemm.matmul(fabricated(a), fabricated(b), out=fabricated(values(3, 4).T))


# Plans


def test_a_plan_is_made_once(gemm, runtime):
    a, b = fabricated(values(4, 5)), fabricated(values(5, 3))
    for _ in range(3):
        gemm.matmul(a, b)
    assert runtime.lt.asked == 1
    gemm.matmul(a, fabricated(values(3, 5).T))  # another layout
    gemm.matmul(a, b, epilogue="relu")
    gemm.matmul(a, b, compute="tf32")
    gemm.matmul(fabricated(np.zeros((4, 6), "float32")[:, :5]), b)  # another leading dimension
    assert runtime.lt.asked == 5
    assert len(gemm.plans) == 5
    assert runtime.lt.streams == {7}


def test_products_of_one_plan_have_their_own_arrays(gemm, runtime):
    x, W, b = values(6, 5), values(5, 3, seed=1), values(2, 64, seed=2)[:, :3]
    for i in (0, 1, 0):  # both are aligned alike
        y = gemm.matmul(fabricated(x), fabricated(W), epilogue="bias", bias=fabricated(b[i]))
        close(y, x @ W + b[i])
    assert len(gemm.plans) == 1


def test_alignment_is_part_of_the_key(gemm, runtime):
    memory = np.zeros(200, "float32")
    start = -memory.ctypes.data % 256 // 4
    b = fabricated(values(4, 4))
    keys = []
    for offset in (0, 1, 4):
        a = fabricated(memory[start + offset : start + offset + 16].reshape(4, 4))
        gemm.matmul(a, b)
        keys.append(list(gemm.plans)[-1])
        # in columns the second factor is A
        assert runtime.lt.preferences["MIN_ALIGNMENT_B_BYTES"] == keys[-1].a.alignment
        assert runtime.lt.preferences["MIN_ALIGNMENT_A_BYTES"] == keys[-1].b.alignment
    assert [key.a.alignment for key in keys] == [256, 4, 16]
    assert runtime.lt.preferences["MAX_WORKSPACE_BYTES"] == 32 << 20


def test_the_fastest_candidate_is_kept():
    runtime = EmulatedRuntime(EmulatedCublasLt((5, -6, 7, 8)), {5: 3.0, 7: 1.0, 8: 2.0})
    gemm = Gemm(runtime=runtime)
    a, b = fabricated(values(4, 4)), fabricated(values(4, 4))
    gemm.matmul(a, b)
    assert set(runtime.lt.algorithms) == {5, 7, 8}  # 6 is not supported
    assert runtime.lt.algorithms[-1] == 7
    ran = len(runtime.lt.algorithms)
    close(gemm.matmul(a, b), host(a) @ host(b))
    assert runtime.lt.algorithms[ran:] == [7]
    with contextlib.closing(Gemm(autotune=False, runtime=runtime)) as first:
        first.matmul(a, b)
    assert runtime.lt.algorithms[ran + 1 :] == [5]


def test_a_capture_makes_no_plans(gemm):
    a, b = fabricated(values(4, 5)), fabricated(values(5, 3))
    gemm.matmul(a, b)
    with gemm.frozen():
        close(gemm.matmul(a, b), host(a) @ host(b))
        message = r"\(3, 5\) @ \(5, 4\) of float32.* was not planned before .*compile=False"
        with pytest.raises(NotPlanned, match=message):
            gemm.matmul(fabricated(values(3, 5)), fabricated(values(5, 4)))
    gemm.matmul(fabricated(values(3, 5)), fabricated(values(5, 4)))


@pytest.mark.parametrize("candidates", [(), (-3,)])
def test_no_algorithm(candidates):
    runtime = EmulatedRuntime(EmulatedCublasLt(candidates))
    with contextlib.closing(Gemm(runtime=runtime)) as gemm:
        a = fabricated(values(4, 4))
        with pytest.raises(NoAlgorithm, match=r"no algorithm for \(4, 4\) @ .* Use a @ b"):
            gemm.matmul(a, a)
        with pytest.raises(NoAlgorithm, match="Use epilogue='none'"):
            gemm.matmul(a, a, epilogue="relu")
        with gemm.frozen(), pytest.raises(NoAlgorithm):
            gemm.matmul(a, a)  # known from before
        assert runtime.lt.asked == 2
    assert not runtime.lt.objects


def test_a_status_of_the_library_is_no_algorithm(monkeypatch, gemm, runtime):
    def refuse(*arguments):
        raise EmulatedCublasLt.cuBLASLtError("CUBLAS_STATUS_NOT_SUPPORTED")

    monkeypatch.setattr(runtime.lt, "matmul_algo_get_heuristic", refuse)
    with pytest.raises(NoAlgorithm):
        gemm.matmul(fabricated(values(4, 4)), fabricated(values(4, 4)))


@pytest.mark.parametrize("epilogue", ["drelu", "drelu_bgrad", "dgelu", "dgelu_bgrad"])
def test_a_derivative_below_one_feature_has_no_algorithm(gemm, runtime, epilogue):
    """The library names some, which read what is not theirs."""
    name = epilogue[1:5]
    x, W, dy, V = (fabricated(values(*shape)) for shape in ((6, 5), (5, 8), (6, 1), (1, 8)))
    _, aux = gemm.matmul(x, W, epilogue=f"{name}_aux")
    ran = len(runtime.lt.algorithms)
    with pytest.raises(NoAlgorithm, match=rf"\(6, 1\) @ \(1, 8\).*epilogue {epilogue}\."):
        gemm.matmul(dy, V, epilogue=epilogue, aux=aux)
    assert len(runtime.lt.algorithms) == ran
    close(gemm.matmul(dy, V), host(dy) @ host(V))


@pytest.mark.parametrize(("version", "is_there"), [(120303, False), (120304, True)])
def test_sums_of_one_sample_wait_for_a_version(gemm, runtime, monkeypatch, version, is_there):
    monkeypatch.setattr(runtime.lt, "version", version)
    a, b = fabricated(values(5, 1)), fabricated(values(1, 3))
    with contextlib.nullcontext() if is_there else pytest.raises(NoAlgorithm):
        close(gemm.matmul(a, b, epilogue="bgradb")[1], host(b)[0])
    close(gemm.matmul(fabricated(values(5, 2)), fabricated(values(2, 3)), epilogue="bgradb")[1],
          values(2, 3).sum(axis=0))  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "refused"),
    [("", set()), ("drops_nan", {"relu", "relu_bias", "relu_aux", "relu_aux_bias"}),
     ("passes_at_zero", {"relu_aux", "relu_aux_bias"})],
)  # fmt: skip
def test_a_relu_that_makes_other_numbers_is_not_taken(gemm, runtime, monkeypatch, fault, refused):
    """Of NaN it has to make NaN, and at 0 its derivative is 0."""
    if fault:
        monkeypatch.setattr(runtime.lt, fault, True)
    without = set()
    for dtype in ("float32", "float16"):
        x, W = values(6, 5, dtype=dtype), values(3, 5, seed=1, dtype=dtype).T
        for epilogue in layouts.EPILOGUES:
            if epilogue.startswith(("relu", "gelu")):
                options = {"bias": fabricated(x[0, :3])} if epilogue.endswith("bias") else {}
                try:
                    gemm.matmul(fabricated(x), fabricated(W), epilogue=epilogue, **options)
                except NoAlgorithm:
                    without.add(epilogue)
    assert without == refused


# The layers


@pytest.fixture
def left(monkeypatch):
    """Return the products that are left to CuPy, which needs a GPU and a library for them."""
    from xplayers.accelerate.cupy import BODIES

    products = []

    def matmul(a, b):
        products.append((a.shape, b.shape))
        return fabricated(host(a) @ host(b))

    monkeypatch.setitem(BODIES, "matmul", matmul)
    return products


@without_gpu
def test_layers_use_it_in_its_context_only(gemm, runtime, left):
    rng = np.random.default_rng(0)
    W, b = values(5, 3), rng.standard_normal(3).astype("float32")
    layer = xl.Affine(fabricated(W), fabricated(b))
    x, dy = values(4, 5, seed=1), values(4, 3, seed=2)
    arrays = {"W": layer.W, "b": layer.b}
    with gemm.products():
        y, _ = layer.apply(arrays, fabricated(x))
        close(y, x @ W + b)
        assert descriptors(runtime)[0]["EPILOGUE"] == EmulatedCublasLt.Epilogue.BIAS
        close(product(fabricated(dy), layer.W.T), dy @ W.T)
        stack = values(2, 4, 5)
        close(matmul(fabricated(stack), layer.W), stack @ W)
    ran = len(runtime.lt.algorithms)
    assert not left
    close(product(fabricated(x), layer.W), x @ W)
    assert left == [((4, 5), (5, 3))]
    assert len(runtime.lt.algorithms) == ran


@without_gpu
def test_a_bias_without_an_algorithm_is_added(monkeypatch, runtime):
    lt = EmulatedCublasLt()
    ask = lt.matmul_algo_get_heuristic

    def only_plain(handle, desc, *rest):
        if lt.objects[desc]["EPILOGUE"] != lt.Epilogue.DEFAULT:
            raise lt.cuBLASLtError
        ask(handle, desc, *rest)

    monkeypatch.setattr(lt, "matmul_algo_get_heuristic", only_plain)
    runtime = EmulatedRuntime(lt)
    with contextlib.closing(Gemm(runtime=runtime)) as gemm, gemm.products():
        a, b = fabricated(values(4, 4)), fabricated(values(4, 4))
        with pytest.raises(Exception, match="CUDA_ERROR|cuda"):  # the sum is CuPy's kernel
            product(a, b, fabricated(values(4)))
        assert lt.algorithms == [0]
        assert [key.epilogue for key in gemm.plans] == ["none"]


@without_gpu
def test_a_bias_of_another_dtype_is_added(gemm, runtime):
    with gemm.products(), pytest.raises(Exception, match="CUDA_ERROR|cuda"):  # CuPy's kernel
        product(fabricated(values(4, 4)), fabricated(values(4, 4)), fabricated(np.ones(4)))
    assert [key.epilogue for key in gemm.plans] == ["none"]


@without_gpu
def test_products_it_does_not_have_stay_with_cupy(gemm, runtime, left):
    integers = fabricated(np.ones((2, 2), "int32"))
    with gemm.products():
        matmul(integers, integers)
    assert left == [((2, 2), (2, 2))]
    assert not runtime.lt.algorithms


def test_other_libraries_are_not_asked(gemm):
    with gemm.products():
        a = values(4, 4)
        np.testing.assert_array_equal(matmul(a, a), a @ a)
        np.testing.assert_array_equal(product(a, a, a[0]), a @ a + a[0])


# Errors


def test_operands_that_do_not_fit(gemm):
    a, b = fabricated(values(4, 5)), fabricated(values(5, 3))
    with pytest.raises(ValueError, match=r"a has shape \(5, 3\), b has shape \(4, 5\)"):
        gemm.matmul(b, a)
    with pytest.raises(TypeError, match="a is float32, b is float64"):
        gemm.matmul(a, fabricated(values(5, 3, dtype="float64")))
    with pytest.raises(TypeError, match="a is int32"):
        gemm.matmul(fabricated(np.ones((2, 2), "int32")), fabricated(np.ones((2, 2), "int32")))
    with pytest.raises(ValueError, match="has no elements"):
        gemm.matmul(fabricated(np.zeros((0, 5), "float32")), b)
    with pytest.raises(ValueError, match="no common batch"):
        gemm.matmul(fabricated(values(2, 4, 5)), fabricated(values(3, 5, 3)))
    with pytest.raises(TypeError, match="a is on cuda:0, b is on cuda:1"):
        gemm.matmul(a, fabricated(values(5, 3), device=1))


def test_epilogues_ask_for_what_they_need(gemm):
    a, b = fabricated(values(4, 5)), fabricated(values(5, 3))
    with pytest.raises(ValueError, match="epilogue is 'selu'; expected one of none, bias"):
        gemm.matmul(a, b, epilogue="selu")
    with pytest.raises(ValueError, match="'bias' needs bias"):
        gemm.matmul(a, b, epilogue="bias")
    with pytest.raises(ValueError, match="'relu' takes no bias"):
        gemm.matmul(a, b, epilogue="relu", bias=fabricated(values(3)))
    with pytest.raises(ValueError, match="'drelu' needs aux"):
        gemm.matmul(a, b, epilogue="drelu")
    message = r"bias is float32 of shape \(4,\); expected float32 .*\(3,\)"
    with pytest.raises(ValueError, match=message):
        gemm.matmul(a, b, epilogue="bias", bias=fabricated(values(4)))
    with pytest.raises(ValueError, match=r"aux is float32 .*expected uint8 of shape \(4, 16\)"):
        gemm.matmul(a, b, epilogue="drelu", aux=fabricated(values(4, 16)))
    with pytest.raises(ValueError, match="is for two matrices"):
        gemm.matmul(fabricated(values(2, 4, 5)), b, epilogue="relu")


def test_without_the_bindings(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvmath.bindings", None)
    with pytest.raises(ImportError, match=r'pip install "xplayers\[cublaslt\]"; or use a @ b'):
        Gemm()
