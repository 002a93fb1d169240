"""Layers as functions of JAX: `xplayers.jax.as_function`."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from cases import LAYERS
from helpers import python, says, values

import xplayers as xl

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402

from xplayers.jax import as_function  # noqa: E402

# A row of each layer; `pytest -m slow` has the others.
FIRST = {case.id.partition("-")[0]: case for case in reversed(LAYERS)}.values()
OTHERS = [pytest.param(c, marks=pytest.mark.slow) for c in LAYERS if c not in FIRST]
ROWS = pytest.mark.parametrize("case", [*FIRST, *OTHERS], ids=lambda case: case.id)


@pytest.fixture(autouse=True)
def _doubles():
    with jax.enable_x64(True):
        yield


def made(layer):
    """Return a layer of doubles, its function and its parameters."""
    layer = layer.to(xp=jnp, dtype="float64")
    return layer, *as_function(layer)


def input_of(case):
    if case.integers:
        return jnp.asarray(np.random.default_rng(0).integers(0, case.integers, case.shape))
    return jnp.asarray(values(case.shape))


def close(a, b, tolerance=1e-9):
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    assert len(a) == len(b) > 0
    for got, expected in zip(a, b, strict=True):
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


def smooth(layer):
    """Return a function of a layer, and a sum of squares of its values."""
    _, f, params = made(layer)
    return f, params, lambda params, x: jnp.sum(f(params, x) ** 2)


@ROWS
def test_gradients_and_gradients_of_gradients(case):
    """The first are those of the layer on NumPy, the second what differences of them are."""
    layer, (f, params) = case.make().to(dtype="float64"), made(case.make())[1:]
    x = np.asarray(input_of(case))
    y = layer.forward(x)
    w = values(tuple(y.shape), 3)
    dx = layer.backward(2.0 * w * y)
    args = (0,) if case.integers else (0, 1) if params else (1,)

    def loss(params, x):
        y = f(params, x)
        return jnp.sum(w * y**2), y

    def first(params, x):
        return jax.grad(loss, argnums=args, has_aux=True)(params, x)

    def along(params, x):
        return sum(map(jnp.sum, map(jnp.multiply, jax.tree.leaves(first(params, x)[0]), ways)))

    compiled = jax.jit(first)
    grads, got = compiled(params, jnp.asarray(x))
    close(got, y)
    close(grads, [dict(layer.grads), dx][args[0] : args[-1] + 1])
    ways = [values(a.shape, 5, 1.0) for a in jax.tree.leaves(grads)]
    second = jax.tree.leaves(jax.jit(jax.grad(along, argnums=args))(params, jnp.asarray(x)))
    leaves, tree = jax.tree.flatten([params, jnp.asarray(x)][args[0] : args[-1] + 1])

    def moved(step):
        arguments = [params, jnp.asarray(x)]
        ahead = [np.asarray(a) + step * d for a, d in zip(leaves, ways, strict=True)]
        arguments[args[0] : args[-1] + 1] = jax.tree.unflatten(tree, map(jnp.asarray, ahead))
        return _dot(jax.tree.leaves(compiled(*arguments)[0]), ways)

    scale = 1.0 + sum(float(np.abs(a).sum()) for a in second)
    assert abs((moved(1e-5) - moved(-1e-5)) / 2e-5 - _dot(second, ways)) < 1e-6 * scale


def _dot(a, b):
    return sum(float((np.asarray(a) * b).sum()) for a, b in zip(a, b, strict=True))


@pytest.mark.parametrize("make", [lambda: xl.mlp([4, 5, 3], rng=0), lambda: xl.Gru.init(4, 3)])
def test_transformations(make):
    f, params, loss = smooth(make())
    xs = jnp.asarray(values((3, 2, 4) if isinstance(f.layer, xl.Sequential) else (3, 2, 5, 4)))
    gradient = jax.grad(loss, argnums=(0, 1))
    each = [gradient(params, x) for x in xs]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *each)
    close(jax.vmap(gradient, in_axes=(None, 0))(params, xs), stacked)
    close(jax.vmap(f, in_axes=(None, 0))(params, xs), jnp.stack([f(params, x) for x in xs]))
    remat = jax.grad(jax.checkpoint(loss), argnums=(0, 1))
    close(jax.jit(remat)(params, xs[0]), each[0])
    _, pulled = jax.vjp(f, params, xs[0])
    close(pulled(2.0 * f(params, xs[0])), each[0])
    jacobian = jax.jacrev(jax.jacrev(lambda x: loss(params, x)))(xs[0])
    size = xs[0].size
    np.testing.assert_allclose(jacobian.reshape(size, size), jacobian.reshape(size, size).T)


def test_forward_mode_is_refused_by_jax():
    f, params, _ = smooth(xl.Tanh())
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: f(params, x), (jnp.ones(3),), (jnp.ones(3),))


def test_ten_steps_are_those_of_the_layer():
    """A loop as those of optax, with the state of batch normalization and dropout."""

    def make():
        return xl.Sequential(
            xl.Affine.init(4, 5, rng=0), xl.BatchNormalization.init(5), xl.Dropout(0.3),
            xl.Affine.init(5, 3, rng=1),
        )  # fmt: skip

    net, f, params = made(make())
    loss, _ = as_function(xl.SoftmaxWithLoss())
    other = make().to(xp=jnp, dtype="float64")
    step = xl.TrainStep(other, xl.SoftmaxWithLoss(), xl.SGD(lr=0.1))

    @jax.jit
    def train(params, state, x, t):
        def value(params):
            scores, after = f(params, x, state=state)
            return loss({}, scores, t), after

        (_, state), grads = jax.value_and_grad(value, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), state

    state = f.state
    for i in range(10):
        x, t = jnp.asarray(values((6, 4), i)), jnp.asarray([0, 1, 2, 0, 1, 2])
        params, state = train(params, state, x, t)
        step(x, t)
    close(params, dict(other.params))
    close(state, dict(other.buffers))
    x = jnp.asarray(values((6, 4)))
    net.params.update(params)
    net.buffers.update(state)
    close(net.predict(x), other.predict(x))
    close(f(params, x, state=state, train=False)[0], other.predict(x))
    close(f(params, x, state=state, train=False)[1], state)


def test_a_state_has_no_gradient():
    """Also where it is carried on by a loop."""
    _, f, params = made(xl.BatchNormalization.init(4))
    xs = jnp.asarray(values((3, 6, 4)))

    def total(params):
        state, ys = jax.lax.scan(lambda state, x: f(params, x, state=state)[::-1], f.state, xs)
        return jnp.sum(ys**3) + sum(map(jnp.sum, state.values()))

    expected = jax.grad(lambda params: sum(jnp.sum(f(params, x) ** 3) for x in xs))(params)
    close(jax.grad(total)(params), expected)
    close(
        jax.grad(lambda x: jnp.sum(f(params, x, state=f.state)[1]["running_mean"]))(xs[0]),
        0 * xs[0],
    )


def test_inference_is_differentiated_by_jax():
    _, f, params = made(xl.BatchNormalization.init(4))
    x = jnp.asarray(values((6, 4)))
    close(
        jax.grad(lambda x: jnp.sum(f(params, x, train=False)))(x),
        jnp.full((6, 4), (1 + 1e-5) ** -0.5),
    )


def test_further_inputs():
    layer, f, params = made(xl.Sequential(a=xl.Tanh(), b=xl.MultiHeadAttention.init(4, 2, rng=0)))
    x, context = jnp.asarray(values((2, 3, 4))), jnp.asarray(values((2, 5, 4), 1))
    mask = jnp.asarray([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    dx, dcontext = jax.grad(
        lambda x, c: jnp.sum(f(params, x, b={"context": c, "key_mask": mask}) ** 2), argnums=(0, 1)
    )(x, context)
    y = layer.forward(x, b={"context": context, "key_mask": mask})
    expected, others = layer.backward(2.0 * y)
    close((dx, dcontext), (expected, others["b"][0]))


def test_an_input_without_a_gradient_says_so():
    loss, params = as_function(xl.MeanSquaredError())
    x = jnp.ones((3, 2))
    with pytest.raises(TypeError, match=says("MeanSquaredError: an input that has no gradient")):
        jax.grad(lambda t: loss(params, x, t))(x)
    assert not jax.grad(lambda t: loss(params, x, jax.lax.stop_gradient(t)))(x).any()


def test_the_gradient_of_the_input_is_computed_where_it_is_needed(monkeypatch):
    _, f, params = made(xl.Affine.init(4, 3, rng=0))
    calls, vjp = [], xl.Affine.vjp
    monkeypatch.setattr(xl.Affine, "vjp", lambda *a: calls.append(1) or vjp(*a))
    x = jnp.ones((2, 4))
    jax.grad(lambda params: f(params, x).sum())(params)
    assert not calls
    jax.grad(lambda x: f(params, x).sum())(x)
    assert calls


def test_tied_parameters():
    W = jnp.asarray(values((5, 3)))
    embedding = xl.Embedding(W)
    layer, f, params = made(
        xl.Sequential(embedding, xl.Tanh(), xl.Affine(embedding.W.T, jnp.zeros(5), flatten=False))
    )
    layer["2"].W = layer["0"].W.T
    x = jnp.asarray([[1, 2], [3, 4]])
    layer.backward(2.0 * layer.forward(x))
    grads = jax.grad(lambda params: jnp.sum(f(params, x) ** 2))(params)
    close(grads, dict(layer.grads))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: as_function(3), TypeError, "as_function: layer is 3; expected a layer or a loss"),
        (
            lambda: as_function(xl.Affine(np.ones((2, 2)), np.ones(2))),
            TypeError,
            "as_function: W is a numpy array; expected one of JAX. Call layer.to(xp=jax.numpy).",
        ),
        (
            lambda: as_function(xl.Affine.init(4, 2))[0]({"W": 1}, jnp.ones((2, 4))),
            ValueError,
            "Affine(4 -> 2): params has W; expected W, b.",
        ),
        (
            lambda: as_function(xl.Relu())[0](jnp.ones(2), jnp.ones(2)),
            ValueError,
            "Relu: params has Array",
        ),
        (
            lambda: as_function(xl.Dropout())[0]({}, jnp.ones(2), state={}),
            ValueError,
            "state has nothing; expected count.",
        ),
    ],
)
def test_what_does_not_fit_is_said(make, error, words):
    with pytest.raises(error, match=says(words)):
        make()


def test_a_module_of_equinox():
    eqx = pytest.importorskip("equinox")

    class Net(eqx.Module):
        params: dict
        f: object = eqx.field(static=True)

        def __call__(self, x):
            return self.f(self.params, x)

    f, params, loss = smooth(xl.mlp([4, 5, 3], rng=0))
    x = jnp.asarray(values((2, 4)))
    grads = eqx.filter_jit(eqx.filter_grad(lambda net: jnp.sum(net(x) ** 2)))(Net(params, f))
    close(grads.params, jax.grad(loss)(params, x))


def test_a_module_of_flax():
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, layer):
            self.f, params = as_function(layer)
            self.params = nnx.Dict({name: nnx.Param(a) for name, a in params.items()})

        def __call__(self, x):
            return self.f({name: p[...] for name, p in self.params.items()}, x)

    f, params, loss = smooth(xl.mlp([4, 5, 3], rng=0))
    x = jnp.asarray(values((2, 4)))
    grads = nnx.jit(nnx.grad(lambda net: jnp.sum(net(x) ** 2)))(Net(f.layer))
    close(jax.tree.leaves(grads), jax.tree.leaves(jax.grad(loss)(params, x)))


def test_its_example_runs():
    import xplayers.bridges.jax_function

    with jax.enable_x64(False):
        assert doctest.testmod(xplayers.bridges.jax_function).failed == 0


def test_the_library_missing():
    code = "import sys; sys.modules['jax'] = None; import xplayers.jax"
    last = python("-c", code).stderr.splitlines()[-1]
    assert last == 'ImportError: xplayers.jax needs JAX: pip install "xplayers[jax]".'
