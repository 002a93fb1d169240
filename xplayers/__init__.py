"""Neural-network layers with an explicit forward and backward, for arrays of any library.

Written once against the Array API: NumPy arrays run on the CPU, CuPy arrays on the GPU, PyTorch and
JAX arrays where they are.
"""

from xplayers import data, functional, initializers
from xplayers._arrays import move, namespace, to_numpy
from xplayers.data import minibatches
from xplayers.elementwise import elementwise
from xplayers.gradient_check import check_gradients, numerical_gradient
from xplayers.layers import (
    Affine,
    Buffer,
    Container,
    Elu,
    Flatten,
    Gelu,
    Gradient,
    Layer,
    LeakyRelu,
    Parameter,
    Relu,
    Sequential,
    Sigmoid,
    Silu,
    Softmax,
    Softplus,
    Tanh,
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
from xplayers.training import TrainStep

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "AdaGrad",
    "Adam",
    "AdamW",
    "Affine",
    "Buffer",
    "Container",
    "Elu",
    "Flatten",
    "Gelu",
    "Gradient",
    "Huber",
    "Layer",
    "LeakyRelu",
    "Loss",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Momentum",
    "Nesterov",
    "Optimizer",
    "Parameter",
    "RMSprop",
    "Relu",
    "Sequential",
    "Sigmoid",
    "SigmoidWithLoss",
    "Silu",
    "Softmax",
    "SoftmaxWithLoss",
    "Softplus",
    "Tanh",
    "TrainStep",
    "accuracy",
    "check_gradients",
    "check_labels",
    "clip_by_norm",
    "confusion_matrix",
    "data",
    "elementwise",
    "functional",
    "initializers",
    "minibatches",
    "mlp",
    "move",
    "namespace",
    "numerical_gradient",
    "to_numpy",
]
