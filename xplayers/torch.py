"""PyTorch: layers as modules, on request only: ``from xplayers.torch import Module``."""

from xplayers.bridges.torch_module import Module

__all__ = ["Module"]
