"""Layers in programs of PyTorch and JAX, imported on demand by ``xplayers.torch`` and ``.jax``."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def imported(name: str, called: str) -> Any:
    """Import a library by name, so that no module of ours is taken for it; or say what to do."""
    try:
        return import_module(name)
    except ImportError as error:
        message = f'xplayers.{name} needs {called}: pip install "xplayers[{name}]".'
        raise ImportError(message) from error
