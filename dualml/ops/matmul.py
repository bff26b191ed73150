"""Matrix products: out = a b, and with a bias what linear.py needs.

With c = a b: da = dc b^T and db = a^T dc. Operands may be stored transposed (`ta`, `tb`), so that no gradient copies
one. Batches broadcast as in NumPy and PyTorch; where b has no batch, that of a is folded into its rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial

import numpy as np

from ..array import Array, Shape, run
from ..dtypes import bfloat16, float16
from ..errors import ShapeError
from ..kernel import DeviceInfo, Kernel, Scalar, kernel
from .base import BadCase, Case, Gradients, Op
from .folds import reduced, sum_to
from .strided import expanded

# ---- kernel ---------------------------------------------------------------------------------------------------------


@kernel("a[BA,P,Q] b[BB,R,S] bias[L] -> out[B,M,N] | M:u32 N:u32 K:u32 B:u32 ta:u32 tb:u32 has_bias:u32",
        groups="cdiv(M,64)*cdiv(N,64)*B", block=128, static="ta tb has_bias", vector="Q, S, N")
def matmul(a: np.ndarray, b: np.ndarray, bias: np.ndarray, M: int, N: int, K: int, B: int, ta: int, tb: int,
           has_bias: int) -> np.ndarray:
    """a [BA,M,K] (ta: [BA,K,M]) times b [BB,K,N] (tb: [BB,N,K]), BA and BB being B or 1; bias [N] if has_bias."""
    out: np.ndarray = np.matmul(a.swapaxes(1, 2) if ta else a, b.swapaxes(1, 2) if tb else b)
    if has_bias:
        out += bias
    return out


@lru_cache(maxsize=4096)
def tile_rows(rows: int, columns: int, batch: int, wide: int) -> int:
    """Rows of the CPU drivers' tiles of `wide` columns: fetching b for a tile costs as much as about nine rows of it
    (seen with 8 lanes), and few tiles leave cores idle."""
    def cost(height: int) -> int:
        tiles = -(-rows // height) * -(-columns // wide) * batch
        return -(-tiles // 4) * (height + 9)
    return min((64, 32, 16, 8, 4), key=cost)


def _is_vector(rows: int, device: DeviceInfo, dims: Mapping[str, Scalar]) -> bool:
    """Whether the product is of at most `rows` vectors with a matrix whose rows are read along."""
    return bool(device.software and device.subgroup_size and dims["M"] <= rows and dims["tb"] and not dims["ta"]
                and dims["K"] % 4 == 0)


def _is_tile(rows: int, device: DeviceInfo, dims: Mapping[str, Scalar]) -> bool:
    wide = 4 * device.subgroup_size
    return bool(device.software and wide
                and rows == tile_rows(int(dims["M"]), int(dims["N"]), int(dims.get("B", 1)), wide))


for _rows in (1, 2):
    matmul.variant("vector", "webgpu", partial(_is_vector, _rows), groups="cdiv(N,BLOCK)*B", block=0,
                   constants={"ROWS": _rows})

# On tensor cores: rows and columns of a tile; warps below each other, what is summed in a slice, slices in memory.
_TILES = {(128, 128): (2, 32, 4), (64, 64): (2, 64, 3), (32, 128): (1, 64, 3)}
HALVES = ("float16", "bfloat16")


@lru_cache(maxsize=4096)
def _tensor_tile(rows: int, columns: int, batch: int, cores: int) -> tuple[int, int]:
    """The tile that takes least time: each costs its products, or the reading of its operands if that is more."""
    def cost(tile: tuple[int, int]) -> int:
        height, width = tile
        tiles = -(-rows // height) * -(-columns // width) * batch
        return -(-tiles // cores) * max(height * width // 64, height + width)
    return min(_TILES, key=cost)


def _on_tensor_cores(tile: tuple[int, int], device: DeviceInfo, n: Mapping[str, Scalar]) -> bool:
    """With mma.sync, ldmatrix and cp.async; stored rows must begin at multiples of 16 bytes."""
    return device.arch >= 80 and n["Q"] % 8 == 0 and n["S"] % 8 == 0 and tile == _tensor_tile(
        int(n["M"]), int(n["N"]), int(n.get("B", 1)), device.limits.get("multiprocessors", 1))


for _rows in (64, 32, 16, 8, 4):
    matmul.variant("subgroup", "webgpu", partial(_is_tile, _rows), block=0,
                   groups="cdiv(M,ROWS)*cdiv(N,4*COLS*BLOCK)*B", constants={"ROWS": _rows, "COLS": 1})
matmul.variant("register", "webgpu", lambda device, dims: device.software, block=8,
               groups="cdiv(M,ROWS)*cdiv(N,4*COLS*BLOCK)*B", constants={"ROWS": 16, "COLS": 2})


def add_tensor_cores(product: Kernel, batches: str = "1") -> None:
    """Declares matmul's source for tensor cores as one of `product`'s too."""
    for tile, cut in _TILES.items():
        product.variant("mma", "cuda", partial(_on_tensor_cores, tile), block=128, dtypes=(float16, bfloat16),
                        groups=f"cdiv(M,ROWS)*cdiv(N,COLS)*{batches}",
                        constants=dict(zip(("ROWS", "COLS", "DOWN", "DEPTH", "STAGES"), (*tile, *cut), strict=True)))


add_tensor_cores(matmul, "B")


def gemm(a: Array, b: Array, *, ta: bool = False, tb: bool = False, bias: Array | None = None,
         out: Array | None = None) -> Array:
    """The kernel on a [BA,M,K] (ta: [BA,K,M]) and b [BB,K,N] (tb: [BB,N,K]), BA and BB equal or 1: [B,M,N]."""
    rows, inner = (a.shape[2], a.shape[1]) if ta else a.shape[1:]
    made: Array = run(matmul, a, b, bias if bias is not None else b.reshape(b.size), out=(out,), M=rows,
                      N=b.shape[1] if tb else b.shape[2], K=inner, B=a.shape[0] if b.shape[0] == 1 else b.shape[0],
                      ta=int(ta), tb=int(tb), has_bias=int(bias is not None))
    return made


def _gradients(a: Array, b: Array, dc: Array, ta: bool, tb: bool, needs: tuple[bool, ...],
               into: tuple[Array | None, ...]) -> tuple[Array | None, Array | None]:
    """Gradients of gemm(a, b) with respect to a and b as they are stored, for each product of the batch."""
    da = db = None
    if needs[0]:
        da = gemm(b, dc, ta=tb, tb=True, out=into[0]) if ta else gemm(dc, b, tb=not tb, out=into[0])
    if needs[1]:
        db = gemm(dc, a, ta=True, tb=ta, out=into[1]) if tb else gemm(a, dc, ta=not ta, out=into[1])
    return da, db


# ---- ops ------------------------------------------------------------------------------------------------------------

class MatMul(Op):
    """a [..., M, K] times b [..., K, N]; with `ta` a is [..., K, M], with `tb` b is [..., N, K]. A 1-D operand is a
    vector, whose dimension the result does not have."""

    name = "matmul"

    def forward(self, a: Array, b: Array, ta: bool = False, tb: bool = False) -> Array:
        for name, array, stored in (("a", a, ta), ("b", b, tb)):
            if array.ndim < (2 if stored else 1):
                raise ShapeError(f"[matmul] {name} must have at least {2 if stored else 1} dimensions, got shape "
                                 f"{array.shape}. Multiply by numbers with *.")
        self.shapes = a.shape, b.shape
        vector_a, vector_b = a.ndim == 1, b.ndim == 1
        a = a.reshape(1, a.size) if vector_a else a
        b = b.reshape(1, b.size) if vector_b else b
        self.ta, self.tb = ta, tb or vector_b  # a vector is a row either way: as b it is stored transposed
        inner = a.shape[-2 if ta else -1], b.shape[-1 if self.tb else -2]
        if inner[0] != inner[1]:
            raise ShapeError(f"[matmul] b must have {inner[0]} elements along the dimension that is summed, like a of "
                             f"shape {self.shapes[0]}, got {inner[1]} in shape {self.shapes[1]}. Transpose one.")
        batch = self._batch(a, b)
        rows, columns = a.shape[-1 if ta else -2], b.shape[-2 if self.tb else -1]
        shape = batch + (() if vector_a else (rows,)) + (() if vector_b else (columns,))
        self.batch = batch
        if not ta and math.prod(b.shape[:-2]) == 1:
            a, b = a.reshape(1, math.prod(a.shape[:-1]), a.shape[-1]), b.reshape(1, *b.shape[-2:])
        else:
            a, b = self._stacked(a), self._stacked(b)
        self.save(a, b)
        return gemm(a, b, ta=ta, tb=self.tb).reshape(*shape)

    def _batch(self, a: Array, b: Array) -> Shape:
        try:
            return np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        except ValueError:
            raise ShapeError(f"[matmul] batch dimensions of a and b must broadcast, got {a.shape[:-2]} in shape "
                             f"{self.shapes[0]} and {b.shape[:-2]} in shape {self.shapes[1]}.") from None

    def _stacked(self, x: Array) -> Array:
        """x as [B or 1, rows, columns]."""
        count = math.prod(x.shape[:-2])
        if count != 1 and x.shape[:-2] != self.batch and count != math.prod(self.batch):
            x = expanded(x, self.batch + x.shape[-2:])
        return x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])

    def backward(self, dout: Array) -> Gradients:
        a, b = self.saved
        rows, columns = a.shape[2 if self.ta else 1], b.shape[1 if self.tb else 2]
        count = a.shape[0] if b.shape[0] == 1 else b.shape[0]
        slots = (*self.into, None, None)[:2]
        whole = [x.shape[0] == count and x.size == math.prod(shape)
                 for x, shape in zip((a, b), self.shapes, strict=True)]
        made = _gradients(a, b, dout.reshape(count, rows, columns), self.ta, self.tb, self.needs,
                          tuple(s if w else None for s, w in zip(slots, whole, strict=True)))
        return tuple(None if g is None else g.reshape(*shape) if w else self._summed(g, shape, slot)
                     for g, shape, slot, w in zip(made, self.shapes, slots, whole, strict=True))

    def _summed(self, gradient: Array, shape: Shape, slot: Array | None) -> Array:
        """The gradient [B, rows, columns] of an operand of `shape` that was broadcast."""
        if math.prod(shape[:-2]) == 1:
            return reduced("sum", gradient, (0,), gradient.dtype, out=slot).reshape(*shape)
        return sum_to(gradient.reshape(*self.batch, *gradient.shape[1:]), shape)

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        def case(name: str, a: Shape, b: Shape, **options: bool) -> Case:
            return Case(name, (rng.standard_normal(a), rng.standard_normal(b)), options)
        yield case("odd", (5, 7), (7, 3))
        yield case("tiles", (128, 36), (36, 64))
        yield case("odd tiles", (127, 21), (21, 63))
        for ta in (False, True):
            for tb in (False, True):
                for name, m, k, n in (("by four", 12, 8, 20), ("odd", 9, 11, 6)):
                    yield case(f"{name} ta={ta} tb={tb}", (k, m) if ta else (m, k), (n, k) if tb else (k, n),
                               ta=ta, tb=tb)
        yield case("vector vector", (9,), (9,))
        yield case("matrix vector", (2, 5, 8), (8,))
        yield case("vector matrix", (8,), (3, 8, 5))
        yield case("few rows", (3, 40), (17, 40), tb=True)
        yield case("folded batch", (2, 3, 4, 5), (5, 6))
        yield case("batch", (2, 3, 4, 5), (2, 3, 5, 6))
        yield case("batch of b", (4, 5), (3, 5, 6))
        yield case("transposed batch", (3, 5, 4), (5, 6), ta=True)
        yield case("broadcast batches", (2, 1, 4, 5), (3, 6, 5), tb=True)
        yield case("one by one", (1, 1), (1, 1))
        yield case("nothing summed", (3, 0), (0, 4))
        yield case("no rows", (0, 3), (3, 4))
        yield case("no batch", (0, 2, 3), (3, 4))
        yield case("no transposed batch", (0, 3, 2), (3, 4), ta=True)
        for ta in (False, True):
            for tb in (False, True):
                inputs = (rng.standard_normal((72, 136) if ta else (131, 72)),
                          rng.standard_normal((133, 72) if tb else (72, 144)))
                yield Case(f"tensor cores ta={ta} tb={tb}", inputs, {"ta": ta, "tb": tb}, HALVES,
                           differentiable=False)
        for name, left, right in (("few rows", (5, 40), (40, 200)), ("batches", (3, 40, 72), (3, 72, 48)),
                                  ("nothing", (9, 0), (0, 16))):
            yield Case(f"tensor cores {name}", (rng.standard_normal(left), rng.standard_normal(right)), {}, HALVES,
                       differentiable=False)

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        yield BadCase("inner", (np.zeros((2, 3)), np.zeros((4, 5))), r"\[matmul\] b must have 3 elements .* got 4")
        yield BadCase("inner tb", (np.zeros((2, 3)), np.zeros((3, 5))), r"\[matmul\] b must have 3 .* got 5",
                      {"tb": True})
        yield BadCase("batch", (np.zeros((2, 3, 4)), np.zeros((3, 4, 5))), r"\[matmul\] batch .* must broadcast")
        yield BadCase("scalar", (np.zeros(()), np.zeros((4, 5))), r"\[matmul\] a must have at least 1 dimensions")
