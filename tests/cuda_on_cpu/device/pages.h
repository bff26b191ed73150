// Memory from the system, page by page; and which sanitizer, if any, the runtime is built for.
#pragma once
#include <cstddef>
#include <sys/mman.h>
#if defined(DEVICE_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#elif defined(DEVICE_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

namespace cuda_cpu {
constexpr size_t PAGE = 4096;
#if defined(DEVICE_ASAN)
constexpr bool ASAN = true;  // its red zones make shared memory larger
#else
constexpr bool ASAN = false;
#endif

inline size_t up(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

inline char* map_pages(size_t bytes, int access = PROT_READ | PROT_WRITE) {
    void* p = mmap(nullptr, bytes, access, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? nullptr : static_cast<char*>(p);
}
}  // namespace cuda_cpu
