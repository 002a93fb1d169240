"""Files of networks and of training runs, written atomically."""

from xplayers.saving.checkpoint import Checkpoint
from xplayers.saving.network import load, read_metadata, save

__all__ = ["Checkpoint", "load", "read_metadata", "save"]
