"""Mini-batches and real data sets."""

from xplayers.data.batches import minibatches
from xplayers.data.datasets import (
    load_digits,
    load_fashion_mnist,
    load_mnist,
    read_idx,
    spiral,
)

__all__ = [
    "load_digits",
    "load_fashion_mnist",
    "load_mnist",
    "minibatches",
    "read_idx",
    "spiral",
]
