"""Names that people bring from other libraries: an AttributeError that says ours."""

from __future__ import annotations

import copy
import pickle
import re

import numpy as np
import pytest

import xplayers as xl
from xplayers import _foreign

NET, BATCH = xl.mlp([4, 3], rng=0), np.ones((2, 4), "float32")
PACKAGE = {
    "ReLU": "Relu", "LeakyReLU": "LeakyRelu", "GELU": "Gelu", "SiLU": "Silu", "swish": "Silu",
    "Linear": "Affine", "Dense": "Affine", "Conv2d": "Convolution", "Conv2D": "Convolution",
    "MaxPool2d": "MaxPooling", "AvgPool2d": "AveragePooling", "BatchNorm1d": "BatchNormalization",
    "BatchNorm2d": "BatchNormalization", "LayerNorm": "LayerNormalization", "LSTM": "Lstm",
    "GRU": "Gru", "RNN": "Rnn", "MultiheadAttention": "MultiHeadAttention",
    "CrossEntropyLoss": "SoftmaxWithLoss", "softmax_cross_entropy": "SoftmaxWithLoss",
    "MSELoss": "MeanSquaredError", "BCEWithLogitsLoss": "SigmoidWithLoss", "Adagrad": "AdaGrad",
    "RMSProp": "RMSprop", "Model": "Sequential", "Module": "Layer", "MLP": "mlp",
    "fit": "Trainer(net, loss, optimizer).fit(x, t)", "DataLoader": "Batches",
    "train": "Trainer(net, loss, optimizer).fit(x, t)", "clip_grad_norm_": "clip_by_norm",
    "load_mnist": "data.load_mnist", "StepLR": "schedules.Step", "Sequental": "Sequential",
    "relu": "functional.relu, or the layer xplayers.Relu",
    "cross_entropy_error": "functional.cross_entropy_error",
}  # fmt: skip


@pytest.mark.parametrize(("name", "ours"), PACKAGE.items())
def test_names_of_the_package(name, ours):
    message = f"module 'xplayers' has no attribute '{name}'. It is xplayers.{ours} here."
    with pytest.raises(AttributeError, match=f"^{re.escape(message)}$"):
        getattr(xl, name)
    assert not hasattr(xl, name)


def test_other_names_of_the_package():
    for name in ("quux", "__quux__", "__add__", "_jit2"):
        with pytest.raises(AttributeError, match=f"^module 'xplayers' has no attribute '{name}'.$"):
            getattr(xl, name)
    with pytest.raises(ImportError, match="cannot import name 'Linear' from 'xplayers'"):
        from xplayers import Linear  # noqa: F401


def test_what_is_said_is_there():
    for said in {*_foreign.PACKAGE.values(), *_foreign.NETWORK.values()}:
        for name in re.findall(r"xplayers\.([\w.]+)", f"xplayers.{said}"):
            of = xl
            for part in name.split(".") if said in _foreign.PACKAGE.values() else []:
                of = getattr(of, part)
    public = {n.lower().replace("_", "") for n in xl.__all__}
    assert not public & set(_foreign.PACKAGE)
    objects = [NET, NET[0], xl.Layer]
    for name in _foreign.NETWORK:
        assert not any(hasattr(one, name) for one in objects), name
    for name in _foreign.OPTIMIZER:
        assert not hasattr(xl.Adam(), name)


@pytest.mark.parametrize(
    ("of", "name", "hint"),
    [
        (NET, "fit", "Sequential has no attribute or part 'fit'. xplayers.Trainer(net, los"),
        (NET, "summary", "xplayers.summary(net, input_shape)"),
        (NET, "parameters", "net.params is"),
        (NET, "weights", "net.params is"), (NET, "state_dict", "net.arrays has parameters and"),
        (NET, "train", "forward is for training, predict for"), (NET, "eval", "There is no mode"),
        (NET, "compile", "xplayers.TrainStep("), (NET, "zero_grad", "net.zero_grads() drops"),
        (NET, "save", "xplayers.save(path, net)"), (NET, "cuda", "net.to(xp=..., device="),
        (NET[0], "weight", "Affine has no attribute 'weight'. The weights are W"),
        (NET[0], "bias", "The bias is b"), (NET[0], "grad", "net.grads has them by name"),
        (NET, "nothing", "Sequential has no attribute or part 'nothing'."),
        (NET[0], "nothing", "'Affine' object has no attribute 'nothing'"),
        (xl.Affine, "weight", "Affine has no attribute 'weight'. The weights are W"),
        (xl.Adam(), "zero_grad", "Adam has no attribute 'zero_grad'. The backward after a fo"),
        (xl.SGD(), "learning_rate", "SGD has no attribute 'learning_rate'. It is lr."),
        (xl.SGD(), "nothing", "SGD has no attribute 'nothing'."),
    ],
)  # fmt: skip
def test_attributes(of, name, hint):
    with pytest.raises(AttributeError, match=re.escape(hint)) as caught:
        getattr(of, name)
    assert (caught.value.name, caught.value.obj) == (name, of)  # what "Did you mean" needs
    assert not hasattr(of, name)
    assert getattr(of, name, 3) == 3


def test_names_of_ones_own_win():
    class Mine(xl.Relu):
        def __init__(self):
            self.weight = 3

        @property
        def summary(self):
            return "mine"

    mine = Mine()
    assert (mine.weight, mine.summary) == (3, "mine")
    assert {"weight", "summary", "forward"} <= set(dir(mine))
    assert not {"fit", "train"} & set(dir(mine))
    net = xl.Sequential(fit=xl.Relu(), head=mine)
    assert net.fit is net["fit"] is net[0]
    assert "fit" not in dir(NET)
    assert "Linear" not in dir(xl)


def test_copies_and_pickles():
    for of in (NET, NET[0], xl.SoftmaxWithLoss(), xl.Adam(lr=xl.schedules.Constant(0.5))):
        for same in (copy.copy(of), copy.deepcopy(of), pickle.loads(pickle.dumps(of))):
            assert repr(same) == repr(of)
            assert not hasattr(same, "fit")
    empty = xl.Sequential.__new__(xl.Sequential)  # as a pickle makes it
    with pytest.raises(AttributeError, match="Sequential has no attribute or part 'fit'"):
        empty.fit  # noqa: B018
    assert (copy.deepcopy(NET)(BATCH) == NET(BATCH)).all()
