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


# The names of Deep Learning from Scratch, for those who change its imports by hand.
W, B, FILTERS = np.ones((3, 3)), np.zeros(3), np.ones((1, 1, 2, 2))
X = np.ones((2, 3))


@pytest.mark.parametrize(
    ("name", "ours"),
    {
        "Pooling": "MaxPooling", "MatMul": "Affine(W), without a bias,", "TimeLSTM": "Lstm",
        "TimeAffine": "Affine(W, b, flatten=False)", "TimeDropout": "Dropout",
        "TimeEmbedding": "Embedding", "TimeRNN": "Rnn", "TimeGRU": "Gru",
        "TimeSoftmaxWithLoss": "SoftmaxWithLoss", "MultiLayerNetExtend": "mlp",
        "TimeBiLSTM": "Lstm.init(n_in, n_hidden, bidirectional=True)",
        "relu_grad": "functional.relu_derivative", "clip_grads": "clip_by_norm",
    }.items(),
)  # fmt: skip
def test_names_of_the_book(name, ours):
    with pytest.raises(AttributeError, match=re.escape(f"It is xplayers.{ours} here.")):
        getattr(xl, name)


def test_names_of_the_books_functions():
    words = "module 'xplayers.functional' has no attribute 'sigmoid_grad'. It is xplayers.functio"
    with pytest.raises(AttributeError, match=re.escape(words)):
        xl.functional.sigmoid_grad  # noqa: B018
    with pytest.raises(AttributeError, match=r"has no attribute 'quux'\.$"):
        xl.functional.quux  # noqa: B018


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: xl.Convolution(FILTERS, B[:1], stride=1, pad=1), "groups=1). It is padding."),
        (lambda: xl.Convolution.init(1, 2, 3, pad=1), "Convolution.init: got an unexpected"),
        (lambda: xl.MaxPooling(pool_h=2, pool_w=2), "MaxPooling: got an unexpected keyword argument"
         " 'pool_h'; expected MaxPooling(size, stride=None, padding=0). It is size."),
        (lambda: xl.Dropout(dropout_ratio=0.5), "expected Dropout(rate=0.5, seed=0). It is rate."),
        (lambda: xl.SGD(learning_rate=0.1), "unexpected keyword argument 'learning_rate'"
         "; expected SGD(lr=0.01, weight_decay=0.0). It is lr."),
        (lambda: xl.Nesterov(alpha=1), "expected Nesterov(lr=0.01, momentum=0.9, weight_dec"),
        (lambda: xl.Adam(beta_1=0.9), "It is beta1."),
        (lambda: xl.Lstm(W, W, B, stateful=True), "state = layer.final_state()."),
        (lambda: xl.Lstm.init(3, 4, stateful=True), "Lstm.init: got an unexpected keyword"),
        (lambda: xl.Gru.init(3, 4, stateful=True), "The state is an argument: forward(x, *state)"),
        (lambda: xl.Affine(W, bias=B), "expected Affine(W, b=None, flatten=True). It is b."),
        (lambda: xl.Relu(inplace=True), "Relu: got an unexpected keyword argument 'inplace'"),
        (lambda: xl.Relu(0.1), "Relu: too many positional arguments; expected Relu()."),
        (lambda: xl.Softmax(dim=1), "expected Softmax(axis=-1). It is axis."),
        (lambda: xl.BatchNormalization(B, B, 0.9, B), "eps is an array of shape (3,); expected a"
         " number of 0 or more. Running statistics: layer.running_mean = array."),
        (lambda: xl.BatchNormalization(B, B, 0.9, None, None), "too many positional arguments; exp"
         "ected BatchNormalization(gamma, beta, momentum=0.9, eps=1e-05)."),
        (lambda: xl.BatchNormalization(B, B, running_mean=B), "Set it later: layer.running_m"),
        (lambda: xl.Dropout().forward(X, True), "It is train: forward(x, train=False), the same"),
        (lambda: xl.Dropout().forward(X, train_flg=False), "It is train: forward(x, train=False)"),
        (lambda: xl.SGD().update([*xl.Affine(W, B).params], []), "params is ['W', 'b']; expected "
         "arrays by name. Pass net.params. A list += layer.params has only their names."),
    ],
)  # fmt: skip
def test_arguments_of_the_book_and_of_others_lead_to_ours(call, words):
    with pytest.raises(TypeError, match=re.escape(words)):
        call()


@pytest.mark.parametrize(
    ("of", "name", "words"),
    [
        (xl.Relu(), "mask", "Relu has no attribute 'mask'. forward returns the output and keeps"),
        (xl.Affine(W), "x", "keeps only what backward needs"), (xl.Sigmoid(), "out", "keeps only"),
        (xl.SoftmaxWithLoss(), "y", "keeps only"), (xl.SoftmaxWithLoss(), "loss", "keeps only"),
        (xl.Convolution(FILTERS), "pad", "It is padding."), (xl.Dropout(), "dropout_ratio", "It "),
        (xl.Rnn(W, W, B), "reset_state", "The state is an argument: forward(x, *state), with"),
    ],
)  # fmt: skip
def test_attributes_of_the_book(of, name, words):
    with pytest.raises(AttributeError, match=re.escape(words)):
        getattr(of, name)


@pytest.mark.parametrize("sizes", [(3, 3), (5, 5)])
def test_a_pooling_that_the_book_and_pytorch_read_differently_is_refused(sizes):
    words = f"a window of {sizes[0]}x{sizes[0]}, as in the book, or"
    for options in ({}, {"stride": 2}, {"padding": 1}):
        with pytest.raises(ValueError, match=words):
            xl.MaxPooling(*sizes, **options)


def test_a_pooling_that_both_read_alike_is_what_it_says():
    for layer in (xl.MaxPooling(2, 2), xl.MaxPooling(2), xl.MaxPooling((2, 2), 2)):
        assert layer(np.ones((1, 1, 4, 4))).shape == (1, 1, 2, 2)
    assert repr(xl.MaxPooling(3, 2)) == "MaxPooling(size=3, stride=2)"
    assert repr(xl.MaxPooling(3, stride=3)) == "MaxPooling(size=3, stride=3)"
