"""The options of the loss, the optimizer and the end of a run."""

import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from commands import TINY, main, own, refusal, refused, train

import xplayers as xl
from xplayers.cli.optimization import SCHEDULES

pytestmark = pytest.mark.host


def evaluation(capsys, *arguments):
    assert main(["evaluate", *arguments, "--backend", "numpy"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("options", ["", "--label-smoothing 0", "--class-weights 1 5 2"])
def test_all_losses_of_held_out_samples_agree(capsys, data, options):
    run = (*TINY, "--dataset", "own.npz", *options.split(), "--save", "m.safetensors")
    out = train(capsys, *run, "--log", "m.jsonl")
    last = json.loads(Path("m.jsonl").read_text().splitlines()[-1])
    shown = re.search(r"held out: loss (\S+), accuracy", out)[1]
    assert shown == f"{last['val_loss']:.4f}"
    assert f"loss {shown}, accuracy" in evaluation(capsys, "m.safetensors")
    assert xl.read_metadata("m.safetensors")["results"]["loss"] == last["val_loss"]
    smoothing = 0.0 if "smoothing 0" in options else 0.1
    assert (f"label_smoothing={smoothing}" in out) == (smoothing > 0)


def test_the_loss_of_a_model_without_a_record_is_plain(capsys, data):
    train(capsys, *TINY, "--dataset", "own.npz", "--save", "m.safetensors", "--label-smoothing=0")
    plain = evaluation(capsys, "m.safetensors")
    metadata = xl.read_metadata("m.safetensors")
    del metadata["loss"]
    net = xl.mlp([36, 8, 3], rng=0)
    xl.load("m.safetensors", net)
    xl.save("old.safetensors", net, metadata)
    assert evaluation(capsys, "old.safetensors") == plain


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(capsys, data, name):
    options = ("--dataset", "own.npz", "--schedule", name, "--lr", "0.01", "--log", "m.jsonl")
    out = train(capsys, *TINY, *options, "--batch-size", "8")
    rates = [json.loads(line)["lr"] for line in Path("m.jsonl").read_text().splitlines()]
    steps = 2 * 4  # of 32 samples in 8s, twice
    schedule = SCHEDULES[name]
    rate = 0.01 if schedule is None else schedule(0.01, steps)
    assert rates[-1] == pytest.approx(rate(steps - 1) if callable(rate) else rate, rel=1e-5)
    assert f"lr {rate};" in out


def test_weight_decay_makes_parameters_smaller(capsys, data):
    norms = []
    for decay in ("0", "1.0"):
        options = ("--dataset", "own.npz", "--weight-decay", decay, "--save", "m.safetensors")
        train(capsys, *TINY, *options, "--optimizer", "adamw", "--lr", "0.02", "--epochs=30")
        net = xl.mlp([36, 8, 3], rng=0)
        xl.load("m.safetensors", net)
        norms.append(float(np.sum(net.params["0.W"] ** 2)))
    assert norms[1] < 0.95 * norms[0]


def test_dropout(capsys, data):
    options = ("--dataset", "own.npz", "--save", "m.safetensors", "--hidden", "8", "8")
    plain = train(capsys, *TINY, *options)
    out = train(capsys, *TINY, *options, "--dropout", "0.5")
    assert "network: 36 -> 8 -> 8 -> 3, dropout 0.5," in out
    assert out.splitlines()[3] != plain.splitlines()[3]
    model = xl.load_model("m.safetensors")
    seeds = [layer.seed for layer in model.net if isinstance(layer, xl.Dropout)]
    assert len(set(seeds)) == 2
    loss = re.search(r"held out: loss (\S+), accuracy", out)[1]
    assert f"loss {loss}, accuracy" in evaluation(capsys, "m.safetensors")
    x = np.load("own.npz")["x"]
    assert np.array_equal(model.predict(x), model.predict(x))


def test_balanced_weights_are_those_of_scikit_learn(capsys, home):
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((100, 6)).astype("float32"), np.repeat([0, 1, 2], [70, 20, 10])
    np.savez("own.npz", x_train=x, t_train=t, x_test=x, t_test=t)
    options = ("--dataset", "own.npz", "--class-weights", "balanced", "--save", "m.safetensors")
    train(capsys, *TINY, *options)
    weights = xl.read_metadata("m.safetensors")["loss"]["class_weights"]
    assert weights == pytest.approx([100 / (3 * n) for n in (70, 20, 10)], rel=1e-6)


def test_patience_ends_a_run_and_restores_the_best_epoch(capsys, data):
    options = ("--dataset", "own.npz", "--epochs", "200", "--lr", "0.3", "--patience", "3")
    out = train(capsys, *TINY, *options, "--log", "m.jsonl")
    losses = [json.loads(line)["val_loss"] for line in Path("m.jsonl").read_text().splitlines()]
    best = int(np.argmin(losses))
    assert len(losses) == best + 4 < 200
    assert f"stopped early: no improvement for 3 epochs; epoch {best + 1} is restored" in out
    assert f"held out: loss {losses[best]:.4f}," in out


def test_options_are_repeated_by_the_configuration_file(capsys, data):
    options = "--schedule cosine --patience 4 --class-weights 1 2 3 --label-smoothing 0.2"
    run = (*TINY, "--dataset", "own.npz", *options.split(), "--weight-decay", "0.01")
    first = train(capsys, *run, "--save", "m.safetensors")
    table = tomllib.loads(Path("m.config.toml").read_text())
    assert (table["class-weights"], table["patience"]) == ([1.0, 2.0, 3.0], 4)
    assert train(capsys, "--config", "m.config.toml") == first.replace(
        "saved in m.safetensors\n", ""
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--label-smoothing 1", "'1' is not a number of at least 0 and below 1"),
        ("--label-smoothing nan", "'nan' is not a number of at least 0 and below 1"),
        ("--dropout 1", "'1' is not a number of at least 0 and below 1"),
        ("--patience 0", "'0' is not an integer of at least 1"),
        ("--weight-decay -1", "--weight-decay: "),
        ("--schedule step", "invalid choice: 'step' (choose from"),
        ("--class-weights 1 2", "--class-weights has 2 values; expected 'balanced', or one number"),
        ("--class-weights balanced 1 2", "--class-weights has 3 values; expected 'balanced', or"),
        ("--class-weights -1 1 1", "--class-weights: "),
        ("--class-weights 0 0 0", "--class-weights are 0 for all classes that own.npz has"),
    ],
)
def test_mistakes(capsys, data, options, words):
    arguments = ("train", *TINY, "--dataset", "own.npz", *options.split())
    assert words in refused(capsys, *arguments, "--save", "m.safetensors")


@pytest.mark.parametrize("option", ["--patience 2", "--schedule cosine", "--class-weights 1 2 3"])
def test_a_resumed_run_has_its_options(capsys, data, option):
    run = (*TINY, "--dataset", "own.npz", "--checkpoint-dir", "run")
    train(capsys, *run)
    line = refusal(capsys, "train", *run, "--resume", *option.split(), "--epochs", "3")
    assert "belongs to another run" in line


def test_precision_and_recall_of_an_evaluation(capsys, home):
    own("own.npz", 60)
    train(capsys, *TINY, "--dataset", "own.npz", "--save", "m.safetensors")
    plain = evaluation(capsys, "m.safetensors").splitlines()
    lines = evaluation(capsys, "m.safetensors", "--per-class").splitlines()
    assert lines[: len(plain) + 1] == [*plain, ""]
    header, *rows, means = (line.split() for line in lines[len(plain) + 1 :])
    assert header == ["precision", "recall", "F1", "samples"]
    matrix = np.asarray([line.split()[1:] for line in plain[-3:]], int)
    recall = np.diagonal(matrix) / np.maximum(matrix.sum(axis=1), 1)
    assert [row[2] for row in rows] == [f"{r:.4f}" for r in recall]
    assert means[0] == "mean"
    assert (means[2], means[4]) == (f"{recall.mean():.4f}", str(matrix.sum()))
