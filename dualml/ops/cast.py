"""Another dtype for the same values. Floats become integers by cutting off the fraction, limited to the range of the
integer (NaN gives any integer); anything but zero becomes True."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..array import Array, run
from ..dtypes import DType, bool_, float16, float32, float64, int32, uint32
from ..kernel import kernel
from .base import BadCase, Case, Op

# the largest floats below the integers' ends: float32 has no 2**31 - 1
_LIMITS = {(int32, False): (-2.0**31, 2.0**31 - 128), (int32, True): (-2.0**31, 2.0**31 - 1),
           (uint32, False): (0.0, 2.0**32 - 256), (uint32, True): (0.0, 2.0**32 - 1)}


@kernel("x:X[N] -> out:Y[N] | low high", groups="cdiv(N, BLOCK*W)", software_block=64, vector="N",
        kinds={"X": "fib", "Y": "fib"})
def cast_forward(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """low and high are equal where nothing needs limits; the backend stores the result in its dtype."""
    return x if low == high else np.clip(x, low, high)


def cast(x: Array, dtype: DType, into: Array | None = None) -> Array:
    """x in another dtype; x itself where it has that dtype. `into` is memory for the result."""
    if x.dtype is dtype:
        return x
    low, high = _LIMITS.get((dtype, x.dtype is float64), (0.0, 0.0)) if x.dtype.is_floating_point else (0.0, 0.0)
    out: Array = run(cast_forward, x.reshape(x.size), types={"Y": dtype}, out=(into,), low=low, high=high)
    return out.reshape(*x.shape)


class Cast(Op):
    """x as another dtype; the gradient goes back as x's own."""

    def forward(self, x: Array, dtype: DType) -> Array:
        self.dtype = x.dtype
        return cast(x, dtype)

    def backward(self, gradient: Array) -> tuple[Array]:
        return (cast(gradient, self.dtype, (*self.into, None)[0]),)

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        x = rng.standard_normal((5, 7)) * 3
        yield Case("float32", (x,), {"dtype": float32}, differentiable=False)
        yield Case("float16", (x[:4, :4],), {"dtype": float16}, dtypes=("float32", "float16"), differentiable=False)
        whole = np.array([-2.7, -0.5, 0.0, 0.5, 3e9, -3e9, 1.0, 7.9])
        for name, values in (("ends", whole), ("scalar", whole[0]), ("empty", whole[:0]), ("odd", whole[1:])):
            for dtype in (int32, bool_):
                yield Case(f"{dtype.name}-{name}", (values,), {"dtype": dtype}, ("float32",), differentiable=False)
        yield Case("from-int32", (np.arange(-4, 5, dtype=np.int32),), {"dtype": float32}, dtypes=("float32",),
                   differentiable=False)
        yield Case("from-bool", (np.arange(8) % 3 == 0,), {"dtype": int32}, dtypes=("float32",), differentiable=False)

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        return iter(())
