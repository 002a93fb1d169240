"""CUDA kernels on the memory of NumPy: what is between their source and a launch."""

from __future__ import annotations

import ctypes
import functools
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np

from emulator import building

ALL = 0xFFFFFFFF  # threads


class _Index(ctypes.Structure):
    _fields_ = [(axis, ctypes.c_uint) for axis in "xyz"]


@functools.cache
def threads() -> ctypes.PyDLL:
    """Return the library that runs kernels, one at a time, for all of the process."""
    library = ctypes.PyDLL(str(building.threads()), mode=ctypes.RTLD_GLOBAL)
    library.emu_run.argtypes = (
        ctypes.c_void_p, ctypes.c_bool, _Index, _Index, ctypes.c_void_p, ctypes.c_uint,
    )  # fmt: skip
    return library


@functools.cache
def compiled(source: str) -> ctypes.CDLL:
    """Compile the kernels of a CUDA source."""
    threads()  # which they look for
    library = ctypes.CDLL(str(building.kernels(source)))
    library.emu_waits.restype = ctypes.c_bool
    return library


def launch(
    kernels: ctypes.CDLL, name: str, blocks: int, size: int, args: Sequence[Any], only: int = ALL
) -> None:
    """Run a kernel as a GPU would; with `only` that thread of the first block alone.

    Arguments are NumPy scalars and structures, and arrays of NumPy or CuPy, which become addresses.
    """
    values = [np.asarray(a if _by_value(a) else np.uint64(_address(a))) for a in args]
    pointers = (ctypes.c_void_p * len(values))(*[v.ctypes.data for v in values])
    kernel = ctypes.cast(getattr(kernels, f"emu_run_{name}"), ctypes.c_void_p)
    sizes = _Index(blocks, 1, 1), _Index(size, 1, 1)
    faults = threads().emu_run(kernel, kernels.emu_waits(), *sizes, pointers, only)
    assert not faults, f"{name}: an access out of line, or an overflow"


def _by_value(a: Any) -> bool:
    """Whether CuPy passes an argument itself: NumPy scalars, and arrays of one structure."""
    return isinstance(a, np.generic) or (isinstance(a, np.ndarray) and a.dtype.names is not None)


def _address(a: Any) -> int:
    return a.ctypes.data if isinstance(a, np.ndarray) else a.data.ptr


def unwritten(n: int, dtype: str) -> np.ndarray:
    """Return `n` zeros. Memory that is never written costs none, so they may be very many."""
    unreserved = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Python 3.11 has no name for it
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | unreserved
    return np.frombuffer(mmap.mmap(-1, n * np.dtype(dtype).itemsize, flags=flags), dtype)
