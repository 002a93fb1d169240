"""Networks in files: every bit comes back, and what is not whole and ours is refused."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from typing import Any

import numpy as np
import pytest
from helpers import assert_at_home, assert_same_bits, values

import xplayers as xl
from xplayers import _files, _safetensors
from xplayers._arrays import dtype_name, to_numpy
from xplayers.saving import load, read_metadata, save


class Holder(xl.Layer):
    """Arrays of any dtype."""

    def __init__(self, **arrays):
        self._store.buffers.update(arrays)


def network(seed=0):
    return xl.Sequential(
        xl.Affine.init(3, 4, rng=seed), xl.BatchNormalization.init(4), xl.Dropout(0.5), xl.Relu()
    )


@contextlib.contextmanager
def untouched(net):
    """Check that the block leaves the network as it was, and everything in it."""
    before = {name: (a, to_numpy(a).copy()) for name, a in net.arrays.items()}
    places = [store.placed for store in net._stores.values()]
    yield
    assert [store.placed for store in net._stores.values()] == places
    assert list(net.arrays) == list(before)
    for name, a in net.arrays.items():
        assert a is before[name][0]
        assert_same_bits(a, before[name][1], name)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


# What comes back


def test_every_bit_comes_back(xpv, path):
    special = np.asarray([-0.0, np.inf, -np.inf, np.nan, 1e-40, 3e38, 1.0, -1.0, 0.1, 6e-8, 2, 3])
    for dtype in xpv.floats:
        x = xpv.asarray(values((5, 3)), dtype)
        net, other = network(0).to(like=x), network(1).to(like=x)
        if dtype == "bfloat16":  # NaN stays NaN; libraries differ in the bits that it has there
            special = np.where(np.isnan(special), 1.0, special)
        with np.errstate(over="ignore"):
            net.params["0.W"] = xpv.asarray(special.reshape(3, 4), dtype)
        net.buffers["2.count"] = xpv.asarray(np.asarray([-7], "int32"))
        save(path, net)
        load(path, other)
        for name, a in net.arrays.items():
            assert_same_bits(other.arrays[name], a, name)
            assert_at_home(other.arrays[name], a)


INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", *INTEGERS, "bool"])
def test_every_dtype_shape_and_layout(dtype, path):
    a = (values((2, 3, 4)) ** 2).astype(dtype)
    kinds = {"plain": a, "order": a.T, "steps": a[:, ::-2], "none": a[:0], "scalar": a[0, 0, 0]}
    kinds |= {"number": np.asarray(a[0, 0, 0]), "swapped": a.astype(a.dtype.newbyteorder(">"))}
    save(path, Holder(**kinds))
    other = Holder(**{name: np.zeros(v.shape, dtype) for name, v in kinds.items()})
    load(path, other)
    for name, v in kinds.items():
        assert_same_bits(other.buffers[name], v.astype(dtype), name)
        assert other.buffers[name].flags.writeable


def test_a_file_from_any_library_loads_without_it(xpv, path):
    """As a file from a GPU does on a machine without one."""
    for dtype in xpv.floats:
        net, host = network(0).to(like=xpv.asarray(values((1, 3)), dtype)), network(1)
        save(path, net)
        load(path, host)
        for name, a in net.arrays.items():
            assert type(host.arrays[name]) is np.ndarray
            assert_same_bits(host.arrays[name], to_numpy(a), name)


def test_a_file_loads_on_any_library(xpv, path):
    net, other = network(0), network(1).to(like=xpv.asarray(values((1, 3)), "float32"))
    save(path, net)
    load(path, other)
    for name, a in other.arrays.items():
        assert_same_bits(a, net.arrays[name], name)
        assert_at_home(a, xpv.asarray(values((1,)), "float32"), a.dtype)


def test_a_network_without_a_place_follows_its_first_input_as_before(xpv, path):
    net, other = network(0), network(1)
    save(path, net)
    load(path, other)
    x = xpv.asarray(values((5, 3)), "float32")
    assert_same_bits(other(x), net(x))
    assert_at_home(other.params["0.W"], x)


def test_the_order_in_memory_stays(xpv, path):
    """BLAS gives other last bits for a matrix in another order, so resumed training would."""
    W = xpv.asarray(values((50, 20)), "float32").T
    net = xl.Affine(W, xpv.asarray(values((50,)), "float32"))
    save(path, net)
    x, y = xpv.asarray(values((33, 20)), "float32"), net(xpv.asarray(values((33, 20)), "float32"))
    net.W = xpv.asarray(values((50, 20), 1), "float32").T
    load(path, net)
    assert_same_bits(net.W, W)
    assert_same_bits(net(x), y)
    if xpv.backend in ("numpy", "torch", "cupy"):
        strides = net.W.stride() if xpv.backend == "torch" else net.W.strides
        assert strides[0] < strides[1]


def test_parameters_that_layers_share_are_saved_once(path):
    affine = xl.Affine.init(3, 3, rng=0)
    net = xl.Sequential(affine, xl.Relu(), affine)
    save(path, net)
    other = xl.Affine.init(3, 3, rng=1)
    net = xl.Sequential(other, xl.Relu(), other)
    load(path, net)
    assert list(net.arrays) == ["0.W", "0.b"]
    assert_same_bits(other.W, affine.W)


def test_loading_forgets_the_passes_and_writes_to_no_array(path):
    net, x = xl.mlp([3, 2], rng=0), values((4, 3)).astype("float32")
    save(path, xl.mlp([3, 2], rng=1))
    net.backward(net.forward(x))
    net.forward(x)
    held, before = net.params["0.W"], net.params["0.W"].copy()
    load(path, net)
    assert_same_bits(held, before)
    assert not net.grads
    with pytest.raises(RuntimeError, match="no forward to undo"):
        net.backward(net(x))


def test_metadata(path):
    metadata: dict[str, Any] = {"text": 'ä"\n\ud800', "odd": float("-inf"), "long": 2**200}
    metadata["nested"] = {"a": [1, None, True, 1e-300]}
    metadata |= {"number": np.float32(0.1), "count": np.int64(3), "flag": np.bool_(True)}
    save(path, xl.Relu(), metadata)
    expected = {**metadata, "number": float(np.float32(0.1)), "count": 3, "flag": True}
    assert read_metadata(path) == expected
    assert load(path, xl.Relu()) == expected
    save(path, xl.Relu())
    assert load(path, xl.Relu()) == {}


# What the safetensors library writes and reads


def test_the_safetensors_library_reads_it(path):
    numpy = pytest.importorskip("safetensors.numpy")
    net = xl.Sequential(network(), Holder(n=np.arange(3), f=np.asarray([True]), e=np.zeros((0, 2))))
    save(path, net, {"accuracy": 0.5})
    found = numpy.load_file(path)
    assert set(found) == set(net.arrays)
    for name, a in net.arrays.items():
        assert_same_bits(found[name], a, name)
    with numpy.safe_open(path, "np") as file:
        strings = file.metadata()
    assert strings["format"] == "xplayers"
    assert json.loads(strings["metadata"]) == {"accuracy": 0.5}
    assert strings["net"] == repr(net)
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    assert length % 8 == 0  # so that arrays in a mapped file are aligned


@pytest.mark.only("torch")
def test_torch_reads_it(xpv, path):
    torch = pytest.importorskip("safetensors.torch")
    for dtype in xpv.floats:
        net = network().to(xp=xpv.xp, dtype=dtype)
        save(path, net)
        for name, a in torch.load_file(path).items():
            assert xpv.xp.equal(a, net.arrays[name])
            assert a.dtype == net.arrays[name].dtype


def test_a_file_of_others_is_read_on_request(path):
    numpy = pytest.importorskip("safetensors.numpy")
    net, other = network(0), network(1)
    numpy.save_file(dict(net.arrays), path, {"format": "np", "by": "others"})
    with untouched(other), pytest.raises(ValueError, match=r"not written by .* Pass verify=False"):
        load(path, other)
    assert load(path, other, verify=False) == {"format": "np", "by": "others"}
    assert read_metadata(path, verify=False) == {"format": "np", "by": "others"}
    for name, a in net.arrays.items():
        assert_same_bits(other.arrays[name], a, name)


@pytest.mark.only("torch")
def test_bfloat16_of_others(xpv, path):
    torch = pytest.importorskip("safetensors.torch")
    net, other = (xl.mlp([3, 2], rng=i).to(xp=xpv.xp, dtype="bfloat16") for i in range(2))
    torch.save_file(dict(net.params), path)
    load(path, other, verify=False)
    assert dtype_name(other.params["0.W"].dtype) == "bfloat16"
    assert_same_bits(other.params["0.W"], net.params["0.W"])


# What does not fit


def test_all_that_does_not_fit_is_listed_at_once(path):
    net = xl.Sequential(a=xl.Affine.init(3, 4), b=xl.Affine.init(4, 5), d=Holder(n=np.zeros(1)))
    other = xl.Sequential(
        a=xl.Affine.init(3, 5), c=xl.Affine.init(4, 5), d=Holder(n=np.zeros(1, "int64"))
    )
    save(path, net)
    with untouched(other), pytest.raises(ValueError, match="does not fit") as error:
        load(path, other)
    for part in (
        str(path),
        "missing in the file: c.W, c.b",
        "not in the network: b.W, b.b",
        "a.W has shape (3, 4) in the file, (3, 5) in the network",
        "a.b has shape (4,) in the file, (5,) in the network",
        "d.n is float64 in the file, int64 in the network",
    ):
        assert part in str(error.value)
    assert "cast" not in str(error.value)


def test_a_dtype_changes_on_request(path):
    net, other = (xl.mlp([3, 2], rng=i).to(xp=np) for i in range(2))
    save(path, net.to(dtype="float64"))
    message = r"0\.W is float64 in the file, float32 in the network.*cast=True"
    with untouched(other), pytest.raises(ValueError, match=message):
        load(path, other)
    load(path, other, cast=True)
    assert_same_bits(other.params["0.W"], net.params["0.W"].astype("float32"))


def test_integers_change_their_width_where_nothing_is_lost(path):
    net, other = Holder(n=np.asarray([3, -(2**31)])), Holder(n=np.zeros(2, "int32"))
    save(path, net)
    load(path, other)
    assert_same_bits(other.buffers["n"], np.asarray([3, -(2**31)], "int32"))
    for far, dtype in ((2**31, "int32"), (-1, "uint64"), (2**63, "int64")):
        save(path, Holder(n=np.asarray([far, 0], "uint64" if far > 0 else "int64")))
        other = Holder(n=np.zeros(2, dtype))
        with untouched(other), pytest.raises(ValueError, match=f"n has values beyond the {dtype}"):
            load(path, other)


def test_arguments(path):
    net = xl.mlp([2, 2])
    with pytest.raises(TypeError, match=r"save: net is a \w*Path; expected a layer"):
        save(net, path)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="load: net is a dict; expected a layer"):
        load(path, {})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="metadata is a list; expected a dict"):
        save(path, net, [1])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="metadata has a ndarray, which JSON cannot hold"):
        save(path, net, {"a": np.zeros(2)})
    with pytest.raises(TypeError, match="save: z is complex128; expected one of float64"):
        save(path, Holder(z=np.zeros(2, complex)))
    with pytest.raises(TypeError, match="save: l is a list; expected an array"):
        save(path, Holder(l=[1.0]))
    with pytest.raises(ValueError, match=r"net\.safetensors: names and metadata would take \d+ b"):
        save(path, net, {"a": "x" * 3_000_000})
    assert not list(path.parent.iterdir())


# Whole or not at all


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupted(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["fsync", "replace"])
@pytest.mark.parametrize("fault", [full, interrupted])
def test_a_write_that_fails_leaves_the_earlier_file(name, fault, path, monkeypatch):
    save(path, network(0))
    before = path.read_bytes()
    monkeypatch.setattr(_files.os, name, fault)
    expected = OSError if fault is full else KeyboardInterrupt
    with pytest.raises(expected) as error:
        save(path, network(1))
    monkeypatch.undo()
    if fault is full:
        assert error.value.errno == errno.ENOSPC
        assert error.value.filename == str(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_disk_that_is_full_in_the_middle(path):
    """The limit of the size of a file is an error of the system's own, amid the values."""
    resource = pytest.importorskip("resource")
    save(path, network(0))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = Holder(a=np.zeros(2**18))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        with pytest.raises(OSError, match="too large") as error:
            save(path, big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.errno == errno.EFBIG
    assert error.value.filename == str(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_the_order_of_writing(path, monkeypatch):
    """The values are on the disk before the name is, and the name before save returns."""
    done = []

    def spy(name):
        function = getattr(os, name)

        def spied(*args):
            if name == "fsync":
                inside = os.fstat(args[0])
                done.append(("fsync", "file" if inside.st_size > 100_000 else "folder"))
            else:
                done.append((name, os.path.getsize(args[0])))
            return function(*args)

        return spied

    net = Holder(a=np.zeros(2**15))
    save(path, net)
    size = path.stat().st_size
    path.unlink()
    for name in ("fsync", "replace"):
        monkeypatch.setattr(_files.os, name, spy(name))
    save(path, net)
    assert done == [("fsync", "file"), ("replace", size), ("fsync", "folder")]


def test_the_folder_has_to_be_there(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        save(tmp_path / "no" / "net.safetensors", network())
    assert error.value.filename == str(tmp_path / "no" / "net.safetensors")


@pytest.mark.skipif(os.name != "posix", reason="links and modes of POSIX")
def test_links_stay_links_and_modes_are_those_of_other_files(path, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(path.name)
    save(link, network())
    assert link.is_symlink()
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


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
    "empty": (b"", "no safetensors file"),
    "seven bytes": (b"1234567", "no safetensors file"),
    "no header": (bytes(8), r"does not begin with '\{'"),
    "pickle": (pickled(), "no safetensors file"),
    "npy": (b"\x93NUMPY\x01\x00v\x00" + b" " * 200, "no safetensors file"),
    "text": (b"hello, world\n" * 9, "no safetensors file"),
    "header of 2**63 bytes": (struct.pack("<Q", 2**63) + b"{}", "a header of 9223372036854775808"),
    "header of 2**64 - 1 bytes": (b"\xff" * 8 + b"{}", "a header of 18446744073709551615"),
    "header one byte too long": (struct.pack("<Q", 3) + b"{}", "a header of 3 bytes in 10"),
    "header of 3 MB": (encoded(b"{" + b" " * 3_000_000 + b"}"), "at most 2097152"),
    "list": (encoded(b"[]"), "does not begin"),
    "space before": (encoded(b" {}"), "does not begin"),
    "utf-16": (encoded("{}".encode("utf-16")), "does not begin"),
    "no utf-8": (encoded(b'{"\xff":1}'), "no JSON"),
    "no JSON": (encoded(b"{'a':1}"), "no JSON"),
    "JSON and more": (encoded(b"{}{}"), "no JSON"),
    "cut JSON": (encoded(b'{"a":'), "no JSON"),
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
    with pytest.raises(ValueError, match=r"net\.safetensors: is no safetensors file"):
        load(path, network())


def test_a_pickle_is_not_run(path, tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="no safetensors file"):
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
    with pytest.raises(ValueError, match="its checksum .* does not hold"):
        read_metadata(path)
    read_metadata(path, verify=False)


def test_the_checksum_is_passed_over_on_request_alone(original, path):
    net = small()
    path.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    with untouched(net), pytest.raises(ValueError, match="its checksum .* does not hold"):
        load(path, net)
    with pytest.raises(ValueError, match="its checksum .* does not hold"):
        read_metadata(path)
    assert load(path, net, verify=False) == {"a": 1}
    assert_same_bits(net.buffers["n"], small().buffers["n"])
    assert not np.array_equal(net.buffers["W"], small().buffers["W"])


def test_a_file_that_changes_while_it_is_read(path, monkeypatch):
    """It becomes shorter between its header and its values."""
    net = Holder(a=np.zeros(2**15))
    save(path, net)
    cut = path.stat().st_size - 1
    monkeypatch.setattr("xplayers.saving.check_fit", lambda *a, **k: os.truncate(path, cut))
    with untouched(net), pytest.raises(ValueError, match="became shorter while it was read"):
        load(path, net)


HOSTILE = r"""
import re, struct, sys, time
import xplayers as xl
from xplayers.saving import load

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
    run = subprocess.run(
        [sys.executable, "-c", HOSTILE, path], capture_output=True, text=True, check=True
    )
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
        for name, a in expected.items():
            assert_same_bits(net.buffers[name], a)

    check()
    assert outcomes == {False, True}


@pytest.mark.parametrize("fault", [OSError(errno.EIO, "Input/output error"), MemoryError()])
def test_errors_while_reading_name_the_file(fault, original, path, monkeypatch):
    def fails(size, dtype):
        raise fault

    net = small()
    with untouched(net), monkeypatch.context() as patched:
        patched.setattr(_safetensors.np, "empty", fails)
        with pytest.raises(OSError, match=r"(Input|no memory for \d+ bytes).*net\.safetensors"):
            load(path, net)


def test_long_arrays_are_looked_at_in_pieces(path):
    save(path, Holder(a=np.arange(300_001)))  # more than two of a mebibyte
    assert read_metadata(path) == {}
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")
    with pytest.raises(ValueError, match="its checksum .* does not hold"):
        read_metadata(path)


def test_a_terabyte_of_nothing_is_not_read(path):
    """A file with holes is as large as its header says, and takes no place on the disk."""
    path.write_bytes(encoded({"W": entry(0, 2**40, (2**38,))}))
    os.truncate(path, path.stat().st_size + 2**40)
    net = small()
    with untouched(net), pytest.raises(ValueError, match="does not fit the network"):
        load(path, net, verify=False)
