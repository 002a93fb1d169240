"""Atomic writes, and no pipes or devices taken for files."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be deleted
    fcntl = None

from xplayers._checks import shown

AnyPath = str | os.PathLike[str]

TEMPORARY = ".xplayers-*.tmp"  # what a process that was killed may leave behind
_OLD = 24 * 3600.0  # seconds after which it is that too where files cannot be locked


def in_full(path: AnyPath, owner: object, name: str = "path") -> str:
    """Return a path as a string, with the home of a user in the place of ``~``.

    Raises
    ------
    TypeError
        If `path` is none.
    ValueError
        If it is empty, as that of a variable which is not set.
    """
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        message = f"{owner}: {name} is {shown(path)}; expected a str or pathlib.Path."
        raise TypeError(message)
    if not os.fspath(path):
        message = f"{owner}: {name} is empty; expected a name, or '.' for where we are."
        raise ValueError(message)
    return os.path.expanduser(path)  # pathlib fails without a home


def opened(path: AnyPath) -> io.BufferedReader:
    """Open a file for reading; a ValueError where `path` is a folder, a pipe or a device."""
    _check_regular(path)  # before it is opened: that of a pipe would wait for ever
    return open(path, "rb")


def _check_regular(path: AnyPath) -> os.stat_result:
    found = os.stat(path)
    if stat.S_ISREG(found.st_mode):
        return found
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    message = f"is a {kinds.get(stat.S_IFMT(found.st_mode), 'device')}; expected a file."
    raise ValueError(message)


@contextlib.contextmanager
def replacing(path: AnyPath) -> Iterator[io.BufferedWriter]:
    """Yield a new file that takes the place of `path` when all of it is on the disk.

    Whatever happens before that (an error, a full disk, a kill, loss of power) leaves `path` as it
    was. Only a kill leaves the new file behind, for `clean`. It gets the mode of the file that it
    replaces and, where this process may give it away, the owner. A link stays one: what it leads to
    is replaced.

    Raises
    ------
    OSError
        With the name `path`, if it cannot be written.
    ValueError
        If `path` is a folder, a pipe or a device.
    """
    target = Path(os.path.realpath(path))
    temporary = None
    try:
        replaced = None
        with contextlib.suppress(FileNotFoundError):
            replaced = _check_regular(target)
        if os.fspath(path).endswith((os.sep, os.altsep or os.sep)):
            message = "ends like a folder; expected a file."
            raise ValueError(message)
        file, temporary = _temporary(target.parent, replaced)
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is not None:  # while it is locked; Windows renames no open files
                os.replace(temporary, target)
        if fcntl is None:
            os.replace(temporary, target)
        _sync_folder(target.parent)
    except OSError as error:
        _remove(temporary)
        raise OSError(error.errno, error.strerror, str(path)) from error  # not the temporary name
    except BaseException:
        _remove(temporary)
        raise


def write_text(path: AnyPath, text: str) -> None:
    """Put a text in the place of a file, in UTF-8; a pipe or a device gets it as it comes."""
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as file:
            file.write(text.encode())
        return
    with replacing(path) as file:
        file.write(text.encode())


def clean(folder: Path) -> None:
    """Delete what writes that were killed have left in a folder, and no file of one that goes on.

    A file that is being written is locked, on Windows it is open. Where files cannot be locked, as
    on some that lie on another machine, those are deleted that nobody has written to for a day.
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
    """Make a file and lock it, with the mode and the owner of the one that it will replace."""
    while True:
        path = folder / TEMPORARY.replace("*", os.urandom(8).hex())
        file = open(path, "xb")  # noqa: SIM115 - the caller closes it
        try:
            if replaced is not None:  # while it is empty: nobody reads what comes later
                _give(file.fileno(), replaced)
            # Before it was locked, another process may have taken it for one that was left.
            if _locked(file.fileno()) is not False and os.fstat(file.fileno()).st_nlink:
                return file, path
        except BaseException:
            file.close()
            _remove(path)
            raise
        file.close()
        _remove(path)


def _give(handle: int, like: os.stat_result) -> None:
    """Give an open file the mode and the owner of another."""
    if not hasattr(os, "fchmod"):  # Windows
        return
    mode = stat.S_IMODE(like.st_mode) & 0o777
    for owner in ((like.st_uid, like.st_gid), (-1, like.st_gid)):
        now = os.fstat(handle)
        if (now.st_uid, now.st_gid) != (like.st_uid, like.st_gid):
            with contextlib.suppress(OSError):  # only root may give a file to anybody
                os.fchown(handle, *owner)
    if os.fstat(handle).st_gid != like.st_gid:  # another group: it may do what everybody may
        mode = mode & ~0o070 | (mode & 0o007) << 3
    with contextlib.suppress(OSError):  # of file systems that have no modes
        os.fchmod(handle, mode)


def _locked(handle: int) -> bool | None:
    """Lock a file while it is open. False: another process has. None: it cannot be."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def _remove(path: Path | None) -> None:
    if path is not None:
        with contextlib.suppress(OSError):  # the error that led here is the one to report
            path.unlink()


def _sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, so that a rename outlives a loss of power."""
    if os.name != "posix":
        return  # Windows opens no folders
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # one may write to it and not list it
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of file systems that cannot
            raise
    finally:
        os.close(handle)


def append(path: AnyPath, line: str) -> None:
    """Add a line, or several, to a text file in UTF-8: all of it, or nothing.

    What a write that was cut off (a full disk) has left of it is taken away again. The half of a
    line of somebody who was killed before is ended, so that the new one begins in a place of its
    own.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    with open(path, "ab", buffering=0) as file:
        regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)  # and no pipe or device
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
