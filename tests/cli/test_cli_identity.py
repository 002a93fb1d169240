"""A model is judged by what it says: its data, the names of its classes, the order of its axes."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import TINY, main, own, refusal, train, write_mnist

import xplayers as xl
from xplayers.cli import datasets

pytestmark = pytest.mark.host

N = 60
T = np.arange(N) % 3


def evaluation(capsys, *arguments):
    assert main(["evaluate", *arguments, "--backend", "numpy"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()[0]


@pytest.fixture
def elsewhere(home, monkeypatch):
    """Return a function that goes into an empty folder beside the one with the files."""

    def go():
        (home / "elsewhere").mkdir()
        monkeypatch.chdir(home / "elsewhere")

    return go


def test_the_file_of_the_training_is_taken_from_anywhere(capsys, home, elsewhere):
    own("own.npz", N)
    train(capsys, *TINY, "--dataset", "own.npz", "--save", "m.safetensors")
    first = evaluation(capsys, "m.safetensors")
    elsewhere()
    own("own.npz", 80, labels="bac")  # of the same name
    assert evaluation(capsys, "../m.safetensors") == first
    assert first.startswith("own.npz, held out: 12 samples")
    Path("../own.npz").unlink()
    line = refusal(capsys, "evaluate", "../m.safetensors")
    assert f"was trained on {home / 'own.npz'}, which does not exist any more; pass --da" in line
    assert "held out: 16 samples" in evaluation(capsys, "../m.safetensors", "--dataset", "own.npz")


@pytest.mark.parametrize("change", ["x", "t", "one value", "dtype", "order", "names"])
def test_a_file_that_changed_is_not_the_one_of_the_training(capsys, home, change):
    x, t = own("own.npz", N)
    train(capsys, *TINY, "--dataset", "own.npz", "--save", "m.safetensors")
    first = evaluation(capsys, "m.safetensors")
    np.savez_compressed("own.npz", x=x.astype(np.uint8), t=t)  # the same in another file
    assert evaluation(capsys, "m.safetensors") == first
    if change == "x":
        x = x[::-1]
    elif change == "t":
        t = np.roll(t, 1)
    elif change == "one value":
        x[-1, -1, -1] += 1
    elif change == "names":
        t = np.char.upper(t)
    elif change == "order":
        x, t = x[::-1], t[::-1]
    np.savez("own.npz", x=x.astype(np.float32 if change == "dtype" else np.uint8), t=t)
    line = refusal(capsys, "evaluate", "m.safetensors")
    if change == "names":
        assert "t has the label A; the classes are a, b, c" in line
        return
    assert "own.npz has changed since m.safetensors was trained on it; to evaluate" in line
    assert f"pass --dataset {home / 'own.npz'}" in line
    evaluation(capsys, "m.safetensors", "--dataset", "own.npz")


def test_the_folder_of_the_training_is_kept(capsys, home, elsewhere, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    write_mnist(home / "mine", 10)
    write_mnist(home / "yours", 20, seed=1)
    (home / "cache" / "xplayers").mkdir(parents=True)
    write_mnist(home / "cache" / "xplayers" / "mnist", 30)
    options = (*TINY, "--dataset", "mnist", "--data-dir", "mine", "--batch-size", "8")
    train(capsys, *options, "--save", "m.safetensors")
    elsewhere()
    model = "../m.safetensors"
    assert "mnist, held out: 10 samples" in evaluation(capsys, model)
    assert "held out: 20 samples" in evaluation(capsys, model, "--data-dir", "../yours")
    # As in training, the name alone is the data set of the cache.
    assert "held out: 30 samples" in evaluation(capsys, model, "--dataset", "mnist")
    shutil.rmtree(home / "mine")
    line = refusal(capsys, "evaluate", model)
    assert f"{home / 'mine'} is not a folder" in line
    write_mnist(home / "mine", 10, seed=2)
    line = refusal(capsys, "evaluate", model)
    assert f"mnist in {home / 'mine'} has changed since" in line
    assert f"pass --dataset mnist --data-dir {home / 'mine'}" in line


def test_digits_and_spirals_are_always_there(capsys, home, elsewhere):
    for name in ("digits", "spiral"):
        train(capsys, *TINY, "--dataset", name, "--save", f"{name}.safetensors")
    elsewhere()
    assert evaluation(capsys, "../digits.safetensors").startswith("digits, held out: 359 samples")
    assert evaluation(capsys, "../spiral.safetensors").startswith("spiral, held out: 240 samples")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (range(1, 11), "digits: t has the label 0; the classes are 1, 2, 3, 4"),
        ("abcdefghij", "digits: t has int64 of shape (1438,); the classes are a, b, c"),
        ("0123456789", "digits: t has int64 of shape (1438,); the classes are 0, 1, 2"),
    ],
)
def test_other_names_of_as_many_classes(capsys, home, labels, words):
    (x, t), _ = xl.data.load_digits()
    np.savez("own.npz", x=x[:200], t=np.asarray(list(labels))[t[:200]])
    train_quietly(capsys, "own.npz")
    assert words in refusal(capsys, "evaluate", "m.safetensors", "--dataset", "digits")


def train_quietly(capsys, name, *more):
    """Train on a table with columns of one value, which are said."""
    assert main(["train", *TINY, "--dataset", name, "--save", "m.safetensors", *more]) == 0
    capsys.readouterr()


def test_classes_in_another_order_and_more_of_them(capsys, home):
    """Labels are looked up by their names, whatever their numbers are in either data set."""
    (x, t), _ = xl.data.load_digits()
    np.savez("own.npz", x=16 * x, t=t - 1)  # -1 to 8
    train_quietly(capsys, "own.npz")
    assert "the classes are -1, 0, 1" in refusal(
        capsys, "evaluate", "m.safetensors", "--dataset", "digits"
    )
    np.savez("own.npz", x=x, t=np.where(t == 3, 10, t))
    train_quietly(capsys, "own.npz")
    line = refusal(capsys, "evaluate", "m.safetensors", "--dataset", "digits")
    assert "digits: t has the label 3; the classes are 0, 1, 2, 4" in line
    few = t > 4
    np.savez("few.npz", x=x[few], t=t[few])
    np.savez("all.npz", x=x, t=t)
    train_quietly(capsys, "all.npz", "--epochs", "5", "--hidden", "32")
    first = evaluation(capsys, "m.safetensors", "--dataset", "few.npz")
    assert float(first.split()[-1]) > 0.8


# Axes


@pytest.fixture
def images(home, capsys):
    rng = np.random.default_rng(0)
    np.savez("own.npz", x=rng.integers(0, 256, (N, 3, 4, 6)), t=T)
    train(capsys, *TINY, "--dataset", "own.npz", "--save", "mlp.safetensors")
    cnn = ("--model", "cnn", "--channels", "2")
    train(capsys, *TINY, *cnn, "--dataset", "own.npz", "--save", "cnn.safetensors")
    return rng.integers(0, 256, (5, 3, 4, 6))


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_images_in_another_order_of_axes(capsys, images, kind):
    for axes in ((0, 2, 3, 1), (0, 3, 2, 1), (0, 1, 3, 2), (0, 2, 1, 3)):
        x = images.transpose(axes)
        np.save("x.npy", x)
        line = refusal(capsys, "predict", f"{kind}.safetensors", "x.npy")
        assert f"x.npy has shape {x.shape}; the network takes (n, " in line
        assert "Its axes are in another order: transpose it" in line
        np.savez("other.npz", x=np.repeat(x, 12, 0), t=T)
        line = refusal(capsys, "evaluate", f"{kind}.safetensors", "--dataset", "other.npz")
        assert "Its axes are in another order" in line


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
@pytest.mark.parametrize("shape", [(72, 1, 1), (9, 8), (2, 36), (12, 6), (3, 24), (1, 3, 2, 2, 6)])
def test_samples_of_as_many_values(capsys, images, kind, shape):
    np.save("x.npy", images.reshape(5, *shape))
    if shape == (72, 1, 1):  # rows, with axes to spare
        assert main(["predict", f"{kind}.safetensors", "x.npy"]) == 0
        return
    line = refusal(capsys, "predict", f"{kind}.safetensors", "x.npy")
    assert f"x.npy has shape {(5, *shape)}; the network takes (n, " in line


def test_rows_of_images_are_images(capsys, images):
    for kind in ("mlp", "cnn"):
        outputs = []
        for x in (images, images.reshape(5, -1), images[:, None], images[..., None]):
            np.save("x.npy", x)
            assert main(["predict", f"{kind}.safetensors", "x.npy", "--probabilities"]) == 0
            outputs.append(capsys.readouterr().out)
        assert len(set(outputs)) == 1


def test_images_are_no_rows_of_a_table(capsys, home):
    np.savez("own.npz", x=np.random.default_rng(0).normal(size=(N, 24)), t=T)
    train(capsys, *TINY, "--dataset", "own.npz", "--save", "m.safetensors")
    np.save("x.npy", np.zeros((5, 4, 6)))
    line = refusal(capsys, "predict", "m.safetensors", "x.npy")
    assert "x.npy has shape (5, 4, 6); the network takes (n, 24). If the training samp" in line
    np.save("x.npy", np.zeros(24))
    assert "A single sample is x[None]" in refusal(capsys, "predict", "m.safetensors", "x.npy")


# What is in a model file


def test_what_a_model_remembers(home, capsys):
    own("own.npz", N)
    train(capsys, *TINY, "--dataset", "own.npz", "--save", "m.safetensors")
    model = xl.load_model("m.safetensors")
    assert model.shape == (6, 6)
    assert model.classes == ("a", "b", "c")
    data = datasets.read("own.npz")
    expected = {"dataset": str(home / "own.npz"), "folder": None, "sha256": data.digest()}
    assert model.about["data"] == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shape", [6, 7]),
        ("shape", 36),
        ("mean", [0.0, 1.0]),
        ("scale", 0.0),
        ("scale", "nan"),
        ("classes", []),
        ("sample", [2**70]),
        ("hidden", [1e400]),
    ],
)
def test_a_model_that_makes_no_sense(capsys, home, name, value):
    own("own.npz", N)
    train(capsys, *TINY, "--dataset", "own.npz", "--save", "m.safetensors")
    model = xl.load_model("m.safetensors")
    metadata = {"model": {**model.metadata(), name: value}, **model.about}
    xl.save("m.safetensors", model.net, json.loads(json.dumps(metadata)))
    assert "is not a model written by `xplayers train" in refusal(
        capsys, "evaluate", "m.safetensors"
    )


def test_a_model_without_its_data(capsys, home):
    own("own.npz", N)
    train(capsys, *TINY, "--dataset", "own.npz", "--save", "m.safetensors")
    model = xl.load_model("m.safetensors")
    for model.about["data"] in (None, {}, "mnist", {"dataset": "own.npz"}):
        model.save("m.safetensors")
        line = refusal(capsys, "evaluate", "m.safetensors")
        assert "m.safetensors has no record of its training data; pass --dataset" in line
    evaluation(capsys, "m.safetensors", "--dataset", "own.npz")


def test_a_checkpoint_is_no_model(capsys, home):
    own("own.npz", N)
    train(capsys, *TINY, "--dataset", "own.npz", "--checkpoint-dir", "run")
    (name,) = (p for p in os.listdir("run") if p.startswith("step"))
    line = refusal(capsys, "evaluate", f"run/{name}")
    assert f"run/{name} is a checkpoint, not a model; `xplayers train --checkpoint-dir run" in line
    assert "run is a folder; expected a model" in refusal(capsys, "evaluate", "run")
