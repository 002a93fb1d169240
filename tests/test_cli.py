"""The command: what it prints, what it refuses and how, and that the defaults are good."""

import os
import re
import struct
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

import xplayers as xl
from xplayers import _devices, cli
from xplayers._devices import Found
from xplayers.cli import main

TINY = ("--backend", "numpy", "--hidden", "8", "--epochs", "2")
WORKING = Found("cupy", "14.2.0", xp=np, devices=("cuda:0 (NVIDIA H200)",))
DRIVERLESS = Found("cupy", "14.2.0", why="finds no NVIDIA driver", fix="install the driver")


def train(capsys, *arguments):
    """Run ``xplayers train`` and return what it prints, less the times."""
    assert main(["train", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return re.sub(r"\d+\.\d s\b", "TIME", out)


def refusal(capsys, *arguments):
    """Run what has to fail, and return the one line that says why."""
    assert main(list(arguments)) == 2
    err = capsys.readouterr().err
    assert re.fullmatch(r"xplayers: error: .+\n", err)
    return err


def accuracy(out):
    return float(re.search(r"accuracy (\S+);", out)[1])


# xplayers train -------------------------------------------------------------------------------


def test_the_lines_of_a_run(capsys):
    lines = train(capsys, *TINY).splitlines()
    assert lines[0] == f"xplayers {xl.__version__}, numpy {np.__version__} on the CPU"
    assert lines[1] == "digits: 1438 samples to train on, 359 held out"
    assert lines[2].startswith("network: 64 -> 8 -> 10, 610 parameters; adam, lr 0.001; Softmax")
    assert [re.sub(r"\d\.\d{4}", "VALUE", line) for line in lines[3:]] == [
        "epoch 1/2  loss VALUE  TIME",
        "epoch 2/2  loss VALUE  TIME",
        "held out: loss VALUE, accuracy VALUE; trained in TIME",
    ]


def test_the_defaults_learn_the_digits_in_time():
    start, before = time.perf_counter(), os.times()
    process = subprocess.run(
        [sys.executable, "-W", "error", "-m", "xplayers", "train", "--backend", "numpy"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    wall, after = time.perf_counter() - start, os.times()
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    assert (process.returncode, process.stderr) == (0, "")
    assert accuracy(process.stdout) >= 0.97, process.stdout
    # Time of the processor: how long a busy machine lets the command wait is not its doing.
    assert cpu < 10, f"{cpu:.1f} s of the processor, {wall:.1f} s on the clock"


def test_a_seed_decides_the_result(capsys):
    first = train(capsys, *TINY, "--seed", "3")
    assert train(capsys, *TINY, "--seed", "3") == first
    assert train(capsys, *TINY, "--seed", "4") != first


@pytest.mark.parametrize("name", cli.OPTIMIZERS)
def test_optimizers(capsys, name):
    out = train(capsys, *TINY, "--optimizer", name)
    assert f"; {name}, lr {cli.OPTIMIZERS[name]().lr:g};" in out
    out = train(capsys, *TINY, "--optimizer", name, "--lr", "0.002", "--epochs", "1")
    assert f"; {name}, lr 0.002;" in out


def test_hidden_layers(capsys):
    assert "64 -> 10, 650 parameters" in train(capsys, *TINY, "--hidden")
    assert "64 -> 5 -> 4 -> 10, 399 parameters" in train(capsys, *TINY, "--hidden", "5", "4")


def test_spiral(capsys):
    out = train(capsys, "--backend", "numpy", "--dataset", "spiral", "--hidden", "64")
    assert "spiral: 960 samples to train on, 240 held out\nnetwork: 2 -> 64 -> 3," in out
    assert accuracy(out) > 0.9


@pytest.fixture
def folder(tmp_path):
    """Return a folder with the four files of MNIST, of 40 + 10 images of 4 x 4 pixels."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 40), ("t10k", 10)):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte", rng.integers(0, 256, (n, 4, 4)))
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", np.arange(n) % 10)
    return tmp_path


def write_idx(path, array):
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.mark.parametrize("name", ["mnist", "fashion"])
def test_data_from_a_folder(capsys, folder, name):
    out = train(capsys, *TINY, "--dataset", name, "--data-dir", str(folder), "--batch-size", "8")
    assert f"{name}: 40 samples to train on, 10 held out\nnetwork: 16 -> 8 -> 10," in out


@pytest.mark.parametrize("name", ["torch", "jax", "cupy"])
def test_other_libraries_compute_the_same(capsys, name):
    if (found := _devices.look(name)).why:
        pytest.skip(str(found))
    out = train(capsys, *TINY, "--backend", name)
    assert f", {found.name} {found.version} on {found.devices[0]}\n" in out
    expected = train(capsys, *TINY)
    values, others = (re.findall(r"\b\d\.\d{4}\b", text) for text in (expected, out))
    np.testing.assert_allclose(np.float64(others), np.float64(values), atol=0.01)


# Progress -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epochs", "lines"), [(20, 20), (21, 11), (59, 20), (60, 20)])
def test_progress_is_twenty_lines_at_most(capsys, epochs, lines):
    arguments = ("--dataset", "spiral", "--hidden", "--batch-size", "900", "--backend", "numpy")
    out = train(capsys, *arguments, "--epochs", str(epochs))
    assert len(re.findall("^epoch", out, re.MULTILINE)) == lines
    assert f"epoch {epochs}/{epochs}  loss" in out


def test_progress_is_a_bar_on_a_terminal(capsys, monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["train", *TINY]) == 0
    out, err = capsys.readouterr()
    assert "epoch" not in out
    assert "88/88" in err
    assert "epoch 2/2  loss" in err


def test_progress_is_lines_on_a_terminal_without_tqdm(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert "epoch 2/2  loss" in train(capsys, *TINY)


# What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "required: {train,info} (see xplayers --help)"),
        ("frobnicate", "invalid choice: 'frobnicate'"),
        ("train --frobnicate", "unrecognized arguments: --frobnicate"),
        ("train --epoch 3", "unrecognized arguments: --epoch"),
        ("train --backend mxnet", "--backend: invalid choice: 'mxnet'"),
        ("train --dataset iris", "--dataset: invalid choice: 'iris'"),
        ("train --optimizer lion", "--optimizer: invalid choice: 'lion'"),
        ("train --epochs 0", "--epochs: '0' is not an integer of at least 1 (see xplayers train"),
        ("train --epochs", "--epochs: expected one argument"),
        ("train --batch-size 1.5", "--batch-size: '1.5' is not an integer of at least 1"),
        ("train --batch-size 1439", "--batch-size is 1439; digits has 1438 samples"),
        ("train --hidden 8 -8", "--hidden: '-8' is not an integer of at least 1"),
        (f"train --hidden {10**12}", "out of memory"),
        (f"train --hidden {10**19}", "--hidden 10000000000000000000: Maximum"),
        ("train --lr 0", "--lr: '0' is not a positive number"),
        ("train --lr nan", "--lr: 'nan' is not a positive number"),
        ("train --lr inf", "--lr: 'inf' is not a positive number"),
        ("train --lr fast", "--lr: 'fast' is not a positive number"),
        ("train --lr 1e30 --optimizer sgd", "the loss is nan in epoch 1; take a smaller --lr"),
        ("train --seed -1", "--seed: '-1' is not an integer of at least 0"),
        ("train --data-dir x", "--data-dir goes with --dataset mnist or fashion"),
        ("train --dataset mnist --data-dir /no/such", "/no/such is not a folder; expected one"),
        ("info --seed 1", "unrecognized arguments: --seed 1"),
    ],
)
def test_refusals(capsys, arguments, message):
    backend = ("--backend", "numpy") if "train" in arguments and "mxnet" not in arguments else ()
    assert message in refusal(capsys, *arguments.split(), *backend)


def test_damaged_data(capsys, folder):
    arguments = ("train", "--dataset", "mnist", "--data-dir", str(folder))
    write_idx(folder / "t10k-images-idx3-ubyte", np.zeros((10, 5, 5)))
    assert "images of different sizes" in refusal(capsys, *arguments)
    (folder / "t10k-images-idx3-ubyte").write_bytes(b"PNG")
    assert "not an IDX file" in refusal(capsys, *arguments)
    (folder / "t10k-images-idx3-ubyte").unlink()
    assert "lacks t10k-images-idx3-ubyte" in refusal(capsys, *arguments)


def test_no_network(capsys, monkeypatch):
    def fail(path):
        raise OSError("could not download\n  https://example.org: no route\nPut it there by hand.")

    monkeypatch.setitem(cli.FROM_FILES, "mnist", fail)
    line = refusal(capsys, "train", "--dataset", "mnist", "--backend", "numpy")
    assert "https://example.org: no route Put it there by hand. (here: --data-dir FOLDER)" in line


def test_interrupt(capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(xl, "minibatches", interrupt)
    assert main(["train", *TINY]) == 130
    assert capsys.readouterr().err == "xplayers: interrupted\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--version"], [f"xplayers {xl.__version__}"]),
        (["--help"], ["train", "info"]),
        (["train", "--help"], ["(default: auto)", "(default: 128 64)", "adam 0.001", "IDX"]),
    ],
)
def test_version_and_help(capsys, arguments, words):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    assert all(word in out for word in words)


# Libraries and devices ------------------------------------------------------------------------


def test_auto_takes_the_gpu(capsys, monkeypatch):
    monkeypatch.setattr(_devices, "find_spec", lambda name: name)
    monkeypatch.setattr(_devices, "look", lambda name: WORKING)
    out = train(capsys, *TINY[2:])
    assert out.startswith(f"xplayers {xl.__version__}, cupy 14.2.0 on cuda:0 (NVIDIA H200)\ndigits")


def test_auto_says_why_it_takes_the_cpu(capsys, monkeypatch):
    looks = {"cupy": DRIVERLESS, "numpy": _devices.look("numpy")}
    monkeypatch.setattr(_devices, "find_spec", lambda name: name)
    monkeypatch.setattr(_devices, "look", looks.get)
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
    find, load = _devices.find_spec, _devices.import_module
    monkeypatch.setattr(
        _devices, "find_spec", lambda name: None if name == absentee else find(name)
    )

    def import_module(name):
        assert name != absentee
        return load(name)

    monkeypatch.setattr(_devices, "import_module", import_module)


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


def test_info_without_any_library_but_numpy(capsys, monkeypatch):
    find = _devices.find_spec
    monkeypatch.setattr(_devices, "find_spec", lambda name: find(name) if name == "numpy" else None)
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
    monkeypatch.setattr(_devices, "find_spec", lambda name: name)
    monkeypatch.setattr(_devices, "import_module", lambda name: {"cupy": cupy}[name])
    monkeypatch.setattr(_devices, "_cupy_wheels", lambda: list(wheels))


def test_cupy_with_two_gpus(monkeypatch):
    installed_cupy(monkeypatch, Driver(2))
    found = _devices.look("cupy")
    assert str(found) == "cupy 14.2.0 on cuda:0 (NVIDIA H200)"
    assert found.devices == ("cuda:0 (NVIDIA H200)", "cuda:1 (NVIDIA H200)")
    assert found.xp.__version__ == "14.2.0"


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
    found = _devices.look("cupy")
    assert found.why == (
        "sees cuda:0 (NVIDIA H200) and cannot compute on it "
        "(ImportError: libcublas.so.13: cannot open shared object file)"
    )
    assert 'pip install "xplayers[cuda13]"' in found.fix


def test_cupy_installed_twice(capsys, monkeypatch, tmp_path):
    for name in ("cupy_cuda12x", "cupy_cuda13x"):
        info = tmp_path / f"{name}-14.2.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 14.2.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(_devices, "find_spec", lambda name: name)
    monkeypatch.setattr(_devices, "import_module", None)  # not to be called
    line = refusal(capsys, "train", "--backend", "cupy")
    assert "cupy is installed more than once (cupy-cuda12x, cupy-cuda13x)" in line
    assert "pip uninstall cupy-cuda12x cupy-cuda13x, then pip install" in line


def test_a_library_that_cannot_be_loaded(capsys, monkeypatch):
    def fail(name):
        raise OSError("libtorch.so: file too short")

    monkeypatch.setattr(_devices, "find_spec", lambda name: name)
    monkeypatch.setattr(_devices, "import_module", fail)
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
    monkeypatch.setattr(_devices, "find_spec", lambda name: name)
    monkeypatch.setattr(_devices, "import_module", modules.get)
    assert _devices.look("torch").devices == ("cuda:0 (NVIDIA H200)", "the CPU")
    assert _devices.look("torch").device == "cuda:0"
    assert str(_devices.look("jax")) == "jax 0.10.2 on cuda:0 (NVIDIA H200)"
    assert isinstance(_devices.look("jax").device, Gpu)
