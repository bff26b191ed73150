"""Where training text comes from: Python's own documentation, a file, or a download checked against its SHA-256."""

from __future__ import annotations

import hashlib
import os
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from ..config import config
from ..errors import DataError

DEFAULT_TEXT = "pydoc"
MIN_CHARACTERS = 1000


@dataclass(frozen=True)
class Text:
    """A text with the name it is shown by and the word that loads it again."""

    name: str
    source: str
    content: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class _Download:
    title: str
    url: str
    sha256: str


DOWNLOADS = {
    "shakespeare": _Download(
        "Shakespeare (1.1 MB, from char-rnn)",
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"),
}


def load_text(source: str = DEFAULT_TEXT) -> Text:
    """The text a word or path stands for: "pydoc", "shakespeare", or any UTF-8 file.

    Raises:
        DataError: a file that is missing, not text, or too short; a download that fails or has changed.
    """
    if source == DEFAULT_TEXT:
        return Text("Python's documentation (pydoc_data.topics)", source, _pydoc())
    if source in DOWNLOADS:
        found = DOWNLOADS[source]
        return Text(found.title, source, fetch(source, found).read_text(encoding="utf-8"))
    return _from_file(Path(source).expanduser())


def _pydoc() -> str:
    from pydoc_data.topics import topics
    return "\n\n".join(topics.values())


def _from_file(path: Path) -> Text:
    if not path.exists():
        names = ", ".join([DEFAULT_TEXT, *DOWNLOADS])
        raise DataError(f"[text] expected a file or one of {names}, got {str(path)!r}, which does not exist.")
    if path.is_dir():
        raise DataError(f"[text] expected a file, got the folder {str(path)!r}. Join its files into one.")
    try:
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
        raise DataError(f"[text] {path} must have at least {MIN_CHARACTERS} characters, got {len(content)}. There is "
                        "nothing to learn from so few.")
    return Text(path.name, str(path.resolve()), content)


def fetch(name: str, wanted: _Download) -> Path:
    """The downloaded file, from the cache folder where it already is. Its checksum is tested either way."""
    path = config.cache / "texts" / f"{name}.txt"
    if path.exists() and _matches(path.read_bytes(), wanted.sha256):
        return path
    try:
        with urllib.request.urlopen(wanted.url, timeout=20) as reply:
            data = reply.read()
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise DataError(f"[text] {name} could not be downloaded from {wanted.url} ({reason}). Offline? Pass a text you "
                        "have with --text FILE, leave --text away for Python's documentation, or put the file at "
                        f"{path}.") from None
    if not _matches(data, wanted.sha256):
        raise DataError(f"[text] {name} from {wanted.url} must have SHA-256 {wanted.sha256}, got "
                        f"{hashlib.sha256(data).hexdigest()}. The file changed, or a proxy replaced it. Pass --text "
                        "FILE.")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    os.replace(temporary, path)  # whole or not at all, also with two processes at once
    return path


def _matches(data: bytes, sha256: str) -> bool:
    return hashlib.sha256(data).hexdigest() == sha256
