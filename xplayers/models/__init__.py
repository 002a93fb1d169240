"""Trained classifiers with all that their use needs, as `xplayers train --save` writes them."""

from xplayers.models.model import Model, load_model

__all__ = ["Model", "load_model"]
