"""The command ``xplayers``: train, evaluate, predict, bench, and what there is to compute with."""

from xplayers.cli.command import main

__all__ = ["main"]
