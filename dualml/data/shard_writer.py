"""Writing data folders: whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import DataError
from ..safe_files import flush, sha256, write_json, writing
from ..text import BPETokenizer, CharTokenizer, end_of_text
from ..words import span
from .manifest import DTYPES, MANIFEST, MOST_SHARDS, SPLITS, TOKENIZER, Manifest, Shard, Split, shard_name

SHARD_TOKENS = 1 << 26
Part = tuple[str, np.ndarray, int]  # "train" or "val"; tokens; how many documents end in them
_FIX = "What there was before is untouched. Free some space, or see to the folder's permissions."


def write_shards(out: str | Path, parts: Iterable[Part], tokenizer: BPETokenizer | CharTokenizer,
                 sources: Sequence[tuple[str, int]] = (), shard_tokens: int = SHARD_TOKENS) -> Manifest:
    """Writes a data folder. It is built under another name beside `out`, each file waited for until it is on disk, and
    renamed at the end: a process that is killed leaves no `out`.

    Args:
        parts: ("train" or "val", tokens, number of documents that end in them), in any order. A document's tokens end
            with the tokenizer's end-of-text token.
        sources: names of where the text is from, with bytes.
        shard_tokens: tokens in a file at most.

    Raises:
        DataError: `out` is there already, a part got no tokens, or tokens are not in the vocabulary.
        CheckpointError: the disk is full or not writable.
    """
    out = Path(out)
    refuse_used(out)
    last = end_of_text(tokenizer)
    if last is None:
        raise no_end_of_text()
    if shard_tokens < 1:
        raise DataError(f"[data] shard-tokens must be at least 1, got {shard_tokens}.")
    partial = out.with_name(f".{out.name}.partial-{platform.node()}-{os.getpid()}")
    with writing(out, _FIX):
        out.parent.mkdir(parents=True, exist_ok=True)
        _drop_killed(out)
        partial.mkdir()
        try:
            tokenizer.save(partial / TOKENIZER)
            flush(partial / TOKENIZER)
            dtype = "u16" if tokenizer.vocab_size <= 1 << 16 else "u32"
            splits = _write(partial, parts, tokenizer.vocab_size, dtype, shard_tokens)
            found = Manifest(tokenizer.vocab_size, dtype, last, sha256(partial / TOKENIZER), splits, tuple(sources))
            write_json(partial / MANIFEST, found.to_dict())
            flush(partial)
            _put(partial, out)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return found


def refuse_used(out: Path) -> None:
    """Raises DataError where `out` is there already. A folder with nothing in it may be."""
    if out.exists() and not (out.is_dir() and next(out.iterdir(), None) is None):
        raise DataError(f"[data] {out} is there already. Name another --out, or remove it first.")


def no_end_of_text() -> DataError:
    return DataError("[data] the tokenizer must have an end-of-text token, such as <|endoftext|>, to put between "
                     "documents, got one without. `dualml tokenizer train` makes one that has it.")


def _put(partial: Path, out: Path) -> None:
    """Gives a whole folder its name."""
    if out.is_dir() and os.name == "nt":  # which renames onto no folder, empty or not
        out.rmdir()
    try:
        os.rename(partial, out)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            refuse_used(out)  # another process made it meanwhile
        raise
    flush(out.parent)


def _drop_killed(out: Path) -> None:
    """Removes what processes of this machine left that were killed while they made the same folder."""
    if os.name == "nt":  # which has no harmless way to ask for a process
        return
    begin = f".{out.name}.partial-{platform.node()}-"
    for left in out.parent.iterdir():
        number = left.name.removeprefix(begin)
        if left.name.startswith(begin) and number.isdecimal() and not _alive(int(number)):
            shutil.rmtree(left, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return process != os.getpid()


def _write(folder: Path, parts: Iterable[Part], vocab_size: int, dtype: str, shard_tokens: int) -> dict[str, Split]:
    writers = {name: _Writer(folder, name, dtype, shard_tokens) for name in SPLITS}
    try:
        for name, tokens, documents in parts:
            if name not in writers:
                raise DataError(f"[data] parts must be of {' or '.join(SPLITS)}, got {name!r}.")
            if tokens.size and not 0 <= tokens.min() <= tokens.max() < vocab_size:
                raise DataError(f"[data] tokens must be in [0, {vocab_size - 1}], got "
                                f"{span(tokens.min(), tokens.max())}.")
            writers[name].add(tokens, documents)
    finally:
        for writer in writers.values():
            writer.close()
    for name, writer in writers.items():
        if not writer.shards:
            raise DataError(f"[data] {'validation' if name == 'val' else 'training'} must have some text, got none. "
                            "Use more text, another --val, or another --seed.")
    return {name: Split(w.documents, sum(s.tokens for s in w.shards), tuple(w.shards)) for name, w in writers.items()}


class _Writer:
    """The shards of one split, written one after another."""

    def __init__(self, folder: Path, split: str, dtype: str, shard_tokens: int) -> None:
        self.folder, self.split, self.dtype, self.shard_tokens = folder, split, DTYPES[dtype], shard_tokens
        self.shards: list[Shard] = []
        self.documents = 0
        self._file: BinaryIO | None = None
        self._digest, self._tokens = hashlib.sha256(), 0

    def add(self, tokens: np.ndarray, documents: int) -> None:
        self.documents += documents
        while len(tokens):
            room = self.shard_tokens - self._tokens
            self._append(tokens[:room].astype(self.dtype).tobytes(), len(tokens[:room]))
            tokens = tokens[room:]
            if self._tokens == self.shard_tokens:
                self.close()

    def _append(self, data: bytes, tokens: int) -> None:
        if self._file is None:
            if len(self.shards) == MOST_SHARDS:
                raise DataError(f"[data] there may be {MOST_SHARDS:,} shards, but the text needs more. Make them "
                                "larger with --shard-tokens.")
            self._file = (self.folder / shard_name(self.split, len(self.shards))).open("wb")
        self._file.write(data)
        self._digest.update(data)
        self._tokens += tokens

    def close(self) -> None:
        """Ends the shard and waits until it is on disk."""
        if self._file is None:
            return
        path, file, self._file = Path(self._file.name), self._file, None
        file.close()
        flush(path)
        self.shards.append(Shard(path.name, self._tokens, self._digest.hexdigest()))
        self._digest, self._tokens = hashlib.sha256(), 0
