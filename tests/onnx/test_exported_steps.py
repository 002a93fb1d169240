"""Training steps as ONNX files: onnxruntime trains as the step does."""

import re

import numpy as np
import pytest

import xplayers as xl

pytestmark = pytest.mark.host

pytest.importorskip("onnx.checker")
pytest.importorskip("onnxruntime")
pytest.importorskip("ndonnx")

from onnx_files import session  # noqa: E402

from xplayers.onnx import export_step  # noqa: E402

rng = np.random.default_rng(0)


def image_net():
    return xl.Sequential(
        xl.Convolution.init(1, 2, 3, rng=0),
        xl.BatchNormalization.init(2),
        xl.Relu(),
        xl.MaxPooling(2),
        xl.Affine.init(8, 3, rng=1),
    )


STEPS = {
    "adam": lambda: xl.TrainStep(xl.mlp([5, 8, 3], rng=0), xl.SoftmaxWithLoss(), xl.Adam(lr=0.01)),
    "dropout": lambda: xl.TrainStep(
        xl.Sequential(xl.Dropout(0.3), xl.Affine.init(5, 3, rng=0)),
        xl.SoftmaxWithLoss(np.asarray([1.0, 2.0, 0.5], "float32"), label_smoothing=0.1),
        xl.SGD(lr=xl.schedules.Cosine(0.1, 20)),
        reduce_grads=lambda grads: xl.clip_by_norm(grads, 0.5),
    ),
}


def trained(path, batches):
    """Train with the file, from the initial values that it has; return losses and arrays."""
    run = session(path)
    names = [o.name for o in run.get_outputs()]
    state, losses = {}, []
    for x, t in batches:
        loss, *arrays = run.run(names, {"x": x, "t": t, **state})
        state = {n.removeprefix("next/"): a for n, a in zip(names[1:], arrays, strict=True)}
        losses.append(float(loss))
    return losses, state


@pytest.mark.parametrize("name", STEPS)
def test_twenty_steps_are_those_of_the_step(name, home):
    step = STEPS[name]()
    batches = [
        (rng.standard_normal((6, 5)).astype(np.float32), rng.integers(0, 3, 6)) for _ in range(20)
    ]
    model = export_step(step, "step.onnx", batches[0])
    losses, arrays = trained("step.onnx", batches)
    expected = [float(step(x, t)) for x, t in batches]
    np.testing.assert_allclose(losses, expected, atol=1e-6)
    for key, a in {**step.net.params, **step.net.buffers}.items():
        np.testing.assert_allclose(arrays[key], a, atol=1e-6)
    assert int(arrays["optimizer.count"]) == 20
    inputs = [i.name for i in model.graph.input]
    assert ("lr" in inputs) == (name == "adam")
    assert {"0.W", "0.b"} <= {*inputs} or name == "dropout"


def test_it_goes_on_from_where_the_step_is(home):
    step = STEPS["adam"]()
    x, t = rng.standard_normal((6, 5)).astype(np.float32), rng.integers(0, 3, 6)
    for _ in range(3):
        step(x, t)
    export_step(step, "step.onnx", (x, t))
    losses, arrays = trained("step.onnx", [(x, t)])
    assert losses[0] == pytest.approx(float(step(x, t)), abs=1e-6)
    assert int(arrays["optimizer.count"]) == 4


def test_an_image_network_with_another_rate(home):
    x = rng.standard_normal((4, 1, 6, 6)).astype(np.float32)
    t = rng.integers(0, 3, 4)
    step = xl.TrainStep(image_net(), xl.SoftmaxWithLoss(), xl.Momentum(lr=0.1))
    export_step(step, "step.onnx", (x, t))
    run = session("step.onnx")
    names = ["loss", "next/0.W", "next/1.running_mean"]
    loss, W, mean = run.run(names, {"x": x, "t": t, "lr": np.asarray(0.01, np.float32)})
    assert float(loss) == pytest.approx(float(step(x, t, lr=0.01)), abs=1e-6)
    np.testing.assert_allclose(W, step.net.params["0.W"], atol=1e-6)
    np.testing.assert_allclose(mean, step.net.buffers["1.running_mean"], atol=1e-6)


X, T = np.zeros((2, 5), np.float32), np.zeros(2, np.int64)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((xl.Relu(), "s.onnx", (X, T)), TypeError, "onnx.export_step: step is Relu(); expected a"),
        ((STEPS["adam"](), "s.onnx", X), TypeError, "example is ndarray; expected a tuple (x, t)"),
        ((STEPS["adam"](), "s.onnx", (X, [0])), TypeError, "example is a list; expected an array"),
        ((STEPS["adam"](), "s.onnx", (X[:, :3], T)), ValueError, "x has shape (2, 3); expected"),
        (
            (
                xl.TrainStep(
                    xl.mlp([5, 3], rng=0), xl.SoftmaxWithLoss(), xl.SGD(),
                    precision=xl.MixedPrecision("float16"),
                ),
                "s.onnx", (X, T),
            ),
            ValueError, "step has a group or a precision",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_exported(home, arguments, error, words):
    with pytest.raises(error, match=re.escape(words)):
        export_step(*arguments)
    assert not [*home.iterdir()]
