"""Elementwise functions on PyTorch's tensors: one definition, whoever computes them."""

import numpy as np
import pytest
from helpers import assert_same_bits, values

import xplayers as xl
from xplayers import elementwise
from xplayers.arrays.namespaces import namespace

torch = pytest.importorskip("torch")

SIZES = (1, 5, 4096, 4097, 70_000)
FLOATS = (torch.float32, torch.float64)


@elementwise
def scaled(xp, x, eps):
    return x / (xp.sqrt(x) + eps)


@elementwise
def root(xp, x):
    return xp.sqrt(x)


@elementwise
def damped(xp, x):
    """Return something with a root that is no program for tensors: exponentials differ."""
    return xp.sqrt(x) * xp.exp(-x)


@elementwise
def product(xp, x, a, b):
    """Return a product whose scalars meet each other before they meet the array."""
    return x * (a * b)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", SIZES)
def test_a_root_has_the_bits_of_numpy(size, dtype):
    x = torch.asarray(np.abs(values((size,))), dtype=dtype)
    expected = scaled.function(np, x.numpy(), 0.1)
    assert_same_bits(scaled(x, 0.1), expected)
    assert_same_bits(scaled(x, 0.1, out=torch.empty_like(x)), expected)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_root_of_any_layout_and_shape(dtype):
    x = torch.asarray(np.abs(values((30, 40))), dtype=dtype)
    for odd in (x.T, x[::2], x[:, ::3], x[1:1], x[0, 0], x[:1].expand(30, 40), x.flip(1)):
        expected = scaled.function(np, odd.numpy(), 0.1)
        assert_same_bits(scaled(odd, 0.1), expected)
        assert_same_bits(scaled(odd, 0.1, out=torch.empty(odd.shape, dtype=dtype)), expected)


def test_a_root_of_what_has_none_is_no_number_and_warns_of_nothing():
    x = torch.asarray([-1.0, 0.0, -0.0, torch.inf, torch.nan])
    got = scaled(x, 1.0)
    assert torch.isnan(got).tolist() == [True, False, False, True, True]
    for dtype in (torch.float16, torch.bfloat16):
        assert scaled(x.to(dtype), 1.0).dtype == dtype


def test_a_root_keeps_its_gradients():
    x = torch.asarray(np.abs(values((5000,))), dtype=torch.float64)
    slope = 0.5 / torch.sqrt(x)
    given = x.clone().requires_grad_()
    root(given).sum().backward()
    torch.testing.assert_close(given.grad, slope)
    torch.testing.assert_close(torch.func.grad(lambda a: root(a).sum())(x), slope)
    torch.testing.assert_close(torch.func.vmap(root)(x), torch.sqrt(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit
def test_a_root_is_traced_as_an_operation(monkeypatch):
    monkeypatch.setattr("xplayers.arrays.operation._LAID_FOR", set())
    x, other = torch.asarray([4.0, 9.0]), torch.asarray([16.0, 25.0])
    assert root(x).tolist() == [2.0, 3.0]
    for traced in (
        torch.jit.trace(root, (x,)),
        torch.compile(root, backend="eager", fullgraph=True),
    ):
        assert traced(x).tolist() == [2.0, 3.0]
        assert traced(other).tolist() == [4.0, 5.0]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", SIZES)
def test_scalars_in_tensors_have_their_dtype_with_and_without_out(size, dtype):
    x = torch.asarray(values((size,)), dtype=dtype)
    a, b = torch.asarray(0.1), torch.asarray(0.7)
    expected = x * (a * b)
    assert_same_bits(product(x, a, b), expected)
    assert_same_bits(product(x, a, b, out=torch.empty_like(x)), expected)
    assert_same_bits(product(x, 0.1, 0.7, out=torch.empty_like(x)), product(x, 0.1, 0.7))


class Rooted(xl.Layer):
    """A layer whose function has a root, and one that combines scalars in tensors."""

    s, ds = xl.Parameter(), xl.Gradient()

    def __init__(self, s):
        self.s = s

    def apply(self, arrays, x):
        y = scaled(x * x + 0.1, 0.3)
        a = namespace(x).mean(y)
        return (product(y, a, a) + damped(y)) * arrays["s"], (y,)

    def vjp(self, cache, dy):
        (y,) = cache
        return scaled(dy * dy, 0.2), {"s": namespace(dy).sum(dy * y, axis=0)}


@pytest.mark.parametrize("n", [3, 2000])
def test_a_replayed_root_is_that_of_the_step(n):
    x, t = torch.asarray(values((n, 4)), dtype=torch.float32), torch.arange(n) % 3
    ends = []
    for how in ("auto", False):
        net = xl.Sequential(xl.Affine.init(4, 4, rng=0), Rooted(np.ones(4, "float32")))
        net.to(like=x)
        step = xl.TrainStep(net, xl.SoftmaxWithLoss(), xl.RMSprop(), compile=how)
        losses = [step(x, t) for _ in range(6)]
        ends.append([*losses, *net.params.values()])
    for got, expected in zip(*ends, strict=True):
        assert_same_bits(got, expected)
