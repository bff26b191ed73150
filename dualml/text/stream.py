"""Files of any size as tokens: read in blocks, cut where one-shot encoding cuts too, encoded by several processes."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .tokenizer import Tokenizer, load_tokenizer

Progress = Callable[[int, int], None]  # bytes done, bytes in all
Special = str | Collection[str]
BLOCK = 1 << 22
LONGEST = 1 << 28  # bytes without a safe place to cut: such a text is held in memory whole, up to here
_worker: tuple[Any, Special] | None = None


def encode_file(path: str | Path, tokenizer: Tokenizer, workers: int | None = None, progress: Progress | None = None,
                allowed_special: Special = "all", block: int = BLOCK) -> Iterator[np.ndarray]:
    """The file's tokens as int32 pieces in order; put together they are tokenizer.encode(the whole text).

    Args:
        workers: processes to encode with; 1 stays in this one. None takes one per core, for files worth it.
        progress: called with (bytes done, bytes in all) after each piece.
        allowed_special: as of BPETokenizer.encode.

    Raises:
        DataError: the file cannot be read, is not UTF-8, or has no place to cut for 256 MiB.
    """
    path = Path(path)
    try:
        total = path.stat().st_size
    except OSError as error:
        raise DataError(f"[encode] {path} cannot be read: {error.strerror or error}.") from None
    if workers is not None and workers < 1:
        raise DataError(f"[encode] workers must be at least 1, got {workers}.")
    workers = workers or (os.cpu_count() or 1 if total > 4 * block else 1)
    blocks = read_blocks(path, getattr(tokenizer, "safe_cut", None), block)
    done = 0
    for size, tokens in (_alone if workers == 1 else _together)(blocks, tokenizer, allowed_special, workers):
        yield tokens
        done += size
        if progress is not None:
            progress(done, max(total, done))


def read_blocks(path: Path, safe_cut: Callable[[bytes], int] | None, block: int = BLOCK) -> Iterator[tuple[int, str]]:
    """Texts of about `block` bytes, with their sizes; `safe_cut` says where a block may end, 0 for nowhere."""
    rest, place = b"", 0
    try:
        with path.open("rb") as file:
            while data := file.read(block):
                rest += data
                cut = safe_cut(rest) if safe_cut is not None else 0
                if cut:
                    yield cut, _text(path, rest[:cut], place)
                    rest, place = rest[cut:], place + cut
                elif len(rest) > LONGEST:
                    raise DataError(f"[encode] {path} must have a place to cut in {LONGEST:,} bytes, got none after "
                                    f"byte {place:,}. Split the file, or use a tokenizer with a known split pattern.")
                elif len(rest) > 2 * block:
                    block *= 2
    except OSError as error:
        raise DataError(f"[encode] {path} cannot be read: {error.strerror or error}.") from None
    if rest:
        yield len(rest), _text(path, rest, place)


def _text(path: Path, data: bytes, place: int) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"[encode] {path} must be UTF-8 text, got byte {data[error.start]:#04x} at position "
                        f"{place + error.start:,}.") from None


def _encode(tokenizer: Any, text: str, allowed: Special) -> np.ndarray:
    found: np.ndarray = tokenizer.encode(text) if allowed == "all" else tokenizer.encode(text, allowed_special=allowed)
    return found


def _alone(blocks: Iterator[tuple[int, str]], tokenizer: Tokenizer, allowed: Special,
           _: int) -> Iterator[tuple[int, np.ndarray]]:
    for size, text in blocks:
        yield size, _encode(tokenizer, text, allowed)


def _together(blocks: Iterator[tuple[int, str]], tokenizer: Tokenizer, allowed: Special,
              workers: int) -> Iterator[tuple[int, np.ndarray]]:
    """Two blocks per process under way, so that memory stays bounded."""
    waiting: deque[tuple[int, Future[np.ndarray]]] = deque()
    context = multiprocessing.get_context("spawn")  # a fork would share the GPU's handles
    with ProcessPoolExecutor(workers, context, _start, (tokenizer.to_dict(), allowed)) as pool:
        try:
            for size, text in blocks:
                waiting.append((size, pool.submit(_work, text)))
                if len(waiting) >= 2 * workers:
                    size, future = waiting.popleft()
                    yield size, future.result()
            while waiting:
                size, future = waiting.popleft()
                yield size, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _start(saved: dict[str, Any], allowed: Special) -> None:
    global _worker
    _worker = load_tokenizer(saved), allowed


def _work(text: str) -> np.ndarray:
    assert _worker is not None
    return _encode(_worker[0], text, _worker[1])
