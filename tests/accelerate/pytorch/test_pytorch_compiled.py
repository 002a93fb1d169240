"""What `torch.compile` follows without a break: all that is pure, in one graph."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from cases import LAYERS
from helpers import python, values
from loss_cases import LOSSES
from optimizer_cases import OPTIMIZERS

import xplayers as xl

torch = pytest.importorskip("torch")

COMPILER = pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs g++")
OF_INDUCTOR = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")


def some(rows, *first):
    """Return rows of a table as parameters; all but the first ones take a minute together."""
    marks = {True: (), False: pytest.mark.slow}
    return [pytest.param(r, marks=marks[r.id in first], id=r.id) for r in rows]


@pytest.fixture(autouse=True)
def _as_new():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled(function, backend="eager"):
    return torch.compile(function, backend=backend, fullgraph=True)


def assert_same(function, *arguments, backend="eager", tolerance=1e-5):
    """Check that a function can be compiled as one graph, and is the same then."""
    expected = function(*arguments)
    got = compiled(function, backend)(*arguments)
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def passes_of(case):
    """Return a function of tensors that goes through a layer both ways, and tensors for it."""
    layer = case.make().to(xp=torch)
    if case.integers:
        x = torch.tensor(np.random.default_rng(0).integers(0, case.integers, case.shape))
    else:
        x = torch.tensor(values(case.shape), dtype=torch.float32)

    def passes(arrays, x, dy):
        y, cache = layer.apply(arrays, x)
        dx, grads = layer.vjp(cache, dy)
        own = layer.param_grads(cache, dy)
        return y, dx, grads, own, layer.updated_buffers(arrays, cache), layer.infer(arrays, x)

    dy = torch.tensor(values(layer.predict(x).shape, 1), dtype=torch.float32)
    return passes, (layer.arrays, x, dy)


@pytest.mark.parametrize(
    "case", some(LAYERS, "Sigmoid", "BatchNormalization", "Reshape", "MultiHeadAttention-dropout")
)
def test_layers(case):
    passes, arguments = passes_of(case)
    assert_same(passes, *arguments)


@COMPILER
@OF_INDUCTOR
@pytest.mark.slow
@pytest.mark.parametrize(
    "id", ["Gelu-tanh", "Softmax", "BatchNormalization-images", "Dropout", "Lstm", "GatedMlp"]
)
def test_layers_by_inductor(id):
    passes, arguments = passes_of(next(case for case in LAYERS if case.id == id))
    assert_same(passes, *arguments, backend="inductor")


@pytest.mark.parametrize("case", some(LOSSES, "SoftmaxWithLoss-everything", "Huber"))
def test_losses(case):
    loss = case.make().to(xp=torch)
    scores = torch.tensor(values(case.shape), dtype=torch.float32)
    target = torch.tensor(case.target(np.random.default_rng(3), case.shape))
    target = target.float() if target.is_floating_point() else target

    def passes(arrays, scores, target, dout):
        value, cache = loss.apply(arrays, scores, target)
        return value, loss.vjp(cache, dout)

    dout = torch.ones_like(loss.forward(scores, target))
    assert_same(passes, loss.arrays, scores, target, dout)


def labels(*shape):
    return torch.tensor(np.random.default_rng(1).integers(0, 3, shape))


def step_of(net, optimizer, loss=None, **options):
    return xl.TrainStep(net, loss or xl.SoftmaxWithLoss(), optimizer, **options)


def convolutional():
    return xl.Sequential(
        xl.Convolution.init(1, 4, 3, bias=False, rng=0),
        xl.BatchNormalization.init(4),
        xl.Relu(),
        xl.MaxPooling(2),
        xl.Dropout(0.3),
        xl.Affine.init(36, 3, rng=1),
    )


def language_model():
    return xl.Sequential(
        xl.Embedding.init(3, 8, rng=0),
        xl.PositionalEmbedding.init(6, 8, rng=1),
        xl.Residual(
            xl.LayerNormalization.init(8), xl.MultiHeadAttention.init(8, 2, causal=True, rng=2)
        ),
        xl.Residual(xl.RmsNormalization.init(8), xl.GatedMlp.init(8, 16, rng=3)),
        xl.Affine.init(8, 3, flatten=False, rng=4),
    )


def tied():
    W = torch.tensor(values((5, 4)), dtype=torch.float32)
    return xl.Sequential(xl.Affine(W, torch.zeros(4)), xl.Tanh(), xl.Affine(W.T, torch.zeros(5)))


def assert_step_is_one_graph(step, x, t, *weights, backend="eager", tolerance=1e-4):
    step.net.to(xp=torch)
    params = dict(step.net.params)
    state = {"optimizer": step.optimizer.init(params)}
    if step.precision is not None:
        state["precision"] = step.precision.init(x)
    arrays = params, dict(step.net.buffers), step.loss.arrays, state
    rate = None if callable(step.optimizer.lr) else 0.01
    assert_same(step.pure, *arrays, x, t, rate, *weights, backend=backend, tolerance=tolerance)


ROWS = torch.tensor(values((7, 5)), dtype=torch.float32)


@pytest.mark.parametrize("case", some(OPTIMIZERS, "Adam"))
def test_optimizers(case):
    net = xl.mlp([5, 8, 3], rng=0)
    assert_step_is_one_graph(step_of(net, case.make()), ROWS, labels(7))


def clipped(grads):
    return xl.clip_by_norm(grads, 0.5)


IMAGES = torch.tensor(values((7, 1, 8, 8)), dtype=torch.float32)
STEPS = {
    "images": lambda: (step_of(convolutional(), xl.Adam()), IMAGES, labels(7)),
    "words": lambda: (step_of(language_model(), xl.AdamW()), labels(2, 6), labels(2, 6)),
    "weights": lambda: (
        step_of(xl.mlp([5, 8, 3], rng=0), xl.Adam()), ROWS, labels(7), torch.arange(7.0)
    ),
    "clipping": lambda: (
        step_of(xl.mlp([5, 8, 3], rng=0), xl.Momentum(), reduce_grads=clipped), ROWS, labels(7)
    ),
    "schedule": lambda: (
        step_of(xl.mlp([5, 8, 3], rng=0), xl.Adam(lr=xl.schedules.Cosine(0.1, steps=9))),
        ROWS, labels(7),
    ),
    "float16": lambda: (
        step_of(xl.mlp([5, 8, 3], rng=0), xl.SGD(), precision=xl.MixedPrecision("float16")),
        ROWS, labels(7),
    ),
    "ties": lambda: (step_of(tied(), xl.SGD(), xl.MeanSquaredError()), ROWS, ROWS),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "images" else pytest.mark.slow) for n in STEPS]
)
def test_steps(name):
    assert_step_is_one_graph(*STEPS[name]())


@COMPILER
@OF_INDUCTOR
@pytest.mark.slow
@pytest.mark.parametrize("name", ["images", "words"])
def test_steps_by_inductor(name):
    assert_step_is_one_graph(*STEPS[name](), backend="inductor")


def test_an_own_layer_that_takes_a_maximum():
    class Positive(xl.Layer):
        def apply(self, arrays, x):
            xp = xl.namespace(x)
            return xp.minimum(xp.maximum(x, 0), 1.0), (x,)

        def vjp(self, cache, dy):
            (x,) = cache
            return dy * xl.namespace(x).astype((x > 0) & (x < 1), dy.dtype), {}

    layer = Positive()
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        x = torch.tensor([-1.0, 0.5, float("nan"), -0.0, 2.0], dtype=dtype)
        got = compiled(lambda x: layer.apply({}, x)[0])(x)
        expected = torch.tensor([0.0, 0.5, float("nan"), 0.0, 1.0], dtype=dtype)
        torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


FIRST = """
import torch, numpy, xplayers as xl
layer = xl.Relu()
xl.functional.relu(numpy.ones(3))
def both(x):
    y, cache = layer.apply({}, x)
    return y, layer.vjp(cache, y)[0]
x = torch.tensor([-1.0, 2.0])
for a in (x, torch.nn.Parameter(x)):
    print([v.tolist() for v in torch.compile(both, backend="eager", fullgraph=True)(a)])
from xplayers.arrays.operation import body_of
from xplayers.layers.attention import attention
print(body_of(attention, x).__module__)
"""


def test_the_first_tensor_may_be_seen_by_a_compiler():
    """Nobody has looked for a namespace and bodies before."""
    result = python("-W", "error", "-c", FIRST)
    assert result.stdout.splitlines() == [
        *["[[0.0, 2.0], [0.0, 2.0]]"] * 2,
        "xplayers.accelerate.pytorch.attention",
    ], result.stderr


def test_a_step_is_compiled_once_whatever_others_do(monkeypatch):
    """Three steps, each of them in one graph that it keeps, where PyTorch gives up after two."""
    graphs, compile = [], torch.compile

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(
        torch,
        "compile",
        lambda f, options: compile(f, backend=backend, options=options, fullgraph=True),
    )
    steps = [step_of(xl.mlp([5, 3], rng=i), xl.SGD(), compile=True) for i in range(3)]
    with torch._dynamo.config.patch(recompile_limit=2):
        for _ in range(2):
            for step in steps:
                step(ROWS, labels(7))
    assert len(graphs) == 3


FACTOR = 2.0


class Scaled(xl.Layer):
    """A layer that looks at a global name and at an attribute."""

    def __init__(self, others=()):
        self.other, self.others = 1.0, [*others, 1.0]

    def apply(self, arrays, x):
        return x * (FACTOR * self.other * self.others[-1]), ()

    def vjp(self, cache, dy):
        return dy * (FACTOR * self.other * self.others[-1]), {}


@pytest.mark.parametrize("others", [0, 6000], ids=["all seen", "more than is looked at"])
def test_what_a_compiled_step_has_looked_at_may_change(monkeypatch, others):
    """Of this package PyTorch asks nothing before a step; of the user's names and numbers all."""
    compile, kept = torch.compile, []

    def compiled(f, options):
        def counted(guards):
            keep = options["guard_filter_fn"](guards)
            kept.extend(guard.name for guard, asked in zip(guards, keep, strict=True) if asked)
            return keep

        def backend(graph, _, **options):
            return graph.forward

        return compile(f, backend=backend, options={"guard_filter_fn": counted})

    monkeypatch.setattr(torch, "compile", compiled)
    nets = [
        xl.Sequential(xl.Affine.init(5, 3, rng=0), Scaled([[] for _ in range(others)]))
        for _ in range(2)
    ]
    first, other = (
        step_of(n, xl.SGD(0.1), compile=c) for n, c in zip(nets, (True, False), strict=True)
    )

    def same(**options):
        losses = [float(step(ROWS, labels(7), **options)) for step in (first, other)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
        torch.testing.assert_close(*(n.params["0.W"] for n in nets))

    same()
    same()
    assert any("FACTOR" in name for name in kept)
    assert any("twin" in name for name in kept) is bool(others)
    assert not any("xplayers" in name for name in kept)
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    same()
    for net in nets:
        net[1].other = 0.5
    same()
    for net in nets:
        net[1].others[-1] = 0.25
    same()
    same(lr=0.7)
    for step in (first, other):
        step.optimizer.lr = 0.3
    same()
    for step in (first, other):
        step.loss.label_smoothing = 0.1
    same()
    with torch.no_grad():
        same()
