// How a block learns its place: by its number alone, or, where the tokens of several sequences are packed (VARLEN), by
// finding its sequence. Functions that work on a place take PARAMS and the block's number, and begin with FIND.
#pragma once

#ifndef VARLEN
#define PARAMS const Params& p
#define PASSED p
#define FIND(KEYS)
#define QUERY_BLOCKS p.B * p.H * ((p.TQ + ROWS - 1) / ROWS)

#else
#define PARAMS const int* __restrict__ starts, Params p
#define PASSED starts, p
#define FIND(KEYS) if (!find<KEYS>(starts, p, g)) return
#define QUERY_BLOCKS p.H * (p.TQ / ROWS + p.S)

// Where sequence i begins and the one before it ends, inside the tensors whatever `starts` says. After the sequences,
// number S - 1 is of the tokens that belong to none.
__device__ __forceinline__ u32 bound(const int* starts, const Params& p, u32 i) {
    return i == 0 ? 0 : i >= p.S ? p.TQ : min((u32)starts[i], p.TQ);
}

// Makes of a block's number the one that it has in a launch for its sequence alone, and of Params those of that launch:
// the sequence is batch 1 of batches that are as long as what lies before it. Tokens of no sequence have no
// counterpart: they see nothing, and so become zero. False where the block has no tile.
template <bool KEYS> __device__ __forceinline__ bool find(const int* starts, Params& p, u32& g) {
    const u32 slots = p.TQ / ROWS + p.S, slot = g % slots;
    u32 low = 0, high = p.S - 1;  // sequence i has the slots from bound(i) / ROWS + i on
    while (low < high) {
        const u32 middle = (low + high + 1) / 2;
        if (bound(starts, p, middle) / ROWS + middle <= slot) low = middle;
        else high = middle - 1;
    }
    const u32 start = bound(starts, p, low), length = max(bound(starts, p, low + 1), start) - start;
    const u32 tile = slot - start / ROWS - low, tiles = (length + ROWS - 1) / ROWS;
    const bool alone = low == p.S - 1;
    g = ((KEYS ? p.KVH : p.H) + g / slots) * tiles + tile;
    p.TQ = alone && KEYS ? 0 : length;
    p.TK = alone && !KEYS ? 0 : length;
    p.q_b = start * p.q_t;
    p.k_b = start * p.k_t;
    p.o_b = start * p.o_t;
    return tile < tiles;
}
#endif
