"""Accuracies as the quotients of integers: exact, of batches of any size and however many."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from helpers import needs_values, values

import xplayers as xl
from xplayers.arrays.namespaces import dtype_name
from xplayers.arrays.transfer import to_numpy
from xplayers.training.fetching import fetched

NAN = math.nan


def guesses(n, right, classes=3, seed=0):
    """Return scores and labels of n samples of which so many are right, in any order."""
    rng = np.random.default_rng(seed)
    t = rng.integers(0, classes, n)
    wrong = rng.permutation(n) >= right
    return np.eye(classes)[(t + wrong) % classes].astype("float32"), t


@pytest.mark.parametrize(("n", "right"), [(100, 50), (49, 1), (7, 3), (1000, 999), (3, 3), (3, 0)])
def test_the_quotient_is_exact(n, right, xpv):
    y, t = guesses(n, right)
    got = xl.accuracy(xpv.asarray(y), xpv.asarray(t))
    assert got.shape == ()
    wide = "float64" if "float64" in xpv.floats and xpv.backend != "jax" else dtype_name(got.dtype)
    assert dtype_name(got.dtype) == wide
    assert float(got) == (right / n if wide == "float64" else float(np.float32(right / n)))


@pytest.mark.parametrize(
    "sizes", [[100], [33, 67], [50, 50], [1] * 100, [49, 49, 2], [7] * 14 + [2]]
)
def test_an_evaluation_does_not_depend_on_the_batches(sizes, xpv):
    if xpv.backend == "jax" and sizes != [33, 67]:
        pytest.skip("each size is compiled")
    y, t = guesses(100, 50)
    ends = np.cumsum(sizes).tolist()
    parts = [slice(b - a, b) for a, b in zip(sizes, ends, strict=True)]
    batches = [(xpv.asarray(y[p]), xpv.asarray(t[p])) for p in parts]
    for right in (50, 51):
        results = xl.evaluate(xl.Sequential(xl.Flatten()), xl.SoftmaxWithLoss(), batches)
        assert results["accuracy"] == right / 100
        wrong = next(i for i in range(100) if y[i].argmax() != t[i])
        y[wrong] = np.eye(3)[t[wrong]]  # one more is right
        batches = [(xpv.asarray(y[p]), xpv.asarray(t[p])) for p in parts]


@pytest.mark.only("numpy", "strict", "torch")
def test_of_sequences(xpv):
    """The mean over samples, each of as many positions as it has, also where these differ."""
    y, t = guesses(30, 11)
    x, labels = xpv.asarray(y.reshape(6, 5, 3)), xpv.asarray(t.reshape(6, 5))
    net = xl.Sequential(xl.Reshape(5, 3))
    for size in (1, 4, 6):
        results = xl.evaluate(net, xl.SoftmaxWithLoss(), x, labels, batch_size=size)
        assert results["accuracy"] == 11 / 30
    net = xl.Sequential(xl.Map(xl.Softmax()))
    batches = [(x[:2, ...], labels[:2, ...]), (x[2:3, :3, ...], labels[2:3, :3])]
    measured = xl.evaluate(net, xl.SoftmaxWithLoss(), batches)["accuracy"]
    right = (to_numpy(x).argmax(-1) == to_numpy(labels)).astype(int)
    assert measured == float(
        Fraction(int(right[:2].sum()), 15) + Fraction(int(right[2, :3].sum()), 9)
    )


@pytest.mark.only("numpy", "torch")
def test_more_samples_than_float32_can_count(xpv):
    n = 2**24 + 5
    y = np.zeros((n, 2), "float32")
    y[:, 0] = 1.0
    y[-1] = [0.0, 1.0]  # wrong
    right = n - 1
    scores, labels = xpv.asarray(y), xpv.asarray(np.zeros(n, "uint8"))
    assert float(xl.accuracy(scores, labels)) == right / n


def test_an_epoch_that_is_as_good_is_not_better(xpv):
    """50 of 100 stay 50 of 100 where others are right, in other batches."""
    if xpv.backend == "jax":
        pytest.skip("the same code")

    class Given(xl.Layer):
        """Scores which are given for each epoch."""

        W, dW = xl.Parameter(), xl.Gradient()
        epoch = 0

        def __init__(self):
            self.W = xpv.asarray(np.zeros(1), "float32")

        def apply(self, arrays, x):
            return x[:, 3 * self.epoch : 3 * self.epoch + 3], ()

        def vjp(self, cache, dy):
            return None, {"W": dy[0, :1]}

    _, t = guesses(100, 50)
    wrong = [np.random.default_rng(seed).permutation(100) < 50 for seed in range(4)]
    scores = [np.eye(3)[(t + w) % 3] for w in wrong]
    x = xpv.asarray(np.concatenate(scores, axis=1), "float32")
    net = Given()

    def next_epoch(event):
        if event.kind == "epoch":
            net.epoch += 1

    trainer = xl.Trainer(
        net, xl.SoftmaxWithLoss(), xl.SGD(0.1), batch_size=100, epochs=4, eval_batch_size=33,
        monitor="val_accuracy", patience=3, progress=False, callbacks=[next_epoch], compile=False,
    )  # fmt: skip
    labels = xpv.asarray(t)
    history = trainer.fit(x, labels, validation=(x, labels))
    assert history["val_accuracy"].tolist() == [0.5] * 4
    assert history.best_epoch == 1


def test_metrics_of_the_host_keep_their_digits(xpv):
    y, t = guesses(10, 3)
    net = xl.Sequential(xl.Flatten())
    results = xl.evaluate(
        net, xl.SoftmaxWithLoss(), xpv.asarray(y), xpv.asarray(t), batch_size=10,
        metrics={"third": lambda y, t: 1 / 3, "tenth": lambda y, t: np.float64(0.1),
                 "two": lambda y, t: 2},
    )  # fmt: skip
    assert list(results.items())[1:] == [("third", 1 / 3), ("tenth", 0.1), ("two", 2.0)]


def test_numbers_of_several_kinds_come_over_in_order(xpv):
    whole = xpv.asarray(np.asarray(2**31 - 5, "int32"))
    half = xpv.asarray(np.asarray(0.5), "float32")
    got = fetched([half, 0.1, whole, half, whole, whole])
    assert got.dtype == np.float64
    assert got.tolist() == [0.5, 0.1, 2**31 - 5, 0.5, 2**31 - 5, 2**31 - 5]


class TestOneColumn:
    """The largest of one score is always the first."""

    @pytest.mark.parametrize("shape", [(4, 1), (2, 2, 1), (0, 1), (4, 0)])
    def test_is_refused(self, shape, xpv):
        y = xpv.asarray(np.zeros(shape), "float32")
        for t in (xpv.asarray(np.zeros(shape[:-1], "int64")), y):
            for metric in (xl.accuracy, xl.confusion_matrix):
                with pytest.raises(ValueError, match="expected the scores of at least two classes"):
                    metric(y, t)

    def test_what_the_error_says_is_right(self, xpv):
        y = np.asarray([[-1.5], [0.25], [2.0], [-0.1]])
        t = xpv.asarray(np.asarray([0, 1, 0, 0]))
        two = xpv.asarray(np.concatenate([-y, y], axis=-1), "float32")
        assert float(xl.accuracy(two, t)) == 0.75
        p = 1 / (1 + np.exp(-y))
        two = xpv.asarray(np.concatenate([1 - p, p], axis=-1), "float32")
        assert float(xl.accuracy(two, t)) == 0.75
        assert to_numpy(xl.confusion_matrix(two, t)).tolist() == [[2, 1], [0, 1]]


class TestWhatSaysNoClass:
    def test_scores_with_nan_are_wrong(self, xpv):
        y = xpv.asarray([[NAN, NAN], [1.0, NAN], [1.0, 0.0], [math.inf, 0.0]], "float32")
        t = xpv.asarray(np.asarray([0, 0, 0, 0]))
        assert float(xl.accuracy(y, t)) == 0.5
        needs_values(xpv)
        with pytest.raises(ValueError, match="confusion_matrix: y contains NaN"):
            xl.confusion_matrix(y, t)

    def test_targets_with_nan(self, xpv):
        needs_values(xpv)
        y = xpv.asarray(values((2, 2)), "float32")
        for metric in (xl.accuracy, xl.confusion_matrix):
            with pytest.raises(ValueError, match=f"{metric.__name__}: t contains NaN"):
                metric(y, xpv.asarray([[0.0, 1.0], [NAN, 1.0]], "float32"))

    def test_that_cannot_be_looked_at(self, xpv, monkeypatch):
        monkeypatch.setattr("xplayers.metrics.on_host", lambda a: False)
        y = xpv.asarray([[NAN, NAN], [1.0, NAN], [1.0, 0.0], [1.0, 2.0]], "float32")
        t = xpv.asarray(np.asarray([-1, 0, 2, 1]))
        assert float(xl.accuracy(y, t)) == 0.25
        assert to_numpy(xl.confusion_matrix(y, t)).tolist() == [[0, 0], [0, 1]]

    @pytest.mark.parametrize("label", [-1, 3, 200])
    def test_labels_out_of_range(self, label, xpv):
        needs_values(xpv)
        y = xpv.asarray(values((2, 3)), "float32")
        for dtype in ("int64", "uint8")[: 1 + (label > 0)]:
            t = xpv.asarray(np.asarray([label, 0], dtype))
            for metric in (xl.accuracy, xl.confusion_matrix):
                with pytest.raises(
                    ValueError, match=f"{metric.__name__}: label {label} in t is out"
                ):
                    metric(y, t)


class TestMistakes:
    @pytest.mark.parametrize("metric", [xl.accuracy, xl.confusion_matrix])
    def test_no_arrays(self, metric, xpv):
        y, t = xpv.asarray(values((2, 3)), "float32"), xpv.asarray(np.asarray([0, 1]))
        name = metric.__name__
        for bad in ([0, 1], ["a", "b"], None, 3):
            with pytest.raises(TypeError, match=rf"{name}: t is a .*np.asarray\(t\)"):
                metric(y, bad)
            with pytest.raises(TypeError, match=rf"{name}: y is a .*; expected an array"):
                metric(bad, t)

    @pytest.mark.parametrize("metric", [xl.accuracy, xl.confusion_matrix])
    def test_no_real_numbers(self, metric):
        y, t = values((2, 3)), np.asarray([0, 1])
        for bad in (np.asarray(["a", "b"]), np.asarray([["a"] * 3] * 2), np.full((2, 3), 1j)):
            with pytest.raises(TypeError, match=f"{metric.__name__}: t is .*; expected real numb"):
                metric(y, bad)
        with pytest.raises(TypeError, match=f"{metric.__name__}: y is complex128; expected real"):
            metric(y * 1j, t)

    def test_predicted_labels(self, xpv):
        t = xpv.asarray(np.asarray([0, 1, 1]))
        with pytest.raises(ValueError, match=r"expected \(n, c\). For predicted labels, take"):
            xl.accuracy(t, t)
        with pytest.raises(ValueError, match=r"pass the number of classes: confusion_matrix\(y"):
            xl.confusion_matrix(t, t)

    def test_numbers_of_classes(self, xpv):
        t = xpv.asarray(np.asarray([0, 1, 1]))
        for classes, error in (
            (0, ValueError),
            (-1, ValueError),
            (2.5, TypeError),
            ("2", TypeError),
        ):
            with pytest.raises(error, match="confusion_matrix: classes is .*; expected .*integer"):
                xl.confusion_matrix(t, t, classes)
        assert to_numpy(xl.confusion_matrix(t, t, np.int64(2))).tolist() == [[1, 0], [0, 2]]

    def test_metrics_that_are_no_numbers(self, xpv):
        y, t = guesses(4, 2)
        x, t = xpv.asarray(y), xpv.asarray(t)
        net, loss = xl.Sequential(xl.Flatten()), xl.SoftmaxWithLoss()
        for metric, error in ((lambda y, t: "0.5", TypeError), (lambda y, t: None, TypeError),
                              (lambda y, t: y[:, 0], ValueError)):  # fmt: skip
            with pytest.raises(error, match="evaluate: metric mine .*; expected a scalar"):
                xl.evaluate(net, loss, x, t, metrics={"mine": metric})
        with pytest.raises(ValueError, match="evaluate: the loss has shape"):
            xl.evaluate(net, xl.SoftmaxWithLoss(reduction="none"), x, t)
