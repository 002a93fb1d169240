"""The IDX format: every type and shape, and files that are damaged, hostile or not there."""

import gzip
import re
import struct
import tracemalloc

import numpy as np
import pytest
from idx_files import idx, one_line

from xplayers.data import read_idx

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("requests")]


class TestReadIdx:
    @pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
    @pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8"])
    def test_every_type(self, tmp_path, dtype, zipped):
        array = (np.arange(24) * 5 - (0 if dtype == "u1" else 60)).reshape(2, 3, 4).astype(dtype)
        if dtype[0] == "f":
            array /= 7
        path = tmp_path / "file"  # no suffix: the bytes tell
        path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
        read = read_idx(path)
        assert read.dtype == np.dtype(dtype)
        assert read.dtype.isnative
        assert read.flags.writeable
        assert read.flags.c_contiguous
        np.testing.assert_array_equal(read, array)
        np.testing.assert_array_equal(read_idx(str(path)), array)

    @pytest.mark.parametrize("shape", [(), (5,), (0,), (0, 28, 28), (3, 0), (1,) * 32])
    def test_every_shape(self, tmp_path, shape):
        path = tmp_path / "file"
        path.write_bytes(idx(np.ones(shape, np.float32)))
        assert read_idx(path).shape == shape

    def test_longer_than_one_piece(self, tmp_path):
        array = np.random.default_rng(0).integers(0, 256, (3, 2**20 + 1), dtype=np.uint8)
        path = tmp_path / "file.gz"
        path.write_bytes(gzip.compress(idx(array), 1))
        np.testing.assert_array_equal(read_idx(path), array)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (
                idx(np.zeros((2, 3, 4), np.uint8))[:-1],
                "header says (2, 3, 4), 24 bytes; file holds 23.",
            ),
            (idx(np.zeros((2, 3), np.int16))[:-3], "header says (2, 3), 12 bytes; file holds 9."),
            (idx(np.zeros(3, np.uint8)) + b"!", "header says (3,), 3 bytes; file holds more."),
            (idx(np.zeros(3, np.uint8))[:6], "header says 1 axes; file ends before their sizes"),
            (b"", "not an IDX file; it starts with the bytes ''"),
            (b"\0\0\x08", "not an IDX file; it starts with the bytes '00 00 08'"),
            (b"\x89PNG....", "not an IDX file; it starts with the bytes '89 50 4e 47'"),
            (b"\0\0\x0a\1\0\0\0\0", "not an IDX file; it starts with the bytes '00 00 0a 01'"),
            (b"\0\0\x08\xff" + 255 * b"\0\0\0\1", "number of axes (at most 32)"),
        ],
        ids=["short", "short-i2", "long", "header", "empty", "three", "png", "type", "axes"],
    )
    @pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
    def test_bad_files(self, tmp_path, data, message, zipped):
        path = tmp_path / "train-images-idx3-ubyte"
        path.write_bytes(gzip.compress(data) if zipped else data)
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            read_idx(path)
        assert one_line(error).startswith(f"{path}: ")

    @pytest.mark.parametrize(
        "shape", [(2**32 - 1,), (2**16, 2**15), (2**32 - 1,) * 32, (0, *(2**32 - 1,) * 3)]
    )
    def test_header_that_promises_too_much(self, tmp_path, shape):
        path = tmp_path / "file"
        path.write_bytes(struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape))
        with pytest.raises(ValueError, match="expected at most 1073741824 bytes"):
            read_idx(path)

    def peak(self, path):
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match="header says"):
                read_idx(path)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    def test_a_header_alone_takes_no_memory(self, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 2**30) + b"few")
        assert self.peak(path) < 8e6

    def test_a_gzip_bomb_is_not_unpacked(self, tmp_path):
        path = tmp_path / "file.gz"
        path.write_bytes(gzip.compress(idx(np.zeros(4, np.uint8)) + bytes(50_000_000), 1))
        assert self.peak(path) < 8e6

    @pytest.mark.parametrize("n_bytes", [2, 12, -9, -1])
    def test_cut_gzip(self, tmp_path, n_bytes):
        path = tmp_path / "file.gz"
        path.write_bytes(gzip.compress(idx(np.arange(1000, dtype=np.int32)))[:n_bytes])
        with pytest.raises(ValueError, match="damaged gzip file") as error:
            read_idx(path)
        assert one_line(error).startswith(f"{path}: ")

    @pytest.mark.parametrize("at", [2, 20, -5, -1])
    def test_damaged_gzip(self, tmp_path, at):
        data = bytearray(gzip.compress(idx(np.arange(1000, dtype=np.int32))))
        data[at] ^= 0xFF
        path = tmp_path / "file.gz"
        path.write_bytes(data)
        with pytest.raises(ValueError, match="damaged gzip file|header says|not an IDX"):
            read_idx(path)

    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            read_idx(tmp_path / "nothing")
