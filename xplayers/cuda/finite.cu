// Whether all values of arrays of several sizes are finite.
//
// Threads that find one that is not write the same value, so none waits for another.

template <int CHUNK, class T, int ROWS>
__device__ inline void all_finite(const Rows<ROWS, 1>& rows, bool* good)
{
    int row = 0;
    for (int chunk = blockIdx.x; chunk < rows.start[rows.count]; chunk += gridDim.x) {
        while (chunk >= rows.start[row + 1]) ++row;
        const T* __restrict__ x = (const T*)rows.at[0][row];
        const i64 begin = (chunk - rows.start[row]) * (i64)CHUNK;
        const i64 end = begin + CHUNK < rows.n[row] ? begin + CHUNK : rows.n[row];
        for (i64 i = begin + threadIdx.x; i < end; i += blockDim.x)
            if (!(widen(x[i]) - widen(x[i]) == 0)) *good = false;
    }
}
