"""Normalizations through cuDNN: graphs, layouts and plans, without a GPU.

`emulated_cudnn` emulates the library, on CuPy arrays over host memory.
"""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_close, values

import xplayers as xl
from xplayers.layers import batch_normalization, layer_normalization

cupy = pytest.importorskip("cupy")

from emulator.emulated_cudnn import EmulatedRuntime, _aligned, assert_valid, host_dtype  # noqa: E402
from emulator.emulated_gpu import fabricated, host  # noqa: E402

from xplayers.accelerate.cuda.cudnn import Cudnn  # noqa: E402
from xplayers.accelerate.cuda.cudnn_plans import variance  # noqa: E402
from xplayers.accelerate.cuda.planner import NotPlanned  # noqa: E402

LAYERS = {
    "features": (lambda: xl.BatchNormalization.init(8), (6, 8)),
    "sequence": (lambda: xl.BatchNormalization.init(4, eps=1e-2), (3, 4, 5)),
    "image": (lambda: xl.BatchNormalization.init(3), (2, 3, 5, 4)),
    "volume": (lambda: xl.BatchNormalization.init(4), (2, 4, 3, 2, 3)),
    "one sample": (lambda: xl.BatchNormalization.init(4), (1, 4, 3, 2)),
    "rows": (lambda: xl.LayerNormalization.init(7), (5, 7)),
    "time": (lambda: xl.LayerNormalization.init(6, eps=1e-2), (2, 3, 6)),
    "two axes": (lambda: xl.LayerNormalization.init(3, 4), (2, 5, 3, 4)),
    "one row": (lambda: xl.LayerNormalization.init(3, 2, 4), (1, 3, 2, 4)),
    "mean squares": (lambda: xl.RmsNormalization.init(6, eps=1e-2), (2, 3, 6)),
    "of two axes": (lambda: xl.RmsNormalization.init(3, 4), (2, 5, 3, 4)),
}
OPERATIONS = ["batchnorm", "layernorm", "rmsnorm"]
TOLERANCE = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}


def layer_and_arrays(name, parameters="float32"):
    """Return a layer, its parameters and a batch, which is far from 0."""
    make, shape = LAYERS[name]
    layer = make()
    gamma = (1.5 + values(layer.gamma.shape, 1)).astype(host_dtype(parameters))
    beta = values(gamma.shape, 2).astype(host_dtype(parameters))
    arrays = {"gamma": gamma, "beta": beta}
    return layer, {name: arrays[name] for name in layer.params}, 3.0 + values(shape)


def there(arrays):
    return {name: fabricated(a) for name, a in arrays.items()}


def wide(arrays):
    return {name: a.astype("float64") for name, a in arrays.items()}


def passed(name, dtype, parameters):
    """Return what a pass gives through cuDNN, and in float64 on NumPy."""
    layer, arrays, x = layer_and_arrays(name, parameters)
    x, dy = (a.astype(host_dtype(dtype)) for a in (x, values(x.shape, 3)))
    y, cache = layer.apply(there(arrays), fabricated(x))
    dx, grads = layer.vjp(cache, fabricated(dy))
    want, right = layer.apply(wide(arrays), x.astype("float64"))
    wanted = layer.vjp(right, dy.astype("float64"))
    return layer, (y, dx, *grads.values()), (want, wanted[0], *wanted[1].values()), (cache, right)


@pytest.mark.parametrize(
    ("dtype", "parameters"),
    [
        ("float32", "float32"),
        ("float16", "float32"),
        ("float16", "float16"),
        ("bfloat16", "bfloat16"),
    ],
)
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, dtype, parameters, dnn):
    _, got, right, _ = passed(name, dtype, parameters)
    for a, want in zip(got, right, strict=True):
        assert a.dtype == host_dtype(dtype)
        assert a.shape == want.shape
        assert_close(host(a).astype("float64"), want, TOLERANCE[dtype])
    assert [graph.ran for graph in dnn._runtime.cudnn.graphs] == [[0], [0]]
    for key, plan in dnn.plans.items():
        assert plan is not None
        rest = [t for t in key.inputs if t.name not in ("input", "grad")] + [*key.results[1:]]
        assert {t.dtype for t in rest} == {"float32"}  # statistics, parameters, their gradients


def on_the_host(cache):
    return tuple(a if a is None else host(a) for a in cache)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", [n for n in LAYERS if "Batch" in str(LAYERS[n][0]())])
def test_running_statistics(name, dtype, dnn):
    layer, _, _, (cache, right) = passed(name, dtype, "float32")
    buffers = {"running_mean": layer.running_mean, "running_var": layer.running_var}
    want = layer.updated_buffers(wide(buffers), right)
    got = layer.updated_buffers(buffers, on_the_host(cache))
    for key, a in got.items():
        assert a.dtype == "float32"
        assert_close(a, want[key], 1e-5)


def test_an_inverse_root_gives_the_variance_that_inference_needs():
    """Within the bound that is said, two units in the last place off, and never negative."""
    eps = 1e-5
    var = np.concatenate([[0.0], np.geomspace(1e-12, 1e6, 5000)])
    root = (1 / np.sqrt(var + eps)).astype("float32")
    for off in (-2, 0, 2):
        r = (root.view("int32") + off).view("float32")
        found = variance(r, eps).astype("float64")
        assert (found >= 0).all()
        assert (np.abs(found - var) <= 1e-6 * (var + eps)).all()


def refusing(monkeypatch):
    """Let the portable body say that it was reached; it cannot run here."""

    def upcast(*args):
        raise NotImplementedError("portable")

    for module in (layer_normalization, batch_normalization):
        monkeypatch.setattr(module, "upcast", upcast)


@pytest.mark.parametrize("name", ["image", "time", "mean squares"])
def test_a_backward_that_cudnn_has_not_is_portable(name, monkeypatch):
    layer, arrays, x = layer_and_arrays(name)
    x = fabricated(x.astype("float32"))
    library = Cudnn(runtime=EmulatedRuntime([f"{name}_backward" for name in OPERATIONS]))
    with library.layers():
        _, cache = layer.apply(there(arrays), x)
        refusing(monkeypatch)
        with pytest.raises(NotImplementedError, match="portable"):
            layer.vjp(cache, x)
    assert list(library.plans.values())[1:] == [None]


@pytest.mark.parametrize("name", LAYERS)
def test_a_portable_backward_takes_what_the_forward_kept(name, dnn):
    layer, arrays, x = layer_and_arrays(name)
    x, dy = (a.astype("float32") for a in (x, values(x.shape, 3)))
    _, cache = layer.apply(there(arrays), fabricated(x))
    dx, grads = layer.vjp(on_the_host(cache), dy)
    want, right = layer.vjp(layer.apply(wide(arrays), x.astype("float64"))[1], dy.astype("float64"))
    assert_close(dx, want, 1e-5)
    for key, a in grads.items():
        assert_close(a, right[key], 1e-5)


@pytest.mark.parametrize("name", ["image", "time", "mean squares"])
def test_what_cudnn_has_not_is_portable(name, monkeypatch):
    layer, arrays, x = layer_and_arrays(name)
    refusing(monkeypatch)
    library = Cudnn(runtime=EmulatedRuntime(OPERATIONS))
    with library.layers():
        for _ in range(2):
            with pytest.raises(NotImplementedError, match="portable"):
                layer.apply(there(arrays), fabricated(x.astype("float32")))
    assert len(library._runtime.cudnn.graphs) == 1  # asked once
    assert library._runtime.copies == 0  # and nothing laid out for it


@pytest.mark.parametrize("name", ["image", "time", "mean squares"])
def test_double_and_nothing_and_what_is_outside_is_portable(name, dnn, monkeypatch):
    layer, arrays, x = layer_and_arrays(name)
    refusing(monkeypatch)
    for parameters, batch in (
        (arrays, x),
        (wide(arrays), x.astype("float32")),
        (arrays, x[:0].astype("float32")),
        (arrays, x.astype("int32")),
    ):
        with pytest.raises(NotImplementedError, match="portable"):
            layer.apply(there(parameters), fabricated(np.ascontiguousarray(batch)))
    assert not dnn.plans
    other = Cudnn(runtime=EmulatedRuntime())
    with other.layers():
        pass
    layer.apply(there(arrays), fabricated(x.astype("float32")))  # that of the block around it
    assert len(dnn.plans) == 1
    assert not other.plans
    with other.layers():
        layer.apply(there(arrays), fabricated(x.astype("float32")))
    assert len(dnn.plans) == len(other.plans) == 1


def test_gradients_of_another_dtype_are_portable(dnn, monkeypatch):
    layer, arrays, x = layer_and_arrays("image")
    _, (xh, r, gamma, x, mean, _) = layer.apply(there(arrays), fabricated(x.astype("float16")))
    dy = fabricated(values(x.shape).astype("float32"))
    assert dnn.batch_normalization_gradient(dy, x, gamma, xh, mean, r) is NotImplemented


@pytest.mark.parametrize("shape", [(2, 4, 1, 2, 1, 2), (1, 4), (1, 4, 1, 1)])
def test_more_axes_than_a_volume_and_one_value_in_a_channel_are_portable(shape, dnn, monkeypatch):
    layer, x = xl.BatchNormalization.init(4), values(shape).astype("float32")
    refusing(monkeypatch)
    with pytest.raises(NotImplementedError, match="portable"):
        layer.apply(there(layer.params), fabricated(x))


def test_inference_is_portable(dnn, monkeypatch):
    """cuDNN has it only as a part of other graphs."""
    layer, arrays, x = layer_and_arrays("image")
    refusing(monkeypatch)
    with pytest.raises(NotImplementedError, match="portable"):
        layer.infer(there({**arrays, **layer.buffers}), fabricated(x.astype("float32")))
    assert not dnn.plans


def test_images_are_taken_as_they_lie_and_given_channels_last(dnn):
    layer, arrays, x = layer_and_arrays("image")
    x = x.astype("float32")
    rows = fabricated(x)
    y, _ = layer.apply(there(arrays), rows)
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous
    copies = dnn._runtime.copies
    arrays = {name: dnn._runtime.copied(fabricated(a)) for name, a in arrays.items()}
    copies += 2
    z, cache = layer.apply(arrays, y)
    dx, _ = layer.vjp(cache, z)
    assert dx.transpose(0, 2, 3, 1).flags.c_contiguous
    assert dnn._runtime.copies == copies
    assert_close(host(z), layer.apply({k: host(a) for k, a in arrays.items()}, host(y))[0], 1e-5)


@pytest.mark.parametrize("name", ["image", "time", "two axes"])
def test_arrays_that_begin_and_lie_anywhere(name, dnn):
    """A batch with its axes in another order, and parameters in one flat buffer."""
    layer, arrays, x = layer_and_arrays(name)
    x = x.astype("float32")
    dy = values(x.shape, 3).astype("float32")
    turned, dturned = (fabricated(np.ascontiguousarray(a.T)).T for a in (x, dy))
    flat = np.concatenate([[0.0], *(a.reshape(-1) for a in arrays.values())])
    flat = _aligned(flat.astype("float32"))
    size, shape = arrays["gamma"].size, arrays["gamma"].shape
    parts = {"gamma": flat[1 : size + 1], "beta": flat[size + 1 :]}
    y, cache = layer.apply(there({k: a.reshape(shape) for k, a in parts.items()}), turned)
    dx, _ = layer.vjp(cache, dturned)
    want, right = layer.apply(arrays, x)
    assert_close(host(y), want, 1e-5)
    assert_close(host(dx), layer.vjp(right, dy)[0], 1e-5)


def test_a_plan_is_of_its_shape_dtype_and_eps(dnn):
    for eps, name in ((1e-5, "image"), (1e-3, "image"), (1e-3, "image")):
        layer, arrays, x = layer_and_arrays(name)
        layer.eps = eps
        x = (0.01 * x).astype("float32")
        y, _ = layer.apply(there(arrays), fabricated(x))
        assert_close(host(y), layer.apply(arrays, x)[0], 1e-4)
    layer.apply(there(arrays), fabricated(x.astype("float16")))
    layer.apply(there(arrays), fabricated(x[:1]))
    assert len(dnn.plans) == 4


@pytest.mark.parametrize("name", ["image", "time", "mean squares"])
def test_nothing_is_planned_in_a_capture(name, dnn):
    layer, arrays, x = layer_and_arrays(name)
    arrays, x = there(arrays), fabricated(x.astype("float32"))
    layer.apply(arrays, x)
    with dnn.frozen():
        _, cache = layer.apply(arrays, x)
        with pytest.raises(NotPlanned, match="norm_backward .* was not planned before"):
            layer.vjp(cache, x)
        with pytest.raises(NotPlanned, match=r"norm \(input \(\d, .* of float32"):
            layer.apply(arrays, x[:1])
    layer.vjp(cache, x)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_library_finds_the_graphs_valid(name, dtype, dnn, cudnn_library):
    passed(name, dtype, "float32")
    assert len(dnn.plans) == 2
    for key in dnn.plans:
        assert key.inputs[0].dtype == key.results[0].dtype == dtype
        assert_valid(cudnn_library, key)


def test_numpy_is_computed_as_always(dnn):
    for name in ("image", "time", "mean squares"):
        layer, arrays, x = layer_and_arrays(name)
        layer.vjp(layer.apply(arrays, x.astype("float32"))[1], x.astype("float32"))
    assert not dnn.plans


def test_a_network(dnn):
    """Of layers that give each other their results as they lie."""
    net = xl.Sequential(
        xl.LayerNormalization.init(5, 6),
        xl.Convolution.init(3, 8, 3, bias=False, rng=0),
        xl.BatchNormalization.init(8),
        xl.Convolution.init(8, 8, 1, bias=False, rng=1),
    )
    x = values((2, 3, 5, 6)).astype("float32")
    arrays = {**net.params, **net.buffers}
    want, right = net.apply(arrays, x)
    dy = values(want.shape, 1).astype("float32")
    wanted, grads = net.vjp(right, dy)
    y, cache = net.apply(there(arrays), fabricated(x))
    dx, got = net.vjp(cache, fabricated(dy))
    assert_close(host(y), want, 1e-4)
    assert_close(host(dx), wanted, 1e-4)
    for name, a in got.items():
        assert_close(host(a), grads[name], 1e-4, name)
