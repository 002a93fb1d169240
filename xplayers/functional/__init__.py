"""Pure functions of arrays: the result is a new array of the same dtype.

Every function takes arrays of any shape and any library. The layers of the same names name sources.
"""

from xplayers._foreign import missing_function
from xplayers.functional.activations import (
    elu,
    elu_derivative,
    gelu,
    gelu_derivative,
    leaky_relu,
    leaky_relu_derivative,
    relu,
    relu_derivative,
    sigmoid,
    sigmoid_derivative,
    silu,
    silu_derivative,
    softplus,
    softplus_derivative,
    tanh,
    tanh_derivative,
)
from xplayers.functional.probabilities import (
    cross_entropy_error,
    log_softmax,
    softmax,
)

__all__ = [
    "cross_entropy_error", "elu", "elu_derivative", "gelu", "gelu_derivative", "leaky_relu",
    "leaky_relu_derivative", "log_softmax", "relu", "relu_derivative", "sigmoid",
    "sigmoid_derivative", "silu", "silu_derivative", "softmax", "softplus", "softplus_derivative",
    "tanh", "tanh_derivative",
]  # fmt: skip
__getattr__ = missing_function  # which raises
