"""What a person sees of a run and of a network: tables, progress, pictures."""

from xplayers.reports.events import Event
from xplayers.reports.history import History
from xplayers.reports.layer_outputs import layer_outputs
from xplayers.reports.plots import plot_activations, plot_confusion_matrix, plot_mistakes
from xplayers.reports.progress import Progress
from xplayers.reports.summary import summary
from xplayers.reports.tensorboard import TensorBoard

__all__ = [
    "Event", "History", "Progress", "TensorBoard", "layer_outputs", "plot_activations",
    "plot_confusion_matrix", "plot_mistakes", "summary",
]  # fmt: skip
