"""First mistakes with what stands beside a trainer: evaluate, summary, checkpoints, files."""

import numpy as np
import pytest

import xplayers as xl

pytestmark = pytest.mark.host

X = np.random.default_rng(0).normal(size=(22, 4)).astype(np.float32)
T = np.arange(22) % 3
NET, LOSS = xl.mlp([4, 5, 3], rng=0), xl.SoftmaxWithLoss()


def tuple_of(*arguments, **options):
    return arguments, options


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (tuple_of(NET, X, T), TypeError, r"loss is an array .*: evaluate\(net, loss, x, t\)"),
        (tuple_of(NET, "softmax", X, T), TypeError, "loss is 'softmax'"),
        (tuple_of(NET, xl.SoftmaxWithLoss, X, T), TypeError, "Call the class: SoftmaxWithLoss"),
        (tuple_of(LOSS, NET, X, T), TypeError, "net is .*; expected a network"),
        (tuple_of(xl.Relu, LOSS, X, T), TypeError, "the class Relu"),
        (tuple_of(NET, LOSS, X), TypeError, "t is missing"),
        (tuple_of(NET, LOSS, "digits"), TypeError, "x is 'digits'"),
        (tuple_of(NET, LOSS, 3), TypeError, "x is 3"),
        (tuple_of(NET, LOSS, {"x": X}), TypeError, "t is missing"),
        (tuple_of(NET, LOSS, (X, T)), TypeError, "x is a tuple of arrays"),
        (tuple_of(NET, LOSS, [X, T]), TypeError, "x is a list of arrays"),
        (tuple_of(NET, LOSS, X.tolist(), T), TypeError, "x is a list"),
        (tuple_of(NET, LOSS, X, T.tolist()), TypeError, "t is a list"),
        (tuple_of(NET, LOSS, X, T[:3]), ValueError, "22"),
        (tuple_of(NET, LOSS, X, T, metrics=["accuracy"]), TypeError, "metrics is "),
        (tuple_of(NET, LOSS, X, T, metrics={"loss": xl.accuracy}), ValueError, "called 'loss'"),
        (tuple_of(NET, LOSS, X, T, metrics={"f": 3}), TypeError, "metric f is 3"),
        (tuple_of(NET, LOSS, X, T, batch_size=0), ValueError, "batch_size is 0"),
        (tuple_of(NET, LOSS, X, T, batch_size=2.5), TypeError, "batch_size is 2.5"),
        (
            tuple_of(NET, xl.SoftmaxWithLoss(reduction="none"), X, T),
            ValueError,
            "the loss has shape",
        ),
    ],
)
def test_evaluate(call, error, words):
    with pytest.raises(error, match=words):
        xl.evaluate(*call[0], **call[1])


def test_columns_of_a_history_are_free_in_evaluate():
    metrics = {"epoch": xl.accuracy, "val_x": xl.accuracy}
    assert list(xl.evaluate(NET, LOSS, X, T, metrics=metrics)) == ["loss", "epoch", "val_x"]


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
    ("options", "error", "words"),
    [
        ({"every_steps": 0}, ValueError, "every_steps is 0; expected a positive number"),
        ({"every_steps": -3}, ValueError, "every_steps is -3"),
        ({"every_steps": True}, TypeError, "every_steps is True"),
        ({"every_steps": 2.5}, TypeError, "every_steps is 2.5"),
        ({"every_steps": "10"}, TypeError, "every_steps is '10'"),
        ({"every_minutes": float("nan")}, ValueError, "every_minutes is nan"),
        ({"every_minutes": float("inf")}, ValueError, "every_minutes is inf"),
        ({"every_minutes": "1"}, TypeError, "every_minutes is '1'"),
        ({"every_minutes": True}, TypeError, "every_minutes is True"),
        ({"keep": 0}, ValueError, "keep is 0"),
        ({"keep": None}, TypeError, "keep is None"),
        ({"keep": 1.0}, TypeError, "keep is 1.0"),
        ({"folder": NET}, TypeError, "folder is "),
    ],
)
def test_checkpoint(options, error, words, tmp_path):
    with pytest.raises(error, match=f"Checkpoint: {words}"):
        xl.Checkpoint(**{"folder": tmp_path, **options})


def test_checkpoint_methods(tmp_path):
    checkpoint = xl.Checkpoint(tmp_path / "run")
    for call, error, words in (
        (lambda: checkpoint.save(NET, 3), TypeError, r"The order is save\(step, net\)"),
        (lambda: checkpoint.save(-1, NET), ValueError, "step is -1; expected 0 or more"),
        (lambda: checkpoint.save("3", NET), TypeError, "step is '3'"),
        (lambda: checkpoint.save(True, NET), TypeError, "step is True"),
        (lambda: checkpoint.save(1, xl.Relu), TypeError, r"Call the class: Relu\(\)"),
        (lambda: checkpoint.save(1, NET.params), TypeError, "Pass the network itself"),
        (lambda: checkpoint.restore("net"), TypeError, "net is a str; expected a layer"),
    ):
        with pytest.raises(error, match=words):
            call()
    assert not list(tmp_path.iterdir())


def test_save_and_load(tmp_path):
    path = tmp_path / "net.safetensors"
    xl.save(path, NET)
    for call, words in (
        (lambda: xl.save(NET, path), r"net is a \w*Path; .*The order is save\(path, net\)"),
        (lambda: xl.load(NET, path), r"The order is load\(path, net\)"),
        (lambda: xl.load(path), r"load: net is missing\. .* make the network again"),
        (lambda: xl.load(path, xl.Relu), r"the class Relu; .*Call the class: Relu\(\)"),
        (lambda: xl.save(path, dict(NET.params)), "Pass the network itself, whose arrays these"),
        (lambda: xl.load(path, NET, cast="yes"), "cast is 'yes'; expected True or False"),
        (lambda: xl.load(path, NET, verify=0), "verify is 0; expected True or False"),
        (lambda: xl.read_metadata(NET), "path is "),
        (lambda: xl.save(path, NET, "notes"), "metadata is a str; expected a dict"),
    ):
        with pytest.raises(TypeError, match=words):
            call()
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


@pytest.mark.parametrize(
    ("rows", "error", "words"),
    [
        ([[1, 2]], TypeError, "History: a row is .*; expected numbers by name"),
        ({"epoch": 1}, TypeError, "rows is .*; expected a list of rows"),
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
            TypeError, match="History: .*; expected the name of a column or the num"
        ):
            history[key]
    assert history[np.int64(1)] == {"epoch": 2}


# Pictures


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


def test_an_empty_path_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in (
        lambda: xl.save("", NET),
        lambda: xl.load("", NET),
        lambda: xl.Checkpoint(""),
        lambda: xl.History().to_jsonl(""),
        lambda: xl.data.read_idx(""),
        lambda: xl.data.load_mnist(""),
    ):
        with pytest.raises(ValueError, match="(path|folder) is empty; expected a name"):
            call()
    assert not list(tmp_path.iterdir())
