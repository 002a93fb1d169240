// float16 by the instructions of the GPU. (The tests put the host's in their place.)

__device__ inline float half_to_float(unsigned short bits)
{
    float a;
    asm("cvt.f32.f16 %0, %1;" : "=f"(a) : "h"(bits));
    return a;
}

__device__ inline unsigned short float_to_half(float a)
{
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(a));
    return bits;
}
