// Values of the threads of WARPS warps, one or all of a block, combined to one.

struct Sum
{
    template <class N> __device__ N operator()(N a, N b) const { return a + b; }
};

// A value that is no number need not be passed on: where it matters, a sum has become one.

struct Larger
{
    template <class N> __device__ N operator()(N a, N b) const { return a > b ? a : b; }
};

// What all threads that share a value get is the same to the last bit.

template <int WARPS, class N, class Combine>
__device__ inline N reduced(N value, N* shared, Combine combine)
{
    for (int lanes = 16; lanes > 0; lanes /= 2)
        value = combine(value, __shfl_xor_sync(0xffffffffu, value, lanes));
    if (WARPS == 1) return value;
    __syncthreads();  // what was shared before has been read
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
    __syncthreads();
    value = shared[0];
    for (int w = 1; w < WARPS; ++w) value = combine(value, shared[w]);
    return value;
}

// Rows shared out among all blocks: `compute(row, lane)`, each by the threads of WARPS warps.

template <int WARPS, class Compute> __device__ inline void for_each_row(i64 rows, Compute compute)
{
    const int threads = 32 * WARPS;  // of a row
    const int at_once = blockDim.x / threads;
    const int lane = threadIdx.x % threads;
    const i64 stride = (i64)gridDim.x * at_once;
    for (i64 row = (i64)blockIdx.x * at_once + threadIdx.x / threads; row < rows; row += stride)
        compute(row, lane);
}

// `visit(k, c)` for each column c of a thread of THREADS, the k-th of the HELD that it keeps; if that
// is 0, of those of a row of any length.

template <int HELD, int THREADS, class Visit>
__device__ inline void for_each_held(const i64 columns, const int lane, Visit visit)
{
    if constexpr (HELD > 0) {
        #pragma unroll
        for (int k = 0; k < HELD; ++k) {
            const i64 c = lane + k * THREADS;
            if (c < columns) visit(k, c);
        }
    } else {
        for (i64 c = lane; c < columns; c += THREADS) visit(0, c);
    }
}
