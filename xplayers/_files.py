"""Files that are whole or not there, and no pipes or devices taken for files."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

AnyPath = str | os.PathLike[str]

TEMPORARY = ".xplayers-*.tmp"  # what a process that was killed may leave behind


def opened(path: AnyPath) -> io.BufferedReader:
    """Open a file for reading; a ValueError where `path` is a folder, a pipe or a device."""
    _check_regular(path)  # before it is opened: that of a pipe would wait for ever
    return open(path, "rb")


def _check_regular(path: AnyPath) -> None:
    mode = os.stat(path).st_mode
    if stat.S_ISREG(mode):
        return
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    message = f"is a {kinds.get(stat.S_IFMT(mode), 'device')}; expected a file."
    raise ValueError(message)


@contextlib.contextmanager
def replacing(path: AnyPath) -> Iterator[io.BufferedWriter]:
    """Yield a new file that takes the place of `path` when all of it is on the disk.

    Whatever happens before that (an error, a full disk, a kill, loss of power) leaves `path` as it
    was. Only a kill leaves the new file behind, under a name that `TEMPORARY` matches.

    Raises
    ------
    OSError
        With the name `path`, if it cannot be written.
    ValueError
        If `path` is a folder, a pipe or a device.
    """
    target = Path(os.path.realpath(path))  # where `path` is a link, it stays one
    temporary = target.with_name(TEMPORARY.replace("*", os.urandom(8).hex()))
    try:
        with contextlib.suppress(FileNotFoundError):
            _check_regular(target)
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except OSError as error:
        _remove(temporary)
        raise OSError(error.errno, error.strerror, str(path)) from error  # not the temporary name
    except BaseException:
        _remove(temporary)
        raise


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # the error that led here is the one to report
        path.unlink()


def _sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, so that a rename outlives a loss of power."""
    if os.name != "posix":
        return  # Windows opens no folders
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of file systems that cannot, as some over a network
            raise
    finally:
        os.close(handle)
