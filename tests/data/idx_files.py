"""A small data set in IDX files, and what downloads are asked about."""

import gzip
import struct

import numpy as np
import pytest

from xplayers.data import (
    load_fashion_mnist,
    load_mnist,
)

pytestmark = pytest.mark.host

COLLECTIONS = {load_mnist: "_MNIST", load_fashion_mnist: "_FASHION_MNIST"}


TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")


TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


FILES = (*TRAIN, *TEST)

rng = np.random.default_rng(0)


ARRAYS = {
    "train-images-idx3-ubyte": rng.integers(0, 256, (7, 3, 5), dtype=np.uint8),
    "train-labels-idx1-ubyte": np.array([3, 0, 9, 1, 4, 1, 5], dtype=np.uint8),
    "t10k-images-idx3-ubyte": rng.integers(0, 256, (4, 3, 5), dtype=np.uint8),
    "t10k-labels-idx1-ubyte": np.array([2, 7, 1, 8], dtype=np.uint8),
}


def idx(array):
    """Return `array` as the bytes of an IDX file."""
    codes = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
    header = struct.pack(
        f">4B{array.ndim}I", 0, 0, codes[array.dtype.str[1:]], array.ndim, *array.shape
    )
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def fill(folder, names=FILES, suffix="", spelling=str):
    """Write the small data set into `folder`, gzipped where the suffix says so."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        data = idx(ARRAYS[name])
        (folder / (spelling(name) + suffix)).write_bytes(gzip.compress(data) if suffix else data)
    return folder


def one_line(error):
    """Return the message of a pytest.raises context, which must be a single line."""
    text = str(error.value)
    assert "\n" not in text
    return text


def contents(folder):
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []
