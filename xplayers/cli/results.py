"""Early checks of output files, so that no results are lost and no other files are overwritten.

A result only replaces an earlier one of its type. Results are different files from each other, and
from the files that a command reads.
"""

from __future__ import annotations

import json
import os
import stat
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from xplayers.cli.messages import UsageError
from xplayers.saving.checkpoint import FILE_NAME

# Header size of our predictions: larger than NumPy's, padded with spaces as the format allows.
NPY_HEADER = 256


class Result(NamedTuple):
    """A file that a command will write."""

    option: str  # the option and its value, for messages
    path: Path
    own: Callable[[Path], bool]  # whether an existing file is an earlier result, to be replaced
    other: str = "a file of that name exists, which is not such a result of xplayers"


def check(results: Iterable[Result], read: Iterable[str | None], folder: str | None = None) -> None:
    """Check that results can be written, and overwrite no other files.

    `read` are the files that the command reads, `folder` is the checkpoint directory.
    """
    results = list(results)
    for result in results:
        _check_writable(result)
    if folder is not None:
        _check_folder(folder)
    for i, result in enumerate(results):
        for other in results[:i]:
            if _same(result.path, other.path):
                message = f"{other.option} and {result.option} are the same file; rename one"
                raise UsageError(message)
        for name in filter(None, read):
            if _same(result.path, Path(name)):
                message = f"{result.option} would overwrite {name}, which is read; rename it"
                raise UsageError(message)
        if folder is not None:
            _check_beside(result, Path(folder))
    for result in results:
        if result.path.exists() and result.path.stat().st_size and not result.own(result.path):
            message = f"{result.option}: {result.other}; use another name, or move it"
            raise UsageError(message)


def _check_writable(result: Result) -> None:
    path, folder = result.path, result.path.parent
    if path.is_dir() or result.option.endswith(("/", os.sep)):
        message = f"{result.option} is a folder; expected a file name"
    elif path.exists() and not stat.S_ISREG(path.stat().st_mode):
        message = f"{result.option} is a pipe or a device; expected a file name"
    elif not folder.is_dir():
        message = f"{result.option} cannot be written to {folder}: there is no such folder"
    elif not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        message = f"{result.option} cannot be written to {folder}: permission denied"
    else:
        return
    raise UsageError(message)


def _check_folder(folder: str) -> None:
    path = Path(folder)
    parent = next(p for p in (path, *path.absolute().parents) if p.exists() or p.is_symlink())
    if not parent.is_dir():
        message = f"--checkpoint-dir {folder}: {parent} is a file; expected a folder"
        raise UsageError(message)
    if not os.access(parent, os.W_OK):
        message = f"--checkpoint-dir {folder} cannot be written to {parent}: permission denied"
        raise UsageError(message)


def _check_beside(result: Result, folder: Path) -> None:
    inside = _same(result.path.parent, folder)
    if inside and FILE_NAME.fullmatch(result.path.name.casefold()):
        message = f"{result.option} has the name of a checkpoint in --checkpoint-dir; rename it"
        raise UsageError(message)
    if any(_same(result.path, p) for p in (folder, *folder.absolute().parents)):
        message = f"{result.option} conflicts with --checkpoint-dir {folder}; rename one of them"
        raise UsageError(message)


def _same(a: Path, b: Path) -> bool:
    """Whether two paths are the same file, also on case-insensitive or normalizing file systems."""
    if a.exists() and b.exists() and os.path.samefile(a, b):
        return True
    one, other = (unicodedata.normalize("NFC", os.path.realpath(p)) for p in (a, b))
    return one.casefold() == other.casefold()


# Detection of results of xplayers


def is_model(path: Path) -> bool:
    """Whether a file was written by `xplayers train --save`."""
    content = _start(path, 2**22)
    length = int.from_bytes(content[:8], "little")
    try:
        strings = json.loads(content[8 : 8 + length])["__metadata__"]
        return strings["format"] == "xplayers" and "model" in json.loads(strings["metadata"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def is_log(path: Path) -> bool:
    """Whether a file is a log of training, even a truncated one."""
    start = b'{"epoch":'
    return start.startswith(_start(path, len(start)))


def is_picture(path: Path) -> bool:
    """Whether a file is a figure of xplayers, by its metadata."""
    content = _start(path, 2**24)
    return b"xplayers" in content and content.startswith((b"\x89PNG", b"%PDF", b"<?xml", b"%!PS"))


def is_measurements(path: Path) -> bool:
    """Whether a file has results of `xplayers bench`."""
    return _start(path, 64).startswith(b'{\n "date": ')


def is_predictions(path: Path) -> bool:
    """Whether a file has predictions."""
    return _start(path, 10) == b"\x93NUMPY\x01\x00" + (NPY_HEADER - 10).to_bytes(2, "little")


def is_onnx(path: Path) -> bool:
    """Whether a file is an ONNX model that xplayers has written."""
    return _start(path, 12) == b"\x08\x0a\x12\x08xplayers"  # ir_version 10, producer_name


def _start(path: Path, length: int) -> bytes:
    with open(path, "rb") as file:
        return file.read(length)
