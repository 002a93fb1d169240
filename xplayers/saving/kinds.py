"""Recognition of file types by magic bytes, for error messages about unexpected files."""

from __future__ import annotations

from xplayers.saving.files import AnyPath, opened

START = 512  # bytes to read

LFS = b"version https://git-lfs"
NPY = b"\x93NUMPY"
ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # the latter: an empty one

TABLE = "a text table, as CSV"

_KINDS: tuple[tuple[bytes, str], ...] = (
    (LFS, "a Git LFS pointer; `git lfs pull` fetches the file itself"),
    (NPY, "a NumPy array (.npy)"),
    *((start, "a zip archive, as .npz files are") for start in ZIP),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"MATLAB ", "a MATLAB file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\xd0\xcf\x11\xe0", "a file of an old Office program"),
    (b"\x1f\x8b", "a gzip file; decompress it first"),
    (b"BZh", "a bzip2 file; decompress it first"),
    (b"\xfd7zXZ", "an xz file; decompress it first"),
    (b"7z\xbc\xaf", "a 7-Zip file; decompress it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd file; decompress it first"),
    (b"\x89PNG", "an image (PNG)"),
    (b"\xff\xd8\xff", "an image (JPEG)"),
    (b"GIF8", "an image (GIF)"),
    (b"%PDF", "a PDF file"),
)


def kind_of(start: bytes) -> str:
    """Return the type of a file from its first bytes, as part of a sentence; "" if unknown."""
    if not start:
        return "empty"
    # Before all others: the length of its header may begin as they do.
    if start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") < 2**40:
        return "a safetensors file"
    for magic, description in _KINDS:
        if start.startswith(magic):
            return description
    if start[:1] == b"\x80" and 2 <= int.from_bytes(start[1:2], "little") <= 5:
        return "a pickle, which could execute arbitrary code"
    return _of_text(start)


def _of_text(start: bytes) -> str:
    text = start.decode("utf-8", "ignore").lstrip("\ufeff")
    # Of bytes that are not UTF-8 most are ignored; the last character may be incomplete.
    if (
        not text
        or len(text.encode()) < len(start) - 6
        or any(c < " " and c not in "\t\n\r\f" for c in text)
    ):
        return ""
    text = text.lstrip()
    if text[:14].lower().startswith(("<!doctype html", "<html")):
        return "a web page, perhaps of a failed download"
    if text[:1] in "{[" and text:
        return "a text file, as JSON"
    first = text.partition("\n")[0]
    return TABLE if any(c in first for c in ",;\t") else "a text file"


def kind_of_file(path: AnyPath) -> str:
    """Return the type of a file, as `kind_of`; "" if it cannot be read."""
    try:
        with opened(path) as file:
            return kind_of(file.read(START))
    except (OSError, ValueError):
        return ""
