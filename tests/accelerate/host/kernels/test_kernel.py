"""Kernels: when they are taken, what the disk keeps, and the same bits from any threads."""

import importlib.util
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from xplayers.accelerate.host.kernels import kernel
from xplayers.accelerate.host.kernels import normalization as loops

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed"),
]


@pytest.mark.parametrize(
    ("setting", "installed", "smallest"),
    [("", True, kernel.LARGE), ("1", True, 0), ("0", True, math.inf), ("1", False, math.inf)],
)
def test_from_which_size_on_kernels_are_taken(monkeypatch, setting, installed, smallest):
    monkeypatch.setenv("XPLAYERS_JIT", setting)
    monkeypatch.setattr(kernel.importlib.util, "find_spec", lambda name: installed or None)
    assert kernel.smallest.__wrapped__() == smallest


def test_a_numba_that_cannot_be_imported_is_a_warning(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr(kernel, "smallest", lambda: 0)
    monkeypatch.setattr(kernel, "_numba", kernel._numba.__wrapped__)
    with pytest.warns(UserWarning, match="xplayers: numba cannot be used: "):
        assert not kernel.are_usable(1)


def test_arrays_that_kernels_take_as_they_are():
    a = np.ones((3, 4), np.float32)
    assert kernel.laid(a) is a
    for other in (a.T, a[:, ::2], np.ones(13, np.uint8)[1:].view(np.float32)):
        laid = kernel.laid(other)
        assert laid.flags.c_contiguous
        assert laid.flags.aligned
        np.testing.assert_array_equal(laid, other)


RUN = """
import numpy as np, xplayers as xl
from xplayers.accelerate.host.kernels import normalization
net = xl.LayerNormalization.init(8)
y = net.forward(np.arange(24, dtype=np.float32).reshape(3, 8))
print(sum(normalization.rows._loop.stats.cache_hits.values()), y.tobytes().hex())
"""


def test_a_second_process_does_not_compile(tmp_path):
    def run():
        environment = os.environ | {"XPLAYERS_JIT": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
        process = subprocess.run(
            [sys.executable, "-c", RUN], env=environment, capture_output=True, text=True, check=True
        )
        return process.stdout.split()

    (before, y), (after, same) = run(), run()
    assert (before, after) == ("0", "1")
    assert y == same
    assert list(tmp_path.rglob("*.nbc"))


def test_where_nothing_can_be_written_it_is_compiled_anew(monkeypatch):
    import numba

    njit, asked = numba.njit, []

    def no_folder(*args, cache=False, **options):
        asked.append(cache)
        if cache:
            message = "cannot cache function: no locator available"
            raise RuntimeError(message)
        return njit(*args, **options)

    monkeypatch.setattr(numba, "njit", no_folder)
    double = kernel.kernel("const float64[1], float64[1], int64, int64")(_double)
    y = np.zeros(3)
    double(np.arange(3.0), y, 1, 3)
    assert True in asked
    assert y.tolist() == [0.0, 2.0, 4.0]


def _double(x, y, start, stop):
    for i in range(start, stop):
        y[i] = 2.0 * x[i]


@pytest.mark.parametrize("cores", [1, 2, 5])
def test_as_many_threads_as_there_are_give_the_same_bits(monkeypatch, cores):
    from xplayers.accelerate.host import threads

    x, dy = np.random.default_rng(0).standard_normal((2, 37, 50)).astype(np.float32)
    gamma, beta = np.random.default_rng(1).standard_normal((2, 50)).astype(np.float32)

    def results(part):
        monkeypatch.setattr(kernel, "PART", part)
        y, dx, mean, r = np.empty_like(x), np.empty_like(x), np.empty(37), np.empty(37)
        loops.rows.share(x, gamma, beta, 1e-5, True, y, mean, r, n=37, size=50)
        dgamma, dbeta = np.empty((2, 8, 50))
        args = dy, x, gamma, mean, r, True, dx, dgamma, dbeta, 5
        loops.rows_gradient.share(*args, n=8, size=250)
        return [a.tobytes() for a in (y, mean, r, dx, dgamma, dbeta)]

    whole = results(10**9)
    monkeypatch.setattr(kernel, "usable_cores", lambda: cores)
    monkeypatch.setattr(threads, "usable_cores", lambda: cores)
    monkeypatch.setattr(threads, "_threads", None)
    assert results(100) == whole
