"""Where a command writes: checked before the work, so that nothing is lost after it, or by it.

A result takes the place of an earlier one of its kind, and of no other file. No two results, and no
result and what a command reads, are one file.
"""

from __future__ import annotations

import json
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from xplayers.cli.messages import Mistake

# Of our predictions: more than NumPy makes of it, filled with spaces as the format allows.
NPY_HEADER = 256
CHECKPOINTS = re.compile(r"step-[0-9]+\.safetensors")


class Result(NamedTuple):
    """A file, or a folder of checkpoints, that a command will write.

    Parameters
    ----------
    what : str
        What is said of it: the option, and as it was given.
    path : Path
        Where it will be.
    own : callable
        Whether a file of that name is an earlier result, which may be replaced.
    other : str
        What is said of a file that is none.
    """

    what: str
    path: Path
    own: Callable[[Path], bool]
    other: str = "there is a file of that name already, which is no such result of xplayers"


def check(results: Iterable[Result], read: Iterable[str | None], folder: str | None = None) -> None:
    """Check that results can be written, and destroy nothing.

    Parameters
    ----------
    results : iterable of Result
        The files.
    read : iterable of str
        Files that the command reads.
    folder : str, optional
        Where its checkpoints will be.
    """
    results = list(results)
    for result in results:
        _check_place(result)
    if folder is not None:
        _check_folder(folder)
    for i, result in enumerate(results):
        for other in results[:i]:
            if _same(result.path, other.path):
                message = f"{other.what} and {result.what} are one file; rename one of them"
                raise Mistake(message)
        for name in filter(None, read):
            if _same(result.path, Path(name)):
                message = f"{result.what} would be written over {name}, which is read; rename it"
                raise Mistake(message)
        if folder is not None:
            _check_beside(result, Path(folder))
    for result in results:
        if result.path.exists() and result.path.stat().st_size and not result.own(result.path):
            message = f"{result.what}: {result.other}; take another name, or move it away"
            raise Mistake(message)


def _check_place(result: Result) -> None:
    path, folder = result.path, result.path.parent
    if path.is_dir() or result.what.endswith(("/", os.sep)):
        message = f"{result.what} is a folder; expected the name of a file"
    elif path.exists() and not stat.S_ISREG(path.stat().st_mode):
        message = f"{result.what} is a pipe or a device; expected the name of a file"
    elif not folder.is_dir():
        message = f"{result.what} cannot be written to {folder}: there is no such folder"
    elif not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        message = f"{result.what} cannot be written to {folder}: permission denied"
    else:
        return
    raise Mistake(message)


def _check_folder(folder: str) -> None:
    path = Path(folder)
    there = next(p for p in (path, *path.absolute().parents) if p.exists() or p.is_symlink())
    if not there.is_dir():
        message = f"--checkpoint-dir {folder}: {there} is a file; expected a folder"
        raise Mistake(message)
    if not os.access(there, os.W_OK):
        message = f"--checkpoint-dir {folder} cannot be written to {there}: permission denied"
        raise Mistake(message)


def _check_beside(result: Result, folder: Path) -> None:
    inside = _same(result.path.parent, folder)
    if inside and CHECKPOINTS.fullmatch(result.path.name.casefold()):
        message = f"{result.what} has the name of a checkpoint in --checkpoint-dir; rename it"
        raise Mistake(message)
    if any(_same(result.path, p) for p in (folder, *folder.absolute().parents)):
        message = f"{result.what} is where --checkpoint-dir {folder} has to be; rename one of them"
        raise Mistake(message)


def _same(a: Path, b: Path) -> bool:
    """Whether two names are of one file, also where systems take no heed of case or accents."""
    if a.exists() and b.exists() and os.path.samefile(a, b):
        return True
    one, other = (unicodedata.normalize("NFC", os.path.realpath(p)) for p in (a, b))
    return one.casefold() == other.casefold()


# Which files are ours


def is_model(path: Path) -> bool:
    """Whether `xplayers train --save` has written a file."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(min(length, 2**22))
    try:
        strings = json.loads(text)["__metadata__"]
        return strings["format"] == "xplayers" and "model" in json.loads(strings["metadata"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def is_log(path: Path) -> bool:
    """Whether a file is a log of training, even one that was cut off."""
    start = b'{"epoch":'
    with open(path, "rb") as file:
        return start.startswith(file.read(len(start)))


def is_picture(path: Path) -> bool:
    """Whether a file is a picture that xplayers has drawn, which says so in it."""
    with open(path, "rb") as file:
        found = file.read(2**24)
    return b"xplayers" in found and found.startswith((b"\x89PNG", b"%PDF", b"<?xml", b"%!PS"))


def is_measurements(path: Path) -> bool:
    """Whether a file has what `xplayers bench` has measured."""
    with open(path, "rb") as file:
        return file.read(64).startswith(b'{\n "date": ')


def is_predictions(path: Path) -> bool:
    """Whether a file has predictions."""
    with open(path, "rb") as file:
        return file.read(10) == b"\x93NUMPY\x01\x00" + (NPY_HEADER - 10).to_bytes(2, "little")
