"""Kernels of our own for CuPy arrays, on request: ``with xplayers.cuda.fused(): ...``.

Nothing here has been run on a GPU yet. Generated and hand-written kernels compile for sm_75, sm_80,
sm_90 and sm_100, and their source, run through a host compiler, gives what NumPy gives. So they are
asked for by name, and CuPy arrays are otherwise computed by the portable functions.
"""

from xplayers.cuda.switch import fused

__all__ = ["fused"]
