"""CUDA beside the portable code: for CuPy arrays, on request only. Not yet run on a GPU."""
