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
    """

    def __init__(self, tokenizer: BytesDecoder, skip_special: bool = False) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, *tokens: int) -> str:
        """The text that these tokens complete, perhaps none."""
        return self._utf8.decode(self._tokenizer.decode_bytes(tokens, self._skip))

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that never became whole."""
        return self._utf8.decode(b"", True)


def decode_stream(tokenizer: BytesDecoder, tokens: Iterable[int], skip_special: bool = False) -> Iterator[str]:
    """Texts, never empty and never a part of a character, as tokens come."""
    decoder = Decoder(tokenizer, skip_special)
    for token in tokens:
        if text := decoder.push(token):
            yield text
    if text := decoder.flush():
        yield text
