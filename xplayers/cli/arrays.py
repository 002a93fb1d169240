"""Safe reading of arrays in the user's files: checked, and without executing code."""

from __future__ import annotations

import contextlib
import hashlib
import math
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from xplayers.cli.messages import UsageError
from xplayers.data.samples import blocks
from xplayers.saving.files import opened
from xplayers.saving.kinds import LFS, NPY, START, TABLE, ZIP, kind_of

HOW = 'numpy.savez("data.npz", x=samples, t=labels) writes one'
SAMPLES = 'numpy.save("x.npy", samples) writes one'
TEXT = (
    "`xplayers train --target COLUMN` reads a table; in Python "
    "numpy.genfromtxt(file, delimiter=',', skip_header=1) reads its numbers, and "
)
INFLATED = 1032  # maximum compression ratio of deflate


class Archive:
    """An open ``.npz`` file with the name `path`, whose arrays are read on demand."""

    def __init__(self, path: str, archive: zipfile.ZipFile) -> None:
        self._path, self._archive = path, archive
        members = archive.infolist()
        self._members = {m.filename[:-4]: m for m in members if m.filename.endswith(".npy")}
        if members and not self._members:
            names = [member.filename for member in members]
            message = f"{path} is {_without_arrays(names)}; expected an .npz file. {HOW}"
            raise UsageError(message)

    @property
    def names(self) -> set[str]:
        """Names of the arrays."""
        return set(self._members)

    def read(self, name: str) -> np.ndarray:
        """Return an array, after checking its header against the size of the member."""
        member, where = self._members[name], f"{name} of {self._path}"
        if member.flag_bits & 1:
            message = f"{where} is encrypted; save it without a password"
            raise UsageError(message)
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            message = f"{where} is compressed by a method that NumPy does not use; {HOW}"
            raise UsageError(message)
        with self._archive.open(member) as file:
            shape, dtype = _header(file, where)
            size, available = math.prod(shape) * dtype.itemsize, member.file_size - file.tell()
            ratio = INFLATED if member.compress_type == zipfile.ZIP_DEFLATED else 1
            if size != available or member.file_size > ratio * member.compress_size:
                message = (
                    f"{where} is damaged: by its header it is {dtype} of shape {shape}, {size} "
                    "bytes, which the file does not have"
                )
                raise UsageError(message)
        with self._archive.open(member) as file:
            try:
                return np.lib.format.read_array(file, allow_pickle=False)
            except MemoryError as error:
                message = f"{where} has shape {shape}, {size} bytes: not enough memory"
                raise UsageError(message) from error


def _without_arrays(names: list[str]) -> str:
    if any(name.endswith("data.pkl") for name in names):
        return "a file of PyTorch's torch.save, a pickle, which could execute arbitrary code"
    if "[Content_Types].xml" in names:
        return "a file of an Office program, as Excel"
    return f"a zip archive with no array in it, but {listed(names[:10])}"


def _header(file: Any, where: str) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if version not in ((1, 0), (2, 0), (3, 0)):
        message = f"{where} is damaged: its format version is {version}"
        raise UsageError(message)
    shape, _, dtype = (None, None, None) if read is None else read(file)
    if shape is None or dtype is None or dtype.names is not None:  # version 3 has only such
        message = f"{where} is a table with named columns; save them as one array of numbers"
        raise UsageError(message)
    if dtype.hasobject:
        message = (
            f"{where} has Python objects, whose loading could execute arbitrary code; save numbers "
            "(or strings) of one dtype, as array.astype(float)"
        )
        raise UsageError(message)
    return shape, dtype


@contextlib.contextmanager
def npz(path: str) -> Iterator[Archive]:
    """Open an ``.npz`` file."""
    with _reading(path, "an .npz file", ZIP, HOW) as file:
        yield Archive(path, zipfile.ZipFile(file))


def read_samples(path: str) -> np.ndarray:
    """Return the samples in a file: an ``.npy`` file memory-mapped, of an ``.npz`` file ``x``.

    Without ``x`` it is the only array. The type of the file is detected from its content.
    """
    with _reading(path, "an .npy or .npz file of numbers", (NPY, *ZIP), SAMPLES) as file:
        if file.peek(len(NPY)).startswith(ZIP):
            archive = Archive(path, zipfile.ZipFile(file))
            names = archive.names
            name = "x" if "x" in names or len(names) != 1 else next(iter(names))
            if name not in names:
                message = f"{path} has {listed(names)}; expected one called x, or a single array"
                raise UsageError(message)
            return archive.read(name)
        shape, _ = _header(file, path)
        if 0 in shape:  # empty files cannot be mapped
            file.seek(0)
            return np.lib.format.read_array(file, allow_pickle=False)
        return np.load(path, mmap_mode="r", allow_pickle=False)


@contextlib.contextmanager
def _reading(path: str, expected: str, starts: tuple[bytes, ...], how: str) -> Iterator[Any]:
    """Open a file that has to begin with one of `starts`; all errors become `UsageError`."""
    try:
        file = opened(path)
    except ValueError as error:  # a directory, a pipe
        message = f"{path} {str(error).partition(';')[0]}; expected {expected}"
        raise UsageError(message) from error
    with file:
        start = file.read(START)
        file.seek(0)
        if not start.startswith(starts):
            kind = kind_of(start)
            message = f"{path} is {kind or 'something else'}; expected {expected}"
            if not start.startswith(LFS):
                message += f". {TEXT if kind == TABLE else ''}{how}"
            raise UsageError(message)
        try:
            yield file
        except (UsageError, MemoryError):
            raise
        except Exception as error:  # a malicious file can raise anything
            text = str(error) or type(error).__name__
            message = f"{path} is damaged or truncated: {text.splitlines()[0]}"
            raise UsageError(message) from error


def listed(names: Iterable[str]) -> str:
    """Return names separated by commas."""
    return ", ".join(sorted(names)) or "nothing"


def digest(*arrays: np.ndarray) -> str:
    """Return the SHA-256 digest of arrays: dtypes, shapes and values."""
    sha256 = hashlib.sha256()
    for x in arrays:
        sha256.update(f"{x.dtype.str} {x.shape} ".encode())
        for _, part in blocks(x):
            sha256.update(part.tobytes())
    return sha256.hexdigest()
