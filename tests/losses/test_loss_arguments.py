"""What losses say about options, when they are made, and about scores and targets."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers import values

import xplayers as xl
from xplayers.arrays.transfer import to_numpy

LOSSES = (
    xl.SoftmaxWithLoss, xl.SigmoidWithLoss, xl.MeanSquaredError, xl.MeanAbsoluteError, xl.Huber,
)  # fmt: skip
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("make", LOSSES)
def test_reductions(make):
    name = make.__name__
    for reduction in ("avg", "Mean", ""):
        message = f"{name}: reduction is {reduction!r}; expected 'mean', 'sum' or 'none'."
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            make(reduction=reduction)
    for reduction in (None, 1, True, ["mean"], np.zeros(3)):
        with pytest.raises(TypeError, match=f"{name}: reduction is .*; expected 'mean'"):
            make(reduction=reduction)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"label_smoothing": 1.5}, ValueError, "is 1.5; expected .*0 to 1"),
        ({"label_smoothing": -0.1}, ValueError, "is -0.1; expected .*0 to 1"),
        ({"label_smoothing": NAN}, ValueError, "is nan; expected .*0 to 1"),
        ({"label_smoothing": "0.1"}, TypeError, "is '0.1'; expected .*0 to 1"),
        ({"label_smoothing": None}, TypeError, "is None; expected .*0 to 1"),
        ({"ignore_index": 1.0}, TypeError, "is 1.0; expected an integer"),
        ({"ignore_index": "-1"}, TypeError, "is '-1'; expected an integer"),
        ({"ignore_index": True}, TypeError, "is True; expected an integer"),
        ({"ignore_index": [0, 1]}, TypeError, r"is \[0, 1\]; expected an integer"),
        ({"class_weights": [1.0, -2.0]}, ValueError, "has a value of -2; expected a number for"),
        ({"class_weights": [1.0, NAN]}, ValueError, "has a value of nan; expected a number for"),
        ({"class_weights": [1.0, INF]}, ValueError, "has a value of inf; expected a number for"),
        ({"class_weights": ["1", "2"]}, TypeError, r"is \['1', '2'\]; expected a number for each"),
        ({"class_weights": "balanced"}, TypeError, "is 'balanced'; expected a number for each"),
        ({"class_weights": {0: 1.0, 1: 2.0}}, TypeError, r"is \{0: 1.0, 1: 2.0\}; expected a num"),
        ({"class_weights": [[1.0], [2.0, 3.0]]}, TypeError, "expected a number for each class"),
        ({"class_weights": [[1.0, 2.0]]}, ValueError, r"has shape \(1, 2\); expected \(c,\)"),
        ({"class_weights": 2.0}, ValueError, r"has shape \(\); expected \(c,\)"),
        ({"class_weights": np.asarray([-1.0, 1.0])}, ValueError, "has a value of -1; expected"),
        ({"class_weights": np.asarray(["a", "b"])}, TypeError, "expected real numbers"),
        ({"class_weights": np.asarray([1j, 1.0])}, TypeError, "is complex128; expected real"),
    ],
)  # fmt: skip
def test_options_of_softmax(options, error, said):
    (name,) = options
    with pytest.raises(error, match=f"SoftmaxWithLoss: {name} .*{said}"):
        xl.SoftmaxWithLoss(**options)


@pytest.mark.parametrize(
    ("weight", "error", "said"),
    [
        (-1.0, ValueError, "has a value of -1; expected a number, or one for each score"),
        (NAN, ValueError, "has a value of nan"),
        (INF, ValueError, "has a value of inf"),
        ([1.0, -1e-9], ValueError, "has a value of -1e-09"),
        ("2", TypeError, "is '2'; expected a number, or one for each score"),
        (True, TypeError, "is True; expected a number"),
        ([None, 1.0], TypeError, r"is \[None, 1.0\]; expected a number"),
        (lambda: 1.0, TypeError, "expected a number"),
    ],
)
def test_options_of_sigmoid(weight, error, said):
    with pytest.raises(error, match=f"SigmoidWithLoss: pos_weight .*{said}"):
        xl.SigmoidWithLoss(pos_weight=weight)


@pytest.mark.parametrize(
    ("delta", "error"),
    [(0, ValueError), (-1.0, ValueError), (NAN, ValueError), (INF, ValueError), ("1", TypeError),
     (None, TypeError), (True, TypeError), ([1.0], TypeError)],
)  # fmt: skip
def test_options_of_huber(delta, error):
    with pytest.raises(error, match="Huber: delta is .*; expected a positive number"):
        xl.Huber(delta)


def test_numbers_of_numpy_are_numbers(xpv):
    """They neither decide a dtype nor stay where the scores are not."""
    x, t = xpv.asarray(values((2, 3)), "float32"), xpv.asarray(values((2, 3)) ** 2 / 50, "float32")
    labels = xpv.asarray(np.asarray([0, 2]))
    for loss, target in (
        (xl.SigmoidWithLoss(np.float64(2.0)), t),
        (xl.SigmoidWithLoss(np.float32(2.0)), t),
        (xl.SigmoidWithLoss(np.int64(2)), t),
        (xl.SigmoidWithLoss([np.float32(1.0), 2, 3.0]), t),
        (xl.SigmoidWithLoss(range(3)), t),
        (xl.Huber(np.float64(0.5)), t),
        (xl.SoftmaxWithLoss(label_smoothing=np.float64(0.1)), labels),
        (xl.SoftmaxWithLoss((1, np.float64(2.0), 3), ignore_index=np.uint8(2)), labels),
    ):
        value = loss.forward(x, target)
        assert value.dtype == loss.backward(np.float32(2.0)).dtype == x.dtype


@pytest.mark.parametrize("shape", [(2, 1), (1, 2), (1, 1, 3), (2,)])
def test_a_weight_must_not_make_the_scores_more(shape, xpv):
    loss = xl.SigmoidWithLoss(pos_weight=np.ones(shape).tolist())
    x = xpv.asarray(np.zeros((5, 3)), "float32")
    message = f"pos_weight has shape {shape}; expected one that broadcasts to (5, 3), the shape"
    with pytest.raises(ValueError, match=re.escape(message)):
        loss.forward(x, x)
    for fit in ((3,), (1, 3), (5, 1), (5, 3), (1,), ()):
        made = xl.SigmoidWithLoss(np.ones(fit).tolist(), reduction="none").forward(x, x)
        assert tuple(made.shape) == (5, 3)


class TestTargets:
    @pytest.mark.parametrize("target", [[0, 1], (0, 1), ["cat", "dog"], None, 3, "cat"])
    @pytest.mark.parametrize("make", [xl.SoftmaxWithLoss, xl.SigmoidWithLoss, xl.Huber])
    def test_no_arrays(self, make, target, xpv):
        x = xpv.asarray(values((2, 3)), "float32")
        kind = type(target).__name__
        message = (
            f"{make.__name__}: target is a {kind}; expected an array .* np.asarray.target.\\.$"
        )
        for call in (make().forward, make()):
            with pytest.raises(TypeError, match=message):
                call(x, target)

    def test_scores_that_are_no_arrays(self):
        for scores in ([[1.0, 2.0]], None, 3.0, "x"):
            with pytest.raises(TypeError, match="SoftmaxWithLoss: scores is a .*; expected an arr"):
                xl.SoftmaxWithLoss().forward(scores, np.asarray([0]))

    @pytest.mark.parametrize("make", LOSSES)
    @pytest.mark.parametrize("target", [["cat", "dog"], np.asarray([{}, 1], object), [1j, 0]])
    def test_no_real_numbers(self, make, target):
        """As labels, and in the shape of the scores."""
        x, t = values((2, 2)), np.asarray(target)
        targets = [np.stack([t, t])] + [t] * (make is xl.SoftmaxWithLoss)
        for given in targets:
            with pytest.raises(
                TypeError, match=f"{make.__name__}: (target|labels) (is|are) .*; ex"
            ):
                make().forward(x, given)

    @pytest.mark.parametrize("dtype", ["<U3", "O"])
    def test_names_of_classes(self, dtype):
        message = r"expected integers\. .* np\.unique\(labels, return_inverse=True\)\[1\]\.$"
        with pytest.raises(TypeError, match=message):
            xl.SoftmaxWithLoss().forward(values((2, 2)), np.asarray(["cat", "dog"], dtype))

    def test_scores_and_target_in_each_others_place(self, xpv):
        x, t = xpv.asarray(values((2, 3)), "float32"), xpv.asarray(np.asarray([0, 1]))
        with pytest.raises(TypeError, match="scores is .*; expected fl.*scores come first, then"):
            xl.SoftmaxWithLoss().forward(t, x)

    @pytest.mark.parametrize(
        ("dout", "error"),
        [("1", TypeError), (None, TypeError), ([1.0], TypeError), (1j, TypeError)],
    )
    def test_upstream_gradients(self, dout, error, xpv):
        loss = xl.SoftmaxWithLoss()
        loss.forward(xpv.asarray(values((2, 3)), "float32"), xpv.asarray(np.asarray([0, 1])))
        with pytest.raises(error, match="backward: dout is"):
            loss.backward(dout)


class TestCheckLabels:
    def test_mistakes(self, xpv):
        labels = xpv.asarray(np.asarray([0, 1, 2]))
        with pytest.raises(ValueError, match="label 2 is out of range; expected .*0 to 1"):
            xl.check_labels(labels, 2)
        with pytest.raises(TypeError, match="check_labels: labels is a list; expected an array"):
            xl.check_labels([0, 1], 2)
        with pytest.raises(TypeError, match="check_labels: labels are .*float32; expected integ"):
            xl.check_labels(xpv.asarray([0.0, 1.0], "float32"), 2)
        for classes, error in (
            (0, ValueError),
            (-1, ValueError),
            (2.5, TypeError),
            ("3", TypeError),
        ):
            with pytest.raises(error, match="check_labels: classes is .*; expected .*integer"):
                xl.check_labels(labels, classes)
        with pytest.raises(TypeError, match="check_labels: ignore_index is '2'; expected an int"):
            xl.check_labels(labels, 2, ignore_index="2")
        xl.check_labels(labels, np.int64(2), ignore_index=np.int64(2))
        assert to_numpy(labels).tolist() == [0, 1, 2]


@pytest.mark.parametrize("shape", [(4, 1), (4, 0), (2, 4, 1)])
@pytest.mark.parametrize("options", [{}, {"ignore_index": -1}, {"label_smoothing": 0.1}])
def test_the_softmax_of_one_score_is_refused(shape, options, xpv):
    """It is 1 whatever the network says, so that nothing would be learnt."""
    loss = xl.SoftmaxWithLoss(**options)
    x = xpv.asarray(np.zeros(shape), "float32")
    labels = xpv.asarray(np.zeros(shape[:-1], "int64"))
    given = (
        [labels] if "ignore_index" in options else [labels, xpv.asarray(np.ones(shape), "float32")]
    )
    if shape[-1]:
        given.append(xpv.asarray(np.ones(shape, "int64")))
    for target in given:
        with pytest.raises(ValueError, match=r"scores have shape .*; expected two .*SigmoidWithL"):
            loss.forward(x, target)
        with pytest.raises(ValueError, match="SoftmaxWithLoss: scores have shape"):
            loss(x, target)


def test_labels_in_a_column_say_what_to_take(xpv):
    x, t = xpv.asarray(np.zeros((4, 3)), "float32"), xpv.asarray(np.zeros((4, 1), "int64"))
    with pytest.raises(ValueError, match=r"labels have shape \(4, 1\).* Use labels\[:, 0\]"):
        xl.SoftmaxWithLoss()(x, t)


@pytest.mark.only("numpy", "torch", "jax")
@pytest.mark.parametrize("compile", [False, "auto"])
def test_a_step_or_trainer_with_one_score_is_refused(compile, xpv):
    net = xl.mlp([3, 1], rng=0)
    x, t = xpv.asarray(values((6, 3)), "float32"), xpv.asarray(np.asarray([0, 1] * 3))
    for labels in (t, t[:, None]):
        step = xl.TrainStep(net, xl.SoftmaxWithLoss(), xl.SGD(0.1), compile=compile)
        with pytest.raises(ValueError, match="SigmoidWithLoss"):
            step(x, labels)
        with pytest.raises(ValueError, match="SigmoidWithLoss"):
            xl.Trainer(
                net, xl.SoftmaxWithLoss(), xl.SGD(0.1), epochs=1, batch_size=3, progress=False
            ).fit(x, labels)
