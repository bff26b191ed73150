"""tokenizer.json, the file format of Hugging Face's tokenizers, for byte-level BPE: both ways.

What changes tokens is honoured or refused by name; `truncation` and `padding`, which are a batch's, are not read.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import DataError
from .added import AddedToken
from .bpe import BPETokenizer
from .pretokenize import byte_level, flag

LARGEST = 1 << 28  # bytes of a file


def read(path: Path) -> Any:
    """The content of a JSON file. Raises DataError where there is none."""
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise DataError(f"[tokenizer] {path} must be at most {LARGEST:,} bytes, got {size:,}.")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"[tokenizer] {path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"[tokenizer] {path} must be JSON, got {type(error).__name__}: {error}.") from None


def write(content: Any, path: Path) -> None:
    """Writes a file's content under a temporary name, then renames. Half a surrogate pair, which has no UTF-8, is
    written as JSON's escape of it."""
    text = json.dumps(content, ensure_ascii=False, indent=1)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise DataError(f"[tokenizer] {path} cannot be written: {error.strerror or error}. Name another file, free "
                        "some space, or see to the folder's permissions.") from None


def to_json(tokenizer: BPETokenizer) -> dict[str, Any]:
    """A tokenizer as the content of a tokenizer.json."""
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
             "ignore_merges": tokenizer.ignore_merges, "vocab": tokenizer.vocab,
             "merges": [list(pair) for pair in tokenizer.merges]}
    return {"version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [dict(vars(token)) for token in sorted(tokenizer.added, key=lambda t: t.id)],
            "normalizer": tokenizer.normalizer,
            "pre_tokenizer": tokenizer.pre_tokenizer.spec, "post_processor": tokenizer.post_processor,
            "decoder": byte_level(prefix_space=True), "model": model}


def from_json(content: Any) -> BPETokenizer:
    """The tokenizer of a file's content. Raises DataError that names what is damaged or not supported."""
    model = as_object(as_object(content, "a tokenizer.json").get("model"), "model")
    if model.get("type", "BPE") != "BPE":
        raise unsupported(model["type"])
    for name in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(name) and not (name == "unk_token" and isinstance(model[name], str)):
            raise DataError(f"[tokenizer] {name} of the model must be empty, got {str(model[name])[:80]!r}. "
                            "BPETokenizer has byte-level BPE; byte_fallback is SentencePieceTokenizer's.")
    vocab = read_vocab(model.get("vocab"))
    merges = read_merges(model.get("merges"), vocab)
    added = added_tokens(content.get("added_tokens"), vocab)
    post = content.get("post_processor")
    return BPETokenizer(vocab, merges, content.get("pre_tokenizer"), added, normalizer=content.get("normalizer"),
                        ignore_merges=flag(model, "ignore_merges", False), around=around(post), post_processor=post)


def unsupported(kind: Any) -> DataError:
    """The error for a model that is not BPE."""
    return DataError(f"[tokenizer] model must be BPE, got {str(kind)[:80]!r}. A WordPiece file is loaded by "
                     "WordPieceTokenizer; model.type Unigram (T5, ALBERT, XLM-R) and WordLevel are not supported.")


def added_tokens(listed: Any, vocab: dict[str, int]) -> list[AddedToken]:
    """The added tokens of a file. Raises DataError where they contradict the vocabulary or each other."""
    if not isinstance(listed, list | None):
        raise DataError(f"[tokenizer] added_tokens must be a list, got {type(listed).__name__}.")
    added = [AddedToken.from_dict(token) for token in listed or ()]
    numbers: dict[int, str] = {number: token for token, number in vocab.items()}
    contents: dict[str, int] = {}
    for token in added:
        if numbers.setdefault(token.id, token.content) != token.content or \
                contents.setdefault(token.content, token.id) != token.id or \
                vocab.get(token.content, token.id) != token.id:
            raise DataError(f"[tokenizer] added token {token.content!r} must have an id of its own, got {token.id}, "
                            "which contradicts another entry.")
    return added


def around(post: Any, depth: int = 0) -> tuple[list[int], list[int]]:
    """The ids that a post-processor puts before and after one text."""
    if post is None:
        return [], []
    kind = as_object(post, "post_processor").get("type")
    if kind == "ByteLevel":
        return [], []
    if kind in ("RobertaProcessing", "BertProcessing"):
        try:
            return [_id(post["cls"][1])], [_id(post["sep"][1])]
        except (KeyError, TypeError, IndexError):
            raise DataError(f"[tokenizer] {kind} must have cls and sep as [text, id].") from None
    if kind == "TemplateProcessing":
        return _template(post)
    if kind == "Sequence" and isinstance(post.get("processors"), list) and depth < 8:
        left: list[int] = []
        right: list[int] = []
        for inner in post["processors"]:
            before, after = around(inner, depth + 1)
            left, right = before + left, right + after
        return left, right
    raise DataError(f"[tokenizer] post_processor {str(kind)[:80]!r} is not supported. Supported: ByteLevel, "
                    "TemplateProcessing, RobertaProcessing, BertProcessing, Sequence.")


def _template(post: dict[str, Any]) -> tuple[list[int], list[int]]:
    sides: tuple[list[int], list[int]] = ([], [])
    seen = 0
    try:
        for step in post["single"]:
            if "Sequence" in step:
                seen += 1
            else:
                sides[seen].extend(map(_id, post["special_tokens"][step["SpecialToken"]["id"]]["ids"]))
    except (KeyError, TypeError, IndexError, AttributeError):
        seen = 0
    if seen != 1:
        raise DataError("[tokenizer] TemplateProcessing's single must be special tokens around one Sequence.")
    return sides


def _id(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 0x110000:
        raise DataError(f"[tokenizer] an id must be a whole number from 0, got {str(value)[:80]!r}.")
    return value


def as_object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"[tokenizer] {name} must be an object, got {type(value).__name__}. The file is damaged.")
    return value


def read_vocab(vocab: Any) -> dict[str, int]:
    for number in as_object(vocab, "vocab").values():
        _id(number)
    return dict(vocab)


def read_merges(merges: Any, vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Pairs from "a b" or ["a", "b"]."""
    if not isinstance(merges, list):
        raise DataError(f"[tokenizer] merges must be a list, got {type(merges).__name__}. The file is damaged.")
    found = []
    for at, merge in enumerate(merges):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) and part for part in pair):
            raise DataError(f"[tokenizer] merge {at} must be a pair of tokens, got {str(merge)[:80]!r}.")
        left, right = pair
        missing = [part for part in (left, right, left + right) if part not in vocab]
        if missing:
            raise DataError(f"[tokenizer] merge {at} must be of tokens in the vocabulary, got {missing[0][:80]!r}.")
        found.append((left, right))
    return found
