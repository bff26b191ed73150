"""dualml train."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import DataError
from ..words import counted

HELP = """Train a GPT on text.

Without options: gpt-nano (0.8 million parameters) on Python's own documentation, for two minutes, with the best \
backend found. The run's folder keeps checkpoints, metrics.jsonl, loss.png and a sample. Ctrl-C saves; --resume goes on.

[bold]Examples[/]

  dualml train                                       see it learn

  dualml train --text shakespeare --steps 2000       another text, an exact length

  dualml train --text notes.txt --minutes 10         your text, as long as you like to wait

  dualml train --data stories                        a data folder of any size: see dualml data --help

  dualml train --preset gpt-12m --text book.txt      12 million parameters: hours on a CPU, minutes on a GPU

  dualml train --backend webgpu                      on any Vulkan, Metal or DX12 driver

  dualml train --resume                              go on with the newest run, exactly where it stopped
"""

Preset = Annotated[str, typer.Option(help="Model and recipe: gpt-nano, gpt-shakespeare, gpt-12m or gpt2.")]
TextOption = Annotated[str | None, typer.Option("--text", metavar="NAME|FILE", help=(
    "pydoc (Python's documentation), shakespeare (downloaded once, 1.1 MB), or any UTF-8 file. Default: pydoc."))]
Data = Annotated[str | None, typer.Option("--data", metavar="DIR", help=(
    "Instead of --text and --tokenizer: a folder that `dualml data prepare` made. With --resume: where the run's data "
    "is now."))]
TokenizerOption = Annotated[str | None, typer.Option("--tokenizer", metavar="char|bpe:N|FILE", help=(
    "Characters, N byte pairs learned from the text (bpe:4096), or a tokenizer.json. Default: the preset's."))]
BackendOption = Annotated[str | None, typer.Option("--backend", help=(
    "auto, cpu, webgpu or cuda. auto takes CUDA, else WebGPU on a real GPU, else the CPU."))]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help=(
    "The run's folder. Default: runs/<preset>-<text>."))]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, or with the newest one.")]
Steps = Annotated[int | None, typer.Option(help="Train exactly so many steps (at most, with --minutes).")]
Minutes = Annotated[float | None, typer.Option(help=(
    "Train for so long: the number of steps is planned from the measured speed."))]
Batch = Annotated[int | None, typer.Option(help="Sequences in one forward pass.")]
Accumulation = Annotated[int | None, typer.Option(help="Forward passes in one step.")]
Context = Annotated[int | None, typer.Option(help="Tokens the model sees at once.")]
Layers = Annotated[int | None, typer.Option(help="Blocks of the model. Default: as the preset, as the next two.")]
Heads = Annotated[int | None, typer.Option(help="Attention heads of a block.")]
Width = Annotated[int | None, typer.Option(help="Numbers that stand for a token, a multiple of the heads.")]
Dropout = Annotated[float | None, typer.Option(help="Probability of dropout, against learning a small text by heart.")]
Rate = Annotated[float | None, typer.Option("--lr", help="Learning rate after the warm-up.")]
MinRate = Annotated[float | None, typer.Option("--min-lr", help="Learning rate at the end.")]
Warmup = Annotated[int | None, typer.Option(help="Steps over which the learning rate rises.")]
Decay = Annotated[float | None, typer.Option("--weight-decay", help="AdamW's, of matrices only.")]
Clip = Annotated[float | None, typer.Option(help="The largest norm of all gradients together; 0 for any.")]
Beta1 = Annotated[float | None, typer.Option(help="AdamW's memory of gradients.")]
Beta2 = Annotated[float | None, typer.Option(help="AdamW's memory of their squares.")]
EvalEvery = Annotated[int | None, typer.Option(help="Steps between validations, samples and checkpoints.")]
EvalBatches = Annotated[int | None, typer.Option(help="Batches in one validation.")]
SampleTokens = Annotated[int | None, typer.Option(help=(
    "Tokens in a sample on the way, three times as many in the one at the end; 0 for none."))]
Seed = Annotated[int | None, typer.Option(help=(
    "Decides initial weights, order of data and dropout, on every backend alike."))]
Precision = Annotated[str | None, typer.Option(help=(
    "float32, float16 or bfloat16: of matrix products and attention, where the device has it; weights stay float32. "
    "float16-weights or bfloat16-weights: of weights, gradients and all between them, for half the memory; AdamW works "
    "on a float32 copy."))]
Keep = Annotated[int | None, typer.Option(help=(
    "Checkpoints that stay, the newest ones; the best one stays beside them. Default: 2."))]
Board = Annotated[bool, typer.Option("--tensorboard", help="Write curves for TensorBoard too, to DIR/tensorboard.")]
Plain = Annotated[bool, typer.Option("--plain", help=(
    "Lines instead of a live display; so it is too where the output is no terminal."))]


def train(preset: Preset = "gpt-nano", text: TextOption = None, data: Data = None, tokenizer: TokenizerOption = None,
          backend: BackendOption = None, out: Out = None, resume: Resume = False, steps: Steps = None,
          minutes: Minutes = None, batch: Batch = None, accumulation: Accumulation = None, context: Context = None,
          layers: Layers = None, heads: Heads = None, width: Width = None, dropout: Dropout = None, lr: Rate = None,
          min_lr: MinRate = None, warmup: Warmup = None, weight_decay: Decay = None, clip: Clip = None,
          beta1: Beta1 = None, beta2: Beta2 = None, eval_every: EvalEvery = None, eval_batches: EvalBatches = None,
          sample_tokens: SampleTokens = None, seed: Seed = None, precision: Precision = None, keep: Keep = None,
          tensorboard: Board = False, plain: Plain = False) -> None:
    from .. import train as training
    reporter = training.make_reporter(plain)
    changes = dict(text=text, tokenizer=tokenizer, batch=batch, accumulation=accumulation, context=context,
                   layers=layers, heads=heads, width=width, dropout=dropout, lr=lr, min_lr=min_lr, warmup=warmup,
                   weight_decay=weight_decay, clip=clip, beta1=beta1, beta2=beta2, eval_every=eval_every,
                   eval_batches=eval_batches, sample_tokens=sample_tokens, seed=seed, precision=precision, keep=keep)
    if resume:
        kept: dict[str, Any] = {name: changes.pop(name) for name in training.MAY_CHANGE}
        _refuse_changes(changes, preset)
        run = training.resume(out, backend, reporter, steps, minutes, tensorboard=tensorboard, data=data, **kept)
        if run.trainer.step >= run.trainer.plan.total:
            run.close()
            raise DataError(f"[resume] {run.folder} is finished after step {run.trainer.step:,}. Train on with --steps "
                            "or --minutes, both counted from the run's beginning.")
    else:
        if data is not None and (text is not None or tokenizer is not None):
            raise DataError("[train] --data brings its text and its tokenizer: leave --text and --tokenizer away.")
        config = training.recipe(preset, steps=steps, minutes=minutes, data=data, **changes)
        run = training.prepare(config, _choose_backend(backend, reporter), out, reporter, tensorboard)
    _finish(run, run.execute(), run.trainer.reporter)


def _choose_backend(asked: str | None, reporter: Any) -> str:
    """The backend to train on, with a word about a WebGPU adapter that auto passes over, as it computes on the CPU."""
    from .. import runtime
    from ..config import config
    from ..errors import BackendError
    wanted = asked or config.backend
    chosen = runtime.get(wanted)
    if wanted == "auto" and chosen.name == "cpu":
        try:
            passed = runtime.get("webgpu").device.name
            reporter.note(f"Backend cpu: the only WebGPU adapter, {passed}, computes on the CPU too (--backend webgpu "
                          "trains on it).")
        except BackendError:
            reporter.note("Backend cpu: no GPU was found. `dualml devices` says why.")
    return chosen.name


def _refuse_changes(changes: dict[str, Any], preset: str) -> None:
    given = [f"--{n.replace('_', '-')}" for n, v in changes.items() if v is not None]
    given += ["--preset"] if preset != "gpt-nano" else []
    if given:
        raise DataError(f"[resume] {', '.join(given)} cannot change in the middle of a run. Leave it away, or start a "
                        "new run without --resume.")


def _command() -> str:
    """How this program was called, to be called again."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return "python -m dualml"
    return called.name if shutil.which(called.name) else str(called)


def _finish(run: Any, finished: bool, reporter: Any) -> None:
    trainer, folder = run.trainer, run.folder
    last = trainer.metrics.validations[-1][1] if trainer.metrics.validations else float("nan")
    if not finished:
        reporter.note(f"Stopped after step {trainer.step:,} of {trainer.plan.total:,} and saved. Go on with:\n"
                      f"  {_command()} train --resume --out {folder}")
        sys.exit(130)
    first = trainer.metrics.validations[0][1]
    kept = ", ".join(n for n in ("loss.png", "sample.txt", "metrics.jsonl", "checkpoints") if (folder / n).exists())
    reporter.note(f"Done: {counted(trainer.step, 'step')} in {trainer.spent:.0f} s; validation loss {first:.3f} -> "
                  f"{last:.3f}.\n{folder} has {kept}.\n"
                  f"Let it write:  {_command()} sample --out {folder} --prompt 'The '")
