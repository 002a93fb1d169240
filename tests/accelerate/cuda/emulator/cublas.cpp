// cuBLAS on the host: the calls behind CuPy's products. Sums are of doubles.

#include "blas.h"

struct Handle
{
    void* stream = nullptr;
    int math = 0, pointers = 0;
};

API int cublasCreate_v2(Handle** h) { *h = new Handle; return 0; }
API int cublasDestroy_v2(Handle* h) { delete h; return 0; }
API int cublasGetVersion_v2(Handle*, int* version) { *version = 130000; return 0; }
API int cublasSetStream_v2(Handle* h, void* stream) { h->stream = stream; return 0; }
API int cublasGetStream_v2(Handle* h, void** stream) { *stream = h->stream; return 0; }
API int cublasSetMathMode(Handle* h, int mode) { h->math = mode; return 0; }
API int cublasGetMathMode(Handle* h, int* mode) { *mode = h->math; return 0; }
API int cublasSetPointerMode_v2(Handle* h, int mode) { h->pointers = mode; return 0; }
API int cublasGetPointerMode_v2(Handle* h, int* mode) { *mode = h->pointers; return 0; }

// C = alpha op(A) op(B) + beta C

struct Gemm
{
    int ta, tb;
    long m, n, k;
    double alpha, beta;
    const void *a, *b;
    void* c;
    int at, bt, ct;
    long lda, ldb, ldc, stride_a, stride_b, stride_c, batch;
};

static void multiply(const Gemm& g)
{
    const auto a = Matrix{g.a, g.at, g.m, g.k, g.lda, g.ta != 0}.values();
    const auto b = Matrix{g.b, g.bt, g.k, g.n, g.ldb, g.tb != 0}.values();
    const auto c = product(a, b, g.m, g.n, g.k);
    for (long j = 0; j < g.n; ++j)
        for (long i = 0; i < g.m; ++i) {
            const long at = i + j * g.ldc;
            const double before = g.beta ? g.beta * get(g.c, g.ct, at) : 0;
            set(g.c, g.ct, at, g.alpha * c[i + j * g.m] + before);
        }
}

static void strided(void* data)
{
    const Gemm g = *(Gemm*)data;
    for (long i = 0; i < g.batch; ++i) {
        Gemm one = g;
        one.a = (char*)g.a + i * g.stride_a * size_of(g.at);
        one.b = (char*)g.b + i * g.stride_b * size_of(g.bt);
        one.c = (char*)g.c + i * g.stride_c * size_of(g.ct);
        multiply(one);
    }
}

// Scalars are on the host: CuPy sets the mode of pointers only for what is not here.
static double scalar(const void* p, int compute)
{
    const bool half = compute == 64 || compute == 65, wide = compute == 70 || compute == 71;
    return get(p, half ? R16 : wide ? R64 : R32, 0);
}

API int cublasGemmEx(
    Handle* h, int ta, int tb, int m, int n, int k, const void* alpha, const void* a, int at,
    int lda, const void* b, int bt, int ldb, const void* beta, void* c, int ct, int ldc,
    int compute, int)
{
    put(h->stream, strided, Gemm{
        ta, tb, m, n, k, scalar(alpha, compute), scalar(beta, compute), a, b, c, at, bt, ct,
        lda, ldb, ldc, 0, 0, 0, 1});
    return 0;
}

API int cublasGemmStridedBatchedEx(
    Handle* h, int ta, int tb, int m, int n, int k, const void* alpha, const void* a, int at,
    int lda, long long stride_a, const void* b, int bt, int ldb, long long stride_b,
    const void* beta, void* c, int ct, int ldc, long long stride_c, int batch, int compute, int)
{
    put(h->stream, strided, Gemm{
        ta, tb, m, n, k, scalar(alpha, compute), scalar(beta, compute), a, b, c, at, bt, ct,
        lda, ldb, ldc, (long)stride_a, (long)stride_b, (long)stride_c, batch});
    return 0;
}

// The pointers of a batch are in the memory of the device.
struct Batch
{
    Gemm each;
    const void* const* a;
    const void* const* b;
    void* const* c;
};

static void batched(void* data)
{
    const Batch batch = *(Batch*)data;
    for (long i = 0; i < batch.each.batch; ++i) {
        Gemm one = batch.each;
        one.a = batch.a[i], one.b = batch.b[i], one.c = batch.c[i];
        multiply(one);
    }
}

// y = alpha op(A) x + beta y

struct Gemv
{
    int t;
    long m, n;
    double alpha, beta;
    const void *a, *x;
    void* y;
    int type;
    long lda, step_x, step_y;
};

static void apply(void* data)
{
    const Gemv v = *(Gemv*)data;
    for (long i = 0; i < (v.t ? v.n : v.m); ++i) {
        double sum = 0;
        for (long j = 0; j < (v.t ? v.m : v.n); ++j)
            sum += get(v.a, v.type, v.t ? j + i * v.lda : i + j * v.lda)
                 * get(v.x, v.type, j * v.step_x);
        const double before = v.beta ? v.beta * get(v.y, v.type, i * v.step_y) : 0;
        set(v.y, v.type, i * v.step_y, v.alpha * sum + before);
    }
}

struct Dot
{
    long n;
    const void *x, *y;
    void* result;
    int type;
    long step_x, step_y;
};

static void dot(void* data)
{
    const Dot d = *(Dot*)data;
    double sum = 0;
    for (long i = 0; i < d.n; ++i)
        sum += get(d.x, d.type, i * d.step_x) * get(d.y, d.type, i * d.step_y);
    set(d.result, d.type, 0, sum);
}

#define GEMM(T, type, name) \
    API int name(Handle* h, int ta, int tb, int m, int n, int k, const T* alpha, const T* a, \
        int lda, const T* b, int ldb, const T* beta, T* c, int ldc) \
    { \
        put(h->stream, strided, Gemm{ta, tb, m, n, k, *alpha, *beta, a, b, c, type, type, type, \
            lda, ldb, ldc, 0, 0, 0, 1}); \
        return 0; \
    }
#define GEMM_STRIDED(T, type, name) \
    API int name(Handle* h, int ta, int tb, int m, int n, int k, const T* alpha, const T* a, \
        int lda, long long stride_a, const T* b, int ldb, long long stride_b, const T* beta, \
        T* c, int ldc, long long stride_c, int batch) \
    { \
        put(h->stream, strided, Gemm{ta, tb, m, n, k, *alpha, *beta, a, b, c, type, type, type, \
            lda, ldb, ldc, (long)stride_a, (long)stride_b, (long)stride_c, batch}); \
        return 0; \
    }
#define GEMM_BATCHED(T, type, name) \
    API int name(Handle* h, int ta, int tb, int m, int n, int k, const T* alpha, \
        const T* const* a, int lda, const T* const* b, int ldb, const T* beta, T* const* c, \
        int ldc, int batch) \
    { \
        const Gemm each{ta, tb, m, n, k, *alpha, *beta, 0, 0, 0, type, type, type, lda, ldb, ldc, \
            0, 0, 0, batch}; \
        put(h->stream, batched, Batch{each, (const void* const*)a, (const void* const*)b, \
            (void* const*)c}); \
        return 0; \
    }
#define GEMV(T, type, name) \
    API int name(Handle* h, int t, int m, int n, const T* alpha, const T* a, int lda, const T* x, \
        int step_x, const T* beta, T* y, int step_y) \
    { \
        put(h->stream, apply, Gemv{t, m, n, *alpha, *beta, a, x, y, type, lda, step_x, step_y}); \
        return 0; \
    }
#define DOT(T, type, name) \
    API int name(Handle* h, int n, const T* x, int step_x, const T* y, int step_y, T* result) \
    { \
        put(h->stream, dot, Dot{n, x, y, result, type, step_x, step_y}); \
        return 0; \
    }

GEMM(float, R32, cublasSgemm_v2)
GEMM(double, R64, cublasDgemm_v2)
GEMM_STRIDED(float, R32, cublasSgemmStridedBatched)
GEMM_STRIDED(double, R64, cublasDgemmStridedBatched)
GEMM_BATCHED(float, R32, cublasSgemmBatched)
GEMM_BATCHED(double, R64, cublasDgemmBatched)
GEMV(float, R32, cublasSgemv_v2)
GEMV(double, R64, cublasDgemv_v2)
DOT(float, R32, cublasSdot_v2)
DOT(double, R64, cublasDdot_v2)

// For the functions that are not here, which are added to this file:
