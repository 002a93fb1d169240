// CUDA C++ on the host: the threads of a block are fibers, which wait for each other at barriers.
//
// A file is this header, xplayers/cuda/prelude.cuh and kernels. `launch` runs one of them as
// cuLaunchKernel does: blocks one after another, and in each its threads.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(n)
#define __restrict__ __restrict

using namespace std;

struct Place { unsigned x, y, z; };
static Place threadIdx, blockIdx, blockDim, gridDim;

inline float __uint_as_float(unsigned u) { float a; memcpy(&a, &u, 4); return a; }
inline unsigned __float_as_uint(float a) { unsigned u; memcpy(&u, &a, 4); return u; }

inline float half_to_float(unsigned short bits) { _Float16 h; memcpy(&h, &bits, 2); return h; }
inline unsigned short float_to_half(float a)
{
    const _Float16 h = (_Float16)a;
    unsigned short bits;
    memcpy(&bits, &h, 2);
    return bits;
}

// Fibers

struct Barrier { int count = 0, round = 0; };

static const int WARP = 32;
static const unsigned THREADS = 1024;
static const size_t STACK = 64 << 10;
static char stacks[THREADS][STACK];
static vector<ucontext_t> fibers;
static vector<bool> ended;
static ucontext_t scheduler;
static unsigned current;
static long passed;  // barriers, by any thread
static Barrier block_barrier, warp_barriers[THREADS / WARP];
static double exchanged[THREADS];

static void wait(Barrier& barrier, int size)
{
    const int round = barrier.round;
    if (++barrier.count == size) barrier.count = 0, ++barrier.round;
    while (barrier.round == round) swapcontext(&fibers[current], &scheduler);
    ++passed;
}

inline void __syncthreads() { wait(block_barrier, blockDim.x); }

template <class T> T __shfl_xor_sync(unsigned, T value, int lanes)
{
    const unsigned me = threadIdx.x, warp = me / WARP;
    exchanged[me] = value;
    wait(warp_barriers[warp], WARP);
    const T other = (T)exchanged[me ^ lanes];
    wait(warp_barriers[warp], WARP);
    return other;
}

struct Call { virtual void run() = 0; };

template <class... A> struct CallOf : Call
{
    void (*kernel)(A...);
    void** args;

    CallOf(void (*kernel)(A...), void** args) : kernel(kernel), args(args) {}
    void run() override { run(index_sequence_for<A...>()); }
    template <size_t... I> void run(index_sequence<I...>) { kernel(*(A*)args[I]...); }
};

static Call* call;

static void fiber()
{
    call->run();
    ended[current] = true;
    swapcontext(&fibers[current], &scheduler);
}

static void run_block(unsigned only)
{
    const unsigned threads = blockDim.x;
    fibers.assign(threads, {});
    ended.assign(threads, false);
    for (unsigned t = 0; t < threads; ++t) {
        getcontext(&fibers[t]);
        fibers[t].uc_stack.ss_sp = stacks[t];
        fibers[t].uc_stack.ss_size = STACK;
        makecontext(&fibers[t], fiber, 0);
    }
    // Each warp runs as far as it can before the next one, so that a missing barrier shows.
    for (bool running = true; running;) {
        running = false;
        for (unsigned warp = 0; warp < threads; warp += WARP) {
            long before;
            do {
                before = passed;
                for (current = warp; current < min(warp + WARP, threads); ++current) {
                    if (ended[current] || (only != ~0u && current != only)) continue;
                    threadIdx = {current, 0, 0};
                    swapcontext(&scheduler, &fibers[current]);
                    running |= !ended[current];
                }
            } while (passed != before);
        }
    }
}

// Counted where the compiler is asked for it: accesses that are not aligned, integers that overflow.

static int faults = 0;

#define FAULT(name, ...) extern "C" void __ubsan_handle_##name(__VA_ARGS__) { ++faults; }
FAULT(type_mismatch_v1, void*, void*)
FAULT(add_overflow, void*, void*, void*)
FAULT(sub_overflow, void*, void*, void*)
FAULT(mul_overflow, void*, void*, void*)
FAULT(divrem_overflow, void*, void*, void*)
FAULT(negate_overflow, void*, void*)
FAULT(shift_out_of_bounds, void*, void*, void*)

extern "C" int count_faults() { return faults; }

// With `only`, a number of a thread, no other thread of the first block runs, and no other block.
template <class... A>
void launch(void (*kernel)(A...), unsigned grid, unsigned block, void** args, unsigned only)
{
    CallOf<A...> one(kernel, args);
    call = &one;
    gridDim = {grid, 1, 1};
    blockDim = {block, 1, 1};
    for (unsigned b = 0; b < (only == ~0u ? grid : 1); ++b) {
        blockIdx = {b, 0, 0};
        run_block(only);
    }
}

#define EXPORT(kernel) \
    extern "C" void launch_##kernel(unsigned grid, unsigned block, void** args, unsigned only) \
    { launch(kernel, grid, block, args, only); }
