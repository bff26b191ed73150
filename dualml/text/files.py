"""Tokenizers by name and as files, of every kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..errors import DataError
from .bpe import END_OF_TEXT, BPETokenizer
from .char import CharTokenizer
from .sentencepiece import SentencePieceTokenizer, is_sentencepiece
from .tokenizer import Tokenizer, load_tokenizer
from .tokenizer_json import from_json, read
from .wordpiece import WordPieceTokenizer

Progress = Callable[[int, int], None]  # merges done, merges in all


def bpe_size(wanted: str) -> int | None:
    """N of "bpe:N", None for another word."""
    kind, _, size = wanted.partition(":")
    return int(size) if kind == "bpe" and size.isdecimal() else None


def make_tokenizer(wanted: str, texts: str | Iterable[str], progress: Progress | None = None,
                   special: tuple[str, ...] = ()) -> Tokenizer:
    """The tokenizer that a setting names: "char" or "bpe:N", made for the texts, or a file.

    Args:
        special: what a "char" tokenizer has besides characters.
    Raises:
        DataError: it is none of these, or the texts are too short for N tokens.
    """
    if wanted == "char":
        characters: set[str] = set()
        for text in [texts] if isinstance(texts, str) else texts:
            characters.update(text)
        return CharTokenizer(characters, special)
    size = bpe_size(wanted)
    if size is not None:
        made = BPETokenizer.train(texts, size, progress=progress)
        if made.vocab_size < size:
            raise DataError(f"[tokenizer] bpe:{size} needs a longer text: this one has pairs for {made.vocab_size} "
                            f"tokens. Use bpe:{made.vocab_size} or fewer.")
        return made
    path = Path(wanted).expanduser()
    if not path.exists() and (path.suffix or len(path.parts) > 1):
        raise DataError(f"[tokenizer] {wanted} does not exist. Give char, bpe:N such as bpe:4096, or a tokenizer.json.")
    if not path.is_file():
        raise DataError(f"[tokenizer] expected char, bpe:N such as bpe:4096, or a tokenizer.json, got {wanted!r}.")
    return read_tokenizer(path)


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a file: a tokenizer.json of byte-level BPE, or what CharTokenizer.save wrote.

    Raises:
        DataError: the file is missing, damaged, or of another kind.
    """
    content: Any = read(path)
    if not isinstance(content, dict) or content.get("kind") != "char":
        if is_sentencepiece(content):
            raise DataError(f"[tokenizer] {path} must be of byte-level BPE for data and training, got one of the "
                            "SentencePiece kind, which only comes with a loaded model.")
        return from_json(content)
    try:
        return load_tokenizer(content)
    except DataError as error:
        raise DataError(f"{error} Look into {path}.") from None


def load_tokenizer_json(path: str | Path) -> BPETokenizer | SentencePieceTokenizer | WordPieceTokenizer:
    """The tokenizer of Hugging Face's tokenizer.json, of the kind that the file says.

    Raises:
        DataError: the file is missing, damaged, or of a kind that is not supported.
    """
    content: Any = read(Path(path))
    model = content.get("model") if isinstance(content, dict) else None
    if isinstance(model, dict) and model.get("type") == "WordPiece":
        return WordPieceTokenizer(content)
    return SentencePieceTokenizer(content) if is_sentencepiece(content) else from_json(content)


def end_of_text(tokenizer: Tokenizer) -> int | None:
    """The id of the token that separates documents, where there is one."""
    special: dict[str, int] = getattr(tokenizer, "special_tokens", {})
    return next((special[name] for name in END_OF_TEXT if name in special), None)
