"""CuPy on an emulated GPU: real CuPy, its kernels and its streams, without a driver.

`install` puts functions of `device.cpp` in the place of the CUDA runtime that CuPy's wheel holds,
lets CuPy find them as its driver, and `cublas.cpp` and `cublaslt.cpp` as those libraries, and has a
C++ compiler compile what NVRTC would. From then on all of CuPy works, slowly.

It shows what CuPy does, not what a GPU does: nothing of speed, and of rounding only what C++ says.
Operations run as late as the calls allow, so a result that is read without waiting is an old one;
memory is NaN until it is written, shared memory too; what a capture refuses is refused; arrays of
another device cannot be reached; a kernel's access that is not aligned ends the process, and so
does an integer that overflows in a kernel of our own. An access beside the arrays is not noticed.
CUB's and Thrust's kernels are in CuPy's wheel as machine code: reductions go through CuPy's own,
sorting through NumPy. The conversion of float16 is C++'s. Of cuDNN the frontend is emulated
(`emulated_cudnn`).

What runs a kernel (`threads.cpp`), and what makes one and keeps it (`building`), needs no CuPy:
`launching` runs kernels on the memory of NumPy.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from emulator import building, elf, launching
from emulator.emulated_gpu import view

_library: Any = None
_operations: dict[int, Callable[[], None]] = {}  # kept: a graph may run them again
_numbers = itertools.count()


def install(devices: int = 2, megabytes: int = 4096, seed: int = 0) -> None:
    """Let CuPy find GPUs in this process, before anything has imported it.

    With a `seed`, streams get on with their work at random, and not only when they are waited for.
    """
    global _library
    if _library is not None:
        return
    if "cupy" in sys.modules:
        message = "emulator.install: cupy is imported already; it has looked for a GPU by now."
        raise RuntimeError(message)
    os.environ["CUPY_ACCELERATORS"] = ""  # CUB's reductions cannot run
    os.environ["EMULATED_DEVICES"] = str(devices)
    os.environ["EMULATED_MEMORY"] = str(megabytes << 20)
    os.environ["EMULATED_SEED"] = str(seed)
    launching.threads()
    _library = ctypes.CDLL(str(building.device()), mode=ctypes.RTLD_GLOBAL)
    for name in building.LIBRARIES:
        ctypes.CDLL(str(building.library(name)), mode=ctypes.RTLD_GLOBAL)
    _library.emu_count.restype = ctypes.c_long
    _library.emu_name.restype = ctypes.c_char_p
    _library.emu_used.restype = _library.emu_limit.restype = ctypes.c_size_t

    import cupy_backends.cuda.api.runtime as runtime

    functions = elf.functions(Path(runtime.__file__))
    _replace(runtime.__file__, {n: at for n, at in functions.items() if re.match("cuda[A-Z]", n)})

    from cupy.cuda import compiler, thrust

    compiler._compile_with_cache_cuda = _module
    thrust.sort, thrust.argsort = _sort, _argsort

    _poison_pools()

    from emulator.emulated_cudnn import EmulatedCudnn
    from xplayers.accelerate.cuda import planner

    planner.CALLS, planner.ROUNDS, planner.WARM = 2, 1, 0.0  # there is no time to be measured

    sys.modules["cudnn"] = EmulatedCudnn(times=(1.0, 1.0), line=16, put=put)  # type: ignore[assignment]


def _poison_pools() -> None:
    """Let memory that a pool gives out have no values, though somebody has used it before."""
    import cupy

    def poisoned(memory: Any) -> Any:
        stream = ctypes.c_void_p(cupy.cuda.get_current_stream().ptr)
        _library.emu_poison(stream, ctypes.c_void_p(memory.ptr), ctypes.c_size_t(memory.mem.size))
        return memory

    class MemoryPool(cupy.cuda.MemoryPool):
        def malloc(self, size: int) -> Any:
            return poisoned(super().malloc(size))

    pool = cupy.get_default_memory_pool()
    cupy.cuda.set_allocator(lambda size: poisoned(pool.malloc(size)))
    cupy.cuda.MemoryPool = MemoryPool


def installed() -> bool:
    return _library is not None


def _replace(path: str, functions: dict[str, int]) -> None:
    refused = ctypes.cast(_library.emu_unsupported, ctypes.c_void_p).value
    base = elf.base(path)
    for name, at in functions.items():
        own = getattr(_library, name, None)
        if own is None:
            elf.jump(base + at, elf.call(refused, name))
        else:
            elf.jump(base + at, ctypes.cast(own, ctypes.c_void_p).value)


def counted() -> collections.Counter[str]:
    """Return how often each call of the runtime was made, each kernel launched, data copied.

    Nothing is counted where nothing is installed.
    """
    if _library is None:
        return collections.Counter()
    names = itertools.takewhile(bool, map(_library.emu_name, itertools.count()))
    return collections.Counter({n.decode(): _library.emu_count(n) for n in names})


@contextlib.contextmanager
def counting() -> Iterator[collections.Counter[str]]:
    """Count inside of the block; the counter is filled at its end."""
    found: collections.Counter[str] = collections.Counter()
    before = counted()
    yield found
    found.update(counted() - before)


def used(device: int = 0) -> int:
    """Return how many bytes of a device's memory are allocated."""
    return _library.emu_used(device)


@contextlib.contextmanager
def limited(size: int) -> Iterator[None]:
    """Let each device have so many bytes."""
    before = _library.emu_limit(ctypes.c_size_t(size))
    try:
        yield
    finally:
        _library.emu_limit(ctypes.c_size_t(before))


def _module(source: str, options: tuple[str, ...], *args: Any, **kwargs: Any) -> Any:
    """Stand where CuPy compiles: the image of a module is the path of a library."""
    from cupy.cuda import function

    module = function.Module()
    module.load(bytes(building.kernels(source, options)) + b"\0")
    module._set_mapping({})
    return module


# Thrust


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def _run(number: int) -> None:
    with np.errstate(all="ignore"):  # a GPU does not warn
        _operations[ctypes.c_long.from_address(number).value]()


def put(operation: Callable[[], None], stream: int | None = None) -> None:
    """Let a stream, by default the current one, run a function when its turn comes."""
    if stream is None:
        import cupy

        stream = cupy.cuda.get_current_stream().ptr
    number = ctypes.c_long(next(_numbers))
    _operations[number.value] = operation
    place, size = ctypes.c_void_p(stream), ctypes.c_size_t(ctypes.sizeof(number))
    _library.emu_put(place, _run, ctypes.byref(number), size)


def _sort(dtype: Any, data: int, keys: int, shape: Any) -> None:
    put(lambda: view(data, dtype, shape).sort(axis=-1, kind="stable"))


def _argsort(dtype: Any, index: int, data: int, keys: int, shape: Any) -> None:
    def run() -> None:
        a = view(data, dtype, shape)
        order = a.argsort(axis=-1, kind="stable")
        view(index, "int64", shape)[...] = order
        a.sort(axis=-1, kind="stable")

    put(run)
