// CUDA C++ as the host's: what a kernel finds around it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __forceinline__
#undef __launch_bounds__
#undef __restrict__
#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __constant__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict

using std::isfinite;
using std::isinf;
using std::isnan;
using std::max;
using std::min;
using std::signbit;

// Places, barriers, exchanges: threads.cpp has them, once for all libraries.

struct EmuIndex { unsigned x, y, z; };

extern "C" {
extern EmuIndex emu_thread, emu_block, emu_blocks, emu_threads;
extern char emu_shared[];
extern double emu_exchanged[];
void emu_shared_values(void*, size_t);
void emu_sync_block();
void emu_sync_warp();
unsigned emu_number();  // of this thread in its block
}

#define threadIdx emu_thread
#define blockIdx emu_block
#define gridDim emu_blocks
#define blockDim emu_threads
#define warpSize 32

inline void __syncthreads() { emu_sync_block(); }
inline void __syncwarp(unsigned = ~0u) { emu_sync_warp(); }
inline void __threadfence() {}

template <class T> T emu_shuffle(T value, unsigned lane)
{
    static_assert(sizeof(T) <= sizeof(double), "");
    const unsigned me = emu_number();
    memcpy(&emu_exchanged[me], &value, sizeof value);
    emu_sync_warp();
    memcpy(&value, &emu_exchanged[me / 32 * 32 + lane % 32], sizeof value);
    emu_sync_warp();
    return value;
}

template <class T> T __shfl_sync(unsigned, T value, int lane) { return emu_shuffle(value, lane); }

// A lane of a later group of `width` lanes is out of reach: the thread gets its own value.
template <class T> T __shfl_xor_sync(unsigned, T value, unsigned lanes, unsigned width = 32)
{
    const unsigned me = emu_number() % 32, other = me ^ lanes;
    return emu_shuffle(value, other > (me | (width - 1)) ? me : other);
}

// Bits

template <class To, class From> To emu_bits(From from)
{
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

inline float __uint_as_float(unsigned u) { return emu_bits<float>(u); }
inline float __int_as_float(int i) { return emu_bits<float>(i); }
inline unsigned __float_as_uint(float a) { return emu_bits<unsigned>(a); }
inline int __float_as_int(float a) { return emu_bits<int>(a); }
inline double __longlong_as_double(long long i) { return emu_bits<double>(i); }
inline long long __double_as_longlong(double a) { return emu_bits<long long>(a); }
inline float half_to_float(unsigned short u) { return emu_bits<_Float16>(u); }
inline unsigned short float_to_half(float a) { return emu_bits<unsigned short>((_Float16)a); }
inline int __clz(int i) { return i ? __builtin_clz(i) : 32; }
inline int __popc(unsigned u) { return __builtin_popcount(u); }
inline int __popcll(unsigned long long u) { return __builtin_popcountll(u); }
inline double rsqrt(double a) { return 1 / sqrt(a); }
inline float rsqrtf(float a) { return 1 / sqrtf(a); }

// Threads run one at a time.

#define ATOMIC(name, result) \
    template <class T, class S> T name(T* p, S v) { const T old = *p; *p = result; return old; }
ATOMIC(atomicAdd, old + (T)v)
ATOMIC(atomicMax, max(old, (T)v))
ATOMIC(atomicMin, min(old, (T)v))
ATOMIC(atomicExch, (T)v)
ATOMIC(atomicOr, old | (T)v)
ATOMIC(atomicAnd, old & (T)v)
#undef ATOMIC

template <class T> T atomicCAS(T* p, T expected, T v)
{
    const T old = *p;
    if (old == expected) *p = v;
    return old;
}

// What a launch asks of a kernel: to run, and how large its arguments are.

template <class... A, size_t... I>
void emu_call(void (*kernel)(A...), void** args, std::index_sequence<I...>)
{
    kernel(*(std::remove_reference_t<A>*)args[I]...);
}

template <class... A> void emu_call(void (*kernel)(A...), void** args)
{
    emu_call(kernel, args, std::index_sequence_for<A...>());
}

template <class... A> const size_t* emu_sizes(void (*)(A...))
{
    static const size_t sizes[] = {sizeof(A)..., 0};
    return sizes;
}

#define EMU_VISIBLE extern "C" __attribute__((visibility("default")))
#define EMU_WAITS(waits) EMU_VISIBLE bool emu_waits() { return waits; }
#define EMU_KERNEL(name) \
    EMU_VISIBLE void emu_run_##name(void** args) { emu_call(name, args); } \
    EMU_VISIBLE const size_t* emu_sizes_##name() { return emu_sizes(name); }
