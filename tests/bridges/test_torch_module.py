"""Layers as modules of PyTorch: `xplayers.torch.Module`."""

from __future__ import annotations

import copy
import doctest
import io
import pickle

import numpy as np
import pytest
from cases import LAYERS
from helpers import python, says, values

import xplayers as xl

torch = pytest.importorskip("torch")
from torch.func import functional_call, grad, vmap  # noqa: E402

from xplayers.torch import Module  # noqa: E402

ROWS = pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.id)
MODES = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def module_of(case, training=True):
    """Return a module, and a function that sets counters of dropout back, which draws again."""
    module = Module(case.make()).double().train(training)
    counters = [b for name, b in module.named_buffers() if name.endswith("count")]

    def again():
        for counter in counters:
            counter.zero_()
        return module

    return module, again


def input_of(case, *samples):
    shape = (*samples, *case.shape)
    if case.integers:
        return torch.tensor(np.random.default_rng(0).integers(0, case.integers, shape))
    return torch.tensor(values(shape), requires_grad=not samples)


def network():
    return xl.Sequential(
        fc1=xl.Affine.init(4, 3, rng=0),
        norm=xl.BatchNormalization.init(3),
        drop=xl.Dropout(),
        fc2=xl.Affine.init(3, 2, rng=1),
    )


def assert_one(module, layer):
    """Check that the arrays of both are the same memory."""
    state = module.state_dict()
    assert set(state) == {*layer.params, *layer.buffers}
    for name, a in {**layer.params, **layer.buffers}.items():
        assert state[name].data_ptr() == a.data_ptr(), name
        assert state[name].dtype == a.dtype
    assert [name for name, _ in module.named_parameters()] == [*layer.params]


# What it computes


@ROWS
@MODES
def test_gradients(case, training):
    module, again = module_of(case, training)
    x, params = input_of(case), dict(module.named_parameters())
    assert [*params] == [*module.layer.params]

    def f(x, *arrays):
        return functional_call(again(), dict(zip(params, arrays, strict=True)), (x,))

    if x.requires_grad or params:
        assert torch.autograd.gradcheck(f, (x, *params.values()), fast_mode=True)
    layer = case.make().to(like=x.detach().double()) if params else case.make()
    expected = layer.forward(x.detach(), train=training)
    torch.testing.assert_close(f(x, *params.values()).detach(), expected, rtol=1e-12, atol=1e-12)


@ROWS
@MODES
def test_transformations(case, training):
    """`grad` of arrays and input, `vmap`, and both."""
    module, again = module_of(case, training)
    x, xs = input_of(case).detach(), input_of(case, 3)
    weights = torch.tensor(values(tuple(again()(x).shape), 3))
    params = {name: p.detach() for name, p in module.named_parameters()}

    def loss(x, params=params):
        return (functional_call(module, params, (x,)) * weights).sum()

    def each(f):
        return torch.stack([(again(), f(x))[1] for x in xs])

    again()
    torch.testing.assert_close(vmap(module)(xs), each(module))
    if params:
        again()
        grads = grad(loss, argnums=1)(x, params)
        (again()(x) * weights).sum().backward()
        torch.testing.assert_close(grads, {k: p.grad for k, p in module.named_parameters()})
    if not case.integers:
        again()
        torch.testing.assert_close(vmap(grad(loss))(xs), each(grad(loss)))
        again()
        jacobian = torch.func.jacrev(module)(x)
        sums = torch.tensordot(weights, jacobian, weights.ndim)
        torch.testing.assert_close(sums, (again(), grad(loss)(x))[1])


SECOND = says("a second derivative; PyTorch does not record what computes its gradient")


@ROWS
def test_a_second_derivative_is_refused(case):
    module, _ = module_of(case)
    x = input_of(case)
    wanted = [x] if x.requires_grad else list(module.parameters())
    first = torch.autograd.grad(module(x).square().sum(), wanted, create_graph=True)
    with pytest.raises(RuntimeError, match=SECOND):
        (sum(g.square().sum() for g in first) + module(x).sum()).backward()
    if x.requires_grad:
        with pytest.raises(RuntimeError, match=SECOND):
            grad(lambda x: grad(lambda x: module(x).sum())(x).sum())(x.detach())


def test_a_second_derivative_in_evaluation_mode():
    module = Module(xl.Tanh()).double().eval()
    x = torch.tensor(values((3, 4)), requires_grad=True)
    assert torch.autograd.gradgradcheck(module, x)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_forward_mode_is_refused():
    module, x = Module(xl.Tanh()), torch.ones(3)
    with pytest.raises(RuntimeError, match=says("Tanh: a derivative in forward mode; xplayers")):
        torch.func.jvp(module, (x,), (x,))
    with pytest.raises(RuntimeError, match="a derivative in forward mode"):
        torch.func.hessian(lambda x: module(x).sum())(x)


def test_the_gradient_of_the_input_is_computed_where_it_is_needed(monkeypatch):
    layer = xl.Affine.init(4, 3, rng=0)
    module, calls = Module(layer), []
    for name in ("vjp", "param_grads"):
        whole = getattr(xl.Affine, name)
        monkeypatch.setattr(
            xl.Affine, name, lambda *a, whole=whole, name=name: calls.append(name) or whole(*a)
        )
    module(torch.ones(2, 4)).sum().backward()
    assert "vjp" not in calls
    module(torch.ones(2, 4, requires_grad=True)).sum().backward()
    assert "vjp" in calls
    module.requires_grad_(False)
    assert not module(torch.ones(2, 4)).requires_grad


def test_further_inputs():
    attention = xl.MultiHeadAttention.init(4, 2, rng=0)
    net = xl.Sequential(norm=xl.LayerNormalization.init(4), attention=attention)
    x, context, c0 = (
        torch.tensor(values(shape, i), requires_grad=True)
        for i, shape in enumerate([(2, 3, 4), (2, 5, 4), (2, 3)])
    )
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    for module, given in (
        (net, lambda c: {"attention": {"context": c, "key_mask": mask}}),
        (attention, lambda c: {"key_mask": mask, "context": c}),
        (xl.Sequential(attention), lambda c: {"0": {"context": c}}),
    ):
        module = Module(module).double()
        for mode in (True, False):
            module.train(mode)
            assert torch.autograd.gradcheck(
                lambda x, c, m=module, g=given: m(x, **g(c)), (x, context)
            )
    module = Module(xl.Lstm.init(4, 3, rng=0)).double()
    assert torch.autograd.gradcheck(lambda x, c: module(x, c0=c), (x, c0))
    assert torch.autograd.gradcheck(lambda x, c: module(x, c, c), (x, c0))


def test_a_further_input_without_a_gradient_says_so():
    class Shift(xl.Layer):
        def apply(self, arrays, x, by):
            return x + by, ()

        def vjp(self, cache, dy):
            return dy, {}

    x = torch.ones(3, requires_grad=True)
    y = Module(Shift())(x, torch.ones(3, requires_grad=True))
    with pytest.raises(
        RuntimeError, match=says("Shift: an input that has no gradient in this layer is diff")
    ):
        y.sum().backward()


@pytest.mark.parametrize("make", [xl.SoftmaxWithLoss, lambda: xl.SoftmaxWithLoss([1.0, 2.0, 0.5])])
def test_a_loss(make):
    loss = make()
    module = Module(loss).double()
    scores = torch.tensor(values((5, 3)), requires_grad=True)
    labels = torch.tensor([0, 1, 2, 1, 0])
    weight = module.class_weights if loss.buffers else None
    expected = torch.nn.functional.cross_entropy(scores, labels, weight)
    torch.testing.assert_close(module(scores, labels), expected)
    assert torch.autograd.gradcheck(lambda s: module(s, labels), scores)
    torch.testing.assert_close(module.eval()(scores, labels), expected)
    with pytest.raises(ValueError, match="label"):
        module(scores, labels + 3)


# One memory


def test_an_optimizer_of_pytorch_trains_the_layer():
    layer = network()
    net = torch.nn.Sequential(Module(layer), torch.nn.Linear(2, 2))
    optimizer = torch.optim.Adam(net.parameters())
    before = {name: a.clone() for name, a in layer.arrays.items()}
    net(torch.randn(6, 4)).square().sum().backward()
    optimizer.step()
    assert not any(torch.equal(a, before[name]) for name, a in layer.arrays.items())
    assert_one(net[0], layer)


def test_both_train_the_same():
    """A step of PyTorch's SGD is one of ours, with its statistics."""
    nets = [
        xl.Sequential(xl.Affine.init(4, 3, rng=0), xl.BatchNormalization.init(3), xl.Tanh())
        for _ in range(2)
    ]
    module, ours = Module(nets[0]).double(), nets[1].to(xp=torch, dtype="float64")
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    step = xl.TrainStep(ours, xl.MeanSquaredError(), xl.SGD(lr=0.1))
    loss = Module(xl.MeanSquaredError())
    for i in range(4):
        x, t = torch.tensor(values((8, 4), i)), torch.tensor(values((8, 3), i + 10))
        optimizer.zero_grad()
        value = loss(module(x), t)
        value.backward()
        optimizer.step()
        torch.testing.assert_close(step(x, t), value.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(nets[0].arrays, ours.arrays, rtol=1e-12, atol=1e-12)


def test_what_the_layer_is_given_the_module_has(tmp_path):
    layer, other = network(), network()
    module = Module(layer)
    parameter = module.fc1.W
    layer.params["fc1.W"] = torch.zeros(4, 3)
    layer.fc2.b = torch.ones(2)
    layer.buffers["norm.running_mean"] = torch.ones(3)
    assert_one(module, layer)
    assert module.fc1.W is parameter
    assert not parameter.any()
    xl.save(tmp_path / "net", other)
    xl.load(tmp_path / "net", layer)
    assert_one(module, layer)
    np.testing.assert_array_equal(module.fc1.W.detach(), other.params["fc1.W"])
    layer.to(dtype="float64")
    assert_one(module, layer)
    module(torch.ones(2, 4).double())
    for _ in range(4):  # a replay moves the parameters into memory of its own
        xl.TrainStep(layer, xl.MeanSquaredError(), xl.Adam())(
            torch.ones(3, 4).double(), torch.ones(3, 2).double()
        )
    assert_one(module, layer)


def test_what_the_module_is_given_the_layer_has():
    layer = network()
    module = Module(layer)
    net = torch.nn.Sequential(module)
    twos = {name: torch.full_like(a, 2) for name, a in net.state_dict().items()}
    net.load_state_dict(twos)
    assert all((a == 2).all() for a in layer.arrays.values())
    net.load_state_dict({name: a + 1 for name, a in twos.items()}, assign=True)
    assert all((a == 3).all() for a in layer.arrays.values())
    assert_one(module, layer)
    module.fc1.W = torch.nn.Parameter(torch.ones(4, 3))
    assert_one(module, layer)
    torch.nn.utils.vector_to_parameters(torch.zeros(29), module.parameters())
    module(torch.ones(2, 4))
    assert not any(a.any() for a in layer.params.values())
    assert_one(module, layer)


def test_dtypes():
    layer = network()
    net = torch.nn.Sequential(Module(layer))
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.float32):
        net.to(dtype)
        assert all(a.dtype == dtype for a in layer.params.values())
        assert layer.norm.running_mean.dtype == max(dtype, torch.float32, key=lambda d: d.itemsize)
        assert layer.drop.count.dtype == torch.int32
        assert_one(net[0], layer)
        y = net(torch.ones(3, 4, dtype=dtype))
        assert y.dtype == dtype
        y.sum().backward()
        layer.forward(torch.ones(3, 4, dtype=dtype))


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_copies(how):
    def copied(net):
        if how == "deepcopy":
            return copy.deepcopy(net)
        if how == "pickle":
            return pickle.loads(pickle.dumps(net))
        file = io.BytesIO()
        torch.save(net, file)
        file.seek(0)
        return torch.load(file, weights_only=False)

    net = torch.nn.Sequential(Module(network()))
    net[0].fc1.requires_grad_(False)
    other = copied(net)
    assert_one(other[0], other[0].layer)
    assert not other[0].fc1.W.requires_grad
    before = net.state_dict()["0.fc2.b"].clone()
    other(torch.ones(3, 4)).sum().backward()
    torch.optim.SGD([p for p in other.parameters() if p.grad is not None], lr=1.0).step()
    assert not torch.equal(other[0].layer.params["fc2.b"], before)
    assert torch.equal(net[0].layer.params["fc2.b"], before)


def test_tied_parameters():
    W = torch.tensor(values((5, 3)))
    embedding, out = xl.Embedding(W), xl.Affine(W.T, torch.zeros(5).double(), flatten=False)
    layer = xl.Sequential(embedding, xl.Tanh(), out)
    module, x = Module(layer), torch.tensor([[1, 2], [3, 4]])
    assert [name for name, _ in module.named_parameters()] == ["0.W", "2.b"]
    module(x).square().sum().backward()
    layer.backward(2.0 * layer.forward(x))
    torch.testing.assert_close(module.get_parameter("0.W").grad, layer.grads["0.W"])
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    assert torch.equal(out.W, embedding.W.T)
    module.float()
    assert_one(module, layer)
    out.W = torch.ones(3, 5)  # the tie ends
    assert {name for name, _ in module.named_parameters()} == {"0.W", "2.W", "2.b"}
    module(x)


def test_a_parametrization():
    """Weight normalization computes `W` from other parameters."""
    module = torch.nn.utils.parametrizations.weight_norm(Module(xl.Affine.init(4, 3, rng=0)), "W")
    module(torch.ones(2, 4)).sum().backward()
    names = [name for name, p in module.named_parameters() if p.grad is not None]
    assert len(names) == 3


def test_names_that_pytorch_has():
    layer = xl.Sequential(half=xl.Affine.init(4, 3, rng=0), training=xl.Affine.init(3, 2, rng=1))
    module = Module(layer).double()
    assert_one(module, layer)
    module(torch.ones(2, 4).double()).sum().backward()


# Words


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Module(3), TypeError, "Module: layer is 3; expected a layer or a loss of xplayer"),
        (
            lambda: Module(xl.Affine(np.ones((2, 2)), np.ones(2))),
            TypeError,
            "Module: W is a numpy array; expected a tensor. Call layer.to(xp=torch).",
        ),
        (
            lambda: Module(xl.mlp([4, 2], rng=0))(torch.ones(3, 4).double()),
            TypeError,
            "Sequential: x is torch.float64, 0.W is torch.float32. Pass x as torch.float32",
        ),
        (
            lambda: Module(xl.mlp([4, 2], rng=0))(np.ones((3, 4), "float32")),
            TypeError,
            "Sequential: x is a numpy array on the CPU; expected a tensor: torch.asarray(x).",
        ),
        (
            lambda: Module(xl.mlp([4, 2], rng=0)).to("meta")(torch.ones(3, 4)),
            TypeError,
            "x is a torch array on the CPU, 0.W is a torch array on meta",
        ),
        (lambda: Module(xl.Relu())([1.0]), TypeError, "Relu: x is a list; expected an array"),
        (lambda: Module(xl.Relu())(torch.ones(2), 3), TypeError, "Relu: too many positional"),
        (lambda: Module(xl.Affine.init(4, 2))(torch.ones(3, 5)), ValueError, "expected (n, 4)"),
    ],
)
def test_what_does_not_fit_is_said(make, error, words):
    with pytest.raises(error, match=says(words)):
        make()


def test_its_example_runs():
    import xplayers.bridges.torch_module

    assert doctest.testmod(xplayers.bridges.torch_module).failed == 0


def test_the_library_missing():
    code = "import sys; sys.modules['torch'] = None; import xplayers.torch"
    last = python("-c", code).stderr.splitlines()[-1]
    assert last == 'ImportError: xplayers.torch needs PyTorch: pip install "xplayers[torch]".'
    assert python("-c", "import xplayers, sys; sys.exit('torch' in sys.modules)").returncode == 0
