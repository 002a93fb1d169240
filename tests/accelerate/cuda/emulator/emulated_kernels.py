"""Kernels of CuPy arrays, run by the host: what is between a call and the launch of a GPU.

What a GPU would do is put together from two parts: CuPy's arrays with their dtypes, flags and
addresses, over host memory, and the source of the kernels through a C++ compiler. Compilation by
CuPy and the launch are all that is missing.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from cuda_cases import CASES, dtype_of, in_one
from helpers import values

from emulator import building, launching
from emulator.emulated_gpu import fabricated, host
from xplayers.accelerate.cuda import (
    gradients,
    kernels,
    normalization,
    pooling,
    softmax_cross_entropy,
    sums,
)
from xplayers.arrays.elementwise import elementwise
from xplayers.cuda import fused

needs_compiler = pytest.mark.skipif(
    building.compiler() is None, reason="no C++ compiler with _Float16 and ucontext.h"
)


class Gpu:
    """Stands where `kernels.Launcher` does: compiles for the host, runs, and writes down."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.launches: list[tuple[str, int, int]] = []

    def __call__(self, text: str, name: str) -> Any:
        self.made.append(name)
        library = launching.compiled(text)

        def launch(device: Any, blocks: int, threads: int, args: Any) -> None:
            self.launches.append((name, blocks, threads))
            launching.launch(library, name, min(blocks, 3), threads, args)

        return launch


@contextlib.contextmanager
def emulating(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """Let kernels run on the host, and new arrays be in its memory."""
    gpu = Gpu()
    for function in (
        doubled,
        softmax_cross_entropy._divisor,
        *[case.function for case in CASES],
    ):  # nothing is known from before
        monkeypatch.setattr(function, "programs", {})
    # which keep what they launch
    for module in (gradients, normalization, pooling, softmax_cross_entropy, sums):
        monkeypatch.setattr(module, "_launcher", functools.cache(module._launcher.__wrapped__))
    monkeypatch.setattr(kernels, "Launcher", gpu)
    monkeypatch.setattr(kernels, "empty", _new)
    monkeypatch.setattr(kernels, "full", lambda like, value: fabricated(np.full((), value)))
    with fused():
        yield gpu


def _new(like: Any, shape: Any, dtype: Any) -> Any:
    return fabricated(np.full(shape, 77, dtype))


def emulating_template(
    monkeypatch: pytest.MonkeyPatch, module: Any, cases: Sequence[Any]
) -> list[Any]:
    """Let the kernels of a template run on the host, which compiles them in one go.

    Return what is launched: the case of a kernel, blocks and threads.
    """
    names = {case: f"kernel_{i}" for i, case in enumerate(cases)}
    library = launching.compiled(in_one(module, {name: case for case, name in names.items()}))
    launches = []

    def launcher(*case: Any) -> Any:
        module.source(*case)  # which refuses what is no kernel

        def launch(device: Any, blocks: int, threads: int, args: Any) -> None:
            launches.append((case, blocks, threads))
            launching.launch(library, names[case], min(blocks, 3), threads, args)

        return launch

    monkeypatch.setattr(module, "_launcher", launcher)
    monkeypatch.setattr(kernels, "empty", _new)
    return launches


class Plainly(Exception):
    """The portable code was asked. It must not run: where there is a GPU, it has no such memory."""


@elementwise
def doubled(xp: Any, x: Any) -> Any:
    if xp.__name__ == "array_api_compat.cupy":
        raise Plainly
    return x + x


def given(shape: tuple[int, ...] = (1003,), seed: int = 0, dtype: str = "float32") -> Any:
    """Return a CuPy array of some values."""
    return fabricated(values(shape, seed).astype(dtype_of(dtype)))


def strided(shape: tuple[int, ...] = (40, 30)) -> Any:
    return fabricated(values(shape).astype("float32").T)


def channels_last(a: np.ndarray, device: int = 0) -> Any:
    """Return a CuPy array of images, with the channels last in memory."""
    inner = np.ascontiguousarray(np.moveaxis(a, 1, -1))
    return kernels.channels_first(fabricated(inner, device))


def seen(a: Any) -> np.ndarray:
    """Return the values of such an array; `host` is a view of memory which goes when `a` does."""
    return host(a).copy()
