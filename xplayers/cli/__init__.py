"""The command ``xplayers``: train, evaluate, predict, bench, info and launch."""

from xplayers.cli.command import main

__all__ = ["main"]
