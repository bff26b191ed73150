"""dualml chat."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Annotated, Any

import typer

from ..errors import DataError

HELP = """Talk to a model that was tuned to chat.

It has what was said before in mind, as far as its context reaches. Ctrl-C stops an answer, Ctrl-D leaves; /help lists \
what else there is.

[bold]Examples[/]

  dualml chat                                          with the newest run of dualml tune

  dualml chat runs/gpt-nano-pydoc-chat                 with a certain one

  dualml chat --temperature 0.7 --top-k 20             more varied answers

  dualml chat --once 'What is dualml?'                 one answer, for scripts

  dualml chat < questions.txt > answers.txt            a question a line
"""
COMMANDS = """/help    this list
/reset   forget what was said
/quit    leave (Ctrl-D too); Ctrl-C stops an answer"""

Run = Annotated[Path | None, typer.Argument(metavar="RUN", help=(
    "The run's folder. Default: the newest that was tuned."))]
Step = Annotated[int | None, typer.Option(help="The checkpoint of this step instead of the newest.")]
Once = Annotated[str | None, typer.Option("--once", metavar="QUESTION", help="Answer this and leave.")]
System = Annotated[str, typer.Option(metavar="TEXT", help="A text before the conversation, as system messages are.")]
Temperature = Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token; 1 draws as the model weighs.")]
TopK = Annotated[int | None, typer.Option("--top-k", min=1, help="Draw only among so many likeliest tokens.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="The longest answer.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same answers.")]
Backend = Annotated[str, typer.Option(help="auto, cpu, webgpu or cuda.")]


def chat(run: Run = None, step: Step = None, once: Once = None, system: System = "", temperature: Temperature = 0.0,
         top_k: TopK = None, max_tokens: MaxTokens = 200, seed: Seed = 0, backend: Backend = "auto") -> None:
    from ..models.chat import Chat
    from ..train import load_for_sampling, tune
    folder = tune.newest(Path("runs"), tuned=True) if run is None else run
    model, tokenizer, path = load_for_sampling(folder, backend, step)
    options = {"temperature": temperature, "top_k": top_k, "seed": seed}
    talk = _Talk(Chat(model, tokenizer, system, max_tokens), options)
    if once is not None:
        if not once.strip():
            raise DataError("[chat] --once must have a question, got none.")
        talk.answer(once)
        return
    _say(f"# {path}, on {model.wte.weight.backend}")
    if talk.shown:
        _say("# /help lists commands, Ctrl-D leaves.")
    talk.go_on()


def _say(text: str) -> None:
    """What is no answer goes to stderr."""
    print(text, file=sys.stderr, flush=True)


class _Talk:
    """Questions from stdin, answers on stdout; with a prompt where both are a terminal."""

    def __init__(self, chat: Any, options: dict[str, Any]) -> None:
        self.chat, self.options, self.told = chat, options, False
        self.shown = sys.stdin.isatty() and sys.stdout.isatty()
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")  # a terminal may know fewer characters than the model

    def go_on(self) -> None:
        """Answers until the input ends."""
        if self.shown:
            with suppress(ImportError):
                import readline  # noqa: F401  (input() then has editing and history)
        while True:
            try:
                question = input("> " if self.shown else "").strip()
            except KeyboardInterrupt:
                if not self.shown:
                    raise
                print("\n(Ctrl-D or /quit leaves.)")
                continue
            except EOFError:
                if self.shown:
                    print()
                return
            if question == "/quit":
                return
            self._handle(question)

    def _handle(self, line: str) -> None:
        if line == "/reset":
            self.chat.reset()
            _say("(Forgotten.)")
        elif line.startswith("/"):
            _say(COMMANDS if line == "/help" else f"{line.split()[0]} is no command.\n{COMMANDS}")
        elif line:
            try:
                self.answer(line)
            except DataError as error:  # a character the model does not know, or a question too long
                _say(f"dualml: {error}")

    def answer(self, question: str) -> None:
        """Writes an answer as it comes. Ctrl-C ends it, and what was written of it is kept in mind."""
        with _Interrupt() as interrupt:
            pieces = self.chat.answer(question, **self.options)
            for text in pieces:
                print(text, end="", flush=True)
                if interrupt.asked:
                    break
            pieces.close()
        print(flush=True)
        if interrupt.asked:
            _say("(Stopped.)")
        elif self.chat.cut:
            _say("(The answer is cut: it reached --max-tokens or the end of the context.)")
        if self.chat.forgotten and not self.told:
            _say("(The context is full: from here on, what was said first is forgotten.)")
            self.told = True


class _Interrupt:
    """Takes Ctrl-C as a wish, so that none comes in the middle of a device's work. A second one ends the process."""

    asked = False

    def __enter__(self) -> _Interrupt:
        self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
