"""Where the batches of a training run come from."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from xplayers.arrays.namespaces import Array
from xplayers.data.batches import minibatches, own_part
from xplayers.data.loading import Batches


@dataclasses.dataclass(eq=False, repr=False)
class Source:
    """The batches of every epoch, from any position."""

    x: Any  # samples; or batches, or a function of the epoch (from 0) that returns them
    t: Array | None
    batch_size: int  # of samples and targets
    seed: int  # the order of an epoch is drawn from the seed and its number
    group: Any = None  # of several processes, of which each has its part of every batch
    weights: Array | None = None  # of samples

    def __post_init__(self) -> None:
        self.samples = None if self.t is None else int(self.t.shape[0])  # per epoch, if known

    @property
    def is_sized(self) -> bool:
        """Whether it is known how many batches an epoch has."""
        return self.t is not None or hasattr(self.x, "__len__")

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Array, ...]]:
        """Return the batches of an epoch (from 0), from batch `start`."""
        group = self.group
        if self.t is not None:
            rng = np.random.default_rng([self.seed, epoch])
            batches = minibatches(
                self.x, self.t, self.batch_size, rng, group=group, sample_weight=self.weights
            )
        elif group is None:
            batches = self.whole(epoch)
        elif isinstance(self.x, Batches):
            batches = self.x._of(group)(epoch)
        else:
            batches = (own_part(group, *batch) for batch in self.whole(epoch))
        return itertools.islice(batches, start, None)

    def whole(self, epoch: int) -> Any:
        """Return what was passed as batches, of an epoch."""
        x = self.x
        if self.group is not None and isinstance(x, Batches):
            x = x._of(None)
        return x(epoch) if callable(x) else x

    def onwards(self, epoch: int, start: int) -> Iterator[tuple[Array, ...]]:
        """Return the batches from batch `start` of an epoch, continuing with the next epochs."""
        while True:
            batch = None
            for batch in self.batches(epoch, start):
                yield batch
            if batch is None and start == 0:
                return  # an exhausted iterator would loop forever
            epoch, start = epoch + 1, 0
