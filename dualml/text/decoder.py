"""Text from tokens as they come: a character whose bytes are not all there yet waits."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from typing import Protocol


class BytesDecoder(Protocol):
    """A tokenizer that knows its tokens' bytes."""

    def decode_bytes(self, tokens: Iterable[int], skip_special: bool = False) -> bytes: ...


class Decoder:
    """Incremental decoding: what `push` and `flush` return, put together, is decode(all tokens).

    Args:
        skip_special: leave special tokens out of the text.
        begin: whether the tokens begin a text. If they go on after another, its next word keeps the space before it
            that a tokenizer of the SentencePiece kind takes off a text's beginning.
    """

    def __init__(self, tokenizer: BytesDecoder, skip_special: bool = False, begin: bool = True) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special
        self._lead: bytes = getattr(tokenizer, "lead", b"") if begin else b""
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, *tokens: int) -> str:
        """The text that these tokens complete, perhaps none."""
        data = self._tokenizer.decode_bytes(tokens, self._skip)
        if data and self._lead:
            data, self._lead = data.removeprefix(self._lead), b""
        return self._utf8.decode(data)

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that never became whole."""
        return self._utf8.decode(b"", True)


def decode_stream(tokenizer: BytesDecoder, tokens: Iterable[int], skip_special: bool = False,
                  begin: bool = True) -> Iterator[str]:
    """Texts, never empty and never a part of a character, as tokens come."""
    decoder = Decoder(tokenizer, skip_special, begin)
    for token in tokens:
        if text := decoder.push(token):
            yield text
    if text := decoder.flush():
        yield text
