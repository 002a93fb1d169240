// What is asked of all gradients: arrays of several sizes, whose chunks the blocks share out.

// `visit(x, begin, end, chunk)` for the chunks of a block: the elements of x that are in it.

template <int CHUNK, class T, int ROWS, class Visit>
__device__ inline void for_each_chunk(const Rows<ROWS, 1>& rows, Visit visit)
{
    int row = 0;
    for (int chunk = blockIdx.x; chunk < rows.start[rows.count]; chunk += gridDim.x) {
        while (chunk >= rows.start[row + 1]) ++row;
        const T* __restrict__ x = (const T*)rows.at[0][row];
        const i64 begin = (chunk - rows.start[row]) * (i64)CHUNK;
        const i64 end = begin + CHUNK < rows.n[row] ? begin + CHUNK : rows.n[row];
        visit(x, begin, end, chunk);
    }
}

// Threads that find a value that is not finite write the same, so none waits for another.

template <int CHUNK, int WARPS, class T, int ROWS>
__device__ inline void all_finite(const Rows<ROWS, 1>& rows, bool* good)
{
    for_each_chunk<CHUNK, T>(rows, [&](const T* x, const i64 begin, const i64 end, int) {
        for (i64 i = begin + threadIdx.x; i < end; i += blockDim.x)
            if (!(widen(x[i]) - widen(x[i]) == 0)) *good = false;
    });
}

// One sum for each chunk, so that what is added to what depends on the sizes alone.

template <int CHUNK, int WARPS, class T, class N, int ROWS>
__device__ inline void sums_of_squares(const Rows<ROWS, 1>& rows, N* sums)
{
    __shared__ N shared[WARPS];
    for_each_chunk<CHUNK, T>(rows, [&](const T* x, const i64 begin, const i64 end, int chunk) {
        N sum = 0;
        #pragma unroll 4
        for (i64 i = begin + threadIdx.x; i < end; i += blockDim.x) {
            const N value = widen(x[i]);
            sum += value * value;
        }
        sum = reduced<WARPS>(sum, shared, Sum());
        if (threadIdx.x == 0) sums[chunk] = sum;
    });
}
