"""Atomic writes of files, and checks that they are regular files."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows, where open files cannot be deleted
    fcntl = None

from xplayers._checks import shown

AnyPath = str | os.PathLike[str]

TEMPORARY = ".xplayers-*.tmp"  # temporary files; a killed process may leave one
_OLD = 24 * 3600.0  # seconds after which it is stale if files cannot be locked


def in_full(path: AnyPath, owner: object, name: str = "path") -> str:
    """Return a path as a string, with ``~`` expanded to the home directory.

    TypeError if it is not a path, ValueError if it is empty, as from an unset variable.
    """
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        message = f"{owner}: {name} is {shown(path)}; expected a str or pathlib.Path."
        raise TypeError(message)
    if not os.fspath(path):
        message = f"{owner}: {name} is empty; expected a path; '.' is the current directory."
        raise ValueError(message)
    return os.path.expanduser(path)  # pathlib fails without a home directory


def sha256(data: Any = b"") -> Any:
    """Return a SHA-256 hash of `data`, which can be updated."""
    import hashlib  # on demand: it loads OpenSSL, which takes 5 ms

    return hashlib.sha256(data)


def opened(path: AnyPath) -> io.BufferedReader:
    """Open a file for reading; ValueError if `path` is a directory, a pipe or a device."""
    _check_regular(path)  # first: opening a pipe would block
    return open(path, "rb")


def _check_regular(path: AnyPath) -> os.stat_result:
    status = os.stat(path)
    if stat.S_ISREG(status.st_mode):
        return status
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    message = f"is a {kinds.get(stat.S_IFMT(status.st_mode), 'device')}; expected a file."
    raise ValueError(message)


@contextlib.contextmanager
def replacing(path: AnyPath) -> Iterator[io.BufferedWriter]:
    """Yield a temporary file that atomically replaces `path` at the end of the block.

    Any failure before (an error, a full disk, a kill, loss of power) leaves `path` unchanged. Only
    a kill leaves the temporary file, for `clean`. The new file gets the mode of the replaced one
    and, if permitted, the owner. Symbolic links are followed. OSError has the name `path`;
    ValueError if that is a directory, a pipe or a device.
    """
    target = Path(os.path.realpath(path))
    temporary = None
    try:
        replaced = None
        with contextlib.suppress(FileNotFoundError):
            replaced = _check_regular(target)
        if os.fspath(path).endswith((os.sep, os.altsep or os.sep)):
            message = "ends with a separator; expected a file."
            raise ValueError(message)
        file, temporary = _temporary(target.parent, replaced)
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is not None:  # while it is locked; Windows cannot rename open files
                os.replace(temporary, target)
        if fcntl is None:
            os.replace(temporary, target)
        _sync_folder(target.parent)
    except BaseException as error:
        _remove(temporary)
        if isinstance(error, OSError):  # with the name of the file, not of the temporary one
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_text(path: AnyPath, text: str) -> None:
    """Write a text in UTF-8, atomically; a pipe or a device is written to directly."""
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as file:
            file.write(text.encode())
        return
    with replacing(path) as file:
        file.write(text.encode())


def clean(folder: Path) -> None:
    """Delete stale temporary files in a directory, but none that is being written.

    A file that is being written is locked, or on Windows open. If files cannot be locked, as on
    some network file systems, those are deleted that were not modified for a day.
    """
    for path in folder.glob(TEMPORARY):
        with contextlib.suppress(OSError):
            if fcntl is None:
                path.unlink()
                continue
            handle = os.open(path, os.O_RDWR)
            try:
                locked = _locked(handle)
                old = locked is None and time.time() - os.fstat(handle).st_mtime > _OLD
                if locked or old:
                    path.unlink()
            finally:
                os.close(handle)


def _temporary(folder: Path, replaced: os.stat_result | None) -> tuple[io.BufferedWriter, Path]:
    """Create and lock a temporary file, with the mode and owner of the file it will replace."""
    while True:
        path = folder / TEMPORARY.replace("*", os.urandom(8).hex())
        with contextlib.ExitStack() as failure:
            file = open(path, "xb")  # noqa: SIM115 - the caller closes it
            failure.callback(_remove, path)
            failure.callback(file.close)
            if replaced is not None:  # while it is empty, so nothing is readable too early
                _copy_permissions(file.fileno(), replaced)
            # Before the lock another process may have deleted it as stale.
            if _locked(file.fileno()) is not False and os.fstat(file.fileno()).st_nlink:
                failure.pop_all()
                return file, path


def _copy_permissions(handle: int, like: os.stat_result) -> None:
    """Set mode and owner of an open file to those of another."""
    if not hasattr(os, "fchmod"):  # Windows
        return
    mode = stat.S_IMODE(like.st_mode) & 0o777
    for owner in ((like.st_uid, like.st_gid), (-1, like.st_gid)):
        current = os.fstat(handle)
        if (current.st_uid, current.st_gid) != (like.st_uid, like.st_gid):
            with contextlib.suppress(OSError):  # only root may change the owner
                os.fchown(handle, *owner)
    if os.fstat(handle).st_gid != like.st_gid:  # another group gets the permissions of others
        mode = mode & ~0o070 | (mode & 0o007) << 3
    with contextlib.suppress(OSError):  # file systems without modes
        os.fchmod(handle, mode)


def _locked(handle: int) -> bool | None:
    """Lock an open file. False: another process holds the lock. None: locks are not supported."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def _remove(path: Path | None) -> None:
    if path is not None:
        with contextlib.suppress(OSError):  # report the original error
            path.unlink()


def _sync_folder(folder: Path) -> None:
    """Sync a directory to the disk, so that a rename survives a loss of power."""
    if os.name != "posix":
        return  # Windows cannot open directories
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # writable but not readable
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems without it
            raise
    finally:
        os.close(handle)


def append(path: AnyPath, line: str) -> None:
    """Append one or more lines to a text file in UTF-8: all or nothing.

    After a partial write (a full disk) the file is truncated to its old size. If the file ends with
    an incomplete line, of a killed process, that is terminated first.
    """
    with open(path, "ab", buffering=0) as file:
        regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)  # not a pipe or device
        end = file.seek(0, os.SEEK_END) if regular else 0
        data = f"{line}\n".encode()
        if end and _last_byte(path) != b"\n":
            data = b"\n" + data
        try:
            while data:
                data = data[file.write(data) :]
        except BaseException:
            if regular:
                with contextlib.suppress(OSError):
                    file.truncate(end)
            raise


def _last_byte(path: AnyPath) -> bytes:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)
