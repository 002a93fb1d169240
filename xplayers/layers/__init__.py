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
from xplayers.layers.attention import MultiHeadAttention
from xplayers.layers.base import Layer
from xplayers.layers.batch_normalization import BatchNormalization, GroupNormalization
from xplayers.layers.combinators import Map, Parallel, Recompute, Residual
from xplayers.layers.containers import Container, Sequential
from xplayers.layers.convolution import Convolution, ConvolutionTranspose
from xplayers.layers.dropout import Dropout
from xplayers.layers.embedding import Embedding, PositionalEmbedding
from xplayers.layers.gated import GatedMlp
from xplayers.layers.layer_normalization import LayerNormalization, RmsNormalization
from xplayers.layers.perceptrons import mlp
from xplayers.layers.pooling import AveragePooling, GlobalAveragePooling, MaxPooling
from xplayers.layers.recurrent import Gru, Lstm, Rnn
from xplayers.layers.rotary import RotaryEmbedding
from xplayers.layers.shape import Flatten, Reshape, Transpose
from xplayers.layers.standardization import Standardize
from xplayers.layers.variables import Buffer, Gradient, Parameter

__all__ = [
    "Affine", "AveragePooling", "BatchNormalization", "Buffer", "Container", "Convolution",
    "ConvolutionTranspose", "Dropout", "Elu", "Embedding", "Flatten", "GatedMlp", "Gelu",
    "GlobalAveragePooling", "Gradient", "GroupNormalization", "Gru", "Layer",
    "LayerNormalization", "LeakyRelu", "Lstm", "Map", "MaxPooling", "MultiHeadAttention",
    "Parallel", "Parameter", "PositionalEmbedding", "Recompute", "Relu", "Reshape", "Residual",
    "RmsNormalization", "Rnn", "RotaryEmbedding", "Sequential", "Sigmoid", "Silu", "Softmax",
    "Softplus", "Standardize", "Tanh", "Transpose", "mlp",
]  # fmt: skip
