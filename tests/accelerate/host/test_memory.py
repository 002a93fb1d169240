"""Memory that is used again: never while anybody can see it."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
from helpers import python, share_memory

import xplayers as xl
from xplayers.accelerate.host import memory
from xplayers.accelerate.host.libc import of_c
from xplayers.accelerate.host.memory import MOST, SMALLEST, empty, trim

N = SMALLEST // 4

pytestmark = pytest.mark.skipif(not memory._COUNTED, reason="without a global lock")


@pytest.fixture(autouse=True)
def _nothing_is_pool(monkeypatch):
    monkeypatch.setattr(memory, "_pool", {})


def address(a):
    return a.__array_interface__["data"][0]


def kept():
    return sum(size * len(arrays) for size, arrays in memory._pool.items())


def test_it_is_like_the_empty_of_numpy():
    for shape, dtype in (((3, 4), "float32"), ((N, 2), "float64"), ((), "int8"), ((0, N), "int8")):
        a = empty(shape, dtype)
        assert a.shape == shape
        assert a.dtype == dtype
        assert a.flags.c_contiguous
        assert a.flags.writeable


def test_large_arrays_begin_with_a_line_of_the_cache():
    assert address(empty((N, 3), "float32")) % 64 == 0


def test_memory_that_nobody_holds_is_used_again():
    a = empty((N,), "float32")
    at = address(a)
    del a
    assert address(empty((2, N // 2), "int32")) == at
    assert kept() == 4 * N


@pytest.mark.parametrize(
    "held",
    [
        lambda a: a,
        lambda a: a[::2],
        lambda a: a.reshape(2, -1)[1:].T,
        memoryview,
        lambda a: np.from_dlpack(a),
        lambda a: a.ctypes,
        lambda a: np.lib.stride_tricks.as_strided(a, (3,)),
    ],
)
def test_memory_that_somebody_holds_is_not(held):
    a = empty((N,), "float32")
    at = address(a)
    view = held(a)
    del a
    other = empty((N,), "float32")
    assert address(other) != at
    del view
    assert address(empty((N,), "float32")) == at


def test_small_arrays_are_left_to_numpy():
    empty((N - 1,), "float32")
    assert kept() == 0


def test_there_is_an_end_to_what_is_pool():
    arrays = [empty((N + i,), "float32") for i in range(MOST // (4 * N) + 40)]
    assert kept() > MOST  # all of them are in use
    del arrays
    empty((2 * N,), "float32")
    assert MOST - 16 * N < kept() <= MOST


TRIMMED = """
import os
import numpy as np
from xplayers.accelerate.host.memory import trim

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

below = [np.ones(100_000, "uint8") for _ in range(320)]  # too small for pages of their own
above = [np.ones(1000) for _ in range(100)]
before = resident()
del below
trim()
print(before - resident())
"""


@pytest.mark.skipif(not of_c("malloc_trim"), reason="a function of glibc")
def test_what_is_free_goes_back_to_the_system():
    """Also below a piece that is in use; in a process where nothing else takes memory meanwhile."""
    ran = python("-c", TRIMMED, check=True)
    assert int(ran.stdout) > 24 << 20


def test_without_ctypes_nothing_is_trimmed(monkeypatch):
    monkeypatch.setitem(sys.modules, "ctypes", None)
    monkeypatch.setattr(memory, "of_c", of_c.__wrapped__)
    trim()


def test_threads_do_not_get_the_same():
    seen, start = [], threading.Barrier(4)

    def take():
        start.wait()
        for k in range(200):
            a = empty((N,), "float32")
            a[:8] = mark = threading.get_ident() % 1000 + k
            b = empty((N,), "float32")
            b[:8] = -1
            seen.append(bool((a[:8] == mark).all()))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 800
    assert all(seen)


def test_results_of_layers_are_their_own():
    x = np.ones((600, 600), "float32")
    layer = xl.Affine.init(600, 600, rng=0)
    first = layer.predict(x)
    second = layer.predict(x)
    assert not share_memory(first, second)
    copy = first.copy()
    layer.predict(2 * x)
    np.testing.assert_array_equal(first, copy)
