"""What the tests of the command share: how it is run, and data of one's own."""

import re
import struct
from pathlib import Path

import numpy as np

import xplayers as xl
from xplayers.cli import main

TINY = ("--backend", "numpy", "--hidden", "8", "--epochs", "2")


def train(capsys, *arguments):
    """Run ``xplayers train`` and return what it prints, less the times."""
    assert main(["train", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return re.sub(r"\d+\.\d s\b|\S+ samples/s  [\d:]+ left", "TIME", out)


def refusal(capsys, *arguments):
    """Run what has to fail, and return the one line that says why."""
    assert main(list(arguments)) == 2
    err = capsys.readouterr().err
    assert re.fullmatch(r"xplayers: error: .+\n", err)
    return err


def contents():
    """Return all files below the working folder, and what is in them."""
    return {p: p.is_file() and p.read_bytes() for p in Path().rglob("*") if p.name != "fifo"}


def refused(capsys, *arguments):
    """Run what has to be refused, and see that it changes nothing on the disk."""
    before = contents()
    line = refusal(capsys, *arguments)
    assert contents() == before
    return line


def accuracy(out):
    return float(re.search(r"accuracy (\S+);", out)[1])


def write_idx(path, array):
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(folder, n=10, seed=0):
    """Write the four files of MNIST, of 40 + n images of 4 x 4 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for part, count in (("train", 40), ("t10k", n)):
        write_idx(folder / f"{part}-images-idx3-ubyte", rng.integers(0, 256, (count, 4, 4)))
        write_idx(folder / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)


def arrays_of(name):
    """Return the arrays in a model file."""
    return {key: xl.to_numpy(a) for key, a in xl.load_model(name).net.arrays.items()}


def assert_same(name, other):
    a, b = arrays_of(name), arrays_of(other)
    assert a.keys() == b.keys()
    assert all(a[key].tobytes() == b[key].tobytes() for key in a)


def own(path, n=40, labels="abc", **more):
    """Write a data set of small images with classes that can be told apart."""
    rng = np.random.default_rng(0)
    t = rng.integers(0, len(labels), n)
    x = rng.integers(0, 60, (n, 6, 6)) + 60 * t[:, None, None]
    np.savez(path, **{"x": x.astype(np.uint8), "t": np.asarray(list(labels))[t], **more})
    return x, np.asarray(list(labels))[t]
