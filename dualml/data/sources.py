"""Where training text comes from: Python's own documentation, a file, or a download checked against its SHA-256."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from .download import Download, Progress, fetch

DEFAULT_TEXT = "pydoc"
MIN_CHARACTERS = 1000
END_OF_TEXT = "<|endoftext|>"
_INSTEAD = "Pass a text you have with --text FILE, leave --text away for Python's documentation, "
_LARGEST = 1 << 30  # bytes of a text that is held in memory whole
_STORIES = "https://huggingface.co/datasets/roneneldan/TinyStories/resolve/f54c09fd23315a6f9c86f9dc80f725de7d8f9c64/"


@dataclass(frozen=True)
class Text:
    """A text with the name it is shown by and the word that loads it again."""

    name: str
    source: str
    content: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content.encode("utf-8", "surrogatepass")).hexdigest()


# TinyStories: Eldan and Li 2023, the part written by GPT-4; CDLA-Sharing-1.0. The checksums are those of the
# publisher's Git LFS pointers, at the commit in the address.
DOWNLOADS = {
    "shakespeare": Download(
        "Shakespeare (1.1 MB, from char-rnn)",
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed", 1_115_394),
    "tinystories": Download(
        "TinyStories (2.2 GB, written by GPT-4)", f"{_STORIES}TinyStoriesV2-GPT4-train.txt",
        "6418d412de72888f52b5142c761ac21a582f7d1166f0bfbdb5f03ccfdec90443", 2_227_753_162),
    "tinystories-valid": Download(
        "TinyStories' validation file (22 MB, written by GPT-4)", f"{_STORIES}TinyStoriesV2-GPT4-valid.txt",
        "6874bae9a4c1a4e7edcf0e53b86c17817e9cf881fc75ff2368da457b80c0585d", 22_502_601),
}


def load_text(source: str = DEFAULT_TEXT) -> Text:
    """The text a word or path stands for: "pydoc", "shakespeare", or any UTF-8 file.

    Raises:
        DataError: a file that is missing, not text, too short or too long; a download that fails or has changed.
    """
    if source == DEFAULT_TEXT:
        return Text("Python's documentation (pydoc_data.topics)", source, "\n\n".join(python_topics()))
    if source in DOWNLOADS:
        found = DOWNLOADS[source]
        if found.size is not None and found.size > _LARGEST:
            raise _too_long(source, found.size)
        return Text(found.title, source, fetch(source, found, instead=_INSTEAD).read_text(encoding="utf-8"))
    return _from_file(Path(source).expanduser())


def python_topics() -> list[str]:
    """Python's own documentation, which every Python brings along, by topic."""
    from pydoc_data.topics import topics
    return list(topics.values())


def find_file(source: str) -> Path:
    """The file of a path. Raises DataError where it is none."""
    path = Path(source).expanduser()
    if not path.exists():
        names = ", ".join([DEFAULT_TEXT, *DOWNLOADS])
        raise DataError(f"[text] expected a file or one of {names}, got {str(path)!r}, which does not exist.")
    if path.is_dir():
        raise DataError(f"[text] expected a file, got the folder {str(path)!r}. Name its files.")
    return path


def download(name: str, progress: Progress | None = None) -> Path:
    """The file of one of DOWNLOADS, for data that is prepared. Raises DataError where it cannot be had."""
    return fetch(name, DOWNLOADS[name], progress, "Pass files you have, ")


def _from_file(path: Path) -> Text:
    path = find_file(str(path))
    try:
        if path.stat().st_size > _LARGEST:
            raise _too_long(path, path.stat().st_size)
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"[text] {path} must be UTF-8 text, but byte {error.start} is not. If it is text in another "
                        f"encoding: iconv -f latin1 -t utf-8 {path} > text.txt") from None
    except OSError as error:
        raise DataError(f"[text] {path} cannot be read: {error.strerror}.") from None
    if "\0" in content:
        raise DataError(f"[text] {path} must be text, but it holds zero bytes: it looks like a binary file.")
    content = content.replace("\r\n", "\n")
    if len(content) < MIN_CHARACTERS:
        raise DataError(f"[text] {path} must have at least {MIN_CHARACTERS} characters, got {len(content)}. That is "
                        "too little to learn from or to measure a model with.")
    return Text(path.name, str(path.resolve()), content)


def _too_long(source: object, size: int) -> DataError:
    return DataError(f"[text] {source} must have at most {_LARGEST:,} bytes to be read at once, got {size:,}. Make "
                     f"shards of it: dualml data prepare {source} --out data --tokenizer bpe:4096, then dualml train "
                     "--data data.")
