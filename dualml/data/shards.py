"""Data folders: the tokens of a corpus, ready to train from, however large it is.

    manifest.json                       what is in the folder, with checksums: dualml/data/manifest.py
    tokenizer.json                      what the tokens mean
    train-00000.bin, train-00001.bin    token ids of 16 or 32 bits, little-endian, nothing else
    val-00000.bin

Shards are mapped into memory: what is not read costs nothing. A split's shards are one stream of tokens, its documents
one after another, each with the end-of-text token behind it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..safe_files import sha256
from ..text import Tokenizer, read_tokenizer
from .manifest import DTYPES, MANIFEST, SPLITS, TOKENIZER, Manifest

_AT_ONCE = 1 << 22  # bytes that verify reads
_AGAIN = "Copy the folder anew, or prepare the data again."


class ShardedTokens:
    """A data folder, opened: its manifest, its tokenizer, and `parts`, the streams "train" and "val".

    Opening compares all sizes and the tokenizer's checksum; `verify` reads everything.

    Raises:
        DataError: the folder, its manifest or a file is missing, cut short, a link elsewhere, or claims what cannot be.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        self.manifest = Manifest.read(self.folder)
        self.fingerprint = sha256(self.folder / MANIFEST)
        self._dtype = DTYPES[self.manifest.dtype]
        self.parts = {name: ShardStream(self.manifest.vocab_size, [
            (s.name, self._map(s.name, s.tokens)) for s in self.manifest.splits[name].shards]) for name in SPLITS}

    def _map(self, name: str, tokens: int) -> np.ndarray:
        path = self._file(name)
        size, wanted = path.stat().st_size, tokens * self._dtype.itemsize
        if size != wanted:
            raise DataError(f"[data] {path} must have {wanted:,} bytes, got {size:,}: it was cut short or changed. "
                            f"{_AGAIN}")
        try:
            return np.memmap(path, self._dtype, "r")
        except OSError as error:
            raise DataError(f"[data] {path} cannot be read: {error.strerror or error}.") from None

    def _file(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise DataError(f"[data] {path} is missing. {_AGAIN}")
        if path.resolve().parent != self.folder.resolve():
            raise DataError(f"[data] {path} is a link to {path.resolve()}, outside of its folder. Put the file itself "
                            "there.")
        return path

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """What the tokens mean. Raises DataError where it is not the one that the data was made with."""
        path = self._file(TOKENIZER)
        if sha256(path) != self.manifest.tokenizer_sha256:
            raise DataError(f"[data] {path} is not the tokenizer that the data was made with: its SHA-256 differs. "
                            f"{_AGAIN}")
        found = read_tokenizer(path)
        if found.vocab_size != self.manifest.vocab_size:
            raise DataError(f"[data] vocab_size in {self.folder / MANIFEST} must be the tokenizer's, "
                            f"{found.vocab_size:,}, got {self.manifest.vocab_size:,}. {_AGAIN}")
        return found

    @property
    def nbytes(self) -> int:
        """Of all shards."""
        return sum(len(part) for part in self.parts.values()) * self._dtype.itemsize

    def verify(self, progress: Callable[[int], None] = lambda _: None) -> list[str]:
        """Reads all files and says what is wrong, a line for each that is not what was written.

        Args:
            progress: called with the number of bytes that were read since the call before.
        """
        found = []
        try:
            _ = self.tokenizer
        except DataError as error:
            found.append(str(error))
        for split in self.manifest.splits.values():
            for shard in split.shards:
                path, digest, largest = self._file(shard.name), hashlib.sha256(), 0
                for block in _blocks(path):
                    digest.update(block)
                    largest = max(largest, int(np.frombuffer(block, self._dtype).max()))
                    progress(len(block))
                if digest.hexdigest() != shard.sha256:
                    found.append(f"[data] {path} is not what was written: its SHA-256 differs. {_AGAIN}")
                elif largest >= self.manifest.vocab_size:
                    found.append(f"[data] {path} must have tokens below {self.manifest.vocab_size:,} (vocab_size), got "
                                 f"{largest:,}. {_AGAIN}")
        return found


class ShardStream:
    """Shards as one stream of tokens.

    Args:
        shards: names, and their tokens as uint16 or uint32 [N].
    """

    def __init__(self, vocab_size: int, shards: Sequence[tuple[str, np.ndarray]]) -> None:
        self.vocab_size, self.shards = vocab_size, list(shards)
        self._ends = np.cumsum([len(tokens) for _, tokens in self.shards], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """The tokens from each of int64 [B] starts on, int32 [B,length]. Raises DataError for one that is none."""
        found = np.empty((len(starts), length), np.int32)
        first = np.searchsorted(self._ends, starts, "right")
        for row, (start, number) in enumerate(zip(starts.tolist(), first.tolist(), strict=True)):
            self._read(found[row], start, number)
        if found.size and not 0 <= found.min() <= found.max() < self.vocab_size:
            row, place = np.argwhere((found < 0) | (found >= self.vocab_size))[0]
            name = self.shards[int(np.searchsorted(self._ends, starts[row] + place, "right"))][0]
            raise DataError(f"[data] {name} must have tokens below {self.vocab_size:,} (vocab_size), got "
                            f"{int(found[row, place]) & 0xFFFFFFFF:,}. `dualml data verify` says which files are "
                            "damaged.")
        return found

    def _read(self, to: np.ndarray, start: int, number: int) -> None:
        """Fills a window that begins in shard `number`, and may end in one behind it."""
        begin = start - (int(self._ends[number - 1]) if number else 0)
        done = 0
        while done < len(to):
            piece = self.shards[number][1][begin:begin + len(to) - done]
            to[done:done + len(piece)] = piece
            done, number, begin = done + len(piece), number + 1, 0


def _blocks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while block := file.read(_AT_ONCE):
                yield block
    except OSError as error:
        raise DataError(f"[data] {path} cannot be read: {error.strerror or error}.") from None
