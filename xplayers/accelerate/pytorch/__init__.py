"""PyTorch's own kernels, as bodies."""
