"""Modules of PyTorch as layers: `xplayers.torch.as_layer`."""

from __future__ import annotations

import copy
import doctest
import pickle

import pytest
from helpers import says, values

import xplayers as xl

torch = pytest.importorskip("torch")
from xplayers.torch import Module, as_layer  # noqa: E402


def network():
    nn = torch.nn
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


@pytest.mark.parametrize("compile", ["auto", False])
def test_a_step_is_that_of_pytorch(compile):
    """Parameters and running statistics, in the memory of the module."""
    module, other = network(), network()
    layer, x, t = as_layer(module), torch.tensor(values((8, 4))).float(), torch.arange(8) % 3
    assert set(layer.arrays) == set(module.state_dict())
    step = xl.TrainStep(layer, xl.SoftmaxWithLoss(), xl.SGD(lr=0.1), compile=compile)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        expected = torch.nn.functional.cross_entropy(other(x), t)
        expected.backward()
        optimizer.step()
        torch.testing.assert_close(step(x, t), expected.detach())
    torch.testing.assert_close(module.state_dict(), other.state_dict())
    torch.testing.assert_close(layer.arrays, {k: other.state_dict()[k] for k in layer.arrays})
    torch.testing.assert_close(layer.predict(x), other.eval()(x).detach())
    assert module.training


def test_a_part_of_a_network(tmp_path):
    module = torch.nn.Linear(4, 8)
    net = xl.Sequential(as_layer(module), xl.Relu(), xl.Affine.init(8, 2, rng=0))
    x = torch.tensor(values((8, 4))).float()
    twin = xl.Sequential(
        xl.Affine(module.weight.detach().T, module.bias.detach()),
        xl.Relu(),
        xl.Affine.init(8, 2, rng=0),
    )
    y, dy = net.forward(x), torch.ones(8, 2)
    torch.testing.assert_close(y, twin.forward(x))
    torch.testing.assert_close(net.backward(dy), twin.backward(dy))
    torch.testing.assert_close(net.grads["0.weight"], twin.grads["0.W"].T)
    xl.save(tmp_path / "net", net)
    before = module.weight.detach().clone()
    net.params["0.weight"] = torch.zeros(8, 4)
    assert not module.weight.any()
    xl.load(tmp_path / "net", net)
    assert torch.equal(module.weight, before)
    trainer = xl.Trainer(net, xl.SoftmaxWithLoss(), xl.Adam(), batch_size=4, epochs=2, seed=0)
    trainer.fit(x, torch.arange(8) % 2)
    assert torch.equal(module.weight, net.params["0.weight"])
    assert not torch.equal(module.weight, before)


def test_dropout_has_the_mask_of_its_pass():
    layer, x = as_layer(torch.nn.Dropout(0.5)), torch.ones(100)
    y = layer.forward(x)
    assert (y == 0).any()
    assert torch.equal(layer.backward(torch.ones(100)), y)
    assert torch.equal(layer.predict(x), x)


def test_integers_and_frozen_parameters():
    embedding = as_layer(torch.nn.Embedding(5, 3))
    y = embedding.forward(torch.tensor([1, 1]))
    assert embedding.backward(torch.ones_like(y)) is None
    assert embedding.grads["weight"].sum(1).tolist() == [0.0, 6.0, 0.0, 0.0, 0.0]
    linear = torch.nn.Linear(4, 3)
    linear.bias.requires_grad_(False)
    layer = as_layer(linear)
    assert ([*layer.params], [*layer.buffers]) == (["weight"], ["bias"])
    layer.backward(layer.forward(torch.ones(2, 4)))
    assert [*layer.grads] == ["weight"]


def test_both_ways_are_the_module():
    x = torch.tensor(values((8, 4)), requires_grad=True)
    module = torch.nn.Linear(4, 3).double()
    both = Module(as_layer(module))
    assert torch.equal(both(x), module(x))
    assert torch.autograd.gradcheck(both, x)
    assert set(both.state_dict()) == {"weight", "bias"}
    net = Module(xl.Sequential(xl.Tanh(), as_layer(torch.nn.Linear(4, 3)))).double()
    assert torch.autograd.gradcheck(net, x)


def test_dtypes_and_copies():
    module = network()
    layer, x = as_layer(module), torch.ones(2, 4)
    module.half()
    assert layer.predict(x.half()).dtype == torch.float16
    layer.to(dtype="float64")
    assert module[0].weight.dtype == torch.float64
    expected = layer.predict(x.double())
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other.predict(x.double()), expected)
        other.params["0.weight"] = torch.zeros(6, 4).double()
        assert not other.module[0].weight.any()
    assert module[0].weight.any()


def test_words():
    with pytest.raises(
        TypeError, match=says("as_layer: module is 3; expected a module of PyTorch")
    ):
        as_layer(3)
    lstm = as_layer(torch.nn.LSTM(4, 3))
    with pytest.raises(TypeError, match="the module returns a tuple; expected a tensor"):
        lstm.forward(torch.ones(2, 5, 4))
    assert repr(as_layer(torch.nn.ReLU())) == "as_layer(ReLU())"


def test_its_example_runs():
    import xplayers.bridges.torch_layer

    assert doctest.testmod(xplayers.bridges.torch_layer).failed == 0
