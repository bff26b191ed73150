"""dualml eval."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import DataError

HELP = """Measure a trained model on text it has not seen: loss, perplexity, bits per byte.

The text is the last tenth of what the run was trained on, which training kept for this (of a data folder, what it has \
for validation), or of another file. Loss and \
perplexity depend on the tokenizer; bits per byte do not, and compare any two models on the same text.

[bold]Examples[/]

  dualml eval                                            the newest run

  dualml eval --out runs/gpt-nano-pydoc --step 500       an earlier checkpoint of a certain run

  dualml eval --text other.txt --batches 100             another text, and more of it

  dualml eval --json                                     for programs
"""

Out = Annotated[Path | None, typer.Option("--out", "--run", metavar="DIR", help=(
    "The run's folder. Default: the newest one."))]
Step = Annotated[int | None, typer.Option(help="The checkpoint of this step instead of the newest.")]
TextOption = Annotated[str | None, typer.Option("--text", metavar="NAME|FILE", help=(
    "Another text than the run's, in characters that its tokenizer knows."))]
Data = Annotated[str | None, typer.Option("--data", metavar="DIR", help=(
    "Another data folder than the run's, made with the same tokenizer; what it has for validation."))]
Batches = Annotated[int | None, typer.Option(min=1, help="Batches to take the mean of. Default: as in training.")]
Backend = Annotated[str, typer.Option(help="auto, cpu, webgpu or cuda.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def evaluate(out: Out = None, step: Step = None, text: TextOption = None, data: Data = None,
             batches: Batches = None, backend: Backend = "auto", as_json: Json = False) -> None:
    from ..train import load_for_evaluation
    from ..train.evaluation import figure
    if text is not None and data is not None:
        raise DataError("[eval] --text and --data exclude each other: leave one away.")
    trainer, found, path = load_for_evaluation(out, backend, step, text, batches, data=data)
    print(f"# {path}, on {trainer.backend.name}", file=sys.stderr)
    result = trainer.evaluate()
    found.close()
    if as_json:
        print(json.dumps({"checkpoint": str(path), "text": found.name, "step": trainer.step, **result.to_dict()}))
        return
    print(f"{found.kind:<16} {found.name}, {result.tokens:,} tokens, {result.bytes:,} bytes\n"
          f"loss             {result.loss:.4f} nats per token\n"
          f"perplexity       {figure(result.perplexity)}\n"
          f"bits per byte    {result.bits_per_byte:.4f}")
