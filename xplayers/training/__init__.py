"""Training: the whole step as one function, its precision, and what is kept of it."""

from xplayers.training.checkpoint import Checkpoint
from xplayers.training.precision import MixedPrecision
from xplayers.training.step import TrainStep

__all__ = ["Checkpoint", "MixedPrecision", "TrainStep"]
