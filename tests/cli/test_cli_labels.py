"""What labels and samples the command takes, and that it says which rows it does not."""

import re
from pathlib import Path

import numpy as np
import pytest
from commands import TINY, main, own, refusal, train

import xplayers as xl
from xplayers.cli import datasets, labels

pytestmark = pytest.mark.host

N = 60
T = np.arange(N) % 3
ONE_HOT = np.eye(3)[T]


def save(t, **more):
    np.savez("own.npz", **{"x": np.arange(2.0 * N).reshape(N, 2), "t": t, **more})


def changed(row, values, dtype=float):
    t = ONE_HOT.astype(dtype)
    t[row] = values
    return t


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float32", "float64"])
def test_one_hot_labels(home, dtype):
    save(ONE_HOT.astype(dtype))
    data = datasets.read("own.npz")
    assert data.classes == (0, 1, 2)
    labels = {tuple(x): t for x, t in zip(data.x.tolist(), data.t.tolist(), strict=True)}
    assert all(t == (x[0] / 2) % 3 for x, t in labels.items())


@pytest.mark.parametrize(
    ("t", "row", "shown"),
    [
        (changed(4, [1, 1, 0], bool), 4, "[1 1 0]"),
        (changed(4, [1, 1, 0], int), 4, "[1 1 0]"),
        (changed(0, [1, 0, 1]), 0, "[1 0 1]"),
        (changed(29, [0, 0, 0]), 29, "[0 0 0]"),
        (changed(29, [0, 0, 0], bool), 29, "[0 0 0]"),
        (changed(5, [np.nan, 1, 0]), 5, "[nan 1 0]"),
        (changed(5, np.nan), 5, "[nan nan nan]"),
        (changed(5, [np.inf, 0, 0]), 5, "[inf 0 0]"),
        (changed(7, [2, 0, 0], int), 7, "[2 0 0]"),
        (changed(7, [1, -1, 0], int), 7, "[1 -1 0]"),
        (changed(7, [1, 1e-30, 0]), 7, "[1 1e-30 0]"),
        (0.9 * ONE_HOT + 0.1 / 3, 0, "[0.933333 0.0333333 0.0333333]"),
        (np.linspace(-1, 1, 2 * N).reshape(N, 2), 0, "[-1 -0.983193]"),
        (np.zeros((N, 12)), 0, "[0 0 0 0 0 0 0 0 ...]"),
    ],
)
@pytest.mark.parametrize("form", ["t", "t_train", "t_test"])
def test_rows_that_are_not_one_hot(capsys, home, t, row, shown, form):
    if form == "t":
        save(t)
    else:
        good = np.eye(t.shape[1])[np.arange(N) % t.shape[1]]
        x = np.zeros((N, 2))
        np.savez("own.npz", **{"x_train": x, "x_test": x, "t_train": good, "t_test": good, form: t})
    line = refusal(capsys, "train", *TINY, "--dataset", "own.npz")
    assert f"own.npz: {form} has shape {t.shape} and is not one-hot: row {row} (from 0)" in line
    assert f" is {shown}; expected a single 1 and else 0, or labels (n,)." in line
    assert "SigmoidWithLoss for several, MeanSquaredError for regression" in line


@pytest.mark.parametrize(
    ("t", "words"),
    [
        (T[:, None], "t is int64 of shape (60, 1); expected labels (n,)"),
        (T[:, None], "Save t[:, 0]"),
        (T * 1.0, "Save t.astype(int)"),
        (T + 0.5, "MeanSquaredError for regression"),
        (np.where(T == 1, np.nan, T), "MeanSquaredError for regression"),
        (T * 1j, "t is complex128"),
        (T.astype("datetime64[D]"), "t is datetime64[D]"),
        (np.asarray([["a", "b"]] * N), "t is <U1 of shape (60, 2)"),
        (np.zeros((N, 2, 3)), "t is float64 of shape (60, 2, 3)"),
        (
            np.asarray([b"\xff", b"a", b"b"])[T],
            r"t has labels in bytes that are not UTF-8: b'\xff'",
        ),
        (ONE_HOT[:, :1], "t is float64 of shape (60, 1)"),
    ],
)
def test_labels_of_other_forms(capsys, home, t, words):
    save(t)
    assert words in refusal(capsys, "train", *TINY, "--dataset", "own.npz")


@pytest.mark.parametrize(
    ("t", "classes", "expected"),
    [
        (np.asarray([2**63 + 1, 2**63, 5], "uint64"), (5, 2**63, 2**63 + 1), [2, 1, 0]),
        ([-(2**63), 2**62 + 1, 2**62], (2**62, 2**62 + 1, -(2**63)), [2, 1, 0]),
        (["b", "", "a"], ("", "a", "b"), [2, 0, 1]),
        ([b"\xc3\xa9", b"x"], ("x", "é"), [1, 0]),
        ([True, False], (0, 1), [1, 0]),
        ([[0, 1], [1, 0]], (0, 1), [1, 0]),
        ([[0, 1], [1, 0]], (7, 0, 1), [2, 1]),
    ],
)
def test_labels_become_the_numbers_of_classes(t, classes, expected):
    assert labels.numbers("t", np.asarray(t), classes).tolist() == expected


def test_one_hot_columns_are_classes_by_name():
    """Those of a model with others cannot be told, were there as many or not."""
    for classes in (("a", "b"), (1, 2), (0, 2), (0,)):
        with pytest.raises(ValueError, match="t is one-hot for 2 classes, from 0; the classes"):
            labels.numbers("t", np.eye(2), classes)


# Samples


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_rows_that_are_not_finite_are_named(capsys, home, value, dtype):
    x = np.zeros((N, 2), dtype)
    x[17, 1] = value
    said = (
        f"has values that are not finite: row 17, column 1 (from 0) is {value}; replace such values"
    )
    save(T, x=x)
    assert f"x of own.npz {said}" in refusal(capsys, "train", *TINY, "--dataset", "own.npz")
    np.savez("own.npz", x_train=x, t_train=T, x_test=x, t_test=T)
    assert "x_train of own.npz" in refusal(capsys, "train", *TINY, "--dataset", "own.npz")
    np.savez("own.npz", x_train=np.ones((N, 2)), t_train=T, x_test=x, t_test=T)
    assert f"x_test of own.npz {said}" in refusal(capsys, "train", *TINY, "--dataset", "own.npz")


def test_images_that_are_not_finite(capsys, home):
    x = np.zeros((N, 1, 4, 5), np.float32)
    x[3, 0, 2, 1] = np.nan
    save(T, x=x)
    line = refusal(capsys, "train", *TINY, "--dataset", "own.npz", "--model", "cnn")
    assert (
        "x of own.npz has values that are not finite: row 3, at [0, 2, 1] (from 0) is nan" in line
    )


@pytest.fixture
def model(home, capsys):
    rng = np.random.default_rng(0)
    save(T, x=rng.normal(size=(N, 2)))
    train(capsys, *TINY, "--dataset", "own.npz", "--save", "m.safetensors")


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("row", [0, 4095, 4096, 9999])
@pytest.mark.parametrize("output", [(), ("--output", "p.npy"), ("--probabilities",)])
def test_no_prediction_is_made_of_what_is_not_finite(capsys, row, output):
    x = np.zeros((10_000, 2))
    x[row, 1] = np.nan
    np.save("x.npy", x)
    assert main(["predict", "m.safetensors", "x.npy", *output]) == 2
    out, err = capsys.readouterr()
    assert f"x.npy has values that are not finite: row {row}, column 1 (from 0) is nan" in err
    assert out == ""
    assert not Path("p.npy").exists()


@pytest.mark.usefixtures("model")
def test_values_beyond_the_float32_of_a_network(capsys):
    x = np.zeros((5000, 2))
    x[4500, 0] = -1e300
    np.save("x.npy", x)
    line = refusal(capsys, "predict", "m.safetensors", "x.npy")
    assert "x.npy, standardised, has values that are not finite: row 4500, column 0" in line
    x[4500, 0] = 3e38
    np.save("x.npy", x)
    line = refusal(capsys, "predict", "m.safetensors", "x.npy")
    assert "m.safetensors has no finite scores for row 4500 (from 0)" in line


@pytest.mark.usefixtures("model")
def test_a_model_of_parameters_that_are_not_finite(capsys):
    model = xl.load_model("m.safetensors")
    model.net.params["0.b"] = model.net.params["0.b"] * np.nan
    model.save("broken.safetensors")
    np.save("x.npy", np.zeros((3, 2)))
    line = refusal(capsys, "predict", "broken.safetensors", "x.npy")
    assert "broken.safetensors has values in 0.b that are not finite; train it again" in line


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros((0, 2)), "own.npz: x has shape (0, 2): there are no samples"),
        (np.zeros((N, 0)), "x of own.npz has shape (60, 0): its samples are empty"),
        (np.zeros((N, 2), complex), "x of own.npz is complex128; expected numbers"),
        (np.zeros(N, [("a", float)]), "x of own.npz is a table with named columns"),
        (np.zeros((N, 2), "datetime64[s]"), "x of own.npz is datetime64[s]; expected numbers"),
    ],
)
def test_samples_that_cannot_be_learnt_from(capsys, home, x, words):
    save(T[: len(x)], x=x)
    assert words in refusal(capsys, "train", *TINY, "--dataset", "own.npz")


def test_predictions_of_nothing(capsys, home):
    own("own.npz")
    train(capsys, *TINY, "--dataset", "own.npz", "--save", "m.safetensors")
    np.save("x.npy", np.zeros((0, 6, 6)))
    assert main(["predict", "m.safetensors", "x.npy"]) == 0
    assert capsys.readouterr().out == "class\n"


def test_names_of_classes_that_are_too_long_for_a_file(capsys, home):
    names = np.asarray([f"{i} {'n' * 300_000}" for i in range(3)])
    save(names[T])
    assert main(["train", *TINY, "--dataset", "own.npz", "--save", "m.safetensors"]) == 0
    capsys.readouterr()
    names = np.asarray([f"{i} {'n' * 800_000}" for i in range(3)])
    save(names[T])
    line = refusal(capsys, "train", *TINY, "--dataset", "own.npz", "--save", "long.safetensors")
    assert re.search("the names of the 3 classes are too long for a file; at most", line)
    assert not list(Path().glob("long*"))
