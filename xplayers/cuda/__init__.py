"""CUDA beside the portable code, on request only: ``with xplayers.cuda.fused(): ...``.

For CuPy arrays there are kernels of our own (`switch`, `source`, `kernels`, `pooling`, `sums`,
`gradients`, `softmax_cross_entropy`), matrix products through cuBLASLt (`plans`, `gemm`, `chain`),
layers through cuDNN (`cudnn` and the two files beside it, `rectified`) and training steps as CUDA
graphs (`graph`).

Nothing here has been run on a GPU yet. Generated and hand-written kernels compile for sm_75, sm_80,
sm_90 and sm_100, and their source, run through a host compiler, gives what NumPy gives. So they are
asked for by name, and CuPy arrays are otherwise computed by the portable functions.
"""

from xplayers.cuda.switch import fused

__all__ = ["fused"]
