"""A direction of a recurrent layer by one call: oneDNN's on the CPU, cuDNN's on CUDA."""

from __future__ import annotations

import sys
from typing import Any

from xplayers.accelerate.pytorch.plain import aten, is_plain
from xplayers.arrays.namespaces import Array
from xplayers.layers.recurrent import Gru, Lstm, Rnn

_MODES: dict[type, int] = {Rnn: 1, Lstm: 2, Gru: 3}  # PyTorch's numbers, cuDNN's
_Arrays = tuple[Array, ...]


def recurrence(x: Array, layer: Any, weights: _Arrays, state: _Arrays, reverse: bool) -> Any:
    """Return the last state; and what the kernel remembers, its output, and its large operands."""
    mode = _MODES.get(type(layer))
    if mode is None or not x.numel() or not all(map(is_plain, (x, *weights, *state))):
        return NotImplemented
    torch: Any = sys.modules["torch"]
    fits = mode != _MODES[Gru] or layer.reset_after
    by_cudnn = fits and x.is_cuda and torch.backends.cudnn.is_acceptable(x)
    by_onednn = mode == _MODES[Lstm] and x.is_cpu and x.dtype == torch.float32 and _has_onednn()
    if not (by_cudnn or by_onednn):
        return NotImplemented
    steps, hidden, rows = _in_time(x), state[0].shape[1], [W.T.contiguous() for W in weights[:2]]
    operands, start = [*rows, *_biases(weights)], [s.contiguous() for s in state]
    if by_onednn:
        options = reverse, [], mode, hidden, 1, True, False, False, True
        with torch.inference_mode(False), torch.enable_grad():  # else it remembers nothing
            y, *last, memory = aten().mkldnn_rnn_layer.default(steps, *operands, *start, *options)
        return *last, memory, y, steps, *rows
    y, last, memory, buffer = _cudnn(steps, operands, start, mode, reverse)
    return *last, memory, y, steps, *rows, buffer


def recurrence_gradient(
    dy: Array, x: Array, layer: Any, weights: _Arrays, state: _Arrays, last: _Arrays,
    results: tuple, reverse: bool, input_grad: bool,
) -> Any:  # fmt: skip
    """Return the gradients of `x`, the state and the weights."""
    torch: Any = sys.modules["torch"]
    if getattr(results[0], "dtype", None) != torch.uint8:  # of the portable body
        return NotImplemented
    memory, y, steps, *rows = results
    operands, start = [*rows[:2], *_biases(weights)], [s.contiguous() for s in state]
    mode, hidden, dy = _MODES[type(layer)], state[0].shape[1], _in_time(dy)
    if x.is_cpu:
        options = reverse, mode, hidden, 1, True, True, False, [], False
        dx, dWx, dWh, db, dbh, *dstate = aten().mkldnn_rnn_layer_backward.default(
            steps, *operands, *start, y, *last, dy, None, None, *options, memory
        )
    else:
        dx, dstate, (dWx, dWh, db, dbh) = _cudnn_gradient(
            dy, y, steps, operands, start, memory, rows[2], mode, reverse
        )
    dx = dx.transpose(0, 1) if input_grad else None
    return dx, *dstate, *[dWx.T.contiguous(), dWh.T.contiguous(), db, dbh][: len(weights)]


def _biases(weights: _Arrays) -> list[Array]:
    """Return the two biases that PyTorch has."""
    b, *bh = weights[2:]
    return [b, *(bh or [b.new_zeros(b.shape)])]


def _in_time(a: Array) -> Array:
    return a.transpose(0, 1).contiguous()


def _cudnn(
    steps: Array, operands: list[Array], state: list[Array], mode: int, reverse: bool
) -> tuple[Any, ...]:
    """Return the output, the last state, what the gradient needs, and the weights in one buffer."""
    y, *last, memory, buffer = aten()._cudnn_rnn.default(
        _turned(steps, reverse), operands, 4, None, *_layers(state), *_options(mode, state)
    )
    return _turned(y, reverse), [a[0] for a in last[: len(state)]], memory, buffer


def _cudnn_gradient(
    dy: Array, y: Array, steps: Array, operands: list[Array], state: list[Array],
    memory: Array, buffer: Array, mode: int, reverse: bool,
) -> tuple[Any, ...]:  # fmt: skip
    """Return the gradients of the steps, the state and the weights."""
    dy, y, steps = (_turned(a, reverse) for a in (dy, y, steps))
    dx, *dstate, dweights = aten()._cudnn_rnn_backward.default(
        steps, operands, 4, buffer, *_layers(state), y, dy, None, None,
        *_options(mode, state), memory, [True, True, len(state) > 1, True],
    )  # fmt: skip
    return _turned(dx, reverse), [a[0] for a in dstate[: len(state)]], dweights


def _turned(a: Array, reverse: bool) -> Array:
    return a.flip(0) if reverse else a


def _layers(state: list[Array]) -> list[Array | None]:
    """Return the state as one of a single layer; c is None where there is none."""
    return [*[s[None] for s in state], None][:2]


def _options(mode: int, state: list[Array]) -> tuple:
    """Return projection, layers, batch first, dropout, training, both directions, sizes, seed."""
    return mode, state[0].shape[1], 0, 1, False, 0.0, True, False, [], None


def _has_onednn() -> bool:
    return sys.modules["torch"].backends.mkldnn.is_available()
