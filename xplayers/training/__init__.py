"""Training: a step, a run over epochs, what is seen of it and what is kept."""

from xplayers.training.accumulation import AccumulatedStep
from xplayers.training.checkpoint import Checkpoint
from xplayers.training.evaluation import evaluate
from xplayers.training.events import Event
from xplayers.training.guard import NonFiniteLoss
from xplayers.training.history import History
from xplayers.training.layerwise import layer_outputs
from xplayers.training.plots import plot_activations, plot_confusion_matrix, plot_mistakes
from xplayers.training.precision import MixedPrecision
from xplayers.training.progress import Progress
from xplayers.training.step import TrainStep
from xplayers.training.summary import summary
from xplayers.training.tensorboard import TensorBoard
from xplayers.training.trainer import Trainer

__all__ = [
    "AccumulatedStep", "Checkpoint", "Event", "History", "MixedPrecision", "NonFiniteLoss",
    "Progress", "TensorBoard", "TrainStep", "Trainer", "evaluate", "layer_outputs",
    "plot_activations", "plot_confusion_matrix", "plot_mistakes", "summary",
]  # fmt: skip
