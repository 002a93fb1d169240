"""Softmax cross entropy by PyTorch's softmax, which is one pass over memory."""

from __future__ import annotations

import sys
from typing import Any

from xplayers.accelerate.pytorch.plain import is_plain
from xplayers.arrays.namespaces import Array

# The logarithm of a smaller probability has lost digits, in float32 and float64.
SMALLEST = 1e-30


def cross_entropy_of_labels(x: Array, labels: Array, out: Any = (None, None)) -> Any:
    """Return losses and gradient of the scores `x` ``(..., c)``, in `out` if that is given.

    With ``p = softmax(x)`` and `rest`, the sum of the other probabilities, the gradient is `p` with
    ``-rest`` at the label. The loss is ``-log(p[label])``, which is ``-log1p(-rest)``: each where
    it does not cancel.
    """
    if not is_plain(x) or not x.numel():
        return NotImplemented
    torch: Any = sys.modules["torch"]
    loss, dx = out
    at = labels.long().unsqueeze(-1)
    p = torch.softmax(x, -1) if dx is None else torch.softmax(x, -1, out=dx)
    log_p = _log_of_own(p.gather(-1, at)) if x.is_cpu else None
    if log_p is None:
        log_p = torch.log_softmax(x, -1).gather(-1, at)
    p.scatter_(-1, at, 0.0)
    rest = p.sum(-1, keepdim=True)
    p.scatter_(-1, at, -rest)
    rows = torch.where(rest < 0.5, torch.log1p(-rest), log_p).squeeze(-1)
    return torch.neg(rows, out=loss), p


def _log_of_own(p: Array) -> Array | None:
    return p.log() if p.min() >= SMALLEST else None
