"""What is kept in files: networks, checkpoints of runs, and how they are written whole."""

from xplayers.saving.checkpoint import Checkpoint
from xplayers.saving.network import load, read_metadata, save

__all__ = ["Checkpoint", "load", "read_metadata", "save"]
