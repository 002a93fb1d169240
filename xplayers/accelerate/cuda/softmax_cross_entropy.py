"""Softmax cross entropy of CuPy arrays: losses and gradient in one kernel."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from xplayers.accelerate.cuda import kernels
from xplayers.accelerate.cuda.source import c_name, inside, library, part
from xplayers.accelerate.tape import Untraceable

_HELD = (1, 4, 16)  # scores that a thread keeps
_WARPS = 8  # of a block, which reads a row that is too long for one warp
_RESIDENT = {4: 768, 8: 512}  # threads for which a multiprocessor has room, by the bytes of numbers
_THREADS = 128  # of a block of rows that are read by one warp each


def softmax_cross_entropy(scores: Any, target: Any, norm: float = 1.0, *, dtype: Any = None) -> Any:
    """Return the loss of each row, and the gradient of their sum, divided by `norm`.

    Parameters
    ----------
    scores : cupy.ndarray
        Shape ``(..., c)``; float16, bfloat16, float32 or float64.
    target : cupy.ndarray
        Integer labels of shape ``(...)``, or weights of the classes of shape ``(..., c)`` in any
        real dtype.
    norm : float
        What the gradient is divided by, before it is rounded.
    dtype : dtype, optional
        Of the gradient: that of the scores or, by default, of the losses.

    Returns
    -------
    losses : cupy.ndarray
        Shape ``(...)``, float32, or float64 for scores in float64. NaN where a label is out of
        range.
    gradient : cupy.ndarray
        Shape ``(..., c)``.

    NotImplemented where this is nothing for the kernel: arrays that are not contiguous, or have no
    element.
    """
    shape, labels = scores.shape, target.shape != scores.shape
    expected = shape[:-1] if labels else shape
    contiguous = scores.flags.c_contiguous and target.flags.c_contiguous
    together = scores.data.device_id == target.data.device_id
    if not (contiguous and together and scores.size) or target.shape != expected:
        return NotImplemented
    wide = inside(scores.dtype)
    dtype = wide if dtype is None else np.dtype(dtype)
    classes = shape[-1]
    warps, held = _shared_out(classes)
    try:
        launcher = _launcher(scores.dtype, target.dtype, dtype, labels, warps, held)
    except Untraceable:
        return NotImplemented
    losses = kernels.empty(scores, shape[:-1], wide)
    gradient = kernels.empty(scores, shape, dtype)
    rows = math.prod(shape[:-1])
    threads = _THREADS if warps == 1 else 32 * warps
    args = [np.int64(rows), np.int64(classes), scores, target]
    blocks = -(-rows * 32 * warps // threads)
    launcher(scores.device, blocks, threads, [*args, losses, gradient, wide.type(1.0 / norm)])
    return losses, gradient


def _shared_out(classes: int) -> tuple[int, int]:
    """Return by how many warps a row is read, and how much of it a thread keeps: 0 is nothing."""
    warps = 1 if classes <= 32 * _HELD[-1] else _WARPS
    return warps, next((held for held in _HELD if classes <= 32 * warps * held), 0)


def source(
    scores: np.dtype, target: np.dtype, gradient: np.dtype, labels: bool, warps: int, held: int
) -> tuple[str, str]:
    """Return body and name of the kernel for given dtypes."""
    if scores.kind not in "fV" or (labels and target.kind not in "iu"):
        raise Untraceable
    s, t, g = (c_name(d) for d in (scores, target, gradient))
    kind = "labels" if labels else "weights"
    name = f"xplayers_softmax_cross_entropy_{kind}"  # in profiles
    threads = max(_THREADS, 32 * warps)
    body = _BODY.format(
        name=name, labels=str(labels).lower(), threads=threads, warps=warps, held=held,
        blocks=_RESIDENT[inside(scores).itemsize] // threads,
        inside=c_name(inside(scores)), scores=s, target=t, gradient=g,
    )  # fmt: skip
    return body, name


@functools.cache
def template() -> str:
    """Return the source that the kernels for all dtypes share."""
    return "\n".join([library(), part("warps.cuh"), part("softmax_cross_entropy.cu")])


@functools.cache
def _launcher(
    scores: np.dtype, target: np.dtype, gradient: np.dtype, labels: bool, warps: int, held: int
) -> kernels.Launcher:
    body, name = source(scores, target, gradient, labels, warps, held)
    return kernels.Launcher(f"{template()}\n{body}", name)


_BODY = """\
extern "C" __global__ void __launch_bounds__({threads}, {blocks})
{name}(
    const i64 rows, const i64 classes, const {scores}* scores, const {target}* target,
    {inside}* losses, {gradient}* gradient, const {inside} scale)
{{
    softmax_cross_entropy<{labels}, {warps}, {held}>(
        rows, classes, scores, target, losses, gradient, scale);
}}
"""
