"""Files of networks that are not whole or not ours: each is refused, and nothing is loaded."""

from __future__ import annotations

import errno
import json
import math
import os
import pickle
import re
import struct
import sys
import zipfile

import numpy as np
import pytest
from helpers import assert_same_arrays, assert_same_bits, python, values
from saved_networks import Holder, network, untouched

from xplayers.saving import safetensors
from xplayers.saving.network import load, read_metadata, save

# What is no file of ours


def encoded(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin, end, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def pickled():
    return pickle.dumps({"0.W": values((3, 4))})


def zipped(tmp_path):
    with zipfile.ZipFile(tmp_path / "zip", "w") as file:
        file.writestr("data.pkl", pickled())
    return (tmp_path / "zip").read_bytes()


ONE = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'

BAD = {
    "empty": (b"", "not a safetensors file"),
    "seven bytes": (b"1234567", "not a safetensors file"),
    "no header": (bytes(8), r"does not begin with '\{'"),
    "pickle": (pickled(), "not a safetensors file"),
    "npy": (b"\x93NUMPY\x01\x00v\x00" + b" " * 200, "not a safetensors file"),
    "text": (b"hello, world\n" * 9, "not a safetensors file"),
    "header of 2**63 bytes": (struct.pack("<Q", 2**63) + b"{}", "a header of 9223372036854775808"),
    "header of 2**64 - 1 bytes": (b"\xff" * 8 + b"{}", "a header of 18446744073709551615"),
    "header one byte too long": (struct.pack("<Q", 3) + b"{}", "a header of 3 bytes in 10"),
    "header of 3 MB": (encoded(b"{" + b" " * 3_000_000 + b"}"), "at most 2097152"),
    "list": (encoded(b"[]"), "does not begin"),
    "space before": (encoded(b" {}"), "does not begin"),
    "utf-16": (encoded("{}".encode("utf-16")), "does not begin"),
    "no utf-8": (encoded(b'{"\xff":1}'), "not JSON"),
    "not JSON": (encoded(b"{'a':1}"), "not JSON"),
    "JSON and more": (encoded(b"{}{}"), "not JSON"),
    "cut JSON": (encoded(b'{"a":'), "not JSON"),
    "deep JSON": (encoded(b'{"a":' + b"[" * 500_000), "recursion"),
    "NaN": (encoded(b'{"a":NaN}'), "has NaN"),
    "Infinity": (encoded(b'{"a":{"shape":[-Infinity]}}'), "has -Infinity"),
    "long number": (encoded(b'{"a":' + b"9" * 9999 + b"}"), "limit"),
    "twice": (encoded(b'{"a":%b,"a":%b}' % (ONE, ONE), bytes(4)), "'a' twice"),
    "twice inside": (encoded(b'{"a":{"dtype":"F32","dtype":"F64"}}'), "'dtype' twice"),
    "strings twice": (encoded(b'{"__metadata__":{"a":"","a":""}}'), "'a' twice"),
    "strings are none": (encoded({"__metadata__": {"a": 1}}), "mapping of strings"),
    "strings are a list": (encoded({"__metadata__": ["a"]}), "mapping of strings"),
    "entry is none": (encoded({"a": None}), "expected dtype, shape and data_offsets"),
    "entry is a list": (encoded({"a": ["dtype", "shape", "data_offsets"]}), "expected dtype"),
    "entry lacks": (encoded({"a": {"dtype": "F32", "shape": []}}), "expected dtype"),
    "entry has more": (encoded({"a": {**entry(0, 4), "b": 1}}, bytes(4)), "expected dtype"),
    "unknown dtype": (encoded({"a": entry(0, 4, dtype="F8_E4M3")}, bytes(4)), "dtype 'F8_E4M3'"),
    "dtype of NumPy": (encoded({"a": entry(0, 4, dtype="float32")}, bytes(4)), "dtype 'float32'"),
    "dtype is a list": (encoded({"a": entry(0, 4, dtype=["F32"])}, bytes(4)), r"dtype \['F32'\]"),
    "dtype is null": (encoded({"a": entry(0, 4, dtype=None)}, bytes(4)), "dtype None"),
    "object": (encoded({"a": entry(0, 8, dtype="O")}, bytes(8)), "dtype 'O'"),
    "shape is null": (encoded({"a": {**entry(0, 4), "shape": None}}, bytes(4)), "no shape"),
    "shape is negative": (encoded({"a": entry(0, 4, (-1, -1))}, bytes(4)), "no shape"),
    "shape is a fraction": (encoded({"a": entry(0, 4, (1.0,))}, bytes(4)), "no shape"),
    "shape is true": (encoded({"a": entry(0, 4, (True,))}, bytes(4)), "no shape"),
    "shape is text": (encoded({"a": entry(0, 4, ("1",))}, bytes(4)), "no shape"),
    "shape of 65 axes": (encoded({"a": entry(0, 4, (1,) * 65)}, bytes(4)), "no shape"),
    "huge": (encoded({"a": entry(0, 4, (2**62, 2**62))}, bytes(4)), "has 4 bytes; its shape"),
    "huger": (encoded({"a": entry(0, 4, (2**64 + 1,))}, bytes(4)), "no shape"),
    "huge and empty": (encoded({"a": entry(0, 0, (0, 2**62, 2**62))}), "has 0 bytes; its shape"),
    "claims a terabyte": (encoded({"a": entry(0, 2**40, (2**38,))}, bytes(4)), "header says 1099"),
    "offsets are null": (encoded({"a": {**entry(0, 4), "data_offsets": None}}), "no data"),
    "offsets are three": (encoded({"a": {**entry(0, 4), "data_offsets": [0, 4, 4]}}), "no data"),
    "offsets below 0": (encoded({"a": entry(-4, 0)}, bytes(4)), "no data"),
    "offsets backwards": (encoded({"a": entry(4, 0)}, bytes(4)), "has -4 bytes"),
    "offsets misaligned": (encoded({"a": entry(0, 3)}, bytes(3)), "has 3 bytes"),
    "offsets beyond": (encoded({"a": entry(4, 8)}, bytes(4)), "begins at 4"),
    "overlap": (encoded({"a": entry(0, 4), "b": entry(0, 4)}, bytes(8)), "'b' begins at 0"),
    "overlap by half": (encoded({"a": entry(0, 4), "b": entry(2, 6)}, bytes(6)), "begins at 2"),
    "hole": (encoded({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)), "begins at 8"),
    "hole at the start": (encoded({"a": entry(4, 8)}, bytes(8)), "begins at 4"),
    "more": (encoded({"a": entry(0, 4)}, bytes(5)), "has 5 bytes of values; its header says 4"),
    "less": (encoded({"a": entry(0, 4)}, bytes(3)), "has 3 bytes of values; its header says 4"),
    "no bool": (encoded({"a": entry(0, 2, (2,), "BOOL")}, b"\x01\x02"), "other values than 0 and"),
    "later version": (
        encoded({"__metadata__": {"format": "xplayers", "format_version": "2"}}),
        "has format version 2; this version of xplayers reads 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_files(kind, path):
    """They are refused for what they are, before it is asked who wrote them."""
    contents, message = BAD[kind]
    path.write_bytes(contents)
    net = Holder(a=np.zeros(2, bool) if kind == "no bool" else np.zeros(1, "float32"))
    for verify in (False, True):
        with untouched(net), pytest.raises(ValueError, match=r"net\.safetensors: ") as e:
            load(path, net, verify=verify)
        if not verify or kind != "no bool":
            assert re.search(message, str(e.value))
    with pytest.raises(ValueError, match=r"net\.safetensors: "):
        read_metadata(path)


def test_a_zip_is_no_file_of_ours(path, tmp_path):
    path.write_bytes(zipped(tmp_path))
    with pytest.raises(ValueError, match=r"net\.safetensors: is not a safetensors file"):
        load(path, network())


def test_a_pickle_is_not_run(path, tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="not a safetensors file"):
        load(path, network(), verify=False)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.skipif(os.name != "posix", reason="files of POSIX")
def test_what_is_no_file(path, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    net = network()
    for other, kind in ((tmp_path, "folder"), (tmp_path / "pipe", "pipe"), ("/dev/zero", "device")):
        message = f"{other}: is a {kind}; expected a file"
        with untouched(net), pytest.raises(ValueError, match=message):
            load(other, net)  # and does not wait for what a pipe may bring
        with pytest.raises(ValueError, match=message):
            save(other, net)
    with pytest.raises(FileNotFoundError, match=r"net\.safetensors"):
        load(path, net)
    assert os.stat("/dev/zero").st_rdev


# What is damaged


def small():
    return Holder(W=values((2, 2)).astype("float32"), n=np.asarray(3))


@pytest.fixture
def original(path):
    save(path, small(), {"a": 1})
    return path.read_bytes()


def test_every_flipped_bit_is_an_error(original, path):
    net = small()
    with untouched(net), open(path, "r+b", buffering=0) as file:
        for i in range(8 * len(original)):
            byte = original[i // 8 : i // 8 + 1]
            file.seek(i // 8)
            file.write(bytes([byte[0] ^ 1 << i % 8]))
            with pytest.raises(ValueError, match=r"net\.safetensors: "):
                load(path, net)
            file.seek(i // 8)
            file.write(byte)
    load(path, net)


def test_every_cut_is_an_error(original, path):
    net = small()
    path.write_bytes(original + b"\0")
    with untouched(net):
        for n in reversed(range(len(original))):
            with pytest.raises(ValueError, match=r"net\.safetensors: "):
                load(path, net)
            os.truncate(path, n)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"W"', b'"V"'),
        (b'"F32"', b'"I32"'),
        (b"[2,2]", b"[4,1]"),
        (b'{\\"a\\": 1}', b'{\\"a\\": 2}'),
        (b'"net":"Holder()"', b'"net":"Folder()"'),
        (b'"sha256"', b'"sha257"'),
    ],
)
def test_everything_is_under_the_checksum(old, new, original, path):
    """What is right in itself, and not what was saved."""
    assert original.count(old) == 1
    path.write_bytes(original.replace(old, new))
    with pytest.raises(ValueError, match="its checksum .* does not match"):
        read_metadata(path)
    read_metadata(path, verify=False)


def test_the_checksum_is_passed_over_on_request_alone(original, path):
    net = small()
    path.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    with untouched(net), pytest.raises(ValueError, match="its checksum .* does not match"):
        load(path, net)
    with pytest.raises(ValueError, match="its checksum .* does not match"):
        read_metadata(path)
    assert load(path, net, verify=False) == {"a": 1}
    assert_same_bits(net.buffers["n"], small().buffers["n"])
    assert not np.array_equal(net.buffers["W"], small().buffers["W"])


def test_a_file_that_changes_while_it_is_read(path, monkeypatch):
    """It becomes shorter between its header and its values."""
    net = Holder(a=np.zeros(2**15))
    save(path, net)
    cut = path.stat().st_size - 1
    monkeypatch.setattr("xplayers.saving.network.check_fit", lambda *a, **k: os.truncate(path, cut))
    with untouched(net), pytest.raises(ValueError, match="was truncated while it was read"):
        load(path, net)


HOSTILE = r"""
import re, struct, sys, time
import xplayers as xl
from xplayers.saving.network import load

array = b'{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
texts = [  # what takes most time or memory for its length
    b'{"a":[' + b"[0]," * 520_000 + b"0]}",
    b'{"a":[' + b"{}," * 690_000 + b"0]}",
    b"{" + b",".join(b'"%x":0' % i for i in range(190_000)) + b"}",
    b"{" + b",".join(b'"%x":%b' % (i, array) for i in range(36_000)) + b"}",
]

def peak():
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1])

net, before, seconds = xl.mlp([2, 2]), peak(), []
for text in texts:
    with open(sys.argv[1], "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
    start = time.process_time()
    try:
        load(sys.argv[1], net, verify=False)
    except ValueError:
        seconds.append(time.process_time() - start)
print(len(seconds), max(seconds), peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from Linux")
def test_hostile_headers_take_little_time_and_memory(path):
    run = python("-c", HOSTILE, path, check=True)
    refused, seconds, memory = map(float, run.stdout.split())
    assert refused == 4
    assert seconds < 1
    assert 10e6 < memory < 100e6  # the first: that it was measured at all


def test_headers_are_read_as_the_safetensors_library_reads_them(path):
    hypothesis = pytest.importorskip("hypothesis")
    numpy = pytest.importorskip("safetensors.numpy")
    st = hypothesis.strategies
    codes = st.sampled_from(["F32", "F64", "U8", "I16", "F9"])
    shapes = st.lists(st.sampled_from([0, 1, 2, 2, 3, -1, 2**63]), max_size=3)
    offsets = st.lists(st.integers(0, 16), min_size=2, max_size=2)
    entries = st.fixed_dictionaries({"dtype": codes, "shape": shapes, "data_offsets": offsets})
    fitting = st.tuples(st.lists(st.integers(0, 2), max_size=2), codes.filter("F9".__ne__))
    outcomes = set()

    def laid_out(rows):
        """Entries that are right, so that not only wrong ones are met."""
        header, end = {}, 0
        for name, (shape, code) in zip("abc", rows, strict=False):
            begin, end = end, end + math.prod(shape) * int(code[1:]) // 8
            header[name] = entry(begin, end, shape, code)
        return header, bytes(range(end))

    wrong = st.tuples(st.dictionaries(st.sampled_from("abc"), entries), st.binary(max_size=16))
    right = st.lists(fitting, max_size=3).map(laid_out)

    @hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
    @hypothesis.given(st.one_of(right, wrong))
    def check(case):
        path.write_bytes(encoded(*case))
        try:
            expected = numpy.load_file(path)
        except Exception:  # of a class of its own
            expected = None
        outcomes.add(expected is None)
        net = Holder(**{name: np.zeros_like(a) for name, a in (expected or {}).items()})
        if expected is None:
            with untouched(net), pytest.raises(ValueError, match=r"net\.safetensors: "):
                read_metadata(path, verify=False)
            return
        load(path, net, verify=False)
        assert_same_arrays(expected, net.buffers)

    check()
    assert outcomes == {False, True}


@pytest.mark.parametrize("fault", [OSError(errno.EIO, "Input/output error"), MemoryError()])
def test_errors_while_reading_name_the_file(fault, original, path, monkeypatch):
    def fails(size, dtype):
        raise fault

    net = small()
    with untouched(net), monkeypatch.context() as patched:
        patched.setattr(safetensors.np, "empty", fails)
        with pytest.raises(OSError, match=r"(Input|no memory for \d+ bytes).*net\.safetensors"):
            load(path, net)


def test_long_arrays_are_looked_at_in_pieces(path):
    save(path, Holder(a=np.arange(300_001)))  # more than two of a mebibyte
    assert read_metadata(path) == {}
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")
    with pytest.raises(ValueError, match="its checksum .* does not match"):
        read_metadata(path)


def test_a_terabyte_of_nothing_is_not_read(path):
    """A file with holes is as large as its header says, and takes no place on the disk."""
    path.write_bytes(encoded({"W": entry(0, 2**40, (2**38,))}))
    os.truncate(path, path.stat().st_size + 2**40)
    net = small()
    with untouched(net), pytest.raises(ValueError, match="does not match the network"):
        load(path, net, verify=False)
