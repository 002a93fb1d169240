"""Every layer as ONNX: what onnxruntime computes of the file is what the network predicts."""

import json
import re

import numpy as np
import pytest
from cases import LAYERS

import xplayers as xl

pytestmark = pytest.mark.host

pytest.importorskip("onnx.checker")  # `onnx` alone may be this folder
pytest.importorskip("onnxruntime")

import onnx  # noqa: E402
from onnx_files import TOLERANCE, check_export, computed, sizes  # noqa: E402

from xplayers.onnx import export  # noqa: E402
from xplayers.onnx.rules import RULES  # noqa: E402

rng = np.random.default_rng(0)


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.id)
def test_every_layer_for_inputs_of_all_sizes(case, home):
    check_export(case)


def test_every_layer_has_a_rule():
    kinds = (getattr(xl.layers, name) for name in xl.layers.__all__)
    classes = {kind for kind in kinds if isinstance(kind, type) and issubclass(kind, xl.Layer)}
    assert classes - {xl.Layer, xl.Container} == set(RULES)


@pytest.mark.parametrize(
    ("make", "shape", "dynamic"),
    [
        (lambda: xl.mlp([5, 3], rng=0), (2, 5), ["N", 5]),
        (lambda: xl.Sequential(xl.Flatten(), xl.Affine.init(12, 3, rng=0)), (2, 3, 4), ["N", 3, 4]),
        (
            lambda: xl.Sequential(xl.Convolution.init(1, 2, 3, rng=0), xl.GlobalAveragePooling()),
            (1, 1, 8, 8),
            ["N", 1, "height", "width"],
        ),
        (
            lambda: xl.Sequential(
                xl.Convolution.init(1, 2, 3, rng=0), xl.MaxPooling(2), xl.Affine.init(18, 3, rng=0)
            ),
            (1, 1, 8, 8),
            ["N", 1, 8, 8],
        ),
        (
            lambda: xl.Sequential(
                xl.Embedding.init(9, 4, rng=0),
                xl.PositionalEmbedding.init(8, 4, rng=0),
                xl.Residual(xl.LayerNormalization.init(4), xl.MultiHeadAttention.init(4, 2, rng=0)),
                xl.Affine.init(4, 9, flatten=False, rng=0),
            ),
            (1, 8),  # as many as there are positions
            ["N", "time"],
        ),
        (lambda: xl.Lstm.init(4, 3, rng=0), (2, 1, 4), ["N", "time", 4]),
    ],
    ids=["mlp", "flat", "convolution", "image", "gpt", "lstm"],
)
def test_the_axes_along_which_a_network_takes_other_sizes_are_dynamic(make, shape, dynamic, home):
    net = make()
    dtype = "int64" if net.integer_input else "float32"
    model = export(net, "net.onnx", np.zeros(shape, dtype))
    assert sizes(model.graph.input[0]) == dynamic


def test_the_file_says_what_it_is(home):
    net = xl.Sequential(fc=xl.Affine.init(4, 3, rng=0), softmax=xl.Softmax())
    made = export(net, "net.onnx", np.zeros((1, 4), np.float32), metadata={"author": "me"})
    model = onnx.load("net.onnx")
    assert model == made
    assert model.ir_version == 10
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 21)]
    assert model.producer_name == "xplayers"
    assert {p.key: p.value for p in model.metadata_props} == {"author": "me"}
    assert [c.name for c in model.graph.initializer] == ["fc.W", "fc.b"]
    assert [n.name for n in model.graph.node] == ["fc/MatMul", "fc/Add", "softmax/Softmax"]
    assert sizes(model.graph.output[0]) == ["N", 3]


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_numbers_are_float32_in_the_file(dtype, home):
    net = xl.Sequential(
        xl.Affine.init(5, 4, rng=0, dtype=dtype), xl.BatchNormalization.init(4, dtype=dtype)
    )
    x = rng.standard_normal((3, 5)).astype(dtype)
    net.forward(x)
    export(net, "net.onnx", x)
    y = computed("net.onnx", x.astype(np.float32))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, net.predict(x), atol=1e-2 if dtype == "float16" else TOLERANCE)


def test_one_array_in_two_layers_is_one_constant(home):
    W = rng.standard_normal((9, 4)).astype(np.float32)
    first, last = xl.Embedding(W), xl.Affine(W.T, flatten=False)
    net = xl.Sequential(first, xl.Tanh(), last, xl.Relu(), last.__class__(W, flatten=False))
    x = rng.integers(0, 9, (2, 3))
    model = export(net, "net.onnx", x)
    assert [c.name for c in model.graph.initializer] == ["0.W"]
    np.testing.assert_allclose(computed("net.onnx", x), net.predict(x), atol=TOLERANCE)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64"])
def test_indices(dtype, home):
    net, x = xl.Embedding.init(9, 4, rng=0), np.zeros((2, 3), dtype)
    model = export(net, "net.onnx", x)
    expected = onnx.TensorProto.INT32 if dtype == "int32" else onnx.TensorProto.INT64
    assert model.graph.input[0].type.tensor_type.elem_type == expected


def test_an_example_of_another_library(home):
    strict = pytest.importorskip("array_api_strict")
    net, x = xl.mlp([4, 3], rng=0), strict.ones((2, 4), dtype=strict.float32)
    net.forward(x)
    export(net, "net.onnx", x)
    expected = xl.to_numpy(net.predict(x))
    np.testing.assert_allclose(computed("net.onnx", np.ones((2, 4), np.float32)), expected, 1e-6)


# Layers of people's own


class Clipped(xl.Layer):
    def __init__(self, most):
        self.most = most

    def apply(self, arrays, x):
        return xl.namespace(x).clip(x, 0.0, self.most), ()


class Block(xl.Sequential):
    """A container that computes what its base does."""

    def __init__(self, n):
        super().__init__(xl.Affine.init(n, n, rng=0), xl.Relu())


def clipped(graph, layer, arrays, x):
    return graph.node("Clip", x, np.float32(0), np.float32(layer.most))


def test_a_rule_of_ones_own(home):
    net = xl.Sequential(xl.Affine.init(4, 3, rng=0), Clipped(0.5))
    x = rng.standard_normal((5, 4)).astype(np.float32)
    export(net, "net.onnx", x, rules={Clipped: clipped})
    np.testing.assert_allclose(computed("net.onnx", x), net.predict(x), atol=TOLERANCE)


def test_a_class_that_computes_what_its_base_does(home):
    net = Block(4)
    model = export(net, "net.onnx", np.zeros((1, 4), np.float32))
    assert [n.op_type for n in model.graph.node] == ["MatMul", "Add", "Relu"]


# Bad input


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("net.onnx", xl.Relu()), TypeError, "net is a str; expected a layer"),
        ((xl.Relu(), 3, np.zeros(3)), TypeError, "onnx.export: path is 3; expected a str"),
        ((xl.Relu(), "net.onnx"), TypeError, "onnx.export: example is missing; pass an input"),
        ((xl.Relu(), "net.onnx", [1.0]), TypeError, "onnx.export: example is a list; expected"),
        (
            (xl.mlp([4, 2]), "net.onnx", np.zeros((1, 3), "float32")),
            ValueError,
            "x has shape (1, 3); expected (n, 4)",
        ),
    ],
)
def test_what_cannot_be_exported(home, arguments, error, words):
    with pytest.raises(error, match=re.escape(words)):
        export(*arguments)
    assert not [*home.iterdir()]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rules": [clipped]}, "onnx.export: rules is [<function clipped"),
        ({"metadata": {"epochs": 3}}, "metadata has what is no string; expected strings by name"),
    ],
)
def test_options_that_are_something_else(home, options, words):
    with pytest.raises(TypeError, match=re.escape(words)):
        export(xl.Relu(), "net.onnx", np.zeros((1, 3), np.float32), **options)


def test_without_onnx_importing_it_says_what_to_install(monkeypatch):
    import sys

    for name in [name for name in sys.modules if name.startswith("xplayers.onnx")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    words = r'^xplayers.onnx needs onnx: pip install "xplayers\[onnx\]"$'
    with pytest.raises(ImportError, match=words):
        import xplayers.onnx  # noqa: F401


# Models of the command


@pytest.fixture(params=["table", "images", "digits"])
def model(request, home):
    from xplayers.cli import datasets, models

    x = rng.normal([1e6, 0.0, -3.0], [1.0, 5.0, 1e-3], (60, 3))
    if request.param == "images":
        x = rng.normal(100, 20, (60, 8, 8))
    np.savez("own.npz", x=x, t=np.asarray(["a", "b", "c"])[np.arange(60) % 3])
    data = datasets.read("digits" if request.param == "digits" else "own.npz")
    return models.make("mlp" if request.param == "table" else "cnn", data, [4], None, 0), data.x


def test_a_model_takes_samples_as_they_are_and_gives_probabilities(model, home):
    model, x = model
    made = export(model, "net.onnx", x[:1])
    np.testing.assert_allclose(
        computed("net.onnx", x[:9]), model.predict_proba(x[:9]), atol=TOLERANCE
    )
    metadata = {p.key: p.value for p in made.metadata_props}
    assert json.loads(metadata["classes"]) == list(model.classes)
    assert [v.name for v in made.graph.output] == ["probabilities"]
    assert sizes(made.graph.input[0]) == ["N", *x.shape[1:]]


def test_a_model_needs_no_example(model, home):
    model, x = model
    export(model, "net.onnx")
    y = computed("net.onnx", x[:9].astype(np.float32))
    expected = model.predict_proba(x[:9].astype(np.float32))
    np.testing.assert_allclose(y, expected, atol=TOLERANCE)


def test_an_example_that_a_model_does_not_take(model, home):
    with pytest.raises(ValueError, match=r"onnx.export: example has shape \(1, 7\); the network"):
        export(model[0], "net.onnx", np.zeros((1, 7)))
