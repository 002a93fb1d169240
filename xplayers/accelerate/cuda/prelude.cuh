// What every kernel of xplayers stands on: 16-bit storage types, packs, integers that wrap.
// No header is included, so a kernel compiles in milliseconds.

typedef long long i64;

// 16-bit floats are storage only: `widen` makes float32 of them, `narrow` rounds to the nearest.

struct float16 { unsigned short bits; };
struct bfloat16 { unsigned short bits; };

template <class T> __device__ inline T widen(T a) { return a; }

__device__ inline float widen(float16 a) { return half_to_float(a.bits); }

__device__ inline float widen(bfloat16 a) { return __uint_as_float((unsigned)a.bits << 16); }

template <class T> struct Narrow
{
    template <class S> static __device__ inline T of(S a) { return (T)a; }
};

template <> struct Narrow<float16>
{
    static __device__ inline float16 of(float a) { return {float_to_half(a)}; }
};

template <> struct Narrow<bfloat16>
{
    static __device__ inline bfloat16 of(float a)
    {
        const unsigned u = __float_as_uint(a);
        if (a != a) return {(unsigned short)((u >> 16) | 64)};  // keep it from rounding to infinity
        return {(unsigned short)((u + 0x7fff + ((u >> 16) & 1)) >> 16)};  // ties to even
    }
};

template <class T, class S> __device__ inline T narrow(S a) { return Narrow<T>::of(a); }

// N values that are read and written by 16-byte instructions where they are so long.

template <class T, int N> struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack
{
    T v[N];
};

template <int N, class T> __device__ inline bool aligned(const T* p)
{
    return (size_t)p % alignof(Pack<T, N>) == 0;
}

template <int N, class T> __device__ inline Pack<T, N> load(const T* p)
{
    return *reinterpret_cast<const Pack<T, N>*>(p);
}

template <int N, class T> __device__ inline void store(T* p, const Pack<T, N>& pack)
{
    *reinterpret_cast<Pack<T, N>*>(p) = pack;
}

// Arrays of several sizes, in rows: of one row each, with what a function takes in the same place.

template <int rows, int arrays> struct Rows
{
    i64 n[rows];  // elements
    void* at[arrays][rows];
    int start[rows + 1];  // its first chunk, counted through all rows
    int count;
};

// Integers of NumPy wrap; those of C++ must not overflow, unless they are unsigned.

template <int bytes> struct Unsigned { typedef unsigned type; };
template <> struct Unsigned<8> { typedef unsigned long long type; };

template <class T> __device__ inline T wrapped_add(T a, T b)
{
    typedef typename Unsigned<sizeof(T)>::type U;
    return (T)((U)a + (U)b);
}

template <class T> __device__ inline T wrapped_subtract(T a, T b)
{
    typedef typename Unsigned<sizeof(T)>::type U;
    return (T)((U)a - (U)b);
}

template <class T> __device__ inline T wrapped_multiply(T a, T b)
{
    typedef typename Unsigned<sizeof(T)>::type U;
    return (T)((U)a * (U)b);
}

// A shift by all bits or more leaves no bit, or the sign.

template <class T> __device__ inline T shifted_left(T a, T b)
{
    typedef typename Unsigned<sizeof(T)>::type U;
    return (U)b < 8 * sizeof(T) ? (T)((U)a << b) : (T)0;
}

template <class T> __device__ inline T shifted_right(T a, T b)
{
    typedef typename Unsigned<sizeof(T)>::type U;
    return (U)b < 8 * sizeof(T) ? (T)(a >> b) : (T)(a < 0 ? -1 : 0);
}
