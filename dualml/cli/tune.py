"""dualml tune."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..words import counted
from .train import _choose_backend, _command, _refuse_changes

HELP = """Teach a trained model to chat.

It goes on from a run's newest checkpoint, on conversations, and learns what the assistant says in them. Each line of \
the file is one conversation:

  {"messages": [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hello. What is it?"}]}

[bold]Examples[/]

  dualml tune                                      the newest run learns dualml's own small set

  dualml chat                                      and answers

  dualml tune --chat mine.jsonl --epochs 3         your conversations, each seen three times

  dualml tune --resume                             goes on with the newest tuned run, exactly where it stopped

  dualml tune runs/gpt-12m-book --chat mine.jsonl --minutes 10 --val 0.1    a tenth is held out to validate with
"""

Run = Annotated[Path | None, typer.Argument(metavar="RUN", help=(
    "The run to start from. Default: the newest that was not tuned."))]
Chat = Annotated[str | None, typer.Option("--chat", metavar="FILE|builtin", help=(
    "Conversations, one JSON object a line, or the small set that comes with dualml. Default: builtin."))]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the tuned run RUN, or with the newest one.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The new run's folder. Default: runs/RUN-chat.")]
From = Annotated[int | None, typer.Option("--from", metavar="STEP", help=(
    "Start from the checkpoint of this step instead of the newest."))]
Epochs = Annotated[int | None, typer.Option(help="See every conversation so many times.")]
Steps = Annotated[int | None, typer.Option(help="Train so many steps at most. Default, without --epochs and --minutes: "
                                                "2400.")]
Minutes = Annotated[float | None, typer.Option(help=(
    "Train for so long: the number of steps is planned from the measured speed."))]
Rate = Annotated[float | None, typer.Option("--lr", help=(
    "Learning rate after the warm-up. Default: two thirds of the run's."))]
Batch = Annotated[int | None, typer.Option(help="Rows of conversations in one forward pass. Default: 2.")]
Accumulation = Annotated[int | None, typer.Option(help="Forward passes in one step.")]
Context = Annotated[int | None, typer.Option(help=(
    "Tokens the model sees at once. Default: as the run, and at least 128."))]
Dropout = Annotated[float | None, typer.Option(help="Probability of dropout. Default: the run's.")]
Val = Annotated[float | None, typer.Option("--val", metavar="SHARE", help=(
    "Share of the conversations to hold out and validate with. Default: 0, to learn from all and validate with the "
    "same."))]
EvalEvery = Annotated[int | None, typer.Option(help="Steps between validations, samples and checkpoints.")]
Seed = Annotated[int | None, typer.Option(help="Decides the order of conversations, and dropout.")]
Precision = Annotated[str | None, typer.Option(help="As of `dualml train`. Default: the run's.")]
Backend = Annotated[str | None, typer.Option(help="auto, cpu, webgpu or cuda.")]
Plain = Annotated[bool, typer.Option("--plain", help="Lines instead of a live display.")]


def tune(run: Run = None, chat: Chat = None, out: Out = None, resume: Resume = False, start: From = None,
         epochs: Epochs = None, steps: Steps = None, minutes: Minutes = None, lr: Rate = None, batch: Batch = None,
         accumulation: Accumulation = None, context: Context = None, dropout: Dropout = None, val: Val = None,
         eval_every: EvalEvery = None, seed: Seed = None, precision: Precision = None, backend: Backend = None,
         plain: Plain = False) -> None:
    from ..data.dialogues import BUILTIN
    from ..train import make_reporter, tune as tuning
    reporter = make_reporter(plain)
    changes = dict(epochs=epochs, steps=steps, minutes=minutes, context=context, lr=lr, batch=batch,
                   accumulation=accumulation, dropout=dropout, eval_every=eval_every, seed=seed, precision=precision)
    if resume:
        _refuse_changes({"chat": chat, "out": out, "from": start, "val": val, **changes}, "gpt-nano")
        made = tuning.resume(run, backend, reporter)
    else:
        made = tuning.prepare(run, chat or BUILTIN, out, _choose_backend(backend, reporter), start, reporter,
                              held_out=val or 0.0, **changes)  # type: ignore[arg-type]
    finished, trainer = made.execute(), made.trainer
    talk = f"{_command()} chat {made.folder}"
    if not finished:
        reporter.note(f"Stopped after step {trainer.step:,} of {trainer.plan.total:,} and saved. Talk to it:  {talk}\n"
                      f"Go on:  {_command()} tune {made.folder} --resume")
        sys.exit(130)
    right, asked = made.right
    first, last = (trainer.metrics.validations[at][1] for at in (0, -1))
    reporter.note(f"Done: {counted(trainer.step, 'step')} in {trainer.spent:.0f} s; validation loss {first:.3f} -> "
                  f"{last:.3f}.\nOf {counted(asked, 'answer')} it was taught, it gives {right:,} word for word.\n"
                  f"Talk to it:  {talk}")
