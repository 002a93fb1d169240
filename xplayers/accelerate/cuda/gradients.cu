// What is asked of all gradients: arrays of several sizes, whose chunks the blocks share out.

// `visit(value)` for each value of a chunk, in float32 or wider, then `done(chunk)`. A thread asks
// memory for all of its own at once, by 16 bytes where the array is aligned; which they are does not
// depend on that. What is beyond the end is 0.

template <int CHUNK, int BLOCK, class T, int ROWS, class Visit, class Done>
__device__ inline void for_each_value(const Rows<ROWS, 1>& rows, Visit visit, Done done)
{
    const int WIDTH = 16 / sizeof(T), PACKS = CHUNK / (BLOCK * WIDTH);
    int row = 0;
    for (int chunk = blockIdx.x; chunk < rows.start[rows.count]; chunk += gridDim.x) {
        while (chunk >= rows.start[row + 1]) ++row;
        const T* __restrict__ x = (const T*)rows.at[0][row];
        const i64 begin = (chunk - rows.start[row]) * (i64)CHUNK, end = rows.n[row];
        const bool whole = aligned<WIDTH>(x);
        Pack<T, WIDTH> packs[PACKS] = {};
        #pragma unroll
        for (int k = 0; k < PACKS; ++k) {
            const i64 i = begin + (k * BLOCK + (int)threadIdx.x) * WIDTH;
            if (whole && i + WIDTH <= end) packs[k] = load<WIDTH>(x + i);
            else
                for (int j = 0; j < WIDTH; ++j)
                    if (i + j < end) packs[k].v[j] = x[i + j];
        }
        #pragma unroll
        for (int k = 0; k < PACKS; ++k)
            #pragma unroll
            for (int j = 0; j < WIDTH; ++j) visit(widen(packs[k].v[j]));
        done(chunk);
    }
}

// Threads that find a value that is not finite write the same, so none waits for another.

template <int CHUNK, int WARPS, class T, int ROWS>
__device__ inline void all_finite(const Rows<ROWS, 1>& rows, bool* good)
{
    bool finite = true;
    for_each_value<CHUNK, 32 * WARPS, T>(
        rows, [&](const decltype(widen(T())) x) { finite = finite && x - x == 0; },
        [&](int) { if (!finite) *good = false; });
}

// One sum for each chunk, so that what is added to what depends on the sizes alone.

template <int CHUNK, int WARPS, class T, class N, int ROWS>
__device__ inline void sums_of_squares(const Rows<ROWS, 1>& rows, N* sums)
{
    __shared__ N shared[WARPS];
    N sum = 0;
    for_each_value<CHUNK, 32 * WARPS, T>(
        rows, [&](const N x) { sum += x * x; },
        [&](const int chunk) {
            sum = reduced<WARPS>(sum, shared, Sum());
            if (threadIdx.x == 0) sums[chunk] = sum;
            sum = 0;
        });
}
