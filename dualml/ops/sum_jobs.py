"""Many sums over columns in one launch: what is left when a captured step's small sums are put together.

A job sums K rows of `width` vectors, `stride` vectors apart, in S pieces; `lanes` columns stand side by side in a
workgroup. It adds in the order of reduce_columns and sum_partials, so its bits are theirs. A row of `jobs` is
(first workgroup, source, first vector, K, width, stride, lanes, S, first vector of the result); vectors are 4 wide.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..kernel import Kernel, kernel

SOURCES = 6  # with jobs and result, as many buffers as a browser binds
FIELDS = 9


@kernel("x0[L0] x1[L1] x2[L2] x3[L3] x4[L4] x5[L5] jobs:u32[J,9] &out:A[M] | G:u32", groups="G", block=256,
        software_block=8, static="J", vector="L0 L1 L2 L3 L4 L5 M")
def sum_jobs(*arrays: Any, G: int) -> Any:
    """out[first + s*width + c] = the sum of piece s of column c, for each job."""
    *sources, jobs, out = arrays
    for _, source, start, rows, width, stride, _, pieces, first in (jobs * np.array(_UNITS, np.uint32)).tolist():
        x = np.lib.stride_tricks.as_strided(sources[source][start:], (rows, width), (stride * sources[source].itemsize,
                                                                                     sources[source].itemsize))
        least, more = divmod(rows, pieces)
        begin = 0
        for piece in range(pieces):
            end = begin + least + (piece < more)
            at = first + piece * width
            out[at:at + width] = np.add.reduce(x[begin:end], axis=0)
            begin = end
    return out


_UNITS = (1, 1, 4, 1, 4, 4, 1, 1, 4)  # elements of a field's unit


def kernel_cases(rng: np.random.Generator) -> Iterator[tuple[Kernel, tuple[np.ndarray, ...], dict[str, Any]]]:
    """Sample launches: with pieces, strides and sources that are not used."""
    sources = [rng.standard_normal(size) for size in (4, 40 * 24, 7 * 400, 8, 16, 4)]
    jobs, groups, result = [], 0, 0
    for source, start, rows, width, stride, lanes, pieces in (
            (1, 0, 40, 6, 6, 4, 3), (2, 0, 7, 50, 100, 8, 1), (2, 50, 7, 50, 100, 8, 1), (4, 1, 2, 1, 2, 8, 1)):
        jobs.append((groups, source, start, rows, width, stride, lanes, pieces, result))
        groups += -(-width // lanes) * pieces
        result += width * pieces
        yield sum_jobs, (*sources, np.array(jobs, np.uint32), rng.standard_normal(4 * result + 8)), {"G": groups}
