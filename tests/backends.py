"""The one list of libraries that the tests run on; conftest.py and noxfile.py read it.

Only the standard library is imported at the top, so that nox can read the list without NumPy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any


@dataclasses.dataclass(frozen=True)
class Backend:
    """A library, or a manner of using one."""

    name: str
    module: str  # whose presence says that it is installed
    group: str  # dependency group in pyproject.toml, and nox session
    default: bool = True  # whether the default nox run has it
    named: bool = False  # whether it is used only where it is named, as it takes long


BACKENDS: tuple[Backend, ...] = (
    Backend("numpy", "numpy", "numpy"),
    Backend("readonly", "numpy", "numpy"),  # every input is read-only: proves that none is written
    Backend("strict", "array_api_strict", "strict"),
    Backend("torch", "torch", "torch"),
    Backend("jax", "jax", "jax"),
    Backend("cupy", "cupy", "cupy", default=False),
    Backend("dpnp", "dpnp", "dpnp", default=False, named=True),
    Backend("ndonnx", "ndonnx", "ndonnx", default=False, named=True),
)


@dataclasses.dataclass(frozen=True)
class Variant:
    """A library on one of its devices, as a test gets it."""

    name: str
    backend: str
    xp: Any
    device: Any
    floats: tuple[str, ...]
    jit: bool = False
    readonly: bool = False
    doubles: bool = False  # only for tests marked `doubles`, which need float64
    context: Callable[[], Any] = contextlib.nullcontext

    def asarray(self, values: Any, dtype: str | None = None) -> Any:
        """Return `values` as an array here; bool and integers keep their dtype."""
        import numpy as np

        from xplayers import move

        values = np.array(values, dtype=None if dtype == "bfloat16" else dtype)
        there = move(values, xp=self.xp, device=self.device, dtype=dtype)
        if self.readonly:
            there.flags.writeable = False
        return there

    def __repr__(self) -> str:
        return self.name


def installed(backend: Backend) -> bool:
    return importlib.util.find_spec(backend.module) is not None


def variants(backend: Backend) -> Iterator[Variant]:
    """Import the library and yield its variants, or raise where it cannot be used."""
    module = importlib.import_module(backend.module)
    make = globals()[f"_{backend.name}"]
    yield from make(module)


def _numpy(np: Any) -> Iterator[Variant]:
    yield Variant("numpy", "numpy", np, None, ("float16", "float32", "float64"))


def _readonly(np: Any) -> Iterator[Variant]:
    yield Variant("readonly", "readonly", np, None, ("float32", "float64"), readonly=True)


def _strict(strict: Any) -> Iterator[Variant]:
    strict.set_array_api_strict_flags(api_version="2024.12")
    both = ("float32", "float64")
    yield Variant("strict", "strict", strict, strict.Device("CPU_DEVICE"), both)
    yield Variant("strict-device1", "strict", strict, strict.Device("device1"), both)
    device = strict.Device("no_float64")
    yield Variant("strict-no_float64", "strict", strict, device, ("float32",))


def _torch(torch: Any) -> Iterator[Variant]:
    floats = ("float16", "bfloat16", "float32", "float64")
    yield Variant("torch", "torch", torch, torch.device("cpu"), floats)
    if torch.cuda.is_available():
        yield Variant("torch-cuda", "torch", torch, torch.device("cuda:0"), floats)


def _jax(jax: Any) -> Iterator[Variant]:
    # The tests compile thousands of small functions and run each once. The older emitters take
    # half the time to compile; those of 0.8 give wrong gradients of a convolutional network, and a
    # later version that has dropped their flag would not start.
    fast = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    if (0, 10) <= jax.__version_info__ < (0, 11):
        fast += " --xla_cpu_use_fusion_emitters=false"
    os.environ.setdefault("XLA_FLAGS", fast)
    jax.config.update("jax_default_matmul_precision", "float32")
    small = ("bfloat16", "float32")  # each dtype is compiled anew: one of the 16-bit ones is enough
    yield Variant("jax", "jax", jax.numpy, None, small, jit=True)
    yield Variant(
        "jax-x64", "jax", jax.numpy, None, ("float32", "float64"), jit=True,
        doubles=True, context=lambda: jax.enable_x64(True),
    )  # fmt: skip


def _cupy(cupy: Any) -> Iterator[Variant]:
    if not cupy.is_available():
        message = "cupy is installed but finds no usable NVIDIA GPU; see `nvidia-smi`."
        raise RuntimeError(message)
    for i in range(min(cupy.cuda.runtime.getDeviceCount(), 2)):
        device = cupy.cuda.Device(i)
        floats = ("float16", "float32", "float64")
        # CuPy computes where the current device is, and may not reach the memory of another.
        yield Variant(f"cupy-{i}", "cupy", cupy, device, floats, context=_current(device))


def _dpnp(dpnp: Any) -> Iterator[Variant]:
    yield Variant("dpnp", "dpnp", dpnp, None, ("float32", "float64"))


def _ndonnx(ndonnx: Any) -> Iterator[Variant]:
    yield Variant("ndonnx", "ndonnx", ndonnx, None, ("float32", "float64"))


def _current(device: Any) -> Callable[[], Any]:
    return lambda: type(device)(device.id)  # a context manager, which is entered once
