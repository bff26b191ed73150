"""dualml data: prepare, info, verify."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

HELP = """Make data folders: the tokens of a corpus on disk, for texts too large to be held in memory.

A folder has shards of tokens, the tokenizer that they were made with, and a manifest with the checksums of all. \
`dualml train --data DIR` maps it into memory and trains from it.

[bold]Examples[/]

  dualml data prepare a.txt b.txt --out books                    two documents, byte pairs learned from them

  dualml data prepare chat.txt --out chat --documents line       each line a document

  dualml data prepare tinystories-valid --out stories            stories, a download of 22 MB

  dualml data info stories

  dualml train --data stories --minutes 5
"""
PREPARE = """Turn texts into a data folder.

Documents are encoded one by one, with the end-of-text token behind each; what a text spells out, such as \
<|endoftext|>, is only text. A tenth of the documents is for validation, chosen by their content and --seed, so that \
equal documents go to the same place; where there are few, the last tenth of the text is.

FILES are UTF-8 texts, or names: pydoc (Python's documentation, by topic), shakespeare (downloaded, 1.1 MB), \
tinystories-valid (22 MB) and tinystories (2.2 GB). Downloads go on where they broke off, and their SHA-256 is \
compared with the published one.

Memory stays the same however large the texts are. The folder is there only when it is whole.
"""
app = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode="rich")

Files = Annotated[list[str], typer.Argument(metavar="FILES...", help=(
    "UTF-8 texts, or pydoc, shakespeare, tinystories-valid, tinystories."))]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to make; it must not be there yet.")]
Tokenizer = Annotated[str, typer.Option("--tokenizer", metavar="char|bpe:N|FILE", help=(
    "Characters, N byte pairs learned from (a sample of) the texts, or a tokenizer.json with an end-of-text token."))]
Val = Annotated[float, typer.Option(help="Share for validation.")]
ValFile = Annotated[list[str] | None, typer.Option("--val-file", metavar="FILE", help=(
    "A text that is for validation as a whole; FILES are for training then. May be given again."))]
Documents = Annotated[str | None, typer.Option(metavar="file|line|blank-line|TEXT", help=(
    "How a text is cut into documents: not at all, at line ends, at empty lines, or at a text such as '<|endoftext|>'. "
    "Default: file; of tinystories, its stories."))]
ShardTokens = Annotated[int, typer.Option("--shard-tokens", min=1, help="Tokens in a file at most.")]
Workers = Annotated[int | None, typer.Option(help="Processes that encode. Default: one per core, for large texts.")]
Seed = Annotated[int, typer.Option(help="Decides which documents are for validation.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A data folder.")]


@app.command("prepare", help=PREPARE)
def prepare(files: Files, out: Out, tokenizer: Tokenizer = "bpe:4096", val: Val = 0.1, val_file: ValFile = None,
            documents: Documents = None, shard_tokens: ShardTokens = 1 << 26, workers: Workers = None,
            seed: Seed = 0) -> None:
    from .. import data
    from ..data.shard_writer import refuse_used
    refuse_used(out)
    settings = data.PrepareSettings(tokenizer, val, documents, seed, shard_tokens, workers)
    with _bar() as progress:
        def downloading(done: int, total: int) -> None:
            progress("downloading", done, total)
        sources = data.find_sources(files, progress=downloading)
        sources += data.find_sources(val_file or (), "val", downloading)
        data.prepare(sources, out, settings, progress)
    _show(out)


@app.command("info")
def info(folder: Folder) -> None:
    """Show what a data folder holds."""
    _show(folder)


@app.command("verify")
def verify(folder: Folder) -> None:
    """Read every file of a data folder and compare it with its checksum; exit code 1 if one is not what was written."""
    from rich.console import Console

    from .. import data
    found = data.ShardedTokens(folder)
    total, done = found.nbytes, 0
    with _bar() as progress:
        def reading(size: int) -> None:
            nonlocal done
            done += size
            progress("reading", done, total)
        wrong = found.verify(reading)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for line in wrong:
        console.print(f"dualml: {line}", style="bold red", markup=False)
    if wrong:
        raise typer.Exit(1)
    count = sum(len(split.shards) for split in found.manifest.splits.values())
    print(f"{folder}: {count:,} shard{'s' if count != 1 else ''}, {total:,} bytes, all as they were written.")


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar with a line for each thing that is done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, Any] = {}
        shown: dict[str, float] = {}

        def progress(what: str, done: int, total: int) -> None:
            now = time.monotonic()
            if done < total and now - shown.get(what, 0.0) < 0.1:
                return
            shown[what] = now
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total or None)
            bar.update(tasks[what], completed=done, total=total or None)
        yield progress


def _show(folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from .. import data
    found = data.ShardedTokens(folder)
    manifest, tokenizer = found.manifest, found.tokenizer
    table = Table(title=str(folder), title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for column in ("documents", "tokens", "shards", "bytes"):
        table.add_column(column, justify="right", no_wrap=True)
    width = 2 if manifest.dtype == "u16" else 4
    for name, what in (("train", "training"), ("val", "validation")):
        split = manifest.splits[name]
        table.add_row(what, f"{split.documents:,}", f"{split.tokens:,}", f"{len(split.shards):,}",
                      f"{split.tokens * width:,}")
    console = Console(highlight=False, width=None if Console().is_terminal else 120)
    console.print(table)
    kind = str(tokenizer.to_dict().get("kind"))
    text, tokens = sum(size for _, size in manifest.sources), sum(s.tokens for s in manifest.splits.values())
    console.print(f"tokenizer    {kind}, {manifest.vocab_size:,} tokens, {text / tokens:.2f} bytes of text in each; "
                  f"{manifest.dtype}, end of text {manifest.end_of_text}")
    shown = [f"{name} ({size:,} bytes)" for name, size in manifest.sources[:8]]
    shown += [f"and {len(manifest.sources) - 8:,} more"] if len(manifest.sources) > 8 else []
    console.print(Text(f"sources      {', '.join(shown)}"))
