"""Every argument of every public name refuses what it cannot be, and says who and which.

A public name that is not in the table fails, so a new one gets its checks.
"""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import xplayers as xl

X, T, G = np.ones((2, 3), "float32"), np.asarray([0, 1]), np.ones(3, "float32")
W33, RELU, MSE = np.ones((3, 3), "float32"), xl.Relu(), xl.MeanSquaredError()
NET = xl.mlp([3, 2], rng=0)
HEADS = {f"{k}{name}": W33 if k == "W" else G for name in "qkvo" for k in "Wb"}


class Thing:
    """What no argument can be."""


def twice(arrays):
    """Return parameters of both directions."""
    return arrays | {f"{name}_reverse": a for name, a in arrays.items()}


# The arguments that a call needs, by name; those of variable number under their name with a star.
NEEDED = {
    "SGD": {}, "Momentum": {}, "Nesterov": {}, "AdaGrad": {}, "RMSprop": {}, "Adam": {},
    "AdamW": {}, "Optimizer": {},
    "Affine": {"W": W33, "b": G}, "Affine.init": {"n_in": 3, "n_out": 2},
    "AveragePooling": {"size": 2}, "MaxPooling": {"size": 2}, "GlobalAveragePooling": {},
    "BatchNormalization": {"gamma": G, "beta": G}, "BatchNormalization.init": {"n_features": 3},
    "LayerNormalization": {"gamma": G, "beta": G}, "LayerNormalization.init": {"*shape": (3,)},
    "RmsNormalization": {"gamma": G}, "RmsNormalization.init": {"*shape": (3,)},
    "GroupNormalization": {"gamma": G, "beta": G, "groups": 1},
    "Standardize": {"mean": G, "scale": G}, "Standardize.init": {"*shape": (3,)},
    "Standardize.fit": {"x": X},
    "GroupNormalization.init": {"n_channels": 4, "groups": 2},
    "Convolution": {"W": np.ones((1, 1, 3))},
    "Convolution.init": {"n_in": 2, "n_out": 2, "size": 3},
    "ConvolutionTranspose": {"W": np.ones((1, 1, 3))},
    "ConvolutionTranspose.init": {"n_in": 2, "n_out": 2, "size": 3},
    "Rnn": twice({"Wx": W33, "Wh": W33, "b": G}), "Rnn.init": {"n_in": 3, "n_hidden": 3},
    "Lstm": twice({"Wx": np.ones((1, 4)), "Wh": np.ones((1, 4)), "b": np.ones(4)}),
    "Lstm.init": {"n_in": 3, "n_hidden": 3},
    "Gru": twice({"Wx": np.ones((1, 3)), "Wh": np.ones((1, 3)), "b": G, "bh": G}),
    "Gru.init": {"n_in": 3, "n_hidden": 3},
    "MultiHeadAttention": {**HEADS, "n_heads": 1},
    "MultiHeadAttention.init": {"n_features": 4, "n_heads": 2},
    "Embedding": {"W": W33}, "Embedding.init": {"n": 3, "n_features": 2},
    "PositionalEmbedding": {"W": W33}, "PositionalEmbedding.init": {"n": 3, "n_features": 2},
    "GatedMlp": {"gate": RELU, "up": RELU, "down": RELU},
    "GatedMlp.init": {"n_features": 4, "n_hidden": 6},
    "RotaryEmbedding": {},
    "Dropout": {}, "Elu": {}, "LeakyRelu": {}, "Gelu": {}, "Softmax": {}, "Relu": {}, "Sigmoid": {},
    "Silu": {}, "Softplus": {}, "Tanh": {}, "Flatten": {}, "Reshape": {"*shape": (3,)},
    "Transpose": {"*axes": (1,)},
    "Sequential": {"*layers": (RELU,)}, "Residual": {"*layers": (RELU,)},
    "Recompute": {"*layers": (RELU,)}, "Map": {"*layers": (RELU,)},
    "Parallel": {"*layers": (RELU,)}, "Container": {"parts": {"a": RELU}},
    "mlp": {"sizes": [3, 2]},
    "Loss": {}, "MeanSquaredError": {}, "MeanAbsoluteError": {}, "Huber": {}, "SigmoidWithLoss": {},
    "SoftmaxWithLoss": {},
    "accuracy": {"y": X, "t": T}, "confusion_matrix": {"y": X, "t": T},
    "precision_recall": {"y": X, "t": T}, "binary_accuracy": {"y": X, "t": X},
    "check_labels": {"labels": T, "classes": 2},
    "minibatches": {"x": X, "t": T, "batch_size": 2}, "Batches": {"x": X, "t": T, "batch_size": 2},
    "clip_by_norm": {"grads": {"W": X}, "limit": 1.0},
    "elementwise": {"function": lambda xp, x: x},
    "check_gradients": {"layer": RELU, "x": X}, "numerical_gradient": {"f": np.sum, "x": X},
    "move": {"x": X}, "namespace": {"x": X}, "to_numpy": {"x": X},
}  # fmt: skip

NOT_CALLED = {  # with arguments, or checked in tests of their own
    "Buffer", "Gradient", "Parameter", "Layer", "Event", "NonFiniteLoss", "History", "Progress",
    "TensorBoard", "Checkpoint", "MixedPrecision", "TrainStep", "AccumulatedStep", "Trainer",
    "evaluate", "RateTest", "find_learning_rate", "layer_outputs", "plot_activations",
    "plot_confusion_matrix", "plot_mistakes", "summary", "save", "load", "load_model",
    "read_metadata", "data", "functional", "initializers", "schedules",
}  # fmt: skip

FREE = {  # what is asked later, or may be anything
    ("namespace", "owner"), ("namespace", "name"),
    ("move", "device"), ("Batches", "device"),  # devices are things of the libraries
}  # fmt: skip


def called(name):
    """Return what a name of the table stands for."""
    of = xl
    for part in name.split("."):
        of = getattr(of, part)
    return of


def parameters(of):
    function = of.__init__ if isinstance(of, type) else of
    if function is object.__init__:
        return []
    kinds = (inspect.Parameter.VAR_KEYWORD,)
    parameters = inspect.signature(function).parameters.values()
    return [p for p in parameters if p.name != "self" and p.kind not in kinds]


def test_every_public_name_is_in_the_table():
    public = {n.partition(".")[0] for n in NEEDED} | NOT_CALLED
    assert public == set(xl.__all__)
    for name in xl.__all__:
        if name not in NOT_CALLED and "init" in dir(getattr(xl, name)):
            assert f"{name}.init" in NEEDED or issubclass(getattr(xl, name), xl.Optimizer)


ROWS = [
    (name, p.name)
    for name in NEEDED
    for p in parameters(called(name))
    if (name, p.name) not in FREE
]


@pytest.mark.parametrize(("name", "argument"), ROWS)
def test_things(name, argument):
    of, arguments = called(name), dict(NEEDED[name])
    stars = [v for k, v in arguments.items() if k.startswith("*")]
    positional = stars[0] if stars else ()
    arguments = {k: v for k, v in arguments.items() if not k.startswith("*")}
    kind = next(p.kind for p in parameters(of) if p.name == argument)
    functions = ("initializer", "f", "transform", "function")  # a class can be called
    for wrong in (Thing(), Thing)[: 1 if argument in functions else 2]:
        if kind is inspect.Parameter.VAR_POSITIONAL:
            before = () if stars else tuple(arguments.values())
            args, options = (*before, wrong), arguments if stars else {}
        elif kind is inspect.Parameter.POSITIONAL_ONLY:
            args, options = (wrong,), {k: v for k, v in arguments.items() if k != argument}
        else:
            args, options = positional, {**arguments, argument: wrong}
        with pytest.raises((TypeError, ValueError)) as caught:
            of(*args, **options)
        said = str(caught.value)
        owner = name.partition(".")[0]
        assert said.startswith(owner) or owner in ("move", "namespace", "mlp", "Batches"), said
        word = {"layers": "part '0'", "parts": "part"}.get(argument, argument)
        word = "input 1" if (name, argument) == ("check_gradients", "inputs") else word
        assert word in said, said
        assert "Thing" in said or "a type" in said, said
