"""Training: the whole step as one function."""

from xplayers.training.step import TrainStep

__all__ = ["TrainStep"]
