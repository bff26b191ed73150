"""Documents from files of any size, a piece at a time."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from .download import Progress
from .sources import DEFAULT_TEXT, DOWNLOADS, END_OF_TEXT, download, find_file, python_topics

BLOCK = 1 << 20    # characters: read at once, and about what a long document's pieces have
LONGEST = 1 << 26  # characters without a safe place to cut: such a document is held in memory whole, up to here
SEPARATORS = {"line": "\n", "blank-line": "\n\n"}
Cut = Callable[[bytes], int]  # a tokenizer's safe_cut


@dataclass(frozen=True)
class Source:
    """A text that documents come from.

    Args:
        path: None for Python's own documentation.
        documents: how it is cut: "file" not at all, "line", "blank-line", or at a separator of its own.
        split: "train" or "val" where all of it goes there.
    """

    name: str
    path: Path | None
    documents: str = "file"
    split: str | None = None

    @property
    def nbytes(self) -> int:
        if self.path is None:
            return sum(len(topic.encode()) for topic in python_topics())
        return self.path.stat().st_size

    def read(self, documents: str | None, cut: Cut) -> Iterator[tuple[str, bool]]:
        """Pieces of documents, in order; true with the last one of each. See `pieces`.

        Args:
            documents: how to cut it, in place of its own way.
        """
        how = documents or self.documents
        if self.path is None:
            text = iter([(self.documents if how == self.documents else "\n\n").join(python_topics())])
        else:
            text = read_text(self.path, BLOCK)
        return pieces(text, how, cut)


def find_sources(names: Iterable[str], split: str | None = None, progress: Progress | None = None) -> list[Source]:
    """The texts that names stand for: "pydoc", one of sources.DOWNLOADS, or files.

    Raises:
        DataError: a file that does not exist, a download that fails.
    """
    found = []
    for name in names:
        if name == DEFAULT_TEXT:
            found.append(Source(name, None, END_OF_TEXT, split))
        elif name in DOWNLOADS:
            cut = END_OF_TEXT if name.startswith("tinystories") else "file"
            found.append(Source(name, download(name, progress), cut, split))
        else:
            path = find_file(name)
            found.append(Source(path.name, path, "file", split))
    return found


def read_text(path: Path, block: int) -> Iterator[str]:
    """A file's text in blocks, without a byte order mark, each line ended by one character.

    Raises:
        DataError: the file cannot be read, or is no UTF-8 text.
    """
    decoder, place, held, begun = codecs.getincrementaldecoder("utf-8")(), 0, "", False
    try:
        with path.open("rb") as file:
            while True:
                data = file.read(block)
                text = held + _decode(path, decoder, data, place)
                if text and not begun:
                    text, begun = text.removeprefix("\ufeff"), True
                held = "\r" if data and text.endswith("\r") else ""  # its line feed may come with the next block
                if "\0" in text:
                    raise DataError(f"[text] {path} must be text, but it holds zero bytes: it looks like a binary "
                                    "file.")
                yield text[:len(text) - len(held)].replace("\r\n", "\n")
                place += len(data)
                if not data:
                    return
    except OSError as error:
        raise DataError(f"[text] {path} cannot be read: {error.strerror or error}.") from None


def _decode(path: Path, decoder: codecs.IncrementalDecoder, data: bytes, place: int) -> str:
    before = len(decoder.getstate()[0])  # bytes of a character that began in the block before
    try:
        return decoder.decode(data, final=not data)
    except UnicodeDecodeError as error:
        raise DataError(f"[text] {path} must be UTF-8 text, but byte {place - before + error.start:,} is not. If it is "
                        f"text in another encoding: iconv -f latin1 -t utf-8 {path} > text.txt") from None


def pieces(text: Iterable[str], how: str, cut: Cut) -> Iterator[tuple[str, bool]]:
    """The documents of a text; a long one comes in pieces, each but the last with false.

    Line ends around a document are no part of it, but where a whole file is one. Empty documents are left out.

    Args:
        text: in blocks.
        how: "file", "line", "blank-line", or the text that separates documents.
        cut: where a document may be cut: the last place of UTF-8 text, 0 for none.
    Raises:
        DataError: a document has no place to cut for 64 million characters.
    """
    between = None if how == "file" else SEPARATORS.get(how, how)
    rest, inside, limit = "", False, BLOCK  # inside: pieces of this document have come already
    for block in text:
        rest += block
        if between is not None:
            *whole, rest = rest.split(between)
            for document in whole:
                yield from _end(document, inside, strip=True)
                inside = False
        while len(rest) > limit:
            if between is not None and not inside:
                rest = rest.lstrip("\n")
            place = _place(rest[:-len(between)] if between else rest, cut)
            if place:
                yield rest[:place], False
                rest, inside, limit = rest[place:], True, BLOCK
            elif len(rest) > LONGEST:
                raise DataError(f"[data] a document must have a place to cut in {LONGEST:,} characters, got none. Cut "
                                "it with --documents, or use a tokenizer with a known split pattern.")
            else:
                limit *= 2
    yield from _end(rest, inside, strip=between is not None)


def _place(text: str, cut: Cut) -> int:
    """Where to cut, in characters, so that a document's last line ends stay with its last piece."""
    data = text.encode("utf-8", "surrogatepass").rstrip(b"\n")
    return len(data[:cut(data)].decode("utf-8", "surrogatepass")) if data else 0


def _end(document: str, inside: bool, strip: bool) -> Iterator[tuple[str, bool]]:
    """The last piece of a document, or all of it."""
    if strip:
        document = document.rstrip("\n") if inside else document.strip("\n")
    if inside or document.strip():
        yield document, True
