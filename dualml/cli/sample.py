"""dualml sample."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

HELP = """Generate text from a trained model.

[bold]Examples[/]

  dualml sample                                         from the newest run

  dualml sample --prompt 'def ' --tokens 300            go on from a beginning

  dualml sample --temperature 0.5 --top-k 20            safer, more repetitive

  dualml sample --out runs/gpt-nano-pydoc --step 500    an earlier checkpoint of a certain run
"""

Prompt = Annotated[str, typer.Option(help="The text to go on from.")]
Tokens = Annotated[int, typer.Option(help="How many tokens to write.")]
Temperature = Annotated[float, typer.Option(help="Below 1 more certain, above 1 more varied; 0 is the likeliest text.")]
TopK = Annotated[int | None, typer.Option("--top-k", help="Draw only among so many likeliest tokens.")]
Seed = Annotated[int, typer.Option(help="The same seed writes the same text.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The run's folder. Default: the newest one.")]
Step = Annotated[int | None, typer.Option(help="The checkpoint of this step instead of the newest.")]
Backend = Annotated[str, typer.Option(help="auto, cpu, webgpu or cuda.")]


def sample(prompt: Prompt = "\n", tokens: Tokens = 400, temperature: Temperature = 0.8, top_k: TopK = None,
           seed: Seed = 0, out: Out = None, step: Step = None, backend: Backend = "auto") -> None:
    from itertools import islice

    from ..train import load_for_sampling
    model, tokenizer, path = load_for_sampling(out, backend, step)
    begin = tokenizer.encode(prompt)
    print(f"# {path}, on {model.wte.weight.backend}", file=sys.stderr)
    print(prompt, end="", flush=True)
    for token in islice(model.stream(begin, temperature, top_k, seed), tokens):
        print(tokenizer.decode([token]), end="", flush=True)
    print()
