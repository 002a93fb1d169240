"""The IDX format, that of the files of MNIST."""

import math
import struct

import numpy as np

from xplayers.saving.files import AnyPath, in_full, opened
from xplayers.saving.kinds import START, kind_of

__all__ = ["read_idx"]

_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_AXES = 32  # the limit of all versions of NumPy
_MAX_BYTES = 2**30  # twenty times the largest file of MNIST


def read_idx(path: AnyPath) -> np.ndarray:
    """Read an IDX file, the format of MNIST, gzipped or not.

    Two zero bytes, the type of the elements, the number of axes, their sizes as big-endian uint32,
    then the elements, big-endian, in C order. The header is checked: no more bytes than it states
    are decompressed, and at most 1 GiB.

    Parameters
    ----------
    path : str or path-like
        The file; ``~`` is the home directory. Compression is detected from the first bytes, not
        from the name.

    Returns
    -------
    ndarray
        uint8, int8, int16, int32, float32 or float64, in the byte order of the machine.

    Raises
    ------
    ValueError
        If the file is not an IDX file, or is shorter or longer than its header states.
    TypeError
        If `path` is not a path.

    Examples
    --------
    >>> import pathlib, tempfile, xplayers as xl
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "labels")
    ...     _ = file.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
    ...     xl.data.read_idx(file)
    array([7, 2, 1], dtype=uint8)
    """
    import gzip  # on demand, to keep the import of the package fast
    import zlib

    path = in_full(path, "read_idx")
    try:
        with opened(path) as file:
            gzipped = file.read(2) == b"\x1f\x8b"
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    try:
        with gzip.open(path, "rb") if gzipped else open(path, "rb") as file:
            return _parse_idx(file, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: damaged gzip file ({error}).") from error


def _parse_idx(file, name):
    start = file.read(4)
    if start[:2] != b"\0\0" or len(start) < 4 or start[2] not in _IDX_TYPES or start[3] > _MAX_AXES:
        kind = kind_of(start + file.read(START))
        raise ValueError(
            f"{name}: not an IDX file; it starts with the bytes '{start.hex(' ')}', "
            f"expected '00 00', a type (08 to 0e) and the number of axes (at most {_MAX_AXES})."
            + (f" It is {kind}." if kind else "")
        )
    dtype, ndim = np.dtype(_IDX_TYPES[start[2]]), start[3]
    sizes = file.read(4 * ndim)
    if len(sizes) < 4 * ndim:
        raise ValueError(f"{name}: header says {ndim} axes; file ends before their sizes do.")
    shape = struct.unpack(f">{ndim}I", sizes)
    # Without axes of size 0: NumPy refuses such a shape if the others are too large.
    if dtype.itemsize * math.prod(filter(None, shape)) > _MAX_BYTES:
        raise ValueError(f"{name}: header says {shape}; expected at most {_MAX_BYTES} bytes.")
    expected = dtype.itemsize * math.prod(shape)

    # In chunks, so that a wrong header does not allocate memory; one byte more than expected, to
    # detect a longer file.
    data = bytearray()
    while chunk := file.read(min(2**20, expected + 1 - len(data))):
        data += chunk
    if len(data) != expected:
        size = f"{len(data)}" if len(data) < expected else "more"
        raise ValueError(f"{name}: header says {shape}, {expected} bytes; file holds {size}.")
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)
