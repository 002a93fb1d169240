"""CUDA kernels on the host: compiled by a C++ compiler, run on NumPy memory."""

from __future__ import annotations

import ctypes
import functools
import mmap
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xplayers.cuda.source import Kernel, part

HEADER = Path(__file__).with_name("cuda_host.h")
ALL = 0xFFFFFFFF  # threads
FLAGS = [
    "-std=c++17", "-O1", "-fPIC", "-w", "-ffp-contract=off", "-fno-strict-aliasing",
    "-fsanitize=alignment,signed-integer-overflow,shift",
]  # fmt: skip


@functools.cache
def compiler() -> str | None:
    """Return the C++ compiler of this machine, if it knows float16 as GCC and Clang do."""
    names = [(sysconfig.get_config_var("CXX") or "").partition(" ")[0], "c++", "g++", "clang++"]
    for path in filter(None, map(shutil.which, filter(None, names))):
        test = "#include <ucontext.h>\nint main() { return (int)(_Float16)0.0f; }"
        command = [path, "-std=c++17", "-x", "c++", "-", "-fsyntax-only"]
        if not subprocess.run(command, input=test, text=True, capture_output=True).returncode:
            return path
    return None


@functools.cache
def compiled(text: str, names: tuple[str, ...]) -> ctypes.CDLL:
    """Compile CUDA source, whose kernels have these names."""
    text = text.replace(part("half.cuh"), "")  # the header has its functions
    lines = [f'#include "{HEADER}"', text, *[f"EXPORT({name})" for name in names]]
    path = compiler()
    assert path is not None
    # Linked apart, so that no sanitizer's library is asked for: the header has its handlers.
    commands = (
        [path, *FLAGS, "-c", "kernels.cpp", "-o", "kernels.o"],
        [path, "-shared", "kernels.o", "-o", "kernels.so"],
    )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "kernels.cpp").write_text("\n".join(lines), encoding="utf-8")
        for command in commands:
            run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            assert run.returncode == 0, run.stderr[:4000]
        return ctypes.CDLL(str(Path(folder, "kernels.so")))


def launch(
    kernels: ctypes.CDLL, name: str, blocks: int, threads: int, args: Sequence[Any], only: int = ALL
) -> None:
    """Run a kernel as a GPU would; with `only` that thread of the first block alone.

    Arguments are NumPy scalars and structures, and arrays of NumPy or CuPy, which become addresses.
    """
    values = [np.asarray(a if by_value(a) else np.uint64(address(a))) for a in args]
    pointers = (ctypes.c_void_p * len(values))(*[v.ctypes.data for v in values])
    before = kernels.count_faults()
    getattr(kernels, f"launch_{name}")(blocks, threads, pointers, ctypes.c_uint(only))
    assert kernels.count_faults() == before, f"{name}: an access out of line, or an overflow"


def by_value(a: Any) -> bool:
    """Whether CuPy passes an argument itself: NumPy scalars, and arrays of one structure."""
    return isinstance(a, np.generic) or (isinstance(a, np.ndarray) and a.dtype.names is not None)


def address(a: Any) -> int:
    return a.ctypes.data if isinstance(a, np.ndarray) else a.data.ptr


def run(
    kernels: ctypes.CDLL, kernel: Kernel, operands: Sequence[Any], outs: Sequence[np.ndarray],
    *, blocks: int = 2, threads: int = 32, only: int = ALL,
) -> None:  # fmt: skip
    """Run a translated function on NumPy arrays; `outs` are those with memory of their own."""
    launch(kernels, kernel.name, blocks, threads, kernel.arguments(operands, outs), only)


def unwritten(n: int, dtype: str) -> np.ndarray:
    """Return `n` zeros. Memory that is never written costs none, so they may be very many."""
    unreserved = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Python 3.11 has no name for it
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | unreserved
    return np.frombuffer(mmap.mmap(-1, n * np.dtype(dtype).itemsize, flags=flags), dtype)
