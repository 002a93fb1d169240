"""Whether CuPy arrays are computed by kernels of our own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from xplayers.arrays.operation import table, using


@contextlib.contextmanager
def fused(on: bool = True) -> Iterator[None]:
    """Let elementwise functions, dropout, pooling, normalization and losses be one kernel each.

    Parameters
    ----------
    on : bool
        False takes it back, for a part of a block.

    Notes
    -----
    It holds for CuPy arrays, in the block and the thread that it is written in, and is no setting:
    what is called elsewhere is as before. Results are those of the portable functions up to
    rounding: float16 and bfloat16 are float32 inside and rounded once, and exponentials are CUDA's.
    Arrays that are not contiguous, or not of one shape, are computed by the portable functions;
    images may have their channels last in memory, as a `Cudnn` makes them. Poolings
    have one kernel forward and one backward, before which a gradient in another layout is copied;
    so have layer and RMS normalization of rows of up to 4096, beside the sums for gamma and beta.
    Gradients of biases are added up by as many blocks as there is work for, of matrices and of
    images with the channels last.
    An optimizer has one for all its parameters.

    Examples
    --------
    >>> with fused():
    ...     pass  # step(x, t)
    """
    with using("cupy", table("cupy", "FUSED"), on):
        yield
