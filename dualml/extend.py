"""For those who add kernels and ops of their own: examples/02_new_kernel.py uses all of it.

`kernel` declares a kernel, `run` launches it on Arrays, an `Op` gives it a gradient, `apply` calls the Op on tensors.
"""

from .array import Array, run
from .kernel import Kernel, kernel
from .ops.base import BadCase, Case, Gradients, Op
from .tape import apply

__all__ = ["Array", "BadCase", "Case", "Gradients", "Kernel", "Op", "apply", "kernel", "run"]
