"""dualml tokenizer: train, show, encode, decode."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import DataError
from ..words import counted

HELP = """Train a tokenizer, and see what it makes of text.

Its file is a tokenizer.json, as Hugging Face's tokenizers reads and writes it.

[bold]Examples[/]

  dualml tokenizer train book.txt --vocab-size 4096 --out tokenizer.json

  dualml tokenizer show 'Hello, world!' --tokenizer tokenizer.json     the pieces in colours, with their ids

  dualml tokenizer show 'Hello, world!' --tokenizer stories/tokenizer.json   of a data folder, of characters too

  echo Hello | dualml tokenizer encode --tokenizer tokenizer.json | dualml tokenizer decode --tokenizer tokenizer.json
"""
app = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode="rich")

Files = Annotated[list[Path], typer.Argument(help="UTF-8 texts to learn from.")]
Size = Annotated[int, typer.Option("--vocab-size", help="Tokens in all: 256 bytes, special tokens, and merges.")]
Out = Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write; Hugging Face's tokenizers reads it.")]
Pattern = Annotated[str, typer.Option(help="How text is cut into words first: gpt2, gpt4, gpt4o, qwen, or a regex.")]
Special = Annotated[list[str] | None, typer.Option("--special", help=(
    "A special token; may be given again. Default: <|endoftext|>."))]
File = Annotated[Path | None, typer.Option("--tokenizer", metavar="FILE", help="A tokenizer.json.")]
Required = Annotated[Path, typer.Option("--tokenizer", metavar="FILE", help="A tokenizer.json.")]
Text = Annotated[str | None, typer.Argument(help="The text. Default: standard input.")]
Plain = Annotated[bool, typer.Option("--no-special", help="Special tokens in the text are plain text.")]
Ids = Annotated[list[int] | None, typer.Argument(help="Token ids. Default: standard input.")]
COLOURS = ("black on bright_cyan", "black on bright_yellow", "black on bright_green", "black on bright_magenta")


@app.command("train")
def train(files: Files, vocab_size: Size = 4096, out: Out = Path("tokenizer.json"), pattern: Pattern = "gpt4",
          special: Special = None) -> None:
    """Learn byte pairs from texts and write a tokenizer.json."""
    from rich.console import Console
    from rich.progress import Progress

    from ..text import BPETokenizer
    from ..text.stream import read_blocks
    names = ["<|endoftext|>"] if special is None else special
    _refuse_early(files, out)
    cutter = BPETokenizer.blank(pattern, names)
    with Progress(console=Console(stderr=True)) as progress:
        reading = progress.add_task("reading", total=sum(f.stat().st_size for f in files if f.is_file()) or None)
        merging = progress.add_task("merging", total=None)

        def texts() -> Iterator[str]:
            for file in files:
                for size, text in read_blocks(file, cutter.safe_cut):
                    yield text
                    progress.advance(reading, size)
        made = BPETokenizer.train(texts(), vocab_size, pattern=pattern, special_tokens=names,
                                  progress=lambda done, total: progress.update(merging, completed=done, total=total))
    made.save(out)
    print(f"{out}: {counted(made.vocab_size, 'token')}")
    if made.vocab_size < vocab_size:
        print(f"The texts have no pairs for more of the {vocab_size:,}: longer texts have.", file=sys.stderr)


def _refuse_early(files: list[Path], out: Path) -> None:
    """Raises DataError for empty files and for an output that cannot be, before the work."""
    empty = [str(file) for file in files if file.is_file() and not file.stat().st_size]
    if empty:
        raise DataError(f"[tokenizer] FILES must have some text, got none in {', '.join(empty[:8])}. Leave away what "
                        "is empty.")
    if out.is_dir() or not out.parent.is_dir():
        raise DataError(f"[tokenizer] --out must be a file in a folder that exists, got {out}. Make the folder, or "
                        "name another file.")


@app.command("show")
def show(text: Text = None, tokenizer: File = None) -> None:
    """Paint the pieces of a text, with their ids. Without --tokenizer: as bytes, before any merge."""
    from rich.console import Console
    from rich.text import Text as Rich

    from ..text import BPETokenizer
    found = _load(tokenizer) if tokenizer else BPETokenizer.blank("gpt4", [])
    text = _read(text)
    ids = found.encode(text).tolist()
    pieces = Rich()
    for i, (piece, token) in enumerate(zip(_pieces(found, ids), ids, strict=True)):
        pieces.append(piece, COLOURS[i % len(COLOURS)])
        pieces.append(f" {token} ", "dim")
        if piece.endswith("⏎"):
            pieces.append("\n")
    console = Console(highlight=False)
    console.print(pieces)
    sizes = (len(ids), "token"), (len(text), "character"), (len(text.encode("utf-8", "replace")), "byte")
    console.print(", ".join(counted(*size) for size in sizes), style="dim")


@app.command("encode")
def encode(text: Text = None, tokenizer: Required = Path("tokenizer.json"), no_special: Plain = False) -> None:
    """Write the ids of a text."""
    found = _load(tokenizer)
    text = _read(text)
    ids = found.encode(text, allowed_special="none") if no_special else found.encode(text)
    print(*ids.tolist())


@app.command("decode")
def decode(ids: Ids = None, tokenizer: Required = Path("tokenizer.json")) -> None:
    """Write the text of ids."""
    found = _load(tokenizer)
    try:
        numbers = ids or [int(word) for word in sys.stdin.read().split()]
    except ValueError as error:
        raise DataError(f"[decode] ids must be whole numbers, got {str(error).rsplit(': ', 1)[-1]}.") from None
    sys.stdout.write(found.decode(numbers))


def _load(path: Path) -> Any:
    from ..text import CharTokenizer, WordPieceTokenizer, load_tokenizer_json
    from ..text.tokenizer_json import read
    content = read(path)
    if isinstance(content, dict) and content.get("kind") == "char":
        return CharTokenizer.from_dict(content)
    found = load_tokenizer_json(path)
    if isinstance(found, WordPieceTokenizer):
        raise DataError(f"[tokenizer] {path} must be of byte pairs, got WordPiece, whose tokens have no bytes.")
    return found


def _read(text: str | None) -> str:
    if text is not None:
        return text
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise DataError(f"[encode] standard input must be UTF-8 text, got another byte at {error.start:,}.") from None


def _pieces(tokenizer: Any, ids: list[int]) -> Iterator[str]:
    """Each token's text with white space made visible, and bytes that are no text as \\xNN."""
    for token in ids:
        piece = tokenizer.decode_bytes([token]).decode("utf-8", "backslashreplace")
        shown = piece.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥")
        yield "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
