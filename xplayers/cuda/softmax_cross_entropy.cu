// Softmax and cross entropy of rows of scores: the losses and the gradient in one kernel.
//
// A row is read by WARPS warps: one, or all of a block. The row is in a cache after its first pass.

// A value that is no number need not be passed on: it makes the sum of the exponentials one.

struct Larger
{
    template <class N> __device__ N operator()(N a, N b) const { return a > b ? a : b; }
};

template <bool LABELS, int WARPS, class N, class Score, class Target, class Gradient>
__device__ inline void softmax_cross_entropy(
    const i64 rows, const i64 classes, const Score* __restrict__ scores,
    const Target* __restrict__ target, N* __restrict__ losses, Gradient* __restrict__ gradient)
{
    __shared__ N shared[WARPS];
    const int threads = 32 * WARPS;  // of a row
    for_each_row<WARPS>(rows, [&](const i64 row, const int lane) {
        const Score* x = scores + row * classes;
        Gradient* dx = gradient + row * classes;
        N largest = widen(x[0]);
        for (i64 c = lane; c < classes; c += threads) largest = Larger()(largest, (N)widen(x[c]));
        largest = reduced<WARPS>(largest, shared, Larger());
        N sum = 0;
        for (i64 c = lane; c < classes; c += threads) sum += exp(widen(x[c]) - largest);
        sum = reduced<WARPS>(sum, shared, Sum());
        N loss;
        if constexpr (LABELS) {
            const i64 label = (i64)target[row];
            const bool valid = label >= 0 && label < classes;
            const i64 at = valid ? label : 0;
            loss = log(sum) - (widen(x[at]) - largest);
            if (!valid) loss = __uint_as_float(0x7fc00000);  // NaN
            for (i64 c = lane; c < classes; c += threads)
                dx[c] = narrow<Gradient>(exp(widen(x[c]) - largest) / sum - (N)(c == at));
        } else {
            const Target* t = target + row * classes;
            N total = 0, dot = 0;
            for (i64 c = lane; c < classes; c += threads) {
                const N weight = (N)widen(t[c]);
                total += weight;
                // A class that is masked by a score of -inf has t = 0, and 0 * inf would be NaN.
                dot += weight * Larger()((N)widen(x[c]) - largest, (N)-1e30);
            }
            total = reduced<WARPS>(total, shared, Sum());
            dot = reduced<WARPS>(dot, shared, Sum());
            loss = log(sum) * total - dot;
            const N factor = total / sum;
            for (i64 c = lane; c < classes; c += threads)
                dx[c] = narrow<Gradient>(
                    exp(widen(x[c]) - largest) * factor - (N)widen(t[c]));
        }
        if (lane == 0) losses[row] = loss;
    });
}
