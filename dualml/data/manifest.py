"""manifest.json of a data folder: what it holds, and with which checksums. Nothing in it is taken on trust.

    {"format": 1, "vocab_size": 4096, "dtype": "u16", "end_of_text": 4095,
     "tokenizer": {"name": "tokenizer.json", "sha256": "..."},
     "splits": {"train": {"documents": 24867, "tokens": 5130922, "shards": [
                    {"name": "train-00000.bin", "tokens": 5130922, "sha256": "..."}]},
                "val": {...}},
     "sources": [{"name": "stories.txt", "bytes": 22502601}]}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, DataError
from ..safe_files import read_json

FORMAT = 1
MANIFEST, TOKENIZER = "manifest.json", "tokenizer.json"
SPLITS = ("train", "val")
DTYPES: dict[str, np.dtype[Any]] = {"u16": np.dtype("<u2"), "u32": np.dtype("<u4")}
MOST_SHARDS = 100_000
_LARGEST = 1 << 50  # tokens or bytes: more than any disk, less than would overflow a sum
_VOCABULARY = 0x110000
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Shard:
    """A file of tokens."""

    name: str
    tokens: int
    sha256: str


@dataclass(frozen=True)
class Split:
    """All that is for training, or for validation."""

    documents: int
    tokens: int
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class Manifest:
    """What a data folder holds. `tokenizer_sha256` is of its tokenizer.json."""

    vocab_size: int
    dtype: str
    end_of_text: int
    tokenizer_sha256: str
    splits: Mapping[str, Split]
    sources: tuple[tuple[str, int], ...]  # names, and their bytes

    def to_dict(self) -> dict[str, Any]:
        splits = {name: {**asdict(split), "shards": [asdict(s) for s in split.shards]}
                  for name, split in self.splits.items()}
        return {"format": FORMAT, "vocab_size": self.vocab_size, "dtype": self.dtype, "end_of_text": self.end_of_text,
                "tokenizer": {"name": TOKENIZER, "sha256": self.tokenizer_sha256}, "splits": splits,
                "sources": [{"name": name, "bytes": size} for name, size in self.sources]}

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a folder. Raises DataError that names what is missing, of a wrong type, or cannot be."""
        path = folder / MANIFEST
        if not path.is_file():
            what = "no folder" if not folder.is_dir() else f"no data folder: it has no {MANIFEST}"
            raise DataError(f"[data] {folder} is {what}. Make one with `dualml data prepare FILES --out {folder}`.")
        try:
            content = read_json(path)
        except CheckpointError as error:
            raise DataError(str(error)) from None
        return _Reader(path).manifest(content)


class _Reader:
    """Values of a manifest, each checked for what it must be."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def manifest(self, content: dict[str, Any]) -> Manifest:
        if content.get("format") != FORMAT:
            raise DataError(f"[data] {self.path} must be of format {FORMAT}, got {_short(content.get('format'))}. Use "
                            "the version of dualml that wrote it, or prepare the data anew.")
        vocab_size = self.number("vocab_size", content.get("vocab_size"), 1, _VOCABULARY)
        dtype = self.text("dtype", content.get("dtype"), "|".join(DTYPES))
        if vocab_size - 1 > np.iinfo(DTYPES[dtype]).max:
            raise self.wrong("dtype", f"large enough for {vocab_size:,} tokens", dtype)
        tokenizer = self.fields("tokenizer", content.get("tokenizer"), "name", "sha256")
        self.text("name of the tokenizer", tokenizer["name"], re.escape(TOKENIZER))
        splits = self.fields("splits", content.get("splits"), *SPLITS)
        sources = content.get("sources")
        if not isinstance(sources, list):
            raise self.wrong("sources", "a list", sources)
        return Manifest(
            vocab_size, dtype, self.number("end_of_text", content.get("end_of_text"), 0, vocab_size - 1),
            self.sha256("sha256 of the tokenizer", tokenizer["sha256"]),
            {name: self.split(name, splits[name]) for name in SPLITS}, tuple(map(self.source, sources)))

    def split(self, name: str, value: Any) -> Split:
        split = self.fields(name, value, "documents", "tokens", "shards")
        listed = split["shards"]
        if not isinstance(listed, list) or not 1 <= len(listed) <= MOST_SHARDS:
            raise self.wrong(f"shards of {name}", f"a list of 1 to {MOST_SHARDS:,}", listed)
        shards = tuple(self.shard(shard_name(name, i), shard) for i, shard in enumerate(listed))
        tokens = self.number(f"tokens of {name}", split["tokens"], 1, _LARGEST)
        if tokens != sum(shard.tokens for shard in shards):
            raise self.wrong(f"tokens of {name}", f"those of its shards, {sum(s.tokens for s in shards):,}", tokens)
        return Split(self.number(f"documents of {name}", split["documents"], 0, _LARGEST), tokens, shards)

    def shard(self, name: str, value: Any) -> Shard:
        """A shard has the name of its place: no other file can be meant."""
        shard = self.fields(f"the shard {name}", value, "name", "tokens", "sha256")
        self.text(f"name of the shard {name}", shard["name"], re.escape(name))
        return Shard(name, self.number(f"tokens of {name}", shard["tokens"], 1, _LARGEST),
                     self.sha256(f"sha256 of {name}", shard["sha256"]))

    def source(self, value: Any) -> tuple[str, int]:
        source = self.fields("a source", value, "name", "bytes")
        return (self.text("name of a source", source["name"], "(?s).{0,4096}"),
                self.number("bytes of a source", source["bytes"], 0, _LARGEST))

    def fields(self, name: str, value: Any, *wanted: str) -> dict[str, Any]:
        if not isinstance(value, dict) or value.keys() != set(wanted):
            raise self.wrong(name, f"an object of {', '.join(wanted)}", value)
        return value

    def number(self, name: str, value: Any, low: int, high: int) -> int:
        if type(value) is not int or not low <= value <= high:
            raise self.wrong(name, f"a whole number from {low:,} to {high:,}", value)
        return value

    def text(self, name: str, value: Any, pattern: str) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise self.wrong(name, pattern.replace("\\", "").replace("|", " or "), value)
        return value

    def sha256(self, name: str, value: Any) -> str:
        if not isinstance(value, str) or not _SHA256.fullmatch(value):
            raise self.wrong(name, "64 hexadecimal digits", value)
        return value

    def wrong(self, name: str, expected: str, value: Any) -> DataError:
        return DataError(f"[data] {name} in {self.path} must be {expected}, got {_short(value)}. The file is damaged, "
                         "or not of this program.")


def shard_name(split: str, number: int) -> str:
    """The file name of a split's shard."""
    return f"{split}-{number:05d}.bin"


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
