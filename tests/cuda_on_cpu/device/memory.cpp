// Buffers between pages that fault. One ends at most 15 bytes before such a page; the rest of its own pages is filled
// with 0xff, and so is the buffer: what no thread has written reads as NaN.
#include "pages.h"

using namespace cuda_cpu;

namespace {
constexpr size_t GUARD = 16 << 20;  // costs no memory, only addresses
size_t before(size_t bytes) { return up(bytes, PAGE) - up(bytes, 16); }

bool filled(const char* at, size_t bytes) {
    char all = char(0xff);
    for (size_t i = 0; i < bytes; i++) all &= const_cast<const volatile char*>(at)[i];
    return all == char(0xff);
}
}  // namespace

extern "C" char* cuda_cpu_alloc(size_t bytes) {
    const size_t inner = up(bytes, PAGE);
    char* pages = map_pages(inner + 2 * GUARD, PROT_NONE);
    if (!pages || (inner && mprotect(pages + GUARD, inner, PROT_READ | PROT_WRITE))) return nullptr;
    __builtin_memset(pages + GUARD, 0xff, inner);
    char* start = pages + GUARD + before(bytes);
#if defined(DEVICE_ASAN)
    ASAN_POISON_MEMORY_REGION(start - before(bytes), before(bytes));
    ASAN_POISON_MEMORY_REGION(start + bytes, up(bytes, 16) - bytes);
#endif
    return start;
}

extern "C" void cuda_cpu_free(char* start, size_t bytes) {
    char* pages = start - before(bytes) - GUARD;
#if defined(DEVICE_ASAN)
    ASAN_UNPOISON_MEMORY_REGION(pages, up(bytes, PAGE) + 2 * GUARD);
#endif
    munmap(pages, up(bytes, PAGE) + 2 * GUARD);
}

// Whether the bytes beside a buffer are untouched: 0, or 1 when those before it are not, 2 those after it.
extern "C" int cuda_cpu_overrun(const char* start, size_t bytes) {
    if (!filled(start - before(bytes), before(bytes))) return 1;
    return filled(start + bytes, up(bytes, 16) - bytes) ? 0 : 2;
}
