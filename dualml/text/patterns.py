"""The regular expressions that cut text into words before byte pairs are merged, and GPT-2's printable bytes."""

from __future__ import annotations

# GPT-2 (Radford et al. 2019): contractions, then words, numbers and punctuation, each with the space before it.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# GPT-4 (cl100k; Llama 3 has the same): at most three digits, line ends by themselves, contractions in any case.
GPT4 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+")
QWEN = GPT4.replace(r"\p{N}{1,3}", r"\p{N}")
# GPT-4o (o200k): words split where lower case turns to upper.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SUFFIX}"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
PATTERNS = {"gpt2": GPT2, "gpt4": GPT4, "gpt4o": O200K, "qwen": QWEN}
KNOWN = frozenset(PATTERNS.values())  # they match every character, and cut wherever text.chunks does


def _printable_bytes() -> list[str]:
    """A visible character for each byte: itself if it prints, else the next one from U+0100 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(b if b in visible else next(spare)) for b in range(256)]


BYTE_TO_CHAR = _printable_bytes()
CHAR_TO_BYTE = {char: byte for byte, char in enumerate(BYTE_TO_CHAR)}
_TRANSLATE = dict(enumerate(BYTE_TO_CHAR))


def printable(data: bytes) -> str:
    """Bytes as GPT-2's files spell them: `b" the"` is "Ġthe"."""
    return data.decode("latin-1").translate(_TRANSLATE)


def unprintable(spelled: str) -> bytes:
    """The bytes of a spelled token. Raises KeyError for a character that stands for no byte."""
    return bytes([CHAR_TO_BYTE[char] for char in spelled])
