"""Files of any size as tokens: read in blocks, cut where one-shot encoding cuts too, encoded by several processes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np

from ..errors import DataError
from .tokenizer import Tokenizer, load_tokenizer

T = TypeVar("T")
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
    blocks = ((size, [text]) for size, text in read_blocks(path, getattr(tokenizer, "safe_cut", None), block))
    done = 0
    for size, (tokens,) in encode_texts(blocks, tokenizer, workers, allowed_special):
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


def encode_texts(blocks: Iterable[tuple[T, list[str]]], tokenizer: Tokenizer, workers: int = 1,
                 allowed_special: Special = "all") -> Iterator[tuple[T, list[np.ndarray]]]:
    """Each block's texts as int32 tokens, in order, with whatever came with the block; two blocks per process are under
    way, so that memory stays bounded.

    Raises:
        DataError: a text cannot be encoded, a process was killed, or the script cannot be imported by the processes.
    """
    refuse_unguarded(workers)
    if workers == 1:
        for label, texts in blocks:
            yield label, _encode(tokenizer, texts, allowed_special)
        return
    waiting: deque[tuple[T, Future[list[np.ndarray]]]] = deque()
    context = multiprocessing.get_context("spawn")  # a fork would share the GPU's handles
    with _saved(tokenizer) as saved, ProcessPoolExecutor(workers, context, _start, (saved, allowed_special)) as pool:
        try:
            for label, texts in blocks:
                with _deaf():
                    waiting.append((label, pool.submit(_work, texts)))
                if len(waiting) >= 2 * workers:
                    label, future = waiting.popleft()
                    yield label, future.result()
            while waiting:
                label, future = waiting.popleft()
                yield label, future.result()
        except BrokenProcessPool:
            raise DataError(f"[encode] one of {workers} processes was killed, perhaps for want of memory: use fewer. "
                            f"{_GUARD if _plain_script() else ''}".rstrip()) from None
        finally:
            pool.shutdown(cancel_futures=True)


_GUARD = ("Several processes import the script that asks for them: there, what it does must stand under "
          "`if __name__ == \"__main__\":`. Or give workers=1.")


def refuse_unguarded(workers: int) -> None:
    """Raises DataError, before any work, where new processes would import a script that does it all again, and in them
    where they do."""
    begins = getattr(multiprocessing.current_process(), "_inheriting", False)
    if workers > 1 and (begins or (_plain_script() and "__name__" not in _script())):
        raise DataError(f"[encode] workers must be 1 in this script, got {workers}. {_GUARD}")


def _plain_script() -> bool:
    """Whether the program is a file of the user's, and not a command or a prompt."""
    main = sys.modules["__main__"]
    return getattr(main, "__spec__", None) is None and str(getattr(main, "__file__", "")).endswith(".py")


def _script() -> str:
    """The program's text; one with a guard where it cannot be read."""
    try:
        return Path(str(sys.modules["__main__"].__file__)).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _GUARD


@contextmanager
def _saved(tokenizer: Tokenizer) -> Iterator[str]:
    """A file with the tokenizer. As an argument of new processes, what is larger than a pipe's buffer would have us
    wait for ever where one of them dies before it reads."""
    with TemporaryDirectory(prefix="dualml-") as folder:
        path = Path(folder) / "tokenizer"
        path.write_bytes(pickle.dumps(tokenizer.to_dict()))
        yield str(path)


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes that begin here do not hear Ctrl-C, which is for the one that waits for them."""
    if os.name == "nt":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _encode(tokenizer: Any, texts: list[str], allowed: Special) -> list[np.ndarray]:
    return [tokenizer.encode(t) if allowed == "all" else tokenizer.encode(t, allowed_special=allowed) for t in texts]


def _start(saved: str, allowed: Special) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_together, daemon=True).start()
    _worker = load_tokenizer(pickle.loads(Path(saved).read_bytes())), allowed


def _end_together() -> None:
    """A process that waits for work would not notice that the one who gives it was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(texts: list[str]) -> list[np.ndarray]:
    assert _worker is not None
    return _encode(_worker[0], texts, _worker[1])
