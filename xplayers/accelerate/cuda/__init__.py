"""Bodies for NVIDIA GPUs: kernels, cuBLASLt, cuDNN, CUDA graphs. See README.md."""
