// What the wrappers of PTX instructions in cuda/lib call here in place of inline assembly.
#pragma once

namespace cuda_cpu {
// mma.sync.m16n8k16.row.col.f32.T.T.f32, d += a b; a and b as float fragments, see mma_m16n8k16.
void multiply_fragments(float* d, const float* a, const float* b, const char* file, int line);
// Where each of the two elements that this lane gets of each matrix from ldmatrix lies; the lane loads them itself, so
// that a sanitizer sees who reads what.
void matrix_addresses(const void* row, bool transposed, unsigned matrices, const char** elements, const char* file,
                      int line);

// cp.async: the copy happens when it is waited for, the latest moment that the hardware may choose.
struct Copy { char* to; const char* from; unsigned bytes, valid, group; };
void queue_copy(const Copy& copy);
void commit_copies();
const Copy* next_copy(unsigned pending);  // null when at most `pending` committed groups are under way

template <class T> void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], CUDA_CPU_AT) {
    float fa[8], fb[4];
    T pair[2];
    for (int i = 0; i < 4; i++) __builtin_memcpy(pair, &a[i], 4), fa[2 * i] = pair[0], fa[2 * i + 1] = pair[1];
    for (int i = 0; i < 2; i++) __builtin_memcpy(pair, &b[i], 4), fb[2 * i] = pair[0], fb[2 * i + 1] = pair[1];
    multiply_fragments(d, fa, fb, file, line);
}
template <unsigned N> void ldmatrix(unsigned (&d)[N], const void* row, bool transposed, CUDA_CPU_AT) {
    const char* at[2 * N];
    matrix_addresses(row, transposed, N, at, file, line);
    for (unsigned i = 0; i < N; i++)
        d[i] = *(const unsigned short*)at[2 * i] | unsigned(*(const unsigned short*)at[2 * i + 1]) << 16;
}
inline void copy_async(void* to, const void* from, unsigned bytes, unsigned valid) {
    for (unsigned i = 0; i < bytes; i++) ((volatile char*)to)[i] = char(0xff);  // NaN to whoever does not wait
    queue_copy({(char*)to, (const char*)from, bytes, valid, 0});
}
inline void copy_wait(unsigned pending) {
    while (const Copy* c = next_copy(pending))
        for (unsigned i = 0; i < c->bytes; i++) c->to[i] = i < c->valid ? c->from[i] : 0;
}
}  // namespace cuda_cpu
