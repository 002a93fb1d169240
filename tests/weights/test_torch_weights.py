"""State dicts of torch.nn: the same outputs, in training and inference, and back."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_close, assert_same_arrays, values

import xplayers as xl
from xplayers import weights

torch = pytest.importorskip("torch")
nn = torch.nn


class First(nn.Module):
    """A module of which the first result counts."""

    def __init__(self, module, *, twice=False):
        super().__init__()
        self.module, self.twice = module, twice

    def forward(self, x):
        return (self.module(x, x, x) if self.twice else self.module(x))[0]


def moved(momentum):
    return {"momentum": momentum, "eps": 1e-3}


ROWS = {  # theirs, ours, the shape of x
    "Linear": (lambda: nn.Linear(5, 3), lambda: xl.Affine.init(5, 3), (4, 5)),
    "Linear-no-bias": (
        lambda: nn.Linear(5, 3, bias=False), lambda: xl.Affine.init(5, 3, bias=False), (4, 5)
    ),
    "Linear-square": (lambda: nn.Linear(4, 4), lambda: xl.Affine.init(4, 4), (4, 4)),
    "Conv1d": (
        lambda: nn.Conv1d(2, 3, 3, padding=1), lambda: xl.Convolution.init(2, 3, (3,), padding=1),
        (2, 2, 7),
    ),
    "Conv2d": (
        lambda: nn.Conv2d(4, 6, (3, 2), stride=2, groups=2, bias=False),
        lambda: xl.Convolution.init(4, 6, (3, 2), stride=2, groups=2, bias=False), (2, 4, 7, 6),
    ),
    "Conv3d": (
        lambda: nn.Conv3d(2, 3, 2, dilation=2), lambda: xl.Convolution.init(2, 3, (2,) * 3,
        dilation=2), (2, 2, 4, 5, 4),
    ),
    "ConvTranspose1d": (
        lambda: nn.ConvTranspose1d(2, 3, 3, stride=2),
        lambda: xl.ConvolutionTranspose.init(2, 3, (3,), stride=2), (2, 2, 5),
    ),
    "ConvTranspose2d": (
        lambda: nn.ConvTranspose2d(2, 3, (3, 2), stride=2, padding=1),
        lambda: xl.ConvolutionTranspose.init(2, 3, (3, 2), stride=2, padding=1), (2, 2, 4, 5),
    ),
    "BatchNorm1d": (
        lambda: nn.BatchNorm1d(5, **moved(0.3)),
        lambda: xl.BatchNormalization.init(5, **moved(0.7)), (6, 5),
    ),
    "BatchNorm2d": (
        lambda: nn.BatchNorm2d(3), lambda: xl.BatchNormalization.init(3), (4, 3, 5, 2),
    ),
    "LayerNorm": (
        lambda: nn.LayerNorm((4, 5)), lambda: xl.LayerNormalization.init(4, 5), (2, 4, 5)
    ),
    "GroupNorm": (
        lambda: nn.GroupNorm(2, 4), lambda: xl.GroupNormalization.init(4, 2), (2, 4, 3, 3)
    ),
    "RMSNorm": (
        lambda: nn.RMSNorm(5, eps=1e-6), lambda: xl.RmsNormalization.init(5), (2, 4, 5)
    ),
    "RNN": (lambda: First(nn.RNN(4, 3, batch_first=True)), lambda: xl.Rnn.init(4, 3), (2, 5, 4)),
    "LSTM": (lambda: First(nn.LSTM(4, 3, batch_first=True)), lambda: xl.Lstm.init(4, 3), (2, 5, 4)),
    "GRU": (lambda: First(nn.GRU(4, 3, batch_first=True)), lambda: xl.Gru.init(4, 3), (2, 5, 4)),
    "LSTM-both": (
        lambda: First(nn.LSTM(4, 3, batch_first=True, bidirectional=True)),
        lambda: xl.Lstm.init(4, 3, bidirectional=True), (2, 5, 4),
    ),
    "GRU-stacked": (
        lambda: First(nn.GRU(4, 3, num_layers=3, batch_first=True)),
        lambda: xl.Sequential(*(xl.Gru.init(n, 3) for n in (4, 3, 3))), (2, 5, 4),
    ),
    "LSTM-stacked-both": (
        lambda: First(nn.LSTM(4, 3, num_layers=2, batch_first=True, bidirectional=True)),
        lambda: xl.Sequential(*(xl.Lstm.init(n, 3, bidirectional=True) for n in (4, 6))), (2, 5, 4),
    ),
    "MultiheadAttention": (
        lambda: First(nn.MultiheadAttention(6, 2, batch_first=True), twice=True),
        lambda: xl.MultiHeadAttention.init(6, 2), (2, 5, 6),
    ),
    "MultiheadAttention-no-bias": (
        lambda: First(nn.MultiheadAttention(6, 3, bias=False, batch_first=True), twice=True),
        lambda: xl.MultiHeadAttention.init(6, 3, bias=False), (2, 5, 6),
    ),
}  # fmt: skip


def shaken(module):
    """Give everything values of its own, statistics too."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, a in module.state_dict().items():
            if a.is_floating_point():
                a.copy_(torch.rand(a.shape, generator=generator) + 0.1 if "var" in name
                        else torch.randn(a.shape, generator=generator) / 2)  # fmt: skip
    return module


def pair(row):
    theirs, ours, shape = ROWS[row]
    return shaken(theirs()).double(), ours().to(xp=np, dtype="float64"), values(shape)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("train", [False, True])
def test_the_outputs_are_the_same(row, train):
    module, net, x = pair(row)
    module.train(train)
    assert weights.from_torch(net, module.state_dict()) is net
    expected = module(torch.from_numpy(x)).detach().numpy()
    assert_close(net.forward(x, train=train), expected, 1e-12)
    if train and "BatchNorm" in row:
        n = x.size // x.shape[1]
        mean, var = (module.state_dict()[f"running_{name}"].numpy() for name in ("mean", "var"))
        assert_close(net.running_mean, mean, 1e-12)
        # PyTorch's running variance divides by n - 1.
        batch = np.var(np.moveaxis(x, 1, 0).reshape(x.shape[1], -1), axis=1)
        share = 1.0 - net.momentum
        assert_close(net.running_var, var - share * batch / (n - 1), 1e-12)


@pytest.mark.parametrize("row", ROWS)
def test_back_and_forth_nothing_changes(row):
    module, net, x = pair(row)
    weights.from_torch(net, module)
    names = {"0": "module", "1": "module:1", "2": "module:2"} if "stacked" in row else (
        {"": "module"} if isinstance(module, First) else None)  # fmt: skip
    names = {k: v for k, v in (names or {}).items() if not k or hasattr(net, k)} or None
    state = weights.to_torch(net, names)
    assert state.keys() == module.state_dict().keys()
    expected = module(torch.from_numpy(x)).detach().numpy()
    other = ROWS[row][0]().double()
    other.load_state_dict(state)
    other.train(module.training)
    assert_close(other(torch.from_numpy(x)).detach().numpy(), expected, 1e-12)
    again = ROWS[row][1]()
    weights.from_torch(again, state, names)
    assert_same_arrays(again.arrays, net.arrays)


def test_embeddings():
    module, net = nn.Embedding(7, 3), xl.Embedding.init(7, 3)
    weights.from_torch(net, module)
    x = np.asarray([[1, 6], [0, 1]])
    assert_close(net(x), module(torch.from_numpy(x)).detach().numpy(), 1e-7)


def their_images():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.0),
        nn.Flatten(), nn.Linear(36, 4), nn.ReLU(), nn.Linear(4, 4),
    )  # fmt: skip


def our_images(**named):
    return xl.Sequential(
        xl.Convolution.init(1, 4, 3), xl.BatchNormalization.init(4), xl.Relu(), xl.MaxPooling(2),
        xl.Affine.init(36, 4), xl.Relu(), xl.Affine.init(4, 4), **named,
    )  # fmt: skip


@pytest.mark.parametrize("names", [None, {"4": "6", "6": "8"}])
def test_a_network_whose_parts_have_other_numbers(names, xpv):
    """Ours has no Flatten: by the order of the modules, or by a map of names."""
    module = shaken(their_images()).eval()
    x = values((2, 1, 8, 8)).astype("float32")
    net, here = our_images(), xpv.asarray(x)
    net.to(like=here)
    weights.from_torch(net, module.state_dict(), names)
    assert_close(net.predict(here), module(torch.from_numpy(x)).detach().numpy(), 1e-6)
    state = weights.to_torch(net, {"4": "6", "6": "8"})
    assert_same_arrays(state, module.state_dict())


def test_names_of_containers_and_of_all():
    block = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    module = nn.ModuleDict({"enc": nn.ModuleDict({"body": block}), "out": nn.Linear(4, 2)})
    net = xl.Sequential(
        body=xl.Sequential(xl.Affine.init(4, 4), xl.Tanh(), xl.Affine.init(4, 4)),
        out=xl.Affine.init(4, 2),
    )
    weights.from_torch(net, module, {"body": "enc.body"})
    assert_same_arrays(weights.to_torch(net, {"body": "enc.body"}), module.state_dict())
    whole = nn.ModuleDict({"model": module})
    again = weights.from_torch(net, whole, {"": "model", "body": "model.enc.body"})
    assert_same_arrays(weights.to_torch(again, {"body": "enc.body"}), module.state_dict())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtypes_are_those_of_the_network(dtype):
    module = shaken(nn.Linear(4, 3)).to(getattr(torch, dtype))
    net = xl.Affine.init(4, 3).to(like=torch.zeros(1, dtype=getattr(torch, dtype)))
    weights.from_torch(net, module.float())
    for name, a in weights.to_torch(net).items():
        assert a.dtype == getattr(torch, dtype)
        assert torch.equal(a, module.to(a.dtype).state_dict()[name])


def test_what_torch_does_not_have():
    for layer, said in (
        (xl.Gru.init(2, 3, reset_after=False), "no GRU that resets before"),
        (xl.MultiHeadAttention.init(4, 2, n_kv_heads=1), "no attention with n_kv_heads"),
        (xl.MultiHeadAttention.init(4, 2, rope_theta=1e4), "no attention with n_kv_heads"),
    ):
        with pytest.raises(TypeError, match=said):
            weights.to_torch(layer)
