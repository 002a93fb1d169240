"""A model of the command in Python: what it predicts is what the command does, on any library."""

import pickle
import re

import numpy as np
import pytest

import xplayers as xl
from xplayers.cli import datasets, main, models

CLASSES = {"strings": ("a", "b", "c"), "integers": (-2, 5, 7)}


@pytest.fixture(params=CLASSES)
def model(request, home):
    """Save a model of a table with large means, and return it as it is loaded."""
    rng = np.random.default_rng(0)
    x = rng.normal([1e6, 0.0, -3.0], [1.0, 5.0, 1e-3], (60, 3))
    np.savez("own.npz", x=x, t=np.asarray(CLASSES[request.param])[np.arange(60) % 3])
    models.make("mlp", datasets.read("own.npz"), [4], None, 0).save("m.safetensors")
    np.save("x.npy", x[:7])
    return xl.load_model("m.safetensors")


def test_it_predicts_what_the_command_predicts(model, capsys):
    x = np.load("x.npy")
    backend = ["--backend", "numpy"]
    assert main(["predict", "m.safetensors", "x.npy", "--output", "t.npy", *backend]) == 0
    options = ["--probabilities", "--output", "y.npy", *backend]
    assert main(["predict", "m.safetensors", "x.npy", *options]) == 0
    capsys.readouterr()
    for batch_size in (3, 256):
        t, y = model.predict(x, batch_size), model.predict_proba(x, batch_size)
        assert np.array_equal(t, np.load("t.npy"))
        assert t.dtype == np.load("t.npy").dtype
        np.testing.assert_allclose(y, np.load("y.npy"), rtol=1e-6)
        assert y.dtype == np.float32
    assert np.array_equal(model.predict(x), np.asarray(model.classes)[np.argmax(y, axis=1)])


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8"])
def test_it_computes_where_the_samples_are(xpv, model, dtype):
    if dtype == "float64" and dtype not in xpv.floats:
        pytest.skip("float64 is not here")
    host = np.abs(np.load("x.npy") - [1e6, 0, 0]).astype(dtype)
    x = xpv.asarray(host)
    y, t = model.predict_proba(x), model.predict(x)
    assert xl.namespace(y) is xl.namespace(x)
    assert str(y.dtype).endswith("float32")
    assert y.shape == (7, 3)
    expected = xl.load_model("m.safetensors")
    np.testing.assert_allclose(xl.to_numpy(y), expected.predict_proba(host), atol=2e-6)
    assert xl.to_numpy(t).tolist() == expected.predict(host).tolist()
    assert isinstance(t, np.ndarray) if isinstance(model.classes[0], str) else type(t) is type(y)


def test_no_samples(model):
    x = np.empty((0, 3))
    assert model.predict(x).shape == (0,)
    assert model.predict_proba(x).shape == (0, 3)


def test_samples_are_not_changed(model):
    x = np.load("x.npy")
    x.flags.writeable = False
    before = x.tobytes()
    model.predict(x)
    assert x.tobytes() == before


def test_saved_again_it_is_the_same_file(model, home):
    model.predict(np.load("x.npy"))
    model.save(home / "again.safetensors")
    assert (home / "again.safetensors").read_bytes() == (home / "m.safetensors").read_bytes()


def test_it_can_be_pickled(model):
    x = np.load("x.npy")
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict_proba(x), model.predict_proba(x))


def test_it_says_what_it_is(model):
    names = ", ".join(map(str, model.classes))
    assert repr(model) == f"<Model of m.safetensors: 3 -> 4 -> 3; classes {names}>"


def test_it_names_some_of_many_classes(home):
    np.savez("own.npz", x=np.zeros((24, 2, 8, 8)), t=np.arange(24) % 12)
    model = models.make("cnn", datasets.read("own.npz"), [], [3], 0)
    assert repr(model) == (
        "<Model: 2x8x8 -> convolution 3 -> 12; classes 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... (12)>"
    )
    assert model.predict(np.zeros((5, 128))).shape == (5,)  # as flattened rows


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        ([[1.0, 2.0, 3.0]], TypeError, "x is a list; expected an array of numpy"),
        (np.zeros(3), ValueError, r"x has shape (3,); the network takes (n, 3). A single sample"),
        (np.zeros((2, 4)), ValueError, "x has shape (2, 4); the network takes (n, 3)"),
        (np.zeros((2, 3), complex), ValueError, "x is complex128; expected numbers"),
        (np.full((2, 3), np.nan), ValueError, "x has values that are not finite: row 0, column 0"),
        (np.full((2, 3), 1e300), ValueError, "x, standardised, has values that are not finite"),
    ],
)
def test_samples_that_do_not_fit(model, x, error, words):
    for method in ("predict", "predict_proba"):
        with pytest.raises(error) as caught:
            getattr(model, method)(x)
        assert str(caught.value).startswith(f"Model.{method}: {words}")


def test_scores_that_are_not_finite(model):
    x = np.load("x.npy")
    model.net.params["0.W"] = model.net.params["0.W"] * 1e38
    x[5] = 1e7
    with pytest.raises(ValueError, match=r"m.safetensors has no finite scores for row \d \(from"):
        model.predict(x)


def test_a_wrong_batch_size(model):
    with pytest.raises(ValueError, match=r"Model.predict: batch_size is 0; expected"):
        model.predict(np.load("x.npy"), batch_size=0)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: np.save("f", np.zeros(3)), "f.npy is a NumPy array (.npy); expected a model"),
        (lambda: xl.save("f.npy", xl.mlp([2, 2])), "(it has no architecture; in Python xl.load("),
    ],
)
def test_other_files(home, write, words):
    write()
    with pytest.raises(ValueError, match=re.escape(words)):
        xl.load_model("f.npy")


def test_what_is_no_path():
    with pytest.raises(TypeError, match=r"load_model: path is 3; expected a str"):
        xl.load_model(3)
    with pytest.raises(FileNotFoundError):
        xl.load_model("nothing.safetensors")
