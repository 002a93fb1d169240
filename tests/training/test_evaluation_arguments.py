"""First mistakes with `evaluate`."""

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
