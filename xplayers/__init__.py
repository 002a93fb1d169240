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

# Of these all that their `__all__` names is public here too.
from xplayers.gradient_check import *
from xplayers.layers import *
from xplayers.losses import *
from xplayers.metrics import *
from xplayers.models import load_model
from xplayers.optimizers import *
from xplayers.reports import *
from xplayers.saving import *
from xplayers.training import *

if typing.TYPE_CHECKING:
    from xplayers import schedules


def __getattr__(name: str):  # only called for missing names
    if name in ("cuda", "parallel", "schedules", "weights"):  # imported on first use
        return importlib.import_module(f"xplayers.{name}")
    raise _foreign.missing_in_package(name, __all__, functional.__all__)


__version__ = "0.2.0"

__all__ = [
    "SGD", "AccumulatedStep", "AdaGrad", "Adam", "AdamW", "Affine", "AveragePooling",
    "BatchNormalization", "Batches", "Buffer", "Checkpoint", "Container", "Convolution",
    "ConvolutionTranspose", "Dropout", "Elu", "Embedding", "Event", "Flatten", "GatedMlp",
    "Gelu", "GlobalAveragePooling", "Gradient", "GroupNormalization", "Gru", "History", "Huber",
    "Layer", "LayerNormalization", "LeakyRelu", "Loss", "Lstm", "Map", "MaxPooling",
    "MeanAbsoluteError", "MeanSquaredError", "MixedPrecision", "Momentum", "MultiHeadAttention",
    "Nesterov", "NonFiniteLoss", "Optimizer", "Parallel", "Parameter", "PositionalEmbedding",
    "Progress", "RMSprop", "RateTest", "Recompute", "Relu", "Reshape", "Residual",
    "RmsNormalization", "Rnn", "RotaryEmbedding", "Sequential", "Sigmoid", "SigmoidWithLoss",
    "Silu", "Softmax", "SoftmaxWithLoss", "Softplus", "Standardize", "Tanh", "TensorBoard",
    "TrainStep", "Trainer", "Transpose", "accuracy", "binary_accuracy", "check_gradients",
    "check_labels", "clip_by_norm", "confusion_matrix", "data", "elementwise", "evaluate",
    "find_learning_rate", "functional", "initializers", "layer_outputs", "load", "load_model",
    "minibatches", "mlp", "move", "namespace", "numerical_gradient", "plot_activations",
    "plot_confusion_matrix", "plot_mistakes", "precision_recall", "read_metadata", "save",
    "schedules", "summary", "to_numpy",
]  # fmt: skip
