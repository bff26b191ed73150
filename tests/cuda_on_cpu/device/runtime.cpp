// Runs the threads of a block on one core: each CUDA thread is a fiber that goes on until it meets a barrier or a warp
// collective, and blocks run one after another. Compiled once; kernels are libraries that link against this one.
// With DEVICE_ASAN or DEVICE_TSAN the fibers are announced to the sanitizer; this file itself is never instrumented.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>
#include "types.h"
#include "threads.h"
#include "tensor_cores.h"
#include "fibers.h"

extern "C" {
unsigned long long cuda_cpu_products, cuda_cpu_copied;  // so far: mma.sync of a warp, and bytes of cp.async
}

namespace cuda_cpu {
Seat* me;
uint3 block_index, block_size, grid_size;
char* dynamic_shared;

namespace {
constexpr unsigned ALL = ~0u, MAX_THREADS = 1024;
constexpr size_t MAX_STATIC = 48 << 10, MAX_DYNAMIC = 227 << 10;
enum State { READY, AT_WARP, AT_BLOCK, DONE };
struct Warp;
struct Thread;
using Action = void (*)(Warp&, unsigned lanes);  // carries out a collective once its lanes are there

struct Thread : Seat {
    Warp* warp;
    State state;
    Fiber fiber;
    const char* file;  // where it waits
    int line, vote;
    unsigned mask;  // the collective that it waits in, and its part in it
    Action action;
    void* part;
    std::vector<Copy> copies;
    unsigned group;
};
struct Warp {
    Thread* lanes;
    unsigned live, waiting;
};
enum Order { FORWARD, REVERSED, SHUFFLED };  // and every larger number another shuffle

Thread threads[MAX_THREADS];
Warp warps[MAX_THREADS / 32];
unsigned count, order, seed;
int votes;
std::string error;
const Unit* unit;
void** arguments;
Fiber scheduler;

Thread& self() { return *static_cast<Thread*>(me); }

std::string where(const Thread& t) {
    char text[80];
    snprintf(text, sizeof text, "thread %u of block %u", t.index.x, block_index.x);
    const bool waits = t.state == AT_WARP || t.state == AT_BLOCK;
    return waits ? std::string(text) + " at " + t.file + ":" + std::to_string(t.line) : text;
}

void yield() { switch_fiber(self().fiber, scheduler); }

void fail(const std::string& what) {  // does not return to a fiber
    if (error.empty()) error = what;
    while (me) yield();
}

void run_thread() {
    fiber_entered(scheduler);
    for (;;) {
        acquire(&scheduler);
        unit->entry(arguments);
        Thread& t = self();
        if (!t.copies.empty()) fail("nobody waited for asynchronous copies of " + where(t));
        release(&t.fiber);
        t.state = DONE;
        yield();
    }
}

// ---- warp collectives ----

bool all_there(const Warp& w, unsigned mask) { return ((w.waiting | ~w.live) & mask) == mask; }

void complete(Warp& w, unsigned mask) {
    const unsigned lanes = mask & w.live;
    Thread& first = w.lanes[__builtin_ctz(lanes)];
    for (unsigned l = 0; l < 32; l++) {
        const Thread& t = w.lanes[l];
        const bool same_place = t.line == first.line && !strcmp(t.file, first.file);
        if (lanes >> l & 1 && !(same_place && t.mask == mask && t.action == first.action))
            return fail("lanes of a warp are in different collectives or masks: " + where(first) + ", " + where(t));
    }
    first.action(w, lanes);
    for (unsigned l = 0; l < 32; l++)
        if (lanes >> l & 1) w.lanes[l].state = READY;
    w.waiting &= ~mask;
}

void meet(unsigned mask, Action action, void* part, const char* file, int line) {
    Thread& t = self();
    Warp& w = *t.warp;
    t.mask = mask, t.action = action, t.part = part, t.file = file, t.line = line, t.state = AT_WARP;
    if (!(mask >> t.lane & 1)) fail("a lane is not in its own mask: " + where(t));
    w.waiting |= 1u << t.lane;
    if (all_there(w, mask)) complete(w, mask);
    else yield();
}

template <class Part> Part& part(Warp& w, unsigned lane) { return *static_cast<Part*>(w.lanes[lane].part); }

struct Shuffle { unsigned long long in, out; unsigned from; };
struct Ballot { bool vote; unsigned out; };
struct Product { float* d; const float *a, *b; };
struct Rows { const char* row; bool transposed; unsigned matrices; const char** elements; };

void do_sync(Warp& w, unsigned lanes) {  // the one collective that orders memory: shuffles do not
    for (unsigned l = 0; l < 32; l++)
        if (lanes >> l & 1) acquire(&w.lanes[l].fiber);
    for (unsigned l = 0; l < 32; l++)
        if (lanes >> l & 1) release(&w.lanes[l].mask);
}
void do_shuffle(Warp& w, unsigned lanes) {  // an absent lane gives NaN
    for (unsigned l = 0; l < 32; l++)
        if (lanes >> l & 1) {
            Shuffle& s = part<Shuffle>(w, l);
            s.out = lanes >> (s.from & 31) & 1 ? part<Shuffle>(w, s.from & 31).in : ~0ull;
        }
}
void do_ballot(Warp& w, unsigned lanes) {
    unsigned votes = 0;
    for (unsigned l = 0; l < 32; l++)
        if (lanes >> l & 1 && part<Ballot>(w, l).vote) votes |= 1u << l;
    for (unsigned l = 0; l < 32; l++)
        if (lanes >> l & 1) part<Ballot>(w, l).out = votes;
}
// Lane l holds rows l/4 and l/4+8 of a and d, columns 2(l%4).. of a, and column l/4 of b (PTX ISA, mma.m16n8k16).
void do_product(Warp& w, unsigned lanes) {
    if (lanes != ALL) return fail("mma.sync in a warp with absent lanes");
    cuda_cpu_products++;
    float a[16][16], b[16][8];
    for (unsigned l = 0; l < 32; l++) {
        const Product& p = part<Product>(w, l);
        const unsigned r = l / 4, c = l % 4 * 2;
        for (unsigned i = 0; i < 8; i++) a[r + i / 2 % 2 * 8][c + i / 4 * 8 + i % 2] = p.a[i];
        for (unsigned i = 0; i < 4; i++) b[c + i / 2 * 8 + i % 2][r] = p.b[i];
    }
    for (unsigned l = 0; l < 32; l++)
        for (unsigned i = 0; i < 4; i++) {
            const unsigned r = l / 4 + i / 2 * 8, c = l % 4 * 2 + i % 2;
            float sum = 0;
            for (unsigned k = 0; k < 16; k++) sum += a[r][k] * b[k][c];
            part<Product>(w, l).d[i] += sum;
        }
}
// Lane l gives the address of row l%8 of matrix l/8 and receives two elements of row l/4 of each (column, transposed).
void do_rows(Warp& w, unsigned lanes) {
    if (lanes != ALL) return fail("ldmatrix in a warp with absent lanes");
    for (unsigned l = 0; l < 32; l++)
        for (unsigned i = 0; i < 2 * part<Rows>(w, l).matrices; i++) {
            const Rows& mine = part<Rows>(w, l);
            const unsigned r = l / 4, c = l % 4 * 2 + i % 2;
            mine.elements[i] = part<Rows>(w, i / 2 * 8 + (mine.transposed ? c : r)).row + 2 * (mine.transposed ? r : c);
        }
}

// ---- the scheduler ----

unsigned random() { return order < SHUFFLED ? 0 : (seed = seed * 1664525 + 1013904223) >> 8; }

void resume(Thread& t) {
    me = &t;
    switch_fiber(scheduler, t.fiber);
    me = nullptr;
}

void run_warp(Warp& w) {  // until each of its lanes waits for the block or is done
    for (bool ran = true; ran;) {
        ran = false;
        const unsigned first = order == REVERSED ? 31 : random(), step = order == REVERSED ? 31 : random() | 1;
        for (unsigned i = 0; i < 32; i++) {
            Thread& t = w.lanes[(first + i * step) & 31];
            if (t.state != READY) continue;
            ran = true;
            resume(t);
            if (!error.empty()) return;
            if (t.state != DONE) continue;
            w.live &= ~(1u << t.lane);  // a lane that returns may be the last one others wait for
            for (unsigned l = 0; l < 32; l++)
                if (w.lanes[l].state == AT_WARP && all_there(w, w.lanes[l].mask)) complete(w, w.lanes[l].mask);
        }
    }
}

bool pass_barrier() {  // false when all threads are done
    Thread *in_block = nullptr, *in_warp = nullptr, *elsewhere = nullptr;
    votes = 0;
    for (unsigned i = 0; i < count; i++) {
        Thread& t = threads[i];
        acquire(&t.fiber);
        if (t.state == AT_WARP) in_warp = &t;
        if (t.state != AT_BLOCK) continue;
        if (!in_block) in_block = &t;
        if (t.line != in_block->line || strcmp(t.file, in_block->file)) elsewhere = &t;
        votes += t.vote;
    }
    if (in_warp)
        fail("deadlock: " + where(*in_warp) + " waits for lanes that never come" +
             (in_block ? ", " + where(*in_block) + " in __syncthreads" : ""));
    else if (elsewhere)
        fail("divergent __syncthreads: " + where(*in_block) + ", " + where(*elsewhere));
    for (unsigned i = 0; i < count; i++)
        if (threads[i].state == AT_BLOCK) threads[i].state = READY;
    return in_block && error.empty();
}

void fill(char* at, size_t bytes) {  // not memset, which a sanitizer would watch
    asm volatile("" : "+r"(at)::"memory");
    for (size_t i = 0; i < bytes; i++) const_cast<volatile char*>(at)[i] = char(0xff);
}

void run_block() {
    for (unsigned i = 0; i < count; i++) {
        threads[i].state = READY;
        threads[i].copies.clear();
        threads[i].group = 0;
    }
    const unsigned n = count / 32;
    for (unsigned i = 0; i < n; i++) warps[i].live = ALL, warps[i].waiting = 0;
    fill(unit->shared, unit->shared_end - unit->shared);
    fill(dynamic_shared, unit->dynamic);
    do {
        release(&scheduler);
        const unsigned first = random();
        const bool back = order == REVERSED || random() & 1;
        for (unsigned i = 0; i < n && error.empty(); i++) run_warp(warps[((back ? n - 1 - i : i) + first) % n]);
    } while (error.empty() && pass_barrier());
}

// ---- faults ----

#if defined(DEVICE_ASAN)
void on_report(const char* text) {
    if (error.empty()) error = text;
}
#endif

void on_fault(int, siginfo_t* info, void*) {
    char text[80];
    snprintf(text, sizeof text, "illegal memory access at %p by ", info->si_addr);
    if (me) {
        self().state = READY;
        fail(text + where(self()));
    }
    signal(SIGSEGV, SIG_DFL);  // not ours
}

struct FaultGuard {
    struct sigaction before[2];
    stack_t stack_before;
    FaultGuard() {
        static char stack[64 << 10];
        stack_t own = {};
        own.ss_sp = stack, own.ss_size = sizeof stack;
        sigaltstack(&own, &stack_before);
        struct sigaction act = {};
        act.sa_sigaction = on_fault;
        act.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
        sigaction(SIGSEGV, &act, &before[0]);
        sigaction(SIGBUS, &act, &before[1]);
    }
    ~FaultGuard() {
        sigaction(SIGSEGV, &before[0], nullptr);
        sigaction(SIGBUS, &before[1], nullptr);
        sigaltstack(&stack_before, nullptr);
    }
};

void prepare(unsigned threads_wanted) {
    static unsigned made;
#if defined(DEVICE_ASAN)
    __asan_set_error_report_callback(on_report);
#endif
    for (unsigned i = 0; i < threads_wanted; i++) {
        Thread& t = threads[i];
        if (i < made && t.state == DONE) continue;  // its fiber waits for the next kernel
        t.index = {i, 0, 0}, t.lane = i % 32, t.warp = &warps[i / 32], t.state = DONE;
        make_fiber(t.fiber, i, run_thread);
    }
    for (unsigned i = 0; i < threads_wanted / 32; i++) warps[i].lanes = &threads[i * 32];
    made = std::max(made, threads_wanted);
    count = threads_wanted;
    static char* end;  // of dynamic shared memory: a page that faults
    if (!end) {
        end = map_pages(up(MAX_DYNAMIC, PAGE) + PAGE) + up(MAX_DYNAMIC, PAGE);
        mprotect(end, PAGE, PROT_NONE);
    }
    dynamic_shared = end - up(unit->dynamic, 16);
}
}  // namespace

int barrier(int vote, const char* file, int line) {
    Thread& t = self();
    t.file = file, t.line = line, t.vote = vote, t.state = AT_BLOCK;
    release(&t.fiber);
    yield();
    acquire(&scheduler);
    return votes;
}
void sync_warp(unsigned mask, const char* file, int line) {
    Thread& t = self();
    release(&t.fiber);
    meet(mask, do_sync, nullptr, file, line);
    acquire(&t.mask);
}
unsigned long long shuffle(unsigned mask, unsigned long long value, unsigned from, const char* file, int line) {
    Shuffle s = {value, 0, from};
    meet(mask, do_shuffle, &s, file, line);
    return s.out;
}
unsigned ballot(unsigned mask, bool vote, const char* file, int line) {
    Ballot b = {vote, 0};
    meet(mask, do_ballot, &b, file, line);
    return b.out;
}
void multiply_fragments(float* d, const float* a, const float* b, const char* file, int line) {
    Product p = {d, a, b};
    meet(ALL, do_product, &p, file, line);
}
void matrix_addresses(const void* row, bool transposed, unsigned matrices, const char** elements, const char* file,
                      int line) {
    const bool gives = self().lane < 8 * matrices;
    if (gives && reinterpret_cast<size_t>(row) % 16) fail("ldmatrix address not aligned to 16 bytes, " + where(self()));
    Rows r = {static_cast<const char*>(row), transposed, matrices, elements};
    meet(ALL, do_rows, &r, file, line);
}
void queue_copy(const Copy& copy) {
    cuda_cpu_copied += copy.bytes;
    self().copies.push_back(copy);
    self().copies.back().group = self().group;
}
void commit_copies() { self().group++; }
const Copy* next_copy(unsigned pending) {
    Thread& t = self();
    static Copy copy;
    if (t.copies.empty() || t.copies.front().group + pending >= t.group) return nullptr;
    copy = t.copies.front();
    t.copies.erase(t.copies.begin());
    return &copy;
}
void trap(const char* file, int line) {
    self().file = file, self().line = line, self().state = AT_WARP;
    fail("__trap by " + where(self()));
}
}  // namespace cuda_cpu

// Runs `groups` blocks of `block` threads. Returns null, or what went wrong.
extern "C" const char* cuda_cpu_launch(const cuda_cpu::Unit* kernel, void** args, unsigned groups, unsigned block,
                                       unsigned schedule) {
    using namespace cuda_cpu;
    if (!groups || groups > 0x7fffffffu || !block || block > MAX_THREADS || block % 32) return "invalid launch";
    if (!ASAN && size_t(kernel->shared_end - kernel->shared) > MAX_STATIC)
        return "more than 48 KiB of static shared memory";
    if (kernel->dynamic > MAX_DYNAMIC) return "more than 227 KiB of dynamic shared memory";
    FaultGuard guard;
    error.clear();
    unit = kernel, arguments = args, order = seed = schedule;
    prepare(block);
    block_size = {block, 1, 1}, grid_size = {groups, 1, 1};
    for (unsigned i = 0; i < groups && error.empty(); i++) {
        block_index = {order == FORWARD ? i : groups - 1 - i, 0, 0};
        run_block();
    }
    return error.empty() ? nullptr : error.c_str();
}
