// Fibers: a stack each, and a switch between two. Whoever watches (ASan, TSan) is told.
#pragma once
#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#include "pages.h"

namespace cuda_cpu {
#if defined(DEVICE_ASAN) || defined(DEVICE_TSAN)
constexpr size_t STACK = 512 << 10;
#else
constexpr size_t STACK = 64 << 10;
#endif

struct Fiber { void *sp, *fake_stack, *watcher; const void* bottom; size_t size; };

#if defined(__x86_64__)
extern "C" void cuda_cpu_switch(void** save, void* to);
asm(R"(
.text
.hidden cuda_cpu_switch
.globl cuda_cpu_switch
.type cuda_cpu_switch,@function
cuda_cpu_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp,(%rdi); movq %rsi,%rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");
inline void* first_frame(char*, char* top, void (*entry)()) {
    void** sp = reinterpret_cast<void**>(top);
    *--sp = nullptr;
    *--sp = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; i++) *--sp = nullptr;
    return sp;
}
#else
inline void cuda_cpu_switch(void** save, void* to) {
    ucontext_t here;
    *save = &here;
    swapcontext(&here, static_cast<ucontext_t*>(to));
}
inline void* first_frame(char* bottom, char* top, void (*entry)()) {
    auto* u = reinterpret_cast<ucontext_t*>(top - (sizeof(ucontext_t) + 63) / 64 * 64);
    getcontext(u);
    u->uc_link = nullptr, u->uc_stack.ss_sp = bottom, u->uc_stack.ss_size = reinterpret_cast<char*>(u) - bottom;
    makecontext(u, entry, 0);
    return u;
}
#endif

inline void make_fiber(Fiber& f, unsigned number, void (*entry)()) {
    if (!f.bottom) {
        char* pages = map_pages(PAGE + STACK);
        mprotect(pages, PAGE, PROT_NONE);  // a stack that overflows hits this
        f.bottom = pages + PAGE, f.size = STACK;
    }
    char* bottom = static_cast<char*>(const_cast<void*>(f.bottom));
#if defined(DEVICE_ASAN)
    f.fake_stack = nullptr;
    ASAN_UNPOISON_MEMORY_REGION(bottom, STACK);
#elif defined(DEVICE_TSAN)
    if (f.watcher) __tsan_destroy_fiber(f.watcher);
    f.watcher = __tsan_create_fiber(0);
#endif
    f.sp = first_frame(bottom, bottom + STACK - number % 32 * 128, entry);  // staggered, or all stacks share cache sets
}

inline void switch_fiber(Fiber& from, Fiber& to) {
#if defined(DEVICE_ASAN)
    __sanitizer_start_switch_fiber(&from.fake_stack, to.bottom, to.size);
#elif defined(DEVICE_TSAN)
    from.watcher = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(to.watcher, __tsan_switch_to_fiber_no_sync);
#endif
    cuda_cpu_switch(&from.sp, to.sp);
#if defined(DEVICE_ASAN)
    __sanitizer_finish_switch_fiber(from.fake_stack, &to.bottom, &to.size);  // a fiber meets nobody but the scheduler
#endif
}
inline void fiber_entered(Fiber& from) {
#if defined(DEVICE_ASAN)
    __sanitizer_finish_switch_fiber(nullptr, &from.bottom, &from.size);
#else
    (void)from;
#endif
}

// Which meetings order memory: release what was done, acquire what others released.
#if defined(DEVICE_TSAN)
inline void release(void* at) { __tsan_release(at); }
inline void acquire(void* at) { __tsan_acquire(at); }
#else
inline void release(void*) {}
inline void acquire(void*) {}
#endif
}  // namespace cuda_cpu
