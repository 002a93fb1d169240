// Pooling of arrays (outer, a, b, c, inner), whose windows slide along a, b and c.
//
// Images by rows have an outer index for each channel of a sample, and inner is 1; with the channels
// last, outer is the sample and inner the channel. So one source is for both, and threads that are
// neighbours are so in memory. Fewer axes have others of size 1 before them.
//
// I is the type of indices: int where all of them fit. An int is divided by a product, with numbers
// that the host has worked out, since a GPU has no instruction for the division of integers.

template <class I> struct Divisor
{
    I d;
    unsigned factor;  // ceil(2**(31 + shift) / d), with d <= 2**shift
    int shift;
};

__device__ inline int operator/(int n, const Divisor<int>& by)  // of 0 <= n
{
    return (int)((unsigned long long)n * by.factor >> (31 + by.shift));
}

__device__ inline i64 operator/(i64 n, const Divisor<i64>& by) { return n / by.d; }

template <class I> struct Axis
{
    I x, y, size, before;  // how many places and windows, and the geometry of these
    Divisor<I> stride;

    // Where a window begins, which may be in the padding, and its places in x.
    __device__ I begin(I window) const { return window * stride.d - before; }
    __device__ I first(I window) const { return max(begin(window), (I)0); }
    __device__ I end(I window) const { return min(begin(window) + size, x); }

    // The windows with a place of x: none where the newest is before the oldest.
    __device__ I newest(I place) const { return min((place + before) / stride, y - 1); }
    __device__ I oldest(I place) const
    {
        const I beyond = place + before - size;
        return beyond < 0 ? 0 : beyond / stride + 1;
    }
};

template <class I> struct Element { I outer, a, b, c, inner; };

template <class I> struct Pooling
{
    Axis<I> a, b, c;
    Divisor<I> inner, sizes[3];  // of what the elements are counted through, x or y: c, b, a

    __device__ I in_x(const Element<I>& e) const
    {
        return (((e.outer * a.x + e.a) * b.x + e.b) * c.x + e.c) * inner.d + e.inner;
    }

    __device__ I in_y(const Element<I>& e) const
    {
        return (((e.outer * a.y + e.a) * b.y + e.b) * c.y + e.c) * inner.d + e.inner;
    }

    __device__ Element<I> element(I at) const
    {
        Element<I> e;
        e.inner = taken(at, inner);
        e.c = taken(at, sizes[0]);
        e.b = taken(at, sizes[1]);
        e.a = taken(at, sizes[2]);
        e.outer = at;
        return e;
    }

    // What is left of a division, which `at` becomes.
    static __device__ I taken(I& at, const Divisor<I>& by)
    {
        const I before = at;
        at = at / by;
        return before - at * by.d;
    }
};

template <class I, class Compute> __device__ inline void for_each(i64 n, Compute compute)
{
    const i64 stride = (i64)gridDim.x * blockDim.x;
    for (i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x; at < n; at += stride) compute((I)at);
}

template <class N> __device__ inline N minus_infinity() { return __uint_as_float(0xff800000); }

// The values of a window combined along a, then b, then c, as the portable code has them: sums get
// its bits, and of zeros with either sign or of several NaN the same one is the largest.

template <class N, class I, class T, class Combine>
__device__ inline N folded(
    const Pooling<I>& g, const Element<I>& window, const T* x, N start, Combine combine)
{
    N all = start;
    for (I c = g.c.first(window.c); c < g.c.end(window.c); ++c) {
        N plane = start;
        for (I b = g.b.first(window.b); b < g.b.end(window.b); ++b) {
            N line = start;
            for (I a = g.a.first(window.a); a < g.a.end(window.a); ++a)
                line = combine(line, (N)widen(x[g.in_x({window.outer, a, b, c, window.inner})]));
            plane = combine(plane, line);
        }
        all = combine(all, plane);
    }
    return all;
}

template <class N, class I, class T>
__device__ inline void max_pooling(
    const i64 n, const Pooling<I>& g, const T* __restrict__ x, T* __restrict__ y)
{
    const auto larger = [](N a, N b) { return a > b || a != a ? a : b; };  // NaN is the largest
    for_each<I>(n, [&](I at) {
        y[at] = narrow<T>(folded(g, g.element(at), x, minus_infinity<N>(), larger));
    });
}

template <class N, class I, class T>
__device__ inline void average_pooling(
    const i64 n, const Pooling<I>& g, const T* __restrict__ x, T* __restrict__ y, const N factor)
{
    const auto sum = [](N a, N b) { return a + b; };
    for_each<I>(n, [&](I at) {
        y[at] = narrow<T>(folded(g, g.element(at), x, (N)0, sum) * factor);
    });
}

// The sum over the windows with a place. A thread takes what is its own, so none waits for another
// and the order is always the same: along c, then b, then a, as in the portable code.

template <class N, class I, class Give>
__device__ inline N gathered(const Pooling<I>& g, const Element<I>& place, Give give)
{
    N all = 0;
    const I oldest_a = g.a.oldest(place.a);
    const I oldest_b = g.b.oldest(place.b);
    const I oldest_c = g.c.oldest(place.c);
    for (I a = g.a.newest(place.a); a >= oldest_a; --a) {
        N plane = 0;
        for (I b = g.b.newest(place.b); b >= oldest_b; --b) {
            N line = 0;
            for (I c = g.c.newest(place.c); c >= oldest_c; --c)
                line += give(Element<I>{place.outer, a, b, c, place.inner});
            plane += line;
        }
        all += plane;
    }
    return all;
}

// Whether no place of the window before this one, in row-major order, has its value too; padding
// never has. Few threads ask: those whose value is the largest. It is one loop and not three, of
// which a compiler makes copies for windows that are empty and for places one apart.

template <class N, class I, class T>
__device__ inline bool is_first(
    const Pooling<I>& g, const Element<I>& place, const Element<I>& window, const T* x, N value)
{
    const I from_b = g.b.first(window.b), from_c = g.c.first(window.c);
    I a = g.a.first(window.a), b = from_b, c = from_c;
    while (a != place.a || b != place.b || c != place.c) {
        if (value == (N)widen(x[g.in_x({place.outer, a, b, c, place.inner})])) return false;
        if (++c < g.c.end(window.c)) continue;
        c = from_c;
        if (++b < g.b.end(window.b)) continue;
        b = from_b;
        ++a;
    }
    return true;
}

template <class N, class I, class T>
__device__ inline void max_grads(
    const i64 n, const Pooling<I>& g, const T* __restrict__ x, const T* __restrict__ y,
    const T* __restrict__ dy, T* __restrict__ dx)
{
    for_each<I>(n, [&](I at) {
        const Element<I> place = g.element(at);
        const N value = widen(x[at]);
        dx[at] = narrow<T>(gathered<N>(g, place, [&](const Element<I>& window) {
            const I of = g.in_y(window);
            const N gradient = widen(dy[of]);
            const bool takes = value == (N)widen(y[of]) && is_first(g, place, window, x, value);
            return takes ? gradient : (N)0;
        }));
    });
}

template <class N, class I, class T>
__device__ inline void average_grads(
    const i64 n, const Pooling<I>& g, const T* __restrict__ dy, T* __restrict__ dx, const N factor)
{
    for_each<I>(n, [&](I at) {
        dx[at] = narrow<T>(gathered<N>(g, g.element(at), [&](const Element<I>& window) {
            return widen(dy[g.in_y(window)]) * factor;
        }));
    });
}

// Means of rows, each read by WARPS warps: one, or all of a block.

template <int WARPS, class N, class T>
__device__ inline void row_means(
    const i64 rows, const i64 places, const T* __restrict__ x, T* __restrict__ y)
{
    __shared__ N shared[WARPS];
    const int threads = 32 * WARPS;  // of a row
    for_each_row<WARPS>(rows, [&](const i64 row, const int lane) {
        N sum = 0;
        for (i64 place = lane; place < places; place += threads)
            sum += widen(x[row * places + place]);
        sum = reduced<WARPS>(sum, shared, Sum());
        if (lane == 0) y[row] = narrow<T>(sum / (N)places);
    });
}

// Means over the places of samples (places, channels). A block takes 32 channels of a sample, one by
// each lane, and its warps share the places.

template <int WARPS, class N, class T>
__device__ inline void channel_means(
    const i64 samples, const i64 places, const i64 channels, const T* __restrict__ x,
    T* __restrict__ y)
{
    __shared__ N shared[WARPS][32];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const i64 groups = (channels + 31) / 32;  // of a sample
    for (i64 group = blockIdx.x; group < samples * groups; group += gridDim.x) {
        const i64 sample = group / groups, channel = group % groups * 32 + lane;
        N sum = 0;
        if (channel < channels)
            for (i64 place = warp; place < places; place += WARPS)
                sum += widen(x[(sample * places + place) * channels + channel]);
        __syncthreads();  // what was shared before has been read
        shared[warp][lane] = sum;
        __syncthreads();
        if (warp == 0 && channel < channels) {
            for (int w = 1; w < WARPS; ++w) sum += shared[w][lane];
            y[sample * channels + channel] = narrow<T>(sum / (N)places);
        }
    }
}
