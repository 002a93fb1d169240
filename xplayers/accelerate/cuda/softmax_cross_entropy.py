"""Softmax cross entropy of CuPy arrays: losses and gradient in one kernel."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from xplayers.accelerate.cuda import kernels
from xplayers.accelerate.cuda.source import c_name, inside, library, part
from xplayers.accelerate.cuda.sums import total
from xplayers.accelerate.tape import Untraceable
from xplayers.arrays.elementwise import elementwise

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
    results = _launched(scores, target, norm, inside(scores.dtype) if dtype is None else dtype)
    return results if results is NotImplemented else results[:2]


def weighted_cross_entropy(
    scores: Any, target: Any, weights: Any, ignored: int | None, smoothing: float
) -> Any:
    """Return the losses, their gradient, and the divisor of the mean, with the options of the loss.

    Parameters
    ----------
    scores, target : cupy.ndarray
        As above.
    weights : cupy.ndarray or None
        Of the classes, contiguous.
    ignored : int or None
        A label that does not count.
    smoothing : float
        What is shared out among all classes.

    Returns
    -------
    tuple or NotImplemented
        As above, and the number of samples, or 0-d.
    """
    results = _launched(
        scores, target, 1.0, inside(scores.dtype), (weights, ignored, float(smoothing))
    )
    if results is NotImplemented:
        return results
    losses, gradient, counts = results
    divisor: Any = max(losses.size, 1)
    if target.shape != scores.shape and (weights is not None or ignored is not None):
        divisor = _divisor(total(counts), least=None if weights is not None else 1.0)
    return losses, gradient, divisor


@elementwise
def _divisor(xp: Any, sum: Any, *, least: float | None) -> Any:
    return xp.where(sum == 0, 1.0, sum) if least is None else xp.maximum(sum, least)


def _launched(scores: Any, target: Any, norm: float, dtype: Any, options: Any = None) -> Any:
    shape, labels = scores.shape, target.shape != scores.shape
    expected = shape[:-1] if labels else shape
    weights = None if options is None else options[0]
    arrays = [scores, target, *([] if weights is None else [weights])]
    contiguous = all(a.flags.c_contiguous for a in arrays)
    together = len({a.data.device_id for a in arrays}) == 1
    if not (contiguous and together and scores.size) or target.shape != expected:
        return NotImplemented
    wide, dtype, classes = inside(scores.dtype), np.dtype(dtype), shape[-1]
    warps, held = _shared_out(classes)
    sharp = labels and not (options and options[2])
    case = scores.dtype, target.dtype, dtype, labels, warps, held, sharp
    try:
        launcher = _launcher(*case, None if options is None else wide if weights is None
                             else weights.dtype)  # fmt: skip
    except Untraceable:
        return NotImplemented
    losses = kernels.empty(scores, shape[:-1], wide)
    gradient = kernels.empty(scores, shape, dtype)
    rows = math.prod(shape[:-1])
    threads = _THREADS if warps == 1 else 32 * warps
    args = [np.int64(rows), np.int64(classes), scores, target, losses, gradient]
    args.append(wide.type(1.0 / norm))
    counts = None
    if options is not None:
        _, ignored, smoothing = options
        counts = kernels.empty(scores, shape[:-1], wide) if labels else losses
        args += [
            np.uint64(0) if weights is None else weights, wide.type(smoothing),
            np.int64(ignored or 0), np.bool_(ignored is not None), counts,
        ]  # fmt: skip
    launcher(scores.device, -(-rows * 32 * warps // threads), threads, args)
    return losses, gradient, counts


def _shared_out(classes: int) -> tuple[int, int]:
    """Return by how many warps a row is read, and how much of it a thread keeps: 0 is nothing."""
    warps = 1 if classes <= 32 * _HELD[-1] else _WARPS
    return warps, next((held for held in _HELD if classes <= 32 * warps * held), 0)


def source(
    scores: np.dtype, target: np.dtype, gradient: np.dtype, labels: bool, warps: int, held: int,
    sharp: bool, weights: np.dtype | None,
) -> tuple[str, str]:  # fmt: skip
    """Return body and name of the kernel for given dtypes; without options `weights` is None."""
    if scores.kind not in "fV" or (labels and target.kind not in "iu"):
        raise Untraceable
    kind = "labels" if labels else "weights"
    name = f"xplayers_softmax_cross_entropy_{kind}"  # in profiles
    threads, wide = max(_THREADS, 32 * warps), c_name(inside(scores))
    parameters, options = "", "nullptr, 0, 0, false, nullptr"
    if weights is not None:
        name += "" if sharp else "_smoothed"
        parameters = (
            f", const {c_name(weights)}* weights, const {wide} smoothing, const i64 ignored, "
            f"const bool ignores, {wide}* counts"
        )
        options = "weights, smoothing, ignored, ignores, counts"
    body = _BODY.format(
        name=name, labels=str(labels).lower(), sharp=str(sharp).lower(),
        has_options=str(weights is not None).lower(), threads=threads, warps=warps, held=held,
        blocks=_RESIDENT[inside(scores).itemsize] // threads, inside=wide, scores=c_name(scores),
        target=c_name(target), gradient=c_name(gradient), parameters=parameters, options=options,
        weight=c_name(weights or inside(scores)),
    )  # fmt: skip
    return body, name


@functools.cache
def template() -> str:
    """Return the source that the kernels for all dtypes share."""
    return "\n".join([library(), part("warps.cuh"), part("softmax_cross_entropy.cu")])


@functools.cache
def _launcher(*case: Any) -> kernels.Launcher:
    body, name = source(*case)
    return kernels.Launcher(f"{template()}\n{body}", name)


_BODY = """\
extern "C" __global__ void __launch_bounds__({threads}, {blocks})
{name}(
    const i64 rows, const i64 classes, const {scores}* scores, const {target}* target,
    {inside}* losses, {gradient}* gradient, const {inside} scale{parameters})
{{
    const Options<{inside}, {weight}> options = {{{options}}};
    softmax_cross_entropy<{labels}, {sharp}, {has_options}, {warps}, {held}>(
        rows, classes, scores, target, losses, gradient, scale, options);
}}
"""
