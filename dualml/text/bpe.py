"""Byte-level byte-pair encoding (Sennrich et al. 2016; on bytes: Radford et al. 2019).

Text is cut into words by a regular expression; a word's bytes are tokens, and the pairs of the merge list become one
token, best first. Every text and every byte string has tokens, and decodes to itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .added import AddedSplitter, AddedToken, choose, refuse_special
from .chunks import BLOCK, chunks, cuts
from .merges import CACHE_WORD, WordCache, as_merger, pack
from .normalizers import normalization
from .patterns import BYTE_TO_CHAR, PATTERNS, unprintable
from .pretokenize import PreTokenizer, describe
from .tokenizer import checked_ids, checked_text, register_tokenizer

END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|im_end|>", "</s>", "<eos>")


class BPETokenizer:
    """A byte-level BPE tokenizer.

    Args:
        vocab: ids of tokens, spelled in GPT-2's printable bytes.
        merges: pairs of spelled tokens, best first.
        pre_tokenizer: its description in Hugging Face's format.
        added: tokens that are found as whole texts.
        ignore_merges: a word that is in the vocabulary is taken as it is (Llama 3).
        normalizer: its description in Hugging Face's format, if it has one.
        around: ids before and after a text, for encode(..., add_special=True).
        post_processor: kept for saving.
    """

    def __init__(self, vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], pre_tokenizer: Mapping[str, Any],
                 added: Sequence[AddedToken] = (), *, ignore_merges: bool = False, normalizer: Any = None,
                 around: tuple[Sequence[int], Sequence[int]] = ((), ()), post_processor: Any = None) -> None:
        self.vocab, self.merges, self.added = dict(vocab), list(merges), tuple(added)
        self.pre_tokenizer = PreTokenizer(pre_tokenizer)
        self.ignore_merges, self.normalizer, self.post_processor = ignore_merges, normalizer, post_processor
        self._normalize = normalization(normalizer)
        self._around = tuple(np.asarray(ids, np.int32) for ids in around)
        self._bytes = _token_bytes(self.vocab, self.added)
        if any(number >= len(self._bytes) for side in self._around for number in side.tolist()):
            raise DataError(f"[tokenizer] post_processor must name ids below {len(self._bytes)}, got others.")
        self._special = {token.id for token in self.added if token.special}
        self._merger = as_merger(self.vocab, self.merges)
        self._whole = {self._bytes[i]: chr(i) for t, i in self.vocab.items()} if ignore_merges else {}
        self._first = {b: chr(self.vocab[c]) for b, c in enumerate(BYTE_TO_CHAR) if c in self.vocab}
        self._words, self._chunks = WordCache(self._encode_word), WordCache(self._encode_chunk)
        self._splitters: dict[tuple[AddedToken, ...], AddedSplitter] = {}

    @classmethod
    def train(cls, texts: str | Iterable[str], vocab_size: int, *, pattern: str = "gpt4",
              special_tokens: Sequence[str] = ("<|endoftext|>",), prefix_space: bool = False,
              progress: Any = None) -> BPETokenizer:
        """A tokenizer whose merges are learned from texts.

        Args:
            vocab_size: tokens in all, special ones too; fewer where the text has no more pairs.
            pattern: gpt2, gpt4, gpt4o, qwen, or a regular expression.
            progress: called with (merges done, merges in all).
        Raises:
            DataError: a size too small, a text without words, or special tokens that cannot be told from others.
        """
        from .bpe_train import learn
        refuse_special(special_tokens, BYTE_TO_CHAR)
        spec = describe(PATTERNS.get(pattern, pattern), prefix_space)
        vocab, merges = learn([texts] if isinstance(texts, str) else texts, vocab_size - len(special_tokens),
                              PreTokenizer(spec), tuple(special_tokens), progress)
        refuse_special(special_tokens, vocab)
        added = [AddedToken(len(vocab) + i, content) for i, content in enumerate(special_tokens)]
        return cls(vocab, merges, spec, added)

    @classmethod
    def blank(cls, pattern: str = "gpt4", special_tokens: Sequence[str] = ()) -> BPETokenizer:
        """The tokenizer before any merge: one token per byte."""
        vocab = {char: number for number, char in enumerate(sorted(BYTE_TO_CHAR))}
        added = [AddedToken(len(vocab) + i, content) for i, content in enumerate(special_tokens)]
        return cls(vocab, [], describe(PATTERNS.get(pattern, pattern)), added)

    @property
    def vocab_size(self) -> int:
        return len(self._bytes)

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
            add_special: put the tokens around it that the file's post-processor names, such as Llama's first token.
        """
        checked_text(text, " Use encode_bytes for what is no text.")
        return self._encode(text, allowed_special, add_special)

    def encode_bytes(self, data: bytes) -> np.ndarray:
        """Tokens as int32 [T] of any bytes, none of them special; decode_bytes gives the bytes back."""
        return self._encode(data.decode("utf-8", "surrogateescape"), "none", False)

    def decode(self, tokens: Iterable[int], skip_special: bool = False) -> str:
        """Text of tokens; bytes that are no UTF-8 become U+FFFD. Raises DataError for an id outside the vocabulary."""
        return self.decode_bytes(tokens, skip_special).decode("utf-8", "replace")

    def decode_bytes(self, tokens: Iterable[int], skip_special: bool = False) -> bytes:
        """Bytes of tokens. Raises DataError for an id outside the vocabulary."""
        listed = checked_ids(tokens, self.vocab_size)
        if skip_special:
            listed = [token for token in listed if token not in self._special]
        return b"".join(map(self._bytes.__getitem__, listed))

    def to_dict(self) -> dict[str, Any]:
        from .tokenizer_json import to_json
        return {"kind": "bpe", "tokenizer": to_json(self)}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> BPETokenizer:
        from .tokenizer_json import from_json
        return from_json(saved.get("tokenizer"))

    def save(self, path: str | Path) -> None:
        """Writes a tokenizer.json, which Hugging Face's tokenizers loads too."""
        from .tokenizer_json import to_json, write
        write(to_json(self), Path(path))

    @classmethod
    def load(cls, path: str | Path) -> BPETokenizer:
        """Reads a tokenizer.json. Raises DataError for a damaged file, or one that needs what this class has not."""
        from .tokenizer_json import from_json, read
        return from_json(read(Path(path)))

    def safe_cut(self, data: bytes) -> int:
        """Where UTF-8 text may be cut so that the parts' tokens are those of the whole: the last place, 0 for none."""
        rstrip = any(token.rstrip for token in self.added)
        local = self._normalize is None or self.normalizer == {"type": "NFC"}  # others may change what is at a cut
        if not self.pre_tokenizer.chunked or not local or any(token.single_word for token in self.added):
            return 0
        inside = {content[i:i + 2] for content in (t.content.encode() for t in self.added) for i in range(len(content))}
        start = max(0, len(data) - BLOCK)
        while True:
            for place in (cuts(np.frombuffer(data, np.uint8)[start:]) + start).tolist()[::-1]:
                space = data[place] == 0x20
                unsure = not 32 < data[place - 1] < 127 or rstrip if space else self.pre_tokenizer.prefix_space
                if not unsure and data[place - 1:place + 1] not in inside:
                    return int(place)
            if not start:
                return 0
            start = max(0, start - 16 * BLOCK)

    def __reduce__(self) -> Any:
        return BPETokenizer.from_dict, (self.to_dict(),)

    def _encode(self, text: str, allowed: str | Collection[str], add_special: bool) -> np.ndarray:
        chosen = choose(self.added, allowed)
        change = self._normalize
        raw = tuple(t for t in chosen if not (change and t.normalized))
        late = tuple(replace(t, content=change(t.content)) for t in chosen if change and t.normalized)
        packed: list[bytes] = []
        for piece, token in self._split(raw, text):
            if token is not None:
                packed.append(pack(chr(token.id)))
                continue
            if change:
                piece = change(piece)
            for plain, inner in self._split(late, piece):
                packed += [pack(chr(inner.id))] if inner is not None else self._encode_plain(plain)
        tokens = np.frombuffer(b"".join(packed), "<i4").astype(np.int32)
        return np.concatenate([self._around[0], tokens, self._around[1]]) if add_special else tokens

    def _split(self, tokens: tuple[AddedToken, ...], text: str) -> Iterable[tuple[str, AddedToken | None]]:
        if tokens not in self._splitters:
            self._splitters[tokens] = AddedSplitter(tokens)
        return self._splitters[tokens](text)

    def _encode_plain(self, text: str) -> list[bytes]:
        if self.pre_tokenizer.prefix_space and not text.startswith(" "):
            text = " " + text
        if self.pre_tokenizer.chunked and len(text) > CACHE_WORD:
            try:
                data = text.encode()
            except UnicodeEncodeError:  # bytes that are no text
                data = b""
            if data:
                found = [b"".join(map(self._chunks.__getitem__, block)) for block in chunks(data)]
                self._chunks.trim()
                self._words.trim()
                return found
        words = self.pre_tokenizer.words(text)
        found = [b"".join(map(self._words.__getitem__, words))]
        self._words.trim()
        return found

    def _encode_chunk(self, chunk: bytes) -> bytes:
        return b"".join(map(self._words.__getitem__, self.pre_tokenizer.words(chunk.decode())))

    def _encode_word(self, word: str) -> bytes:
        data = word.encode("utf-8", "surrogateescape")
        if data in self._whole:
            return pack(self._whole[data])
        try:
            return pack(self._merger("".join(map(self._first.__getitem__, data))))
        except KeyError as error:
            raise DataError(f"[encode] text must consist of bytes in the vocabulary, got byte {error.args[0]} in "
                            f"{word[:40]!r}. The tokenizer was trained without it.") from None


def _token_bytes(vocab: Mapping[str, int], added: Iterable[AddedToken]) -> list[bytes]:
    """Each id's bytes. Raises DataError for ids that are not 0, 1, 2... or too many for the merger."""
    found: dict[int, bytes] = {}
    for token, number in vocab.items():
        if number in found:
            raise DataError(f"[tokenizer] each token must have its own id, got {number} for {token!r} and another.")
        try:
            found[number] = unprintable(token)
        except KeyError:
            found[number] = token.encode("utf-8", "replace")
    found |= {token.id: token.content.encode("utf-8", "replace") for token in added}
    if not found or min(found) < 0 or max(found) != len(found) - 1:
        hole = next((i for i in range(len(found)) if i not in found), 0)
        raise DataError(f"[tokenizer] ids must be 0, 1, 2... without a hole, got {len(found)} ids without {hole}.")
    if len(found) > 0x110000:
        raise DataError(f"[tokenizer] a vocabulary may have {0x110000:,} tokens, got {len(found):,}.")
    return [found[i] for i in range(len(found))]


register_tokenizer("bpe", BPETokenizer.from_dict)
