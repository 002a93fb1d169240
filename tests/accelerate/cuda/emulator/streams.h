// What the runtime and the driver stand on: memory, and the queues of streams.
#pragma once

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

#include <cuda_runtime_api.h>

#include "threads.h"

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
