"""Neural-network layers with an explicit forward and backward, for arrays of any library.

Written once against the Array API, for NumPy, CuPy, PyTorch and JAX, on the device of the arrays.
"""

import importlib
import typing

from xplayers import _foreign, data, functional, initializers
from xplayers.arrays.elementwise import elementwise
from xplayers.arrays.namespaces import namespace
from xplayers.arrays.transfer import move, to_numpy
from xplayers.data import Batches, minibatches
from xplayers.gradient_check import check_gradients, numerical_gradient
from xplayers.layers import (
    Affine,
    AveragePooling,
    BatchNormalization,
    Buffer,
    Container,
    Convolution,
    ConvolutionTranspose,
    Dropout,
    Elu,
    Embedding,
    Flatten,
    Gelu,
    GlobalAveragePooling,
    Gradient,
    GroupNormalization,
    Gru,
    Layer,
    LayerNormalization,
    LeakyRelu,
    Lstm,
    Map,
    MaxPooling,
    MultiHeadAttention,
    Parallel,
    Parameter,
    PositionalEmbedding,
    Recompute,
    Relu,
    Reshape,
    Residual,
    RmsNormalization,
    Rnn,
    Sequential,
    Sigmoid,
    Silu,
    Softmax,
    Softplus,
    Tanh,
    Transpose,
    mlp,
)
from xplayers.losses import (
    Huber,
    Loss,
    MeanAbsoluteError,
    MeanSquaredError,
    SigmoidWithLoss,
    SoftmaxWithLoss,
    check_labels,
)
from xplayers.metrics import accuracy, confusion_matrix
from xplayers.optimizers import (
    SGD,
    AdaGrad,
    Adam,
    AdamW,
    Momentum,
    Nesterov,
    Optimizer,
    RMSprop,
    clip_by_norm,
)
from xplayers.reports import (
    Event,
    History,
    Progress,
    TensorBoard,
    layer_outputs,
    plot_activations,
    plot_confusion_matrix,
    plot_mistakes,
    summary,
)
from xplayers.saving import Checkpoint, load, read_metadata, save
from xplayers.training import (
    AccumulatedStep,
    MixedPrecision,
    NonFiniteLoss,
    Trainer,
    TrainStep,
    evaluate,
)

if typing.TYPE_CHECKING:
    from xplayers import schedules


def __getattr__(name: str):  # asked where there is no such name
    if name in ("cuda", "schedules"):  # imported when they are used: not everybody does
        return importlib.import_module(f"xplayers.{name}")
    raise _foreign.missing_in_package(name, __all__, functional.__all__)


__version__ = "0.1.0"

__all__ = [
    "SGD",
    "AccumulatedStep",
    "AdaGrad",
    "Adam",
    "AdamW",
    "Affine",
    "AveragePooling",
    "BatchNormalization",
    "Batches",
    "Buffer",
    "Checkpoint",
    "Container",
    "Convolution",
    "ConvolutionTranspose",
    "Dropout",
    "Elu",
    "Embedding",
    "Event",
    "Flatten",
    "Gelu",
    "GlobalAveragePooling",
    "Gradient",
    "GroupNormalization",
    "Gru",
    "History",
    "Huber",
    "Layer",
    "LayerNormalization",
    "LeakyRelu",
    "Loss",
    "Lstm",
    "Map",
    "MaxPooling",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "MixedPrecision",
    "Momentum",
    "MultiHeadAttention",
    "Nesterov",
    "NonFiniteLoss",
    "Optimizer",
    "Parallel",
    "Parameter",
    "PositionalEmbedding",
    "Progress",
    "RMSprop",
    "Recompute",
    "Relu",
    "Reshape",
    "Residual",
    "RmsNormalization",
    "Rnn",
    "Sequential",
    "Sigmoid",
    "SigmoidWithLoss",
    "Silu",
    "Softmax",
    "SoftmaxWithLoss",
    "Softplus",
    "Tanh",
    "TensorBoard",
    "TrainStep",
    "Trainer",
    "Transpose",
    "accuracy",
    "check_gradients",
    "check_labels",
    "clip_by_norm",
    "confusion_matrix",
    "data",
    "elementwise",
    "evaluate",
    "functional",
    "initializers",
    "layer_outputs",
    "load",
    "minibatches",
    "mlp",
    "move",
    "namespace",
    "numerical_gradient",
    "plot_activations",
    "plot_confusion_matrix",
    "plot_mistakes",
    "read_metadata",
    "save",
    "schedules",
    "summary",
    "to_numpy",
]
