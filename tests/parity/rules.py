"""When a result is right. Nobody sets tolerances by hand.

The error of a tensor is its largest absolute error against the reference in float64. It may be twice what NumPy makes
in the same dtype (the rule of Dao-AILab's flash-attention), plus a slack in units of the largest magnitude: 1e-6 in
float32, one unit in the last place in the 16-bit dtypes, whose results are rounded once more than the reference's.
NumPy itself, the cpu backend, must be within a hundred times the slack in float32. Integers are compared with NumPy's
in the same dtype, as the nearest integer to a large float depends on it.

WGSL promises less than C: exp 3 + 2|x| units in the last place, division 2.5, inverseSqrt 2, tanh 1e-5 absolutely
(WebGPU Shading Language, section 15.7.4). Its slack in float32 is therefore 2e-6: 16 units, what exp may make at
|x| = 6.
"""

from __future__ import annotations

import numpy as np

SLACK = {"float64": 1e-12, "float32": 1e-6, "float16": 2.0**-10, "bfloat16": 2.0**-7}
WGSL_SLACK = 2e-6


def slack(dtype: str, backend: str) -> float:
    """The error allowed in units of the largest magnitude, on top of twice NumPy's."""
    return max(SLACK[dtype], WGSL_SLACK if backend == "webgpu" else 0.0)


def error_ratio(got: np.ndarray, numpy: np.ndarray, exact: np.ndarray, dtype: str, backend: str) -> float:
    """Error over allowed error: right where 1 or less. Integers and bools must be equal, and so must NaN and infinity.

    Args:
        got: the result to judge.
        numpy: what the cpu backend makes in the same dtype.
        exact: the reference in float64.
    """
    if got.shape != exact.shape:
        return float("inf")
    if exact.dtype.kind in "biu":
        return 0.0 if np.array_equal(got, numpy) else float("inf")
    got, numpy = got.astype(np.float64), numpy.astype(np.float64)
    finite = np.isfinite(numpy) & np.isfinite(exact)
    if not np.array_equal(got[~finite], numpy[~finite], equal_nan=True) or not np.isfinite(got[finite]).all():
        return float("inf")
    if not finite.any():
        return 0.0
    got, numpy, exact = got[finite], numpy[finite], exact[finite]
    unit = slack(dtype, backend) * np.abs(exact).max()
    allowed = 100 * unit if (backend, dtype) == ("cpu", "float32") else 2 * np.abs(numpy - exact).max() + unit
    worst = np.abs(got - exact).max()
    return float(worst / allowed) if worst else 0.0
