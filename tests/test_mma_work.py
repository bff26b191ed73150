"""How the tensor-core kernels work, which results do not tell: banks of shared memory, and tiles that are left out."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest

from dualml import dtypes, runtime
from dualml.ops.attention import Attention
from dualml.ops.base import Case
from dualml.ops.matmul import _TILES
from tests.parity.outcomes import run_op
from tests.test_cuda_on_cpu import launch

# ---- banks of shared memory ----------------------------------------------------------------------------------------

BANKS = 8  # of 16 bytes: what shared memory reads at once, and so eight rows of a matrix should come from all of them
HEADERS = {"attention": "constexpr u32 D = {width}, ROWS = 32, COLS = 32;",
           "matmul": "constexpr u32 ROWS = {width}, COLS = {width}, DOWN = 2, DEPTH = {width};"}
PLACE = {"attention": "place", "matmul": "place<{width}>"}
WIDTHS = [("attention", width) for width in (32, 64, 96, 128)] + [("matmul", width) for width in (32, 64, 128)]
NOTED = """#include "lib/mma.cuh"
using F = __half;
__shared__ __align__(128) F tile[128 * 128];
template <bool TRANSPOSED = false> __device__ void noted(u32 (&d)[4], const void* row) {
    d[0] = (const char*)row - (const char*)tile;
}
#define ldmatrix noted
"""  # in place of ldmatrix: where in a tile the lane points at


def computed(header: str, constants: str, body: str, rows: int, columns: int, block: int) -> np.ndarray:
    """What a kernel made of a header of cuda/lib/ writes to out[rows, columns]."""
    source = f"{NOTED}{constants}\n#include \"lib/{header}_mma.cuh\"\nKERNEL {{ const u32 t = threadIdx.x; {body} }}"
    return launch(source, np.zeros((rows, columns), np.uint32), signature="x:u32[R,C] -> out:u32[R,C]", groups="1",
                  block=block)


def spread(offsets: np.ndarray) -> np.ndarray:
    """On how many banks each eight byte offsets of the last axis begin."""
    assert not (offsets % 16).any()
    return np.array([len(set(eight)) for eight in offsets.reshape(-1, 8) // 16 % BANKS])


@pytest.mark.parametrize(("header", "width"), WIDTHS)
def test_a_chunk_of_eight_rows_lies_on_all_banks(header: str, width: int) -> None:
    """And each chunk of the tile has a place of its own."""
    chunks = width // 8
    place = PLACE[header].format(width=width)
    body = f"for (u32 e = t; e < 16 * {chunks}; e += BLOCK) out[e] = 2 * {place}(e % 16, e / 16);"
    made = computed(header, HEADERS[header].format(width=width), body, chunks, 16, 32 if header == "attention" else 128)
    assert sorted(made.ravel()) == [16 * i for i in range(16 * chunks)]
    assert (spread(made) == BANKS).all()


@pytest.mark.parametrize("width", [32, 64, 96, 128])
def test_attention_reads_fragments_from_all_banks(width: int) -> None:
    body = """
    for (u32 i = 0; i < CHUNKS; i++) {  // even ones, with either order of matrices
        u32 d[4];
        fragment(d, tile, lane_part(i % 2), 16, i / 2 * 2);
        out[i * 32 + t] = d[0];
    }"""
    made = computed("attention", HEADERS["attention"].format(width=width), body, width // 8, 32, 32)
    assert (spread(made) == BANKS).all()


@pytest.mark.parametrize("tile", _TILES, ids=str)
@pytest.mark.parametrize("along", [True, False], ids=["along the sum", "across the sum"])
def test_products_read_fragments_from_all_banks(tile: tuple[int, int], along: bool) -> None:
    (rows, columns), (down, depth, _) = tile, _TILES[tile]
    constants = f"constexpr u32 ROWS = {rows}, COLS = {columns}, DOWN = {down}, DEPTH = {depth};"
    each = "".join(f"""
    for (u32 e = 0; e < {span} / 16 * STEPS; e++) {{
        using Tile = Operand<{str(along).lower()}, {span}>;
        u32 d[4];
        Tile::fragment(d, tile, Tile::lane<{is_a}>(0), e / STEPS, e % STEPS);
        if (t < 32) out[at++ * 32 + t] = d[0];
    }}""" for span, is_a in ((rows, "true"), (columns, "false")))
    count = (rows + columns) // 16 * (depth // 16)
    made = computed("matmul", constants, f"u32 at = 0; {each}", count, 32, 128)
    assert (spread(made) == BANKS).all()


# ---- tiles that no query sees --------------------------------------------------------------------------------------

MULTIPLIED = 16 * 16 * 8  # by a product of a warp


def attention_work(case: Case) -> dict[str, tuple[dict[str, int], int, int]]:
    """By source: its constants, the products of its warps, and the bytes that its blocks copied to shared memory."""
    backend: Any = runtime.get("cuda_on_cpu")
    found: dict[str, tuple[dict[str, int], int, int]] = {}

    class Hook:
        def before(self, launch: runtime.Launch) -> None:
            self.counted = backend.counted()

        def after(self, launch: runtime.Launch) -> None:
            products, copied = (backend.counted() - self.counted).tolist()
            found[launch.spec.stem] = dict(launch.spec.constants) | {"BLOCK": launch.spec.block}, products, copied

    hook = Hook()
    runtime.hooks.append(hook)
    try:
        with mock.patch.object(backend, "orders", (0,)):
            run_op(Attention, case, dtypes.bfloat16, backend)
    finally:
        runtime.hooks.remove(hook)
    return found


def tiles_seen(sees: np.ndarray, rows: int, columns: int) -> int:
    """How many tiles of [owned, streamed] hold a pair that sees each other."""
    owned, streamed = sees.shape
    return int(sees.reshape(owned // rows, rows, streamed // columns, columns).any((1, 3)).sum())


@pytest.mark.parametrize(("queries", "keys", "offset"), [(256, 256, 0), (128, 384, 64), (256, 128, 0)])
@pytest.mark.parametrize("size", [32, 128])
def test_tiles_beyond_the_diagonal_cost_nothing(size: int, queries: int, keys: int, offset: int) -> None:
    """No block copies a tile of which its rows see nothing, no warp multiplies one of which its own see nothing."""
    rng = np.random.default_rng(size)
    case = Case("case", tuple(rng.standard_normal((1, 1, n, size)) for n in (queries, keys, keys)),
                {"causal": True, "offset": offset})
    work = attention_work(case)
    sees = np.arange(keys) <= np.arange(queries)[:, None] + offset
    row = 2 * size  # bytes
    sides = {"attention_forward.mma": [(sees, 2, 1, 0)],  # products of a tile, owned tensors, bytes of statistics
             "attention_backward.mma": [(sees, 3, 2, 0), (sees.T, 4, 2, 8)]}
    for stem, owners in sides.items():
        constants, products, copied = work[stem]
        height, width = constants["ROWS"], constants["COLS"]
        own = height // (constants["BLOCK"] // 32)
        assert products * MULTIPLIED == sum(each * own * width * size * tiles_seen(pairs, own, width)
                                            for pairs, each, *_ in owners)
        assert copied == sum(owned * len(pairs) * row + tiles_seen(pairs, height, width) * width * (2 * row + more)
                             for pairs, _, owned, more in owners)
