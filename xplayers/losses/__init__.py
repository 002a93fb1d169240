"""The losses, a file for each family."""

from xplayers.losses.base import Loss
from xplayers.losses.of_each_value import (
    Huber,
    MeanAbsoluteError,
    MeanSquaredError,
    SigmoidWithLoss,
)
from xplayers.losses.softmax import SoftmaxWithLoss, check_labels

__all__ = [
    "Huber",
    "Loss",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "SigmoidWithLoss",
    "SoftmaxWithLoss",
    "check_labels",
]
