"""Tokens/s of generating one by one with a cache of keys and values, batch 1: dualml's backends, PyTorch on the CPU.

    python benchmarks/sampling.py                      gpt-nano and the 12.3M GPT on every backend that is here
    python benchmarks/sampling.py --presets gpt-12m --backends webgpu

Contestants take turns in one process; what counts is the median over the rounds. PyTorch runs the same architecture,
written below as its users write it: modules in eval mode, inference_mode, keys and values in preallocated tensors.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import dualml as dm
from dualml import errors, runtime
from dualml.models import GPT, PRESETS

# PyPI's PyTorch for Linux brings Triton, whose LLVM crashes a process that has Mesa's loaded
sys.modules.setdefault("triton", None)  # type: ignore[arg-type]
VOCABULARY = {"gpt-nano": 65, "gpt-12m": 4096, "gpt-shakespeare": 65}


def ours(preset: str, backend: str) -> Iterator[int]:
    with runtime.use_backend(backend):
        dm.manual_seed(0)
        model = GPT.from_preset(preset, VOCABULARY[preset])
    return model.stream(list(range(8)), temperature=1.0, top_k=None, seed=0)


def torchs(preset: str) -> Iterator[int]:
    """A GPT-2 with PyTorch's modules."""
    import torch
    from torch import nn
    from torch.nn import functional as F
    sizes, vocabulary = PRESETS[preset], VOCABULARY[preset]
    width, heads, layers, context = (sizes[n] for n in ("width", "heads", "layers", "context"))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.fc, self.out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            self.cache = torch.zeros(2, heads, context, width // heads)

        def forward(self, x: Any, seen: int) -> Any:
            q, k, v = self.qkv(self.ln_1(x)).view(-1, 3, heads, width // heads).permute(1, 2, 0, 3)
            end = seen + k.shape[1]
            self.cache[0, :, seen:end], self.cache[1, :, seen:end] = k, v
            y = F.scaled_dot_product_attention(q[None], self.cache[0, :, :end][None], self.cache[1, :, :end][None],
                                               is_causal=seen == 0)
            x = x + self.proj(y[0].transpose(0, 1).reshape(-1, width))
            return x + self.out(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))

    torch.manual_seed(0)
    wte, wpe, last = nn.Embedding(vocabulary, width), nn.Embedding(context, width), nn.LayerNorm(width)
    blocks = [Block().eval() for _ in range(layers)]
    seen, text, new = 0, list(range(8)), list(range(8))
    while True:
        if seen + len(new) > context:
            seen, new = 0, text[-(context // 2):]
        with torch.inference_mode():
            x = wte(torch.tensor(new)) + wpe.weight[seen:seen + len(new)]
            for block in blocks:
                x = block(x, seen)
            chances = torch.softmax(F.linear(last(x[-1]), wte.weight), -1)
            token = int(torch.multinomial(chances, 1))
        seen, new, text = seen + len(new), [token], [*text, token][-context:]
        yield token


def measure(preset: str, backends: list[str], rounds: int, tokens: int) -> dict[str, list[float]]:
    """Tokens per second of every contestant in every round."""
    makers: dict[str, Callable[[], Iterator[int]]] = {b: (lambda b=b: ours(preset, b)) for b in backends}
    try:
        import torch  # noqa: F401
        makers["torch"] = lambda: torchs(preset)
    except ImportError:
        print("torch: not installed here")
    streams = {name: make() for name, make in makers.items()}
    for stream in streams.values():
        for _ in range(8):  # the prompt, and what is compiled
            next(stream)
    found: dict[str, list[float]] = {name: [] for name in streams}
    for _ in range(rounds):
        for name, stream in streams.items():
            start = time.perf_counter()
            for _ in range(tokens):
                next(stream)
            found[name].append(tokens / (time.perf_counter() - start))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", default="gpt-nano,gpt-12m", help="comma-separated")
    parser.add_argument("--backends", default="cpu,webgpu,cuda", help="comma-separated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32, help="in a round")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    backends = []
    for name in options.backends.split(","):
        try:
            runtime.get(name)
            backends.append(name)
        except errors.BackendError as error:
            print(f"{name}: {error}", file=sys.stderr)
    results = {}
    for preset in options.presets.split(","):
        results[preset] = measure(preset, backends, options.rounds, options.tokens)
        rival = results[preset].get("torch")
        for name, rates in results[preset].items():
            ratio = f"  {np.median(np.array(rates) / np.array(rival)):.2f} of PyTorch" if rival else ""
            print(f"{preset:12s} {name:8s} {median(rates):8.1f} tokens/s (best {max(rates):.1f}){ratio}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
