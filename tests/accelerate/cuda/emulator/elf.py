"""Functions of a loaded library, found by name and replaced (Linux on x86-64)."""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path

_SYMBOLS, _DYNAMIC = 2, 11  # kinds of sections
_FUNCTION = 2
_kept: list[object] = []


def functions(path: Path) -> dict[str, int]:
    """Return where the functions of a library are, also those that it does not export."""
    found = {n: at for n, kind, at in _symbols(path, _SYMBOLS) if kind == _FUNCTION and at}
    if not found:
        raise RuntimeError(f"{path} is stripped: its functions have no names.")
    return found


def needed(path: Path, prefix: str) -> list[str]:
    """Return the functions whose names begin so that a library takes from others."""
    return sorted({n for n, _, at in _symbols(path, _DYNAMIC) if not at and n.startswith(prefix)})


def _symbols(path: Path, wanted: int) -> Iterator[tuple[str, int, int]]:
    data = path.read_bytes()
    (start,) = struct.unpack_from("<Q", data, 0x28)
    size, count = struct.unpack_from("<HH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQII", data, start + i * size) for i in range(count)]
    for _, kind, _, _, offset, length, link, _ in sections:
        if kind != wanted:
            continue
        names = sections[link][4]
        for at in range(offset, offset + length, 24):
            name, info, _, _, value = struct.unpack_from("<IBBHQ", data, at)
            end = data.index(b"\0", names + name)
            yield data[names + name : end].decode(), info & 15, value


def base(path: str) -> int:
    """Return where a library of this process begins in memory."""
    real = os.path.realpath(path)
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, offset, *_, name = line.split(maxsplit=5)
        if offset == "00000000" and os.path.realpath(name) == real:
            return int(span.partition("-")[0], 16)
    raise RuntimeError(f"{path} is not in memory.")


def jump(at: int, to: int) -> None:
    """Let the function at an address go on at another one."""
    code = b"\xff\x25\0\0\0\0" + struct.pack("<Q", to)  # jmp [rip]
    start = at // mmap.PAGESIZE * mmap.PAGESIZE
    all_rights = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    libc = ctypes.CDLL(None, use_errno=True)
    length = ctypes.c_size_t(at + len(code) - start)
    if libc.mprotect(ctypes.c_void_p(start), length, all_rights):
        raise OSError(ctypes.get_errno(), "mprotect: this system lets no code be replaced")
    ctypes.memmove(at, code, len(code))


def call(function: int, text: str) -> int:
    """Return the address of code that calls a function with a text."""
    words = ctypes.create_string_buffer(text.encode())
    _kept.append(words)
    code = b"\x48\xbf" + struct.pack("<Q", ctypes.addressof(words))  # mov rdi, text
    code += b"\x48\xb8" + struct.pack("<Q", function) + b"\xff\xe0"  # mov rax, function; jmp rax
    memory, address = _page()
    at = memory.tell()
    memory.write(code.ljust(32, b"\x90"))
    return address + at


@functools.cache
def _page() -> tuple[mmap.mmap, int]:
    memory = mmap.mmap(-1, 1 << 16, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    return memory, ctypes.addressof(ctypes.c_char.from_buffer(memory))
