"""The command: what it prints, what it refuses and how, and that the defaults are good."""

import json
import os
import pickle
import re
import signal
import struct
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import xplayers as xl
from xplayers import _devices
from xplayers._devices import Found
from xplayers.cli import arguments, arrays, bench, config, datasets, main, models
from xplayers.cli.train import OPTIMIZERS, Log

TINY = ("--backend", "numpy", "--hidden", "8", "--epochs", "2")
WORKING = Found("cupy", "14.2.0", xp=np, devices=("cuda:0 (NVIDIA H200)",))
DRIVERLESS = Found("cupy", "14.2.0", why="finds no NVIDIA driver", fix="install the driver")


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


def accuracy(out):
    return float(re.search(r"accuracy (\S+);", out)[1])


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
        ("", "required: {train,evaluate,predict,bench,info} (see xplayers --help)"),
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
        ("train --lr 1e30 --optimizer sgd", "the loss of step 2 is not finite. The"),
        ("train --lr 1e30 --optimizer sgd", "is the first that is not finite. The network"),
        ("train --lr 1e30 --optimizer sgd", "before that step. Take a smaller --lr."),
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


# What a run leaves ----------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arrays_of(name):
    """Return the arrays in a model file."""
    _, net, _ = models.load(name)
    return {key: xl.to_numpy(a) for key, a in net.arrays.items()}


def assert_same(name, other):
    a, b = arrays_of(name), arrays_of(other)
    assert a.keys() == b.keys()
    assert all(a[key].tobytes() == b[key].tobytes() for key in a)


def test_a_run_goes_on_to_the_same_bits(capsys, home):
    whole = ("--save", "whole.safetensors", "--log", "whole.jsonl", "--epochs", "3")
    train(capsys, *TINY, *whole)
    train(
        capsys, *TINY, "--checkpoint-dir", "run", "--checkpoint-every", "20", "--log", "run.jsonl"
    )
    assert sorted(p.name for p in Path("run").iterdir()) == [
        "config.toml", *(f"step-{step:09d}.safetensors" for step in (60, 80, 90)),
    ]  # fmt: skip
    run = ("--checkpoint-dir", "run", "--resume", "--epochs", "3")
    out = train(capsys, *run, "--save", "run.safetensors", "--log", "run.jsonl")  # options from run
    assert "64 -> 8 -> 10" in out
    assert "epoch 2/3" not in out
    assert_same("whole.safetensors", "run.safetensors")
    rows = [xl.History.from_jsonl(f"{name}.jsonl") for name in ("whole", "run")]
    assert [len(r) for r in rows] == [3, 3]
    for name in ("epoch", "step", "loss", "val_loss", "val_accuracy"):
        assert rows[0][name].tolist() == rows[1][name].tolist()


def test_checkpoints_of_another_run_are_not_touched(capsys, home):
    train(capsys, *TINY, "--checkpoint-dir", "run", "--checkpoint-keep", "1")
    before = {p: p.read_bytes() for p in Path("run").iterdir()}
    assert len(before) == 2
    line = refusal(capsys, "train", *TINY, "--seed", "5", "--checkpoint-dir", "run")
    assert "run has the checkpoints of another run; --resume goes on" in line
    assert {p: p.read_bytes() for p in Path("run").iterdir()} == before
    line = refusal(capsys, "train", *TINY, "--seed", "5", "--checkpoint-dir", "run", "--resume")
    assert "is of another run: seed was 0, is 5" in line


def test_a_run_is_repeated_from_its_config(capsys, home):
    options = ("--hidden", "6", "5", "--optimizer", "sgd", "--lr", "0.003", "--batch-size", "50")
    train(capsys, *TINY, *options, "--seed", "9", "--save", "a.safetensors", "--log", "b.jsonl")
    found = tomllib.loads(Path("a.config.toml").read_text())
    assert found.items() >= {
        "backend": "numpy", "dataset": "digits", "hidden": [6, 5], "optimizer": "sgd", "lr": 0.003,
        "batch-size": 50, "seed": 9, "epochs": 2, "model": "mlp", "flip": False,
    }.items()  # fmt: skip
    assert not found.keys() & {"save", "log", "config", "debug", "run", "resume"}
    assert tomllib.loads(Path("b.config.toml").read_text()) == found
    train(capsys, "--config", "a.config.toml", "--save", "c.safetensors")
    assert_same("a.safetensors", "c.safetensors")
    out = train(capsys, "--config", "a.config.toml", "--hidden", "7", "--epochs", "1")
    assert "64 -> 7 -> 10" in out  # the command line comes before the file
    assert "epoch 1/1" in out


def test_a_config_names_files_from_anywhere(capsys, home, monkeypatch):
    own(home / 'a "b".npz')
    train(capsys, *TINY, "--dataset", 'a "b".npz', "--save", "m.safetensors")
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    train(capsys, "--config", "../m.config.toml", "--save", "m.safetensors")
    assert_same("m.safetensors", "../m.safetensors")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = 0", "c.toml: argument --epochs: '0' is not an integer"),
        ("epoch = 3", "c.toml: unrecognized arguments: --epoch=3"),
        ("epochs", "--config c.toml: "),
        ("hidden = [1.5]", "c.toml: argument --hidden: '1.5'"),
        ("epochs = {n = 1}", "c.toml: epochs is a dict; expected a string or number"),
        ("resume = true", "c.toml: resume belongs to a call"),
        ("data-dir = 'é'", "--config c.toml: 'utf-8' codec"),
    ],
)
def test_a_config_that_is_wrong(capsys, home, text, message):
    Path("c.toml").write_text(text, encoding="latin-1")
    assert message in refusal(capsys, "train", "--config", "c.toml")


@pytest.mark.parametrize("value", ['a\x7f\n"\\é\U0001f600', 1e-05, 1e22, 0.1, True, [1, 2], 3])
def test_values_come_back_from_toml(value):
    assert tomllib.loads(f"x = {config._toml(value)}")["x"] == value


def test_pictures(capsys, home):
    pytest.importorskip("matplotlib")
    train(capsys, *TINY, "--plot", "curve.png", "--save", "m.safetensors")
    assert Path("curve.png").read_bytes().startswith(b"\x89PNG")
    assert main(["evaluate", "m.safetensors", "--plot", "matrix.svg"]) == 0
    assert "<svg" in Path("matrix.svg").read_text()
    line = refusal(capsys, "train", *TINY, "--plot", "curve.doc")
    assert "--plot curve.doc: expected a name that ends in ." in line


def test_no_matplotlib(capsys, home, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    line = refusal(capsys, "train", *TINY, "--plot", "curve.png")
    assert '--plot needs matplotlib: pip install "xplayers[train]"' in line


# The user's own data --------------------------------------------------------------------------


def own(path, n=40, labels="abc", **more):
    """Write a data set of small images with classes that can be told apart."""
    rng = np.random.default_rng(0)
    t = rng.integers(0, len(labels), n)
    x = rng.integers(0, 60, (n, 6, 6)) + 60 * t[:, None, None]
    np.savez(path, **{"x": x.astype(np.uint8), "t": np.asarray(list(labels))[t], **more})
    return x, np.asarray(list(labels))[t]


def test_own_data_from_training_to_predictions(capsys, home):
    x, t = own("own.npz", 100)
    options = ("--backend", "numpy", "--epochs", "10", "--batch-size", "8")
    out = train(capsys, *options, "--dataset", "own.npz", "--save", "m.safetensors")
    assert "own.npz: 80 samples to train on, 20 held out\nnetwork: 36 -> 128 -> 64 -> 3" in out
    held_out = re.search(r"held out: loss (\S+), accuracy (\S+);", out).groups()
    assert accuracy(out) == 1
    assert main(["evaluate", "m.safetensors"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "own.npz, held out: 20 samples, loss {}, accuracy {}".format(*held_out)
    assert lines[1].split() == ["a", "b", "c"]
    assert [line.split()[0] for line in lines[2:]] == ["a", "b", "c"]
    counts = np.asarray([line.split()[1:] for line in lines[2:]], int)
    assert counts.sum() == np.trace(counts) == 20
    for part, n in (("train", 80), ("all", 100)):
        assert main(["evaluate", "m.safetensors", "--part", part, "--batch-size", "7"]) == 0
        out = capsys.readouterr().out
        assert f": {n} samples, " in out
        assert sum(map(int, re.findall(r" (\d+)(?= |$)", out.partition("c\n")[2], re.M))) == n

    np.save("new.npy", x)
    np.savez("new.npz", anything=x)
    for name in ("new.npy", "new.npz"):
        assert main(["predict", "m.safetensors", name, "--batch-size", "33"]) == 0
        assert capsys.readouterr().out.split() == ["class", *t]
    assert main(["predict", "m.safetensors", "new.npy", "--output", "classes.npy"]) == 0
    assert np.load("classes.npy").tolist() == t.tolist()


def test_probabilities(capsys, home):
    x, _ = own("own.npz")
    train(capsys, *TINY, "--dataset", "own.npz", "--save", "m.safetensors")
    np.save("new.npy", x[:7])
    predict = ("predict", "m.safetensors", "new.npy", "--probabilities")
    assert main([*predict, "--output", "p.npy"]) == 0
    p = np.load("p.npy")
    model, net, _ = models.load("m.safetensors")
    scores = net.predict(model.prepared(x[:7]))
    expected = np.exp(scores) / np.sum(np.exp(scores), axis=1, keepdims=True)
    np.testing.assert_allclose(p, expected, rtol=1e-5)
    assert p.dtype == np.float32
    assert main([*predict]) == 0
    rows = [line.split(",") for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["class", "a", "b", "c"]
    np.testing.assert_allclose(np.asarray([row[1:] for row in rows[1:]], float), p, atol=1e-5)
    assert [row[0] for row in rows[1:]] == ["abc"[i] for i in np.argmax(p, axis=1)]


def test_convolutions_with_images_changed_at_random(capsys, home):
    x, _ = own("own.npz")
    options = ("--backend", "numpy", "--dataset", "own.npz", "--model", "cnn", "--channels", "4")
    options += ("--hidden", "5", "--epochs", "2", "--batch-size", "8")
    plain = train(capsys, *options)
    assert "network: 1x6x6 -> convolution 4 -> 5 -> 3," in plain
    changed = train(capsys, *options, "--shift", "1", "--flip", "--save", "m.safetensors")
    assert changed.splitlines()[3:5] != plain.splitlines()[3:5]
    again = train(capsys, "--config", "m.config.toml")
    assert changed.replace("saved in m.safetensors\n", "") == again
    assert train(capsys, "--config", "m.config.toml", "--no-flip", "--shift", "0") == plain
    predictions = []
    for shape in ((40, 6, 6), (40, 1, 6, 6), (40, 36)):
        np.save("new.npy", x.reshape(shape))
        assert main(["predict", "m.safetensors", "new.npy"]) == 0
        predictions.append(capsys.readouterr().out)
    assert predictions[0] == predictions[1] == predictions[2]


def test_the_four_arrays_of_a_split_data_set(home):
    x, _ = own("own.npz")
    parts = {"x_train": x[:30], "t_train": np.eye(3)[:10].repeat(10, 0), "x_test": x[30:]}
    np.savez("split.npz", **parts, t_test=np.arange(10) % 3)
    data = datasets.read("split.npz")
    assert data.classes == (0, 1, 2)
    assert data.t.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert data.t_test.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert data.x_test.tobytes() == x[30:].tobytes()


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([3, 7, 7, -2, 3], (-2, 3, 7)),
        ([True, False, True, True, False], (0, 1)),
        ([b"y", b"x", b"x", b"x", b"y"], ("x", "y")),
        (np.asarray([5, 9, 5, 9, 9], "uint8"), (5, 9)),
    ],
)
def test_labels_of_any_kind(home, labels, classes):
    np.savez("own.npz", x=np.zeros((5, 2)), t=np.asarray(labels))
    data = datasets.read("own.npz")
    assert data.classes == classes
    names = [classes[i] for i in (*data.t, *data.t_test)]
    assert sorted(names) == sorted(n.decode() if isinstance(n, bytes) else n for n in labels)
    json.dumps(data.classes)


def test_samples_held_out_are_a_fifth_and_the_rest_is_learnt_from(home):
    np.savez("own.npz", x=np.arange(24.0).reshape(12, 2), t=np.arange(12) % 2)
    data = datasets.read("own.npz")
    assert len(data.x_test) == 3
    together = np.concatenate([data.x, data.x_test])
    assert sorted(together[:, 0]) == list(range(0, 24, 2))
    assert np.concatenate([data.t, data.t_test]).tolist() == (together[:, 0] // 2 % 2).tolist()


def test_a_table_is_standardised_by_the_columns_of_its_training_samples(home):
    rng = np.random.default_rng(0)
    x = rng.normal([1e9, 5.0, -3.0], [1e5, 0.0, 1e-3], (50, 3))
    np.savez("own.npz", x=x, t=np.arange(50) % 2)
    data = datasets.read("own.npz")
    model = models.Model.of("mlp", data, None, None)
    found = model.prepared(data.x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(found.std(axis=0), [1, 0, 1], atol=1e-5)
    again = models.Model.from_metadata(json.loads(json.dumps(model.metadata())))
    assert again == model
    assert again.prepared(x).tobytes() == model.prepared(x).tobytes()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"t": np.arange(40.0)}, "t is float64 of shape (40,); expected labels (n,)"),
        ({"t": np.zeros(40, int)}, "t has 1 class; expected two or more"),
        ({"t": np.arange(39)}, "x has shape (40, 6, 6), t (39,)"),
        ({"x": np.full((40, 2), np.nan)}, "x of own.npz has values that are not finite"),
        ({"x": np.full((40, 2), "a")}, "x of own.npz is <U1; expected numbers"),
        ({"x": np.arange(40)}, "x has shape (40,), t (40,); expected samples along"),
        ({"x": np.zeros((40, 2), object)}, "own.npz is no .npz file of numbers: Object arrays"),
        ({"x": np.zeros((1, 2)), "t": np.zeros(1, int)}, "t has 1 class"),
    ],
)
def test_own_data_that_does_not_fit(capsys, home, more, message):
    own("own.npz", **more)
    assert message in refusal(capsys, "train", *TINY, "--dataset", "own.npz")


def test_images_with_channels_last(capsys, home):
    own("own.npz", x=np.zeros((40, 6, 6, 3)))
    line = refusal(capsys, "train", *TINY, "--dataset", "own.npz", "--model", "cnn")
    assert "as if the channels were last; save x.transpose(0, 3, 1, 2)" in line


def test_own_data_without_the_names(capsys, home):
    np.savez("own.npz", images=np.zeros((4, 2)), labels=np.arange(4))
    line = refusal(capsys, "train", *TINY, "--dataset", "own.npz")
    assert "own.npz has images, labels; expected x and t, or x_train" in line


@pytest.mark.parametrize("name", ["x.npz", "x.npy", "m.safetensors"])
@pytest.mark.parametrize("kind", ["empty", "text", "pickle", "folder", "pipe", "cut"])
def test_files_that_are_something_else(capsys, home, name, kind):
    own("good.npz")
    train(capsys, *TINY, "--dataset", "good.npz", "--save", "good.safetensors")
    np.save("good.npy", np.zeros((5, 36)))
    good = Path(f"good{Path(name).suffix}").read_bytes()
    if kind == "folder":
        Path(name).mkdir()
    elif kind == "pipe":
        if os.name != "posix":
            pytest.skip("pipes with names are POSIX's")
        os.mkfifo(name)
    else:
        contents = {"empty": b"", "text": b"hello " * 99, "pickle": pickle.dumps(print)}
        Path(name).write_bytes(contents.get(kind, good[: len(good) // 2]))
    model, data = ("m.safetensors", "good.npy") if "safe" in name else ("good.safetensors", name)
    assert name in refusal(capsys, "predict", model, data)
    if name == "x.npz":
        assert name in refusal(capsys, "train", "--dataset", name)


def test_samples_and_labels_that_a_model_does_not_know(capsys, home):
    x, _ = own("own.npz")
    train(capsys, *TINY, "--dataset", "own.npz", "--save", "m.safetensors")
    np.save("x.npy", x[:, :5])
    line = refusal(capsys, "predict", "m.safetensors", "x.npy")
    assert "x.npy has shape (40, 5, 6); the network takes (n, 36)" in line
    np.save("x.npy", np.float64(3))
    assert "x.npy has shape (); the network takes (n, 36)" in refusal(
        capsys, "predict", "m.safetensors", "x.npy"
    )
    own("other.npz", labels="abd")
    line = refusal(capsys, "evaluate", "m.safetensors", "--dataset", "other.npz")
    assert "t has the label d; the classes are a, b, c" in line
    own("other.npz", t=np.arange(40) % 3)
    line = refusal(capsys, "evaluate", "m.safetensors", "--dataset", "other.npz")
    assert "t has int64 of shape (40,); the classes are a, b, c" in line
    line = refusal(capsys, "evaluate", "m.safetensors", "--dataset", "digits")
    assert "the network takes (n, 36)" in line


def test_a_network_that_was_not_trained_here(capsys, home):
    xl.save("net.safetensors", xl.mlp([4, 2], rng=0))
    line = refusal(capsys, "evaluate", "net.safetensors")
    assert "net.safetensors is no model that `xplayers train --save` has written" in line
    model = {"kind": "mlp", "sample": [4], "classes": [0, 1], "hidden": [10**15], "channels": []}
    metadata = {"model": {**model, "mean": 0.0, "scale": 1.0}}
    xl.save("net.safetensors", xl.mlp([4, 2], rng=0), metadata)
    assert "out of memory" in refusal(capsys, "evaluate", "net.safetensors")
    for name, value in (("kind", "rnn"), ("sample", [2, 2]), ("hidden", [-1]), ("classes", 3)):
        changed = {"model": {**metadata["model"], name: value}}
        xl.save("net.safetensors", xl.mlp([4, 2], rng=0), changed)
        assert "is no model that" in refusal(capsys, "evaluate", "net.safetensors")


def test_samples_of_an_npy_file_are_not_read_at_once(home):
    np.save("x.npy", np.zeros((5, 36)))
    assert isinstance(arrays.read_samples("x.npy"), np.memmap)


def test_many_classes(capsys, home):
    rng = np.random.default_rng(0)
    np.savez("own.npz", x=rng.normal(size=(200, 3)), t=np.arange(200) % 25)
    train(capsys, *TINY, "--dataset", "own.npz", "--save", "m.safetensors")
    assert main(["evaluate", "m.safetensors", "--part", "all"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("own.npz, all: 200 samples, loss ")
    counts = [int(re.fullmatch(r"\d+ taken for \d+: (\d+)", line)[1]) for line in lines]
    assert counts == sorted(counts, reverse=True)
    assert len(counts) == 20


# How it ends ----------------------------------------------------------------------------------


def test_interrupt(capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets, "read", interrupt)
    assert main(["train", *TINY]) == 130
    assert capsys.readouterr().err == "xplayers: interrupted\n"


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupt_in_training_keeps_what_there_is(capsys, home, monkeypatch):
    class Interrupting(Log):
        def __call__(self, event):
            super().__call__(event)
            if event.kind == "step" and event.step == 50:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("xplayers.cli.train.Log", Interrupting)
    options = ("--log", "run.jsonl", "--checkpoint-dir", "run", "--save", "m.safetensors")
    assert main(["train", *TINY, *options]) == 130
    out, err = capsys.readouterr()
    assert err == "xplayers: interrupted; the same command with --resume goes on\n"
    assert "held out: loss" in out
    assert Path("run/step-000000050.safetensors").exists()
    monkeypatch.undo()
    os.chdir(home)
    train(capsys, *TINY, *options, "--resume")
    train(capsys, *TINY, "--save", "whole.safetensors")
    assert_same("m.safetensors", "whole.safetensors")


def test_a_closed_pipe_ends_it_quietly():
    arguments = [sys.executable, "-m", "xplayers", "train", "--backend", "numpy"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert b"xplayers" in process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("RESOURCE_EXHAUSTED: 4 GB"), "out of memory (RESOURCE_EXHAUSTED: 4 GB)"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), "out of memory (CUDA); take a"),
        (OSError(28, "No space left on device", "m.safetensors"), "error: m.safetensors: No space"),
        (ValueError("two\n  lines"), "error: two lines\n"),
        (ImportError("needs tqdm: pip install tqdm"), "error: needs tqdm: pip install tqdm\n"),
        (ZeroDivisionError("a bug"), "error: ZeroDivisionError: a bug (with --debug: where)"),
    ],
)
def test_any_error_is_a_line(capsys, monkeypatch, error, words):
    def fail(*args):
        raise error

    monkeypatch.setattr(datasets, "read", fail)
    assert words in refusal(capsys, "train", *TINY)
    assert main(["train", *TINY, "--debug"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last)")
    assert words in err


def test_out_of_memory_in_training_names_options_of_the_command(capsys, monkeypatch):
    def fail(self, x, t):
        raise MemoryError("Unable to allocate 7 GiB")

    monkeypatch.setattr(xl.TrainStep, "__call__", fail)
    line = refusal(capsys, "train", *TINY)
    assert "out of memory (Unable to allocate 7 GiB); take a smaller --batch-size" in line
    assert "accumulate=" not in line


def test_a_warning_is_a_line(home):
    code = (
        "import xplayers as xl; from xplayers.cli import main\n"
        "def fail(self, *args, **kwargs): raise OSError('the disk is full')\n"
        "xl.Checkpoint.save = fail\n"
        f"raise SystemExit(main(['train', *{TINY}, '--checkpoint-dir', 'run']))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0
    assert ran.stderr == (
        "xplayers: warning: Trainer: no checkpoint at step 90: the disk is full. "
        "Training goes on.\n"
    )


def test_a_log_that_cannot_be_written_ends_no_run(capsys, home):
    class Losing(Log):
        def __call__(self, event):
            self.path = "run.jsonl" if event.kind == "begin" else "no/such/folder"
            super().__call__(event)

    history = xl.History()
    log = Losing("run.jsonl")
    for kind, row in (("begin", None), ("epoch", {"epoch": 1, "loss": 0.5})):
        log(xl.Event(kind, None, history, 1, 1, 1, None, row=row))
    assert "xplayers: warning: epoch 1 is not in the log: " in capsys.readouterr().err


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
    found = json.loads(Path("found.json").read_text())
    assert found["machine"]["threads"] == 1
    assert found["workloads"]["step-6-5-4-3"]["ratios"]["book_over_ours"] > 0


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


def test_another_device_is_taken():
    handles = ("cuda:0", "cuda:1", "cpu")
    devices = ("cuda:0 (NVIDIA H200)", "cuda:1 (NVIDIA H200)", "the CPU")
    found = Found("torch", "2.13", device="cuda:0", devices=devices, handles=handles)
    assert str(_devices.take(found, "cuda:1")) == "torch 2.13 on cuda:1 (NVIDIA H200)"
    assert _devices.take(found, "cuda:1").device == "cuda:1"
    assert _devices.take(found, "cpu").device == "cpu"
    with pytest.raises(ValueError, match="torch 2.13 has cuda:0, cuda:1, cpu"):
        _devices.take(found, "cuda:2")


def test_another_device_of_cupy_becomes_the_current_one():
    used = []
    device = lambda i: SimpleNamespace(use=lambda: used.append(i))  # noqa: E731 - a stand-in
    cupy = SimpleNamespace(cuda=SimpleNamespace(Device=device))
    devices = ("cuda:0 (NVIDIA H200)", "cuda:1 (NVIDIA H200)")
    found = Found("cupy", "14.2.0", xp=cupy, devices=devices, handles=(0, 1))
    assert str(_devices.take(found, "cuda:1")) == "cupy 14.2.0 on cuda:1 (NVIDIA H200)"
    assert used == [1]


@pytest.mark.parametrize("name", ["numpy", "torch", "jax"])
def test_the_cpu_by_name(name):
    found = _devices.look(name)
    if found.why or found.devices[0] != "the CPU":
        pytest.skip(f"{name} computes elsewhere")
    args = SimpleNamespace(backend=name, device="cpu")
    taken, _ = arguments.place(args)
    assert str(taken.device) == str(found.device)
    assert taken.devices == found.devices
