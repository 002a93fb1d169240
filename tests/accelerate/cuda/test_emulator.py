"""Kernels on the host: threads of a block, what a GPU leaves open, and what it does not allow."""

from __future__ import annotations

import numpy as np
import pytest
from emulator import building, launching

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(
        building.compiler() is None, reason="no C++ compiler with _Float16 and ucontext.h"
    ),
]

SOURCE = """
extern "C" __global__ void turned(const float* x, float* y)
{
    __shared__ float values[64];
    values[threadIdx.x] = x[threadIdx.x + blockDim.x * blockIdx.x];
    __syncthreads();
    y[threadIdx.x + blockDim.x * blockIdx.x] = values[blockDim.x - 1 - threadIdx.x];
}
extern "C" __global__ void turned_without_waiting(const float* x, float* y)
{
    __shared__ float values[64];
    values[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = values[blockDim.x - 1 - threadIdx.x];
}
extern "C" __global__ void sums_of_warps(const float* x, float* y)
{
    float sum = x[threadIdx.x];
    for (int lanes = 16; lanes; lanes /= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
    y[threadIdx.x] = sum;
}
extern "C" __global__ void copied(const char* from, float* to, int at)
{
    to[0] = *(const float*)(from + at);
}
extern "C" __global__ void added(int* y, int a)
{
    y[threadIdx.x] = 2147483647 + a;
}
"""


@pytest.fixture
def kernels():
    return launching.compiled(SOURCE)


def test_threads_wait_for_each_other(kernels):
    x, y = np.arange(128, dtype="float32"), np.zeros(128, "float32")
    launching.launch(kernels, "turned", 2, 64, [x, y])
    assert y.tolist() == [*range(63, -1, -1), *range(127, 63, -1)]
    launching.launch(kernels, "sums_of_warps", 1, 64, [x, y])
    assert y[:64].tolist() == [496.0] * 32 + [1520.0] * 32


def test_a_missing_barrier_shows(kernels):
    """Shared memory has no values before a block has written them."""
    x, y = np.arange(64, dtype="float32"), np.zeros(64, "float32")
    launching.launch(kernels, "turned", 1, 64, [x, y])
    launching.launch(kernels, "turned_without_waiting", 1, 64, [x, y])
    assert np.isnan(y[:32]).all()


def test_one_thread_alone(kernels):
    y = np.zeros(4, "int32")
    launching.launch(kernels, "added", 100, 4, [y, np.int32(-7)], only=2)
    assert y.tolist() == [0, 0, 2147483640, 0]


def test_faults(kernels):
    memory, y = np.ones(4, "float32"), np.zeros(4, "float32")
    launching.launch(kernels, "copied", 1, 1, [memory, y, np.int32(4)])
    with pytest.raises(AssertionError, match="copied: an access out of line, or an overflow"):
        launching.launch(kernels, "copied", 1, 1, [memory, y, np.int32(2)])
    out = np.zeros(4, "int32")
    launching.launch(kernels, "added", 1, 4, [out, np.int32(0)])
    with pytest.raises(AssertionError, match="added: .* an overflow"):
        launching.launch(kernels, "added", 1, 4, [out, np.int32(1)])


def test_a_kernel_is_compiled_once(monkeypatch):
    """In this process, and in those that come after it."""
    launching.compiled(SOURCE)
    monkeypatch.setattr(building, "_run", lambda arguments: pytest.fail("it is there already"))
    launching.compiled.__wrapped__(SOURCE)
