"""Affine maps and activations as products alone, without a GPU.

On CuPy arrays over host memory no kernel of CuPy can run, so what goes through there are calls of
the emulated cuBLASLt and nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import pickle

import numpy as np
import pytest
from helpers import assert_close, values

import xplayers as xl
from xplayers.accelerate.cuda.affine_fusion import AffineFusion
from xplayers.accelerate.cuda.fusion import Saved, fusing
from xplayers.accelerate.cuda.layouts import check_operands
from xplayers.accelerate.cuda.planner import NoAlgorithm
from xplayers.arrays.products import matmul
from xplayers.layers.containers import Joined


def mixed():
    """Affine, Relu, Affine, Gelu, Affine; then what no product has. Biases are not zero."""
    net = xl.Sequential(
        xl.Affine.init(7, 6, rng=0), xl.Relu(), xl.Affine.init(6, 5, rng=1), xl.Gelu(),
        xl.Affine.init(5, 4, rng=2), xl.Tanh(), xl.Affine.init(4, 3, rng=3),
    )  # fmt: skip
    for seed, layer in enumerate([*net][::2], 10):
        layer.b = values(layer.b.shape, seed).astype("float32")
    return net


def chain():
    return mixed()[:5]


class Placed:
    """What `check_operands` looks at, of an array that has no number of a GPU."""

    def __init__(self, a):
        self.shape, self.dtype, self.device = a.shape, a.dtype, 0


class Products:
    """The epilogues on NumPy arrays: `without` are those for which there is no algorithm."""

    def __init__(self, *without):
        self.without, self.ran = without, []

    def matmul(self, a, b, *, epilogue="none", bias=None, aux=None):
        if epilogue in self.without:
            raise NoAlgorithm(epilogue)
        check_operands(Placed(a), Placed(b), epilogue, {"bias": bias, "aux": aux})
        assert bias is None or bias.dtype == a.dtype
        self.ran.append(epilogue)
        layer = xl.Relu() if "relu" in epilogue else xl.Gelu()
        y = a @ b
        if epilogue == "bgradb":
            return y, b.sum(axis=0)
        if epilogue.startswith("d"):
            z = aux[:, : y.shape[1]]
            dz, _ = layer.vjp((z > 0 if "relu" in epilogue else z,), y)
            return dz, dz.sum(axis=0)
        y = y + bias
        padded = np.pad(y, ((0, 0), (0, -y.shape[1] % 8)))
        return (layer.predict(y), padded) if "aux" in epilogue else layer.predict(y)


def assert_same_pass(net, other, x, dy, tolerance=1e-12):
    """Forward, backward and inference of `other` are those of `net`."""
    arrays = {name: a.astype("float64") for name, a in net.arrays.items()}
    want, cache = net.apply(arrays, x)
    dx, grads = net.vjp(cache, dy)
    y, saved = other.apply(arrays, x)
    got_dx, got = other.vjp(saved, dy)
    for a, right in ((y, want), (got_dx, dx), (other.infer(arrays, x), want)):
        assert a.shape == right.shape
        assert_close(a, right, tolerance)
    assert other.updated_buffers(arrays, saved) == {}
    for result in (got, other.param_grads(saved, dy)):
        assert result.keys() == grads.keys()
        for name, g in grads.items():
            assert_close(result[name], g, tolerance, name)
    return saved


def test_a_chain_is_its_layers():
    net, gemm = chain(), Products()
    other = AffineFusion(list(net), lambda: gemm)
    saved = assert_same_pass(net, other, values((8, 7)), values((8, 4), 1))
    assert type(saved) is Saved
    assert gemm.ran[:4] == ["relu_aux_bias", "gelu_aux_bias", "dgelu_bgrad", "drelu_bgrad"]


@pytest.mark.parametrize(
    "without", ["relu_aux_bias", "gelu_aux_bias", "dgelu_bgrad", "drelu_bgrad", "relu_bias"]
)
def test_what_has_no_algorithm_is_computed_by_the_layers(without):
    net, gemm = chain(), Products(without)
    other = AffineFusion(list(net), lambda: gemm)
    saved = assert_same_pass(net, other, values((8, 7)), values((8, 4), 1))
    assert type(saved) is Saved  # the others are products as before
    assert [aux is None for aux in saved.aux] == [
        without == "relu_aux_bias", without == "gelu_aux_bias",
    ]  # fmt: skip


def test_gradients_of_another_dtype():
    """They are promoted, as by the layers."""
    net = chain()
    other = AffineFusion(list(net), Products)
    x, dy = values((8, 7)).astype("float32"), values((8, 4), 1)
    _, saved = other.apply(net.arrays, x)
    dx, grads = other.vjp(saved, dy)
    want, right = net.vjp(net.apply(net.arrays, x)[1], dy)
    assert dx.dtype == want.dtype == "float64"
    assert_close(dx, want, 1e-6)
    for name, g in right.items():
        assert grads[name].dtype == g.dtype
        assert_close(grads[name], g, 1e-6, name)


def test_an_activation_that_has_changed_since():
    net = chain()
    (part,) = AffineFusion.joined(net._parts, Products)
    net[3].approximate = "none"
    x = values((8, 7)).astype("float32")
    y, saved = part.layer.apply({k: net.arrays[v] for k, v in part.names.items()}, x)
    assert type(saved) is tuple
    assert np.array_equal(y, net.predict(x))


def test_buffers_of_layers_beside_a_chain(monkeypatch):
    """Those of each part are found, though the parts are fewer."""
    net = xl.Sequential(
        xl.BatchNormalization.init(7), xl.Affine.init(7, 6, rng=0), xl.Relu(),
        xl.Affine.init(6, 5, rng=1), xl.BatchNormalization.init(5), xl.Dropout(0.5),
    )  # fmt: skip
    x = values((8, 7)).astype("float32")
    arrays = net.arrays
    right = net.updated_buffers(arrays, net.apply(arrays, x)[1])
    gemm = Products()
    with fusing(np.ndarray, functools.partial(AffineFusion.joined, library=lambda: gemm)):
        _, cache = net.apply(arrays, x)
    assert type(cache) is Joined
    assert len(cache) == 4
    assert gemm.ran
    got = net.updated_buffers(arrays, cache)
    assert got.keys() == right.keys()
    for name, a in right.items():
        assert_close(got[name], a, 1e-6, name)


def test_backward_after_the_context():
    net, products = chain(), [Products()]
    other = AffineFusion(list(net), lambda: products[0])
    x, dy = values((8, 7)).astype("float32"), values((8, 4), 1).astype("float32")
    _, saved = other.apply(net.arrays, x)
    assert type(saved) is Saved
    products[0] = None
    dx, grads = other.vjp(saved, dy)
    _, cache = net.apply(net.arrays, x)
    want, right = net.vjp(cache, dy)
    assert_close(dx, want, 1e-6)
    for name, g in right.items():
        assert_close(grads[name], g, 1e-6, name)


def test_sequences_and_images():
    """The last axis of a sequence is mapped, an image is flattened, as in the layers."""

    def of(flatten, n_in):
        return xl.Sequential(
            xl.Affine.init(n_in, 6, flatten=flatten, rng=0), xl.Relu(),
            xl.Affine.init(6, 4, flatten=flatten, rng=1),
        )  # fmt: skip

    for net, shape in ((of(False, 7), (3, 5, 7)), (of(True, 35), (3, 5, 7))):
        gemm = Products()
        y = net.predict(values(shape))
        saved = assert_same_pass(
            net, AffineFusion(list(net), lambda g=gemm: g), values(shape), y + 1
        )
        assert type(saved) is Saved


def test_maps_that_do_not_follow_each_other():
    net = xl.Sequential(xl.Affine.init(7, 6, rng=0), xl.Relu(), xl.Affine.init(5, 4, rng=1))
    with pytest.raises(ValueError, match=r"Affine\(5 -> 4\): x has shape \(2, 6\)"):
        AffineFusion(list(net), Products).apply(net.arrays, values((2, 7)).astype("float32"))


def test_a_sequence_that_is_flattened_between():
    net = xl.Sequential(
        xl.Affine.init(7, 6, flatten=False, rng=0), xl.Relu(), xl.Affine.init(6, 4, rng=1)
    )
    assert_same_pass(net, AffineFusion(list(net), Products), values((2, 1, 7)), values((2, 4), 1))


def test_values_that_cublaslt_does_not_multiply():
    net = chain()
    other = AffineFusion(list(net), Products)
    arrays = net.arrays
    empty = np.zeros((0, 7), "float32")
    assert_same_pass(net, other, empty, np.zeros((0, 4), "float32"))
    y, saved = other.apply(arrays, empty)
    assert y.shape == (0, 4)
    assert type(saved) is tuple
    for dtypes in ({"0.b": "float64"}, {"4.W": "float16"}):
        unlike = {name: a.astype(dtypes.get(name, a.dtype)) for name, a in arrays.items()}
        x = values((3, 7)).astype(dtypes.get("0.W", "float32"))
        y, saved = other.apply(unlike, x)
        assert type(saved) is tuple
        assert np.array_equal(y, net.apply(unlike, x)[0])


def test_shared_maps_add_up_their_gradients():
    one = xl.Affine.init(6, 6, rng=0)
    net = xl.Sequential(one, xl.Relu(), one, xl.Relu(), one)
    gemm = Products()
    x, dy = values((8, 6)), values((8, 6), 1)
    (part,) = AffineFusion.joined(net._parts, lambda: gemm)
    assert set(part.names.values()) == {"0.W", "0.b"}
    assert type(assert_same_pass(net, part.layer, x, dy)) is Saved


def test_which_parts_are_joined():
    gemm = Products()

    def names(*layers):
        parts = AffineFusion.joined(xl.Sequential(*layers)._parts, lambda: gemm)
        return [part.name for part in parts]

    def affine():
        return xl.Affine.init(3, 3, rng=0)

    assert names(affine(), xl.Relu(), affine(), xl.Relu()) == ["0 to 2", "3"]
    assert names(xl.Flatten(), affine(), xl.Gelu(), affine(), affine(), xl.Relu(), affine()) == [
        "0", "1 to 3", "4 to 6",
    ]  # fmt: skip
    assert names(affine(), xl.Gelu("none"), affine()) == ["0", "1", "2"]
    assert names(affine(), xl.Relu(), xl.Dropout(0.5), affine()) == ["0", "1", "2", "3"]
    assert names(affine(), xl.Relu()) == ["0", "1"]
    bare = xl.Affine.init(3, 3, bias=False)
    assert names(bare, xl.Relu(), affine(), xl.Relu(), bare) == ["0", "1", "2", "3", "4"]
    assert names() == []


# In a Sequential, on CuPy arrays


@pytest.fixture
def gemm():
    pytest.importorskip("cupy")
    from emulator.emulated_gpu import EmulatedRuntime

    from xplayers.accelerate.cuda.gemm import Gemm

    with contextlib.closing(Gemm(runtime=EmulatedRuntime())) as gemm:
        yield gemm


def test_a_function_whose_products_go_through_a_gemm(gemm):
    from emulator.emulated_gpu import EmulatedRuntime, fabricated, host

    from xplayers.accelerate.cuda.gemm import Gemm, Multiplied, active

    a = values((4, 4))

    def function(x):
        assert active() is gemm
        return matmul(x, x)

    step = Multiplied(function, gemm)
    assert_close(host(step(fabricated(a))), a @ a, 1e-12)
    assert active() is None
    step.close()
    assert not gemm._runtime.lt.objects
    with contextlib.closing(Gemm(runtime=EmulatedRuntime())) as other:
        step = Multiplied(function, other)
        del step  # gives it back too
        assert not other._runtime.lt.objects


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_network_is_products_alone(gemm, dtype):
    from emulator.emulated_gpu import fabricated, host

    net = chain()
    host_arrays = {k: a.astype(dtype) for k, a in net.arrays.items()}
    x, dy = values((8, 7)).astype(dtype), values((8, 4), 1).astype(dtype)
    wide = {k: a.astype("float64") for k, a in host_arrays.items()}
    want, cache = net.apply(wide, x.astype("float64"))
    dx, grads = net.vjp(cache, dy.astype("float64"))
    there = {k: fabricated(a) for k, a in host_arrays.items()}
    with gemm.products():
        y, saved = net.apply(there, fabricated(x))
        got_dx, got = net.vjp(saved, fabricated(dy))
        again = net.param_grads(saved, fabricated(dy))
        inferred = net.infer(there, fabricated(x))
    tolerance = {"float32": 1e-5, "float16": 2e-2}[dtype]
    for a, right in ((y, want), (got_dx, dx), (inferred, want)):
        assert_close(host(a), right, tolerance)
    for name, g in grads.items():
        assert_close(host(got[name]), g, tolerance, name)
        assert_close(host(again[name]), g, tolerance, name)
    epilogues = [key.epilogue for key in gemm.plans]
    assert sorted(epilogues) == sorted([
        "relu_aux_bias", "gelu_aux_bias", "bias", "bgradb", "none", "none", "none", "dgelu_bgrad",
        "drelu_bgrad", "relu_bias", "gelu_bias",
    ])  # fmt: skip


def test_outside_of_the_context_parts_are_by_themselves(gemm):
    net = mixed()
    x = values((4, 7))
    with gemm.products():
        y, cache = net.apply(net.arrays, x)  # of NumPy, in the context
        assert type(cache) is tuple
        assert len(cache) == 7
    assert_close(y, net.predict(x), 1e-6)


def test_a_network_that_was_joined_can_be_pickled(gemm):
    from emulator.emulated_gpu import fabricated

    net, x = chain(), values((2, 7)).astype("float32")
    with gemm.products():
        net.infer({k: fabricated(a) for k, a in net.arrays.items()}, fabricated(x))
    again = pickle.loads(pickle.dumps(net))
    assert np.array_equal(again.predict(x), net.predict(x))


def test_errors_name_the_parts(gemm):
    from emulator.emulated_gpu import fabricated

    net = chain()
    there = {k: fabricated(a) for k, a in net.arrays.items()}
    with gemm.products(), pytest.raises(ValueError, match="expected") as error:
        net.apply(there, fabricated(values((4, 9))))
    assert error.value.__notes__ == ["In part '0 to 4' of Sequential."]
