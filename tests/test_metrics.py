"""Metrics, and mini-batches."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_same_bits, needs_values, values

import xplayers as xl
from xplayers.arrays.transfer import to_numpy

Y = np.asarray([[0.1, 0.9, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 3.0], [5.0, 0.0, 0.0]])
T = np.asarray([1, 1, 2, 0])


class TestAccuracy:
    def test_of_labels_and_of_one_hot(self, xpv):
        y = xpv.asarray(Y, "float32")
        for t in (T, T.astype("uint8"), np.eye(3, dtype="float32")[T], np.eye(3, dtype=bool)[T]):
            got = xl.accuracy(y, xpv.asarray(t))
            assert got.shape == ()
            assert float(got) == 0.75

    def test_of_sequences_and_of_nothing(self, xpv):
        y = xpv.asarray(Y.reshape(2, 2, 3), "float32")
        assert float(xl.accuracy(y, xpv.asarray(T.reshape(2, 2)))) == 0.75
        none = xpv.asarray(np.zeros((0, 3)), "float32")
        assert float(xl.accuracy(none, xpv.asarray(np.zeros(0, "int64")))) == 0.0

    def test_mistakes(self, xpv):
        y = xpv.asarray(Y, "float32")
        with pytest.raises(ValueError, match=r"t has shape \(4, 1\); expected \(4,\) integers"):
            xl.accuracy(y, xpv.asarray(T[:, None]))
        with pytest.raises(TypeError, match="labels are integers"):
            xl.accuracy(y, xpv.asarray(T, "float32"))
        with pytest.raises(ValueError, match=r"y has shape \(4,\); expected \(n, c\)"):
            xl.accuracy(xpv.asarray(T, "float32"), xpv.asarray(T))


class TestWeights:
    COUNTS = np.asarray([1, 0, 2, 3])

    def test_are_repetitions(self, xpv):
        y, w = Y.copy(), xpv.asarray(self.COUNTS)
        many, t = np.repeat(Y, self.COUNTS, axis=0), xpv.asarray(T)
        of_many = xpv.asarray(many, "float32"), xpv.asarray(np.repeat(T, self.COUNTS))
        y[1] = np.nan  # of weight 0
        y = xpv.asarray(y, "float32")
        assert float(xl.accuracy(y, t, w)) == float(xl.accuracy(*of_many)) == 1.0
        half = xpv.asarray([1.0, 1.0, 0.5, 0.0], "float32")
        assert float(xl.accuracy(y, t, sample_weight=half)) == pytest.approx(0.6)
        counts = xl.confusion_matrix(y, t, sample_weight=w)
        assert to_numpy(counts).tolist() == to_numpy(xl.confusion_matrix(*of_many)).tolist()
        labels = xpv.asarray([0, 1, 1, 2])
        found = to_numpy(xl.confusion_matrix(labels, t, 3, half))
        assert found.tolist() == [[0, 0, 0], [1, 1, 0], [0, 0.5, 0]]

    def test_of_sequences(self, xpv):
        y, t = xpv.asarray(Y.reshape(2, 2, 3), "float32"), xpv.asarray(T.reshape(2, 2))
        assert float(xl.accuracy(y, t, xpv.asarray([1, 3]))) == 7 / 8
        assert float(xl.accuracy(y, t, xpv.asarray([[1, 2], [3, 0]]))) == pytest.approx(4 / 6)
        found = to_numpy(xl.confusion_matrix(y, t, sample_weight=xpv.asarray([1, 3])))
        assert found.tolist() == [[3, 0, 0], [1, 1, 0], [0, 0, 3]]

    def test_mistakes(self, xpv):
        y, t = xpv.asarray(Y, "float32"), xpv.asarray(T)
        for metric in (xl.accuracy, xl.confusion_matrix):
            name = metric.__name__
            with pytest.raises(ValueError, match=rf"{name}: sample_weight has shape \(3,\)"):
                metric(y, t, sample_weight=xpv.asarray([1, 2, 3]))
            with pytest.raises(TypeError, match=f"{name}: sample_weight"):
                metric(y, t, sample_weight=[1.0] * 4)
        assert float(xl.accuracy(y, t, xpv.asarray([0, 0, 0, 0]))) == 0.0
        needs_values(xpv)
        for metric in (xl.accuracy, xl.confusion_matrix):
            expected = f"{metric.__name__}: sample_weight has a value of -1"
            with pytest.raises(ValueError, match=expected):
                metric(y, t, sample_weight=xpv.asarray([1.0, -1.0, 1.0, 1.0], "float32"))


class TestConfusionMatrix:
    def test_counts(self, xpv):
        expected = [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
        y = xpv.asarray(Y, "float32")
        for t in (T, T.astype("uint8"), np.eye(3, dtype="float32")[T]):
            assert to_numpy(xl.confusion_matrix(y, xpv.asarray(t))).tolist() == expected
        labels = xpv.asarray(np.asarray([1, 0, 2, 0]))
        assert to_numpy(xl.confusion_matrix(labels, xpv.asarray(T), 3)).tolist() == expected

    def test_many(self, xpv):
        rng = np.random.default_rng(0)
        t, p = rng.integers(0, 7, 1000), rng.integers(0, 7, 1000)
        expected = np.zeros((7, 7), int)
        np.add.at(expected, (t, p), 1)
        got = xl.confusion_matrix(xpv.asarray(p), xpv.asarray(t), classes=7)
        assert to_numpy(got).tolist() == expected.tolist()

    def test_mistakes(self, xpv):
        with pytest.raises(ValueError, match=r"t has shape \(3,\); expected \(4,\)"):
            xl.confusion_matrix(xpv.asarray(T), xpv.asarray(T[:3]), 3)
        with pytest.raises(ValueError, match="confusion_matrix: t has shape"):
            xl.confusion_matrix(xpv.asarray(Y, "float32"), xpv.asarray(T[:3]))


class TestMinibatches:
    def test_every_sample_once_in_order(self, xpv):
        x, t = xpv.asarray(values((10, 2)), "float32"), xpv.asarray(np.arange(10))
        batches = list(xl.minibatches(x, t, 4))
        assert [b[1].shape[0] for b in batches] == [4, 4, 2]
        assert np.concatenate([to_numpy(b[1]) for b in batches]).tolist() == list(range(10))
        assert_same_bits(np.concatenate([to_numpy(b[0]) for b in batches]), to_numpy(x))

    def test_shuffled_by_a_seed_alike_on_every_library(self, xpv):
        x, t = xpv.asarray(values((10, 2)), "float32"), xpv.asarray(np.arange(10))
        order = np.random.default_rng(5).permutation(10)
        for rng in (5, np.random.default_rng(5)):
            got = [to_numpy(b) for _, b in xl.minibatches(x, t, 4, rng=rng)]
            assert np.concatenate(got).tolist() == order.tolist()
        for batch, labels in xl.minibatches(x, t, 3, rng=1):
            assert_same_bits(batch, to_numpy(x)[to_numpy(labels)])

    def test_the_last_batch_may_be_dropped(self, xpv):
        x = xpv.asarray(values((10, 2, 2)), "float32")
        sizes = [b.shape[0] for b, _ in xl.minibatches(x, x, 4, drop_last=True)]
        assert sizes == [4, 4]
        assert not list(xl.minibatches(x, x, 11, drop_last=True))
        assert len(list(xl.minibatches(x, x, 11))) == 1

    def test_batches_are_copies(self):
        x = np.zeros((4, 2))
        for batch, _ in xl.minibatches(x, x, 2):
            batch += 1
        assert not x.any()

    def test_mistakes_are_found_at_the_call(self):
        with pytest.raises(ValueError, match="batch_size is 0; expected 1 or more"):
            xl.minibatches(np.zeros((4, 2)), np.zeros(4), 0)
        with pytest.raises(ValueError, match="x has 4 samples, t has 3"):
            xl.minibatches(np.zeros((4, 2)), np.zeros(3), 2)


def test_labels_out_of_range_are_not_counted_elsewhere(xpv):
    with pytest.raises(TypeError, match="confusion_matrix: .*labels are integers"):
        xl.confusion_matrix(xpv.asarray([0, 1]), xpv.asarray([0.0, 1.7], "float32"), 3)
    needs_values(xpv)
    with pytest.raises(ValueError, match="label 4 in y is out of range; expected 0 to 2"):
        xl.confusion_matrix(xpv.asarray([4, 0]), xpv.asarray([0, 1]), 3)


@pytest.mark.parametrize(("y", "t"), [([4, 0], [0, 1]), ([-1, 0], [1, 1]), ([2, 0], [-1, 1])])
def test_pairs_out_of_range_are_not_counted_where_values_are_not_looked_at(y, t, xpv, monkeypatch):
    monkeypatch.setattr("xplayers.metrics.on_host", lambda a: False)
    counts = to_numpy(xl.confusion_matrix(xpv.asarray(y), xpv.asarray(t), 3))
    assert counts.tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]


class TestPrecisionRecall:
    Y = np.asarray([0, 0, 1, 2, 2, 2, 0, 1])
    T = np.asarray([0, 1, 1, 2, 0, 2, 0, 0])

    def test_of_labels_and_of_scores(self, xpv):
        t = xpv.asarray(self.T)
        scores = xpv.asarray(np.eye(4)[self.Y], "float32")  # a class that nothing has
        for got in (
            xl.precision_recall(xpv.asarray(self.Y), t, 4),
            xl.precision_recall(scores, t),
        ):
            assert to_numpy(got.precision).tolist() == pytest.approx([2 / 3, 1 / 2, 2 / 3, 0])
            assert to_numpy(got.recall).tolist() == pytest.approx([2 / 4, 1 / 2, 1, 0])
            assert to_numpy(got.f1).tolist() == pytest.approx([4 / 7, 1 / 2, 4 / 5, 0])
            assert to_numpy(got.samples).tolist() == [4, 2, 2, 0]

    def test_weights_are_repetitions(self, xpv):
        y, t, w = self.Y, self.T, np.asarray([1, 2, 0, 3, 1, 1, 2, 1])
        got = xl.precision_recall(
            xpv.asarray(y), xpv.asarray(t), 4, xpv.asarray(w.astype("float32"))
        )
        expected = xl.precision_recall(np.repeat(y, w), np.repeat(t, w), 4)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(to_numpy(a), b, rtol=1e-6)

    def test_is_scikit_learns(self):
        reference = pytest.importorskip("sklearn.metrics").precision_recall_fscore_support
        rng = np.random.default_rng(0)
        y, t = rng.integers(0, 7, (2, 500))
        expected = reference(t, y, labels=range(8), zero_division=0)
        for got, want in zip(xl.precision_recall(y, t, 8), expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-15)

    def test_mistakes(self, xpv):
        t = xpv.asarray(self.T)
        with pytest.raises(ValueError, match="For predicted labels pass the number of classes"):
            xl.precision_recall(t, t)


class TestBinaryAccuracy:
    def test_of_scores_and_of_probabilities(self, xpv):
        y, t = [[3.0, -1.0], [-2.0, 0.5], [0.25, 0.0]], [[1, 0], [1, 0], [1, 0]]
        for dtype in ("float32", "int32", "bool"):
            targets = xpv.asarray(np.asarray(t), dtype)
            got = xl.binary_accuracy(xpv.asarray(np.asarray(y), "float32"), targets)
            assert got.shape == ()
            assert float(got) == pytest.approx(4 / 6)
        sure = xl.binary_accuracy(xpv.asarray(np.asarray(y), "float32"), targets, threshold=0.5)
        assert float(sure) == pytest.approx(4 / 6)
        assert float(xl.binary_accuracy(targets, targets)) == 1.0

    def test_nan_is_wrong_and_nothing_is_zero(self, xpv):
        y = xpv.asarray(np.asarray([np.nan, np.nan, -1.0, 1.0]), "float32")
        t = xpv.asarray(np.asarray([0, 1, 0, 0]))
        assert float(xl.binary_accuracy(y, t)) == 0.25
        assert float(xl.binary_accuracy(y[:0], t[:0])) == 0.0

    def test_mistakes(self, xpv):
        y, t = xpv.asarray(np.zeros((4, 1)), "float32"), xpv.asarray(np.zeros(4), "float32")
        with pytest.raises(ValueError, match=r"expected \(4, 1\). A column of scores is y\[:, 0\]"):
            xl.binary_accuracy(y, t)
        with pytest.raises(TypeError, match="binary_accuracy: threshold is '0.5'"):
            xl.binary_accuracy(t, t, "0.5")
