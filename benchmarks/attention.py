"""TFLOP/s of attention in 16 bits beside PyTorch's scaled_dot_product_attention, alternating in one run.

    python benchmarks/attention.py --backend cuda --json out/attention_cuda.json

The sizes are those of the published figures (FlashAttention-2 and 3): 16,384 tokens in all, 2,048 columns, heads of 64
and 128; forward 4 T T D multiply-adds' operations a head, half of them where causal, backward 2.5 times as many. What
runs is the kernel that would be chosen, beside PyTorch's own implementations that take the sizes; then, beside the same
source with other tiles, and the plain kernel: last, as one that the device does not survive ends the run. A row tells
the median of the rounds, of device time on both sides (device_clock.py). Targets are those of targets.py.

Each form of ours is checked before it is timed, as in tests/test_mma.py: of root mean squares, its error may be twice
the plain kernel's in the same precision; `error` is what it has of that. Right is the plain kernel in float32. A wrong
form is told in its row, counts for no target, and makes the exit status 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from device_clock import Contestant, Form, HostClock, OurClock, Sample, TorchClock, compare  # noqa: E402
from figures import write_figures  # noqa: E402
from gpu_kernels import where_torch_is  # noqa: E402
from targets import ATTENTION, table  # noqa: E402

from dualml import runtime  # noqa: E402
from dualml.array import Array, from_numpy, run  # noqa: E402
from dualml.backends.base import Backend  # noqa: E402
from dualml.dtypes import as_dtype  # noqa: E402
from dualml.kernel import Kernel, Variant  # noqa: E402
from dualml.ops.attention import attention_backward, attention_backward_delta, attention_forward  # noqa: E402

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


def rms(x: np.ndarray) -> np.ndarray:
    """The root mean square of each of the parts [sequences, tokens, parts, heads, size]."""
    found: np.ndarray = np.sqrt(np.mean(np.square(x, dtype=np.float64), axis=(0, 1, 3, 4)))
    return found


class Right:
    """What forward and backward must give, and by how much a form may miss it: of the first and the last head of the
    first and the last sequence, as heads do not know of one another and the plain kernel would take long for all."""

    def __init__(self, backend: Backend, qkv: np.ndarray, dout: np.ndarray, size: int, causal: bool) -> None:
        self.shape = (*qkv.shape[:2], -1, qkv.shape[2] // (3 * size), size)
        few = [self.some(x) for x in (qkv, dout)]
        few = [x.reshape(*x.shape[:2], -1) for x in few]
        with Form(attention_forward, attention_backward, variants=[]):
            made = [Ours(backend, *(x.astype(kind) for x in few), size, causal) for kind in (np.float32, qkv.dtype)]
            found = {"forward": [m.out for m in made], "backward": [m.backward() for m in made]}
        shape = (*few[1].shape[:2], -1, few[1].shape[2] // size, size)
        exact, plain = ({way: x[i].numpy().astype(np.float32).reshape(shape) for way, x in found.items()}
                        for i in range(2))
        self.exact, self.allowed = exact, {way: 2 * rms(plain[way] - exact[way]) for way in exact}

    def some(self, x: np.ndarray) -> np.ndarray:
        batch, _, _, heads, _ = self.shape
        return x.reshape(self.shape)[::max(1, batch - 1), :, :, ::max(1, heads - 1)]

    def error(self, way: str, made: Array) -> float:
        """Over what is allowed, of the part where that is most."""
        missed = rms(self.some(made.numpy()).astype(np.float32) - self.exact[way])
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.where(missed == 0, 0, missed / self.allowed[way]).max())


def ours(data: Ours, right: Right, way: str, size: int, clock: HostClock, tiles: bool) -> Iterator[Contestant]:
    """The chosen kernel and, where asked for, its rivals in this package; the plain one where that is not too slow."""
    work, kernel = getattr(data, way), KERNELS[way]

    def check() -> float:
        return right.error(way, work()[0] if way == "forward" else work())
    yield Contestant("dualml", clock, work, check=check)
    for rows, cols, block in TILES[way, size] if tiles else ():
        yield Contestant(f"{rows}x{cols} by {block}", clock, work,
                         Form(kernel, variants=[tiled(kernel, rows, cols, block)]), check=check)
    if tiles and data.scalars["TQ"] <= 2048:
        yield Contestant("plain", clock, work, Form(kernel, variants=[]), check=check)


def torchs(qkv: np.ndarray, dout: np.ndarray, way: str, size: int, causal: bool, clock: HostClock, where: str,
           dtype: str) -> Iterator[Contestant]:
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
    for name in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION"):
        def forward(name: str = name) -> Any:
            with sdpa_kernel(getattr(SDPBackend, name)):
                return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        made: list[Any] = []

        def backward(forward: Callable[[], Any] = forward, made: list[Any] = made) -> Any:
            if not made:
                made.append(forward())
            return torch.autograd.grad(made[0], (q, k, v), seed, retain_graph=True)
        yield Contestant(f"torch {name.lower().replace('_', ' ')}", clock, forward if way == "forward" else backward)


class Bench:
    """One run's clocks and what it found."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.backend = options, runtime.get(options.backend)
        size = {"cover_bytes": 1 << 16} if options.tokens < 4096 else {}
        self.clock: HostClock = OurClock(self.backend, **size)
        self.torch_clock = TorchClock(options.torch, **size) if options.torch != "none" else None
        self.rows: list[dict[str, Any]] = []
        self.targets: list[dict[str, Any]] = []
        self.failed: list[str] = []

    def measure(self, tokens: int, size: int, causal: bool, tiles: bool) -> None:
        """Rows of one size, forward and backward: beside PyTorch's, or beside other tiles."""
        options = self.options
        batch, heads, rng = max(1, options.tokens // tokens), options.width // size, np.random.default_rng(0)
        host = as_dtype(options.dtype).host
        block = rng.standard_normal((1, min(tokens, 1024), 4, heads * size), np.float32).astype(host)
        many = np.tile(block, (batch, -(-tokens // block.shape[1]), 1, 1))[:, :tokens]
        qkv, dout = many[:, :, :3].reshape(batch, tokens, -1), np.ascontiguousarray(many[:, :, 3])
        data, right = (kind(self.backend, qkv, dout, size, causal) for kind in (Ours, Right))
        for way, factor in (("forward", 4), ("backward", 10)):
            operations = factor * batch * heads * tokens * tokens * size / (2 if causal else 1)
            team = list(ours(data, right, way, size, self.clock, tiles))
            if self.torch_clock and not tiles:
                team += torchs(qkv, dout, way, size, causal, self.torch_clock, options.torch, options.dtype)
            found = compare(team, options.rounds, options.seconds, options.count)
            self.add({"way": way, "head": size, "tokens": tokens, "causal": causal}, found, operations, tiles)
            self.save()

    def add(self, what: dict[str, Any], found: dict[str, Sample], operations: float, tiles: bool) -> None:
        theirs = {n: s.seconds for n, s in found.items() if n.startswith("torch")}
        best = min(theirs, key=lambda n: theirs[n], default="")
        target = ATTENTION.get(tuple(what[k] for k in ("way", "head", "causal", "tokens")))
        rates = {n: operations / s.seconds / 1e12 for n, s in found.items()}
        for name, sample in found.items():
            row = what | {"name": name, "ms": sample.seconds * 1e3, "TFLOP/s": rates[name],
                          "to best torch": theirs[best] / sample.seconds if best else None,
                          "target": f"{target.goal:g}, then {target.later:g}" if target else None,
                          "error": sample.error, "check": sample.check}
            self.rows.append(row)
            print("  ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()), flush=True)
            if sample.wrong:
                self.failed.append(f"{name} {what}: {sample.wrong}")
        if "dualml" not in found:
            self.failed.append(f"dualml {what}: no figure")
        if target and not tiles:
            wrong = found["dualml"].wrong if "dualml" in found else ""
            self.targets.append(target.verdict(rates.get("dualml"), rates.get(best), best, wrong))

    def save(self) -> None:
        write_figures(self.options.json, self.backend,
                      {"dtype": self.options.dtype, "rows": self.rows, "targets": self.targets})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="cuda", help="a backend with bfloat16")
    parser.add_argument("--dtype", choices=("bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 16384], help="tokens of a sequence")
    parser.add_argument("--tokens", type=int, default=16384, help="tokens of all sequences")
    parser.add_argument("--width", type=int, default=2048, help="heads times their size")
    parser.add_argument("--heads", type=int, nargs="+", default=[64, 128], choices=(64, 128), help="sizes of a head")
    parser.add_argument("--no-tiles", dest="tiles", action="store_false", help="no other tiles, nor the plain kernel")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.02, help="of runs in a round, about")
    parser.add_argument("--count", type=int, default=20, help="runs in a round, at most")
    parser.add_argument("--torch", choices=("auto", "cuda", "cpu", "none"), default="auto", help="PyTorch's device")
    parser.add_argument("--json", type=Path, help="file for the numbers, written after each size")
    options = parser.parse_args()
    options.torch = where_torch_is(options.torch)
    if options.torch == "none":
        print("PyTorch with CUDA is not here: dualml alone")
    bench = Bench(options)
    print(f"{bench.backend.name} on {bench.backend.device.name}, {options.dtype}")
    for tiles, size, causal in product((False, True)[:1 + options.tiles], options.heads, (True, False)):
        for tokens in options.lengths:
            bench.measure(tokens, size, causal, tiles)
    print("\n".join(["", *table(bench.targets)]))
    if bench.failed:
        raise SystemExit("\n".join(bench.failed))


if __name__ == "__main__":
    main()
