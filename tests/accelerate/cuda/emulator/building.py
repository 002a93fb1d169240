"""What the C++ compiler makes, and is kept: threads, the device, its libraries, and each kernel."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

from emulator import elf

HERE = Path(__file__).parent
LIBRARIES = ("cublas", "cublasLt")
_FLAGS = ("-std=c++17", "-fPIC", "-w", "-fvisibility=hidden")
# As NVRTC is asked to compile, but for fused products, which the host may not have. Integers of
# the kernels of CuPy may overflow; the accesses of all are in line.
_KERNEL_FLAGS = (
    *_FLAGS, "-O1", "-ffp-contract=off", "-fno-strict-aliasing", "-fsanitize=alignment",
)  # fmt: skip
_OWN, _OF_CUPY = "kernel.h", "cupy_kernel.h"
_NAMES = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\([\d, ]+\)\s+)?(\w+)')
_SHARED = re.compile(r"extern\s+__shared__\s+(\w+)\s+(\w+)\[\];")
_NAMED_SHARED = re.compile(r"(__shared__\s+[\w:<>, ]+?\s(\w+)\s*(?:\[[^\];]*\])+;)")
_WAITING = re.compile(r"__sync|__shfl")


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
def folder() -> Path:
    """Return where libraries are kept from one run to the next."""
    named = os.environ.get("EMULATED_CACHE")
    path = Path(named) if named else Path(tempfile.gettempdir(), f"emulated-gpu-{os.getuid()}")
    path.mkdir(parents=True, exist_ok=True)
    return path


def threads() -> Path:
    text = _with_headers((HERE / "threads.cpp").read_text())
    return _built(text, (*_FLAGS, "-O2", f"-I{HERE}"), ("-Wl,-soname,libemulated_threads.so",))


def device() -> Path:
    flags = (*_FLAGS, "-O2", f"-I{HERE}", *_includes())
    text = _with_headers((HERE / "device.cpp").read_text())
    return _built(text, flags, ("-Wl,-soname,libcuda.so.1", str(threads())))


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


def kernels(source: str, options: Sequence[str] = ()) -> Path:
    """Build the library of a CUDA source."""
    from xplayers.accelerate.cuda.source import part

    source = source.replace(part("half.cuh").strip(), "")  # by instructions of a GPU
    source = _SHARED.sub(r"\1* const \2 = (\1*)emu_shared;", source)
    source = _NAMED_SHARED.sub(r"\1 emu_shared_values(&\2, sizeof \2);", source)
    header = _OF_CUPY if "#include <cupy/" in source else _OWN
    names = _NAMES.findall(source)
    waits = int(_WAITING.search(source) is not None)
    last = [f"EMU_WAITS({waits})", *[f"EMU_KERNEL({name})" for name in names]]
    text = "\n".join([f'#include "{_precompiled(header)}"', source, *last, ""])
    defined = [o for o in options if o.startswith("-D")]
    return _built(text, (*_flags_of(header), *defined), ())


def _flags_of(header: str) -> tuple[str, ...]:
    if header == _OF_CUPY:
        return *_KERNEL_FLAGS, *_includes()
    return *_KERNEL_FLAGS, "-fsanitize=signed-integer-overflow,shift"


@functools.cache
def _precompiled(header: str) -> Path:
    """Return a copy of a header that the compiler has read before."""
    flags = _flags_of(header)
    own = [(HERE / name).read_text() for name in (_OWN, _OF_CUPY)]
    place = folder() / _key(header, *own, *flags)
    if not place.exists():
        with tempfile.TemporaryDirectory(dir=folder()) as made:
            for name, text in zip((_OWN, _OF_CUPY), own, strict=True):
                Path(made, name).write_text(text)
            _run([*flags, "-x", "c++-header", str(Path(made, header))])
            _rename(Path(made), place)
    return place / header


def _built(text: str, flags: Sequence[str], last: Sequence[str]) -> Path:
    """Compile and link apart, so that no sanitizer's library is asked for: threads.cpp is it."""
    path = folder() / f"{_key(text, *flags, *last)}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder()) as made:
            source, compiled, result = (Path(made, f"made.{end}") for end in ("cpp", "o", "so"))
            source.write_text(text)
            _run([*flags, "-c", str(source), "-o", str(compiled)])
            _run(["-shared", str(compiled), "-o", str(result), *last])
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
