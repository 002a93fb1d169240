"""Runs that go on: only with the options and data that they had, and only where there is one."""

import os
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from commands import TINY, contents, main, own, refusal, refused, train, write_mnist

pytestmark = pytest.mark.host

TRAIN = (*TINY, "--dataset", "own.npz", "--batch-size", "8", "--checkpoint-dir", "run")
RESUME = ("train", "--checkpoint-dir", "run", "--resume")


@pytest.fixture
def run(home, capsys):
    """Return the folder of a run of two epochs."""
    own("own.npz", 60)
    train(capsys, *TRAIN)
    return Path("run")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--seed 5", "seed was 0, is 5"),
        ("--hidden 9", "hidden was [8], is [9]"),
        ("--hidden", "hidden was [8], is []"),
        ("--batch-size 9", "batch-size was 8, is 9"),
        ("--optimizer adamw", "optimizer was adam, is adamw"),  # of the same state
        ("--optimizer sgd", "optimizer was adam, is sgd"),
        ("--model cnn", "model was mlp, is cnn"),
        ("--dataset digits", "the data differ from those of"),
        ("--shift 1 --model cnn", "model was mlp, is cnn; shift was 0, is 1"),
        ("--seed 5 --optimizer sgd", "optimizer was adam, is sgd; seed was 0, is 5"),
        ("--epochs 1", "has 2 epochs; epochs is 1. Pass epochs=2 or more"),
        ("--save own.npz", "would overwrite"),
    ],
)
def test_a_refused_resume_changes_nothing(capsys, run, options, words):
    line = refused(capsys, *RESUME, *options.split(), "--log", "run.jsonl")
    assert words in line
    assert ("run belongs to another run: " in line) == ("was" in words or "differ" in words)
    out = train(capsys, *RESUME[1:], "--epochs", "3")  # and the right one goes on
    assert "epoch 3/3" in out


@pytest.mark.parametrize("change", ["x", "t", "dtype", "names"])
def test_data_that_changed(capsys, run, change):
    with np.load("own.npz") as archive:
        x, t = archive["x"], archive["t"]
    if change == "x":
        x[3, 2, 1] += 1
    elif change == "t":
        t = np.roll(t, 1)
    elif change == "names":
        t = np.char.upper(t)
    np.savez("own.npz", x=x.astype(float) if change == "dtype" else x, t=t)
    line = refused(capsys, *RESUME, "--epochs", "3")
    assert (
        f"run belongs to another run: the data differ from those of {Path('own.npz').resolve()}"
        in line
    )
    assert "Remove these options, or use another folder" in line


def test_data_that_were_moved_are_the_same(capsys, run):
    os.rename("own.npz", "moved.npz")
    assert "own.npz: No such file" in refused(capsys, *RESUME, "--epochs", "3")
    assert "epoch 3/3" in train(capsys, *RESUME[1:], "--epochs", "3", "--dataset", "moved.npz")
    assert "epoch 4/4" in train(capsys, *RESUME[1:], "--epochs", "4")


def test_other_files_of_a_folder(capsys, home):
    write_mnist(home / "mnist")
    options = ("--model", "cnn", "--channels", "2", "--shift", "1", "--batch-size", "8")
    options += ("--dataset", "mnist", "--data-dir", "mnist", "--checkpoint-dir", "run")
    train(capsys, *TINY, *options)
    write_mnist(home / "mnist", seed=1)
    line = refused(capsys, *RESUME, "--epochs", "3")
    assert "the data differ from those of mnist" in line


def test_fewer_epochs_than_are_done(capsys, run):
    train(capsys, *RESUME[1:], "--epochs", "3")
    for epochs in ("1", "2"):
        line = refused(capsys, *RESUME, "--epochs", epochs)
        assert f"has 3 epochs; epochs is {epochs}." in line
    before = contents()
    out = train(capsys, *RESUME[1:])
    assert "all 3 epochs are done; pass a larger --epochs to continue" in out
    assert "lr=0.001" in refusal(capsys, *RESUME, "--lr", "0.5")
    assert contents() == before


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("rnu", "--resume: rnu does not exist; expected the --checkpoint-dir of a run"),
        ("empty", "--resume: empty has no checkpoint; expected the --checkpoint-dir of a run"),
        ("own.npz", "--checkpoint-dir own.npz: own.npz is a file; expected a folder"),
        ("run/step-000000012.safetensors", "is a file; expected a folder"),
    ],
)
def test_a_folder_of_no_run(capsys, run, folder, words):
    Path("empty").mkdir()
    Path("empty/notes.txt").write_text("mine")
    arguments = ("train", *TINY, "--dataset", "own.npz", "--batch-size", "8", "--resume")
    assert words in refused(capsys, *arguments, "--checkpoint-dir", folder)


def test_a_run_that_was_killed_before_its_first_checkpoint(capsys, run):
    for path in run.glob("step-*"):
        path.unlink()
    assert main([*RESUME]) == 0
    out, err = capsys.readouterr()
    assert "there is no checkpoint in run; the run begins with its first step" in err
    assert "epoch 1/2" in out


def test_options_changed_by_hand_are_taken_and_kept(capsys, run):
    path = run / "config.toml"
    path.write_text(path.read_text().replace("epochs = 2", "epochs = 3  # mine"))
    before = path.read_bytes()
    assert main([*RESUME, "--save", "m.safetensors"]) == 0
    out, err = capsys.readouterr()
    assert "epoch 3/3" in out
    assert err == f"xplayers: warning: {path} was edited by hand and is not changed\n"
    assert path.read_bytes() == before
    assert tomllib.loads(Path("m.config.toml").read_text())["epochs"] == 3


def test_without_the_file_of_options(capsys, run):
    (run / "config.toml").unlink()
    assert "epoch 3/3" in train(capsys, *TRAIN, "--resume", "--epochs", "3")
    assert tomllib.loads((run / "config.toml").read_text())["epochs"] == 3
    shutil.rmtree(run)
    assert "run does not exist" in refused(capsys, "train", *TRAIN, "--resume")
