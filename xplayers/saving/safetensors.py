"""The safetensors format: named arrays in one file, which loading cannot run as code.

A file is the length of its header (8 bytes), the header (JSON: dtype, shape and place of each
array, and a mapping of strings), and the values, without gaps; all little-endian and in C order.
https://github.com/huggingface/safetensors describes it, and its library reads these files.

What this file adds to the format are entries of that mapping: ``format`` and ``format_version`` say
whose file it is, and ``sha256`` covers all names, dtypes, shapes, values and strings, so that a
flipped bit is an error.
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

from xplayers.arrays.namespaces import Array, dtype_name, namespace, to_numpy
from xplayers.saving.files import AnyPath, opened, replacing

_FORMAT, _VERSION = "xplayers", "1"
_MARKS = ("format", "format_version", "sha256")

_CODES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
_NAMES = {code: name for name, code in _CODES.items()}

# Of the header. JSON takes some 25 times its length in memory at worst, so this is what keeps a
# hostile file below 100 MB; it is enough for 20,000 arrays.
_LIMIT = 2 * 2**20
_CHUNK = 2**20  # of values that are looked at and not kept
_MAX_AXES = 64  # of NumPy


class Entry(NamedTuple):
    """What the header says of one array."""

    dtype: str  # as the standard calls it
    shape: tuple[int, ...]
    begin: int
    end: int


def write(path: AnyPath, arrays: Mapping[str, Array], strings: Mapping[str, str]) -> None:
    """Write arrays of any library and a mapping of strings: a whole file, or none.

    Raises
    ------
    TypeError
        If an array is none, or has a dtype that the format does not have.
    ValueError
        If the strings are too long for a header, or `path` is a folder, a pipe or a device.
    OSError
        If the file cannot be written; an earlier file of that name is still there then.
    """
    head, entries, strings = check_header(path, arrays, strings)
    with naming(path), replacing(path) as file:
        file.write(head)
        digests = {}
        for name in entries:  # one at a time: only one is on the host twice
            data = _data(arrays[name])
            file.write(data)
            digests[name] = _sha256(data).hexdigest()
        file.seek(0)
        file.write(_encoded(entries, {**strings, "sha256": _checksum(entries, strings, digests)}))


def check_header(
    path: AnyPath, arrays: Mapping[str, Array], strings: Mapping[str, str]
) -> tuple[bytes, dict[str, Entry], dict[str, str]]:
    """Return the header of a file, what it says of each array, and all its strings.

    Raises
    ------
    TypeError, ValueError
        If there can be no such header, as from `write`.
    """
    entries = _layout(arrays)
    strings = {"format": _FORMAT, "format_version": _VERSION, "sha256": "0" * 64, **strings}
    head = _encoded(entries, strings)
    if len(head) > _LIMIT:
        message = (
            f"{path}: names and metadata would take {len(head)} bytes; at most {_LIMIT}. "
            "Long tables belong in a file of their own."
        )
        raise ValueError(message)
    return head, entries, strings


@contextlib.contextmanager
def reading(path: AnyPath, *, verify: bool = True) -> Iterator[Reader]:
    """Open a file and check its header; errors in the block get the name of the file.

    With `verify`, a file that xplayers did not write is refused.
    """
    with naming(path), opened(path) as file:
        yield Reader(file, verify)


@contextlib.contextmanager
def naming(path: AnyPath) -> Iterator[None]:
    """Give every ValueError and OSError in the block the name of the file."""
    try:
        yield
    except (ValueError, RecursionError) as error:  # the latter: JSON with too many brackets
        message = f"{os.fspath(path)}: {error}"
        raise ValueError(message) from error
    except OSError as error:
        error.filename = os.fspath(path)  # reading and writing know no name
        raise


class Reader:
    """An open file, whose header has been held against its size.

    Attributes
    ----------
    strings : dict of str to str
        The mapping of strings, without the marks of xplayers.
    entries : dict of str to Entry
        What there is, by name, in the order of the file.
    own : bool
        Whether xplayers wrote it.
    """

    def __init__(self, file: io.BufferedReader, verify: bool) -> None:
        self._file, self._verify = file, verify
        self._strings, self.entries, self._start = _header(file)
        self.own = self._strings.get("format") == _FORMAT
        marks = _MARKS if self.own else ()
        self.strings = {k: v for k, v in self._strings.items() if k not in marks}
        if not self.own and verify:
            message = (
                "was not written by xplayers, so it has no checksum to tell damage by. "
                "Pass verify=False to read it all the same."
            )
            raise ValueError(message)
        version = self._strings.get("format_version")
        if self.own and version != _VERSION:
            message = f"has format version {version}; this version of xplayers reads {_VERSION}."
            raise ValueError(message)

    def read(self, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
        """Return the arrays called `names`, or all; bfloat16 comes as float32.

        The checksum is that of the whole file: what is not asked for is looked at in pieces.
        """
        found, digests = {}, {}
        self._file.seek(self._start)
        for name, entry in self.entries.items():
            digest = _sha256()
            if names is None or name in names:
                data = _empty(entry.end - entry.begin)
                self._fill(data)
                digest.update(data.data)
                found[name] = _values(data, name, entry)
            elif self._verify:
                piece = _empty(min(entry.end - entry.begin, _CHUNK))
                for begin in range(entry.begin, entry.end, _CHUNK):
                    part = piece[: entry.end - begin]
                    self._fill(part)
                    digest.update(part.data)
            else:
                self._file.seek(entry.end - entry.begin, os.SEEK_CUR)
            digests[name] = digest.hexdigest()
        checksum = self._strings.get("sha256")
        if self._verify and checksum != _checksum(self.entries, self._strings, digests):
            message = "is damaged: its checksum (SHA-256) does not hold."
            raise ValueError(message)
        return found

    def _fill(self, data: np.ndarray) -> None:
        if self._file.readinto(data.data) != len(data):
            message = "became shorter while it was read."
            raise ValueError(message)


# Writing


def _layout(arrays: Mapping[str, Array]) -> dict[str, Entry]:
    """Return the place of each array: the widest dtypes first, so that all are aligned."""
    dtypes = {}
    for name, a in arrays.items():
        namespace(a, "save", name)
        dtypes[name] = dtype_name(a.dtype)
        if dtypes[name] not in _CODES:
            message = f"save: {name} is {dtypes[name]}; expected one of {', '.join(_CODES)}."
            raise TypeError(message)
    entries, end = {}, 0
    for name in sorted(arrays, key=lambda name: (-_itemsize(dtypes[name]), name)):
        shape = tuple(map(int, arrays[name].shape))
        begin, end = end, end + math.prod(shape) * _itemsize(dtypes[name])
        entries[name] = Entry(dtypes[name], shape, begin, end)
    return entries


def _itemsize(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _encoded(entries: Mapping[str, Entry], strings: Mapping[str, str]) -> bytes:
    """Return the header with its length before it, padded so that the values are aligned."""
    header: dict[str, Any] = {"__metadata__": dict(strings)}
    for name, e in entries.items():
        place = [e.begin, e.end]
        header[name] = {"dtype": _CODES[e.dtype], "shape": list(e.shape), "data_offsets": place}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _data(a: Array) -> memoryview:
    """Return the bytes of an array, as they lie in the file."""
    values = to_numpy(a)
    if dtype_name(a.dtype) == "bfloat16":  # the upper half of a float32
        values = (values.astype("float32").view("uint32") >> 16).astype("uint16")
    values = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(values).reshape(-1).view("uint8").data


def _checksum(
    entries: Mapping[str, Entry], strings: Mapping[str, str], digests: Mapping[str, str]
) -> str:
    """Return the SHA-256 sum over all but itself; the order in the file does not matter."""
    rows = {name: [e.dtype, e.shape, digests[name]] for name, e in entries.items()}
    covered = [rows, {k: v for k, v in strings.items() if k != "sha256"}]
    return _sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()


def _sha256(data: Any = b"") -> Any:
    import hashlib  # it loads OpenSSL, which takes 5 ms, and most never need it

    return hashlib.sha256(data)


# Reading


def _header(file: io.BufferedReader) -> tuple[dict[str, str], dict[str, Entry], int]:
    """Return strings, entries, and where the values begin. Nothing is believed unchecked."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        message = f"is no safetensors file, or cut off: a header of {length} bytes in {size} bytes."
        raise ValueError(message)
    if length > _LIMIT:
        message = f"has a header of {length} bytes; at most {_LIMIT} are read."
        raise ValueError(message)
    text = file.read(length)
    if not text.startswith(b"{"):
        message = "is no safetensors file: its header does not begin with '{'."
        raise ValueError(message)
    try:
        header = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        message = f"has a header that is no JSON: {error}."
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
            message = f"{name!r} begins at {entry.begin}, the array before it ends at {end}."
            raise ValueError(message)
        end = entry.end
    if end != size - 8 - length:
        message = f"has {size - 8 - length} bytes of values; its header says {end}."
        raise ValueError(message)
    return strings, dict(entries), 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = {}
    for name, value in pairs:
        if name in found:
            message = f"has {name!r} twice in its header."
            raise ValueError(message)
        found[name] = value
    return found


def _refuse(constant: str) -> Any:
    message = f"has {constant} in its header; JSON has no such number."
    raise ValueError(message)


def _entry(name: str, value: Any) -> Entry:
    """Check what the header says of one array."""
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        message = f"{name!r} in the header: expected dtype, shape and data_offsets."
        raise ValueError(message)
    code, shape, place = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(code, str) or code not in _NAMES:
        message = f"{name!r} has dtype {code!r}; expected one of {', '.join(_NAMES)}."
        raise ValueError(message)
    if not _are_sizes(shape) or len(shape) > _MAX_AXES:
        message = f"{name!r} has no shape in the header: expected a list of sizes."
        raise ValueError(message)
    if not _are_sizes(place) or len(place) != 2:
        message = f"{name!r} has no data_offsets in the header: expected a pair of sizes."
        raise ValueError(message)
    entry = Entry(_NAMES[code], tuple(shape), *place)
    bytes_ = math.prod(shape) * _itemsize(entry.dtype)
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
    """Return the array that lies in the bytes `data`."""
    if entry.dtype == "bfloat16":
        values = (data.view("<u2").astype("uint32") << 16).view("float32")
    elif entry.dtype == "bool" and data.max(initial=0) > 1:
        message = f"{name!r} is of bool and has other values than 0 and 1."
        raise ValueError(message)
    else:
        values = data.view(np.dtype(entry.dtype).newbyteorder("<")).astype(entry.dtype, copy=False)
    return values.reshape(entry.shape)
