"""The bodies of PyTorch against the portable ones of float64, at the edges of their dtypes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from helpers import assert_close, values

import xplayers as xl
from xplayers import functional
from xplayers.arrays.operation import body_of, portable_body
from xplayers.layers import (
    activations,
    attention,
    batch_normalization,
    embedding,
    layer_normalization,
)
from xplayers.losses import base, softmax

torch = pytest.importorskip("torch")
EPS = 1e-5
TOLERANCES = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}


def tensor(a, dtype="float32"):
    return torch.from_numpy(np.array(a)).to(getattr(torch, dtype))


def wide(a):
    return a.double() if a.is_floating_point() else a


def both(operation, x, *args):
    """Return what the body and the portable body of float64 return for the same numbers."""
    body = body_of(operation, x)
    arguments = [wide(a) if isinstance(a, torch.Tensor) else a for a in args]
    return body(x, *args), portable_body(operation)(wide(x), *arguments)


INPUTS = {
    "plain": lambda shape: values(shape, 1),
    "far from 0": lambda shape: 1000.0 + values(shape, 1),
    "squares overflow": lambda shape: 1e30 * values(shape, 1),
    "squares underflow": lambda shape: 1e-24 * values(shape, 1),
    "one channel is 0": lambda shape: values(shape, 1) * (np.arange(shape[1]) != 1).reshape(
        1, -1, *[1] * (len(shape) - 2)
    ),
    "constant": lambda shape: np.full(shape, 3.25),
}  # fmt: skip


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("shape", [(8, 5), (4, 5, 6, 3), (6, 5, 1)])
def test_batch_normalization(name, dtype, shape):
    if dtype == "float16" and "flow" in name:
        return
    x = tensor(INPUTS[name](shape), dtype)
    gamma, beta = tensor(1.0 + values((5,), 2), dtype), tensor(values((5,), 3), dtype)
    own, portable = both(batch_normalization.batch_normalization, x, gamma, beta, EPS)
    y, xh, r, mean, var = own
    assert xh is None
    assert y.dtype == x.dtype
    tolerance = TOLERANCES[dtype]
    assert_close(y, portable[0], 30 * tolerance if name == "far from 0" else tolerance)
    for ours, exact in zip((r, mean), portable[2:4], strict=True):
        assert ours.shape == exact.shape
        assert_close(ours / exact.abs().max(), exact / exact.abs().max(), 1e-4)
    if name != "squares overflow":
        assert_close(var, portable[4], 1e-4)
    dy = tensor(values(shape, 4), dtype)
    gradient = batch_normalization.batch_normalization_gradient
    grads = body_of(gradient, dy)(dy, x, gamma, None, mean, r)
    exact = portable_body(gradient)(wide(dy), wide(x), wide(gamma), *portable[1:4:2], portable[2])
    for ours, right in zip(grads, exact, strict=True):
        assert ours.dtype == x.dtype
        assert (wide(ours) - right).abs().max() <= 40 * tolerance * right.abs().max()


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize(("shape", "axes"), [((8, 5), 1), ((4, 5, 6), 2), ((2, 5, 1), 1)])
def test_layer_normalization(name, dtype, shape, axes):
    if dtype == "float16" and "flow" in name:
        return
    x = tensor(INPUTS[name](shape), dtype)
    gamma = tensor(1.0 + values(shape[-axes:], 2), dtype)
    beta = tensor(values(shape[-axes:], 3), dtype)
    own, (exact_y, exact_xh, exact_r, _) = both(
        layer_normalization.layer_normalization, x, gamma, beta, EPS
    )
    y, xh, r, mean = own
    assert xh is None
    assert y.dtype == x.dtype
    tolerance = TOLERANCES[dtype]
    assert_close(y, exact_y, 3 * tolerance)
    dy = tensor(values(shape, 4), dtype)
    gradient = layer_normalization.layer_normalization_gradient
    grads = body_of(gradient, dy)(dy, x, gamma, None, mean, r)
    exact = portable_body(gradient)(wide(dy), wide(x), wide(gamma), exact_xh, None, exact_r)
    for ours, right in zip(grads, exact, strict=True):
        assert ours.dtype == x.dtype
        # Of a row of equal values all terms of a gradient cancel.
        equal = shape[-1] == 1 or name == "constant"
        unit = max(right.abs().max(), exact_r.max() if equal else 0.0)
        assert (wide(ours) - right).abs().max() <= 40 * tolerance * unit


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize(("shape", "groups"), [((3, 6, 4, 5), 2), ((3, 6), 2), ((2, 6, 5), 6)])
def test_group_normalization(name, dtype, shape, groups):
    if dtype == "float16" and "flow" in name:
        return
    x = tensor(INPUTS[name](shape), dtype)
    gamma, beta = tensor(1.0 + values((6,), 2), dtype), tensor(values((6,), 3), dtype)
    own, (exact_y, exact_xh, exact_r, _) = both(
        batch_normalization.group_normalization, x, gamma, beta, groups, EPS
    )
    y, xh, r, mean = own
    assert xh is None
    assert y.dtype == x.dtype
    tolerance = TOLERANCES[dtype]
    assert_close(y, exact_y, 3 * tolerance)
    dy = tensor(values(shape, 4), dtype)
    gradient = batch_normalization.group_normalization_gradient
    grads = body_of(gradient, dy)(dy, x, gamma, None, mean, r)
    exact = portable_body(gradient)(wide(dy), wide(x), wide(gamma), exact_xh, None, exact_r)
    for ours, right in zip(grads, exact, strict=True):
        assert ours.dtype == x.dtype
        # Of a group of equal values all terms of a gradient cancel.
        unit = max(right.abs().max(), exact_r.max() if name == "constant" else 0.0)
        assert (wide(ours) - right).abs().max() <= 40 * tolerance * unit


def test_what_is_declined():
    x, ones = tensor(values((1, 5))), torch.ones(5)
    normalized = body_of(batch_normalization.batch_normalization, x)
    rows = body_of(layer_normalization.layer_normalization, x)
    assert normalized(x, ones, ones, EPS) is NotImplemented  # one value each has no variance
    assert normalized(x[:0], ones, ones, EPS) is NotImplemented
    assert rows(x[:0], ones, ones, EPS) is NotImplemented
    assert rows(x.double(), ones.double(), ones.double(), EPS) is NotImplemented
    assert rows(x, ones.double(), ones.double(), EPS) is NotImplemented


@pytest.mark.parametrize("layer", [xl.BatchNormalization.init(5), xl.LayerNormalization.init(5)])
def test_pytorch_differentiates_them(layer):
    x = tensor(values((6, 5)))
    arrays = layer.to(like=x).arrays

    def total(x):
        return (layer.apply(arrays, x)[0] ** 3).sum()

    dx = torch.func.grad(total)(x)
    recorded = x.clone().requires_grad_()
    total(recorded).backward()
    assert_close(recorded.grad, dx, 1e-5)
    y, cache = layer.apply(arrays, x)
    assert_close(dx, layer.vjp(cache, 3.0 * y * y)[0], 1e-4)


SCORES = {
    "plain": lambda: 3.0 * values((40, 500), 1),
    "sure": lambda: np.eye(40, 500) * 20.0,
    "sure and wrong": lambda: np.eye(40, 500, 1) * 200.0,
    "huge": lambda: 1e30 * values((40, 500), 1),
    "masked": lambda: (
        np.where(values((40, 500), 2) > 0.3, -np.inf, values((40, 500), 1))
        + np.where(np.eye(40, 500) > 0, 0.0, 0.0)
    ),
}


@pytest.mark.parametrize("out", [False, True])
@pytest.mark.parametrize("name", SCORES)
def test_cross_entropy_of_labels(name, out):
    scores = SCORES[name]()
    labels = np.arange(40) if name != "masked" else np.argmax(scores, axis=1)
    x, t = tensor(scores), torch.from_numpy(labels)
    assert x.numel() > 16_384  # else NumPy computes
    exact_rows, exact_dx = portable_body(softmax.cross_entropy_of_labels)(wide(x), t)
    memory = (torch.empty(40), torch.empty_like(x)) if out else (None, None)
    rows, dx = body_of(softmax.cross_entropy_of_labels, x)(x, t, memory)
    assert not out or (rows is memory[0] and dx is memory[1])
    np.testing.assert_allclose(rows, exact_rows, rtol=2e-6, atol=1e-30)
    np.testing.assert_allclose(dx, exact_dx, rtol=1e-5, atol=1e-7)
    own = dx.gather(1, t[:, None])
    np.testing.assert_allclose(own, exact_dx.gather(1, t[:, None]), rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 4), (20_000,)])
def test_means_and_multiples_of_losses(shape):
    x = tensor(values(shape, 1))
    n = max(x.numel(), 1)
    assert_close(base.total(x, n), x.double().sum() / n, 1e-6)
    assert torch.equal(base.scaled(x, 1.0 / n), x * (1.0 / n))
    assert base.total(x, n).dtype == base.scaled(x, 3.0).dtype == x.dtype
    recorded = x.clone().requires_grad_()
    base.total(base.scaled(recorded, 2.0), n).backward()
    assert torch.equal(recorded.grad, torch.full(shape, 2.0 / n))


KERNELS = [
    (functional.sigmoid, {}), (functional.tanh, {}), (functional.softplus, {}),
    (functional.silu, {}), (functional.gelu, {"approximate": "tanh"}),
    (functional.gelu, {"approximate": "none"}), (functional.elu, {"alpha": 1.0}),
    (functional.elu, {"alpha": 0.3}), (functional.leaky_relu, {"alpha": 0.1}),
    (functional.leaky_relu, {"alpha": 0.0}),
]  # fmt: skip
GRID = np.concatenate([
    np.linspace(-30.0, 30.0, 4001), [0.0, -0.0, np.inf, -np.inf, np.nan, 1e30, -1e30, 87.0, -87.0]
])  # fmt: skip


def kernels():
    for function, options in KERNELS:
        yield pytest.param(function, options, 1, id=f"{function.__name__}-{options}")
        derivative = getattr(functional, f"{function.__name__}_derivative")
        if function in (functional.sigmoid, functional.tanh):
            vjp = getattr(activations, f"{function.__name__}_vjp")
            yield pytest.param(vjp, {}, 2, id=vjp.__name__)
        else:
            chain = {"derivative": derivative, **options}
            yield pytest.param(activations.chain, chain, 2, id=f"{derivative.__name__}-{options}")


@pytest.mark.parametrize("dtype", ["float64", *TOLERANCES])
@pytest.mark.parametrize(("function", "options", "operands"), [*kernels()])
def test_activations(function, options, operands, dtype):
    x = tensor(GRID, dtype)
    if function.__name__.endswith("vjp"):  # of y
        x = torch.tanh(x) if "tanh" in function.__name__ else torch.sigmoid(x)
    arguments = (x,) if operands == 1 else (tensor(1.0 + values(x.shape, 1), dtype), x)
    exact = function.function(np, *[a.double().numpy() for a in arguments], **options)
    ours = function(*arguments, **options)
    memory = torch.empty_like(x)
    assert function(*arguments, out=memory, **options) is memory
    assert torch.equal(memory.nan_to_num(7.0), ours.nan_to_num(7.0))
    assert ours.dtype == x.dtype
    number = np.isfinite(exact)
    tolerance = {"float64": 1e-13}.get(dtype, TOLERANCES.get(dtype, 0.0))
    ours = ours.double().numpy()
    finite = number & (abs(exact) < torch.finfo(x.dtype).max)
    np.testing.assert_allclose(ours[finite], exact[finite], rtol=tolerance, atol=tolerance)
    assert (np.isnan(ours) == np.isnan(exact)).all()
    assert (ours[~number & ~np.isnan(exact)] == exact[~number & ~np.isnan(exact)]).all()


@pytest.mark.parametrize("approximate", ["none"])
def test_the_tail_of_gelu_keeps_its_digits(approximate):
    x = np.linspace(-12.0, -3.0, 50)
    exact = functional.gelu(x, approximate=approximate)
    ours = functional.gelu(tensor(x), approximate=approximate)
    np.testing.assert_allclose(ours, exact, rtol=3e-5)


@pytest.mark.parametrize("dtype", ["float64", *TOLERANCES])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("time", "keys"), [(7, 7), (5, 9), (9, 5), (1, 1), (70, 70)])
def test_attention(time, keys, causal, dtype):
    q, do = (tensor(values((2, 3, time, 4), seed), dtype) for seed in (1, 2))
    k, v = (tensor(3.0 * values((2, 3, keys, 4), seed), dtype) for seed in (3, 4))
    own, exact = both(attention.attention, q, k, v, None, causal)
    o, a, log_sums = own
    assert a is None
    tolerance = 3 * {"float64": 1e-13}.get(dtype, TOLERANCES.get(dtype, 0.0))
    assert_close(o, exact[0], tolerance)
    gradient = attention.attention_gradient
    grads = body_of(gradient, do)(do, q, k, v, None, o, log_sums, causal)
    expected = portable_body(gradient)(*map(wide, (do, q, k, v)), exact[1], exact[0], None, causal)
    for ours, right in zip(grads, expected, strict=True):
        assert ours.dtype == q.dtype
        assert_close(ours, right, 3 * tolerance)


def test_attention_of_any_layout():
    """PyTorch's kernel reads past the end of a tensor whose last axis is not dense."""
    do, q, k, v = (tensor(values((2, 3, 6, 2), seed)) for seed in range(1, 5))
    right = body_of(attention.attention, q)(q, k, v, None, True)
    gradient = body_of(attention.attention_gradient, q)
    expected = gradient(do, q, k, v, None, *right[::2], True)
    for order in ([3, 0, 1, 2], [0, 2, 3, 1], [1, 3, 2, 0]):
        back = np.argsort(order).tolist()
        turned = [a.permute(order).contiguous().permute(back) for a in (do, q, k, v)]
        o, _, log_sums = body_of(attention.attention, q)(*turned[1:], None, True)
        assert_close(o, right[0], 1e-6)
        for ours, theirs in zip(gradient(*turned, None, o, log_sums, True), expected, strict=True):
            assert_close(ours, theirs, 1e-6)


def test_attention_declines_masks_and_nothing():
    q = tensor(values((2, 3, 5, 4)))
    own = body_of(attention.attention, q)
    assert own(q, q, q, torch.ones(2, 5, dtype=torch.bool), False) is NotImplemented
    assert own(q[:0], q[:0], q[:0], None, False) is NotImplemented


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_by_index(dtype):
    index = torch.from_numpy(np.where(np.arange(2000) % 3 > 0, 4, np.arange(2000) % 11) - 1)
    d = tensor(values((2000, 5)), dtype)
    own, exact = both(embedding.sums_by_index, d, index, 9)  # -1 and 9 are left out
    assert own.dtype == d.dtype
    assert_close(own, exact, 1e-6)


def in_odd_steps(a, step):
    """Return a tensor whose axes of length 1 have another stride, which nobody ever takes."""
    strides = [step if n == 1 else s for n, s in zip(a.shape, a.stride(), strict=True)]
    return a.as_strided(a.shape, strides)


@pytest.mark.parametrize("step", [1, 2, 7, 64])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (xl.BatchNormalization.init(2), (2, 2, 1, 1)),
        (xl.BatchNormalization.init(1), (3, 1, 5, 4)),
        (xl.GroupNormalization.init(2, 1), (2, 2, 1, 1)),
        (xl.GroupNormalization.init(1, 1), (3, 1, 5, 4)),
        (xl.Convolution.init(1, 2, (3, 2), rng=0), (3, 1, 5, 4)),
        (xl.Convolution.init(2, 3, 1, rng=0), (2, 2, 1, 1)),
        (xl.ConvolutionTranspose.init(1, 2, (3, 2), rng=0), (3, 1, 5, 4)),
    ],
    ids=lambda value: str(value),
)
def test_strides_that_mean_nothing_change_no_bits(layer, shape, step):
    x = torch.from_numpy(values(shape).astype("float32"))
    layer = copy.deepcopy(layer).to(like=x)
    y, cache = layer.apply(layer.arrays, x)
    dy = torch.from_numpy(values(tuple(y.shape), 1).astype("float32"))
    dx, grads = layer.vjp(cache, dy)
    assert torch.equal(layer.vjp(cache, in_odd_steps(dy, step))[0], dx)
    arrays = {k: in_odd_steps(a, step) for k, a in layer.arrays.items()}
    other, cache = layer.apply(arrays, in_odd_steps(x, step))
    assert torch.equal(other, y)
    other, others = layer.vjp(cache, in_odd_steps(dy, step))
    assert torch.equal(other, dx)
    for name, g in grads.items():
        assert torch.equal(others[name], g), name


IMAGES = (4, 3, 5, 6)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    "layer",
    [
        xl.BatchNormalization.init(3),
        xl.GroupNormalization.init(3, 1),
        xl.Convolution.init(3, 3, 3, padding=1, rng=0),
    ],
    ids=str,
)
def test_the_order_of_a_gradient_in_memory_changes_no_bits(layer, channels_last):
    x = torch.from_numpy(values(IMAGES).astype("float32"))
    dy = torch.from_numpy(values(IMAGES, 1).astype("float32"))
    layer = copy.deepcopy(layer).to(like=x)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    _, cache = layer.apply(layer.arrays, x)
    dx, grads = layer.vjp(cache, dy)
    other, others = layer.vjp(cache, dy.contiguous(memory_format=torch.channels_last))
    assert torch.equal(other, dx)
    assert all(torch.equal(others[name], g) for name, g in grads.items())


def test_steps_of_images_with_the_channels_last_are_those_of_the_loop():
    """A replay keeps gradients in another order than the calls of a layer."""
    x = torch.from_numpy(values(IMAGES).astype("float32"))
    x = x.contiguous(memory_format=torch.channels_last)
    t, results = torch.arange(len(x)) % 3, []
    for how in ("auto", False):
        net = xl.Sequential(
            xl.BatchNormalization.init(3), xl.Relu(), xl.Flatten(), xl.Affine.init(90, 3, rng=1)
        ).to(like=x)
        step = xl.TrainStep(net, xl.SoftmaxWithLoss(), xl.SGD(0.1), compile=how)
        results.append(([float(step(x, t)) for _ in range(6)], dict(net.params)))
    (losses, params), (expected, arrays) = results
    assert losses == expected
    assert all(torch.equal(params[name], a) for name, a in arrays.items())
