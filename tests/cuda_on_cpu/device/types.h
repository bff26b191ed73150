// Qualifiers and vector types.
#pragma once
#define __global__
#define __device__
#define __host__
#define __constant__ static const
// All that lies in a kernel library's .bss is shared memory, which the runtime finds there and fills with NaN before
// each block. `used`, or the compiler drops an array whose writes no lane of this thread reads.
#define __shared__ static __attribute__((used))
#define __launch_bounds__(...)
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))

typedef decltype(sizeof 0) size_t;

#define CUDA_CPU_VECTOR(T, N, ALIGN4)                                  \
    struct N##2 { alignas(2 * sizeof(T)) T x; T y; };                  \
    struct N##3 { T x, y, z; };                                        \
    struct N##4 { alignas(ALIGN4) T x; T y, z, w; };                   \
    inline N##2 make_##N##2(T x, T y) { return {x, y}; }               \
    inline N##3 make_##N##3(T x, T y, T z) { return {x, y, z}; }       \
    inline N##4 make_##N##4(T x, T y, T z, T w) { return {x, y, z, w}; }
CUDA_CPU_VECTOR(signed char, char, 4)
CUDA_CPU_VECTOR(unsigned char, uchar, 4)
CUDA_CPU_VECTOR(short, short, 8)
CUDA_CPU_VECTOR(unsigned short, ushort, 8)
CUDA_CPU_VECTOR(int, int, 16)
CUDA_CPU_VECTOR(unsigned, uint, 16)
CUDA_CPU_VECTOR(float, float, 16)
