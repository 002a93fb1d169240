"""Regression by the command: numbers to predict, in their own units."""

import csv
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from commands import main, refusal, refused, train

import xplayers as xl
from xplayers.cli.regression import errors_of

pytestmark = pytest.mark.host

RUN = ("--backend", "numpy", "--hidden", "16", "--task", "regression", "--dataset", "own.npz")
RUN += ("--epochs", "40", "--lr", "0.02", "--save", "m.safetensors")


@pytest.fixture
def data(home):
    """Work in a folder with samples and targets far from 0, of one value and of two."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 4))
    t = 1000 + 50 * (2 * x[:, 0] - x[:, 1] + 0.1 * x[:, 2] ** 2)
    np.savez("own.npz", x=x, t=t)
    np.savez("two.npz", x=x, t=np.stack([t, -1e-5 * t], axis=1))
    with open("own.csv", "w") as file:
        csv.writer(file).writerows([["a", "b", "c", "d", "price"], *np.c_[x, t].tolist()])
    np.save("new.npy", x[:7])
    return x, t


def run(capsys, *arguments):
    assert main([*arguments, "--backend", "numpy"]) == 0
    return capsys.readouterr().out


def measures(out):
    """Return loss, R2, mean absolute and root mean squared error."""
    pattern = r"loss (\S+), R2 (\S+), mean absolute error (\S+), root mean squared error ([^\s;]+)"
    return re.search(pattern, out).groups()


def test_from_training_to_predictions(capsys, data):
    x, t = data
    out = train(capsys, *RUN)
    assert "network: 4 -> 16 -> 1, 97 parameters; adam, lr 0.02; MeanSquaredError()" in out
    loss, r2, mae, rmse = measures(out)
    assert float(r2) > 0.98
    assert float(mae) < float(rmse) < 0.15 * t.std()
    assert measures(run(capsys, "evaluate", "m.safetensors")) == (loss, r2, mae, rmse)
    assert xl.read_metadata("m.safetensors")["results"]["r2"] == pytest.approx(float(r2), abs=1e-4)
    model = xl.load_model("m.safetensors")
    y = model.predict(x)
    assert y.shape == (200,)
    assert np.corrcoef(y, t)[0, 1] > 0.99
    assert "a regression" in repr(model)
    header, *values = run(capsys, "predict", "m.safetensors", "new.npy").split()
    assert header == "value"
    np.testing.assert_allclose([float(v) for v in values], y[:7], rtol=1e-6)
    run(capsys, "predict", "m.safetensors", "new.npy", "--output", "y.npy")
    np.testing.assert_array_equal(np.load("y.npy"), y[:7])
    with pytest.raises(ValueError, match="a regression has no classes"):
        model.predict_proba(x)


def test_several_values(capsys, data):
    x, t = data
    train(capsys, *RUN, "--dataset", "two.npz")
    model = xl.load_model("m.safetensors")
    y = model.predict(x)
    assert y.shape == (200, 2)
    assert np.corrcoef(y[:, 1], -t)[0, 1] > 0.99
    lines = run(capsys, "predict", "m.safetensors", "new.npy").splitlines()
    assert lines[0] == "value 0,value 1"
    assert len(lines) == 8
    run(capsys, "predict", "m.safetensors", "new.npy", "--output", "y.npy")
    assert np.load("y.npy").shape == (7, 2)


def test_a_table(capsys, data):
    first = train(capsys, *RUN, "--dataset", "own.csv", "--target", "price")
    assert measures(first) == measures(train(capsys, *RUN))  # the same samples
    train(capsys, *RUN, "--dataset", "own.csv", "--target", "price")
    assert run(capsys, "predict", "m.safetensors", "own.csv").splitlines()[0] == "price"
    assert tomllib.loads(Path("m.config.toml").read_text())["task"] == "regression"


def test_errors_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    t, y = rng.standard_normal((2, 50, 3))
    errors = errors_of(y, t)
    assert errors["r2"] == pytest.approx(metrics.r2_score(t, y))
    assert errors["mean_absolute_error"] == pytest.approx(metrics.mean_absolute_error(t, y))
    squared = metrics.mean_squared_error(t, y)
    assert errors["root_mean_squared_error"] == pytest.approx(squared**0.5)
    assert errors_of(np.zeros(3), np.ones(3))["r2"] == 0.0


def test_its_plots(capsys, data):
    pytest.importorskip("matplotlib")
    train(capsys, *RUN, "--plot", "curve.png")
    run(capsys, "evaluate", "m.safetensors", "--plot", "values.png")
    assert Path("values.png").stat().st_size > 1000


def test_exported(capsys, data):
    pytest.importorskip("onnx.checker")
    runtime = pytest.importorskip("onnxruntime")
    x, _ = data
    train(capsys, *RUN)
    assert main(["export", "m.safetensors", "m.onnx"]) == 0
    assert "to values (N, 1)" in capsys.readouterr().out
    (y,) = runtime.InferenceSession("m.onnx").run(None, {"x": x.astype("float32")})
    np.testing.assert_allclose(y[:, 0], xl.load_model("m.safetensors").predict(x), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--class-weights 1 2", "--class-weights goes with classes, not with --task regression"),
        ("--dataset digits", "--task goes with data of your own, not with digits"),
        ("--dataset text.npz", "text.npz: t is <U1 of shape (50,); expected the numbers of a regr"),
        ("--dataset nan.npz", "t of nan.npz"),
    ],
)
def test_mistakes(capsys, data, options, words):
    np.savez("text.npz", x=np.ones((50, 3)), t=np.asarray(list("abcde") * 10))
    np.savez("nan.npz", x=np.ones((50, 3)), t=np.full(50, np.nan))
    assert words in refused(capsys, "train", *RUN, *options.split())


def test_a_regression_has_no_probabilities(capsys, data):
    train(capsys, *RUN)
    line = refusal(capsys, "predict", "m.safetensors", "new.npy", "--probabilities")
    assert "--probabilities: m.safetensors is a regression, it has no classes" in line
