"""The command ``xplayers``: train, evaluate, predict, bench and info."""

from xplayers.cli.command import main

__all__ = ["main"]
