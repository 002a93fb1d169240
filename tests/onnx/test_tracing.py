"""Layers without a rule: they are traced, with sizes that depend on the input."""

import re
import sys

import numpy as np
import pytest
from cases import LAYERS

import xplayers as xl

pytestmark = pytest.mark.host

pytest.importorskip("onnx.checker")
pytest.importorskip("onnxruntime")
pytest.importorskip("ndonnx")

from onnx_files import TOLERANCE, check_export, computed, example, sizes  # noqa: E402

from xplayers.onnx import export, exporting  # noqa: E402

rng = np.random.default_rng(0)
# By a loop over time, and by zeros that complete one of several phases.
FIXED = {name: ["time"] for name in ("Rnn", "Lstm")}
FIXED["ConvolutionTranspose"] = ["width"]


# A trace of these takes long, and others have the operations of each.
LONG = ("Gru", "Gru-published", "MultiHeadAttention", "MultiHeadAttention-causal")
LONG += ("MultiHeadAttention-dropout",)


@pytest.mark.parametrize(
    "case", [case for case in LAYERS if case.id not in LONG], ids=lambda case: case.id
)
def test_layers_of_the_package_can_be_traced(case, home, monkeypatch):
    with monkeypatch.context() as patch:  # `undo` would leave the folder too
        patch.setattr(exporting, "RULES", {})
        named = check_export(case)
    model = export(case.make(), "net.onnx", example(case, case.shape))
    dynamic = sizes(model.graph.input[0])
    fixed = [a for a, b in zip(dynamic, named, strict=True) if a != b]
    assert fixed == FIXED.get(case.id, [])


class Own(xl.Layer):
    """A layer of what the function makes of an input."""

    def __init__(self, function):
        self.function = function

    def apply(self, arrays, x):
        return self.function(xl.namespace(x), x), ()


def last(xp, x):
    return x[:, x.shape[1] - 1, :]


def loop(xp, x):
    total = x[:, 0, :]
    for t in range(1, x.shape[1]):
        total = xp.tanh(total) + x[:, t, :]
    return total


def halves(xp, x):
    half = x.shape[1] // 2
    return xp.concat([x[:, half:, :], x[:, :half, :]], axis=1) * (2 + x.shape[1]) - x.shape[0]


def counted(xp, x):
    n = x.shape[0] * x.shape[1]
    rows = xp.reshape(xp.arange(n, dtype=x.dtype), (x.shape[0], -1, 1))
    return x + rows + xp.zeros((x.shape[1], 1), dtype=x.dtype) + xp.ones_like(x)


def mean(xp, x):
    return xp.sum(x, axis=1) / x.shape[1] + 1.0 / 3


def numpy_constants(xp, x):
    return np.float32(2) * x + np.asarray([1, 2, 3], np.float32)


def branches(xp, x):
    return x + 1 if x.shape[1] > 6 else x - 1


@pytest.mark.parametrize(
    ("function", "time"),
    [
        (last, "time"), (halves, "time"), (counted, "time"), (mean, "time"), (loop, 4),
        (numpy_constants, "time"), (branches, 4),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)  # fmt: skip
def test_sizes_are_computed_or_fixed(function, time, home):
    net = xl.Sequential(xl.Affine.init(3, 3, flatten=False, rng=0), Own(function), xl.Relu())
    model = export(net, "net.onnx", np.zeros((2, 4, 3), np.float32))
    assert sizes(model.graph.input[0]) == ["N", time, 3]
    for n, t in ((2, 4), (5, 4), (3, 9)):
        if time == "time" or t == time:
            x = rng.standard_normal((n, t, 3)).astype(np.float32)
            np.testing.assert_allclose(computed("net.onnx", x), net.predict(x), atol=TOLERANCE)


def test_parameters_of_a_traced_layer_are_constants_by_their_names(home):
    class Scaled(xl.Layer):
        w = xl.Parameter()

        def __init__(self, w):
            self.w = w

        def apply(self, arrays, x):
            return x * arrays["w"], ()

    net = xl.Sequential(xl.Relu(), scaled=Scaled(np.asarray([1.0, 2.0], np.float32)))
    model = export(net, "net.onnx", np.zeros((1, 2), np.float32))
    assert "scaled.w" in [c.name for c in model.graph.initializer]
    x = rng.standard_normal((3, 2)).astype(np.float32)
    np.testing.assert_allclose(computed("net.onnx", x), net.predict(x), atol=TOLERANCE)


def test_the_value_of_an_array_is_not_known(home):
    net = Own(lambda xp, x: x if xp.all(x > 0) else -x)
    words = "onnx: the value of an array is asked for, which is not known until the file is used"
    with pytest.raises(TypeError, match=re.escape(words)):
        export(net, "net.onnx", np.zeros((1, 2), np.float32))


def test_without_ndonnx_the_layer_is_named_with_the_way_on(home, monkeypatch):
    monkeypatch.delitem(sys.modules, "xplayers.onnx.tracing", raising=False)
    monkeypatch.setitem(sys.modules, "ndonnx", None)
    words = "onnx.export: there is no rule for Own. Install ndonnx, with which it is traced"
    with pytest.raises(TypeError, match=re.escape(words)):
        export(xl.Sequential(Own(last)), "net.onnx", np.zeros((1, 2, 3), np.float32))
