// The sums of the columns of a matrix, and with RELU those of x * (y > 0), which is written to dx.
//
// Blocks share out tiles of columns and parts of the rows; `out` has one row for each part. In a
// block `lanes` threads lie side by side, each with WIDTH columns, and as many such lines as there
// are threads for: neighbours read what is side by side in memory, narrow matrices too. What is
// added to what depends on the arguments alone, not on how many blocks there are.

template <int BLOCK, int WIDTH, bool RELU, class N, class T, class Out>
__device__ inline void column_sums(
    const i64 rows, const i64 columns, const i64 parts, const i64 share, const int lanes,
    const N divisor, const T* x, const T* y, T* dx, Out* out)
{
    const int AHEAD = RELU ? 2 : 4;  // rows; a thread asks memory for four packs at once
    __shared__ N shared[BLOCK * WIDTH];
    N* const sums = shared + threadIdx.x;  // of its first column; those of another are BLOCK apart
    const int lane = threadIdx.x % lanes, line = threadIdx.x / lanes, lines = BLOCK / lanes;
    const i64 tiles = (columns + lanes * WIDTH - 1) / (lanes * WIDTH);
    for (i64 block = blockIdx.x; block < tiles * parts; block += gridDim.x) {
        const i64 part = block / tiles;
        const i64 column = (block % tiles * lanes + lane) * WIDTH;
        const bool inside = column < columns;
        const i64 end = (part + 1) * share < rows ? (part + 1) * share : rows;
        N total[WIDTH] = {};
        #pragma unroll 1
        for (i64 row = part * share + line; inside && row < end; row += AHEAD * lines) {
            Pack<T, WIDTH> given[AHEAD], after[AHEAD];
            #pragma unroll
            for (int k = 0; k < AHEAD; ++k) {
                const i64 at = row + k * lines;
                if (at >= end) continue;
                given[k] = load<WIDTH>(x + at * columns + column);
                if constexpr (RELU) after[k] = load<WIDTH>(y + at * columns + column);
            }
            #pragma unroll
            for (int k = 0; k < AHEAD; ++k) {
                const i64 at = row + k * lines;
                if (at >= end) continue;
                Pack<T, WIDTH> made;
                #pragma unroll
                for (int j = 0; j < WIDTH; ++j) {
                    N value = widen(given[k].v[j]);
                    if constexpr (RELU) {
                        value = widen(after[k].v[j]) > 0 ? value : (N)0;
                        made.v[j] = narrow<T>(value);
                    }
                    total[j] += value;
                }
                if constexpr (RELU) store(dx + at * columns + column, made);
            }
        }
        for (int j = 0; j < WIDTH; ++j) sums[j * BLOCK] = total[j];
        for (int half = lines / 2; half > 0; half /= 2) {
            __syncthreads();
            if (line < half)
                for (int j = 0; j < WIDTH; ++j)
                    sums[j * BLOCK] += sums[j * BLOCK + half * lanes];
        }
        if (line == 0 && inside)
            for (int j = 0; j < WIDTH; ++j)
                out[part * columns + column + j] = narrow<Out>(sums[j * BLOCK] / divisor);
        __syncthreads();  // before others write what has been read here
    }
}
