"""CUDA beside the portable code, on request only: ``with xplayers.cuda.fused(): ...``.

For CuPy arrays there are kernels of our own (`fused`), matrix products through cuBLASLt (`Gemm`),
layers through cuDNN (`Cudnn`) and training steps as CUDA graphs (`CapturedStep`).

Several GPUs sum by NCCL: `xplayers.parallel.NcclGroup`.

Nothing of this has been run on a GPU yet. Generated and hand-written kernels compile for sm_75,
sm_80, sm_90 and sm_100, and their source, run through a host compiler, gives what NumPy gives; for
NCCL the tests have a stand-in. So they are asked for by name, and CuPy arrays are otherwise
computed by the portable functions.
"""

import sys

from xplayers.accelerate.cuda import cudnn, gemm, graph
from xplayers.accelerate.cuda.cudnn import Cudnn
from xplayers.accelerate.cuda.fused import fused
from xplayers.accelerate.cuda.gemm import Gemm
from xplayers.accelerate.cuda.graph import CapturedStep

__all__ = ["CapturedStep", "Cudnn", "Gemm", "fused"]

for _module in (cudnn, gemm, graph):  # `from xplayers.cuda.gemm import Gemm`, as it was called
    sys.modules[f"{__name__}.{_module.__name__.rpartition('.')[2]}"] = _module
