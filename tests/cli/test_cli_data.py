"""The user's own data: from training to predictions, and what does not fit."""

import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from commands import TINY, accuracy, own, refusal, train

import xplayers as xl
from xplayers.cli import arrays, datasets, main, models
from xplayers.models.model import from_metadata

pytestmark = pytest.mark.host

# The user's own data --------------------------------------------------------------------------


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
    assert lines[1] == "rows: target, columns: predicted"
    assert lines[2].split() == ["a", "b", "c"]
    assert [line.split()[0] for line in lines[3:]] == ["a", "b", "c"]
    counts = np.asarray([line.split()[1:] for line in lines[3:]], int)
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
    model = xl.load_model("m.safetensors")
    scores = model.net.predict(model.prepared(x[:7]))
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
    model = models.make("mlp", data, None, None)
    inputs = model.prepared(data.x)
    assert inputs.dtype == np.float32
    np.testing.assert_allclose(inputs.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(inputs.std(axis=0), [1, 0, 1], atol=1e-5)
    again = from_metadata(json.loads(json.dumps({"model": model.metadata()})))
    assert again.metadata() == model.metadata()
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
        ({"x": np.arange(40)}, "For one value per sample save x[:, None]"),
        ({"x": np.zeros((40, 2), object)}, "x of own.npz has Python objects, whose loading"),
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
    assert "net.safetensors is not a model written by `xplayers train --save`" in line
    model = {"kind": "mlp", "sample": [4], "classes": [0, 1], "hidden": [10**15], "channels": []}
    metadata = {"model": {**model, "mean": 0.0, "scale": 1.0}}
    xl.save("net.safetensors", xl.mlp([4, 2], rng=0), metadata)
    assert "out of memory" in refusal(capsys, "evaluate", "net.safetensors")
    for name, value in (("kind", "rnn"), ("sample", [2, 2]), ("hidden", [-1]), ("classes", 3)):
        changed = {"model": {**metadata["model"], name: value}}
        xl.save("net.safetensors", xl.mlp([4, 2], rng=0), changed)
        assert "is not a model written" in refusal(capsys, "evaluate", "net.safetensors")


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
    counts = [int(re.fullmatch(r"\d+ predicted as \d+: (\d+)", line)[1]) for line in lines]
    assert counts == sorted(counts, reverse=True)
    assert len(counts) == 20
