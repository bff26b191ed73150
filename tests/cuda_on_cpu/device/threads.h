// The running thread and how it meets others: barriers, shuffles, votes. runtime.cpp does the work.
#pragma once

namespace cuda_cpu {
struct Seat { uint3 index; unsigned lane; };
extern Seat* me;  // the CUDA thread that runs now
extern uint3 block_index, block_size, grid_size;
extern char* dynamic_shared;

int barrier(int vote, const char* file, int line);  // the number of threads that voted nonzero
void sync_warp(unsigned mask, const char* file, int line);
unsigned long long shuffle(unsigned mask, unsigned long long value, unsigned from, const char* file, int line);
unsigned ballot(unsigned mask, bool vote, const char* file, int line);
void trap(const char* file, int line);

// What a compiled kernel shows to the loader; dynamic_bytes is looked up in cuda_cpu::kernel first.
constexpr unsigned dynamic_bytes = 0;
#define CUDA_CPU_DYNAMIC_SHARED(bytes)                                                              \
    namespace cuda_cpu { namespace kernel { constexpr unsigned dynamic_bytes = (bytes); } } \
    using cuda_cpu::dynamic_shared;
struct Unit { void (*entry)(void** arguments); char *shared, *shared_end; unsigned params, dynamic; };

template <class T> T exchange(unsigned mask, T value, unsigned from, const char* file, int line) {
    static_assert(sizeof(T) <= 8 && __is_trivially_copyable(T), "a shuffle moves 1 to 8 bytes");
    unsigned long long bits = 0;
    __builtin_memcpy(&bits, &value, sizeof(T));
    bits = shuffle(mask, bits, from, file, line);
    __builtin_memcpy(&value, &bits, sizeof(T));
    return value;
}
}  // namespace cuda_cpu

#define threadIdx (cuda_cpu::me->index)
#define blockIdx (cuda_cpu::block_index)
#define blockDim (cuda_cpu::block_size)
#define gridDim (cuda_cpu::grid_size)
constexpr int warpSize = 32;

#define CUDA_CPU_AT const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(CUDA_CPU_AT) { cuda_cpu::barrier(0, file, line); }
inline int __syncthreads_count(int p, CUDA_CPU_AT) { return cuda_cpu::barrier(p != 0, file, line); }
inline int __syncthreads_or(int p, CUDA_CPU_AT) { return cuda_cpu::barrier(p != 0, file, line) > 0; }
inline int __syncthreads_and(int p, CUDA_CPU_AT) { return cuda_cpu::barrier(p == 0, file, line) == 0; }
inline void __syncwarp(unsigned mask = ~0u, CUDA_CPU_AT) { cuda_cpu::sync_warp(mask, file, line); }

template <class T> T __shfl_sync(unsigned mask, T v, int source, int width = 32, CUDA_CPU_AT) {
    const unsigned lane = cuda_cpu::me->lane;
    return cuda_cpu::exchange(mask, v, (lane & -width) | (source & (width - 1)), file, line);
}
template <class T> T __shfl_up_sync(unsigned mask, T v, unsigned d, int width = 32, CUDA_CPU_AT) {
    const int lane = cuda_cpu::me->lane, from = lane - int(d);
    return cuda_cpu::exchange(mask, v, from < (lane & -width) ? lane : from, file, line);
}
template <class T> T __shfl_down_sync(unsigned mask, T v, unsigned d, int width = 32, CUDA_CPU_AT) {
    const int lane = cuda_cpu::me->lane, from = lane + int(d);
    return cuda_cpu::exchange(mask, v, from > (lane | (width - 1)) ? lane : from, file, line);
}
template <class T> T __shfl_xor_sync(unsigned mask, T v, int flip, int width = 32, CUDA_CPU_AT) {
    const int lane = cuda_cpu::me->lane, from = lane ^ flip;
    return cuda_cpu::exchange(mask, v, from > (lane | (width - 1)) ? lane : from, file, line);
}
inline unsigned __ballot_sync(unsigned mask, int p, CUDA_CPU_AT) { return cuda_cpu::ballot(mask, p != 0, file, line); }
inline int __any_sync(unsigned mask, int p, CUDA_CPU_AT) { return cuda_cpu::ballot(mask, p != 0, file, line) != 0; }
inline int __all_sync(unsigned mask, int p, CUDA_CPU_AT) { return cuda_cpu::ballot(mask, p == 0, file, line) == 0; }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __trap(CUDA_CPU_AT) { cuda_cpu::trap(file, line); }

// Blocks run one after another on one core: an atomic operation is a plain one, but for ThreadSanitizer.
namespace cuda_cpu {
template <class T, class Change> T atomic(T* p, Change change) {
    T old, now;
    __atomic_load(p, &old, __ATOMIC_RELAXED);
    do now = change(old);
    while (!__atomic_compare_exchange(p, &old, &now, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}
}  // namespace cuda_cpu
#define CUDA_CPU_ATOMIC(NAME, RESULT)                   \
    template <class T, class U> T NAME(T* p, U value) { \
        const T v = T(value);                           \
        return cuda_cpu::atomic(p, [&](T a) -> T { return RESULT; }); \
    }
CUDA_CPU_ATOMIC(atomicAdd, a + v)
CUDA_CPU_ATOMIC(atomicSub, a - v)
CUDA_CPU_ATOMIC(atomicMin, v < a ? v : a)
CUDA_CPU_ATOMIC(atomicMax, v > a ? v : a)
CUDA_CPU_ATOMIC(atomicAnd, a & v)
CUDA_CPU_ATOMIC(atomicOr, a | v)
CUDA_CPU_ATOMIC(atomicXor, a ^ v)
CUDA_CPU_ATOMIC(atomicExch, ((void)a, v))
template <class T, class U, class V> T atomicCAS(T* p, U expected, V value) {
    return cuda_cpu::atomic(p, [&](T a) { return a == T(expected) ? T(value) : a; });
}
