// A CUDA device on the host: the runtime and driver calls that CuPy makes.
//
// Memory is the host's. Kernels are shared libraries that kernel.h makes of CUDA C++. Operations
// wait in the queue of their stream, and run as late as the calls allow: what reads a result
// without waiting for it reads old values here each time, and on a GPU now and then.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <dlfcn.h>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include <cuda.h>
#include <cuda_runtime_api.h>

#define VISIBLE __attribute__((visibility("default")))
#define API extern "C" VISIBLE

// The threads of a block are fibers, which wait for each other at barriers.

struct Index { unsigned x, y, z; };

static const unsigned WARP = 32, THREADS = 1024;
static const size_t STACK = 128 << 10, SHARED = 48 << 10;

extern "C" {
VISIBLE Index emu_thread, emu_block, emu_blocks, emu_threads;
VISIBLE alignas(16) char emu_shared[SHARED];
VISIBLE double emu_exchanged[THREADS];
void emu_switch(void** from, void* to);
}

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

struct Barrier { unsigned count = 0, round = 0; };

static char* stacks;
static void *places[THREADS], *scheduler;
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
    void* nowhere;
    emu_switch(&nowhere, scheduler);
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
        void** top = (void**)(stacks + STACK * (t + 1));
        *--top = nullptr;  // so that the stack is aligned as after a call
        *--top = (void*)fiber;
        places[t] = top - 6;  // registers
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

struct Kernel
{
    std::string name;
    void (*body)(void**);
    const size_t* sizes;  // of its arguments, ended by 0
    bool waits;
};

static void run(const Kernel& kernel, Index blocks, Index threads, void** args)
{
    body = kernel.body, arguments = args, emu_blocks = blocks, emu_threads = threads;
    for (unsigned z = 0; z < blocks.z; ++z)
        for (unsigned y = 0; y < blocks.y; ++y)
            for (unsigned x = 0; x < blocks.x; ++x) {
                emu_block = {x, y, z};
                if (kernel.waits) memset(emu_shared, 0xFF, SHARED), poisoned.clear();
                run_block(kernel.waits);
            }
}

// Devices and memory

static size_t number(const char* name)
{
    const char* text = getenv(name);
    return text ? strtoull(text, nullptr, 10) : 0;
}

static const int DEVICES = (int)number("EMULATED_DEVICES");
static size_t limit = number("EMULATED_MEMORY");  // bytes of each device

static std::recursive_mutex mutex;

// Who waits for it lets go of Python's lock meanwhile: what runs inside may need that.
struct Lock
{
    Lock()
    {
        if (mutex.try_lock()) return;
        static const auto held = (int (*)())dlsym(RTLD_DEFAULT, "PyGILState_Check");
        static const auto save = (void* (*)())dlsym(RTLD_DEFAULT, "PyEval_SaveThread");
        static const auto restore = (void (*)(void*))dlsym(RTLD_DEFAULT, "PyEval_RestoreThread");
        void* state = held && held() ? save() : nullptr;
        mutex.lock();
        if (state) restore(state);
    }
    ~Lock() { mutex.unlock(); }
};
#define LOCKED Lock lock

static thread_local int device = 0;
static thread_local cudaError_t last = cudaSuccess;

struct Block { size_t size; int device; cudaMemoryType type; };
static std::map<char*, Block> memory;
static std::map<int, size_t> used;

static std::map<std::string, long> counts;  // of calls, copies and launches
#define COUNT(name) LOCKED; ++counts[name]

API long emu_count(const char* name) { LOCKED; return counts[name]; }

API const char* emu_name(int i)  // of the i-th thing that is counted
{
    LOCKED;
    auto at = counts.begin();
    for (; at != counts.end() && i; --i) ++at;
    return at == counts.end() ? nullptr : at->first.c_str();
}

API size_t emu_used(int d) { LOCKED; return used[d]; }

API size_t emu_limit(size_t size) { LOCKED; std::swap(size, limit); return size; }

static cudaError_t fail(cudaError_t e) { return last = e; }

API cudaError_t emu_unsupported(const char* name)
{
    fprintf(stderr, "emulator: %s is not there.\n", name);
    return fail(cudaErrorNotSupported);
}

static const Block* found(const void* p)
{
    auto at = memory.upper_bound((char*)p);
    if (at == memory.begin()) return nullptr;
    --at;
    return (char*)p < at->first + at->second.size ? &at->second : nullptr;
}

// Streams, events, graphs

using Operation = std::function<void()>;

struct Graph { std::vector<Operation> operations; };

static const int PATIENCE = 1000;  // questions, after which what is asked for gets done

struct Stream
{
    int device = 0;
    unsigned flags = 0;
    int priority = 0;
    std::deque<Operation> queue;
    long begun = 0, done = 0;  // operations that were put in, and that ran
    std::shared_ptr<Graph> capture;  // what is written down, while this stream captures
    cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
    bool invalid = false;
    int asked = 0;  // whether all is done

    bool blocking() const { return !(flags & cudaStreamNonBlocking); }
};

struct Event
{
    unsigned flags = 0;
    std::shared_ptr<Stream> stream;
    long position = 0;  // how many operations of the stream it waits for
    std::shared_ptr<Graph> capture;
    double milliseconds = 0;
    int asked = 0;  // whether it is done
};

static std::map<int, std::shared_ptr<Stream>> null_streams;
static std::map<Stream*, std::shared_ptr<Stream>> streams;
static std::vector<std::shared_ptr<Stream>> orphans;  // destroyed, with work that is left
static std::set<Event*> events;
static std::map<Graph*, std::shared_ptr<Graph>> graphs, executables;

static std::shared_ptr<Stream> stream_of(const void* handle)
{
    if ((uintptr_t)handle > 2) {
        auto at = streams.find((Stream*)handle);
        return at == streams.end() ? nullptr : at->second;
    }
    auto& stream = null_streams[device];
    if (!stream) stream = std::make_shared<Stream>(), stream->device = device;
    return stream;
}

static bool is_null(const Stream& s) { return &s == null_streams[s.device].get(); }

static void flush(Stream& s, long until)
{
    while (!s.queue.empty() && s.done < until) {
        Operation operation = std::move(s.queue.front());
        s.queue.pop_front();
        ++s.done;
        const int before = device;
        device = s.device;
        operation();
        device = before;
    }
}

static void flush(Stream& s) { flush(s, s.begun); }

// The null stream, whose results others must wait for, comes last.
static void flush_device(int d)
{
    for (auto& [_, s] : streams) if (s->device == d) flush(*s);
    for (auto& s : orphans) if (s->device == d) flush(*s);
    orphans.erase(std::remove_if(orphans.begin(), orphans.end(), [](auto& s) {
        return s->queue.empty();
    }), orphans.end());
    if (null_streams[d]) flush(*null_streams[d]);
}

// With a seed, now and then some stream gets on with its work by itself.
static void stir()
{
    static uint64_t state = number("EMULATED_SEED");
    if (!state) return;
    const auto random = [&](unsigned below) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        return (unsigned)(state >> 33) % below;
    };
    if (random(4)) return;
    std::vector<Stream*> busy;
    for (auto& [d, s] : null_streams) if (s && !s->queue.empty()) busy.push_back(s.get());
    for (auto& [_, s] : streams) if (!s->queue.empty()) busy.push_back(s.get());
    for (auto& s : orphans) if (!s->queue.empty()) busy.push_back(s.get());
    if (busy.empty()) return;
    Stream* one = busy[random(busy.size())];
    flush(*one, one->done + 1 + random(one->queue.size()));
}

// What may wait, and memory that comes or goes, ends each capture that is not relaxed.
static cudaError_t unsafe(bool relaxed_too = false)
{
    bool any = false;
    for (auto& [_, s] : streams)
        if (s->capture && (relaxed_too || s->mode != cudaStreamCaptureModeRelaxed))
            any = s->invalid = true;
    return any ? fail(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

// The null stream waits for all blocking ones of its device, which cannot capture meanwhile.
static cudaError_t wait_for_blocking(const Stream& null)
{
    for (auto& [_, s] : streams) {
        if (s->device != null.device || !s->blocking()) continue;
        if (s->capture) return s->invalid = true, fail(cudaErrorStreamCaptureImplicit);
        flush(*s);
    }
    return cudaSuccess;
}

static cudaError_t put(const std::shared_ptr<Stream>& s, Operation operation)
{
    if (!s) return fail(cudaErrorInvalidResourceHandle);
    if (s->capture) {
        if (s->invalid) return fail(cudaErrorStreamCaptureInvalidated);
        s->capture->operations.push_back(std::move(operation));
        return cudaSuccess;
    }
    if (is_null(*s)) {
        if (auto e = wait_for_blocking(*s)) return e;
    } else if (s->blocking() && null_streams[s->device]) {
        flush(*null_streams[s->device]);
    }
    s->queue.push_back(std::move(operation));
    ++s->begun;
    stir();
    return cudaSuccess;
}

// Memory that a pool gives out has no values, though somebody has used it before.
API void emu_poison(void* stream, void* p, size_t size)
{
    LOCKED;
    put(stream_of(stream), [=] { memset(p, 0xFF, size); });
}

API void emu_put(void* stream, void (*run)(void*), void* data, size_t size)  // for other libraries
{
    LOCKED;
    auto copy = std::make_shared<std::vector<char>>((char*)data, (char*)data + size);
    put(stream_of(stream), [=] { run(copy->data()); });
}

// The runtime: devices

API cudaError_t cudaGetDeviceCount(int* n) { *n = DEVICES; return cudaSuccess; }
API cudaError_t cudaGetDevice(int* d) { *d = device; return cudaSuccess; }
API cudaError_t cudaSetDevice(int d)
{
    if (d < 0 || d >= DEVICES) return fail(cudaErrorInvalidDevice);
    device = d;
    return cudaSuccess;
}
API cudaError_t cudaDriverGetVersion(int* v) { *v = 13000; return cudaSuccess; }
API cudaError_t cudaRuntimeGetVersion(int* v) { *v = 13000; return cudaSuccess; }
API cudaError_t cudaGetLastError() { auto e = last; last = cudaSuccess; return e; }
API cudaError_t cudaPeekAtLastError() { return last; }
API cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) { *can = 0; return cudaSuccess; }

API const char* cudaGetErrorName(cudaError_t e)
{
    switch (e) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle: return "cudaErrorInvalidResourceHandle";
    case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
    case cudaErrorNotReady: return "cudaErrorNotReady";
    case cudaErrorCapturedEvent: return "cudaErrorCapturedEvent";
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated: return "cudaErrorStreamCaptureInvalidated";
    case cudaErrorStreamCaptureImplicit: return "cudaErrorStreamCaptureImplicit";
    case cudaErrorStreamCaptureIsolation: return "cudaErrorStreamCaptureIsolation";
    case cudaErrorIllegalState: return "cudaErrorIllegalState";
    case cudaErrorNotSupported: return "cudaErrorNotSupported";
    default: return "another error of CUDA";
    }
}
API const char* cudaGetErrorString(cudaError_t e) { return cudaGetErrorName(e); }

static int attribute(cudaDeviceAttr which)
{
    switch (which) {
    case cudaDevAttrComputeCapabilityMajor: return 9;
    case cudaDevAttrComputeCapabilityMinor: return 0;
    case cudaDevAttrMultiProcessorCount: return 4;
    case cudaDevAttrWarpSize: return WARP;
    case cudaDevAttrMaxThreadsPerBlock: return THREADS;
    case cudaDevAttrMaxThreadsPerMultiProcessor: return 2048;
    case cudaDevAttrMaxSharedMemoryPerBlock: return SHARED;
    case cudaDevAttrMaxGridDimX: return 2147483647;
    case cudaDevAttrMaxGridDimY: case cudaDevAttrMaxGridDimZ: return 65535;
    default: return 0;
    }
}
API cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int)
{
    *value = attribute(which);
    return cudaSuccess;
}
API cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int d)
{
    if (d < 0 || d >= DEVICES) return fail(cudaErrorInvalidDevice);
    memset(p, 0, sizeof *p);
    strcpy(p->name, "a GPU that the host plays");
    p->totalGlobalMem = limit;
    p->major = 9;
    p->warpSize = WARP;
    p->maxThreadsPerBlock = THREADS;
    p->sharedMemPerBlock = SHARED;
    p->multiProcessorCount = attribute(cudaDevAttrMultiProcessorCount);
    p->maxThreadsPerMultiProcessor = attribute(cudaDevAttrMaxThreadsPerMultiProcessor);
    return cudaSuccess;
}
API cudaError_t cudaDeviceSynchronize()
{
    COUNT("cudaDeviceSynchronize");
    if (auto e = unsafe(true)) return e;
    flush_device(device);
    return cudaSuccess;
}

// Memory

static cudaError_t allocate(void** p, size_t size, cudaMemoryType type)
{
    if (auto e = unsafe()) return e;
    const size_t whole = (std::max(size, (size_t)1) + 511) / 512 * 512;
    if (type == cudaMemoryTypeDevice) {
        if (used[device] + whole > limit) return fail(cudaErrorMemoryAllocation);
        used[device] += whole;
    }
    char* start = (char*)aligned_alloc(512, whole);
    memset(start, 0xFF, whole);  // NaN, where nothing has been written
    memory[start] = {whole, device, type};
    *p = start;
    return cudaSuccess;
}

static cudaError_t release(void* p)
{
    if (auto e = unsafe()) return e;
    if (!p) return cudaSuccess;
    auto at = memory.find((char*)p);
    if (at == memory.end()) return fail(cudaErrorInvalidValue);
    for (int d = 0; d < DEVICES; ++d) flush_device(d);
    if (at->second.type == cudaMemoryTypeDevice) used[at->second.device] -= at->second.size;
    memset(p, 0xFF, at->second.size);
    free(p);
    memory.erase(at);
    return cudaSuccess;
}

API cudaError_t cudaMalloc(void** p, size_t size)
{
    COUNT("cudaMalloc");
    return allocate(p, size, cudaMemoryTypeDevice);
}
API cudaError_t cudaHostAlloc(void** p, size_t size, unsigned)
{
    COUNT("cudaHostAlloc");
    return allocate(p, size, cudaMemoryTypeHost);
}
API cudaError_t cudaFree(void* p) { COUNT("cudaFree"); return release(p); }
API cudaError_t cudaFreeHost(void* p) { COUNT("cudaFreeHost"); return release(p); }
API cudaError_t cudaMemGetInfo(size_t* available, size_t* total)
{
    LOCKED;
    *available = limit - std::min(limit, used[device]), *total = limit;
    return cudaSuccess;
}
API cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void* p)
{
    LOCKED;
    const Block* block = found(p);
    memset(a, 0, sizeof *a);
    a->type = block ? block->type : cudaMemoryTypeUnregistered;
    a->device = block ? block->device : -2;
    a->devicePointer = a->hostPointer = (void*)p;
    return cudaSuccess;
}

static const char* direction(void* to, const void* from)
{
    const auto on_device = [](const void* p) {
        const Block* block = found(p);
        return block && block->type == cudaMemoryTypeDevice;
    };
    return on_device(to) ? on_device(from) ? "device to device" : "host to device"
                         : on_device(from) ? "device to host" : "host to host";
}

API cudaError_t cudaMemcpyAsync(
    void* to, const void* from, size_t n, cudaMemcpyKind, cudaStream_t handle)
{
    COUNT(direction(to, from));
    auto stream = stream_of(handle);
    if (!stream) return fail(cudaErrorInvalidResourceHandle);
    if (!found(from) && !stream->capture) {
        // Pageable memory is copied before the call returns; pinned memory is read later.
        auto copy = std::make_shared<std::vector<char>>((char*)from, (char*)from + n);
        return put(stream, [=] { memcpy(to, copy->data(), n); });
    }
    if (auto e = put(stream, [=] { memcpy(to, from, n); })) return e;
    if (!found(to) && !stream->capture) flush(*stream);
    return cudaSuccess;
}
API cudaError_t cudaMemcpy(void* to, const void* from, size_t n, cudaMemcpyKind)
{
    COUNT(direction(to, from));
    ++counts["cudaMemcpy"];
    if (auto e = unsafe()) return e;
    auto stream = stream_of(nullptr);
    if (auto e = put(stream, [=] { memcpy(to, from, n); })) return e;
    flush(*stream);
    return cudaSuccess;
}
API cudaError_t cudaMemcpyPeerAsync(
    void* to, int, const void* from, int source, size_t n, cudaStream_t handle)
{
    COUNT(direction(to, from));
    if (null_streams[source]) flush(*null_streams[source]);
    return put(stream_of(handle), [=] { memcpy(to, from, n); });
}
API cudaError_t cudaMemcpyPeer(void* to, int, const void* from, int source, size_t n)
{
    COUNT(direction(to, from));
    if (auto e = unsafe()) return e;
    flush_device(device), flush_device(source);
    memcpy(to, from, n);
    return cudaSuccess;
}
API cudaError_t cudaMemsetAsync(void* p, int value, size_t n, cudaStream_t handle)
{
    COUNT("cudaMemsetAsync");
    return put(stream_of(handle), [=] { memset(p, value, n); });
}

// Streams

API cudaError_t cudaStreamCreateWithPriority(cudaStream_t* handle, unsigned flags, int priority)
{
    COUNT("cudaStreamCreate");
    auto made = std::make_shared<Stream>();
    made->flags = flags, made->device = device, made->priority = priority;
    streams[made.get()] = made;
    *handle = (cudaStream_t)made.get();
    return cudaSuccess;
}
API cudaError_t cudaStreamCreateWithFlags(cudaStream_t* handle, unsigned flags)
{
    return cudaStreamCreateWithPriority(handle, flags, 0);
}
API cudaError_t cudaStreamCreate(cudaStream_t* handle)
{
    return cudaStreamCreateWithPriority(handle, 0, 0);
}
API cudaError_t cudaStreamDestroy(cudaStream_t handle)
{
    COUNT("cudaStreamDestroy");
    auto stream = stream_of(handle);
    if (!stream) return fail(cudaErrorInvalidResourceHandle);
    orphans.push_back(stream);  // what is in it goes on
    streams.erase(stream.get());
    return cudaSuccess;
}
API cudaError_t cudaStreamSynchronize(cudaStream_t handle)
{
    COUNT("cudaStreamSynchronize");
    auto stream = stream_of(handle);
    if (!stream) return fail(cudaErrorInvalidResourceHandle);
    if (auto e = unsafe()) return e;
    if (stream->capture) return stream->invalid = true, fail(cudaErrorStreamCaptureUnsupported);
    if (is_null(*stream))
        if (auto e = wait_for_blocking(*stream)) return e;
    flush(*stream);
    return cudaSuccess;
}
API cudaError_t cudaStreamQuery(cudaStream_t handle)
{
    COUNT("cudaStreamQuery");
    auto stream = stream_of(handle);
    if (auto e = unsafe()) return e;
    if (stream->capture) return stream->invalid = true, fail(cudaErrorStreamCaptureUnsupported);
    if (stream->queue.empty()) return cudaSuccess;
    if (++stream->asked > PATIENCE) flush(*stream);
    return cudaErrorNotReady;
}

// Events

API cudaError_t cudaEventCreateWithFlags(cudaEvent_t* handle, unsigned flags)
{
    LOCKED;
    auto made = new Event;
    made->flags = flags;
    events.insert(made);
    *handle = (cudaEvent_t)made;
    return cudaSuccess;
}
API cudaError_t cudaEventCreate(cudaEvent_t* handle) { return cudaEventCreateWithFlags(handle, 0); }
API cudaError_t cudaEventDestroy(cudaEvent_t handle)
{
    LOCKED;
    if (!events.erase((Event*)handle)) return fail(cudaErrorInvalidResourceHandle);
    delete (Event*)handle;
    return cudaSuccess;
}
API cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t on)
{
    COUNT("cudaEventRecord");
    static double now = 0;
    auto stream = stream_of(on);
    auto event = (Event*)handle;
    if (!stream || !events.count(event)) return fail(cudaErrorInvalidResourceHandle);
    event->stream = stream, event->capture = stream->capture;
    event->position = stream->begun, event->asked = 0;
    event->milliseconds = now += 0.001;  // each is later than the one before
    return cudaSuccess;
}
API cudaError_t cudaEventSynchronize(cudaEvent_t handle)
{
    COUNT("cudaEventSynchronize");
    auto event = (Event*)handle;
    if (event->capture) return unsafe(true), fail(cudaErrorCapturedEvent);
    if (auto e = unsafe()) return e;
    if (event->stream) flush(*event->stream, event->position);
    return cudaSuccess;
}
API cudaError_t cudaEventQuery(cudaEvent_t handle)
{
    COUNT("cudaEventQuery");
    auto event = (Event*)handle;
    if (event->capture) return unsafe(true), fail(cudaErrorCapturedEvent);
    if (auto e = unsafe()) return e;
    if (!event->stream || event->stream->done >= event->position) return cudaSuccess;
    if (++event->asked > PATIENCE) flush(*event->stream, event->position);
    return cudaErrorNotReady;
}
API cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to)
{
    LOCKED;
    auto start = (Event*)from, end = (Event*)to;
    if ((start->flags | end->flags) & cudaEventDisableTiming)
        return fail(cudaErrorInvalidResourceHandle);
    if (end->stream && end->stream->done < end->position) return fail(cudaErrorNotReady);
    *milliseconds = (float)(end->milliseconds - start->milliseconds);
    return cudaSuccess;
}
API cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t awaited, unsigned)
{
    COUNT("cudaStreamWaitEvent");
    auto stream = stream_of(handle);
    auto event = (Event*)awaited;
    if (!stream || !events.count(event)) return fail(cudaErrorInvalidResourceHandle);
    if (event->capture && event->capture == stream->capture) return cudaSuccess;
    if (event->capture) return unsafe(true), emu_unsupported("a fork in a capture");
    if (stream->capture) return stream->invalid = true, fail(cudaErrorStreamCaptureIsolation);
    auto other = event->stream;
    const long until = event->position;
    if (!other || other == stream) return cudaSuccess;
    return put(stream, [=] { flush(*other, until); });
}

// Captures and graphs

API cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode)
{
    COUNT("cudaStreamBeginCapture");
    auto stream = stream_of(handle);
    if (!stream || is_null(*stream)) return fail(cudaErrorStreamCaptureUnsupported);
    if (stream->capture) return fail(cudaErrorIllegalState);
    stream->capture = std::make_shared<Graph>();
    stream->mode = mode, stream->invalid = false;
    return cudaSuccess;
}
API cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph)
{
    COUNT("cudaStreamEndCapture");
    auto stream = stream_of(handle);
    *graph = nullptr;
    if (!stream || !stream->capture) return fail(cudaErrorIllegalState);
    auto made = std::move(stream->capture);
    stream->capture = nullptr;
    if (stream->invalid) return stream->invalid = false, fail(cudaErrorStreamCaptureInvalidated);
    graphs[made.get()] = made;
    *graph = (cudaGraph_t)made.get();
    return cudaSuccess;
}
API cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status)
{
    LOCKED;
    auto stream = stream_of(handle);
    if (!stream) return fail(cudaErrorInvalidResourceHandle);
    if (is_null(*stream))
        for (auto& [_, s] : streams)
            if (s->capture && s->blocking())
                return s->invalid = true, fail(cudaErrorStreamCaptureImplicit);
    *status = !stream->capture  ? cudaStreamCaptureStatusNone
              : stream->invalid ? cudaStreamCaptureStatusInvalidated
                                : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}
API cudaError_t cudaGraphInstantiate(cudaGraphExec_t* e, cudaGraph_t graph, unsigned long long)
{
    COUNT("cudaGraphInstantiate");
    auto made = std::make_shared<Graph>(*graphs.at((Graph*)graph));
    executables[made.get()] = made;
    *e = (cudaGraphExec_t)made.get();
    return cudaSuccess;
}
API cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    LOCKED;
    graphs.erase((Graph*)graph);
    return cudaSuccess;
}
API cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e)
{
    LOCKED;
    executables.erase((Graph*)e);
    return cudaSuccess;
}
API cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
API cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t handle)
{
    COUNT("cudaGraphLaunch");
    auto at = executables.find((Graph*)e);
    if (at == executables.end()) return fail(cudaErrorInvalidValue);
    auto graph = at->second;
    return put(stream_of(handle), [=] { for (auto& operation : graph->operations) operation(); });
}

// The driver: modules and launches

static std::map<std::pair<void*, std::string>, std::unique_ptr<Kernel>> kernels;

API CUresult cuDriverGetVersion(int* v) { return (CUresult)cudaDriverGetVersion(v); }
API CUresult cuGetErrorName(CUresult e, const char** text)
{
    *text = cudaGetErrorName((cudaError_t)e);  // the numbers are the same
    return CUDA_SUCCESS;
}
API CUresult cuGetErrorString(CUresult e, const char** text) { return cuGetErrorName(e, text); }
API CUresult cuCtxGetCurrent(CUcontext* c)
{
    *c = (CUcontext)(uintptr_t)(device + 1);
    return CUDA_SUCCESS;
}
API CUresult cuCtxSetCurrent(CUcontext c)
{
    device = c ? (int)(uintptr_t)c - 1 : 0;
    return CUDA_SUCCESS;
}
API CUresult cuCtxGetDevice(CUdevice* d) { *d = device; return CUDA_SUCCESS; }
API CUresult cuStreamGetCtx(CUstream handle, CUcontext* c)
{
    LOCKED;
    auto stream = stream_of(handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    *c = (CUcontext)(uintptr_t)(stream->device + 1);
    return CUDA_SUCCESS;
}
API CUresult cuModuleLoadData(CUmodule* m, const void* image)  // the path of a library
{
    COUNT("cuModuleLoadData");
    *m = (CUmodule)dlopen((const char*)image, RTLD_NOW | RTLD_LOCAL);
    if (!*m) fprintf(stderr, "emulator: %s\n", dlerror());
    return *m ? CUDA_SUCCESS : CUDA_ERROR_INVALID_IMAGE;
}
API CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }  // a graph may launch its kernels
API CUresult cuModuleGetFunction(CUfunction* f, CUmodule m, const char* name)
{
    LOCKED;
    auto& kernel = kernels[{m, name}];
    const auto in_library = [&](const char* prefix, const char* name) {
        return dlsym((void*)m, (std::string(prefix) + name).c_str());
    };
    if (!kernel) {
        auto body = (void (*)(void**))in_library("emu_run_", name);
        auto sizes = (const size_t* (*)())in_library("emu_sizes_", name);
        auto waits = (bool (*)())in_library("emu_waits", "");
        if (!body) return CUDA_ERROR_NOT_FOUND;
        kernel.reset(new Kernel{name, body, sizes(), waits()});
    }
    *f = (CUfunction)kernel.get();
    return CUDA_SUCCESS;
}
API CUresult cuFuncGetAttribute(int* value, CUfunction_attribute which, CUfunction)
{
    *value = which == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? THREADS : 0;
    return CUDA_SUCCESS;
}
API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* n, CUfunction, int threads, size_t)
{
    *n = attribute(cudaDevAttrMaxThreadsPerMultiProcessor) / threads;
    return CUDA_SUCCESS;
}
API CUresult cuLaunchKernel(
    CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
    unsigned shared, CUstream handle, void** params, void**)
{
    auto kernel = (const Kernel*)f;
    COUNT("launches");
    ++counts["kernel " + kernel->name];
    const bool empty = !gx || !gy || !gz || !bx || !by || !bz;
    if (empty || bx * by * bz > THREADS || gy > 65535 || gz > 65535 || shared > SHARED)
        return (CUresult)fail(cudaErrorInvalidValue);
    auto stream = stream_of(handle);
    if (!stream || stream->device != device) return (CUresult)fail(cudaErrorInvalidResourceHandle);
    struct Arguments
    {
        std::vector<std::vector<char>> values;
        std::vector<void*> pointers;
    };
    auto args = std::make_shared<Arguments>();
    for (const size_t* size = kernel->sizes; *size; ++size, ++params)
        args->values.emplace_back((char*)*params, (char*)*params + *size);
    for (auto& value : args->values) {
        const void* start = nullptr;  // of an array, if it is one
        if (value.size() >= sizeof start) memcpy(&start, value.data(), sizeof start);
        const Block* block = found(start);
        if (block && block->type == cudaMemoryTypeDevice && block->device != device)
            return (CUresult)fail(cudaErrorIllegalAddress);
        args->pointers.push_back(value.data());
    }
    const Index blocks{gx, gy, gz}, threads{bx, by, bz};
    return (CUresult)put(stream, [=] {
        run(*kernel, blocks, threads, args->pointers.data());
    });
}
