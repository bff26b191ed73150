// What a .cu file sees when g++ compiles it for the CPU test device: the part of CUDA C++ that our kernels use.
// Only declarations and small inline functions, no standard header: a kernel compiles in a tenth of a second.
// The threads themselves are run by runtime.cpp, which is compiled once.
#pragma once
#define CUDA_CPU 1
#include "types.h"
#include "threads.h"
#include "intrinsics.h"
#include "float16.h"
#include "tensor_cores.h"
