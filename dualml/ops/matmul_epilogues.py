"""Matrix products that also do what would else read a matrix again: GELU, its gradient, the gradient of a bias.

They are the sources of the kernel matmul with an `epilogue`, for two matrices without a batch. cuBLASLt has the same
under the names GELU_AUX_BIAS, DGELU and BGRADB (https://docs.nvidia.com/cuda/cublas/#cublasltepilogue-t). A backend
says by `joins` which of them it wants: "gelu", "gelu_tanh" or "sums".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..array import Array, run
from ..kernel import KERNELS, Kernel, make_kernel
from .bias_gelu import gelu, gelu_slope
from .matmul import add_tensor_cores

# ---- kernels --------------------------------------------------------------------------------------------------------


def _product(a: Any, b: Any, ta: int, tb: int) -> Any:
    return np.matmul(a.T if ta else a, b.T if tb else b)


def _gelu(a: Any, b: Any, bias: Any, ta: int, tb: int, approximate: int, **sizes: int) -> Any:
    """gelu(a b + bias), and what gelu is taken of."""
    pre = _product(a, b, ta, tb)
    pre += bias
    return gelu(pre, approximate), pre


def _gelu_backward(a: Any, b: Any, pre: Any, ta: int, tb: int, approximate: int, **sizes: int) -> Any:
    """a b gelu'(pre)."""
    slope = gelu_slope(pre, approximate)
    slope *= _product(a, b, ta, tb)
    return slope


def _sums(a: Any, b: Any, ta: int, tb: int, **sizes: int) -> Any:
    """a b, and the sum of each row of the a that is multiplied."""
    return _product(a, b, ta, tb), a.sum(0 if ta else 1)


def _declare(reference: Any, epilogue: str, tensors: str, scalars: str = "", **context: int) -> Kernel:
    made = make_kernel(reference, f"a[P,Q] b[R,S] {tensors} | M:u32 N:u32 K:u32 ta:u32 tb:u32 {scalars}",
                       name=f"matmul_{epilogue}", groups="cdiv(M,64)*cdiv(N,64)", block=128,
                       static="ta tb approximate" if scalars else "ta tb", vector="Q, S, N", source="matmul",
                       context={"epilogue": epilogue, "has_bias": 0} | context)
    made.__doc__ = reference.__doc__
    KERNELS[made.name] = made
    return made


matmul_gelu = _declare(_gelu, "gelu", "bias[L] -> out[M,N] pre[M,N]", "approximate:u32", has_bias=1)
matmul_gelu_backward = _declare(_gelu_backward, "gelu_backward", "pre[M,N] -> out[M,N]", "approximate:u32")
matmul_sums = _declare(_sums, "sums", "-> out[M,N] sums[M]")
for _kernel in (matmul_gelu, matmul_gelu_backward, matmul_sums):
    add_tensor_cores(_kernel)


def kernel_cases(rng: np.random.Generator) -> Iterator[tuple[Kernel, tuple[np.ndarray, ...], dict[str, Any]]]:
    """Sample launches: odd sizes, tensor cores' sizes and nothing summed, stored as layers have them; and every way."""
    layers = {matmul_gelu: (0, 1), matmul_gelu_backward: (0, 0), matmul_sums: (1, 0)}
    sizes = (12, 24, 12), (67, 5, 9), (2, 13, 70), (70, 9, 0), (72, 136, 40), (200, 72, 264)
    for index, (m, n, k) in enumerate(sizes):
        for product, own in layers.items():
            for ta, tb in ((0, 0), (0, 1), (1, 0), (1, 1)) if index == 0 else (own,):
                a = rng.standard_normal((k, m) if ta else (m, k))
                b = rng.standard_normal((n, k) if tb else (k, n)) / max(1, k) ** 0.5
                third = {matmul_gelu: [rng.standard_normal(n)], matmul_sums: [],
                         matmul_gelu_backward: [2 * rng.standard_normal((m, n))]}[product]
                way = {} if product is matmul_sums else {"approximate": int(index > 3) or (ta + tb) % 2}
                yield product, (a, b, *third), {"M": m, "N": n, "K": k, "ta": ta, "tb": tb} | way


# ---- what ops use ---------------------------------------------------------------------------------------------------

def linear_gelu(x: Array, weight: Array, bias: Array, approximate: int) -> tuple[Array, Array]:
    """gelu(x weight^T + bias) and what gelu is taken of: x [M,K], weight [N,K], bias [N] -> two of [M,N]."""
    (rows, inner), columns = x.shape, weight.shape[0]
    out, pre = run(matmul_gelu, x, weight, bias, M=rows, N=columns, K=inner, ta=0, tb=1, approximate=approximate)
    return out, pre


def linear_gelu_gradient(dout: Array, weight: Array, pre: Array, approximate: int) -> Array:
    """The gradient of what gelu is taken of, whose result a layer of `weight` [K,N] takes: dout [M,K] -> [M,N]."""
    (rows, inner), columns = dout.shape, weight.shape[1]
    made: Array = run(matmul_gelu_backward, dout, weight, pre, M=rows, N=columns, K=inner, ta=0, tb=0,
                      approximate=approximate)
    return made


def weight_and_bias_gradients(dout: Array, x: Array, weight: Array | None = None,
                              bias: Array | None = None) -> tuple[Array, Array]:
    """dout [K,M] transposed times x [K,N], and the sums of dout's columns: the gradients [M,N] and [M] of a linear
    layer. `weight` and `bias` are where to write them, if anywhere."""
    (inner, rows), columns = dout.shape, x.shape[1]
    dweight, dbias = run(matmul_sums, dout, x, out=(weight, bias), M=rows, N=columns, K=inner, ta=1, tb=0)
    return dweight, dbias
