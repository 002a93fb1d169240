"""Which array libraries are here, on what devices they compute, and if one cannot: why not.

A library is imported only after it was seen to be installed. What goes wrong while it is loaded or
asked is a finding, in words a person can act on, and not an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any, NamedTuple

LIBRARIES = ("numpy", "cupy", "torch", "jax", "array-api-strict")

CPU = "the CPU"
_INSTALL = {
    "cupy": 'pip install "xplayers[cuda13]" (cuda12 for a driver of CUDA 12)',
    "torch": 'pip install "xplayers[torch]"',
    "jax": 'pip install "xplayers[jax]"',
}


class LibraryInfo(NamedTuple):
    """What there is to say of one library."""

    name: str  # as its package is called
    version: str = ""  # none where it is not installed or cannot be loaded
    xp: Any = None  # where to compute, as arguments of `xplayers.move`
    device: Any = None
    devices: tuple[str, ...] = ()  # all devices in words, the one to compute on first
    handles: tuple[Any, ...] = ()  # what `take` makes `device`; none where there is one device only
    why: str = ""  # why it cannot be used, as the end of a sentence that begins with its name
    fix: str = ""  # and what to do
    note: str = ""  # what else is worth knowing

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}".strip()

    def __str__(self) -> str:
        if self.why:
            return f"{self.label} {self.why}"
        return f"{self.label} on {self.devices[0]}"


def look(name: str) -> LibraryInfo:
    """Find out about the library `name`, one of `LIBRARIES`."""
    module = name.replace("-", "_")
    if find_spec(module) is None:
        return LibraryInfo(
            name, why="is not installed", fix=_INSTALL.get(name, f"pip install {name}")
        )
    wheels = _cupy_wheels() if name == "cupy" else []
    if len(wheels) > 1:  # their files are the same, so what an import would load is a mixture
        return LibraryInfo(
            name,
            why=f"is installed more than once ({', '.join(wheels)})",
            fix=f"pip uninstall {' '.join(wheels)}, then {_INSTALL[name]}",
        )
    info = LibraryInfo(name)
    try:
        library = import_module(module)
        info = info._replace(version=library.__version__)
        return _LOOKS[name](library, info)
    except Exception as error:
        why = f"is installed and cannot be used ({_brief(error)})"
        return info._replace(why=why, fix="repair the installation")


def choose(backend: str) -> tuple[LibraryInfo, str]:
    """Return the library to compute with, and why "auto" does not take the GPU, if it does not.

    `backend` is the name of a library, which may be one that cannot be used, or "auto": CuPy where
    it finds a GPU, else NumPy.
    """
    if backend != "auto":
        return look(backend), ""
    if find_spec("cupy") is None:
        return look("numpy"), ""
    cupy = look("cupy")
    return (look("numpy"), str(cupy)) if cupy.why else (cupy, "")


def take(info: LibraryInfo, device: str) -> LibraryInfo:
    """Return a library that can be used with another of its devices first.

    `device` is the first word of one, as ``cuda:1``; ``cpu`` for the CPU. A ValueError says which
    there are. CuPy computes on the current device of the thread, which this changes.
    """
    names = ["cpu" if words == CPU else words.partition(" ")[0] for words in info.devices]
    if device not in names:
        message = f"{info.label} has {', '.join(names)}"
        raise ValueError(message)
    i = names.index(device)
    others = (*info.devices[:i], *info.devices[i + 1 :])
    handle = info.handles[i] if info.handles else info.device
    if info.name == "cupy":
        info.xp.cuda.Device(handle).use()
        handle = info.device
    return info._replace(device=handle, devices=(info.devices[i], *others), handles=())


def _numpy(numpy: Any, info: LibraryInfo) -> LibraryInfo:
    blas = numpy.show_config("dicts").get("Build Dependencies", {}).get("blas", {})
    words = (blas.get("name", ""), blas.get("version", ""))
    note = " ".join(word for word in words if word and word != "unknown")
    return info._replace(xp=numpy, devices=(CPU,), note=f"BLAS: {note}" if note else "")


def _cupy(cupy: Any, info: LibraryInfo) -> LibraryInfo:
    runtime = cupy.cuda.runtime
    without = "without an NVIDIA GPU, compute with numpy"
    visible = "see whether `nvidia-smi` lists the GPU and CUDA_VISIBLE_DEVICES admits it"
    try:
        count = runtime.getDeviceCount()
    except Exception as error:
        driver, needed = runtime.driverGetVersion(), runtime.runtimeGetVersion()
        if not driver:
            why = "finds no NVIDIA driver"
            fix = (
                "install the driver, until `nvidia-smi` lists the GPU (a container has to be "
                f"started with it: docker run --gpus all); {without}"
            )
        elif driver // 1000 < needed // 1000:
            why = (
                f"needs a driver of CUDA {needed // 1000}, and this one is of CUDA {_cuda(driver)}"
            )
            fix = f"update the driver, or pip install a CuPy for CUDA {driver // 1000}"
        else:
            why, fix = f"finds no NVIDIA GPU ({_brief(error)})", f"{visible}; {without}"
        return info._replace(why=why, fix=fix)
    if not count:
        return info._replace(why="finds no NVIDIA GPU", fix=f"{visible}; {without}")

    names = (runtime.getDeviceProperties(i)["name"] for i in range(count))
    devices = tuple(f"cuda:{i} ({name.decode()})" for i, name in enumerate(names))
    try:  # a wheel may be without the libraries which compile (ones) and multiply (@)
        square = cupy.ones((2, 2), dtype="float32")
        (square @ square).get()
    except Exception as error:
        why = f"sees {devices[0]} and cannot compute on it ({_brief(error)})"
        fix = f"if libraries of CUDA are missing: {_INSTALL['cupy']}"
        return info._replace(why=why, fix=fix)
    return info._replace(xp=cupy, devices=devices, handles=tuple(range(count)))


def _cuda(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _cupy_wheels() -> list[str]:
    """Return the installed packages that hold the module ``cupy``: one at most, if all is well."""
    names = {str(d.metadata["Name"]).lower().replace("_", "-") for d in metadata.distributions()}
    return sorted(n for n in names if re.fullmatch(r"cupy(-cuda\d+x?|-rocm-[\d-]+)?", n))


def _torch(torch: Any, info: LibraryInfo) -> LibraryInfo:
    if not torch.cuda.is_available():
        return info._replace(xp=torch, device="cpu", devices=(CPU,))
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    gpus = (f"cuda:{i} ({name})" for i, name in enumerate(names))
    handles = (*(f"cuda:{i}" for i in range(len(names))), "cpu")
    return info._replace(xp=torch, device="cuda:0", devices=(*gpus, CPU), handles=handles)


def _jax(jax: Any, info: LibraryInfo) -> LibraryInfo:
    devices = jax.devices()
    unique: dict[str, Any] = {}  # the CPU may be cut into many
    for d in devices:
        unique.setdefault(CPU if d.platform == "cpu" else f"{d} ({d.device_kind})", d)
    return info._replace(
        xp=import_module("jax.numpy"),
        device=devices[0],
        devices=tuple(unique),
        handles=tuple(unique.values()),
    )


def _strict(strict: Any, info: LibraryInfo) -> LibraryInfo:
    return info._replace(xp=strict, devices=(CPU,), note="for tests")


_LOOKS: dict[str, Callable[[Any, LibraryInfo], LibraryInfo]] = {
    "numpy": _numpy,
    "cupy": _cupy,
    "torch": _torch,
    "jax": _jax,
    "array-api-strict": _strict,
}


def _brief(error: BaseException) -> str:
    """Return the first line of what is behind `error`; CuPy wraps an ImportError in many lines."""
    error = error.__cause__ or error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
