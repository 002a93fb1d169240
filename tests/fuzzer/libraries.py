"""Arrays of NumPy and PyTorch in all the ways in which they can lie in memory."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import xplayers as xl

_files = tempfile.TemporaryDirectory(prefix="xplayers-fuzz-")


@dataclasses.dataclass(frozen=True)
class Library:
    """How arrays are made and looked at."""

    name: str
    xp: Any
    dtypes: tuple[str, ...]

    def array(self, values: np.ndarray, dtype: str | None = None) -> Any:
        return xl.move(np.array(values), xp=self.xp, dtype=dtype)

    def dtype(self, name: str) -> Any:
        return getattr(self.xp, name)


def library(name: str) -> Library:
    if name == "numpy":
        return Library(name, np, ("float32", "float32", "float64", "float16"))
    import torch

    return Library(name, torch, ("float32", "float32", "float64", "float16", "bfloat16"))


def bits(a: Any) -> tuple[str, tuple[int, ...], bytes]:
    """Return dtype, shape and values of an array; all that is no number is the same."""
    dtype = str(a.dtype).removeprefix("torch.")
    host = np.asarray(a if isinstance(a, np.ndarray | np.generic) else _of_torch(a))
    if host.dtype.kind == "f":
        host = np.where(np.isnan(host), np.asarray(np.nan, host.dtype), host)
    return dtype, host.shape, host.tobytes()


def _of_torch(a: Any) -> np.ndarray:
    import torch

    a = a.detach()
    return a.to(torch.float32).numpy() if a.dtype == torch.bfloat16 else a.numpy()


# What a batch can be. Each takes the library, values and a dtype, and returns an array.


def _contiguous(lib: Library, values: np.ndarray, dtype: str) -> Any:
    return lib.array(values, dtype)


def _transposed(lib: Library, values: np.ndarray, dtype: str) -> Any:
    return (
        lib.xp.permute_dims(lib.array(values.T, dtype), tuple(range(values.ndim))[::-1])
        if (lib.name == "numpy")
        else lib.array(values.T.copy(), dtype).permute(*range(values.ndim)[::-1])
    )


def _channels_last(lib: Library, values: np.ndarray, dtype: str) -> Any:
    """Images as PyTorch prefers them; others by rows."""
    if values.ndim != 4:
        return _contiguous(lib, values, dtype)
    laid = lib.array(values.transpose(0, 2, 3, 1), dtype)
    return laid.transpose(0, 3, 1, 2) if lib.name == "numpy" else laid.permute(0, 3, 1, 2)


def _strided(lib: Library, values: np.ndarray, dtype: str) -> Any:
    return lib.array(np.repeat(values, 2, axis=0), dtype)[::2]


def _last_strided(lib: Library, values: np.ndarray, dtype: str) -> Any:
    return lib.array(np.repeat(values, 2, axis=-1), dtype)[..., ::2]


def _part(lib: Library, values: np.ndarray, dtype: str) -> Any:
    """A slice of a data set."""
    more = np.zeros((2, *values.shape[1:]), values.dtype)
    return lib.array(np.concatenate([more, values, more]), dtype)[2 : 2 + len(values)]


def _one_for_all(lib: Library, values: np.ndarray, dtype: str) -> Any:
    """All samples are one, in one place."""
    first = lib.array(values[:1] if len(values) else values, dtype)
    return lib.xp.broadcast_to(first, values.shape)


def _reversed(lib: Library, values: np.ndarray, dtype: str) -> Any:
    if lib.name == "torch":
        return _contiguous(lib, values, dtype)
    return lib.array(values[::-1], dtype)[::-1]


def _readonly(lib: Library, values: np.ndarray, dtype: str) -> Any:
    a = lib.array(values, dtype)
    if lib.name == "numpy":
        a.flags.writeable = False
    return a


def _unaligned(lib: Library, values: np.ndarray, dtype: str) -> Any:
    if lib.name == "torch":
        return lib.array(np.concatenate([[0], values.ravel()]), dtype)[1:].reshape(values.shape)
    a = lib.array(values, dtype)
    return np.frombuffer(b"x" + a.tobytes(), a.dtype, offset=1).reshape(a.shape)


def _mapped(lib: Library, values: np.ndarray, dtype: str) -> Any:
    """A file in memory."""
    if not values.size or dtype == "bfloat16":
        return _contiguous(lib, values, dtype)
    a = values.astype(dtype)
    with tempfile.NamedTemporaryFile(dir=_files.name, delete=False) as file:
        file.write(a.tobytes())
    mapped = np.memmap(file.name, a.dtype, "c", shape=a.shape)
    Path(file.name).unlink()
    return mapped if lib.name == "numpy" else lib.xp.from_numpy(mapped)


class Subclass(np.ndarray):
    """An array of another type."""


def _subclass(lib: Library, values: np.ndarray, dtype: str) -> Any:
    a = lib.array(values, dtype)
    return a.view(Subclass) if lib.name == "numpy" else a


LAYOUTS: dict[str, Callable[[Library, np.ndarray, str], Any]] = {
    "contiguous": _contiguous,
    "transposed": _transposed,
    "channels last": _channels_last,
    "strided": _strided,
    "last strided": _last_strided,
    "part": _part,
    "one for all": _one_for_all,
    "reversed": _reversed,
    "readonly": _readonly,
    "unaligned": _unaligned,
    "mapped": _mapped,
    "subclass": _subclass,
}
