"""``python -m benchmarks gpu``: whether the GPU path is right, and how fast it is.

Written where there was no GPU: what needs one (CuPy, cuBLASLt, CUDA graphs, peers on CUDA) has not
been run. A section that fails is a row that says so, and the others go on.
"""
