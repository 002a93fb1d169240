"""What the C++ compiler makes: the device, its libraries, and each kernel of CuPy."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cuda_host import compiler

from emulator import elf

HERE = Path(__file__).parent
LIBRARIES = ("cublas", "cublasLt")
_FLAGS = ("-std=c++17", "-fPIC", "-w", "-fvisibility=hidden")
# As NVRTC is asked to compile, but for fused products, which the host may not have. An access that
# is not aligned ends the process.
_TRAPS = ("-fsanitize=alignment", "-fsanitize-undefined-trap-on-error")
_KERNEL_FLAGS = (*_FLAGS, *_TRAPS, "-O1", "-ffp-contract=off", "-fno-strict-aliasing")
_NAMES = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\(\d+\)\s+)?(\w+)')
_SHARED = re.compile(r"extern\s+__shared__\s+(\w+)\s+(\w+)\[\];")
_NAMED_SHARED = re.compile(r"(__shared__\s+[\w:<>, ]+?\s(\w+)\s*(?:\[[^\];]*\])+;)")
_WAITING = re.compile(r"__sync|__shfl")


@functools.cache
def folder() -> Path:
    """Return where libraries are kept from one run to the next."""
    named = os.environ.get("EMULATED_CACHE")
    path = Path(named) if named else Path(tempfile.gettempdir(), f"emulated-gpu-{os.getuid()}")
    path.mkdir(parents=True, exist_ok=True)
    return path


def device() -> Path:
    flags = (*_FLAGS, "-O2", f"-I{HERE}", *_includes())
    text = _with_headers((HERE / "device.cpp").read_text())
    return _built(text, flags, ("-Wl,-soname,libcuda.so.1",))


def library(name: str) -> Path:
    """Build a library of CUDA, with a function that refuses for each one it lacks."""
    text = (HERE / f"{name.lower()}.cpp").read_text()
    if name == "cublas":
        path = next(_package("cupy_backends").glob("cuda/libs/cublas.*.so"))
        there = set(re.findall(r"\w+", text))
        lacking = [n for n in elf.needed(path, "cublas") if n not in there]
        text += "".join(f'API int {n}() {{ return refused("{n}"); }}\n' for n in lacking)
    soname = f"lib{name}.so.13"
    versions = folder() / f"{soname}.map"
    versions.write_text(f"{soname} {{ global: *; }};\n")
    flags = (f"-Wl,-soname,{soname}", f"-Wl,--version-script={versions}", str(device()))
    return _built(_with_headers(text), (*_FLAGS, "-O3", f"-I{HERE}"), flags)


def _with_headers(text: str) -> str:
    """Return a source that is another one when a header beside it is."""
    headers = [path.read_text() for path in sorted(HERE.glob("*.h"))]
    return f"{text}// of headers {_key(*headers)}\n"


def kernels(source: str, options: Sequence[str]) -> Path:
    """Build the library of a CUDA source."""
    from xplayers.cuda.source import part

    source = source.replace(part("half.cuh").strip(), "")  # by instructions of a GPU
    source = _SHARED.sub(r"\1* const \2 = (\1*)emu_shared;", source)
    source = _NAMED_SHARED.sub(r"\1 emu_shared_values(&\2, sizeof \2);", source)
    header = "cupy_kernel.h" if "#include <cupy/" in source else "kernel.h"
    names = _NAMES.findall(source)
    waits = int(_WAITING.search(source) is not None)
    last = [f"EMU_WAITS({waits})", *[f"EMU_KERNEL({name})" for name in names]]
    text = "\n".join([f'#include "{_precompiled(header)}"', source, *last, ""])
    defined = [o for o in options if o.startswith("-D")]
    return _built(text, (*_KERNEL_FLAGS, *_includes(), *defined), ())


@functools.cache
def _precompiled(header: str) -> Path:
    """Return a copy of a header that the compiler has read before."""
    flags = (*_KERNEL_FLAGS, *_includes())
    own = [(HERE / name).read_text() for name in ("kernel.h", "cupy_kernel.h")]
    place = folder() / _key(header, *own, *flags)
    if not place.exists():
        with tempfile.TemporaryDirectory(dir=folder()) as made:
            for name, text in zip(("kernel.h", "cupy_kernel.h"), own, strict=True):
                Path(made, name).write_text(text)
            _run([*flags, "-x", "c++-header", str(Path(made, header))])
            _rename(Path(made), place)
    return place / header


def _built(text: str, flags: Sequence[str], last: Sequence[str]) -> Path:
    path = folder() / f"{_key(text, *flags, *last)}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder()) as made:
            source, result = Path(made, "source.cpp"), Path(made, "result.so")
            source.write_text(text)
            _run([*flags, "-shared", str(source), "-o", str(result), *last])
            _rename(result, path)
    return path


def _rename(made: Path, path: Path) -> None:
    """Put it where others find it whole; one of two processes is the first."""
    try:
        made.rename(path)
    except OSError:
        if not path.exists():
            raise


def _run(arguments: Sequence[str]) -> None:
    found = compiler()
    if found is None:
        raise RuntimeError("emulator: there is no C++ compiler that knows _Float16.")
    run = subprocess.run([found, *arguments], capture_output=True, text=True)
    if run.returncode:
        lines = [line for line in run.stderr.splitlines() if "error" in line]
        raise RuntimeError("emulator: the compiler says:\n" + "\n".join(lines[:20]))


@functools.cache
def _includes() -> tuple[str, ...]:
    inside = _package("cupy") / "_core" / "include"
    toolkit = sorted(_package("nvidia").glob("cu1*/include"))
    found = [inside, *sorted((inside / "cupy" / "_cccl").iterdir()), *toolkit]
    return tuple([f"-I{path}" for path in found if path.is_dir()])


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise RuntimeError(f"emulator: {name} is not installed.")
    return Path(next(iter(spec.submodule_search_locations or ())))


def _key(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:24]
