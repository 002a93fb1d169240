"""The layers, a file for each family."""

from xplayers.layers.activations import (
    Elu,
    Gelu,
    LeakyRelu,
    Relu,
    Sigmoid,
    Silu,
    Softmax,
    Softplus,
    Tanh,
)
from xplayers.layers.affine import Affine
from xplayers.layers.base import Buffer, Gradient, Layer, Parameter
from xplayers.layers.containers import Container, Sequential, mlp
from xplayers.layers.shape import Flatten

__all__ = [
    "Affine",
    "Buffer",
    "Container",
    "Elu",
    "Flatten",
    "Gelu",
    "Gradient",
    "Layer",
    "LeakyRelu",
    "Parameter",
    "Relu",
    "Sequential",
    "Sigmoid",
    "Silu",
    "Softmax",
    "Softplus",
    "Tanh",
    "mlp",
]
