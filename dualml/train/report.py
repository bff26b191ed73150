"""What a run shows while it goes: a live panel on a terminal, plain lines elsewhere, nothing by default."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from ..words import counted
from .evaluation import Evaluation, figure

BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass
class Progress:
    """A run at one moment. `history` is the loss so far as a few means; `total` is None until it is known."""

    step: int = 0
    total: int | None = None
    loss: float | None = None
    rate: float = 0.0
    tokens_per_second: float = 0.0
    seconds_left: float | None = None
    spent: float = 0.0
    history: Sequence[float] = field(default_factory=list)


class Reporter:
    """Shows nothing; the base of those that do."""

    def start(self, title: str, lines: Sequence[str]) -> None:
        """Says what is about to be trained, and on what."""

    def note(self, text: str) -> None:
        """A sentence for the reader."""

    def stopping(self) -> None:
        self.note("Stopping after this step and saving. Ctrl-C again ends at once, without saving.")

    def planned(self, total: int, minutes: float, tokens_per_second: float) -> None:
        """Says how long a run bounded in time will be. Later on, the number of steps follows the speed silently."""
        self.note(f"Planned: {counted(total, 'step')}, at {tokens_per_second:,.0f} tokens/s for {minutes:g} minutes. "
                  "More or fewer, should the speed change.")

    def progress(self, now: Progress) -> None: ...

    def evaluated(self, step: int, found: Evaluation) -> None: ...

    def sample(self, step: int, text: str) -> None: ...

    def close(self) -> None: ...


def clock(seconds: float | None) -> str:
    """Minutes and seconds, hours where there are any."""
    if seconds is None:
        return "-:--"
    whole = max(0, round(seconds))
    minutes, rest = divmod(whole, 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def sparkline(values: Sequence[float]) -> str:
    if not values:
        return ""
    low, high = min(values), max(values)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((v - low) * scale)] for v in values)


class PlainReporter(Reporter):
    """A line every few seconds, for logs and pipes."""

    def __init__(self, file: TextIO | None = None, every: float = 5.0) -> None:
        self.file, self.every = file, every
        self._shown = -every

    def _print(self, text: str) -> None:
        print(text, file=self.file or sys.stdout, flush=True)

    def start(self, title: str, lines: Sequence[str]) -> None:
        self._print("\n".join([title, *(f"  {line}" for line in lines)]))

    def note(self, text: str) -> None:
        self._print(text)

    def progress(self, now: Progress) -> None:
        if now.spent - self._shown < self.every and now.step != now.total:
            return
        self._shown = now.spent
        loss = "-" if now.loss is None else f"{now.loss:.4f}"
        speed = f"{now.tokens_per_second:,.0f} tokens/s" if now.tokens_per_second else "measuring"
        self._print(f"step {now.step:>5}/{now.total or '?'}  loss {loss}  lr {now.rate:.1e}  {speed}  "
                    f"{clock(now.seconds_left)} left")

    def evaluated(self, step: int, found: Evaluation) -> None:
        self._print(f"step {step:>5}  validation loss {found}")

    def sample(self, step: int, text: str) -> None:
        self._print(f"--- sample after step {step} ---\n{text}\n---")


class RichReporter(Reporter):
    """A panel that stays at the bottom of the terminal while samples scroll by above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, Progress as Bar, TaskProgressColumn, TextColumn
        self.console = Console(highlight=False)
        self.title, self.place = "", ""
        self.now = Progress()
        self.validations: list[tuple[int, float]] = []
        self._bar = Bar(TextColumn("step {task.fields[place]}"), BarColumn(None), TaskProgressColumn(),
                        TextColumn("{task.fields[left]} left"), expand=True)
        self._task = self._bar.add_task("", total=None, left="-:--", place="0")
        self._live = Live(console=self.console, get_renderable=self._panel, refresh_per_second=4, transient=False)

    def _panel(self) -> Any:
        from rich.console import Group
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text
        now = self.now
        row = Table.grid(expand=True)
        for _ in range(4):
            row.add_column()
        best = min((v for _, v in self.validations), default=None)
        last = f"{self.validations[-1][1]:.4f}" if self.validations else "-"
        speed = f"{now.tokens_per_second:,.0f}" if now.tokens_per_second else "-"
        row.add_row(
            Text.assemble("loss ", ("-" if now.loss is None else f"{now.loss:.4f}", "bold cyan")),
            Text.assemble("val ", (last, "bold magenta"), "" if best is None else f" (best {best:.4f})"),
            Text.assemble((speed, "bold green"), " tokens/s"),
            Text(f"lr {now.rate:.1e}"))
        body = Group(self._bar, row, Text(sparkline(now.history), style="cyan"))
        return Panel(body, title=Text(self.title), title_align="left", subtitle=Text(self.place),
                     subtitle_align="right", border_style="blue")

    def start(self, title: str, lines: Sequence[str]) -> None:
        self.title, self.place = title, lines[-1] if lines else ""
        for line in lines[:-1]:
            self.console.print(f"  {line}", markup=False)
        self._live.start()

    def note(self, text: str) -> None:
        self.console.print(text, style="yellow", markup=False)

    def stopping(self) -> None:
        super().stopping()
        self.console.show_cursor()  # a process that is killed cannot bring it back

    def progress(self, now: Progress) -> None:
        self.now = now
        self._bar.update(self._task, completed=now.step, total=now.total, left=clock(now.seconds_left),
                         place=f"{now.step:,}" + (f"/{now.total:,}" if now.total else ""))

    def evaluated(self, step: int, found: Evaluation) -> None:
        self.validations.append((step, found.loss))
        self.console.print(f"step {step:,}: validation loss [bold magenta]{figure(found.loss, 4)}[/], perplexity "
                           f"{figure(found.perplexity)}, {figure(found.bits_per_byte, 3)} bits per byte")

    def sample(self, step: int, text: str) -> None:
        from rich.padding import Padding
        from rich.text import Text
        self.console.print(Padding(Text(text.strip("\n"), style="dim"), (0, 4)))

    def close(self) -> None:
        self._live.stop()


def make_reporter(plain: bool = False) -> Reporter:
    """A live panel where the output is a terminal, plain lines elsewhere."""
    return PlainReporter() if plain or not sys.stdout.isatty() else RichReporter()
