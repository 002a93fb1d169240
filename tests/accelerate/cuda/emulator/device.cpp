// A CUDA device on the host: the runtime and driver calls that CuPy makes.
//
// Memory is the host's. Kernels are shared libraries that kernel.h makes of CUDA C++. Operations
// wait in the queue of their stream, and run as late as the calls allow: what reads a result
// without waiting for it reads old values here each time, and on a GPU now and then.

#include <cuda.h>

#include "runtime.h"

// The driver: modules and launches

struct Kernel
{
    std::string name;
    void (*body)(void**);
    const size_t* sizes;  // of its arguments, ended by 0
    bool waits;
};

static void run(const Kernel& kernel, Index blocks, Index threads, void** args)
{
    if (!emu_run(kernel.body, kernel.waits, blocks, threads, args, ALL)) return;
    fprintf(stderr, "emulator: %s: an access out of line, or an overflow.\n", kernel.name.c_str());
    abort();
}

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
