"""First mistakes with what a person sees of a run: summary, history, pictures."""

import numpy as np
import pytest

import xplayers as xl

pytestmark = pytest.mark.host

X = np.random.default_rng(0).normal(size=(22, 4)).astype(np.float32)
NET = xl.mlp([4, 5, 3], rng=0)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((NET,), TypeError, r"input_shape is missing; expected that of one sample, .*\(784,\) or"),
        ((NET, 4), TypeError, r"input_shape is 4; .*Pass \(4,\)"),
        ((NET, X), TypeError, r"an array of shape \(22, 4\); .*Pass x.shape\[1:\]"),
        ((NET, "4"), TypeError, "input_shape is '4'"),
        ((NET, (4.0,)), TypeError, "input_shape is 4.0"),
        ((NET, (-4,)), ValueError, "input_shape is -4"),
        ((NET, (5,)), ValueError, r"expected \(n, 4\)"),
        ((xl.Relu, (4,)), TypeError, r"the class Relu; .*Call the class: Relu\(\)"),
        (("net", (4,)), TypeError, r"net is 'net'; expected a network: summary\(net, input_shape"),
        ((X, NET), TypeError, "net is an array"),
    ],
)
def test_summary(arguments, error, words):
    with pytest.raises(error, match=words):
        xl.summary(*arguments)
    assert len(xl.summary(NET, np.asarray([4])).rows) == len(xl.summary(NET, [4]).rows)


@pytest.mark.parametrize(
    ("rows", "error", "words"),
    [
        ([[1, 2]], TypeError, "History: a row is .*; expected a dict of numbers"),
        ({"epoch": 1}, TypeError, "rows is .*; expected a list of dicts"),
        (3, TypeError, "rows is 3"),
        ("abc", TypeError, "rows is 'abc'"),
        ([{3: 1.0}], TypeError, "column 3; expected a string"),
        ([{"loss": "low"}], TypeError, "loss is a str"),
        ([{"loss": True}], TypeError, "loss is a bool"),
        ([{"loss": 1j}], TypeError, "loss is a complex"),
    ],
)
def test_history(rows, error, words):
    with pytest.raises(error, match=words):
        xl.History(rows)


def test_history_keys():
    history = xl.History([{"epoch": 1}, {"epoch": 2}])
    for key in (slice(1), 1.5, None):
        with pytest.raises(
            TypeError, match="History: .*; expected the name of a column or the ind"
        ):
            history[key]
    assert history[np.int64(1)] == {"epoch": 2}


def test_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    path, eye, labels = tmp_path / "a.png", np.eye(3), np.asarray([1, 2, 0])
    matrix, history = xl.plot_confusion_matrix, xl.History([{"epoch": 1, "loss": 1.0}])
    for call, error, words in (
        (lambda: matrix([[1, 0], [0, 1]], path), TypeError, "plot_confusion_matrix: matrix is a l"),
        (lambda: matrix(eye, path, labels=["a"]), ValueError, "there are 1 labels"),
        (lambda: matrix(eye, tmp_path / "a.xyz"), ValueError, r"ends in \.xyz; expected .*\.png"),
        (lambda: history.plot(tmp_path / "a.docx"), ValueError, r"ends in \.docx"),
        (lambda: xl.plot_activations(X, NET, path), TypeError, r"net is an array .*\(net, x\)"),
        (lambda: xl.plot_activations(NET, X, path, bins=0), ValueError, "bins is 0"),
        (lambda: xl.plot_mistakes([1], eye, labels, path), TypeError, "plot_mistakes: x is a list"),
        (lambda: xl.plot_mistakes(eye, eye, labels + 1, path), ValueError, "t has the label 3; y"),
        (lambda: xl.plot_mistakes(eye, eye, labels, path, most=0), ValueError, "most is 0"),
        (lambda: xl.layer_outputs(X, NET), TypeError, r"layer_outputs: net is an array"),
    ):
        with pytest.raises(error, match=words):
            call()
    assert not list(tmp_path.iterdir())
