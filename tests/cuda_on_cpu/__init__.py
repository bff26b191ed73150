"""A test device that runs the unchanged kernels of cuda/ on the CPU; importing this registers backend `cuda_on_cpu`.

g++ compiles a kernel through the headers in device/; device/runtime.cpp runs each thread of a block as a fiber, exact
about barriers and warp operations. It is slow and strict: an out-of-bounds access, a barrier that not all threads
reach, lanes that meet in different shuffles are KernelErrors; memory that nobody wrote, shared memory too, is NaN.

DUALML_CUDA_ON_CPU is a list of the orders in which threads and blocks take turns: `forward`, `reversed`, `shuffled` or
`shuffled=SEED`. Each launch runs in all of them, by default the first two, and all must leave the same bits. The words
`asan` and `tsan` in it need `python -m tests.cuda_on_cpu asan -m pytest ...`, which loads the sanitizer before Python.

Not modelled: wgmma, TMA, mbarriers, cooperative groups, contraction to fused multiply-add, approximate intrinsics.
"""

from dualml import runtime

runtime.register_backend("cuda_on_cpu", "tests.cuda_on_cpu.backend", "CudaOnCpuBackend")
