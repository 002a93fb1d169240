// Softmax and cross entropy of rows of scores: the losses and the gradient in one kernel.
//
// A row is read by WARPS warps: one, or all of a block. Each thread keeps its HELD scores, so that
// memory is read once; with HELD of 0, for rows of any length, it is read in each pass, from a cache
// after the first.

// The options of the loss.

template <class N, class Weight> struct Options
{
    const Weight* weights;  // of the classes, or none
    N smoothing;
    i64 ignored;  // label
    bool ignores;
    N* counts;  // what a sample of a label adds to the divisor of the mean

    __device__ N of_class(i64 c) const { return weights ? (N)widen(weights[c]) : (N)1; }
};

// LABELS: of labels, else of weights of the classes. SHARP: of labels that are not smoothed.

template <
    bool LABELS, bool SHARP, bool OPTIONS, int WARPS, int HELD, class N, class Score, class Target,
    class Gradient, class Weight>
__device__ inline void softmax_cross_entropy(
    const i64 rows, const i64 classes, const Score* __restrict__ scores,
    const Target* __restrict__ target, N* __restrict__ losses, Gradient* __restrict__ gradient,
    const N scale, const Options<N, Weight>& options)
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
        const N nan = __uint_as_float(0x7fc00000);
        i64 label = -1;
        bool valid = true, ignored = false;  // the label
        if constexpr (LABELS) {
            label = (i64)target[row];
            valid = label >= 0 && label < classes;
            if constexpr (OPTIONS) {
                ignored = options.ignores && label == options.ignored;
                const N own = valid ? options.of_class(label) : (N)(options.weights ? 0 : 1);
                if (lane == 0) options.counts[row] = ignored ? 0 : own;
            }
        }
        N loss;
        if constexpr (SHARP) {
            const i64 at = valid ? label : 0;
            N weight = 1;
            if constexpr (OPTIONS) weight = valid && !ignored ? options.of_class(label) : (N)0;
            const N own = (N)widen(x[at]) - largest, less = expm1(own);
            N rest = 0;  // the sum less 1, which would take the last digits of small ones
            for_each_held<HELD, threads>(classes, lane, [&](const int k, const i64 c) {
                held[k] = exp(score(k, c) - largest);
                rest += c == at ? less : held[k];
            });
            rest = reduced<WARPS>(rest, shared, Sum());
            loss = log1p(rest) - own;
            if constexpr (OPTIONS) loss = weight == 0 ? 0 : loss * weight;
            for_each_held<HELD, threads>(classes, lane, [&](const int k, const i64 c) {
                N slope = (c == at ? less - rest : exponential(k, c)) / (1 + rest);
                if constexpr (OPTIONS) slope = weight == 0 ? 0 : slope * weight;
                dx[c] = narrow<Gradient>(slope * scale);
            });
        } else {
            const auto weight_of = [&](const i64 c) {
                N t = 0;
                if constexpr (LABELS) t = c == label ? 1 : 0;
                else t = widen(target[row * classes + c]);
                if constexpr (OPTIONS) {
                    t = (1 - options.smoothing) * t + options.smoothing / (N)classes;
                    t = ignored ? 0 : t * options.of_class(c);
                }
                return t;
            };
            N sum = 0, total = 0, dot = 0;
            for_each_held<HELD, threads>(classes, lane, [&](const int k, const i64 c) {
                const N weight = weight_of(c), centred = score(k, c) - largest;
                bool sensible = weight >= 0;
                if constexpr (!LABELS && OPTIONS) sensible = widen(target[row * classes + c]) >= 0;
                total += sensible ? weight : nan;
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
                const N slope = silent ? 0 : exponential(k, c) * factor - weight_of(c);
                dx[c] = narrow<Gradient>(slope * scale);
            });
        }
        if (!valid && !ignored) loss = nan;
        if (lane == 0) losses[row] = loss;
    });
}
