"""The gradient check finds what is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_at_home, assert_close, assert_same_bits, values

import xplayers as xl
from xplayers.arrays.namespaces import namespace
from xplayers.arrays.transfer import to_numpy


class TestNumericalGradient:
    def test_of_a_polynomial(self, xpv):
        for dtype in set(xpv.floats) & {"float32", "float64"}:
            x = xpv.asarray(values((2, 3)), dtype)
            before = to_numpy(x).copy()
            xp = namespace(x)
            gradient = xl.numerical_gradient(lambda a: xp.sum(a * a * a), x)  # noqa: B023
            assert_at_home(gradient, x)
            assert_close(gradient, 3 * before**2, 1e-9 if dtype == "float64" else 1e-3)
            assert_same_bits(x, before)

    def test_f_gets_copies(self):
        x = values((3,))
        before = x.copy()

        def f(a):
            a[:] = 0
            return 1.0

        xl.numerical_gradient(f, x)
        assert_same_bits(x, before)

    def test_of_a_scalar_array_and_of_nothing(self):
        assert float(xl.numerical_gradient(lambda a: a * a, np.asarray(3.0))) == pytest.approx(6.0)
        assert xl.numerical_gradient(lambda a: 0.0, np.zeros((0, 2))).shape == (0, 2)

    def test_integers_are_refused(self):
        with pytest.raises(TypeError, match="x is int64; expected float64 or float32"):
            xl.numerical_gradient(np.sum, np.asarray([1, 2]))


class Right(xl.Layer):
    """Two inputs of a product; faults are put into copies of it."""

    W = xl.Parameter()
    fault = ""

    def __init__(self, W):
        self.W = W

    def apply(self, arrays, x):
        y = namespace(x).tanh(x @ arrays["W"])
        return y, (x, arrays["W"], y)

    def vjp(self, cache, dy):
        x, W, y = cache
        xp = namespace(x)
        dz = dy * (1.0 - y * y)
        dx, dW = dz @ W.mT, x.mT @ dz
        match self.fault:
            case "sign":
                dx = -dx
            case "factor":
                dW = 2.0 * dW
            case "transpose":
                dx = dz @ W
            case "slope":
                dW = x.mT @ dy
            case "mask":
                dx = dx * xp.astype(x > 0, x.dtype)
            case "shape":
                dW = xp.sum(dW, axis=0)
            case "off by one":
                dx = xp.roll(dx, 1, axis=0)
            case "small":
                dW = dW * (1 + 1e-5)
        return dx, {"W": dW}


FAULTS = ["sign", "factor", "transpose", "slope", "mask", "shape", "off by one", "small"]


def test_a_right_layer_passes(xpv):
    xl.check_gradients(Right(xpv.asarray(values((3, 3), 1), "float32")), xpv.asarray(
        values((4, 3)), "float32"))  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_layer_fails_with_the_name_and_both_numbers(fault):
    layer = Right(values((3, 3), 1))
    layer.fault = fault
    name = "x" if fault in ("sign", "transpose", "mask", "off by one") else "parameter W"
    if fault == "shape":
        message = r"Right: the gradient of parameter W has shape \(3,\); expected \(3, 3\)"
    else:
        number = r"-?[\d.e+-]+"
        message = (
            f"Right: the gradient of {name} along a random direction is {number}; "
            f"finite differences give {number}"
        )
    with pytest.raises(AssertionError, match=message):
        xl.check_gradients(layer, values((4, 3)))


def test_a_wrong_loss_fails():
    class Doubled(xl.MeanSquaredError):
        def value_and_derivative(self, xp, arrays, x, t):
            value, dx = super().value_and_derivative(xp, arrays, x, t)
            return value, 2.0 * dx

    with pytest.raises(AssertionError, match="Doubled: the gradient of x"):
        xl.check_gradients(Doubled(), values((2, 3)), values((2, 3), 1))


def test_nan_gradients_fail():
    class Nan(xl.Relu):
        def vjp(self, cache, dy):
            return dy * np.nan, {}

    with pytest.raises(AssertionError, match="is nan"):
        xl.check_gradients(Nan(), values((2, 3)))


def test_the_layer_is_left_as_it_is():
    net = xl.mlp([3, 4, 2], xl.Tanh, rng=0)
    xl.check_gradients(net, values((5, 3)))
    assert not net._pending
    assert net[0].W.dtype == "float32"
    net(values((5, 3)).astype("float32"))


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_a_numerical_gradient_of_the_book_is_refused(xpv, shape):
    """Its function looks at an array that would be changed, and ignores the one that it gets."""
    x = xpv.asarray(np.ones(shape), "float32")
    with pytest.raises(ValueError, match="numerical_gradient: f ignores its argument, so the gra"):
        xl.numerical_gradient(lambda W: 3.0, x)
    flat = xl.numerical_gradient(lambda x: float(xl.to_numpy(x * 0).sum()), x)  # it is 0
    assert not to_numpy(flat).any()


class Doubled(xl.Layer):
    W, dW = xl.Parameter(), xl.Gradient()

    def __init__(self, W):
        self.W = W

    def apply(self, arrays, x):
        return x * arrays["W"], (x, arrays["W"])

    def vjp(self, cache, dy):
        x, W = cache
        return dy * W, {"W": (x * dy).sum(axis=0)}


def without_arrays(self, x):
    return x, (x,)


def only_the_output(self, arrays, x):
    return x


def another_array(self, arrays, x):
    return x * arrays["w"], (x,)


def only_the_gradient(self, cache, dy):
    return dy


def no_gradients(self, cache, dy):
    return dy, {}


def another_gradient(self, cache, dy):
    return dy, {"W": cache[1], "dW": cache[1]}


@pytest.mark.parametrize(
    ("methods", "kind", "words"),
    [
        ({"apply": without_arrays}, TypeError, "L defines apply(self, x); expected apply(self, a"),
        ({"apply": only_the_output}, TypeError, "L.apply returned an array of shape (5, 3); expe"),
        ({"apply": another_array}, KeyError, "L: there is no array 'w'; its arrays: W."),
        ({"vjp": only_the_gradient}, TypeError, "L.vjp returned an array of shape (5, 3); expect"),
        ({"vjp": no_gradients}, KeyError, "returned no gradient of the parameter 'W', but none. R"),
        ({"vjp": another_gradient}, KeyError, "returned a gradient of 'dW'; its parameters: W."),
    ],
)  # fmt: skip
def test_mistakes_in_a_layer_of_ones_own_are_said(methods, kind, words):
    layer = type("L", (Doubled,), methods)(np.ones(3))
    with pytest.raises(kind) as error:
        xl.check_gradients(layer, np.ones((5, 3)))
    assert words in "".join([str(error.value), *getattr(error.value, "__notes__", ())])
