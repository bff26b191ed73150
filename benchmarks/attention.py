"""TFLOP/s of attention in 16 bits beside PyTorch's scaled_dot_product_attention, alternating in one run.

    python benchmarks/attention.py --backend cuda --json out/attention_cuda.json

The sizes are those of the published figures (FlashAttention-2 and 3): 16,384 tokens in all, 2,048 columns, heads of 64
and 128; forward 4 T T D multiply-adds' operations a head, half of them where causal, backward 2.5 times as many. What
runs is the kernel that would be chosen, the same source with other tiles, and the plain kernel. PyTorch comes with each
of its own implementations that takes the sizes. A row tells the median of the rounds; the error is the largest
difference from the plain kernel's result in float32, over its largest element, at the shortest length.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from dualml import runtime
from dualml.array import Array, from_numpy, run
from dualml.backends.base import Backend
from dualml.dtypes import as_dtype
from dualml.kernel import Kernel, Variant
from dualml.ops.attention import attention_backward, attention_backward_delta, attention_forward

Timer = Callable[[int], float]  # seconds of one run, from so many
TILES = {  # rows owned, rows that stream past, threads: what registers and shared memory allow, by head size
    ("forward", 64): [(128, 64, 128), (128, 32, 128), (128, 64, 256), (64, 64, 128), (64, 128, 128)],
    ("forward", 128): [(128, 32, 128), (128, 64, 128), (64, 64, 128), (128, 64, 256), (64, 32, 128)],
    ("backward", 64): [(128, 32, 128), (64, 64, 128), (64, 32, 128), (128, 64, 256)],
    ("backward", 128): [(64, 32, 128), (64, 64, 128), (128, 32, 256)],
}
KERNELS = {"forward": attention_forward, "backward": attention_backward}


@cache
def tiled(kernel: Kernel, rows: int, cols: int, block: int) -> Variant:
    """The tensor-core variant in other tiles; one object, as programs are kept by it."""
    first = next(v for v in kernel.variants if v.name == "mma")
    return replace(first, block=block, constants=(("ROWS", rows), ("COLS", cols)), when=lambda device, dims: True)


@contextlib.contextmanager
def only(kernel: Kernel, *variants: Variant) -> Iterator[None]:
    """With these variants; without any, with the plain kernel."""
    kept = kernel.variants[:]
    kernel.variants[:] = variants
    try:
        yield
    finally:
        kernel.variants[:] = kept


class Ours:
    """Packed projections of one size on the device, and attention over them."""

    def __init__(self, backend: Backend, qkv: np.ndarray, dout: np.ndarray, size: int, causal: bool) -> None:
        batch, tokens, width = qkv.shape
        heads = width // (3 * size)
        self.backend, rows = backend, 3 * heads
        self.q = from_numpy(qkv.reshape(-1, size), backend=backend)
        self.dout = from_numpy(dout.reshape(-1, size), backend=backend)
        self.scalars: dict[str, Any] = {
            "B": batch, "H": heads, "KVH": heads, "TQ": tokens, "TK": tokens, "offset": 0 if causal else tokens,
            "scale": size ** -0.5, "q_b": tokens * rows, "q_t": rows, "q_h": 1, "k_at": heads, "v_at": 2 * heads,
            "k_b": tokens * rows, "k_t": rows, "k_h": 1, "o_b": tokens * heads, "o_t": heads, "o_h": 1}
        self.places = {"NG": batch * tokens * rows, "gk_at": heads, "gv_at": 2 * heads}
        self.out, self.lse = self.forward()

    def forward(self) -> tuple[Array, Array]:
        found: tuple[Array, Array] = run(attention_forward, self.q, self.q, self.q, **self.scalars)
        return found

    def backward(self) -> Array:
        delta = run(attention_backward_delta, self.out, self.dout)
        found: Array = run(attention_backward, self.q, self.q, self.q, self.dout, self.lse, delta, **self.scalars,
                           **self.places)
        return found

    def timer(self, work: Callable[[], Any]) -> Timer:
        """By the device's clock where there is one."""
        def seconds(count: int) -> float:
            self.backend.synchronize()
            began = time.perf_counter()
            clock = self.backend.begin_timing()
            for _ in range(count):
                work()
            found = self.backend.end_timing() if clock else []
            self.backend.synchronize()
            return (sum(found) if clock else time.perf_counter() - began) / count
        return seconds


def ours(data: Ours, way: str, size: int) -> Iterator[tuple[str, Timer]]:
    """The chosen kernel and its rivals in this package; the plain one where that is not too slow."""
    work, kernel = getattr(data, way), KERNELS[way]
    each: list[tuple[int, int, int] | None] = [*TILES[way, size], *([None] if data.scalars["TQ"] <= 2048 else [])]
    yield "dualml", data.timer(work)
    for shape in each:
        chosen = (tiled(kernel, *shape),) if shape else ()

        def timer(count: int, variants: Any = chosen) -> float:
            with only(kernel, *variants):
                return data.timer(work)(count)
        yield ("plain" if shape is None else f"{shape[0]}x{shape[1]} by {shape[2]}"), timer


def torchs(qkv: np.ndarray, dout: np.ndarray, way: str, size: int, causal: bool, where: str, dtype: str) \
        -> Iterator[tuple[str, Timer]]:
    """PyTorch's implementations, on tensors [B,H,T,D] that lie so."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    batch, tokens, width = qkv.shape
    heads = width // (3 * size)
    kind = getattr(torch, dtype)
    packed = torch.tensor(qkv.astype(np.float32)).to(where, kind).reshape(batch, tokens, 3, heads, size)
    q, k, v = (packed[:, :, i].transpose(1, 2).contiguous().requires_grad_(way == "backward") for i in range(3))
    seed = torch.tensor(dout.astype(np.float32)).to(where, kind).reshape(batch, tokens, heads, size).transpose(1, 2)
    seed = seed.contiguous()

    def wait() -> float:
        if where == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()
    for name in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION"):
        def forward(name: str = name) -> Any:
            with sdpa_kernel(getattr(SDPBackend, name)):
                return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)

        def timer(count: int, forward: Callable[[], Any] = forward) -> float:
            out = forward()
            began = wait()
            for _ in range(count):
                if way == "forward":
                    out = forward()
                else:
                    torch.autograd.grad(out, (q, k, v), seed, retain_graph=True)
            return (wait() - began) / count
        yield f"torch {name.lower().replace('_', ' ')}", timer


def error_of(data: Ours, way: str) -> float:
    """The largest difference from the plain kernel in float32, over its largest element."""
    wide = [from_numpy(x.numpy().astype(np.float32), backend=data.backend) for x in (data.q, data.dout)]
    out, lse = run(attention_forward, wide[0], wide[0], wide[0], **data.scalars)
    right, got = out, data.out
    if way == "backward":
        delta = run(attention_backward_delta, out, wide[1])
        right = run(attention_backward, wide[0], wide[0], wide[0], wide[1], lse, delta, **data.scalars, **data.places)
        got = data.backward()
    exact = right.numpy()
    return float(np.abs(got.numpy().astype(np.float32) - exact).max() / np.abs(exact).max())


def compare(contenders: list[tuple[str, Timer]], rounds: int, count: int) -> dict[str, float]:
    """Median seconds of each, taking turns. Who fails is told and left out."""
    times: dict[str, list[float]] = {}
    for name, timer in contenders:
        try:
            timer(1)  # compiles, and fills caches
            times[name] = []
        except Exception as error:
            print(f"  {name}: {type(error).__name__}: {str(error).splitlines()[0][:160]}", flush=True)
    for _ in range(rounds):
        for name, timer in contenders:
            if name in times:
                times[name].append(timer(count))
    return {name: statistics.median(found) for name, found in times.items()}


def measure(backend: Backend, options: argparse.Namespace, tokens: int, size: int,
            causal: bool) -> list[dict[str, Any]]:
    """Rows of one size: forward and backward."""
    batch, heads, rng = max(1, options.tokens // tokens), options.width // size, np.random.default_rng(0)
    host = as_dtype(options.dtype).host
    block = rng.standard_normal((1, min(tokens, 1024), 4, heads * size), np.float32).astype(host)
    many = np.tile(block, (batch, -(-tokens // block.shape[1]), 1, 1))[:, :tokens]
    qkv, dout = many[:, :, :3].reshape(batch, tokens, -1), np.ascontiguousarray(many[:, :, 3])
    data, rows = Ours(backend, qkv, dout, size, causal), []
    for way, factor in (("forward", 4), ("backward", 10)):
        operations = factor * batch * heads * tokens * tokens * size / (2 if causal else 1)
        contenders = list(ours(data, way, size))
        if options.torch:
            contenders += torchs(qkv, dout, way, size, causal, options.torch, options.dtype)
        found = compare(contenders, options.rounds, options.count)
        best = min((s for n, s in found.items() if n.startswith("torch")), default=None)
        error = error_of(data, way) if tokens == min(options.lengths) else None
        for name, seconds in found.items():
            row = {"way": way, "head": size, "tokens": tokens, "causal": causal, "name": name, "ms": seconds * 1e3,
                   "TFLOP/s": operations / seconds / 1e12, "to best torch": best / seconds if best else None,
                   "error": error if name == "dualml" else None}
            rows.append(row)
            print("  ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="cuda", help="a backend with bfloat16")
    parser.add_argument("--dtype", choices=("bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 16384], help="tokens of a sequence")
    parser.add_argument("--tokens", type=int, default=16384, help="tokens of all sequences")
    parser.add_argument("--width", type=int, default=2048, help="heads times their size")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=10, help="runs in a round")
    parser.add_argument("--torch", default=None, help="PyTorch's device; by default cuda where it has one")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args()
    with contextlib.suppress(ImportError):
        import torch
        options.torch = options.torch or ("cuda" if torch.cuda.is_available() else None)
    if options.torch is None:
        print("PyTorch with CUDA is not here: dualml alone")
    backend = runtime.get(options.backend)
    print(f"{backend.name} on {backend.device.name}, {options.dtype}")
    rows = [row for size in (64, 128) for causal in (True, False) for tokens in options.lengths
            for row in measure(backend, options, tokens, size, causal)]
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        device = {"backend": backend.name, "device": backend.device.name, "driver": backend.device.driver}
        options.json.write_text(json.dumps(device | {"dtype": options.dtype, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
