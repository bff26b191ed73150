"""dualml attention."""

from __future__ import annotations

import base64
import html
import json
import sys
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import DataError
from ..words import counted

HELP = """Show what each head of a model looks at, as a page for the browser.

One HTML file, which needs nothing else: small maps of all layers and heads; a click shows one large, with its tokens; \
the pointer, or the keyboard, on a token shows what it takes from which token.

[bold]Examples[/]

  dualml attention 'The cat sat on the mat.'                          of the newest run

  dualml attention 'def f(x):' --run runs/gpt-nano-pydoc --out f.html

  dualml attention 'The cat sat on the mat.' --model ~/models/SmolLM2-135M
"""

TextArgument = Annotated[str, typer.Argument(metavar="TEXT", help="What the model reads, at most 256 tokens.")]
Out = Annotated[Path, typer.Option("--out", metavar="FILE", help="The page to write.")]
Run = Annotated[Path | None, typer.Option("--run", metavar="DIR", help="The run's folder. Default: the newest one.")]
Step = Annotated[int | None, typer.Option(help="The checkpoint of this step instead of the newest.")]
Model = Annotated[str | None, typer.Option("--model", metavar="DIR|REPO", help=(
    "A GPT-2, Llama, Qwen2 or Qwen3 from a folder or the Hugging Face hub, instead of a run."))]
Backend = Annotated[str, typer.Option(help="auto, cpu, webgpu or cuda.")]


def attention(text: TextArgument, out: Out = Path("attention.html"), run: Run = None, step: Step = None,
              model: Model = None, backend: Backend = "auto") -> None:
    from ..models.attention_maps import attention_maps
    from ..safe_files import replacing
    from .sample import _load
    if model is not None and (run is not None or step is not None):
        raise DataError("[attention] --model cannot be combined with --run or --step, which choose a run.")
    found, tokenizer, path = _load(model, run, step, backend)
    tokens = tokenizer.encode(text, **({"add_special": True} if model is not None else {})).tolist()
    maps = attention_maps(found, tokens)
    page = make_page(text, [spelled(tokenizer, token) for token in tokens], maps,
                     f"{path}, on {found.wte.weight.backend}")
    with replacing(out, "Name another file with --out.") as partial:
        partial.write_text(page, encoding="utf-8")
    print(f"{out}: {counted(len(maps), 'layer')} of {counted(len(maps[0]), 'head')} on "
          f"{counted(len(tokens), 'token')}. Open it in a browser.", file=sys.stderr)


def spelled(tokenizer: Any, token: int) -> str:
    """A token's text; a piece of a character as its bytes."""
    text: str = tokenizer.decode([token])
    if "\ufffd" in text and hasattr(tokenizer, "decode_bytes"):
        return "".join(f"<{byte:02x}>" for byte in tokenizer.decode_bytes([token]))
    return text


def make_page(text: str, tokens: Sequence[str], maps: Sequence[Any], source: str) -> str:
    """The page as HTML.

    Args:
        tokens: T texts.
        maps: of each layer [heads,T,T], rows of probabilities that see no later token.
        source: of which model it is.
    """
    import numpy as np
    if not maps or any(m.shape[1:] != (len(tokens), len(tokens)) for m in maps):
        raise DataError(f"[attention] maps must be [heads,{len(tokens)},{len(tokens)}] for {len(tokens)} tokens, got "
                        f"{[m.shape for m in maps]}.")
    below = np.tril_indices(len(tokens))
    packed = [[base64.b64encode(np.round(head[below] * 255).astype(np.uint8).tobytes()).decode() for head in layer]
              for layer in maps]
    data = json.dumps({"tokens": list(tokens), "maps": packed, "words": [[summary(h) for h in m] for m in maps]})
    for character in "<>&\u2028\u2029":  # so that no text ends the script, or begins a comment in it
        data = data.replace(character, f"\\u{ord(character):04x}")
    page = files(__package__).joinpath("attention.html").read_text(encoding="utf-8")
    return _filled(page, {"SOURCE": html.escape(source), "TEXT": html.escape(text), "ROWS": "\n".join(_rows(maps)),
                          "DATA": data})


def _filled(page: str, values: dict[str, str]) -> str:
    """The page with each {{NAME}} replaced once; what is put in is not looked at again."""
    parts = []
    for name, value in values.items():
        before, found, page = page.partition("{{" + name + "}}")
        if not found:
            raise DataError(f"[attention] the page must have a place for {name} after the others.")
        parts += [before, value]
    return "".join([*parts, page])


def summary(head: Any) -> str:
    """Where a head looks, in words: the mean share that tokens take from themselves, the one before, and the first."""
    count = len(head)
    itself, first = head.diagonal().mean(), head[:, 0].mean()
    before = head.diagonal(-1).mean() if count > 1 else 0.0
    return f"itself {itself:.0%}, the token before {before:.0%}, the first token {first:.0%}"


def _rows(maps: Sequence[Any]) -> Iterable[str]:
    """The same as text: a table row for each head."""
    return (f"<tr><td>{layer}</td><td>{head}</td><td>{summary(m)}</td></tr>"
            for layer, heads in enumerate(maps, 1) for head, m in enumerate(heads, 1))
