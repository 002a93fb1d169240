"""Files that are something else than what was asked for: each is told by what it is."""

import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from commands import TINY, main, refusal, train, write_mnist

import xplayers as xl
from xplayers.cli import arrays
from xplayers.saving.kinds import kind_of

pytestmark = pytest.mark.host

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"
FOREIGN = {
    "empty": (b"", "is empty"),
    "csv": (b"a,b,label\n1,2,x\n3,4,y\n", "is a text table, as CSV"),
    "csv of Excel": ("\ufeffa;b;é\n1;2;x\n".encode(), "is a text table, as CSV"),
    "tsv": (b"1\t2\tx\n", "is a text table, as CSV"),
    "text": (b"hello\n", "is a text"),
    "json": (b'{"x": [1, 2]}\n', "is a text file, as JSON"),
    "lfs": (LFS, "is a Git LFS pointer; `git lfs pull` fetches the file"),
    "pickle 0": (pickle.dumps([1, 2], 0), ""),
    "pickle 2": (pickle.dumps([1, 2], 2), "is a pickle, which could execute arbitrary code"),
    "pickle 4": (pickle.dumps(np.ones(9), 4), "is a pickle, which could execute arbitrary code"),
    "pickle 5": (pickle.dumps(print, 5), "is a pickle, which could execute arbitrary code"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file"),
    "parquet": (b"PAR1" + bytes(99), "is a Parquet file"),
    "matlab": (b"MATLAB 5.0 MAT-file, Platform: GLNXA64" + bytes(99), "is a MATLAB file"),
    "gzip": (b"\x1f\x8b\x08" + bytes(99), "is a gzip file; decompress it first"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(99), "is an image (PNG)"),
    "jpeg": (b"\xff\xd8\xff\xe0" + bytes(99), "is an image (JPEG)"),
    "web": (b"\n<!DOCTYPE html>\n<html>", "is a web page, perhaps of a failed download"),
    "noise": (bytes(range(3, 200)), ""),
}


@pytest.mark.parametrize(("content", "words"), FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("argument", ["dataset", "samples", "samples.npz", "model"])
def test_foreign_files(capsys, data, argument, content, words):
    if argument == "dataset":
        arguments = ("train", "--dataset", "file.npz")
        expected = "expected an .npz file"
    elif argument == "model":
        arguments = ("evaluate", "file.npz")
        expected = "expected a model written by `xplayers train --save`"
    else:
        train(capsys, *TINY, "--dataset", "own.npz", "--save", "m.safetensors")
        arguments = ("predict", "m.safetensors", "file.npz")
        expected = "expected an .npy or .npz file of numbers"
    Path("file.npz").write_bytes(content)
    line = refusal(capsys, *arguments)
    assert f"file.npz {words}" in line or (not words and "file.npz" in line)
    if words:
        assert expected in line
    if "CSV" in words and argument == "dataset":
        assert "numpy.genfromtxt" in line
        assert 'numpy.savez("data.npz", x=samples, t=labels) writes one' in line


@pytest.mark.parametrize("name", ["table.csv", "data.pkl", "x.npy", "data", "DATA.NPZ"])
def test_a_data_set_is_told_by_its_content(capsys, data, name):
    Path(name).write_bytes(b"1,2\n3,4\n")
    assert f"{name} is a text table" in refusal(capsys, "train", "--dataset", name)
    Path(name).write_bytes(Path("own.npz").read_bytes())
    train(capsys, *TINY, "--dataset", name, "--save", "m.safetensors")
    np.savez("new", x=np.zeros((3, 6, 6)))
    os.replace("new.npz", name)
    assert main(["predict", "m.safetensors", name]) == 0
    with open(name, "wb") as file:
        np.save(file, np.zeros((3, 6, 6)))
    assert main(["predict", "m.safetensors", name]) == 0
    line = refusal(capsys, "train", "--dataset", name)
    assert f"{name} is a NumPy array (.npy); expected an .npz file" in line


def test_arguments_that_are_interchanged(capsys, data):
    train(capsys, *TINY, "--dataset", "own.npz", "--save", "m.safetensors")
    np.save("x.npy", np.zeros((3, 6, 6)))
    line = refusal(capsys, "predict", "x.npy", "m.safetensors")
    assert "x.npy is a NumPy array (.npy); expected a model" in line
    line = refusal(capsys, "train", "--dataset", "m.safetensors")
    assert "m.safetensors is a safetensors file; expected an .npz file" in line
    assert ". is a folder; expected an .npz file" in refusal(capsys, "train", "--dataset", ".")


def test_safetensors_of_others(capsys, data):
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    Path("other.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    line = refusal(capsys, "evaluate", "other.safetensors")
    assert "other.safetensors is a safetensors file of another program; expected a model" in line
    xl.save("net.safetensors", xl.mlp([4, 2], rng=0))
    line = refusal(capsys, "evaluate", "net.safetensors")
    assert "it has no architecture; in Python xl.load(path, net) reads it" in line


# Archives


def npy(shape, data, dtype="<f8"):
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def archive(compression=zipfile.ZIP_DEFLATED, **members):
    with zipfile.ZipFile("lie.npz", "w", compression) as file:
        for name, content in members.items():
            file.writestr(name.replace("_", "/") if "." in name else f"{name}.npy", content)


LABELS = io.BytesIO()
np.save(LABELS, np.arange(60) % 3)
LABELS = LABELS.getvalue()


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (npy((10**12, 4), bytes(64)), "float64 of shape (1000000000000, 4), 32000000000000 bytes"),
        (npy((2**62, 2**62), bytes(64)), "is damaged: by its header it is float64 of shape"),
        (npy((60, -4), bytes(64)), "is damaged"),
        (npy((60, 4), bytes(60 * 4 * 8 - 1)), "which the file does not have"),
        (npy((60, 4), bytes(60 * 4 * 8 + 1)), "which the file does not have"),
        (npy((60, 4), bytes(8), "|O"), "x of lie.npz has Python objects, whose loading could"),
        (npy((60, 4), bytes(8), [("a", "<f8")]), "is a table with named columns"),
        (npy((60, 4), b"")[:-60], "damaged"),
        (b"\x93NUMPY\x01\x00\x08\x00((((((((", "lie.npz is damaged or truncated"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 0xFFFF, "lie.npz is damaged or truncated"),
        (b"\x93NUMPY\x07\x00", "x of lie.npz is damaged: its format version is (7, 0)"),
        (b"hello", "lie.npz is damaged or truncated"),
        (b"", "lie.npz is damaged or truncated"),
    ],
)
def test_archives_that_lie(capsys, home, x, words):
    archive(x=x, t=LABELS)
    tracemalloc.start()
    line = refusal(capsys, "train", "--dataset", "lie.npz")
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert words in line
    archive(x=x)
    refusal(capsys, "train", "--dataset", "lie.npz")
    with pytest.raises(Exception, match=r"lie\.npz"):
        arrays.read_samples("lie.npz")


def field(content, central, offset, size, value):
    """Return an archive in which a field of all its entries has another value."""
    content = bytearray(content)
    at = content.find(central)
    while at >= 0:
        content[at + offset : at + offset + size] = value.to_bytes(size, "little")
        at = content.find(central, at + 4)
    return bytes(content)


HERE, THERE = b"PK\x03\x04", b"PK\x01\x02"  # headers beside an entry, and in the list of them


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (((HERE, 6, 2, 1), (THERE, 8, 2, 1)), "is encrypted; save it without a password"),
        (((HERE, 8, 2, 99), (THERE, 10, 2, 99)), "is compressed by a method that NumPy"),
        (((HERE, 8, 2, 14), (THERE, 10, 2, 14)), "is compressed by a method that NumPy"),
        (((THERE, 24, 4, 2**31),), "damaged"),  # the size that is claimed
        (((THERE, 16, 4, 7),), "damaged"),  # the checksum
        (((THERE, 42, 4, 2**31),), "damaged"),  # where it is
        (((HERE, 4, 4, 2**32 - 1), (HERE, 26, 2, 99)), "damaged"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_archives_with_other_fields(capsys, data, fields, words, compressed):
    with np.load("own.npz") as archive:
        (np.savez_compressed if compressed else np.savez)("own.npz", **dict(archive))
    content = Path("own.npz").read_bytes()
    for one in fields:
        content = field(content, *one)
    Path("own.npz").write_bytes(content)
    line = refusal(capsys, "train", *TINY, "--dataset", "own.npz")
    assert words in line
    assert "own.npz" in line
    assert words in refusal(capsys, "predict", model(capsys), "own.npz")


def model(capsys):
    train(capsys, *TINY, "--save", "m.safetensors")
    return "m.safetensors"


def test_every_cut_of_an_archive(capsys, data):
    content = Path("own.npz").read_bytes()
    for n in (5, 30, 100, 300, len(content) // 2, len(content) - 100, len(content) - 1):
        Path("own.npz").write_bytes(content[:n])
        assert "own.npz is damaged" in refusal(capsys, "train", "--dataset", "own.npz")


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"archive_data.pkl": b"x"}, "is a file of PyTorch's torch.save, a pickle"),
        ({"[Content_Types].xml": b"x"}, "is a zip archive with no array in it"),
        ({"readme.txt": b"x"}, "is a zip archive with no array in it, but readme.txt; expected"),
        ({}, "has nothing; expected x and t"),
    ],
)
def test_archives_of_other_programs(capsys, home, members, words):
    archive(**members)
    assert words in refusal(capsys, "train", "--dataset", "lie.npz")


@pytest.mark.parametrize("content", [npy((10**12, 4), bytes(64)), npy((60, 36), bytes(64))])
def test_npy_files_that_lie(capsys, data, content):
    Path("x.npy").write_bytes(content)
    line = refusal(capsys, "predict", model(capsys), "x.npy")
    assert "x.npy is damaged or truncated: mmap length is greater than file size" in line


# Files of other commands


def test_idx_files_that_are_something_else(capsys, home):
    write_mnist(home / "mnist")
    name = home / "mnist" / "train-images-idx3-ubyte"
    for content, words in ((LFS, "a Git LFS pointer"), (b"\x89PNG\r\n", "an image (PNG)")):
        name.write_bytes(content)
        with pytest.raises(ValueError, match="not an IDX file; it starts with") as error:
            xl.data.read_idx(name)
        assert f"It is {words}" in str(error.value)
        line = refusal(capsys, "train", "--dataset", "mnist", "--data-dir", "mnist")
        assert f"It is {words}" in line


@pytest.mark.parametrize("content", [LFS, b"PK\x03\x04", pickle.dumps(1, 4), b"", b"1,2\n"])
def test_options_in_something_else(capsys, home, content):
    Path("c.toml").write_bytes(content)
    if content:
        assert "--config c.toml" in refusal(capsys, "train", "--config", "c.toml")


def test_kinds():
    assert kind_of(b"\x80") == ""
    assert kind_of(bytes(600)) == ""
    assert kind_of(b"PK\x05\x06" + bytes(18)).startswith("a zip archive")
    assert kind_of((2).to_bytes(8, "little") + b"{}") == "a safetensors file"
    assert kind_of("é".encode() * 300) == "a text file"
    assert kind_of("日本,".encode()[:5]) == "a text file"  # cut within a character


def test_a_model_whose_header_has_a_length_as_other_files_begin(capsys, data):
    train(capsys, *TINY, "--dataset", "own.npz", "--save", "m.safetensors")
    model = xl.load_model("m.safetensors")
    for beginning in (b"\x80\x02", b"\x80\x04", b"\x80\x05"):  # as pickles
        model.about["note"] = ""
        model.save("m.safetensors")
        length = int.from_bytes(Path("m.safetensors").read_bytes()[:8], "little")
        model.about["note"] = "a" * ((int.from_bytes(beginning, "little") - length) % 2**16)
        model.save("m.safetensors")
        assert Path("m.safetensors").read_bytes()[:2] == beginning
        assert main(["evaluate", "m.safetensors", "--backend", "numpy"]) == 0
        capsys.readouterr()
