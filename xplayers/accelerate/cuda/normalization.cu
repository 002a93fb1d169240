// Rows that are normalized over all of their columns, forward and backward.
//
// A row is read by WARPS warps: one, or all of a block. Each thread keeps its HELD values, so memory
// is read once. CENTRED: the mean is subtracted, and a shift added; else it is a root mean square.

// The numbers of N beyond which squares do not fit, by what values are multiplied then, what stands
// in the place of 0 below the root, and where sums do not fit.

template <class N> struct Units;

template <> struct Units<float>
{
    static constexpr float up = 0x1p90f, high = 0x1p40f, down = 0x1p-80f, least = 0x1p-126f;
    static constexpr float most = 0x1p100f, root_least = 0x1p-60f;
};

template <> struct Units<double>
{
    static constexpr double up = 0x1p650, high = 0x1p400, down = 0x1p-700, least = 0x1p-1022;
    static constexpr double most = 0x1p1000, root_least = 0x1p-500;
};

// The values of a row less its mean, which is returned. One of them is subtracted first, so that
// equal ones become 0. Beyond the columns values are 0.

template <int WARPS, int HELD, class N>
__device__ inline N centred(
    N (&held)[HELD], const N first, const i64 columns, const int lane, N* shared)
{
    N sum = 0;
    for_each_held<HELD, 32 * WARPS>(columns, lane, [&](const int k, i64) {
        held[k] -= first;
        sum += held[k];
    });
    const N mean = reduced<WARPS>(sum, shared, Sum()) / (N)columns;
    for_each_held<HELD, 32 * WARPS>(columns, lane, [&](const int k, i64) { held[k] -= mean; });
    return first + mean;
}

template <bool CENTRED, int WARPS, int HELD, class N, class T, class P>
__device__ inline void normalization(
    const i64 rows, const i64 columns, const T* __restrict__ x, const P* __restrict__ gamma,
    const P* __restrict__ beta, T* __restrict__ y, N* __restrict__ r, N* __restrict__ mean,
    const N eps, const N low)
{
    const int threads = 32 * WARPS;
    __shared__ N shared[WARPS];
    for_each_row<WARPS>(rows, [&](const i64 row, const int lane) {
        const T* from = x + row * columns;
        T* to = y + row * columns;
        N held[HELD] = {}, largest = 0, unit = 1;
        for_each_held<HELD, threads>(columns, lane, [&](const int k, const i64 c) {
            held[k] = widen(from[c]);
            largest = Larger()((N)fabs(held[k]), largest);
        });
        if constexpr (CENTRED) {
            largest = reduced<WARPS>(largest, shared, Larger());
            if (largest > Units<N>::most) {
                unit = (N)0x1p-30;
                for (int k = 0; k < HELD; ++k) held[k] *= unit;
            }
            const N m = centred<WARPS>(held, widen(from[0]) * unit, columns, lane, shared);
            if (lane == 0) mean[row] = m / unit;
            largest = 0;
            for (int k = 0; k < HELD; ++k) largest = Larger()((N)fabs(held[k]), largest);
        }
        largest = reduced<WARPS>(largest, shared, Larger());
        const N more = largest > Units<N>::high ? Units<N>::down
                     : largest < low            ? Units<N>::up
                                                : (N)1;
        N sum = 0;
        for (int k = 0; k < HELD; ++k) {
            held[k] *= more;
            sum += held[k] * held[k];
        }
        sum = reduced<WARPS>(sum, shared, Sum());
        unit *= more;
        const N square = sum / (N)columns + eps * unit * unit;
        const N root = 1 / sqrt(square < Units<N>::least ? Units<N>::least : square);
        if (lane == 0) r[row] = root * unit;
        for_each_held<HELD, threads>(columns, lane, [&](const int k, const i64 c) {
            N value = held[k] * root * (N)widen(gamma[c]);
            if constexpr (CENTRED) value += widen(beta[c]);
            to[c] = narrow<T>(value);
        });
    });
}

// The rows are shared out in parts, each to the same threads all along: they add up the gradients of
// their columns, of gamma and then of beta, and write them as a row of `sums`. What is added to what
// depends on the number of parts alone.

template <bool CENTRED, int WARPS, int HELD, class N, class T, class P>
__device__ inline void normalization_grads(
    const i64 rows, const i64 columns, const int parts, const T* __restrict__ dy,
    const T* __restrict__ x, const P* __restrict__ gamma, const N* __restrict__ r,
    T* __restrict__ dx, N* __restrict__ sums)
{
    const int threads = 32 * WARPS;
    __shared__ N shared[WARPS];
    for_each_row<WARPS>(parts, [&](const i64 part, const int lane) {
        N dgamma[HELD] = {}, dbeta[HELD] = {};
        #pragma unroll 1
        for (i64 row = part; row < rows; row += parts) {
            const i64 begin = row * columns;
            N xh[HELD] = {}, h[HELD] = {}, root = r[row];
            for_each_held<HELD, threads>(columns, lane, [&](const int k, const i64 c) {
                xh[k] = widen(x[begin + c]);
                h[k] = widen(dy[begin + c]);
            });
            if constexpr (CENTRED) {
                N unit = 1;
                if (root < Units<N>::root_least) {  // as of values whose sum does not fit
                    unit = (N)0x1p-30;
                    for (int k = 0; k < HELD; ++k) xh[k] *= unit;
                }
                centred<WARPS>(xh, widen(x[begin]) * unit, columns, lane, shared);
                root /= unit;
            }
            N sum = 0, dot = 0;
            for_each_held<HELD, threads>(columns, lane, [&](const int k, const i64 c) {
                xh[k] *= root;
                dgamma[k] += h[k] * xh[k];
                if constexpr (CENTRED) dbeta[k] += h[k];
                h[k] *= (N)widen(gamma[c]);
                sum += h[k];
                dot += h[k] * xh[k];
            });
            dot = reduced<WARPS>(dot, shared, Sum()) / (N)columns;
            if constexpr (CENTRED) sum = reduced<WARPS>(sum, shared, Sum()) / (N)columns;
            root = r[row];
            for_each_held<HELD, threads>(columns, lane, [&](const int k, const i64 c) {
                const N along = xh[k] * dot;
                dx[begin + c] = narrow<T>((CENTRED ? h[k] - sum - along : h[k] - along) * root);
            });
        }
        N* to = sums + part * columns * (CENTRED ? 2 : 1);
        for_each_held<HELD, threads>(columns, lane, [&](const int k, const i64 c) {
            to[c] = dgamma[k];
            if constexpr (CENTRED) to[columns + c] = dbeta[k];
        });
    });
}
