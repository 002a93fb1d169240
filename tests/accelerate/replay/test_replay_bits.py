"""Steps that a replay could round, warn of or refuse otherwise than the plain loop does."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from helpers import assert_same_bits, taker, to_numpy, values

import xplayers as xl
from xplayers import MixedPrecision, TrainStep
from xplayers.arrays.elementwise import elementwise


@pytest.fixture(autouse=True)
def only_where_steps_are_replayed(xpv):
    if xpv.backend not in ("numpy", "torch"):
        pytest.skip("steps are replayed on NumPy and PyTorch")


def compare(
    xpv, net, optimizer, n=8, steps=8, dtype="float32", loss: Any = xl.SoftmaxWithLoss, **options
):
    """Train twice, from a replay and plainly; return the step that is replayed."""
    x, t = xpv.asarray(values((n, 6)), dtype), xpv.asarray(np.arange(n) % 4)
    auto, plain = (
        TrainStep(net(), loss(), optimizer(), compile=how, **options) for how in ("auto", False)
    )
    for _ in range(steps):
        assert_same_bits(auto(x, t), plain(x, t), "loss")
    for name, a in auto.net.arrays.items():
        assert_same_bits(a, plain.net.arrays[name], name)
    return auto


def mlp():
    return xl.mlp([6, 16, 4], rng=0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("optimizer", [xl.Adam, xl.AdamW, xl.AdaGrad, xl.RMSprop])
def test_roots_of_mixed_precision(optimizer, dtype, xpv):
    if dtype not in xpv.floats:
        pytest.skip(f"no {dtype} here")
    for n in range(3, 13):  # PyTorch's root of float32 differs in some of a hundred numbers
        compare(xpv, mlp, optimizer, n, precision=MixedPrecision(dtype))


CONSTANTS = {
    "reciprocal": lambda t: xl.namespace(t).reciprocal(t),
    "a pole": lambda t: 1.0 / (t - 4.0),
    "a root of what is negative": lambda t: (3.5 - t) ** 0.5,
    "floor": lambda t: t // 2,
    "remainder": lambda t: t % 3,
    "negative": lambda t: 2.0 + -t,
    "logarithm": lambda t: xl.namespace(t).log(t + 1),
    "power": lambda t: 1 / 2**t,
}


@pytest.mark.parametrize("constant", CONSTANTS)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_constants_of_an_optimizer_of_ones_own(constant, xpv):
    if constant == "a pole" and xpv.backend == "torch":
        pytest.skip("what is no number has other bits there")

    class Own(xl.SGD):
        @staticmethod
        def rule(xp, p, g, lr, c):
            return (p - lr * c * g,)

        def constants(self, t):
            return (CONSTANTS[constant](t),)

    seen = compare(xpv, mlp, lambda: Own(0.01))
    assert taker(seen).replays.replays or constant in ("a pole", "a root of what is negative")


def test_a_constant_that_is_an_array(xpv):
    class Own(xl.SGD):
        @staticmethod
        def rule(xp, p, g, lr, c):
            return (p - lr * c * g,)

        def constants(self, t):
            return (xpv.asarray(np.asarray(0.9), "float32"),)

    assert taker(compare(xpv, mlp, lambda: Own(0.01))).replays.replays


class Scaled(xl.Layer):
    """Has a 0-d parameter."""

    s = xl.Parameter()

    def __init__(self, s):
        self.s = s

    def apply(self, arrays, x):
        return x * arrays["s"] ** 3, (x, arrays["s"])

    def vjp(self, cache, dy):
        x, s = cache
        return dy * s**3, {"s": xl.namespace(x).sum(dy * x) * (3.0 * s**2)}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_power_of_a_0d_array(dtype, xpv):
    """NumPy's scalars have another."""

    def net():
        s, W, b = np.asarray(0.30803402), values((6, 4)), values((4,))
        arrays = [xpv.asarray(a.copy(), dtype) for a in (s, W, b)]  # no other network has them
        return xl.Sequential(Scaled(arrays[0]), xl.Affine(*arrays[1:]))

    compare(xpv, net, lambda: xl.SGD(0.1), steps=100, dtype=dtype)


class Picked(xl.Loss):
    """Counts the classes from the end."""

    def apply(self, arrays, scores, target):
        xp = xl.namespace(scores)
        at = target[:, None] - 4
        return -xp.sum(xp.take_along_axis(scores, at, axis=-1)), (scores, target)

    def vjp(self, cache, dout):
        scores, target = cache
        xp = xl.namespace(scores)
        at = xp.arange(scores.shape[1]) == target[:, None]
        return -xp.astype(at, scores.dtype) * dout


def test_indices_from_the_end(xpv):
    assert taker(compare(xpv, mlp, lambda: xl.SGD(0.01), loss=Picked)).replays.replays


def test_parameters_of_two_dtypes(xpv):
    """What is rounded for one dtype is not taken for the next."""
    found = []
    p = {"a": np.ones(3, "float32"), "b": np.ones(3, "float64")}
    for names in ("ab", "ba", "b"):
        params = {name: xpv.asarray(p[name]) for name in names}
        grads = {name: xpv.asarray(np.full_like(p[name], 1 / 3)) for name in names}
        optimizer = xl.Adam(lr=lambda count: count * 0.0 + 0.1)
        new, _ = optimizer.step(params, grads, optimizer.init(params))
        found.append(to_numpy(new["b"]))
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


@pytest.mark.only("torch")
def test_a_step_under_the_transformations_of_torch(xpv):
    import torch

    optimizer = xl.Adam(0.1)
    params, grads = {"p": torch.ones(5, 3)}, {"p": torch.full((5, 3), 0.5)}
    each = [optimizer.init({"p": p}) for p in params["p"]]
    state = torch.utils._pytree.tree_map(lambda *a: torch.stack(a), *each)
    new, after = torch.func.vmap(optimizer.step)(params, grads, state)
    alone, _ = optimizer.step({"p": params["p"][0]}, {"p": grads["p"][0]}, each[0])
    torch.testing.assert_close(new["p"], alone["p"].expand(5, 3))
    assert after["count"].tolist() == [1] * 5

    def one(p, g, m, v, count):
        new, _ = optimizer.step({"p": p}, {"p": g}, {"m": {"p": m}, "v": {"p": v}, "count": count})
        return new["p"]

    zeros = torch.zeros(3)
    inputs = [
        (zeros, zeros + 0.5, zeros + m, zeros + 1, torch.tensor(i)) for i, m in ((0, 1), (4, 2))
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and warns of checks
        traced = torch.jit.trace(one, inputs[0])
    for given in inputs:
        torch.testing.assert_close(traced(*given), one(*given))


@pytest.mark.only("torch")
@pytest.mark.parametrize("loss", [xl.SoftmaxWithLoss(), xl.MeanSquaredError()])
def test_caches_of_losses_are_arrays(loss, xpv):
    import torch

    scores = torch.ones(3, 4, 5)
    target = (
        scores if isinstance(loss, xl.MeanSquaredError) else torch.ones(3, 4, dtype=torch.int64)
    )
    value, cache = torch.func.vmap(lambda s, t: loss.apply({}, s, t))(scores, target)
    dx = torch.func.vmap(lambda c: loss.vjp(c, 1.0))(cache)
    for i in range(3):
        alone, _ = loss.apply({}, scores[i], target[i])
        torch.testing.assert_close(value[i], alone)
        loss.forward(scores[i], target[i])
        torch.testing.assert_close(dx[i], loss.backward())


@elementwise(integers=True)
def _by_a_number(xp, x, k):
    return x * (k // 2) + k / 3


class ByNumbers(xl.Layer):
    """Computes with numbers that come from arrays: of Python, of several types."""

    def apply(self, arrays, x):
        xp = xl.namespace(x)
        rows = xp.sum(xp.astype(x[:, 0] > 0, xp.int64))
        return _by_a_number(x, rows.item()) + _by_a_number(x, xp.max(x).item()), ()

    def vjp(self, cache, dy):
        return dy, {}


def test_numbers_of_several_types(xpv):
    def net():
        return xl.Sequential(xl.Affine.init(6, 5, rng=0), ByNumbers(), xl.Affine.init(5, 4, rng=1))

    compare(xpv, net, xl.SGD)


NORMALIZATIONS = {
    "batch": lambda: xl.BatchNormalization.init(6),
    "layer": lambda: xl.LayerNormalization.init(6),
    "group": lambda: xl.GroupNormalization.init(6, 2),
    "mean square": lambda: xl.RmsNormalization.init(6),
}


@pytest.mark.parametrize("scale", [1e25, 1e-30, float("nan")])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_a_batch_whose_squares_are_no_numbers(normalization, scale, xpv):
    """A body that looks at values has the portable one beside it in the replay too."""

    def net():
        return xl.Sequential(NORMALIZATIONS[normalization](), xl.Affine.init(6, 4, rng=0))

    x, t = values((8, 6)).astype("float32"), xpv.asarray(np.arange(8) % 4)
    auto, plain = (
        TrainStep(net(), xl.SoftmaxWithLoss(), xl.SGD(), compile=how) for how in ("auto", False)
    )
    for factor in (1, 1, 1, scale, 1):
        batch = xpv.asarray(x * np.float32(factor))
        assert_same_bits(auto(batch, t), plain(batch, t))
    assert taker(auto).replays.replays


@pytest.mark.parametrize("optimizer", [xl.SGD, xl.Momentum, xl.Adam, xl.AdamW])
def test_elementwise_functions_are_prepared(optimizer, xpv):
    """None is looked up in each step: that would take as long as the products of a small one."""
    step = compare(xpv, mlp, optimizer)
    (replay,) = taker(step).replays.replays.values()
    kind = type(elementwise(lambda xp, x: x + 1))
    assert not [v.__name__ for v in replay.__globals__.values() if isinstance(v, kind)]
