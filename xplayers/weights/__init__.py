"""Weights that people already have: of PyTorch, Keras and transformers, into layers and back."""

from xplayers.weights.keras import from_keras, to_keras
from xplayers.weights.pytorch import from_torch, to_torch
from xplayers.weights.transformer import from_transformers, gpt2, llama, to_transformers

__all__ = [
    "from_keras", "from_torch", "from_transformers", "gpt2", "llama", "to_keras", "to_torch",
    "to_transformers",
]  # fmt: skip
