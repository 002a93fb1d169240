"""Dtypes at the door: each works, or is refused by name with the next step, on every library."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers import needs_values, values

import xplayers as xl
from xplayers import functional
from xplayers.arrays.transfer import to_numpy

X, T = (values((4, 3)) ** 2).astype("float32"), np.asarray([0, 1, 1, 0])
ORDER = "Its bytes are in another order: {0}.astype({0}.dtype.newbyteorder('='))."
REFUSED = {  # what it is -> the array, how its dtype is named, the next step
    "big-endian": (X.astype(">f4"), ">f4", ORDER),
    "longdouble": (X.astype("longdouble"), "float128", "Convert it: xp.astype({0}, xp.float32)."),
    "complex": (X.astype("complex64"), "complex64", "Take its parts: xp.real({0}), xp.imag({0})."),
    "object": (X.astype(object), "object", "If all of it are numbers, {0}.astype('float32')."),
    "str": (X.astype("U8"), "<U8", "If all of it are numbers, {0}.astype('float32')."),
    "bytes": (X.astype("S8"), "|S8", "If all of it are numbers, {0}.astype('float32')."),
    "StringDType": (X.astype(np.dtypes.StringDType()), "StringDType()", "{0}.astype('float32')."),
    "record": (np.zeros((4, 3), [("a", "f4"), ("b", "f4")]), "[('a', '<f4'), ('b', '<f4')]",
               "Take its fields one by one: {0}['a']."),
    "recarray": (np.zeros((4, 3), [("a", "f4")]).view(np.recarray), "record", "{0}['a']."),
    "datetime": (np.zeros((4, 3), "M8[s]"), "datetime64[s]", "{0}.astype('int64')"),
    "timedelta": (np.zeros((4, 3), "m8[s]"), "timedelta64[s]", "{0}.astype('int64')"),
    "masked": (np.ma.masked_array(X, X > 0.5), "MaskedArray", "{0}.filled(0) takes 0 for what"),
    "matrix": (X.view(np.matrix), "matrix", "pass a plain array: np.asarray({0})."),
}  # fmt: skip
if np.dtype("longdouble").itemsize == 8:  # as on Windows
    del REFUSED["longdouble"]

DOORS = {  # what is called -> the name of the argument
    "Relu": (lambda a: xl.Relu().forward(a), "x"),
    "Sequential": (lambda a: xl.mlp([3, 2], rng=0).predict(a), "x"),
    "Affine": (lambda a: xl.Affine(a, np.ones(3, "float32")), "W"),
    "params": (lambda a: xl.Affine.init(4, 3).params.__setitem__("W", a), "W"),
    "SoftmaxWithLoss": (lambda a: xl.SoftmaxWithLoss()(a, T), "scores"),
    "SoftmaxWithLoss ": (lambda a: xl.SoftmaxWithLoss()(X, a), "target"),
    "MeanSquaredError": (lambda a: xl.MeanSquaredError()(X, a), "target"),
    "SigmoidWithLoss": (lambda a: xl.SigmoidWithLoss()(X, a), "target"),
    "SGD": (lambda a: xl.SGD().update({"W": a}, {"W": a}), "W"),
    "Adam": (lambda a: xl.Adam().init({"W": a}), "W"),
    "clip_by_norm": (lambda a: xl.clip_by_norm({"W": a}, 1.0), "W"),
    "minibatches": (lambda a: xl.minibatches(a, T, 2), "x"),
    "minibatches ": (lambda a: xl.minibatches(X, a, 2), "t"),
    "Batches": (lambda a: xl.Batches(a, T, 2), "x"),
    "Batches ": (lambda a: xl.Batches(X, a, 2), "t"),
    "Trainer.fit": (
        lambda a: xl.Trainer(
            xl.mlp([3, 2], rng=0), xl.SoftmaxWithLoss(), xl.SGD(), batch_size=2, epochs=1,
            progress=False,
        ).fit(a, T),
        "x",
    ),
    "accuracy": (lambda a: xl.accuracy(a, T), "y"),
    "accuracy ": (lambda a: xl.accuracy(X, a), "t"),
    "confusion_matrix": (lambda a: xl.confusion_matrix(a, T), "y"),
    "relu": (functional.relu, "x"),
    "gelu": (functional.gelu, "x"),
    "softmax": (functional.softmax, "x"),
    "cross_entropy_error": (lambda a: functional.cross_entropy_error(a, T), "y"),
    "cross_entropy_error ": (lambda a: functional.cross_entropy_error(X, a), "t"),
    "numerical_gradient": (lambda a: xl.numerical_gradient(np.sum, a), "x"),
    "check_gradients": (lambda a: xl.check_gradients(xl.Relu(), a), "x"),
    "move": (lambda a: xl.move(a, xp=np), "x"),
}  # fmt: skip
TAKEN = {
    ("Batches", "big-endian"),
    ("Batches ", "big-endian"),
    ("move", "big-endian"),
    ("move", "complex"),
}


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of np.matrix itself
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", REFUSED)
def test_arrays_of_numpy(door, kind):
    (call, name), (a, dtype, hint) = DOORS[door], REFUSED[kind]
    if (door, kind) in TAKEN:
        call(a)
        return
    with pytest.raises(TypeError) as caught:
        call(a)
    said = str(caught.value)
    assert f"{name} is " in said
    assert dtype in said
    if door != "numerical_gradient" or kind in ("masked", "matrix"):
        assert hint.format(name) in said


@pytest.mark.parametrize("order", [">", "<"])
def test_big_endian_arrays_that_are_copied_anyway(xpv, order):
    like = xpv.asarray([0.0], "float32")
    x, t = X.astype(f"{order}f4"), T.astype(f"{order}i4")
    moved = xl.move(x, like=like)
    assert "float32" in str(moved.dtype)
    np.testing.assert_array_equal(to_numpy(moved), X)
    for x_batch, t_batch in xl.Batches(x, t, 2, like=like):
        assert "float32" in str(x_batch.dtype)
        assert xl.SoftmaxWithLoss()(x_batch, t_batch).shape == ()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of JAX, of which none is asked
@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "complex64"])
def test_dtypes_of_other_libraries(xpv, dtype):
    kind = getattr(xpv.xp, dtype, None)
    if kind is None:
        pytest.skip(f"no {dtype} here")
    x, t = xpv.asarray(X, "float32"), xpv.asarray(T)
    a = x.to(kind) if hasattr(x, "to") else xl.namespace(x).astype(x, kind)
    for call in (
        lambda: xl.Relu().forward(a), lambda: xl.SoftmaxWithLoss()(a, t),
        lambda: xl.MeanSquaredError()(x, a), lambda: xl.Affine(a, a[0, :]),
        lambda: xl.accuracy(a, t), lambda: functional.softmax(a), lambda: functional.relu(a),
        lambda: xl.minibatches(a, t, 2), lambda: xl.Embedding.init(4, 2)(a),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=f"(x|scores|target|W|y) is .*{dtype}; expected "):
            call()


UNSIGNED = ["uint8", "uint16", "uint32", "uint64", "int8", "int16"]


@pytest.mark.parametrize("dtype", UNSIGNED)
class TestIntegers:
    def labels(self, xpv, dtype, given):
        if getattr(xpv.xp, dtype, None) is None:
            pytest.skip(f"no {dtype} here")
        array = xpv.asarray(np.asarray(given).astype(dtype))
        if dtype not in str(array.dtype):
            pytest.skip(f"no {dtype} here")
        return array

    def test_labels(self, xpv, dtype):
        t, scores = self.labels(xpv, dtype, T), xpv.asarray(X, "float32")
        same = xpv.asarray(T)
        for options in ({}, {"ignore_index": 1}, {"label_smoothing": 0.1}):
            loss = xl.SoftmaxWithLoss(**options)
            assert float(loss.forward(scores, t)) == float(loss(scores, same))
            assert loss.backward().dtype == scores.dtype
        assert float(xl.accuracy(scores, t)) == float(xl.accuracy(scores, same))
        for pair in ((scores, t), (t, t, 3)):
            counts = to_numpy(xl.confusion_matrix(*pair))
            assert counts.sum() == 4
        xl.check_labels(t, 2)
        needs_values(xpv)
        with pytest.raises(ValueError, match="label 1 is out of range"):
            xl.check_labels(t, 1)
        with pytest.raises(ValueError, match="label 5 is out of range"):
            loss.forward(scores, self.labels(xpv, dtype, [0, 5, 0, 0]))

    def test_indices(self, xpv, dtype):
        layer = xl.Embedding.init(3, 2, rng=0).to(like=xpv.asarray([0.0], "float32"))
        index = self.labels(xpv, dtype, [[0, 2], [2, 1]])
        y = layer.forward(index)
        np.testing.assert_array_equal(to_numpy(y), to_numpy(layer.W)[[[0, 2], [2, 1]]])
        layer.backward(y)
        needs_values(xpv)
        with pytest.raises(ValueError, match=r"x has 7; expected 0 to 2 for a table of 3 rows"):
            layer.forward(self.labels(xpv, dtype, [0, 7]))


def test_the_mask_of_attention_is_bool_or_integers(xpv):
    layer, x = xl.MultiHeadAttention.init(4, 2, rng=0), xpv.asarray(np.ones((1, 2, 4)), "float32")
    for mask in ([[1, 0]], [[True, False]]):
        layer.forward(x, None, xpv.asarray(np.asarray(mask)))
    with pytest.raises(TypeError, match="key_mask is .*float32; expected bool or integers"):
        layer.forward(x, None, xpv.asarray(np.ones((1, 2)), "float32"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: xl.minibatches(X, T, 2.0), "minibatches: batch_size is 2.0; expected an integer"),
        (lambda: xl.minibatches(X, T, 0), "minibatches: batch_size is 0; expected 1 or more"),
        (lambda: xl.minibatches(X, T, 2, rng="0"), "minibatches: rng is '0'; expected an int"),
        (lambda: xl.minibatches(X, T, 2, drop_last=1), "minibatches: drop_last is 1; expected"),
        (lambda: xl.minibatches(X, [0], 2), "minibatches: t is a list; expected an array"),
        (lambda: xl.minibatches(X[0, 0], T, 2), "expected an axis of samples"),
        (lambda: xl.minibatches(np.asarray(1.0), T, 2), "expected an axis of samples"),
        (lambda: xl.Batches(X, T, "2"), "Batches: batch_size is '2'; expected an integer"),
        (lambda: xl.Batches(X, T, 2, rng=-1), "Batches: rng is -1; expected an int (a seed)"),
        (lambda: xl.Batches(X, T, 2, drop_last="no"), "Batches: drop_last is 'no'; expected True"),
        (lambda: xl.Batches(X, T, 2, transform="flip"), "Batches: transform is 'flip'; exp"),
        (lambda: xl.Batches(X, T, 2, like=[1]), "Batches: like is a list; expected an array"),
        (lambda: xl.Batches(X, T, 2, xp="torch"), "Import torch, and pass it without quotes."),
        (lambda: xl.Batches(X, T.tolist(), 2), "Batches: t is a list; expected a numpy.ndarray"),
        (lambda: xl.data.random_shift(X[None, None], 1.5), "random_shift: largest is 1.5; exp"),
        (lambda: xl.data.random_shift(X, 1), "random_shift: x has shape (4, 3); expected images"),
        (lambda: xl.data.random_shift([X], 1), "random_shift: x is a list; expected an array"),
        (lambda: xl.data.random_flip(X[None, None], "0"), "random_flip: rng is '0'; expected an"),
        (lambda: functional.relu(), "relu: x is missing; expected relu(x)."),
        (lambda: functional.sigmoid([1.0]), "sigmoid: x is a list; expected an array"),
        (lambda: functional.softmax(X, axis=2), "softmax: axis is 2, and x has shape (4, 3)."),
        (lambda: functional.log_softmax(X, axis="1"), "log_softmax: axis is '1'; expected an int"),
        (lambda: functional.softmax(X, axis=None), "softmax: axis is None; expected an integer"),
        (lambda: functional.cross_entropy_error(X, [0]), "cross_entropy_error: t is a list"),
        (lambda: functional.cross_entropy_error(np.asarray(1.0), T), "expected (n, c), or (c,)"),
        (lambda: xl.numerical_gradient(1, X), "numerical_gradient: f is 1; expected a func"),
        (lambda: xl.numerical_gradient(np.sum, X, h=0), "numerical_gradient: h is 0; expected a"),
        (lambda: xl.check_gradients(xl.Relu, X), "check_gradients: layer is the class Relu; "
         "expected a layer or a loss. Call the class: Relu()."),
        (lambda: xl.check_gradients(xl.Relu(), X, rtol=-1), "check_gradients: rtol is -1; exp"),
        (lambda: xl.check_gradients(xl.Relu(), X, [1]), "check_gradients: input 1 is a list; exp"),
        (lambda: xl.confusion_matrix(T, T, 2.5), "confusion_matrix: classes is 2.5; expected"),
        (lambda: xl.elementwise("relu"), "elementwise: function is 'relu'; expected a function"),
        (lambda: xl.namespace([1.0]), "x is a list; expected an array"),
        (lambda: xl.to_numpy([1.0]), "to_numpy: x is a list; expected an array"),
    ],
)  # fmt: skip
def test_arguments_of_functions(call, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        call()


def test_gelu_and_silu_of_large_values_in_every_dtype(xpv):
    for dtype in xpv.floats:
        x = xpv.asarray([300.0, -300.0, 6e4, -6e4], dtype)
        ones = xpv.asarray(np.ones(4), dtype)
        for layer in (xl.Gelu(), xl.Gelu("none"), xl.Silu()):
            y = to_numpy(layer.forward(x)).astype("float64")
            assert np.allclose(y, [300, 0, 6e4, 0], rtol=1e-2, atol=1e-4), (layer, dtype)
            dx = to_numpy(layer.backward(ones)).astype("float64")
            assert np.allclose(dx, [1, 0, 1, 0], atol=1e-4), (layer, dtype)


def test_the_gradient_of_a_bias_does_not_saturate_in_sixteen_bits(xpv):
    if "float16" not in xpv.floats:
        pytest.skip("no float16 here")
    layer = xl.Affine.init(4, 3, rng=0)
    y = layer.forward(xpv.asarray(np.ones((10_000, 4)), "float16"))
    layer.backward(xpv.asarray(np.ones(y.shape), "float16"))
    assert to_numpy(layer.db).tolist() == [10_000] * 3
