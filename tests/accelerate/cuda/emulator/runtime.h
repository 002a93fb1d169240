// What CuPy calls of the runtime: devices, memory, streams, events, captures and graphs.
#pragma once

#include "streams.h"

// Devices

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
    strcpy(p->name, "an emulated GPU");
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
