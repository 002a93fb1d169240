"""Mini-batches, data sets, their preparation and augmentation of images."""

from xplayers.data.augmentation import random_flip, random_shift
from xplayers.data.batches import minibatches
from xplayers.data.datasets import (
    load_digits,
    load_fashion_mnist,
    load_mnist,
    spiral,
)
from xplayers.data.idx import read_idx
from xplayers.data.loading import Batches
from xplayers.data.splitting import split
from xplayers.layers.standardization import Standardize

__all__ = [
    "Batches", "Standardize", "load_digits", "load_fashion_mnist", "load_mnist", "minibatches",
    "random_flip", "random_shift", "read_idx", "spiral", "split",
]  # fmt: skip
