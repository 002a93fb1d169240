// Softmax and cross entropy of rows of scores: the losses and the gradient in one kernel.
//
// A row is read by WARPS warps: one, or all of a block. Each thread keeps its HELD scores, so that
// memory is read once; with HELD of 0, for rows of any length, it is read in each pass, from a cache
// after the first.

template <bool LABELS, int WARPS, int HELD, class N, class Score, class Target, class Gradient>
__device__ inline void softmax_cross_entropy(
    const i64 rows, const i64 classes, const Score* __restrict__ scores,
    const Target* __restrict__ target, N* __restrict__ losses, Gradient* __restrict__ gradient,
    const N scale)
{
    __shared__ N shared[WARPS];
    for_each_row<WARPS>(rows, [&](const i64 row, const int lane) {
        const int threads = 32 * WARPS;
        const Score* x = scores + row * classes;
        Gradient* dx = gradient + row * classes;
        N held[HELD > 0 ? HELD : 1];  // first the scores, then their exponentials
        N largest = widen(x[0]);
        for_each_held<HELD, threads>(classes, lane, [&](const int k, const i64 c) {
            held[k] = widen(x[c]);
            largest = Larger()(largest, held[k]);
        });
        largest = reduced<WARPS>(largest, shared, Larger());
        const auto score = [&](const int k, const i64 c) {
            return HELD > 0 ? held[k] : (N)widen(x[c]);
        };
        const auto exponential = [&](const int k, const i64 c) {
            return HELD > 0 ? held[k] : exp((N)widen(x[c]) - largest);
        };
        N loss;
        if constexpr (LABELS) {
            const i64 label = (i64)target[row];
            const bool valid = label >= 0 && label < classes;
            const i64 at = valid ? label : 0;
            const N own = (N)widen(x[at]) - largest, less = expm1(own);
            N rest = 0;  // the sum less 1, which would take the last digits of small ones
            for_each_held<HELD, threads>(classes, lane, [&](const int k, const i64 c) {
                held[k] = exp(score(k, c) - largest);
                rest += c == at ? less : held[k];
            });
            rest = reduced<WARPS>(rest, shared, Sum());
            loss = log1p(rest) - own;
            if (!valid) loss = __uint_as_float(0x7fc00000);  // NaN
            for_each_held<HELD, threads>(classes, lane, [&](const int k, const i64 c) {
                const N slope = c == at ? less - rest : exponential(k, c);
                dx[c] = narrow<Gradient>(slope / (1 + rest) * scale);
            });
        } else {
            const Target* t = target + row * classes;
            N sum = 0, total = 0, dot = 0;
            for_each_held<HELD, threads>(classes, lane, [&](const int k, const i64 c) {
                const N weight = (N)widen(t[c]), centred = score(k, c) - largest;
                total += weight >= 0 ? weight : (N)__uint_as_float(0x7fc00000);  // NaN
                // A class that is masked by a score of -inf has t = 0, and 0 * inf would be NaN.
                if (weight != 0) dot += weight * centred;
                held[k] = exp(centred);
                sum += held[k];
            });
            sum = reduced<WARPS>(sum, shared, Sum());
            total = reduced<WARPS>(total, shared, Sum());
            dot = reduced<WARPS>(dot, shared, Sum());
            const bool silent = total == 0;  // a row without any weight, whatever its scores are
            loss = silent ? 0 : log(sum) * total - dot;
            const N factor = total / sum;
            for_each_held<HELD, threads>(classes, lane, [&](const int k, const i64 c) {
                const N slope = silent ? 0 : exponential(k, c) * factor - (N)widen(t[c]);
                dx[c] = narrow<Gradient>(slope * scale);
            });
        }
        if (lane == 0) losses[row] = loss;
    });
}
