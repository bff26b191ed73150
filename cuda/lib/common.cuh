// What every kernel sees first. Compiles under NVRTC and nvcc, and under g++ on the CPU test device (CUDA_CPU).
#pragma once
#ifdef CUDA_CPU
#define ON_GPU(...)
#define ON_CPU(...) __VA_ARGS__
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define ON_GPU(...) __VA_ARGS__
#define ON_CPU(...)
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)  // NVRTC has no <math.h>
#endif
#endif
typedef unsigned int u32;
constexpr u32 ALL_LANES = 0xffffffffu;

// Blocks that a multiprocessor should hold at once: `#define AT_ONCE , 4` before KERNEL. For kernels that ptxas would
// squeeze into fewer registers than they need, and spill.
#define AT_ONCE

// A kernel that wants more than 48 KiB of shared memory says so before KERNEL, in bytes and as a number (the template
// can compute it), and finds it at dynamic_shared.
#ifdef CUDA_CPU
#define DYNAMIC_SHARED(bytes) CUDA_CPU_DYNAMIC_SHARED(bytes)
#else
#define DYNAMIC_SHARED(bytes) extern __shared__ __align__(128) char dynamic_shared[];
#endif
