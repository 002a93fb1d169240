// What both libraries of products stand on: numbers of each type, as doubles, and the queue.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#define VISIBLE __attribute__((visibility("default")))
#define API extern "C" VISIBLE

extern "C" void emu_put(void* stream, void (*run)(void*), void* data, size_t size);

template <class Job> void put(void* stream, void (*run)(void*), Job job)
{
    emu_put(stream, run, &job, sizeof job);
}

enum Type { R32 = 0, R64 = 1, R16 = 2, B16 = 14 };  // as cudaDataType

inline size_t size_of(int type) { return type == R64 ? 8 : type == R32 ? 4 : 2; }

inline double get(const void* p, int type, long i)
{
    uint32_t bits;
    float a;
    switch (type) {
    case R16: return ((const _Float16*)p)[i];
    case B16:
        bits = (uint32_t)((const uint16_t*)p)[i] << 16;
        memcpy(&a, &bits, 4);
        return a;
    case R32: return ((const float*)p)[i];
    default: return ((const double*)p)[i];
    }
}

inline void set(void* p, int type, long i, double value)
{
    uint32_t bits;
    const float a = (float)value;
    switch (type) {
    case R16: ((_Float16*)p)[i] = (_Float16)a; break;
    case B16:
        memcpy(&bits, &a, 4);
        ((uint16_t*)p)[i] = a != a ? (bits >> 16) | 64 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        break;
    case R32: ((float*)p)[i] = a; break;
    default: ((double*)p)[i] = value;
    }
}

// Columns first, as the libraries have it: element (i, j) is at i + j * ld.
struct Matrix
{
    const void* data;
    int type;
    long rows, cols, ld;
    bool transposed;

    // Return op(A), its columns one after another.
    std::vector<double> values() const
    {
        std::vector<double> found((size_t)rows * cols);
        for (long j = 0; j < cols; ++j)
            for (long i = 0; i < rows; ++i)
                found[i + j * rows] = get(data, type, transposed ? j + i * ld : i + j * ld);
        return found;
    }
};

inline void axpy(long n, double factor, const double* __restrict x, double* __restrict y)
{
    for (long i = 0; i < n; ++i) y[i] += factor * x[i];
}

inline std::vector<double> product(
    const std::vector<double>& a, const std::vector<double>& b, long m, long n, long k)
{
    std::vector<double> c((size_t)m * n);
    for (long j = 0; j < n; ++j)
        for (long l = 0; l < k; ++l)
            axpy(m, b[l + j * k], &a[l * m], &c[j * m]);
    return c;
}

inline int refused(const char* name)
{
    fprintf(stderr, "emulator: %s is not there.\n", name);
    return 15;  // CUBLAS_STATUS_NOT_SUPPORTED
}
