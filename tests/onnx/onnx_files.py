"""Exported files, and what onnxruntime computes of them."""

import numpy as np
import pytest

onnxruntime = pytest.importorskip("onnxruntime")
export = pytest.importorskip("xplayers.onnx", exc_type=ImportError).export

TOLERANCE = 3e-6  # in float32
rng = np.random.default_rng(0)


def session(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def computed(path, x):
    """Return what onnxruntime makes of the input of a file."""
    return session(path).run(None, {"x": x})[0]


def sizes(value):
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def example(case, shape):
    if case.integers:
        return rng.integers(0, case.integers, shape)
    return rng.standard_normal(shape).astype(np.float32)


def trained(case):
    """Return the layer of a row, with other buffers and parameters than those it begins with."""
    net = case.make()
    net.forward(example(case, case.shape))
    for name, a in net.params.items():
        net.params[name] = a + (0.1 * rng.standard_normal(a.shape)).astype(np.float32)
    return net


def check_export(case):
    """Export a row of the table, and compare for several sizes; return the names of the axes."""
    net = trained(case)
    model = export(net, "net.onnx", example(case, case.shape))
    named, run = sizes(model.graph.input[0]), session("net.onnx")
    assert named[0] == sizes(model.graph.output[0])[0] == "N"
    for more in (0, 1, 3):
        if case.id == "PositionalEmbedding" and more == 3:
            continue  # it has five positions
        shape = [
            n + more if isinstance(name, str) else n
            for n, name in zip(case.shape, named, strict=True)
        ]
        x = example(case, tuple(shape))
        (y,) = run.run(None, {"x": x})
        expected = net.predict(x)
        assert (y.shape, y.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(y, expected, rtol=0, atol=TOLERANCE)
    return named
