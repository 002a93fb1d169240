"""PyTorch, on request only: ``from xplayers.torch import Module, as_layer``.

`Module` makes a module of a layer, `as_layer` a layer of a module.
"""

from xplayers.bridges.torch_layer import ModuleLayer, as_layer
from xplayers.bridges.torch_module import Module

__all__ = ["Module", "ModuleLayer", "as_layer"]
