"""Mini-batches, data sets and augmentation of images."""

from xplayers.data.augmentation import random_flip, random_shift
from xplayers.data.batches import minibatches
from xplayers.data.datasets import (
    load_digits,
    load_fashion_mnist,
    load_mnist,
    read_idx,
    spiral,
)
from xplayers.data.loading import Batches

__all__ = [
    "Batches", "load_digits", "load_fashion_mnist", "load_mnist", "minibatches", "random_flip",
    "random_shift", "read_idx", "spiral",
]  # fmt: skip
