"""The bodies of JAX against the portable ones of NumPy in float64, eagerly and compiled."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from helpers import assert_close, values

import xplayers as xl
from xplayers.accelerate.xla import recurrence
from xplayers.arrays.operation import body_of, portable_body
from xplayers.layers import correlation, embedding, pooling
from xplayers.layers.windows import geometry

jax = pytest.importorskip("jax")
jnp = jax.numpy

TOLERANCES = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2, "float64": 1e-12}
DEFAULTS = {"stride": 1, "padding": 0, "dilation": 1}


@pytest.fixture(params=[False, True], ids=["eager", "jit"])
def run(request):
    """Call a function as it is, or compiled."""
    return jax.jit if request.param else lambda function: function


def array(a, dtype):
    return jnp.asarray(a, dtype=dtype)


def host(a):
    return np.asarray(a).astype("float64")


def check(ours, exact, dtype):
    assert ours.dtype == dtype
    assert ours.shape == exact.shape
    assert_close(ours, exact, TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [3, 600])
def test_sums_by_index(n, dtype, run):
    with jax.enable_x64(dtype == "float64"):
        d = array(values((50, 4), 1), dtype)
        index = jnp.asarray(np.random.default_rng(0).integers(0, n, 50))
        body = body_of(embedding.sums_by_index, d)
        ours = run(lambda d, index: body(d, index, n))(d, index)
        exact = portable_body(embedding.sums_by_index)(host(d), np.asarray(index), n)
        check(ours, exact, dtype)


def test_sums_by_index_leave_out_what_is_out_of_range(run):
    d, index = jnp.asarray(values((6, 2), 1)), jnp.asarray([0, -1, 3, 2, 2, 2**31 - 1])
    body = body_of(embedding.sums_by_index, d)
    ours = run(lambda d, index: body(d, index, 3))(d, index)
    assert_close(ours, np.stack([d[0], 0 * d[0], d[3] + d[4]]), 1e-6)


def test_sums_by_index_keep_infinities_in_their_rows(run):
    d = jnp.asarray([[np.inf, 1.0], [-np.inf, np.nan], [2.0, -np.inf]])
    body = body_of(embedding.sums_by_index, d)
    ours = run(lambda d, index: body(d, index, 3))(d, jnp.asarray([0, 0, 2]))
    np.testing.assert_array_equal(ours, [[np.nan, np.nan], [0.0, 0.0], [2.0, -np.inf]])


def test_empty_arrays_are_declined():
    index = jnp.asarray([], dtype="int32")
    d = jnp.zeros((0, 2))
    assert body_of(embedding.sums_by_index, d)(d, index, 3) is NotImplemented


CONVOLUTIONS = {  # shapes of x and W, options
    "1-d": ((3, 8, 11), (5, 8, 4), {}),
    "padded": ((2, 8, 9, 7), (6, 8, 3, 2), {"padding": (2, 1)}),
    "same": ((2, 9, 6, 5), (3, 9, 2, 4), {"padding": "same"}),
    "dilated": ((2, 8, 9, 10), (4, 8, 3, 2), {"dilation": (2, 3), "padding": 1}),
    "strided": ((2, 8, 10, 9), (4, 8, 3, 2), {"stride": (3, 2), "padding": (0, 1)}),
    "wider padding than the window": ((2, 8, 5, 5), (3, 8, 2, 2), {"padding": 3}),
    "one sample, one filter": ((1, 8, 4, 4), (1, 8, 4, 4), {}),
    "1 x 1": ((2, 32, 3, 4), (5, 32, 1, 1), {}),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name):
    check_convolution(name, "float32", jax.jit)


@pytest.mark.parametrize("dtype", [*TOLERANCES][1:])
def test_convolution_of_other_dtypes(dtype, run):
    check_convolution("padded", dtype, run)


def check_convolution(name, dtype, run):
    shape, filters, options = CONVOLUTIONS[name]
    window = geometry("", filters[2:], *(options.get(option, d) for option, d in DEFAULTS.items()))
    with jax.enable_x64(dtype == "float64"):
        x, W = array(values(shape, 1), dtype), array(values(filters, 2), dtype)
        b, c = array(values(filters[:1], 3), dtype), array(values(filters[1:2], 3), dtype)
        dy = array(values((shape[0], filters[0], *window.outputs(shape[2:])), 4), dtype)
        computed = 0
        for operation, arrays, rest in [
            (correlation.correlate, (x, W, b), (window, 1)),
            (correlation.correlate, (x, W, None), (window, 1)),
            (correlation.correlate_transposed, (dy, W, None), (window, 1, shape[2:])),
            (correlation.correlate_transposed, (dy, W, c), (window, 1, shape[2:])),
            (correlation.filter_gradient, (x, dy), (filters, window, 1, True)),
            (correlation.filter_gradient, (x, dy), (filters, window, 1, False)),
        ]:
            body = body_of(operation, x)
            if body(*arrays, *rest) is NotImplemented:
                continue
            computed += 1
            ours = run(lambda *a, body=body, rest=rest: body(*a, *rest))(*arrays)
            exact = portable_body(operation)(*[a if a is None else host(a) for a in arrays], *rest)
            if not isinstance(ours, tuple):
                ours, exact = (ours,), (exact,)
            for a, e in zip(ours, exact, strict=True):
                check(a, e, dtype)
        assert computed == (4 if "stride" in options else 6)


@pytest.mark.parametrize(
    ("shape", "filters", "groups"),
    [
        ((0, 8, 5, 5), (3, 8, 3, 3), 1),
        ((2, 1, 5, 5), (3, 1, 3, 3), 1),
        ((2, 8, 5, 5), (4, 4, 3, 3), 2),
        ((2, 8, 5, 5, 5), (4, 8, 3, 3, 3), 1),
    ],
)
def test_convolutions_that_are_declined(shape, filters, groups):
    x, W = jnp.zeros(shape), jnp.zeros(filters)
    window = geometry("", filters[2:], 1, 0)
    dy = jnp.zeros((shape[0], filters[0], *window.outputs(shape[2:])))
    for operation, arguments in [
        (correlation.correlate, (x, W, None, window, groups)),
        (correlation.correlate_transposed, (dy, W, None, window, groups, shape[2:])),
        (correlation.filter_gradient, (x, dy, filters, window, groups, False)),
    ]:
        assert body_of(operation, x)(*arguments) is NotImplemented


def test_jax_differentiates_convolution():
    layer = xl.Convolution.init(8, 5, 3, padding=1, rng=0, like=jnp.ones(1))
    x = jnp.asarray(values((2, 8, 6, 6), 1), "float32")

    def total(arrays, x):
        return (layer.apply(arrays, x)[0] ** 3).sum()

    grads, dx = jax.grad(total, (0, 1))(layer.arrays, x)
    y, cache = layer.apply(layer.arrays, x)
    ours, of_layer = layer.vjp(cache, 3.0 * y * y)
    assert_close(ours, dx, 1e-5)
    for name, grad in of_layer.items():
        assert_close(grad, grads[name], 1e-5)


POOLINGS = {  # shape of x and size
    "images": ((2, 3, 6, 4), (2, 2)),
    "a rest": ((2, 3, 7, 8), (2, 3)),
    "sequences": ((2, 3, 11), (4,)),
    "one element": ((2, 3, 4, 5), (1, 1)),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", POOLINGS)
def test_max_pooling_gradient(name, dtype):
    shape, size = POOLINGS[name]
    window = geometry("", size, size, 0)
    numbers = np.round(values(shape, 1))  # many are equal
    numbers[0, 0, :2], numbers[0, 1] = np.nan, -np.inf
    x = array(numbers, dtype)
    y = pooling.max_pooling(x, window)
    dy = array(values(y.shape, 2), dtype)
    body = body_of(pooling.max_pooling_gradient, x)
    exact = portable_body(pooling.max_pooling_gradient)(host(x), host(y), host(dy), window)
    ours = body(x, y, dy, window)
    assert ours.dtype == x.dtype
    np.testing.assert_array_equal(host(ours), exact)
    compiled = jax.jit(lambda *arrays: body(*arrays, window))
    np.testing.assert_array_equal(host(compiled(x, y, dy)), exact)


@pytest.mark.parametrize(
    ("shape", "size", "stride", "padding"),
    [
        ((2, 3, 6, 6), 2, 1, 0),
        ((2, 3, 6, 6), 2, 2, 1),
        ((2, 3, 6, 6), 3, 3, 0),
        ((0, 3, 4), 2, 2, 0),
    ],
)
def test_poolings_that_are_declined(shape, size, stride, padding):
    window = geometry("", (size,) * (len(shape) - 2), stride, padding)
    x = jnp.zeros(shape)
    y = pooling.max_pooling(x, window)
    assert body_of(pooling.max_pooling_gradient, x)(x, y, y, window) is NotImplemented


CELLS = {
    "rnn": xl.Rnn.init,
    "lstm": xl.Lstm.init,
    "gru": xl.Gru.init,
    "gru-published": functools.partial(xl.Gru.init, reset_after=False),
}


def both_ways(layer, x, dy, dtype):
    """Return output, gradients and last state of a layer in a dtype."""
    layer = layer.to(like=array(x[:0], dtype))
    y, cache = layer.apply(layer.arrays, array(x, dtype))
    dx, grads = layer.vjp(cache, array(dy, dtype))
    return y, dx, *grads.values(), *layer.final_state(cache)


@pytest.mark.parametrize(("dtype", "time"), [("float32", 7), ("float32", 1), ("bfloat16", 3)])
@pytest.mark.parametrize("cell", CELLS)
def test_time_steps_in_one_loop(cell, dtype, time):
    make = functools.partial(CELLS[cell], 3, 4, bidirectional=True, rng=0)
    x, dy = values((2, time, 3), 1), values((2, time, 8), 2)
    exact = make(dtype="float64")
    y, cache = exact.apply(exact.arrays, x)
    dx, grads = exact.vjp(cache, dy)
    expected = y, dx, *grads.values(), *exact.final_state(cache)
    for ours, e in zip(both_ways(make(), x, dy, dtype), expected, strict=True):
        check(ours, e, dtype)


def test_time_steps_are_compiled_once_in_eager_execution():
    loop = recurrence._loop()
    x, dy = values((3, 5, 3), 1), values((3, 5, 4), 2)
    both_ways(xl.Lstm.init(3, 4, rng=0), x, dy, "float32")
    size = loop._cache_size()
    both_ways(xl.Lstm.init(3, 4, rng=1), x, dy, "float32")
    assert loop._cache_size() == size
    traced = jax.make_jaxpr(lambda x: xl.Lstm.init(3, 4, rng=1, like=x)(x))(jnp.zeros((3, 900, 3)))
    assert len(traced.eqns) < 50
