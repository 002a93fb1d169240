// How a kernel is run: what threads.cpp has, which is one library for all of a process.
#pragma once

#include <cstddef>

#define VISIBLE __attribute__((visibility("default")))
#define API extern "C" VISIBLE

struct Index { unsigned x, y, z; };

static const unsigned WARP = 32, THREADS = 1024, ALL = ~0u;
static const size_t SHARED = 48 << 10;

// Run a kernel, in whose library threads wait for each other or do not, and return how many faults
// there were. With `only`, a number of a thread, no other thread of the first block runs, and no
// other block.
API int emu_run(
    void (*kernel)(void**), bool waits, Index blocks, Index threads, void** args, unsigned only);
