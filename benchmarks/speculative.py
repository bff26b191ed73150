"""Tokens/s of a trained model with a smaller one that writes ahead, beside the model alone, alternating in one run.

    dualml train --preset gpt-12m --text shakespeare --out runs/large --minutes 60
    dualml train --text shakespeare --tokenizer bpe:4096 --context 256 --out runs/small
    python benchmarks/speculative.py --model runs/large --draft runs/small

Both runs must have one tokenizer. `taken` is the part of the drafted tokens that were taken over: what it is depends on
the two models, the text and the temperature, so figures of untrained models would say nothing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from dualml import errors, runtime
from dualml.models import SamplingOptions
from dualml.models.decoding import Decoding
from dualml.models.speculative import SpeculativeDecoding
from dualml.train import load_for_sampling


class Contestant:
    """Writes a text on and on, `ahead` tokens at once if it has a draft."""

    def __init__(self, model: Any, draft: Any, ahead: int, temperature: float, begin: list[int]) -> None:
        options = SamplingOptions(temperature)
        alone = Decoding(model, 1, options)
        self.source: Any = SpeculativeDecoding(model, draft, options, 0, ahead) if ahead else alone
        self.source.read(begin if ahead else [begin])
        self.rates: list[float] = []
        self._stream: Iterator[Any] = iter(self.source)

    def write(self, tokens: int) -> None:
        start, count = time.perf_counter(), 0
        while count < tokens:
            count += len(next(self._stream))
        self.rates.append(count / (time.perf_counter() - start))


def measure(options: argparse.Namespace, backend: str) -> dict[str, Any]:
    """Rates and acceptance of each number of tokens ahead, 0 being the model alone."""
    model, tokenizer, _ = load_for_sampling(options.model, backend)
    draft, other, _ = load_for_sampling(options.draft, backend)
    if list(tokenizer.encode(options.prompt)) != list(other.encode(options.prompt)):
        raise errors.DataError("[speculative] both runs must have one tokenizer, got two that read the prompt "
                               "differently. Give both `--tokenizer bpe:4096`, or one file.")
    begin, found = tokenizer.encode(options.prompt), {}
    for temperature in options.temperatures:
        each = {a: Contestant(model, draft, a, temperature, begin) for a in (0, *options.ahead)}
        for one in each.values():
            one.write(16)  # the prompt, and what is compiled
            one.rates.clear()
        for _, one in itertools.product(range(options.rounds), each.values()):
            one.write(options.tokens)
        alone = each[0].rates
        for ahead, one in each.items():
            ratio = median(r / a for r, a in zip(one.rates, alone, strict=True))
            taken = one.source.accepted if ahead else None
            found[f"{temperature} {ahead}"] = {"rates": one.rates, "ratio": ratio, "taken": taken}
            print(f"{backend:8s} temperature {temperature:<4g} ahead {ahead}  {median(one.rates):7.1f} tokens/s  "
                  f"{ratio:.2f} of the model alone" + (f"  taken {taken:.0%}" if taken is not None else ""))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the folder of the large model's run")
    parser.add_argument("--draft", type=Path, required=True, help="of the small one's")
    parser.add_argument("--backends", default="cpu,webgpu,cuda", help="comma-separated")
    parser.add_argument("--ahead", type=int, nargs="+", default=[2, 4, 6])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.8])
    parser.add_argument("--prompt", default="ROMEO:\n")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=48, help="in a round")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    results = {}
    for backend in options.backends.split(","):
        try:
            runtime.get(backend)
        except errors.BackendError as error:
            print(f"{backend}: {error}", file=sys.stderr)
            continue
        with runtime.use_backend(backend):
            results[backend] = measure(options, backend)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
