"""Two matrix products in one launch, made by fusion from those of a captured step that do not need one another.

A linear layer's backward pass has two such: dx = dc W and dW = dc^T x. Together they fill a device better, as the last
workgroups of one do not wait alone. Each product has the tiles and the order of sums of the kernel matmul, so its bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from ..kernel import DeviceInfo, Kernel, Scalar, kernel
from .matmul import tile_rows

HEIGHTS = (64, 32, 16, 8, 4)


@kernel("a[P,Q] b[R,S] a2[P2,Q2] b2[R2,S2] -> out[M,N] out2[M2,N2] | M:u32 N:u32 K:u32 ta:u32 tb:u32 "
        "M2:u32 N2:u32 K2:u32 ta2:u32 tb2:u32", groups="cdiv(M,64)*cdiv(N,64)+cdiv(M2,64)*cdiv(N2,64)", block=128,
        static="ta tb ta2 tb2", vector="Q, S, N, Q2, S2, N2")
def matmul_pair(a: np.ndarray, b: np.ndarray, a2: np.ndarray, b2: np.ndarray, ta: int, tb: int, ta2: int, tb2: int,
                **sizes: int) -> tuple[np.ndarray, np.ndarray]:
    """a [M,K] (ta: [K,M]) times b [K,N] (tb: [N,K]), and the same of the others."""
    return (a.T if ta else a) @ (b.T if tb else b), (a2.T if ta2 else a2) @ (b2.T if tb2 else b2)


def _is_pair(rows: tuple[int, int], device: DeviceInfo, dims: Mapping[str, Scalar]) -> bool:
    wide = 4 * device.subgroup_size
    return bool(device.software and wide
                and rows == tuple(tile_rows(int(dims["M" + z]), int(dims["N" + z]), 1, wide) for z in ("", "2")))


_GROUPS = "cdiv(M,ROWS)*cdiv(N,4*COLS*BLOCK)+cdiv(M2,ROWS2)*cdiv(N2,4*COLS*BLOCK)"
for _rows in product(HEIGHTS, HEIGHTS):
    matmul_pair.variant("subgroup", "webgpu", partial(_is_pair, _rows), groups=_GROUPS, block=0,
                        constants={"ROWS": _rows[0], "ROWS2": _rows[1], "COLS": 1})
matmul_pair.variant("register", "webgpu", lambda device, dims: device.software, groups=_GROUPS, block=8,
                    constants={"ROWS": 16, "ROWS2": 16, "COLS": 2})


def kernel_cases(rng: np.random.Generator) -> Iterator[tuple[Kernel, tuple[np.ndarray, ...], dict[str, Any]]]:
    """Sample launches: the gradients of a linear layer, odd sizes, and every way of storing."""
    def stored(rows: int, columns: int, transposed: int) -> np.ndarray:
        return rng.standard_normal((columns, rows) if transposed else (rows, columns))
    for sizes in (((12, 20, 8), (8, 20, 12)), ((67, 5, 9), (130, 66, 21)), ((1, 1, 1), (3, 70, 0)),
                  ((0, 4, 2), (64, 64, 4))):
        for ways in ((0, 0, 1, 0), (0, 1, 1, 1), (1, 0, 0, 0), (1, 1, 0, 1)):
            (m, n, k), (m2, n2, k2) = sizes
            ta, tb, ta2, tb2 = ways
            yield matmul_pair, (stored(m, k, ta), stored(k, n, tb), stored(m2, k2, ta2), stored(k2, n2, tb2)), {
                "M": m, "N": n, "K": k, "ta": ta, "tb": tb, "M2": m2, "N2": n2, "K2": k2, "ta2": ta2, "tb2": tb2}
