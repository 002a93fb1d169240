"""Networks in files: every bit comes back, misfits are listed, and writes are atomic."""

from __future__ import annotations

import errno
import json
import os
import struct
from typing import Any

import numpy as np
import pytest
from helpers import assert_at_home, assert_same_arrays, assert_same_bits, values
from saved_networks import Holder, network, untouched

import xplayers as xl
from xplayers.arrays.namespaces import dtype_name
from xplayers.arrays.transfer import to_numpy
from xplayers.saving import files
from xplayers.saving.network import load, read_metadata, save

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
    arrays = numpy.load_file(path)
    assert set(arrays) == set(net.arrays)
    assert_same_arrays(net.arrays, arrays)
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
    assert_same_arrays(net.arrays, other.arrays)


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
    with untouched(other), pytest.raises(ValueError, match="does not match") as error:
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
    with pytest.raises(TypeError, match="metadata has a ndarray, which is not a JSON type"):
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
    monkeypatch.setattr(files.os, name, fault)
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
        monkeypatch.setattr(files.os, name, spy(name))
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
