"""Passes that PyTorch computes again in a backward pass, as ``torch.utils.checkpoint`` does.

A pass counts, and what is dropped depends on the count, so a second computation would drop other
elements, and the gradient would be that of another function. ``checkpoint`` sets PyTorch's own
generator back to where it was. Each pass draws a number from it, which says which pass is computed
again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xplayers.bridges import imported

torch = imported("torch", "PyTorch")

MOST = 4096  # passes that are remembered, some hundred bytes each


def is_again() -> bool:
    """Whether this is inside a backward pass."""
    return torch._C._current_graph_task_id() != -1


class Counts:
    """The counters of the last passes of a module, by the numbers that were drawn there."""

    def __init__(self) -> None:
        self._by_number: dict[int, dict[str, Any]] = {}

    def of_pass(self, owner: str, counters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the counters to compute with: the current ones, or those of the first time.

        Raises
        ------
        RuntimeError
            If a pass is computed again that is not known.
        """
        number = int(torch.randint(2**62, (), device="cpu"))
        if is_again():
            first = self._by_number.get(number)
            if first is None:
                message = (
                    f"{owner}: computed again in a backward pass, and which elements were dropped "
                    "the first time is not known. Call torch.utils.checkpoint with "
                    "preserve_rng_state=True, as it is by default."
                )
                raise RuntimeError(message)
            return first
        while len(self._by_number) >= MOST:
            del self._by_number[next(iter(self._by_number))]
        self._by_number[number] = {name: a.clone() for name, a in counters.items()}
        return counters
