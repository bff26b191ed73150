"""Entry point of `dualml`: the commands, and errors as one line."""

from __future__ import annotations

import sys
import warnings
from typing import TextIO

import typer

from .. import __version__
from ..config import config
from ..errors import DualmlError
from . import attention, chat, data, devices, eval as evaluation, inspect as inspection, sample, tokenizer, train, tune

app = typer.Typer(
    name="dualml", no_args_is_help=True, add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train GPTs on CUDA, WebGPU or the CPU, with one definition of the model.\n\n"
         "Each command has a --help of its own, with examples.\n\n"
         "[bold]First steps[/]\n\n"
         "  dualml devices                     what this machine can compute on\n\n"
         "  dualml train                       a small GPT learns Python's documentation, in two minutes\n\n"
         "  dualml sample --prompt 'The '      it writes\n\n"
         "  dualml tune                        it learns to answer, in one or two minutes\n\n"
         "  dualml chat                        it answers")


def _version(asked: bool) -> None:
    if asked:
        print(f"dualml {__version__}")
        raise typer.Exit


@app.callback()
def root(version: bool = typer.Option(False, "--version", callback=_version, is_eager=True,
                                      help="Print the version and stop.")) -> None:
    """Options of dualml itself."""


app.command("train", help=train.HELP)(train.train)
app.command("tune", help=tune.HELP)(tune.tune)
app.command("chat", help=chat.HELP)(chat.chat)
app.command("sample", help=sample.HELP)(sample.sample)
app.command("eval", help=evaluation.HELP)(evaluation.evaluate)
app.command("attention", help=attention.HELP)(attention.attention)
app.command("inspect", help=inspection.HELP)(inspection.inspect)
app.command("devices", help=devices.HELP)(devices.devices)
app.add_typer(data.app, name="data")
app.add_typer(tokenizer.app, name="tokenizer")


def _warn(message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None,
          line: str | None = None) -> None:
    """A warning as one line, without the place in the code."""
    print(f"dualml: {message}", file=sys.stderr)


def _interrupted(end: SystemExit) -> bool:
    """Whether it is what typer makes of a Ctrl-C, without a word. A run that saved itself has said so."""
    return isinstance(getattr(end.__context__, "__cause__", None), KeyboardInterrupt)


def main() -> None:
    """Runs the command line. What dualml raises on purpose is one line and exit code 1; DUALML_DEBUG=1 shows it all."""
    warnings.showwarning = _warn
    try:
        app()
    except DualmlError as error:
        if config.debug:
            raise
        print(f"dualml: {error}", file=sys.stderr)
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and not _interrupted(end):
            raise
        print("dualml: interrupted", file=sys.stderr)
        sys.exit(130)
