"""The losses, a file for each family."""

from xplayers.losses.base import Loss
from xplayers.losses.pointwise import (
    Huber,
    MeanAbsoluteError,
    MeanSquaredError,
    SigmoidWithLoss,
)
from xplayers.losses.softmax import SoftmaxWithLoss, check_labels

__all__ = [
    "Huber", "Loss", "MeanAbsoluteError", "MeanSquaredError", "SigmoidWithLoss",
    "SoftmaxWithLoss", "check_labels",
]  # fmt: skip
