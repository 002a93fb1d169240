// What CuPy's own kernels include, read by the compiler once.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernel.h"

#include <cupy/complex.cuh>
#include <cupy/carray.cuh>
#include <cupy/atomics.cuh>
#include <cupy/math_constants.h>
#define __CUDACC_VER_MAJOR__ 13  // or it brings a float16 of its own
#include <cupy/float16.cuh>
#include <cupy/bfloat16.cuh>
