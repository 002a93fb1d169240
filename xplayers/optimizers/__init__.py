"""The optimizers, a file for each family."""

from xplayers.optimizers.adaptive import AdaGrad, Adam, AdamW, RMSprop
from xplayers.optimizers.base import Optimizer
from xplayers.optimizers.clipping import clip_by_norm
from xplayers.optimizers.descent import SGD, Momentum, Nesterov

__all__ = [
    "AdaGrad", "Adam", "AdamW", "Momentum", "Nesterov", "Optimizer", "RMSprop", "SGD",
    "clip_by_norm",
]  # fmt: skip
