// cuBLASLt on the host: products with an epilogue, as its descriptors and layouts say.

#include <cmath>

#include "blas.h"

struct Description
{
    int compute, scale, ta = 0, tb = 0;
    unsigned epilogue = 1;
    void *bias = nullptr, *aux = nullptr;
    long aux_ld = 0;
};

struct Layout
{
    int type;
    long rows, cols, ld;
    int batch = 1;
    long stride = 0;
};

struct Preference
{
    uint64_t workspace = 0;
    uint32_t alignments[4] = {256, 256, 256, 256};  // of A, B, C, D
};

struct Algorithm { uint64_t data[8]; };

struct Heuristic
{
    Algorithm algo;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

enum { SUCCESS = 0, INVALID = 7, UNSUPPORTED = 15 };

API int cublasLtCreate(void** handle) { *handle = new char; return SUCCESS; }
API int cublasLtDestroy(void* handle) { delete (char*)handle; return SUCCESS; }
API size_t cublasLtGetVersion() { return 130000; }
API const char* cublasLtGetStatusName(int) { return "status of the emulator"; }
API const char* cublasLtGetStatusString(int) { return "status of the emulator"; }

API int cublasLtMatmulDescCreate(Description** d, int compute, int scale)
{
    *d = new Description{compute, scale};
    return SUCCESS;
}
API int cublasLtMatmulDescDestroy(Description* d) { delete d; return SUCCESS; }

template <class T> int store(T& to, const void* from, size_t size)
{
    if (size != sizeof to) return INVALID;
    memcpy(&to, from, size);
    return SUCCESS;
}

API int cublasLtMatmulDescSetAttribute(Description* d, int which, const void* value, size_t size)
{
    switch (which) {
    case 3: return store(d->ta, value, size);
    case 4: return store(d->tb, value, size);
    case 7: return store(d->epilogue, value, size);
    case 8: return store(d->bias, value, size);
    case 11: return store(d->aux, value, size);
    case 12: return store(d->aux_ld, value, size);
    default: return refused("an attribute of a product");
    }
}

API int cublasLtMatrixLayoutCreate(Layout** l, int type, uint64_t rows, uint64_t cols, int64_t ld)
{
    if (ld < (int64_t)rows) return INVALID;
    *l = new Layout{type, (long)rows, (long)cols, ld};
    return SUCCESS;
}
API int cublasLtMatrixLayoutDestroy(Layout* l) { delete l; return SUCCESS; }
API int cublasLtMatrixLayoutSetAttribute(Layout* l, int which, const void* value, size_t size)
{
    switch (which) {
    case 5: return store(l->batch, value, size);
    case 6: return store(l->stride, value, size);
    default: return refused("an attribute of a layout");
    }
}

API int cublasLtMatmulPreferenceCreate(Preference** p) { *p = new Preference; return SUCCESS; }
API int cublasLtMatmulPreferenceDestroy(Preference* p) { delete p; return SUCCESS; }
API int cublasLtMatmulPreferenceSetAttribute(Preference* p, int which, const void* v, size_t size)
{
    switch (which) {
    case 1: return store(p->workspace, v, size);
    case 5: case 6: case 7: case 8: return store(p->alignments[which - 5], v, size);
    default: return refused("an attribute of a preference");
    }
}

const size_t WORKSPACE = 1024;  // that an algorithm needs

// Names two algorithms, which compute the same, of arrays that are aligned so.
API int cublasLtMatmulAlgoGetHeuristic(
    void*, Description*, Layout*, Layout*, Layout*, Layout*, Preference* preference, int count,
    Heuristic* results, int* found)
{
    *found = preference->workspace < WORKSPACE ? 0 : count < 2 ? count : 2;
    for (int i = 0; i < *found; ++i) {
        results[i] = {};
        results[i].algo.data[0] = i + 1;
        for (int k = 0; k < 4; ++k) results[i].algo.data[k + 1] = preference->alignments[k];
        results[i].workspace = WORKSPACE;
    }
    return SUCCESS;
}

// A product as it is when it runs. Descriptors may be gone by then.
struct Matmul
{
    Description how;
    Layout la, lb, ld;
    const void *a, *b;
    void* d;
    double alpha;
};

enum {  // what the numbers of epilogues are put together from
    RELU = 2, BIAS = 4, DRELU = 8, BGRAD = 16, GELU = 32, DGELU = 64, AUX = 128, BGRADA = 256,
    BGRADB = 512
};

static double gelu(double x)
{
    return x / 2 * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

static double gelu_derivative(double x)
{
    const double c = sqrt(2 / M_PI), t = tanh(c * (x + 0.044715 * x * x * x));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x);
}

// Of float32 TF32 keeps 10 bits of the fraction, bfloat16 7.
static void round_inputs(std::vector<double>& values, int compute)
{
    const int lost = compute == 77 ? 13 : compute == 75 ? 16 : 0;
    for (double& value : values) {
        if (!lost || !std::isfinite(value)) continue;
        float a = (float)value;
        uint32_t bits;
        memcpy(&bits, &a, 4);
        bits = (bits + (1u << (lost - 1)) - 1 + (bits >> lost & 1)) >> lost << lost;
        memcpy(&a, &bits, 4);
        value = a;
    }
}

static void multiply(void* data)
{
    const Matmul p = *(Matmul*)data;
    const Description& how = p.how;
    const long m = p.ld.rows, n = p.ld.cols, k = how.ta ? p.la.rows : p.la.cols;
    const unsigned e = how.epilogue;
    for (long q = 0; q < p.ld.batch; ++q) {
        const auto at = [&](const void* data, const Layout& l) {
            return (char*)data + q * l.stride * size_of(l.type);
        };
        auto a = Matrix{at(p.a, p.la), p.la.type, m, k, p.la.ld, how.ta != 0}.values();
        auto b = Matrix{at(p.b, p.lb), p.lb.type, k, n, p.lb.ld, how.tb != 0}.values();
        round_inputs(a, how.compute), round_inputs(b, how.compute);
        const auto c = product(a, b, m, n, k);
        void* d = at(p.d, p.ld);
        const int type = p.ld.type;
        std::vector<double> sums(e & BGRADB ? n : m);
        for (long j = 0; j < n; ++j)
            for (long i = 0; i < m; ++i) {
                double z = p.alpha * c[i + j * m];
                if (e & BIAS) z += get(how.bias, type, i);
                unsigned char* bit = (unsigned char*)how.aux + j * (how.aux_ld / 8) + i / 8;
                const long kept = i + j * how.aux_ld;
                if (e & DGELU) z *= gelu_derivative(get(how.aux, type, kept));
                if (e & DRELU) z *= *bit >> (i % 8) & 1;
                if (e & RELU) {
                    if (e & AUX) *bit = (*bit & ~(1 << i % 8)) | (z > 0) << i % 8;
                    z = z > 0 || z != z ? z : 0;
                }
                if (e & GELU) {
                    if (e & AUX) set(how.aux, type, kept, z);
                    z = gelu(z);
                }
                if (e & BGRAD) sums[i] += z;
                set(d, type, i + j * p.ld.ld, z);
            }
        if (e & BGRADA)
            for (long l = 0; l < k; ++l)
                for (long i = 0; i < m; ++i) sums[i] += a[i + l * m];
        if (e & BGRADB)
            for (long j = 0; j < n; ++j)
                for (long l = 0; l < k; ++l) sums[j] += b[l + j * k];
        if (e & (BGRAD | BGRADA | BGRADB))
            for (size_t i = 0; i < sums.size(); ++i) set(how.bias, type, i, sums[i]);
    }
}

API int cublasLtMatmul(
    void*, Description* how, const void* alpha, const void* a, Layout* la, const void* b,
    Layout* lb, const void* beta, const void* c, Layout*, void* d, Layout* ld,
    const Algorithm* algo, void* workspace, size_t size, void* stream)
{
    const int scale = how->scale;
    const void* given[] = {a, b, c, d};
    for (int k = 0; k < 4; ++k)
        if ((uintptr_t)given[k] % algo->data[k + 1]) return INVALID;
    if (!workspace || size < WORKSPACE) return INVALID;
    if (la->batch != ld->batch || lb->batch != ld->batch) return INVALID;
    if (!algo->data[0] || c != d || get(beta, scale, 0) != 0) return refused("such a product");
    const long k = how->ta ? la->rows : la->cols, other = how->tb ? lb->cols : lb->rows;
    const long m = how->ta ? la->cols : la->rows, n = how->tb ? lb->rows : lb->cols;
    if (k != other || m != ld->rows || n != ld->cols) return INVALID;
    const unsigned e = how->epilogue;
    if (e & (DRELU | DGELU) && k == 1) return refused("a derivative beside one column");
    if (e & AUX && how->aux_ld < m) return INVALID;
    if (e & AUX && how->aux_ld % (e & (GELU | DGELU) ? 8 : 128)) return INVALID;
    put(stream, multiply, Matmul{*how, *la, *lb, *ld, a, b, d, get(alpha, scale, 0)});
    return SUCCESS;
}
