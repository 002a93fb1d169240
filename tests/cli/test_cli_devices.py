"""The libraries and devices that the command finds, and what it says of those it cannot use."""

import importlib.metadata
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from commands import TINY, refusal, train

import xplayers as xl
from xplayers.arrays import devices
from xplayers.arrays.devices import LibraryInfo
from xplayers.cli import arguments, info, main

WORKING = LibraryInfo("cupy", "14.2.0", xp=np, devices=("cuda:0 (NVIDIA H200)",))
DRIVERLESS = LibraryInfo("cupy", "14.2.0", why="finds no NVIDIA driver", fix="install the driver")


# Libraries and devices ------------------------------------------------------------------------


def test_auto_takes_the_gpu(capsys, monkeypatch):
    monkeypatch.setattr(devices, "find_spec", lambda name: name)
    monkeypatch.setattr(devices, "look", lambda name: WORKING)
    out = train(capsys, *TINY[2:])
    assert out.startswith(f"xplayers {xl.__version__}, cupy 14.2.0 on cuda:0 (NVIDIA H200)\ndigits")


def test_auto_says_why_it_takes_the_cpu(capsys, monkeypatch):
    looks = {"cupy": DRIVERLESS, "numpy": devices.look("numpy")}
    monkeypatch.setattr(devices, "find_spec", lambda name: name)
    monkeypatch.setattr(devices, "look", looks.get)
    out = train(capsys, *TINY[2:])
    assert " on the CPU (cupy 14.2.0 finds no NVIDIA driver)\n" in out


def test_auto_does_not_mention_a_library_that_is_absent(capsys, monkeypatch):
    absent(monkeypatch, "cupy")
    assert " on the CPU\n" in train(capsys, *TINY[2:])


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("cupy", 'pip install "xplayers[cuda13]"'),
        ("torch", 'pip install "xplayers[torch]"'),
        ("jax", 'pip install "xplayers[jax]"'),
    ],
)
def test_a_library_that_is_absent(capsys, monkeypatch, name, command):
    absent(monkeypatch, name)
    line = refusal(capsys, "train", "--backend", name)
    assert f"--backend {name}: {name} is not installed; {command}" in line


def absent(monkeypatch, absentee):
    """Let `absentee` be not installed; whoever tries to import it fails."""
    find, load = devices.find_spec, devices.import_module
    monkeypatch.setattr(devices, "find_spec", lambda name: None if name == absentee else find(name))

    def import_module(name):
        assert name != absentee
        return load(name)

    monkeypatch.setattr(devices, "import_module", import_module)


def test_info(capsys):
    assert main(["info"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    rows = {line.split()[0]: line for line in out.splitlines() if not line.startswith(" ")}
    assert rows["xplayers"].split() == ["xplayers", xl.__version__]
    assert rows["python"].split()[1] == sys.version.split()[0]
    assert "platform" in rows
    assert re.search(rf"^numpy +{re.escape(np.__version__)} +the CPU", rows["numpy"])
    assert {"cupy", "torch", "jax"} <= rows.keys()
    columns = {re.match(r"\S+ +\S+  +", rows[name]).end() for name in ("numpy", "cupy", "torch")}
    assert len(columns) == 1


def test_info_lists_packages_that_add_something(capsys, monkeypatch):
    find = importlib.metadata.version

    def version(name):
        if name in ("tqdm", "numba"):
            return "9.8.7"
        if name in info.BESIDE:
            raise importlib.metadata.PackageNotFoundError(name)
        return find(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in lines}
    assert rows["tqdm"] == ["9.8.7", "progress bars"]
    assert rows["numba"] == ["9.8.7", "machine code for NumPy"]
    assert rows["matplotlib"] == ["-", 'plots: pip install "xplayers[train]"']
    assert rows["mpi4py"] == ["-", 'many processes: pip install "xplayers[mpi]"']
    assert rows["pillow"] == ["-", 'folders of images: pip install "xplayers[images]"']


def test_info_without_any_library_but_numpy(capsys, monkeypatch):
    find = devices.find_spec
    monkeypatch.setattr(devices, "find_spec", lambda name: find(name) if name == "numpy" else None)
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for name in ("cupy", "torch", "jax"):
        assert re.search(rf'^{name} +- +is not installed\n +-> pip install "xpl', out, re.MULTILINE)
    assert "strict" not in out


class Driver:
    """What CuPy says of the driver: `count` GPUs, or an error, and versions of CUDA."""

    def __init__(self, count, driver=13020, runtime=13020):
        self.count, self.driver, self.runtime = count, driver, runtime

    def getDeviceCount(self):
        if isinstance(self.count, str):
            raise RuntimeError(self.count)
        return self.count

    def getDeviceProperties(self, i):
        return {"name": b"NVIDIA H200"}

    def driverGetVersion(self):
        return self.driver

    def runtimeGetVersion(self):
        return self.runtime


class Square:
    """A matrix on a GPU that computes, or not."""

    def __init__(self, error=None):
        self.error = error

    def __matmul__(self, other):
        if self.error:
            raise self.error
        return self

    def get(self):
        return np.eye(2)


def installed_cupy(monkeypatch, driver, error=None, wheels=("cupy-cuda13x",)):
    """Let CuPy be installed and find `driver`."""
    cupy = SimpleNamespace(
        __version__="14.2.0",
        cuda=SimpleNamespace(runtime=driver),
        ones=lambda shape, dtype: Square(error),
    )
    monkeypatch.setattr(devices, "find_spec", lambda name: name)
    monkeypatch.setattr(devices, "import_module", lambda name: {"cupy": cupy}[name])
    monkeypatch.setattr(devices, "_cupy_wheels", lambda: list(wheels))


def test_cupy_with_two_gpus(monkeypatch):
    installed_cupy(monkeypatch, Driver(2))
    library = devices.look("cupy")
    assert str(library) == "cupy 14.2.0 on cuda:0 (NVIDIA H200)"
    assert library.devices == ("cuda:0 (NVIDIA H200)", "cuda:1 (NVIDIA H200)")
    assert library.xp.__version__ == "14.2.0"


@pytest.mark.parametrize(
    ("driver", "why", "fix"),
    [
        (Driver("cudaErrorInsufficientDriver", 0), "finds no NVIDIA driver", "install the driver"),
        (
            Driver("cudaErrorInsufficientDriver", 12040),
            "needs a driver of CUDA 13, and this one is of CUDA 12.4",
            "update the driver, or pip install a CuPy for CUDA 12",
        ),
        (
            Driver("cudaErrorNoDevice"),
            "finds no NVIDIA GPU (RuntimeError: cudaErrorNo",
            "nvidia-smi",
        ),
        (Driver(0), "finds no NVIDIA GPU", "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_cupy_without_a_gpu(capsys, monkeypatch, driver, why, fix):
    installed_cupy(monkeypatch, driver)
    line = refusal(capsys, "train", "--backend", "cupy")
    assert f"--backend cupy: cupy 14.2.0 {why}" in line
    assert fix in line
    main(["info"])
    out = " ".join(capsys.readouterr().out.split())
    assert f"cupy 14.2.0 {why}" in out
    assert fix in out


def test_cupy_without_a_library_of_cuda(monkeypatch):
    error = ImportError("\n====\nFailed\n====\n")
    error.__cause__ = ImportError("libcublas.so.13: cannot open shared object file")
    installed_cupy(monkeypatch, Driver(1), error)
    library = devices.look("cupy")
    assert library.why == (
        "sees cuda:0 (NVIDIA H200) and cannot compute on it "
        "(ImportError: libcublas.so.13: cannot open shared object file)"
    )
    assert 'pip install "xplayers[cuda13]"' in library.fix


def test_cupy_installed_twice(capsys, monkeypatch, tmp_path):
    for name in ("cupy_cuda12x", "cupy_cuda13x"):
        info = tmp_path / f"{name}-14.2.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 14.2.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(devices, "find_spec", lambda name: name)
    monkeypatch.setattr(devices, "import_module", None)  # not to be called
    line = refusal(capsys, "train", "--backend", "cupy")
    assert "cupy is installed more than once (cupy-cuda12x, cupy-cuda13x)" in line
    assert "pip uninstall cupy-cuda12x cupy-cuda13x, then pip install" in line


def test_a_library_that_cannot_be_loaded(capsys, monkeypatch):
    def fail(name):
        raise OSError("libtorch.so: file too short")

    monkeypatch.setattr(devices, "find_spec", lambda name: name)
    monkeypatch.setattr(devices, "import_module", fail)
    line = refusal(capsys, "train", "--backend", "torch")
    assert "torch is installed and cannot be used (OSError: libtorch.so: file too short)" in line


def test_gpus_of_torch_and_jax(monkeypatch):
    cuda = SimpleNamespace(
        is_available=lambda: True, device_count=lambda: 1, get_device_name=lambda i: "NVIDIA H200"
    )
    torch = SimpleNamespace(__version__="2.13.0", cuda=cuda)

    class Gpu(SimpleNamespace):
        platform, device_kind = "gpu", "NVIDIA H200"

        def __str__(self):
            return "cuda:0"

    jax = SimpleNamespace(__version__="0.10.2", devices=lambda: [Gpu()])
    modules = {"torch": torch, "jax": jax, "jax.numpy": np}
    monkeypatch.setattr(devices, "find_spec", lambda name: name)
    monkeypatch.setattr(devices, "import_module", modules.get)
    assert devices.look("torch").devices == ("cuda:0 (NVIDIA H200)", "the CPU")
    assert devices.look("torch").device == "cuda:0"
    assert str(devices.look("jax")) == "jax 0.10.2 on cuda:0 (NVIDIA H200)"
    assert isinstance(devices.look("jax").device, Gpu)


def test_another_device_is_taken():
    handles = ("cuda:0", "cuda:1", "cpu")
    listed = ("cuda:0 (NVIDIA H200)", "cuda:1 (NVIDIA H200)", "the CPU")
    library = LibraryInfo("torch", "2.13", device="cuda:0", devices=listed, handles=handles)
    assert str(devices.take(library, "cuda:1")) == "torch 2.13 on cuda:1 (NVIDIA H200)"
    assert devices.take(library, "cuda:1").device == "cuda:1"
    assert devices.take(library, "cpu").device == "cpu"
    with pytest.raises(ValueError, match="torch 2.13 has cuda:0, cuda:1, cpu"):
        devices.take(library, "cuda:2")


def test_another_device_of_cupy_becomes_the_current_one():
    used = []
    device = lambda i: SimpleNamespace(use=lambda: used.append(i))  # noqa: E731 - a stand-in
    cupy = SimpleNamespace(cuda=SimpleNamespace(Device=device))
    listed = ("cuda:0 (NVIDIA H200)", "cuda:1 (NVIDIA H200)")
    library = LibraryInfo("cupy", "14.2.0", xp=cupy, devices=listed, handles=(0, 1))
    assert str(devices.take(library, "cuda:1")) == "cupy 14.2.0 on cuda:1 (NVIDIA H200)"
    assert used == [1]


@pytest.mark.parametrize("name", ["numpy", "torch", "jax"])
def test_the_cpu_by_name(name):
    library = devices.look(name)
    if library.why or library.devices[0] != "the CPU":
        pytest.skip(f"{name} computes elsewhere")
    args = SimpleNamespace(backend=name, device="cpu")
    taken, _ = arguments.choose_device(args)
    assert str(taken.device) == str(library.device)
    assert taken.devices == library.devices
