// A kernel on the host: its blocks one after another, and the threads of each in turns.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>

#include "threads.h"

extern "C" {
VISIBLE Index emu_thread, emu_block, emu_blocks, emu_threads;
VISIBLE alignas(16) char emu_shared[SHARED];
VISIBLE double emu_exchanged[THREADS];
}

// The threads of a block are fibers, each with a stack of its own.

static const size_t STACK = 128 << 10;
static char* stacks;
static void fiber();

#ifdef __x86_64__

static void* scheduler;
extern "C" void emu_switch(void** from, void* to);

asm(R"(
.text
emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

static void* fiber_of(unsigned t)
{
    void** top = (void**)(stacks + STACK * (t + 1));
    *--top = nullptr;  // so that the stack is aligned as after a call
    *--top = (void*)fiber;
    return top - 6;  // registers
}

#else  // slower, as each switch asks the system

#include <ucontext.h>

static ucontext_t contexts[THREADS + 1];
static void* scheduler = &contexts[THREADS];

static void emu_switch(void** from, void* to)
{
    swapcontext((ucontext_t*)*from, (ucontext_t*)to);
}

static void* fiber_of(unsigned t)
{
    getcontext(&contexts[t]);
    contexts[t].uc_stack.ss_sp = stacks + STACK * t;
    contexts[t].uc_stack.ss_size = STACK;
    makecontext(&contexts[t], fiber, 0);
    return &contexts[t];
}

#endif

// They wait for each other at barriers.

struct Barrier { unsigned count = 0, round = 0; };

static void* places[THREADS];
static bool ended[THREADS];
static unsigned current, alive, alive_in[THREADS / WARP];
static long passed;  // barriers, by any thread
static Barrier block_barrier, warp_barriers[THREADS / WARP];
static std::set<void*> poisoned;  // in this block
static void (*body)(void**);
static void** arguments;

static Index index_of(unsigned t)
{
    const unsigned x = emu_threads.x, y = emu_threads.y;
    return {t % x, t / x % y, t / (x * y)};
}

// Those that have ended are not waited for.
static void wait(Barrier& barrier, const unsigned& size)
{
    const unsigned round = barrier.round;
    ++barrier.count;
    while (barrier.round == round) {
        if (barrier.count >= size) barrier.count = 0, ++barrier.round, ++passed;
        else emu_switch(&places[current], scheduler);
    }
}

API void emu_sync_block() { wait(block_barrier, alive); }
API void emu_sync_warp() { wait(warp_barriers[current / WARP], alive_in[current / WARP]); }
API unsigned emu_number() { return current; }

static void fiber()
{
    body(arguments);
    ended[current] = true;
    --alive, --alive_in[current / WARP], ++passed;
    emu_switch(&places[current], scheduler);
}

static void run_block(bool waits)
{
    const unsigned n = emu_threads.x * emu_threads.y * emu_threads.z;
    if (!waits) {
        for (unsigned t = 0; t < n; ++t) emu_thread = index_of(current = t), body(arguments);
        return;
    }
    if (!stacks) stacks = (char*)aligned_alloc(4096, STACK * THREADS);
    alive = n, block_barrier = {};
    for (unsigned w = 0; w * WARP < n; ++w)
        alive_in[w] = std::min(n - w * WARP, WARP), warp_barriers[w] = {};
    for (unsigned t = 0; t < n; ++t) {
        places[t] = fiber_of(t);
        ended[t] = false;
    }
    // Each warp runs as far as it can before the next one, so that a missing barrier shows.
    for (bool running = true; running;) {
        running = false;
        const long at_first = passed;
        for (unsigned w = 0; w < n; w += WARP) {
            long before;
            do {
                before = passed;
                for (unsigned t = w; t < std::min(w + WARP, n); ++t) {
                    if (ended[t]) continue;
                    emu_thread = index_of(current = t);
                    emu_switch(&scheduler, places[t]);
                    running |= !ended[t];
                }
            } while (passed != before);
        }
        if (running && passed == at_first) {
            fprintf(stderr, "emulator: threads wait for each other for good.\n");
            abort();
        }
    }
}

// Shared memory that a kernel names has no values at the start of a block, either.
API void emu_shared_values(void* p, size_t size)
{
    if (poisoned.insert(p).second) memset(p, 0xFF, size);
}

// Counted where the compiler is asked for it: accesses that are not aligned, integers that overflow.

static int faults = 0;

#define FAULT(name, ...) API void __ubsan_handle_##name(__VA_ARGS__) { ++faults; }
FAULT(type_mismatch_v1, void*, void*)
FAULT(add_overflow, void*, void*, void*)
FAULT(sub_overflow, void*, void*, void*)
FAULT(mul_overflow, void*, void*, void*)
FAULT(divrem_overflow, void*, void*, void*)
FAULT(negate_overflow, void*, void*)
FAULT(shift_out_of_bounds, void*, void*, void*)

API int emu_run(
    void (*kernel)(void**), bool waits, Index blocks, Index threads, void** args, unsigned only)
{
    const int before = faults;
    body = kernel, arguments = args, emu_blocks = blocks, emu_threads = threads;
    if (only != ALL) {
        emu_block = {}, emu_thread = index_of(current = only);
        alive = alive_in[only / WARP] = 1;
        body(arguments);
        return faults - before;
    }
    for (unsigned z = 0; z < blocks.z; ++z)
        for (unsigned y = 0; y < blocks.y; ++y)
            for (unsigned x = 0; x < blocks.x; ++x) {
                emu_block = {x, y, z};
                if (waits) memset(emu_shared, 0xFF, SHARED), poisoned.clear();
                run_block(waits);
            }
    return faults - before;
}
