"""Softmax cross entropy of CuPy arrays in one kernel, run by the host."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_cases import dtype_of
from helpers import TOLERANCE, assert_close, values

pytest.importorskip("cupy")

from emulator.emulated_gpu import fabricated
from emulator.emulated_kernels import given, needs_compiler, seen, strided

import xplayers as xl
from xplayers.accelerate.cuda import softmax_cross_entropy

pytestmark = needs_compiler


def portable(scores, target, reduction="mean"):
    """Return loss and gradient of the portable code, in float64."""
    loss = xl.SoftmaxWithLoss(reduction=reduction)
    value = loss.forward(scores.astype("float64"), target)
    return value, loss.backward()


LABELS = [("float32", "int64"), ("float16", "int32"), ("bfloat16", "uint8"), ("float64", "int64")]


@pytest.mark.parametrize(("dtype", "kind"), LABELS)
@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (7, 2), (13, 10), (5, 33), (2, 512)])
def test_labels(rows, classes, dtype, kind, gpu):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    scores = 4.0 * values((rows, classes))
    scores[0, :] += 900.0
    scores = scores.astype(dtype_of(dtype))
    labels = np.random.default_rng(0).integers(0, min(classes, 256), rows).astype(kind)
    losses, dx = softmax_cross_entropy.softmax_cross_entropy(fabricated(scores), fabricated(labels))
    want, gradient = portable(scores, labels, "none")
    tolerance = 1e-12 if dtype == "float64" else 1e-6
    assert losses.dtype == dx.dtype == ("float64" if dtype == "float64" else "float32")
    assert_close(seen(losses), want, tolerance)
    assert_close(seen(dx), gradient, tolerance)


@pytest.mark.parametrize("classes", [513, 1025, 4096, 4099])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("labels", [True, False])
def test_many_classes_take_a_block_a_row(classes, rows, labels, gpu):
    scores = values((rows, classes)).astype("float32")
    target = np.arange(rows) * 800 % classes if labels else np.abs(values((rows, classes), 1))
    losses, dx = softmax_cross_entropy.softmax_cross_entropy(fabricated(scores), fabricated(target))
    assert gpu.launches[0][1:] == (rows, 256)
    want, gradient = portable(scores, target, "none")
    assert_close(seen(losses), want, 1e-6)
    assert_close(seen(dx), gradient, 1e-6)


@pytest.mark.parametrize(("dtype", "kind"), [("float32", "float64"), ("float16", "bool")])
def test_weights_of_classes(dtype, kind, gpu):
    scores = values((3, 4, 10)).astype(dtype)
    target = np.abs(values((3, 4, 10), 1))
    target = (target == target.max(axis=-1, keepdims=True)) if kind == "bool" else target
    scores[0, 0, 1], target[0, 0, 1] = -np.inf, 0  # a masked class
    losses, dx = softmax_cross_entropy.softmax_cross_entropy(fabricated(scores), fabricated(target))
    want, gradient = portable(scores, target.astype("float64"), "none")
    assert_close(seen(losses), want, 1e-6)
    assert_close(seen(dx), gradient, 1e-6)


def test_a_label_out_of_range_makes_its_loss_nan(gpu):
    scores = values((5, 10)).astype("float32")
    labels = np.asarray([0, 10, -1, 9, 2**33])
    losses, dx = softmax_cross_entropy.softmax_cross_entropy(fabricated(scores), fabricated(labels))
    np.testing.assert_array_equal(np.isnan(seen(losses)), [False, True, True, False, True])
    want, gradient = portable(scores, np.asarray([0, 0, 0, 9, 0]), "none")
    assert_close(seen(losses)[[0, 3]], want[[0, 3]], 1e-6)
    assert_close(seen(dx), gradient, 1e-6)


def test_scores_that_are_no_numbers(gpu):
    scores = values((3, 40)).astype("float32")
    scores[0, 35], scores[1, :], scores[2, 3] = np.nan, -np.inf, -np.inf
    losses, dx = softmax_cross_entropy.softmax_cross_entropy(
        fabricated(scores), fabricated(np.asarray([1, 1, 3]))
    )
    np.testing.assert_array_equal(seen(losses), [np.nan, np.nan, np.inf])
    assert np.all(np.isnan(seen(dx)[:2]))
    assert np.all(np.isfinite(seen(dx)[2]))


def test_rows_without_any_weight_add_nothing(gpu):
    """Whatever their scores are; and losses of the others may be infinite."""
    scores = values((5, 40)).astype("float32")
    target = np.abs(values((5, 40), 1)).astype("float32")
    target[:3], target[3, 7] = 0, 0
    scores[0], scores[1, 3], scores[2, 5] = -np.inf, np.nan, np.inf
    scores[3, 7], scores[4, 7] = -np.inf, -np.inf  # masked; and a mistake without bounds
    losses, dx = softmax_cross_entropy.softmax_cross_entropy(fabricated(scores), fabricated(target))
    want, gradient = portable(scores, target, "none")
    np.testing.assert_array_equal(seen(losses)[[0, 1, 2, 4]], [0, 0, 0, np.inf])
    np.testing.assert_array_equal(want[[0, 1, 2, 4]], [0, 0, 0, np.inf])
    assert_close(seen(losses)[3], want[3], 1e-6)
    assert not seen(dx)[:3].any()
    assert_close(seen(dx), gradient, 1e-6)


def test_weights_that_make_no_sense_make_the_loss_nan(gpu):
    scores, target = values((3, 4)).astype("float32"), np.full((3, 4), 0.25)
    target[0, 1], target[2, 0], target[2, 1] = np.nan, -0.25, 0.75
    losses, _ = softmax_cross_entropy.softmax_cross_entropy(fabricated(scores), fabricated(target))
    np.testing.assert_array_equal(np.isnan(seen(losses)), [True, False, True])


def test_the_gradient_in_the_dtype_of_the_scores(gpu):
    scores, labels = values((6, 10)).astype("float16"), np.arange(6)
    _, dx = softmax_cross_entropy.softmax_cross_entropy(
        fabricated(scores), fabricated(labels), dtype="float16"
    )
    assert dx.dtype == np.float16
    assert_close(seen(dx), portable(scores, labels, "none")[1], TOLERANCE["float16"])


@pytest.mark.parametrize(
    ("scores", "target"),
    [
        (lambda: strided((10, 6)), lambda: fabricated(np.zeros(6, "int64"))),
        (lambda: given((6, 10)), lambda: fabricated(np.zeros(12, "int64")[::2])),
        (lambda: given((6, 10)), lambda: fabricated(np.zeros(6, "float32"))),
        (lambda: given((6, 10)), lambda: fabricated(np.zeros(5, "int64"))),
        (lambda: given((0, 10)), lambda: fabricated(np.zeros(0, "int64"))),
        (lambda: given((6, 0)), lambda: fabricated(np.zeros(6, "int64"))),
    ],
)
def test_what_is_no_row_for_the_kernel(scores, target, gpu):
    assert softmax_cross_entropy.softmax_cross_entropy(scores(), target()) is NotImplemented
    assert not gpu.launches


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_loss_and_its_gradient_are_two_kernels(reduction, dtype, gpu):
    """Losses and gradient in one, and the sum of the losses; another factor is a kernel more."""
    scores, labels = values((6, 10)).astype(dtype), np.arange(6)
    loss = xl.SoftmaxWithLoss(reduction=reduction)
    value, cache = loss.apply({}, fabricated(scores), fabricated(labels))
    want, gradient = portable(scores, labels, reduction)
    assert_close(seen(value), want, 1e-6)
    kernels = ["xplayers_softmax_cross_entropy_labels", "xplayers_column_sums"]
    kernels = kernels if reduction != "none" else kernels[:1]
    assert [name for name, *_ in gpu.launches] == kernels
    dx = loss.vjp(cache, 1.0)
    assert dx.dtype == dtype
    assert_close(seen(dx), gradient, TOLERANCE[dtype])
    # Of float16 it is rounded with the factor, which is there to keep it from 0.
    more = ["xplayers_divided"] if dtype == "float16" else []
    assert [name for name, *_ in gpu.launches] == kernels + more
    inside = "float32" if dtype == "float16" else dtype
    for dout in (2, 0.5, fabricated(np.asarray(4.0, inside))):
        number = float(seen(dout)) if hasattr(dout, "shape") else dout
        assert_close(seen(loss.vjp(cache, dout)), number * gradient, TOLERANCE[dtype])


def test_small_gradients_of_float16_are_rounded_once(gpu):
    """A mean over many samples, times a scale of the loss."""
    scores, labels = np.zeros((4096, 10), "float16"), np.zeros(4096, "int64")
    loss = xl.SoftmaxWithLoss()
    _, cache = loss.apply({}, fabricated(scores), fabricated(labels))
    dx = seen(loss.vjp(cache, fabricated(np.asarray(2.0**16, "float32"))))
    assert_close(dx[:, 1:], np.full((4096, 9), 0.1 * 2.0**16 / 4096), 2.0**-11)


OPTIONS = {
    "weights": {"class_weights": True},
    "ignored": {"ignore_index": 3},
    "smoothed": {"label_smoothing": 0.1},
    "all": {"class_weights": True, "ignore_index": -100, "label_smoothing": 0.2},
}


@pytest.mark.parametrize(
    ("dtype", "classes"), [("float32", 10), ("float32", 600), ("float16", 10), ("float64", 10)]
)
@pytest.mark.parametrize(
    ("name", "targets"),
    [(name, targets) for name in OPTIONS for targets in ("labels", "probabilities")
     if (name, targets) != ("ignored", "probabilities")],
)  # fmt: skip
def test_options_of_the_loss(name, targets, dtype, classes, gpu, monkeypatch):
    options = {**OPTIONS[name]}
    if "class_weights" in options:
        options["class_weights"] = np.abs(values((classes,), 7)).astype("float32")
        options["class_weights"][4] = 0.0
    if targets == "probabilities":
        options.pop("ignore_index", None)
        target = np.abs(values((7, classes), 1)).astype("float32")
        target[2] = 0
    else:
        target = np.asarray([1, 3, 0, 4, 9, 3, 5])
        if name == "all":
            target[1] = -100
    scores = values((7, classes)).astype(dtype)
    if targets == "labels" and name == "weights":
        scores[3, 1] = np.inf  # of a sample whose class counts for nothing
    loss, right = xl.SoftmaxWithLoss(**options), xl.SoftmaxWithLoss(**options)
    arrays = {k: fabricated(np.asarray(a)) for k, a in loss.arrays.items()}
    rows = []
    monkeypatch.setattr(
        type(loss), "_reduced", lambda self, values, norm: rows.append((values, norm))
    )
    _, cache = loss.apply(arrays, fabricated(scores), fabricated(target))
    right.apply(right.arrays, scores.astype("float64"), target)
    (got, norm), (want, wanted) = rows
    assert_close(seen(got), want, 1e-6)
    assert_close(seen(norm) if hasattr(norm, "shape") else norm, wanted, 1e-6)
    assert_close(
        seen(cache[0]), right.apply(right.arrays, scores.astype("float64"), target)[1][0], 1e-5
    )
    smoothed = "label_smoothing" in options or targets == "probabilities"
    kind = "labels" if targets == "labels" else "weights"
    first = f"xplayers_softmax_cross_entropy_{kind}{'_smoothed' if smoothed else ''}"
    counted = targets == "labels" and name != "smoothed"
    assert [n for n, *_ in gpu.launches] == [
        first, *(["xplayers_column_sums", "xplayers_divisor"] if counted else []),
    ]  # fmt: skip


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_labels_out_of_range_and_ignored(smoothing, gpu):
    scores, labels = values((5, 10)).astype("float32"), np.asarray([0, 10, -1, 77, 9])
    losses, dx, count = softmax_cross_entropy.weighted_cross_entropy(
        fabricated(scores), fabricated(labels), None, 77, smoothing
    )
    np.testing.assert_array_equal(np.isnan(seen(losses)), [False, True, True, False, False])
    assert seen(losses)[3] == 0
    assert not seen(dx)[3].any()
    assert seen(count) == 4
    every = softmax_cross_entropy.weighted_cross_entropy(
        fabricated(scores), fabricated(np.full(5, 77)), None, 77, smoothing
    )
    assert not seen(every[0]).any()
    assert seen(every[2]) == 1  # the mean over none is 0


def test_weights_of_0_alone_divide_by_1(gpu):
    scores, weights = values((3, 4)).astype("float32"), fabricated(np.zeros(4, "float32"))
    losses, dx, count = softmax_cross_entropy.weighted_cross_entropy(
        fabricated(scores), fabricated(np.asarray([0, 1, 2])), weights, None, 0.0
    )
    assert not seen(losses).any()
    assert not seen(dx).any()
    assert seen(count) == 1
