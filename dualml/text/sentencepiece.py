"""Byte-pair encoding as SentencePiece has it (Kudo and Richardson 2018): Llama 1 and 2, TinyLlama, Mistral, Gemma.

A text is one long word in which a mark, "\u2581", stands for each space and often for the beginning; a character
without a token is spelled in bytes, <0x00> to <0xFF>. This reads the tokenizer.json that such a model is converted to.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import regex

from ..errors import DataError
from .added import AddedSplitter, AddedToken, choose
from .bpe import END_OF_TEXT
from .merges import WordCache, as_merger, pack
from .pretokenize import flag
from .sentencepiece_steps import decoding, normalization, pre_tokenization, shown, step_kinds
from .tokenizer import checked_ids, checked_text, register_tokenizer
from .tokenizer_json import added_tokens, around, as_object, read, read_merges, read_vocab, unsupported, write

_BYTE = regex.compile(r"<0x([0-9A-Fa-f]{2})>")
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


class SentencePieceTokenizer:
    """The tokenizer of a tokenizer.json whose model is BPE over characters, with byte_fallback or an unknown token.

    `lead` is what `decode` takes off the beginning of a text, since `encode` puts it there.

    Args:
        content: the file's content. Raises DataError that names what is damaged or not supported.
    """

    def __init__(self, content: Any) -> None:
        model = as_object(as_object(content, "a tokenizer.json").get("model"), "model")
        if model.get("type", "BPE") != "BPE":
            raise unsupported(model["type"])
        for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
            if model.get(name):
                raise DataError(f"[tokenizer] {name} of the model must be empty, got {shown(model[name])}.")
        self._content = content
        self.vocab = read_vocab(model.get("vocab"))
        self.merges = read_merges(model.get("merges"), self.vocab)
        self.added = tuple(added_tokens(content.get("added_tokens"), self.vocab))
        self._tokens = _by_id(self.vocab, self.added)
        self._special = {token.id for token in self.added if token.special}
        self._around = tuple(np.asarray(ids, np.int32) for ids in around(content.get("post_processor")))
        if any(number >= self.vocab_size for side in self._around for number in side.tolist()):
            raise DataError(f"[tokenizer] post_processor must name ids below {self.vocab_size}, got others.")
        self._configure(model)

    def _configure(self, model: dict[str, Any]) -> None:
        content, vocab = self._content, self.vocab
        self._spelling = _Spelling(vocab, model)
        self._merger = as_merger(vocab, self.merges)
        self._ignore_merges = flag(model, "ignore_merges", False)
        self._normalize = normalization(content.get("normalizer"))
        self._pre = pre_tokenization(content.get("pre_tokenizer"))
        whole = self._ignore_merges or self._pre.split  # pieces that are words already
        self._cut = None if whole else _cutter(self._pre.mark, self.merges, vocab, self._spelling.atoms)
        self._bytes, self.lead = self._decoded(content.get("decoder"))
        self._words = WordCache(self._encode_word)
        self._splitters: dict[tuple[AddedToken, ...], AddedSplitter] = {}

    def _decoded(self, spec: object) -> tuple[list[bytes], bytes]:
        """Each token's bytes, and the lead. A token that was sought in normalized text took its mark, so has it."""
        tokens = self._tokens.copy()
        for token in self.added:
            if token.normalized:
                tokens[token.id] = self._normalize(token.content)
        decoder = decoding(spec, tokens)
        return [bytes.fromhex(found[1]) if decoder.fallback and (found := _BYTE.fullmatch(token))
                else token.encode("utf-8", "replace") for token in map(decoder.spell, tokens)], decoder.lead

    @property
    def vocab_size(self) -> int:
        return len(self._tokens)

    @property
    def special_tokens(self) -> dict[str, int]:
        """Ids of the special tokens by text."""
        return {token.content: token.id for token in self.added if token.special}

    @property
    def end_of_text(self) -> int | None:
        """The id that separates documents, where there is one."""
        special = self.special_tokens
        return next((special[name] for name in END_OF_TEXT if name in special), None)

    def encode(self, text: str, allowed_special: str | Collection[str] = "all",
               add_special: bool = False) -> np.ndarray:
        """Tokens as int32 [T]. Raises DataError for a lone surrogate, which has no bytes.

        Args:
            allowed_special: which special tokens the text may contain: "all", "none" (for text of strangers) or names.
            add_special: put the tokens around it that the file's post-processor names, such as Llama's <s>.
        """
        packed = self._encode(checked_text(text), choose(self.added, allowed_special))
        self._words.trim()
        tokens = np.frombuffer(b"".join(packed), "<i4").astype(np.int32)
        return np.concatenate([self._around[0], tokens, self._around[1]]) if add_special else tokens

    def decode(self, tokens: Iterable[int], skip_special: bool = False) -> str:
        """Text of tokens, without the space that encode put before it; byte tokens that are no UTF-8 become U+FFFD.
        Raises DataError for an id outside the vocabulary."""
        return self.decode_bytes(tokens, skip_special).removeprefix(self.lead).decode("utf-8", "replace")

    def decode_bytes(self, tokens: Iterable[int], skip_special: bool = False) -> bytes:
        """Bytes of tokens as they are in the midst of a text: those of a list are its parts' put together.
        Raises DataError for an id outside the vocabulary."""
        listed = checked_ids(tokens, self.vocab_size)
        if skip_special:
            listed = [token for token in listed if token not in self._special]
        return b"".join(map(self._bytes.__getitem__, listed))

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "sentencepiece", "tokenizer": self._content}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> SentencePieceTokenizer:
        return cls(saved.get("tokenizer"))

    def save(self, path: str | Path) -> None:
        """Writes a tokenizer.json with what was read."""
        write(self._content, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> SentencePieceTokenizer:
        """Reads a tokenizer.json. Raises DataError for a damaged file, or one that needs what this class has not."""
        return cls(read(Path(path)))

    def __reduce__(self) -> Any:
        return SentencePieceTokenizer.from_dict, (self.to_dict(),)

    def _encode(self, text: str, chosen: Sequence[AddedToken]) -> list[bytes]:
        early = self._splitter(tuple(t for t in chosen if not t.normalized), normalized=False)
        late = self._splitter(tuple(t for t in chosen if t.normalized), normalized=True)
        packed: list[bytes] = []
        for piece, token in early(text):
            for plain, inner in [("", token)] if token is not None else late(self._normalize(piece)):
                if inner is not None:
                    packed.append(pack(chr(inner.id)))
                    continue
                for word in self._pre(plain, first=not packed):
                    packed += map(self._words.__getitem__, [word] if self._cut is None else self._cut(word))
        return packed

    def _splitter(self, tokens: tuple[AddedToken, ...], normalized: bool) -> AddedSplitter:
        """Finds tokens; those that are sought in normalized text are normalized too, which gives them a mark."""
        if tokens not in self._splitters:
            sought = [replace(t, content=self._normalize(t.content)) for t in tokens] if normalized else tokens
            self._splitters[tokens] = AddedSplitter(sought)
        return self._splitters[tokens]

    def _encode_word(self, word: str) -> bytes:
        if self._ignore_merges and word in self.vocab:
            return pack(chr(self.vocab[word]))
        return pack(self._merger(self._spelling(word)))


class _Spelling:
    """Characters as tokens before any merge, one chr(id) each."""

    def __init__(self, vocab: Mapping[str, int], model: dict[str, Any]) -> None:
        self._known = {token: chr(number) for token, number in vocab.items() if len(token) == 1}
        self._bytes: list[str] | None = None
        self._fuse = flag(model, "fuse_unk", False)
        if flag(model, "byte_fallback", False):
            missing = [token for token in _BYTES if token not in vocab]
            if missing:
                raise DataError(f"[tokenizer] byte_fallback needs the tokens <0x00> to <0xFF>, but {missing[0]} and "
                                f"{len(missing) - 1} more are missing.")
            self._bytes, self.atoms = [chr(vocab[token]) for token in _BYTES], frozenset(_BYTES)
            return
        unknown = model.get("unk_token")
        if not isinstance(unknown, str) or unknown not in vocab:
            raise DataError(f"[tokenizer] unk_token must be in the vocabulary where there is no byte_fallback, got "
                            f"{shown(unknown)}. Characters without a token would be lost.")
        self._unknown, self.atoms = chr(vocab[unknown]), frozenset([unknown])

    def __call__(self, word: str) -> str:
        try:
            return "".join(map(self._known.__getitem__, word))
        except KeyError:
            return "".join(self._spelled(word))

    def _spelled(self, word: str) -> Iterable[str]:
        before = True
        for char in word:
            known = self._known.get(char)
            if known is not None:
                yield known
            elif self._bytes is not None:
                yield from map(self._bytes.__getitem__, char.encode())
            elif before or not self._fuse:
                yield self._unknown
            before = known is not None


def is_sentencepiece(content: Any) -> bool:
    """Whether a tokenizer.json is for this class: BPE with byte_fallback, or with marks in place of spaces."""
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        return False
    pre = step_kinds(content, "pre_tokenizer")
    return "ByteLevel" not in pre and (model.get("byte_fallback") is True or "Metaspace" in pre
                                       or bool({"Prepend", "Replace"} & step_kinds(content, "normalizer")))


def _by_id(vocab: Mapping[str, int], added: Iterable[AddedToken]) -> list[str]:
    """The tokens in the order of their ids. Raises DataError where these are not 0, 1, 2... or too many."""
    found: dict[int, str] = {}
    for token, number in vocab.items():
        if number in found:
            raise DataError(f"[tokenizer] each token must have its own id, got {number} for {token[:80]!r} and "
                            "another.")
        found[number] = token
    found |= {token.id: token.content for token in added}
    hole = next((i for i in range(len(found)) if i not in found), None)
    if hole is not None or not found:
        raise DataError(f"[tokenizer] ids must be 0, 1, 2... without a hole, got {len(found)} ids without {hole or 0}.")
    if len(found) > 0x110000:
        raise DataError(f"[tokenizer] a vocabulary may have {0x110000:,} tokens, got {len(found):,}.")
    return [found[i] for i in range(len(found))]


def _cutter(mark: str, merges: Iterable[tuple[str, str]], vocab: Mapping[str, int], atoms: Collection[str]
            ) -> Callable[[str], list[str]] | None:
    """Cuts text before each run of marks where no merge reaches over the cut, so that words can be remembered; None
    where merges of bytes or of the unknown token make that hard to tell."""
    if mark not in vocab or any(left in atoms or right in atoms for left, right in merges):
        return None
    over = {char for left, right in merges if mark in left[1:] + right
            for char in regex.findall(f"(?s)([^{mark}])(?={mark})", left + right)}
    plain = f"[^{mark}]"
    joined = f"(?:(?<=[{''.join(map(regex.escape, sorted(over)))}]){mark}+{plain}*)*" if over else ""
    found: Callable[[str], list[str]] = regex.compile(f"{mark}*{plain}+{joined}|{mark}+").findall
    return found


register_tokenizer("sentencepiece", SentencePieceTokenizer.from_dict)
