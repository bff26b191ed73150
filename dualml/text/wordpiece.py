"""WordPiece (Schuster and Nakajima 2012), as BERT and MiniLM use it: the longest known piece first, from the left."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import regex

from ..errors import DataError
from .added import AddedSplitter, AddedToken
from .pretokenize import flag
from .tokenizer import register_tokenizer
from .tokenizer_json import added_tokens, around, read

_CHINESE = regex.compile("([\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f"
                         "\U0002b920-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f])")
_WORDS = regex.compile(r"[!-/:-@\[-`{-~\p{P}]|[^\s!-/:-@\[-`{-~\p{P}]+")
_HIDDEN = regex.compile(r"(?![\t\n\r])[\p{Cc}\p{Cf}\p{Co}\p{Cs}\uFFFD]")
_CLOSE = {" .", " ?", " !", " ,", " n't", " 'm", " 's", " 've", " 're"}  # words that lose the space before them
_SPACES = regex.compile(r"\s")


class WordPieceTokenizer:
    """The tokenizer of a tokenizer.json whose model is WordPiece with BERT's normalizer and pre-tokenizer.

    Args:
        content: the file's content. Raises DataError that names what is damaged or not supported.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        model = content.get("model") if isinstance(content, Mapping) else None
        if not isinstance(model, dict) or model.get("type") != "WordPiece":
            raise DataError("[tokenizer] model must be WordPiece, got another. A BPE file is loaded by BPETokenizer.")
        vocab = model.get("vocab")
        if not isinstance(vocab, dict) or not all(type(i) is int and i >= 0 for i in vocab.values()):
            raise DataError("[tokenizer] vocab must be an object of token: id, got another. The file is damaged.")
        self._content, self.vocab = dict(content), vocab
        self.added: list[AddedToken] = added_tokens(content.get("added_tokens"), vocab)
        ids = vocab | {token.content: token.id for token in self.added}
        self._tokens = {number: token for token, number in ids.items()}
        if len(self._tokens) != len(ids) or not ids or max(self._tokens) != len(ids) - 1:
            raise DataError(f"[tokenizer] ids must be 0, 1, 2... each once, got {len(ids)} tokens, ids to "
                            f"{max(self._tokens, default=-1)}.")
        self._prefix = model.get("continuing_subword_prefix", "##")
        self._longest = model.get("max_input_chars_per_word", 100)
        self._unknown = model.get("unk_token", "[UNK]")
        if not isinstance(self._prefix, str) or type(self._longest) is not int or self._unknown not in vocab:
            raise DataError(f"[tokenizer] WordPiece must have a text as prefix, a number as longest word and unk_token "
                            f"in its vocabulary, got {self._prefix!r}, {self._longest!r}, {self._unknown!r}.")
        self._configure(content)
        self._around = tuple(np.asarray(side, np.int32) for side in around(content.get("post_processor")))
        if any(number not in self._tokens for side in self._around for number in side.tolist()):
            raise DataError("[tokenizer] post_processor must name ids in the vocabulary, got others.")
        self._special = {token.id for token in self.added if token.special}
        self._early = AddedSplitter(t for t in self.added if not t.normalized)
        self._late = AddedSplitter(t for t in self.added if t.normalized)
        self._cache: dict[str, list[int]] = {}

    def _configure(self, content: Mapping[str, Any]) -> None:
        normalizer, pre = content.get("normalizer"), content.get("pre_tokenizer")
        if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
            raise DataError(f"[tokenizer] normalizer must be BertNormalizer, got {str(normalizer)[:80]!r}.")
        if not isinstance(pre, dict) or pre.get("type") != "BertPreTokenizer":
            raise DataError(f"[tokenizer] pre_tokenizer must be BertPreTokenizer, got {str(pre)[:80]!r}.")
        self._clean = flag(normalizer, "clean_text", True)
        self._chinese = flag(normalizer, "handle_chinese_chars", True)
        self._lower = flag(normalizer, "lowercase", True)
        strip = normalizer.get("strip_accents")
        self._strip = self._lower if strip is None else flag(normalizer, "strip_accents", True)

    @property
    def vocab_size(self) -> int:
        return len(self._tokens)

    @property
    def special_tokens(self) -> dict[str, int]:
        """Ids of the special tokens by text."""
        return {token.content: token.id for token in self.added if token.special}

    def encode(self, text: str, add_special: bool = True) -> np.ndarray:
        """Tokens as int32 [T], by default with [CLS] before and [SEP] after; what is not known is [UNK]."""
        ids: list[int] = []
        for piece, token in self._early(text):
            for plain, inner in [("", token)] if token else self._late(self._normalize(piece)):
                if inner is not None:
                    ids.append(inner.id)
                    continue
                for word in _WORDS.findall(plain):
                    ids += self._word(word)
        tokens = np.asarray(ids, np.int32)
        return np.concatenate([self._around[0], tokens, self._around[1]]) if add_special else tokens

    def decode(self, tokens: Iterable[int], skip_special: bool = True) -> str:
        """Text of tokens: words with single spaces, for what WordPiece forgets. Raises DataError for an unknown id."""
        text = ""
        for number in map(int, tokens):
            if number not in self._tokens:
                raise DataError(f"[decode] tokens must be in [0, {self.vocab_size - 1}], got {number}.")
            token = self._tokens[number]
            if skip_special and number in self._special:
                continue
            if text:
                joined = token.startswith(self._prefix)
                token = token[len(self._prefix):] if joined else " " + token
            text += token[1:] if token in _CLOSE else token
        return text

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "wordpiece", "tokenizer": self._content}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> WordPieceTokenizer:
        return cls(saved.get("tokenizer", {}))

    @classmethod
    def load(cls, path: str | Path) -> WordPieceTokenizer:
        """Reads a tokenizer.json."""
        return cls(read(Path(path)))

    def _normalize(self, text: str) -> str:
        if self._clean:
            text = _SPACES.sub(" ", _HIDDEN.sub("", text))
        if self._chinese:
            text = _CHINESE.sub(r" \1 ", text)
        if self._strip:
            text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
        return "".join(map(str.lower, text)) if self._lower else text  # one by one: no final sigma

    def _word(self, word: str) -> list[int]:
        found = self._cache.get(word)
        if found is None:
            found = self._pieces(word)
            if len(self._cache) > 1 << 18:
                self._cache.clear()
            self._cache[word] = found
        return found

    def _pieces(self, word: str) -> list[int]:
        unknown = [self.vocab[self._unknown]]
        if len(word) > self._longest:
            return unknown
        ids: list[int] = []
        start = 0
        while start < len(word):
            prefix = self._prefix if start else ""
            end = next((e for e in range(len(word), start, -1) if prefix + word[start:e] in self.vocab), start)
            if end == start:
                return unknown
            ids.append(self.vocab[prefix + word[start:end]])
            start = end
        return ids


register_tokenizer("wordpiece", WordPieceTokenizer.from_dict)
