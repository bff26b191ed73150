"""Texts to data folders: documents to tokens, some of them for validation. Memory is bounded whatever the texts' size.

Three passes over the text: one that reads it all, so that what is no text is found before the work; one that learns the
tokenizer, where it is to be learned; one that encodes. The same texts and settings give the same bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..text import BPETokenizer, CharTokenizer, Tokenizer, encode_texts, end_of_text, make_tokenizer
from ..text.bpe_train import refuse_size
from ..text.files import bpe_size
from ..text.stream import refuse_unguarded
from .documents import BLOCK, Source
from .manifest import Manifest
from .shard_writer import SHARD_TOKENS, Part, no_end_of_text, refuse_used, write_shards
from .sources import END_OF_TEXT

Progress = Callable[[str, int, int], None]  # what is done, how far, of how much (0: not known)
SAMPLE = 1 << 26      # characters that a tokenizer is learned from at most
_ALONE = 1 << 24      # bytes: less is not worth other processes
_HASHED = 1 << 16     # characters of a document that decide where it goes
_FEW = 10             # validation documents; where fewer are to be expected, the text is cut at one place instead
_Label = tuple[list[tuple[str, bool]], int]  # of each piece: where it goes, whether its document ends; characters


@dataclass
class PrepareSettings:
    """How texts become a data folder.

    Args:
        tokenizer: "char", "bpe:N" to learn it from the texts, or a file.
        val: share that is for validation; of no meaning where sources say themselves what is.
        documents: how texts are cut: "file", "line", "blank-line" or a separator; None as each source's own way is.
        seed: decides which documents are for validation.
        workers: processes that encode; None for one per core where it is worth it.
    """

    tokenizer: str = "bpe:4096"
    val: float = 0.1
    documents: str | None = None
    seed: int = 0
    shard_tokens: int = SHARD_TOKENS
    workers: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.val < 1:
            raise DataError(f"[data] val must be in (0, 1), got {self.val}.")
        if self.workers is not None and self.workers < 1:
            raise DataError(f"[data] workers must be at least 1, got {self.workers}.")
        if not 0 <= self.seed < 1 << 64:
            raise DataError(f"[data] seed must be from 0 to 2^64 - 1, got {self.seed}.")
        if self.documents == "":
            raise DataError("[data] documents must be file, line, blank-line or a separator, got an empty one.")


def prepare(sources: Sequence[Source], out: str | Path, settings: PrepareSettings | None = None,
            progress: Progress = lambda *_: None) -> Manifest:
    """Writes the data folder `out` from texts.

    Args:
        progress: called as the work goes on.
    Raises:
        DataError: a text cannot be read, is empty or no UTF-8; `out` is there already; the tokenizer does not fit.
    """
    settings = settings or PrepareSettings()
    refuse_used(Path(out))
    given = _given(settings.tokenizer)
    workers = settings.workers or (os.cpu_count() or 1 if sum(s.nbytes for s in sources) > _ALONE else 1)
    refuse_unguarded(workers)
    scan = _Scan(settings, any(source.split for source in sources))
    scan.read(sources, progress)
    tokenizer = given or _learned(sources, settings, scan, progress)
    parts = _parts(sources, settings, tokenizer, scan, workers, progress)
    return write_shards(out, parts, tokenizer, [(s.name, s.nbytes) for s in sources], settings.shard_tokens)


# ---- passes one and two ---------------------------------------------------------------------------------------------

@dataclass
class _Scan:
    """What the first pass finds."""

    settings: PrepareSettings
    fixed: bool  # some source says where it goes; the others are for training then
    documents: int = 0
    characters: int = 0
    alphabet: set[str] = field(default_factory=set)

    def read(self, sources: Sequence[Source], progress: Progress) -> None:
        """Reads every text once."""
        total, done, alphabet = sum(s.nbytes for s in sources), 0, self.settings.tokenizer == "char"
        _refuse_empty([s for s in sources if not s.nbytes])
        empty = []
        for source in sources:
            before, documents = self.characters, self.documents
            for text, last in source.read(self.settings.documents, _anywhere):
                self.characters += len(text)
                self.documents += last
                if alphabet:
                    self.alphabet.update(text)
                progress("reading", min(total, done + self.characters - before), total)
            done += source.nbytes
            empty += [source] if self.documents == documents else []
        _refuse_empty(empty)
        if not self.characters:
            raise DataError("[data] FILES must have some text, got none.")
        progress("reading", total, total)

    @property
    def cut(self) -> int | None:
        """After how many characters validation begins; None where documents are chosen one by one."""
        share = self.settings.val
        if self.documents * min(share, 1 - share) >= _FEW:
            return None
        return min(max(1, int(self.characters * (1 - share))), self.characters - 1)


def _refuse_empty(sources: Sequence[Source]) -> None:
    """Raises DataError that names texts without any text."""
    if sources:
        more = f" and {len(sources) - 8:,} more" if len(sources) > 8 else ""
        names = ", ".join(str(source.path or source.name) for source in sources[:8])
        raise DataError(f"[data] FILES must have some text, got none in {names}{more}. Leave away what is empty.")


def _anywhere(data: bytes) -> int:
    """A cut for what is only counted: before the last character."""
    return next((i for i in range(len(data) - 1, 0, -1) if data[i] & 0xC0 != 0x80), 0)


def _given(wanted: str) -> BPETokenizer | CharTokenizer | None:
    """The tokenizer of a file, None for one that is to be learned. What cannot be is refused before texts are read."""
    size = bpe_size(wanted)
    if size is not None:
        refuse_size(size, 1)
    return None if wanted == "char" or size is not None else _fit(make_tokenizer(wanted, ()))


def _fit(tokenizer: Tokenizer) -> BPETokenizer | CharTokenizer:
    if end_of_text(tokenizer) is None:
        raise no_end_of_text()
    assert isinstance(tokenizer, (BPETokenizer, CharTokenizer))
    return tokenizer


def _learned(sources: Sequence[Source], settings: PrepareSettings, scan: _Scan,
             progress: Progress) -> BPETokenizer | CharTokenizer:
    def merging(done: int, total: int) -> None:
        progress("learning merges", done, total)
    if settings.tokenizer == "char":
        made = make_tokenizer("char", scan.alphabet, special=(END_OF_TEXT,))
    else:
        made = make_tokenizer(settings.tokenizer, _sample(sources, settings, scan, progress), merging)
    return _fit(made)


def _sample(sources: Sequence[Source], settings: PrepareSettings, scan: _Scan, progress: Progress) -> Iterator[str]:
    """Pieces of text from beginning to end, evenly, of at most SAMPLE characters or so."""
    share, seen, taken = min(1.0, SAMPLE / scan.characters), 0, 0
    cut = BPETokenizer.blank("gpt4", [END_OF_TEXT]).safe_cut
    for source in sources:
        for text, _ in source.read(settings.documents, cut):
            if taken <= seen * share:
                yield text
                taken += len(text)
            seen += len(text)
            progress("counting words", seen, scan.characters)


# ---- pass three -----------------------------------------------------------------------------------------------------

def _parts(sources: Sequence[Source], settings: PrepareSettings, tokenizer: BPETokenizer | CharTokenizer, scan: _Scan,
           workers: int, progress: Progress) -> Iterator[Part]:
    """Tokens in the order of the texts. What a document spells out is no special token."""
    ends = np.array([end_of_text(tokenizer)], np.int32)
    done = 0
    blocks = _blocks(_placed(sources, settings, tokenizer.safe_cut, scan))
    for (labels, size), encoded in encode_texts(blocks, tokenizer, workers, "none"):
        gathered: dict[str, tuple[list[np.ndarray], int]] = {}
        for (split, last), tokens in zip(labels, encoded, strict=True):
            found, documents = gathered.get(split, ([], 0))
            found += [tokens, ends] if last else [tokens]
            gathered[split] = found, documents + last
        for split, (found, documents) in gathered.items():
            yield split, np.concatenate(found), documents
        done += size
        progress("encoding", done, scan.characters)


def _placed(sources: Sequence[Source], settings: PrepareSettings, cut: Callable[[bytes], int],
            scan: _Scan) -> Iterator[tuple[str, str, bool]]:
    """Each piece with where it goes, and whether its document ends with it."""
    at, place = scan.cut, 0
    for source in sources:
        split, begins = source.split or "train", True
        for text, last in source.read(settings.documents, cut):
            if scan.fixed:
                yield split, text, last
            elif at is None:
                split = _chosen(text, settings) if begins else split
                yield split, text, last
            else:
                head, place = max(0, at - place), place + len(text)
                if head:  # a document that is cut is two
                    yield "train", text[:head], last or place >= at
                if head < len(text):
                    yield "val", text[head:], last
            begins = last


def _chosen(text: str, settings: PrepareSettings) -> str:
    """Where a document goes, by the hash of its beginning: equal ones go to the same place."""
    key = settings.seed.to_bytes(8, "little")
    found = hashlib.blake2b(text[:_HASHED].encode("utf-8"), digest_size=8, key=key).digest()
    return "val" if int.from_bytes(found, "little") < settings.val * 2 ** 64 else "train"


def _blocks(placed: Iterable[tuple[str, str, bool]]) -> Iterator[tuple[_Label, list[str]]]:
    """Pieces by the million of characters."""
    labels: list[tuple[str, bool]] = []
    texts: list[str] = []
    size = 0
    for split, text, last in placed:
        labels.append((split, last))
        texts.append(text)
        size += len(text)
        if size >= BLOCK:
            yield (labels, size), texts
            labels, texts, size = [], [], 0
    if texts:
        yield (labels, size), texts
