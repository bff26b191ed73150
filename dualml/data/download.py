"""Files from the network: streamed, resumed where they broke off, and there only when their checksum is right."""

from __future__ import annotations

import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import config
from ..errors import DataError
from ..safe_files import flush, sha256, writing

Progress = Callable[[int, int], None]  # bytes done, bytes in all
_AT_ONCE = 1 << 18
_TIMEOUT = 20.0  # seconds without a byte


@dataclass(frozen=True)
class Download:
    """A file with the checksum that its publisher gives, and its size where that is known."""

    title: str
    url: str
    sha256: str
    size: int | None = None


def fetch(name: str, wanted: Download, progress: Progress | None = None, instead: str = "") -> Path:
    """The downloaded file, from the cache folder where it already is. Its checksum is tested either way.

    What came before a break stays as `<name>.txt.part`, and the next call asks for the rest. Two processes at once
    write the same bytes to the same places.

    Args:
        name: of the file in the cache, without .txt.
        instead: what else one may do, as the beginning of a sentence that goes on with "or".
    Raises:
        DataError: there is no network, the download broke off, or the file is another one.
    """
    path = config.cache / "texts" / f"{name}.txt"
    if path.exists() and sha256(path) == wanted.sha256:
        return path
    partial = path.with_name(f"{path.name}.part")
    with writing(path, "Free some space, or name another folder with DUALML_CACHE."):
        path.parent.mkdir(parents=True, exist_ok=True)
        if wanted.size is None or not partial.exists() or partial.stat().st_size != wanted.size:
            _receive(name, wanted, partial, progress, _either(instead, f"put the file at {path}."))
        try:
            found = sha256(partial)
            if found == wanted.sha256:
                flush(partial)
                os.replace(partial, path)
        except FileNotFoundError:  # another process has renamed it
            found = sha256(path)
        if found != wanted.sha256:
            partial.unlink(missing_ok=True)
            raise DataError(f"[text] {name} from {wanted.url} must have SHA-256 {wanted.sha256}, got {found}. The file "
                            f"changed, or a proxy replaced it. {_either(instead, 'try again.')}")
    return path


def _receive(name: str, wanted: Download, partial: Path, progress: Progress | None, instead: str) -> None:
    """Brings what is still missing of the partial file."""
    done = have = partial.stat().st_size if partial.exists() else 0
    total = wanted.size or 0
    try:
        with _ask(wanted.url, have) as reply, open(os.open(partial, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
            if not have or getattr(reply, "status", 200) != 206:  # the server sends all of it
                done = 0
            file.seek(done)
            total = total or done + _length(reply)
            while block := reply.read(_AT_ONCE):
                with writing(partial, "Free some space, or name another folder with DUALML_CACHE."):
                    file.write(block)
                done += len(block)
                if progress is not None:
                    progress(done, max(total, done))
                if wanted.size is not None and done > wanted.size:
                    break
            file.truncate()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        kept = f" The first {done:,} bytes are kept: the next try goes on from there." if done else ""
        raise DataError(f"[text] {name} could not be downloaded from {wanted.url} ({reason}).{kept} Offline? {instead}"
                        ) from None
    if done < total:
        raise DataError(f"[text] {name} broke off after {done:,} of {total:,} bytes, which are kept. Try again.")


def _either(instead: str, other: str) -> str:
    return f"{instead}or {other}" if instead else other[0].upper() + other[1:]


def _ask(url: str, have: int) -> Any:
    """The server's reply, from byte `have` on where it can."""
    if have:
        try:
            return urllib.request.urlopen(urllib.request.Request(url, headers={"Range": f"bytes={have}-"}),
                                          timeout=_TIMEOUT)
        except urllib.error.HTTPError as error:
            if error.code != 416:  # there is nothing behind byte `have`
                raise
    return urllib.request.urlopen(url, timeout=_TIMEOUT)


def _length(reply: Any) -> int:
    """The bytes that a reply announces, 0 where it does not."""
    found = re.fullmatch(r"\d{1,15}", str(getattr(reply, "headers", {}).get("Content-Length", "")))
    return int(found[0]) if found else 0


