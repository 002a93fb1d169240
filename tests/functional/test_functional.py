"""Plain functions: the questions people ask, shapes, dtypes, purity and accuracy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import (
    TOLERANCE,
    assert_at_home,
    assert_close,
    assert_same_bits,
    needs_values,
    share_memory,
    values,
)

import xplayers as xl
from xplayers import functional as F
from xplayers.accelerate.host.kernels import kernel
from xplayers.arrays.namespaces import on_host
from xplayers.arrays.transfer import to_numpy

ACTIVATIONS = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "sigmoid": F.sigmoid,
    "tanh": F.tanh,
    "softplus": F.softplus,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu-none": lambda x: F.gelu(x, approximate="none"),
}
DERIVATIVES = {
    "relu": F.relu_derivative,
    "leaky_relu": F.leaky_relu_derivative,
    "elu": F.elu_derivative,
    "sigmoid": F.sigmoid_derivative,
    "tanh": F.tanh_derivative,
    "softplus": F.softplus_derivative,
    "silu": F.silu_derivative,
    "gelu": F.gelu_derivative,
    "gelu-none": lambda x: F.gelu_derivative(x, approximate="none"),
}


class TestQuestions:
    """The questions that the project grew out of."""

    def test_my_relu_derivative_changed_another_variable(self, xpv):
        x = xpv.asarray(np.asarray([5.0, 1.0, -4.0, 0.0]), "float32")
        y = F.relu(x)
        z = F.relu_derivative(y)
        assert to_numpy(z).tolist() == [1, 1, 0, 0]
        assert to_numpy(y).tolist() == [5, 1, 0, 0]
        assert to_numpy(x).tolist() == [5, 1, -4, 0]
        assert not share_memory(z, y)
        assert to_numpy(F.relu_derivative(x)).tolist() == [1, 1, 0, 0]

    def test_my_x_is_a_matrix(self, xpv):
        for shape in [(), (3,), (2, 3), (2, 3, 4)]:
            for dtype in [*xpv.floats, "int32"]:
                x = xpv.asarray(values(shape), dtype)
                assert_at_home(F.relu_derivative(x), x)
                assert F.relu_derivative(x).shape == shape

    @pytest.mark.parametrize(
        "answer",
        [
            lambda x: (x > 0).astype(x.dtype),
            lambda x: np.greater(x, 0).astype(x.dtype),
            lambda x: np.where(x > 0, 1.0, 0.0).astype(x.dtype),
            lambda x: np.heaviside(x, 0),
            lambda x: (1.0 * (x > 0)).astype(x.dtype),
            lambda x: (x > 0) * np.ones_like(x),
            lambda x: np.sign(np.maximum(x, 0)),
            lambda x: np.minimum(np.ceil(np.maximum(x, 0)), 1),
            lambda x: np.array([1.0 if v > 0 else 0.0 for v in x.flat], x.dtype).reshape(x.shape),
            lambda x: np.vectorize(lambda v: 1.0 if v > 0 else 0.0, otypes=[x.dtype])(x),
        ],
    )
    def test_the_ten_answers_agree(self, answer):
        x = np.concatenate([values((5, 4)), np.zeros((1, 4))])
        expected = answer(x.copy())
        assert_same_bits(F.relu_derivative(x), expected)

    def test_what_drelu_where_z_is_at_most_zero_means(self, xpv):
        z = xpv.asarray(np.asarray([[1.0, -0.5], [0.0, 3.0]]), "float32")
        dy = xpv.asarray(np.asarray([[10.0, 20.0], [30.0, -40.0]]), "float32")
        layer = xl.Relu()
        layer.forward(z)
        dx = layer.backward(dy)
        assert to_numpy(dx).tolist() == [[10, 0], [0, -40]]
        assert to_numpy(dy).tolist() == [[10, 20], [30, -40]]

    def test_the_relu_and_sigmoid_layers_of_the_book(self, xpv):
        x = xpv.asarray(np.asarray([[1.0, -0.5], [-2.0, 3.0]]), "float32")
        relu, sigmoid = xl.Relu(), xl.Sigmoid()
        assert to_numpy(relu.forward(x) <= 0).tolist() == [[False, True], [True, False]]
        y = sigmoid.forward(x)
        dy = xpv.asarray(values((2, 2)), "float32")
        assert_close(sigmoid.backward(dy), to_numpy(dy) * to_numpy(y) * (1 - to_numpy(y)), 1e-6)

    @pytest.mark.parametrize("one_hot", [False, True])
    def test_affine_and_softmax_with_loss_of_the_book(self, xpv, one_hot):
        W, b, x = values((6, 4), 1), values((4,), 2), values((5, 2, 3), 0)
        labels = np.asarray([0, 3, 1, 1, 2])
        target = np.eye(4, dtype="float32")[labels] if one_hot else labels
        affine = xl.Affine(xpv.asarray(W, "float32"), xpv.asarray(b, "float32"))
        loss = xl.SoftmaxWithLoss()
        scores = affine.forward(xpv.asarray(x, "float32"))
        loss.forward(scores, xpv.asarray(target))
        dy = loss.backward()
        dx = affine.backward(dy)
        s = x.reshape(5, 6) @ W + b
        y = np.exp(s) / np.exp(s).sum(1, keepdims=True)
        expected = (y - np.eye(4)[labels]) / 5
        assert_close(dy, expected, 2e-6)
        assert_close(dx, (expected @ W.T).reshape(5, 2, 3), 2e-6)
        assert_close(affine.dW, x.reshape(5, 6).T @ expected, 2e-6)
        assert_close(affine.db, expected.sum(0), 2e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
class TestActivations:
    def test_keeps_shape_dtype_and_input(self, name, xpv):
        for dtype in xpv.floats:
            x = xpv.asarray(values((3, 4)), dtype)
            before = to_numpy(x).copy()
            for function in (ACTIVATIONS[name], DERIVATIVES[name]):
                y = function(x)
                assert_at_home(y, x)
                assert y.shape == x.shape
                assert not share_memory(y, x)
            assert_same_bits(x, before)

    def test_the_derivative_is_that_of_the_function(self, name, xpv):
        if "float64" not in xpv.floats:
            pytest.skip("no float64 here")
        x = values((40,))
        f = lambda x: to_numpy(ACTIVATIONS[name](xpv.asarray(x, "float64")))  # noqa: E731
        numerical = (f(x + 1e-6) - f(x - 1e-6)) / 2e-6
        assert_close(DERIVATIVES[name](xpv.asarray(x, "float64")), numerical, 1e-8)

    def test_large_arrays_give_the_bits_of_small_ones(self, name, monkeypatch):
        """NumPy's blocks and threads change nothing."""
        monkeypatch.setattr(
            kernel, "smallest", lambda: math.inf
        )  # it has an exponential of its own
        x = values((300_001,)).astype("float32")
        for function in (ACTIVATIONS[name], DERIVATIVES[name]):
            parts = np.concatenate([function(x[i : i + 4000]) for i in range(0, x.size, 4000)])
            assert_same_bits(function(x), parts)

    def test_integers(self, name, xpv):
        x = xpv.asarray(np.asarray([5, 1, -4, 0]))
        if name == "relu":
            assert to_numpy(F.relu(x)).tolist() == [5, 1, 0, 0]
            assert_at_home(F.relu(x), x)
        else:
            with pytest.raises(TypeError, match="expected floating-point values. Convert it"):
                ACTIVATIONS[name](x)

    def test_lists(self, name):
        with pytest.raises(TypeError, match="is a list; expected an array of numpy"):
            ACTIVATIONS[name]([1.0])


class TestSigmoid:
    def test_exact_wherever_the_result_is_a_normal_number(self, xpv):
        """And no warning anywhere: warnings are errors."""
        for dtype in xpv.floats:
            if "16" in dtype:
                continue
            smallest = float(np.finfo(dtype).tiny)
            x = np.linspace(math.log(smallest), 40.0, 20_001).astype(dtype)
            got = to_numpy(F.sigmoid(xpv.asarray(x, dtype))).astype("longdouble")
            exact = 1 / (1 + np.exp(-x.astype("longdouble")))
            normal = exact >= smallest
            limit = 1e-6 if dtype == "float32" else 1e-15
            assert np.max(np.abs(got / exact - 1)[normal]) < limit

    def test_extremes(self, xpv):
        x = xpv.asarray(np.asarray([1e4, -1e4, np.inf, -np.inf, 0.0]), "float32")
        y = to_numpy(F.sigmoid(x))
        assert y[[0, 2, 4]].tolist() == [1.0, 1.0, 0.5]
        assert (y[[1, 3]] < 1e-38).all()


class TestSoftmax:
    def test_adds_up_to_one(self, xpv):
        x = xpv.asarray(values((5, 7), scale=1e3), "float32")
        assert_close(to_numpy(F.softmax(x)).sum(1), np.ones(5), 1e-6)
        assert_close(to_numpy(F.softmax(x, axis=0)).sum(0), np.ones(7), 1e-6)

    @pytest.mark.parametrize("function", [F.softmax, F.log_softmax])
    def test_softmax_of_integers(self, function, xpv):
        name = function.__name__
        with pytest.raises(TypeError, match=rf"{name}: x is .*int.*; expected floating-point"):
            function(xpv.asarray([[1, 2]]))

    def test_log_softmax_is_its_logarithm_and_finite(self, xpv):
        x = xpv.asarray(values((5, 7)), "float32")
        assert_close(F.log_softmax(x), np.log(to_numpy(F.softmax(x)).astype("float64")), 1e-6)
        assert np.isfinite(to_numpy(F.log_softmax(xpv.asarray([[1e4, -1e4]], "float32")))).all()

    def test_sixteen_bits_are_summed_in_thirty_two(self, xpv):
        for dtype in xpv.floats:
            x = xpv.asarray(np.zeros((1, 100_000)), dtype)
            assert_close(F.softmax(x)[0, :3], np.full(3, 1e-5), 10 * TOLERANCE[dtype])
            assert_at_home(F.log_softmax(x), x)


class TestCrossEntropyError:
    def test_labels_and_probabilities(self, xpv):
        y = np.asarray([[0.1, 0.7, 0.2], [0.3, 0.3, 0.4]])
        expected = -(math.log(0.7) + math.log(0.3)) / 2
        labels = np.asarray([1, 0])
        at = xpv.asarray(y, "float32")
        for t in (labels, np.eye(3, dtype="float32")[labels]):
            got = F.cross_entropy_error(at, xpv.asarray(t))
            assert_at_home(got, at)
            assert got.shape == ()
            assert float(got) == pytest.approx(expected, rel=1e-6)

    def test_soft_targets(self, xpv):
        y, t = np.asarray([[0.5, 0.25, 0.25]]), np.asarray([[0.5, 0.5, 0.0]])
        got = F.cross_entropy_error(xpv.asarray(y, "float32"), xpv.asarray(t, "float32"))
        assert float(got) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(4), rel=1e-6)

    def test_one_sample(self, xpv):
        y = xpv.asarray(np.asarray([0.25, 0.75]), "float32")
        assert float(F.cross_entropy_error(y, xpv.asarray(np.asarray(0)))) == pytest.approx(
            math.log(4), rel=1e-6
        )

    def test_a_perfect_prediction_costs_nothing_and_none_is_infinite(self, xpv):
        y = xpv.asarray(np.asarray([[1.0, 0.0]]), "float32")
        assert float(F.cross_entropy_error(y, xpv.asarray([0]))) == 0.0
        assert 80 < float(F.cross_entropy_error(y, xpv.asarray([1]))) < 90

    def test_no_samples(self, xpv):
        y = xpv.asarray(np.zeros((0, 3)), "float32")
        assert float(F.cross_entropy_error(y, xpv.asarray(np.zeros(0, "int64")))) == 0.0

    def test_mistakes(self, xpv):
        y = xpv.asarray(np.full((4, 2), 0.5), "float32")
        with pytest.raises(ValueError, match=r"t has shape \(4, 1\); expected \(4,\) integer"):
            F.cross_entropy_error(y, xpv.asarray(np.zeros((4, 1), "int64")))
        with pytest.raises(TypeError, match="labels are integers"):
            F.cross_entropy_error(y, xpv.asarray(np.zeros(4), "float32"))
        with pytest.raises(
            TypeError, match=r"cross_entropy_error: t is a list; .* np\.asarray\(t\)"
        ):
            F.cross_entropy_error(y, [0, 1, 0, 1])
        with pytest.raises(TypeError, match="cross_entropy_error: y is .*int.*; expected floating"):
            F.cross_entropy_error(xpv.asarray(np.ones((4, 2), "int64")), xpv.asarray([0] * 4))

    @pytest.mark.parametrize("label", [-1, 2, 255])
    def test_labels_out_of_range(self, label, xpv, monkeypatch):
        """In NumPy -1 would be the last class."""
        y, t = xpv.asarray(np.full((2, 2), 0.5), "float32"), xpv.asarray(np.asarray([0, label]))
        if on_host(t):
            message = f"cross_entropy_error: label {label} is out of range; expected 0 to 1"
            with pytest.raises(ValueError, match=message):
                F.cross_entropy_error(y, t)
        monkeypatch.setattr(F.probabilities, "on_host", lambda a: False)
        assert math.isnan(F.cross_entropy_error(y, t))
        assert float(F.cross_entropy_error(y, xpv.asarray([0, 1]))) == pytest.approx(math.log(2))

    @pytest.mark.parametrize("bad", [-0.25, 1.5, math.inf, -math.inf])
    def test_what_is_no_probability(self, bad, xpv):
        """Scores, for the most part."""
        y, t = xpv.asarray([[0.5, 0.5], [bad, 0.5]], "float32"), xpv.asarray([0, 1])
        needs_values(xpv)
        with pytest.raises(ValueError, match=r"y has values .* For scores use .*SoftmaxWith"):
            F.cross_entropy_error(y, t)
        good = xpv.asarray([[0.5, 0.5], [1.0, 0.0]], "float32")
        if bad < 0:
            with pytest.raises(ValueError, match="cross_entropy_error: t has a value of"):
                F.cross_entropy_error(good, y)
        for dtype in xpv.floats:  # of 16 bits they may be more than 1
            F.cross_entropy_error(xpv.asarray([[1.0039, 0.0]], dtype), xpv.asarray([0]))
        nan = xpv.asarray([[math.nan, 0.5]], "float32")
        assert math.isnan(F.cross_entropy_error(nan, xpv.asarray([0])))


def test_gelu_forms_differ_by_what_the_docstring_says():
    x = np.linspace(-8, 8, 100_001)
    difference = np.abs(F.gelu(x) - F.gelu(x, approximate="none"))
    assert 4e-4 < difference.max() < 5e-4


def test_gelu_is_exact_in_the_tail():
    x = np.linspace(-30, 0, 1001)[:-1]
    expected = np.asarray([v * math.erfc(-v / math.sqrt(2)) / 2 for v in x])
    assert np.max(np.abs(F.gelu(x, approximate="none") / expected - 1)) < 1e-12


def test_every_function_is_public_and_named():
    for name in F.__all__:
        assert getattr(F, name).__name__ == name
        assert getattr(F, name).__doc__


def test_probabilities_of_float64_are_not_cut_at_those_of_float32():
    y = np.asarray([[1e-200, 1.0]])
    assert float(F.cross_entropy_error(y, np.asarray([0]))) == pytest.approx(200 * np.log(10))
