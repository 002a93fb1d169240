"""The contract of a layer, for every row of the table on every library."""

from __future__ import annotations

import copy
import inspect
import pickle

import numpy as np
import pytest
from cases import LAYERS
from helpers import (
    TOLERANCE,
    assert_at_home,
    assert_close,
    assert_same_arrays,
    assert_same_bits,
    complex_step,
    host_params,
    share_memory,
    values,
)

import xplayers as xl
from xplayers.arrays.namespaces import namespace
from xplayers.arrays.transfer import to_numpy

EVERY = pytest.mark.parametrize("case", LAYERS, ids=lambda c: c.id)
# What is about memory, or about the shell alone. JAX arrays can be neither written to nor strided,
# and JAX compiles each operation for each shape, which takes most of the time of its tests.
NOT_JAX = pytest.mark.only("numpy", "readonly", "strict", "torch", "cupy")


FLOATING = pytest.mark.parametrize(
    "case", [c for c in LAYERS if c.integers is None], ids=lambda c: c.id
)


def inputs(case, seed=0, n=None):
    """Values of the input on the host."""
    shape = case.shape if n is None else (n, *case.shape[1:])
    if case.integers is None:
        return values(shape, seed)
    return np.random.default_rng(seed).integers(0, case.integers, shape)


def place(case, xpv, x, dtype):
    """Make `x` of inputs(case) an array of `dtype`; integers stay integers."""
    return xpv.asarray(x, dtype if case.integers is None else None)


def make(case, xpv, dtype):
    """Make the layer; of `dtype` where its input cannot say that."""
    layer = case.make()
    return layer if case.integers is None else layer.to(like=xpv.asarray(np.zeros(1), dtype))


def run(layer: xl.Layer, x, dy):
    """Forward and backward through the shell: output, input gradient, gradients by name."""
    y = layer.forward(x)
    dx = layer.backward(dy)
    assert (dx is None) == layer.integer_input, "integers, and only they, have no gradient"
    return y, dx, dict(layer.grads)


def compiled(layer: xl.Layer, x, dy):
    """Do the same on JAX through the pure functions, compiled as wholes, which takes less time."""
    import jax

    y, cache = forward_compiled(layer, x)
    return y, *jax.jit(layer.vjp)(cache, dy)


def forward_compiled(layer: xl.Layer, x):
    import jax

    layer._ready(x)  # so that the arrays are in place
    return jax.jit(layer.apply)(layer.arrays, x)


def test_the_table_has_every_layer():
    shown = {type(c.make()) for c in LAYERS}
    abstract = {xl.Layer, xl.Container}
    public = {v for v in vars(xl).values() if inspect.isclass(v) and issubclass(v, xl.Layer)}
    assert public - abstract <= shown, f"not in the table: {public - abstract - shown}"


def floats_of(case, xpv):
    """Return the dtypes to try; onnxruntime, by which ndonnx computes, has no float64 cosine."""
    without = xpv.backend == "ndonnx" and "rotary" in case.id.lower()
    return [dtype for dtype in xpv.floats if not (without and dtype == "float64")]


@EVERY
def test_forward_is_the_reference(case, xpv):
    for dtype in floats_of(case, xpv):
        layer, x = make(case, xpv, dtype), place(case, xpv, inputs(case), dtype)
        if xpv.jit and "16" in dtype:  # each operation would be compiled for one more dtype
            y, _ = forward_compiled(layer, x)
        else:
            y = layer.forward(x)
        expected = case.reference(to_numpy(x).astype("float64"), host_params(layer))
        assert_at_home(y, x, xpv.asarray(np.zeros(1), dtype).dtype)
        assert_close(y, expected, 3 * TOLERANCE[dtype] if "16" in dtype else TOLERANCE[dtype])


@EVERY
@pytest.mark.doubles
def test_gradients_are_those_of_the_reference(case, xpv):
    """In float64, along random directions, to 1e-12."""
    if "float64" not in floats_of(case, xpv) or not case.analytic:
        pytest.skip("no float64 here" if case.analytic else "the reference is real")
    layer, x = make(case, xpv, "float64"), inputs(case)
    at = place(case, xpv, x, "float64")
    dy = values(tuple(case.make()(x).shape), seed=1)
    _, dx, grads = (compiled if xpv.jit else run)(layer, at, xpv.asarray(dy, "float64"))
    params = host_params(layer)
    assert grads.keys() == params.keys()
    for seed in range(2, 5):
        v = values(case.shape, seed)
        expected = np.sum(dy * complex_step(lambda x: case.reference(x, params), x, v))
        if dx is not None:
            assert_along(dx, v, expected, "dx")
        for name in params:
            v = values(params[name].shape, seed)

            def of_parameter(p, name=name):
                return case.reference(x, {**params, name: p})

            expected = np.sum(dy * complex_step(of_parameter, params[name], v))
            if name in case.idle:
                assert not to_numpy(grads[name]).any()
                assert abs(expected) <= 1e-12
                continue
            assert_along(grads[name], v, expected, name)


def assert_along(gradient, v, expected, what):
    """Compare derivatives along `v`; rounding is relative to the norms, not to their product."""
    gradient = to_numpy(gradient)
    assert gradient.shape == v.shape
    scale = np.linalg.norm(gradient) * np.linalg.norm(v)
    assert abs(np.sum(gradient * v) - expected) <= 1e-12 * scale, what


@EVERY
@NOT_JAX  # there float32 is compared with jax.vjp below, and 16 bits forward
def test_gradients_in_each_dtype(case, xpv):
    x = inputs(case)
    dy = values(tuple(case.make()(x).shape), seed=1)
    for dtype in xpv.floats:
        at = place(case, xpv, x, dtype)
        home = xpv.asarray(np.zeros(1), dtype)
        _, got, got_grads = run(make(case, xpv, dtype), at, xpv.asarray(dy, dtype))
        # the gradient at the rounded input, in float64
        _, exact, exact_grads = run(
            case.make().to(xp=np, dtype="float64"),
            to_numpy(at).astype("float64" if case.integers is None else "int64"),
            to_numpy(xpv.asarray(dy, dtype)).astype("float64"),
        )
        tolerance = TOLERANCE[dtype] * (4 if "16" in dtype else 1)
        if got is not None:
            assert_at_home(got, home)
            assert_close(got, exact, tolerance, f"dx in {dtype}")
        assert got_grads.keys() == exact_grads.keys()
        for name, gradient in got_grads.items():
            assert_at_home(gradient, home)
            assert_close(gradient, exact_grads[name], tolerance, f"{name} in {dtype}")


@EVERY
@pytest.mark.only("numpy", "torch", "cupy")
def test_torch_autograd_agrees(case, xpv):
    torch = pytest.importorskip("torch")
    layer = make(case, xpv, "float64")
    x = place(case, xpv, inputs(case), "float64")
    dy = values(tuple(layer(x).shape), seed=1)
    y, dx, grads = run(layer, x, xpv.asarray(dy, "float64"))
    tx = torch.tensor(to_numpy(x), requires_grad=case.integers is None)
    tp = {k: torch.tensor(v, requires_grad=True) for k, v in host_params(layer).items()}
    ty = case.torch(torch, tx, tp)
    ty.backward(torch.tensor(dy))
    assert_close(y, ty.detach().numpy(), 1e-12, "y")
    if dx is not None:
        assert_close(dx, tx.grad.numpy(), 1e-12, "dx")
    for name, p in tp.items():
        if name in case.idle:
            assert not to_numpy(grads[name]).any()
            assert float(p.grad.abs().max()) <= 1e-12
            continue
        assert_close(grads[name], p.grad.numpy(), 1e-12, name)


@EVERY
@pytest.mark.only("jax")
def test_jax_vjp_agrees_and_jit_is_equal(case, xpv):
    import jax

    dtype = xpv.floats[-1]
    layer, x = make(case, xpv, dtype), place(case, xpv, inputs(case), dtype)
    layer._ready(x)  # so that the arrays are in place
    arrays = layer.arrays
    plain_y, cache = layer.apply(arrays, x)
    dy = xpv.asarray(values(plain_y.shape, seed=1), dtype)
    dx, grads = layer.vjp(cache, dy)

    @jax.jit
    def derived(arrays, x, dy):
        return jax.vjp(lambda a, x: layer.apply(a, x)[0], arrays, x)[1](dy)

    expected_grads, expected_dx = derived(arrays, x, dy)
    if dx is not None:
        assert_close(dx, expected_dx, TOLERANCE[dtype], "dx")
    for name, gradient in grads.items():
        if name in case.idle:
            assert not gradient.any()
            continue
        assert_close(gradient, expected_grads[name], TOLERANCE[dtype], name)
    # across the border of a compiled function, the cache included
    jit_y, jit_cache = jax.jit(layer.apply)(arrays, x)
    jit_dx, jit_grads = jax.jit(layer.vjp)(jit_cache, dy)
    assert_close(jit_y, plain_y, TOLERANCE[dtype], "y, compiled")
    if dx is not None:
        assert_close(jit_dx, dx, TOLERANCE[dtype], "dx, compiled")
    if case.training:  # else it is apply
        expected = layer.infer(arrays, x)
        assert_close(jax.jit(layer.infer)(arrays, x), expected, TOLERANCE[dtype], "infer, compiled")
    for name, gradient in jit_grads.items():
        assert_close(gradient, grads[name], TOLERANCE[dtype], f"{name}, compiled")


@EVERY
@pytest.mark.only("numpy", "torch")
def test_a_replay_gives_the_same_bits(case, xpv):
    """Forward and backward recorded, and replayed on another input."""
    dtype, seeds = xpv.floats[-1], (0, 1)
    layer, x = make(case, xpv, dtype), place(case, xpv, inputs(case), dtype)
    layer._ready(x)
    arrays = layer.arrays

    def passes(arrays, x, dy):
        y, cache = layer.apply(arrays, x)
        dx, grads = layer.vjp(cache, dy)
        results = {"y": y, **grads, **layer.updated_buffers(arrays, cache)}
        return results if dx is None else {**results, "dx": dx}

    n = len(x.shape)
    others = [place(case, xpv, np.roll(inputs(case), seed, axis=n - 1), dtype) for seed in seeds]
    like = layer.apply(arrays, x)[0]
    slopes = [xpv.asarray(values(tuple(like.shape), seed=seed), dtype) for seed in seeds]
    pytest.importorskip("xplayers.accelerate", reason="without it nothing is replayed")
    from xplayers.accelerate.replay import compiler, foreach
    from xplayers.accelerate.replay.recording import Recording

    recording = Recording()
    given = [recording.input(a) for a in (x, slopes[0])]
    kept = {name: recording.input(a) for name, a in arrays.items()}
    made = passes(kept, *given)
    # Every result is a state that the replay leaves, in memory of its own.
    homes = {s.register: s.value for s in kept.values()}
    updates, out = {}, {}
    for name, a in made.items():
        home = recording.input(xpv.xp.zeros_like(a.value))
        homes[home.register], updates[home.register], out[name] = home.value, a.register, home.value
    inputs_of_it = [s.register for s in given]
    y = made["y"].register
    task = foreach.StepProgram(recording, inputs_of_it, homes, updates, y)
    replay = compiler.compiled(task, compiler.BufferPool())
    for other, dy in zip(others, slopes, strict=True):
        replay(other, dy)
        assert_same_arrays(passes(arrays, other, dy), out)


@EVERY
@NOT_JAX
def test_nothing_received_is_written_to_or_returned(case, xpv):
    dtype = "float32"
    layer, x = make(case, xpv, dtype), place(case, xpv, inputs(case), dtype)
    layer.predict(x)
    dy = xpv.asarray(values(tuple(layer(x).shape), seed=1), dtype)
    received = {"x": x, "dy": dy, **layer.arrays}
    before = {name: to_numpy(a).copy() for name, a in received.items()}
    y, dx, grads = run(layer, x, dy)
    assert_same_arrays(received, before)
    if not case.view:
        results = {"y": y, **({} if dx is None else {"dx": dx}), **grads}
        for made, result in results.items():
            for name, a in received.items():
                assert not share_memory(result, a), f"{made} shares memory with {name}"


@EVERY
@NOT_JAX
def test_the_backward_of_a_pure_pair_can_be_repeated(case, xpv):
    layer, x = case.make(), place(case, xpv, inputs(case), "float32")
    layer.predict(x)
    y, cache = layer.apply(layer.arrays, x)
    dy = xpv.asarray(values(tuple(y.shape), seed=1), "float32")
    dx, grads = layer.vjp(cache, dy)
    again, grads_again = layer.vjp(cache, dy)
    if dx is not None:
        assert_same_bits(dx, again)
    for name, gradient in layer.param_grads(cache, dy).items():
        assert_same_bits(gradient, grads[name], name)
        assert_same_bits(gradient, grads_again[name], name)


@EVERY
@NOT_JAX
@pytest.mark.parametrize("n", [0, 1])
def test_an_empty_batch_and_a_batch_of_one(case, xpv, n):
    layer = case.make()
    x = place(case, xpv, inputs(case, n=n), "float32")
    y = layer.forward(x)
    dy = xpv.asarray(values(tuple(y.shape), seed=1), "float32")
    dx = layer.backward(dy)
    assert dx is None or dx.shape == x.shape
    assert y.shape[0] == n
    for name, gradient in layer.grads.items():
        assert gradient.shape == layer.params[name].shape
        if n == 0:
            assert not to_numpy(gradient).any()


@EVERY
@NOT_JAX
def test_odd_layouts_give_the_same(case, xpv):
    """Strided, reversed, Fortran-ordered and transposed arrays."""
    plain = inputs(case)
    plain = plain.astype("float32") if case.integers is None else plain
    doubled = np.repeat(np.repeat(plain, 2, 0), 2, -1)
    layouts = {
        "strided": xpv.asarray(doubled)[::2, ..., ::2],
        "permuted": _permuted(xpv, plain),
    }
    if xpv.xp is np:
        layouts["reversed"] = plain[::-1].copy()[::-1]
        layouts["fortran"] = np.asfortranarray(plain)
    layer = case.make()
    y = layer.forward(xpv.asarray(plain))
    dy = values(tuple(y.shape), seed=1).astype("float32")
    dx = layer.backward(xpv.asarray(dy))
    grads = dict(layer.grads)
    for name, x in layouts.items():
        layer, odd_dy = case.make(), xpv.asarray(np.repeat(dy, 2, 0))[::2, ...]
        assert_close(layer.forward(x), to_numpy(y), 1e-6, name)
        odd_dx = layer.backward(odd_dy)
        if dx is not None:
            assert_close(odd_dx, to_numpy(dx), 1e-6, name)
        for key, gradient in layer.grads.items():
            assert_close(gradient, to_numpy(grads[key]), 1e-6, f"{name} {key}")


def _permuted(xpv, plain):
    xp = namespace(xpv.asarray(plain))
    axes = tuple(reversed(range(plain.ndim)))
    return xp.permute_dims(xpv.asarray(plain.transpose(axes).copy()), axes)


@EVERY
@NOT_JAX
def test_used_twice_in_one_pass_the_gradients_add_up(case, xpv):
    layer = case.make()
    a, b = (place(case, xpv, inputs(case, seed), "float32") for seed in (0, 5))
    ya, yb = layer.forward(a), layer.forward(b)
    dya, dyb = (xpv.asarray(values(tuple(y.shape), 7), "float32") for y in (ya, yb))
    layer.backward(dyb)
    layer.backward(dya)
    both, layer = dict(layer.grads), case.make()  # whose dropout counts from the beginning too
    _, _, grads_a = run(layer, a, dya)
    _, _, grads_b = run(layer, b, dyb)
    for name, gradient in both.items():
        expected = to_numpy(grads_a[name]).astype("float64") + to_numpy(grads_b[name])
        assert_close(gradient, expected, 1e-6, name)


@EVERY
@NOT_JAX
def test_predict_computes_the_same_and_keeps_nothing(case, xpv):
    for dtype in xpv.floats:
        layer, x = make(case, xpv, dtype), place(case, xpv, inputs(case), dtype)
        layer.predict(x)  # so that the arrays are in place
        expected = layer.infer(layer.arrays, x) if case.training else layer.forward(x)
        assert_at_home(expected, x, xpv.asarray(np.zeros(1), dtype).dtype)
        layer.zero_grads()
        for y in (layer.predict(x), layer(x), layer.forward(x, train=False)):
            assert_same_bits(y, expected)
        assert not layer._pending
        with pytest.raises(RuntimeError, match="no forward to undo"):
            layer.backward(expected)


@EVERY
@NOT_JAX
def test_input_grad_can_be_left_out(case, xpv):
    layer, x = case.make(), place(case, xpv, inputs(case), "float32")
    y = layer.forward(x)
    dy = xpv.asarray(values(tuple(y.shape), 1), "float32")
    layer.backward(dy)
    grads, layer = dict(layer.grads), case.make()
    layer.forward(x)
    assert layer.backward(dy, input_grad=False) is None
    assert dict(layer.grads).keys() == grads.keys()
    assert_same_arrays(layer.grads, grads)


@EVERY
@NOT_JAX
def test_a_copy_and_a_pickle_compute_the_same(case, xpv):
    if xpv.backend == "strict":
        pytest.skip("its devices cannot be pickled")
    layer, x = case.make(), place(case, xpv, inputs(case), "float32")
    layer.forward(x)
    others = pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)
    y = layer.forward(x)
    for other in others:
        assert not other._pending, "a pickle carries no caches"
        assert_same_bits(other.forward(x), y)
        for name in other.params:
            assert other.params[name] is not layer.params[name]


@FLOATING
@NOT_JAX
def test_nan_in_nan_out(case, xpv):
    x = values(case.shape)
    x[(0,) * x.ndim] = np.nan
    layer = case.make()
    y = to_numpy(layer.forward(xpv.asarray(x, "float32")))
    assert np.isnan(y[0]).any()
    dy = values(y.shape, 1)
    dy[(0,) * dy.ndim] = np.nan
    layer.zero_grads()
    layer.forward(xpv.asarray(values(case.shape), "float32"))
    assert np.isnan(to_numpy(layer.backward(xpv.asarray(dy, "float32")))[0]).any()


@FLOATING
def test_large_values_stay_finite_without_a_warning(case, xpv):
    x = np.resize(np.asarray([1e4, -1e4, 88.0, -88.0, 0.0, -0.0]), case.shape)
    layer = case.make()
    y = layer.forward(xpv.asarray(x, "float32"))
    assert np.isfinite(to_numpy(y)).all()
    dx = layer.backward(xpv.asarray(np.ones(y.shape), "float32"))
    assert np.isfinite(to_numpy(dx)).all()


@EVERY
def test_check_gradients_passes(case, xpv):
    xl.check_gradients(case.make(), place(case, xpv, inputs(case), "float32"))


@EVERY
def test_to_moves_the_layer_to_another_dtype_and_back(case, xpv):
    layer = case.make()
    x = place(case, xpv, inputs(case), "float32")
    y = layer.predict(x)
    host = inputs(case)
    assert layer.to(xp=np, dtype="float64") is layer
    assert_close(layer(host), to_numpy(y), 1e-5)
    layer.to(like=y)  # x may hold integers
    assert_same_bits(layer(x), y)


@EVERY
def test_repr_is_code(case):
    layer = case.make()
    text = repr(layer)
    again = eval(text, vars(xl).copy())
    assert repr(again) == text
    for name in inspect.signature(type(layer).__init__).parameters:
        assert vars(again).get(name) == vars(layer).get(name), name
    assert {k: v.shape for k, v in again.params.items()} == {
        k: v.shape for k, v in layer.params.items()
    } or case.id == "Sequential-shared"  # code cannot say that two parts are one


def test_products_of_one_sample_and_of_one_feature(xpv):
    """Outer products, for which ``@`` of NumPy is slow."""
    for n, n_in in ((1, 5), (4, 1), (1, 1)):
        x, W, b = values((n, n_in)), values((n_in, 3), 1), values((3,), 2)
        layer = xl.Affine(*(xpv.asarray(a, "float32") for a in (W, b)))
        dy = values((n, 3), 3)
        assert_close(layer.forward(xpv.asarray(x, "float32")), x @ W + b, 1e-6)
        assert_close(layer.backward(xpv.asarray(dy, "float32")), dy @ W.T, 1e-6)
        assert_close(layer.dW, x.T @ dy, 1e-6)
