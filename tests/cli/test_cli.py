"""The command: what it prints, what it refuses and how, and that the defaults are good."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from commands import TINY, accuracy, refusal, train, write_idx, write_mnist
from helpers import python

import xplayers as xl
from xplayers.arrays import devices
from xplayers.cli import bench, datasets, main
from xplayers.cli.train import OPTIMIZERS

# xplayers train -------------------------------------------------------------------------------


def test_the_lines_of_a_run(capsys):
    lines = train(capsys, *TINY).splitlines()
    assert lines[0] == f"xplayers {xl.__version__}, numpy {np.__version__} on the CPU"
    assert lines[1] == "digits: 1438 samples to train on, 359 held out"
    assert lines[2].startswith("network: 64 -> 8 -> 10, 610 parameters; adam, lr 0.001; Softmax")
    assert [re.sub(r"\d\.\d+", "VALUE", line) for line in lines[3:]] == [
        "epoch 1/2  loss VALUE  val_loss VALUE  val_accuracy VALUE  TIME",
        "epoch 2/2  loss VALUE  val_loss VALUE  val_accuracy VALUE  TIME",
        "held out: loss VALUE, accuracy VALUE; trained in TIME",
    ]


def test_the_defaults_learn_the_digits_in_time():
    start, before = time.perf_counter(), os.times()
    process = python("-W", "error", "-m", "xplayers", "train", "--backend", "numpy")
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


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(capsys, name):
    out = train(capsys, *TINY, "--optimizer", name)
    assert f"; {name}, lr {OPTIMIZERS[name]().lr:g};" in out
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
    write_mnist(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["mnist", "fashion"])
def test_data_from_a_folder(capsys, folder, name):
    out = train(capsys, *TINY, "--dataset", name, "--data-dir", str(folder), "--batch-size", "8")
    assert f"{name}: 40 samples to train on, 10 held out\nnetwork: 16 -> 8 -> 10," in out


@pytest.mark.parametrize("name", ["torch", "jax", "cupy"])
def test_other_libraries_compute_the_same(capsys, name):
    if (library := devices.look(name)).why:
        pytest.skip(str(library))
    out = train(capsys, *TINY, "--backend", name)
    assert f", {library.name} {library.version} on {library.devices[0]}\n" in out
    expected = train(capsys, *TINY)
    values, others = (re.findall(r"(?:loss|accuracy) ([\d.]+\d)", text) for text in (expected, out))
    assert len(values) == 8
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
    assert "2.88k/2.88k" in err
    assert re.search(r"epoch 2/2: .*loss \d.*val_accuracy", err)


def test_progress_is_lines_on_a_terminal_without_tqdm(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert "epoch 2/2  loss" in train(capsys, *TINY)


# What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "required: {train,evaluate,predict,export,bench,info,launch} (see xplayers --help)"),
        ("frobnicate", "invalid choice: 'frobnicate'"),
        ("train --frobnicate", "unrecognized arguments: --frobnicate"),
        ("train --epoch 3", "unrecognized arguments: --epoch"),
        ("train --backend mxnet", "--backend: invalid choice: 'mxnet'"),
        ("train --dataset iris", "--dataset: invalid choice: 'iris'"),
        ("train --optimizer lion", "--optimizer: invalid choice: 'lion'"),
        ("train --epochs 0", "--epochs: '0' is not an integer of at least 1 (see xplayers train"),
        ("train --epochs", "--epochs: expected one argument"),
        ("train --batch-size 1.5", "--batch-size: '1.5' is not an integer of at least 1"),
        ("train --batch-size 1439", "--batch-size is 1439; digits has 1438 samples to train on; u"),
        ("train --hidden 8 -8", "--hidden: '-8' is not an integer of at least 1"),
        (f"train --hidden {10**12}", "out of memory"),
        (f"train --hidden {10**19}", "--hidden 10000000000000000000: Maximum"),
        ("train --lr 0", "--lr: '0' is not a positive number"),
        ("train --lr nan", "--lr: 'nan' is not a positive number"),
        ("train --lr inf", "--lr: 'inf' is not a positive number"),
        ("train --lr fast", "--lr: 'fast' is not a positive number"),
        ("train --lr 1e30 --optimizer sgd", "the loss of step 2 is not finite. The"),
        ("train --lr 1e30 --optimizer sgd", "is the first that is not finite. The network"),
        ("train --lr 1e30 --optimizer sgd", "before that step. Use a smaller --lr."),
        ("train --seed -1", "--seed: '-1' is not an integer of at least 0"),
        ("train --data-dir x", "--data-dir goes with --dataset mnist or fashion"),
        ("train --device cuda:7", "--device cuda:7: numpy"),
        ("train --device tpu", "has cpu"),
        ("train --model rnn", "--model: invalid choice: 'rnn'"),
        ("train --channels 4", "--channels goes with --model cnn"),
        ("train --shift 1", "--shift and --flip go with --model cnn"),
        ("train --flip", "--shift and --flip go with --model cnn"),
        ("train --model cnn --dataset spiral", "x of spiral has shape (960, 2)"),
        ("train --model cnn --channels 4 4 4 4", "8 x 8 pixels cannot be halved 4 times"),
        ("train --resume", "--resume goes with --checkpoint-dir"),
        ("train --checkpoint-every 5", "--checkpoint-every goes with --checkpoint-dir"),
        ("train --save no/such/file", "--save no/such/file cannot be written to no/such"),
        ("train --log .", "--log . is a folder"),
        ("train --config no.toml", "no.toml: No such file or directory"),
        ("train --dataset no.npz", "no.npz: No such file or directory"),
        ("predict no.safetensors x.npy", "no.safetensors: No such file or directory"),
        ("predict no.safetensors x.npy --output x.csv", "expected a name that ends in .npy"),
        ("evaluate no.safetensors --part some", "--part: invalid choice: 'some'"),
        ("train --dataset mnist --data-dir /no/such", "/no/such is not a folder; expected one"),
        ("train own.npz", "unrecognized arguments: own.npz; use --dataset for data (see"),
        ("info --seed 1", "unrecognized arguments: --seed 1"),
    ],
)
def test_refusals(capsys, arguments, message):
    computes = arguments.startswith(("train", "predict", "evaluate")) and "mxnet" not in arguments
    backend = ("--backend", "numpy") if computes else ()
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
    def fail(path, flatten):
        raise OSError("could not download\n  https://example.org: no route\nPut it there by hand.")

    monkeypatch.setitem(datasets.FROM_FILES, "mnist", fail)
    line = refusal(capsys, "train", "--dataset", "mnist", "--backend", "numpy")
    assert "https://example.org: no route Put it there by hand. (here: --data-dir FOLDER)" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--version"], [f"xplayers {xl.__version__}"]),
        (["--help"], ["train", "info"]),
        (["train", "--help"], ["(default: auto)", "(default: 128 64; ", "adam 0.001", "IDX"]),
        (["predict", "--help"], ["MODEL INPUT", "--probabilities"]),
    ],
)
def test_version_and_help(capsys, arguments, words):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    assert all(word in out for word in words)


# xplayers bench -------------------------------------------------------------------------------


def test_bench_lists(capsys):
    assert main(["bench", "--list", "--only", "relu"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("relu-4m ")
    assert "implementations: xplayers-numpy, " in out
    assert main(["bench", "--list"]) == 0
    quick = capsys.readouterr().out
    assert main(["bench", "--list", "--full"]) == 0
    assert len(capsys.readouterr().out) > len(quick)


def test_bench_measures(capsys, home):
    only = ("--only", "^step-6-5-4-3$", "--implementations", "^(xplayers-numpy|book)$")
    assert main(["bench", *only, "--threads", "1", "--json", "found.json"]) == 0
    assert "book / this" in capsys.readouterr().out
    results = json.loads(Path("found.json").read_text())
    assert results["machine"]["threads"] == 1
    assert results["workloads"]["step-6-5-4-3"]["ratios"]["book_over_ours"] > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--only [", "--only: '[' is not a regular expression: unterminated character set"),
        ("--implementations (", "--implementations: '(' is not a regular expression"),
        ("--json mine.json", "--json mine.json: a file of that name exists"),
        ("--json no/such.json", "cannot be written to no: there is no such folder"),
        ("--threads 0", "--threads: '0' is not an integer of at least 1"),
    ],
)
def test_bench_says_first_what_is_wrong(capsys, home, arguments, words):
    Path("mine.json").write_text('{"mine": 1}')
    assert words in refusal(capsys, "bench", *arguments.split())


def test_bench_of_an_installed_package(monkeypatch, tmp_path):
    monkeypatch.setattr(xl, "__file__", str(tmp_path / "lib" / "xplayers" / "__init__.py"))
    main_file = tmp_path / "share" / "xplayers" / "benchmarks" / "__main__.py"

    class File(SimpleNamespace):
        def as_posix(self):
            return self.name

        def locate(self):
            return main_file

    names = ["xplayers/__init__.py", "../share/xplayers/benchmarks/__main__.py"]
    files = [File(name=name) for name in names]
    monkeypatch.setattr(bench.metadata, "files", lambda package: files)
    assert bench._folder() == main_file.resolve().parents[1]


def test_bench_without_the_benchmarks(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(xl, "__file__", str(tmp_path / "lib" / "xplayers" / "__init__.py"))
    monkeypatch.setattr(bench.metadata, "files", lambda package: None)
    assert "the benchmarks are not installed" in refusal(capsys, "bench")


@pytest.mark.skipif(os.name == "nt", reason="a shell asks through a file descriptor")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("xplayers tr", {"train "}),
        ("xplayers train --sched", {"--schedule "}),
        ("xplayers train --optimizer ada", {"adagrad", "adam", "adamw"}),
        ("xplayers evaluate --part ", {"held-out", "train", "all"}),
    ],
)
def test_completion(line, expected, tmp_path):
    pytest.importorskip("argcomplete")
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    environment = {**os.environ, **asked, "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "out")}
    line = [sys.executable, "-m", "xplayers"]
    subprocess.run(line, env=environment, check=True, timeout=60)
    assert set((tmp_path / "out").read_text().split("\x0b")) == expected
