"""Arrays in the user's files."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from xplayers._files import opened
from xplayers.cli.words import Mistake


@contextlib.contextmanager
def npz(path: str) -> Iterator[Mapping[str, np.ndarray]]:
    """Open an ``.npz`` file: its arrays by name, each read when it is asked for."""
    try:
        with opened(path) as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                message = "it holds one array, as an .npy file does"
                raise ValueError(message)
            yield archive
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        message = f"{path} is no .npz file of numbers: {error}"
        raise Mistake(message) from error


def read_samples(path: str) -> np.ndarray:
    """Return the samples in a file: of an ``.npy`` file memory-mapped, of an ``.npz`` file ``x``.

    Where there is no ``x``, it is the only array.
    """
    if Path(path).suffix == ".npz":
        with npz(path) as arrays:
            name = "x" if "x" in arrays or len(arrays) != 1 else next(iter(arrays))
            if name not in arrays:
                message = f"{path} has {listed(arrays)}; expected one called x, or one alone"
                raise Mistake(message)
            return arrays[name]
    try:
        opened(path).close()  # not a pipe, which NumPy would wait for
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        message = f"{path} is no .npy file of numbers: {error}"
        raise Mistake(message) from error
    if not isinstance(found, np.ndarray):
        message = f"{path} is an .npz file; its name has to end so"
        raise Mistake(message)
    return found


def listed(names: Iterable[str]) -> str:
    """Return names in words."""
    return ", ".join(sorted(names)) or "nothing"
