"""The safetensors format: named arrays in a file without code.

A file is the length of its header (8 bytes), the header (JSON: dtype, shape and offsets of each
array, and a mapping of strings), and the values, without gaps; all little-endian and in C order.
https://github.com/huggingface/safetensors describes it, and its library reads these files.

We add entries to that mapping: ``format`` and ``format_version`` identify the writer, and
``sha256`` is a checksum of all names, dtypes, shapes, values and strings.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import struct
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from xplayers.arrays.namespaces import Array, dtype_name, itemsize, namespace
from xplayers.arrays.transfer import to_numpy
from xplayers.saving.files import AnyPath, opened, replacing, sha256

_FORMAT, _VERSION = "xplayers", "1"
_MARKS = ("format", "format_version", "sha256")

_CODES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
_NAMES = {code: name for name, code in _CODES.items()}

# Maximum bytes of the header. Parsed JSON takes up to 25 times its length in memory, so a malicious
# file needs less than 100 MB; it is enough for 20,000 arrays.
_LIMIT = 2 * 2**20
_CHUNK = 2**20  # bytes of values that are only hashed
_MAX_AXES = 64  # the limit of NumPy


class Entry(NamedTuple):
    """The header entry of an array."""

    dtype: str  # name of the Array API
    shape: tuple[int, ...]
    begin: int
    end: int


def write(path: AnyPath, arrays: Mapping[str, Array], strings: Mapping[str, str]) -> None:
    """Write arrays of any library and a mapping of strings, atomically.

    TypeError if a value is not an array, or has a dtype that the format does not support;
    ValueError if the strings are too long for a header. Other errors are those of `replacing`.
    """
    head, entries, strings = check_header(path, arrays, strings)
    with naming(path), replacing(path) as file:
        file.write(head)
        digests = {}
        for name in entries:  # one at a time, to limit the copies on the host
            data = _data(arrays[name])
            file.write(data)
            digests[name] = sha256(data).hexdigest()
        file.seek(0)
        file.write(_encoded(entries, {**strings, "sha256": _checksum(entries, strings, digests)}))


def check_header(
    path: AnyPath, arrays: Mapping[str, Array], strings: Mapping[str, str]
) -> tuple[bytes, dict[str, Entry], dict[str, str]]:
    """Return the header of a file, the entries of its arrays, and all its strings, or raise."""
    entries = _layout(arrays)
    strings = {"format": _FORMAT, "format_version": _VERSION, "sha256": "0" * 64, **strings}
    head = _encoded(entries, strings)
    if len(head) > _LIMIT:
        message = (
            f"{path}: names and metadata would take {len(head)} bytes; at most {_LIMIT}. "
            "Write long tables to a separate file."
        )
        raise ValueError(message)
    return head, entries, strings


@contextlib.contextmanager
def reading(path: AnyPath, *, verify: bool = True) -> Iterator[Reader]:
    """Open a file and check its header; errors in the block get the name of the file.

    With `verify`, files of other programs are refused.
    """
    with naming(path), opened(path) as file:
        yield Reader(file, verify)


@contextlib.contextmanager
def naming(path: AnyPath) -> Iterator[None]:
    """Add the name of the file to every ValueError and OSError in the block."""
    try:
        yield
    except (ValueError, RecursionError) as error:  # RecursionError: deeply nested JSON
        message = f"{os.fspath(path)}: {error}"
        raise ValueError(message) from error
    except OSError as error:
        error.filename = os.fspath(path)  # errors of read and write have none
        raise


class Reader:
    """An open file, whose header has been checked."""

    def __init__(self, file: io.BufferedReader, verify: bool) -> None:
        self._file, self._verify = file, verify
        self._strings, self.entries, self._start = _header(file)  # entries: in the file's order
        self.own = self._strings.get("format") == _FORMAT  # whether xplayers wrote it
        marks = _MARKS if self.own else ()
        self.strings = {k: v for k, v in self._strings.items() if k not in marks}
        if not self.own and verify:
            message = (
                "was not written by xplayers, so it has no checksum to detect damage. "
                "Pass verify=False to read it anyway."
            )
            raise ValueError(message)
        version = self._strings.get("format_version")
        if self.own and version != _VERSION:
            message = f"has format version {version}; this version of xplayers reads {_VERSION}."
            raise ValueError(message)

    def read(self, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
        """Return the arrays in `names`, or all; bfloat16 as float32.

        The checksum covers the whole file: the other arrays are read in chunks.
        """
        arrays, digests = {}, {}
        self._file.seek(self._start)
        for name, entry in self.entries.items():
            digest = sha256()
            if names is None or name in names:
                data = _empty(entry.end - entry.begin)
                self._fill(data)
                digest.update(data.data)
                arrays[name] = _values(data, name, entry)
            elif self._verify:
                chunk = _empty(min(entry.end - entry.begin, _CHUNK))
                for begin in range(entry.begin, entry.end, _CHUNK):
                    part = chunk[: entry.end - begin]
                    self._fill(part)
                    digest.update(part.data)
            else:
                self._file.seek(entry.end - entry.begin, os.SEEK_CUR)
            digests[name] = digest.hexdigest()
        checksum = self._strings.get("sha256")
        if self._verify and checksum != _checksum(self.entries, self._strings, digests):
            message = "is damaged: its checksum (SHA-256) does not match."
            raise ValueError(message)
        return arrays

    def _fill(self, data: np.ndarray) -> None:
        if self._file.readinto(data.data) != len(data):
            message = "was truncated while it was read."
            raise ValueError(message)


# Writing


def _layout(arrays: Mapping[str, Array]) -> dict[str, Entry]:
    """Return the entry of each array: the widest dtypes first, so that all are aligned."""
    dtypes = {}
    for name, a in arrays.items():
        namespace(a, "save", name)
        dtypes[name] = dtype_name(a.dtype)
        if dtypes[name] not in _CODES:
            message = f"save: {name} is {dtypes[name]}; expected one of {', '.join(_CODES)}."
            raise TypeError(message)
    entries, end = {}, 0
    for name in sorted(arrays, key=lambda name: (-itemsize(dtypes[name]), name)):
        shape = tuple(map(int, arrays[name].shape))
        begin, end = end, end + math.prod(shape) * itemsize(dtypes[name])
        entries[name] = Entry(dtypes[name], shape, begin, end)
    return entries


def _encoded(entries: Mapping[str, Entry], strings: Mapping[str, str]) -> bytes:
    """Return the length and the header, padded so that the values are aligned."""
    header: dict[str, Any] = {"__metadata__": dict(strings)}
    for name, e in entries.items():
        offsets = [e.begin, e.end]
        header[name] = {"dtype": _CODES[e.dtype], "shape": list(e.shape), "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _data(a: Array) -> memoryview:
    """Return the bytes of an array, as in the file."""
    values = to_numpy(a)
    if dtype_name(a.dtype) == "bfloat16":  # the upper half of a float32
        values = (values.astype("float32").view("uint32") >> 16).astype("uint16")
    values = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(values).reshape(-1).view("uint8").data


def _checksum(
    entries: Mapping[str, Entry], strings: Mapping[str, str], digests: Mapping[str, str]
) -> str:
    """Return the SHA-256 checksum of all but itself, independent of the order in the file."""
    rows = {name: [e.dtype, e.shape, digests[name]] for name, e in entries.items()}
    covered = [rows, {k: v for k, v in strings.items() if k != "sha256"}]
    return sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()


# Reading


def _header(file: io.BufferedReader) -> tuple[dict[str, str], dict[str, Entry], int]:
    """Check the header, and return strings, entries and the offset of the values."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        message = (
            f"is not a safetensors file, or truncated: a header of {length} bytes in {size} bytes."
        )
        raise ValueError(message)
    if length > _LIMIT:
        message = f"has a header of {length} bytes; at most {_LIMIT} are read."
        raise ValueError(message)
    text = file.read(length)
    if not text.startswith(b"{"):
        message = "is not a safetensors file: its header does not begin with '{'."
        raise ValueError(message)
    try:
        header = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        message = f"has a header that is not JSON: {error}."
        raise ValueError(message) from error
    strings = header.pop("__metadata__", {})
    if not isinstance(strings, dict) or not all(isinstance(v, str) for v in strings.values()):
        message = "__metadata__ in the header is not a mapping of strings."
        raise ValueError(message)
    entries = [(name, _entry(name, value)) for name, value in header.items()]
    entries.sort(key=lambda row: (row[1].begin, row[1].end))
    end = 0
    for name, entry in entries:
        if entry.begin != end:
            message = f"{name!r} begins at {entry.begin}, the previous array ends at {end}."
            raise ValueError(message)
        end = entry.end
    if end != size - 8 - length:
        message = f"has {size - 8 - length} bytes of values; its header says {end}."
        raise ValueError(message)
    return strings, dict(entries), 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = {}
    for name, value in pairs:
        if name in values:
            message = f"has {name!r} twice in its header."
            raise ValueError(message)
        values[name] = value
    return values


def _refuse(constant: str) -> Any:
    message = f"has {constant} in its header; JSON has no such number."
    raise ValueError(message)


def _entry(name: str, value: Any) -> Entry:
    """Check and return the header entry of an array."""
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        message = f"{name!r} in the header: expected dtype, shape and data_offsets."
        raise ValueError(message)
    code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(code, str) or code not in _NAMES:
        message = f"{name!r} has dtype {code!r}; expected one of {', '.join(_NAMES)}."
        raise ValueError(message)
    if not _are_sizes(shape) or len(shape) > _MAX_AXES:
        message = f"{name!r} has no shape in the header: expected a list of sizes."
        raise ValueError(message)
    if not _are_sizes(offsets) or len(offsets) != 2:
        message = f"{name!r} has no data_offsets in the header: expected a pair of sizes."
        raise ValueError(message)
    entry = Entry(_NAMES[code], tuple(shape), *offsets)
    bytes_ = math.prod(shape) * itemsize(entry.dtype)
    if entry.end - entry.begin != bytes_ or math.prod(n or 1 for n in shape) >= 2**60:
        message = f"{name!r} has {entry.end - entry.begin} bytes; its shape {shape} says {bytes_}."
        raise ValueError(message)
    return entry


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)


def _empty(size: int) -> np.ndarray:
    try:
        return np.empty(size, "uint8")
    except MemoryError as error:
        raise OSError(errno.ENOMEM, f"no memory for {size} bytes of values") from error


def _values(data: np.ndarray, name: str, entry: Entry) -> np.ndarray:
    """Return the array with the bytes `data`."""
    if entry.dtype == "bfloat16":
        values = (data.view("<u2").astype("uint32") << 16).view("float32")
    elif entry.dtype == "bool" and data.max(initial=0) > 1:
        message = f"{name!r} is bool and has other values than 0 and 1."
        raise ValueError(message)
    else:
        values = data.view(np.dtype(entry.dtype).newbyteorder("<")).astype(entry.dtype, copy=False)
    return values.reshape(entry.shape)
