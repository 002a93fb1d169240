"""Training: a step, and a run over epochs."""

from xplayers.training.accumulation import AccumulatedStep
from xplayers.training.evaluation import evaluate
from xplayers.training.failures import NonFiniteLoss
from xplayers.training.precision import MixedPrecision
from xplayers.training.rate_test import RateTest, find_learning_rate
from xplayers.training.step import TrainStep
from xplayers.training.trainer import Trainer

__all__ = [
    "AccumulatedStep", "MixedPrecision", "NonFiniteLoss", "RateTest", "TrainStep", "Trainer",
    "evaluate", "find_learning_rate",
]  # fmt: skip
