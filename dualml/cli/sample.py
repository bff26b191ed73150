"""dualml sample."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import DataError

HELP = """Generate text from a trained model.

It is a run of dualml train, the newest by default, or a folder in Hugging Face's form.

[bold]Examples[/]

  dualml sample                                         from the newest run

  dualml sample --prompt 'def ' --tokens 300            go on from a beginning

  dualml sample --temperature 0.5 --top-k 20            safer, more repetitive

  dualml sample --top-p 0.9 --repetition-penalty 1.1    only what is likely, and less of what was there

  dualml sample --stop END --stop '\\n\\n'               up to a string

  dualml sample --beams 4 --tokens 60                   the likeliest text that a search with four beams finds

  dualml sample --draft runs/small --model BIG          a small model writes ahead, the big one checks

  dualml sample --out runs/gpt-nano-pydoc --step 500    an earlier checkpoint of a certain run

  dualml sample --model ~/models/SmolLM2-135M           a folder in Hugging Face's form, or a repository of its hub
"""

Prompt = Annotated[str, typer.Option(help="The text to go on from.", show_default="a new line")]
Tokens = Annotated[int, typer.Option(help="How many tokens to write.")]
Temperature = Annotated[float, typer.Option(help="Below 1 more certain, above 1 more varied; 0 is the likeliest text.")]
TopK = Annotated[int | None, typer.Option("--top-k", help="Draw only among so many likeliest tokens.")]
TopP = Annotated[float | None, typer.Option("--top-p", help="Draw only among the likeliest that together have this "
                                            "chance.")]
MinP = Annotated[float | None, typer.Option("--min-p", help="Draw only tokens at least so likely, as a part of the "
                                            "likeliest one's chance.")]
Penalty = Annotated[float, typer.Option("--repetition-penalty", help="Above 1: less of what is in the text already.")]
Stop = Annotated[list[str] | None, typer.Option(help="End before this string (\\n is a new line). May be given again.")]
Cache = Annotated[str | None, typer.Option(help="float32, or int8: a quarter of the memory for keys and values.")]
Beams = Annotated[int, typer.Option(min=1, help="Search for the likeliest text with so many beams instead of drawing.")]
Draft = Annotated[Path | None, typer.Option("--draft", metavar="DIR", help=(
    "A run, or a folder in Hugging Face's form, of a smaller model with the same tokenizer: it writes ahead."))]
Seed = Annotated[int, typer.Option(help="The same seed writes the same text.")]
Out = Annotated[Path | None, typer.Option("--out", "--run", metavar="DIR", help=(
    "The run's folder. Default: the newest one."))]
Step = Annotated[int | None, typer.Option(help="The checkpoint of this step instead of the newest.")]
Model = Annotated[str | None, typer.Option("--model", metavar="DIR|REPO", help=(
    "A GPT-2, Llama, Qwen2 or Qwen3 from a folder or the Hugging Face hub, instead of a run."))]
Backend = Annotated[str, typer.Option(help="auto, cpu, webgpu or cuda.")]


def sample(prompt: Prompt = "\n", tokens: Tokens = 400, temperature: Temperature = 0.8, top_k: TopK = None,
           top_p: TopP = None, min_p: MinP = None, repetition_penalty: Penalty = 1.0, stop: Stop = None,
           seed: Seed = 0, beams: Beams = 1, draft: Draft = None, cache: Cache = None, out: Out = None,
           step: Step = None, model: Model = None, backend: Backend = "auto") -> None:
    from itertools import islice, takewhile

    from ..models import SamplingOptions
    from ..text.stops import until
    if not prompt:
        raise DataError("[sample] --prompt must have at least one character to go on from, got none.")
    if tokens < 0:
        raise DataError(f"[sample] tokens must be 0 or more, got {tokens}.")
    options = SamplingOptions(temperature, top_k, top_p, min_p, repetition_penalty)
    if beams > 1:
        _refuse("--beams", {"--draft": draft, "--cache": cache, "--top-k": top_k, "--top-p": top_p, "--min-p": min_p,
                            "--repetition-penalty": None if repetition_penalty == 1 else repetition_penalty})
    if draft is not None:
        _refuse("--draft", {"--cache": cache})
    found, tokenizer, path = _load(model, out, step, backend)
    begin = tokenizer.encode(prompt, **({"add_special": True} if model is not None else {}))
    ends = _ends(found, tokenizer)
    stops = [text.encode("latin-1", "backslashreplace").decode("unicode_escape") for text in stop or ()]
    print(f"# {path}, on {found.wte.weight.backend}", file=sys.stderr)
    print(prompt, end="", flush=True)
    source = _searched(found, begin, tokens, beams, ends) if beams > 1 else _drawn(
        found, begin, options, seed, cache, _draft(draft, backend, tokenizer))
    drawn = islice(takewhile(lambda t: t not in ends, source), tokens)
    for text in until(_texts(tokenizer, drawn), stops):
        print(text, end="", flush=True)
    print()


def _refuse(name: str, others: dict[str, Any]) -> None:
    """Raises DataError where options are given that would have no effect."""
    given = [other for other, value in others.items() if value is not None]
    if given:
        raise DataError(f"[sample] {', '.join(given)} cannot be combined with {name}, which would not heed it.")


def _drawn(model: Any, begin: list[int], options: Any, seed: int, cache: str | None, draft: Any) -> Iterator[int]:
    """Tokens one by one, or as many as a draft model hits."""
    from ..models.decoding import Decoding
    from ..models.speculative import SpeculativeDecoding
    if draft is not None:
        ahead = SpeculativeDecoding(model, draft, options, seed)
        ahead.read(begin)
        yield from (token for tokens in ahead for token in tokens)
    decoding = Decoding(model, 1, options, seed, cache)
    decoding.read([begin])
    yield from (tokens[0] for tokens in decoding)


def _searched(model: Any, begin: list[int], tokens: int, beams: int, ends: set[int]) -> Iterator[int]:
    """The tokens of the best beam; of a long prompt, the end that leaves room for them."""
    from ..models.beam import beam_search
    room = model.config.context - tokens
    if room < 1:
        raise DataError(f"[sample] --tokens must be below the context of {model.config.context} with --beams, got "
                        f"{tokens}.")
    return iter(beam_search(model, begin[-room:], tokens, beams, ends)[0].tokens)


def _draft(path: Path | None, backend: str, tokenizer: Any) -> Any:
    """The model that writes ahead, if there is one. Raises DataError where its tokens mean other text."""
    from ..data.corpus import agree
    if path is None:
        return None
    model = str(path) if (path / "config.json").is_file() else None
    found, other, _ = _load(model, None if model else path, None, backend)
    if other.vocab_size != tokenizer.vocab_size or not agree(other, tokenizer):
        raise DataError(f"[sample] --draft must have the model's tokenizer, got another one in {path}. Train both with "
                        "the same --tokenizer FILE, or write without a draft.")
    return found


def _load(model: str | None, out: Path | None, step: int | None, backend: str) -> tuple[Any, Any, Any]:
    """A model, its tokenizer, and where they came from."""
    if model is None:
        from ..train import load_for_sampling
        return load_for_sampling(out, backend, step)
    if out is not None or step is not None:
        raise DataError("[sample] --model cannot be combined with --out or --step, which choose a run.")
    from ..models import from_pretrained
    found, tokenizer = from_pretrained(Path(model).expanduser() if model.startswith("~") else model, backend)
    if not hasattr(found, "stream"):
        raise DataError(f"[sample] --model must be a model that writes text, got a {type(found).__name__}.")
    if tokenizer is None:
        raise DataError(f"[sample] {model} has no tokenizer.json, which text needs. Add the file to the folder.")
    return found, tokenizer, model


def _ends(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end a text."""
    named = getattr(model, "source_config", {}).get("eos_token_id")
    return {t for t in [*(named if isinstance(named, list) else [named]), getattr(tokenizer, "end_of_text", None)]
            if isinstance(t, int)}


def _texts(tokenizer: Any, tokens: Iterator[int]) -> Iterator[str]:
    from ..text import decode_stream
    if hasattr(tokenizer, "decode_bytes"):
        return decode_stream(tokenizer, tokens, skip_special=True, begin=False)
    return (tokenizer.decode([token]) for token in tokens)
