// Tensor cores and asynchronous copies: what PTX has and CUDA C++ has not (PTX ISA, mma, ldmatrix, cp.async; sm_80 and
// later). mma and ldmatrix are the work of a whole warp. All addresses are multiples of what is moved.
//
// Fragments, for lane = 4 g + c: a of 16x16 has rows g and g+8 at columns 2c, 2c+1 (a[0], a[1]) and 2c+8, 2c+9 (a[2],
// a[3]); b of 16x8 has rows 2c, 2c+1 (b0) and 2c+8, 2c+9 (b1) of column g; d of 16x8 has columns 2c, 2c+1 of rows g
// (d[0], d[1]) and g+8 (d[2], d[3]). So two neighbouring d, rounded, are an a.
#pragma once

// d += a b for 16-bit a and b, two floats rounded to a pair of them, the first in the low half, and back.
#define TENSOR_CORE_TYPE(T, PTX, PAIR, ROUND, WIDEN)                                                                  \
    __device__ __forceinline__ void mma_of(T, float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {                     \
        ON_GPU(asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." PTX "." PTX ".f32 {%0, %1, %2, %3}, "            \
                            "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                                           \
                            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                          \
                            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1)))                          \
        ON_CPU(cuda_cpu::mma_m16n8k16<T>(d, a, {b0, b1}))                                                             \
        ;                                                                                                             \
    }                                                                                                                 \
    __device__ __forceinline__ u32 pack_of(T, float low, float high) {                                                \
        const PAIR pair = ROUND(low, high);                                                                           \
        return *(const u32*)&pair;                                                                                    \
    }                                                                                                                 \
    __device__ __forceinline__ float2 unpack_of(T, u32 pair) { return WIDEN(*(const PAIR*)&pair); }
TENSOR_CORE_TYPE(__half, "f16", __half2, __floats2half2_rn, __half22float2)
TENSOR_CORE_TYPE(__nv_bfloat16, "bf16", __nv_bfloat162, __floats2bfloat162_rn, __bfloat1622float2)
#undef TENSOR_CORE_TYPE

template <class T> __device__ __forceinline__ void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    mma_of(T(), d, a, b0, b1);
}
template <class T> __device__ __forceinline__ u32 pack(float low, float high) { return pack_of(T(), low, high); }
template <class T> __device__ __forceinline__ float2 unpack(u32 pair) { return unpack_of(T(), pair); }

#ifndef CUDA_CPU
__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
#endif

// Four (two) matrices of 8 rows of 16 bytes: lane l gives where row l % 8 of matrix l / 8 begins, and gets of each
// matrix the elements 2c, 2c+1 of row g; transposed, of column g. For two matrices the lanes from 16 on give nothing.
template <bool TRANSPOSED = false> __device__ __forceinline__ void ldmatrix(u32 (&d)[4], const void* row) {
    ON_GPU(if (TRANSPOSED)
               asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                            : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(shared_address(row)));
           else
               asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                            : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(shared_address(row)));)
    ON_CPU(cuda_cpu::ldmatrix<4>(d, row, TRANSPOSED);)
}
template <bool TRANSPOSED = false> __device__ __forceinline__ void ldmatrix(u32 (&d)[2], const void* row) {
    ON_GPU(if (TRANSPOSED)
               asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                            : "=r"(d[0]), "=r"(d[1]) : "r"(shared_address(row)));
           else
               asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                            : "=r"(d[0]), "=r"(d[1]) : "r"(shared_address(row)));)
    ON_CPU(cuda_cpu::ldmatrix<2>(d, row, TRANSPOSED);)
}

// Global to shared memory past the registers: 16 (4) bytes, or zeros where `valid` is false. The copies since the last
// copy_commit are a group; copy_wait<N> returns when at most N groups of this thread are under way.
template <u32 BYTES> __device__ __forceinline__ void copy_async(void* to, const void* from, bool valid) {
    static_assert(BYTES == 16 || BYTES == 4, "a copy moves 16 or 4 bytes");
    ON_GPU(if (BYTES == 16)
               asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
                            :: "r"(shared_address(to)), "l"(from), "r"(valid ? 16 : 0) : "memory");
           else
               asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
                            :: "r"(shared_address(to)), "l"(from), "r"(valid ? 4 : 0) : "memory");)
    ON_CPU(cuda_cpu::copy_async(to, from, BYTES, valid ? BYTES : 0);)
}
__device__ __forceinline__ void copy_commit() {
    ON_GPU(asm volatile("cp.async.commit_group;" ::: "memory");)
    ON_CPU(cuda_cpu::commit_copies();)
}
template <u32 PENDING> __device__ __forceinline__ void copy_wait() {
    ON_GPU(asm volatile("cp.async.wait_group %0;" :: "n"(PENDING) : "memory");)
    ON_CPU(cuda_cpu::copy_wait(PENDING);)
}

// 2^x by the special function unit: 2 units in the last place, results below 2^-126 are 0.
__device__ __forceinline__ float exp2_approx(float x) {
    ON_GPU(float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y;)
    ON_CPU(return exp2f(x);)
}
