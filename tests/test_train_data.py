"""Texts, the character tokenizer, batches: right, repeatable, and clear about what they cannot use."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from dualml.data import TokenBatches, load_text, sources
from dualml.errors import DataError
from dualml.text import CharTokenizer, Tokenizer, load_tokenizer


@given(st.text(min_size=1, alphabet=st.characters(exclude_categories=["Cs"])))
def test_characters_survive_a_round_trip(text: str) -> None:
    tokenizer = CharTokenizer.from_text(text)
    assert isinstance(tokenizer, Tokenizer)
    tokens = tokenizer.encode(text)
    assert tokens.dtype == np.int32
    assert tokens.shape == (len(text),)
    assert tokenizer.decode(tokens) == text
    assert load_tokenizer(tokenizer.to_dict()).encode(text).tolist() == tokens.tolist()


def test_tokenizer_on_disk(tmp_path: Path) -> None:
    tokenizer = CharTokenizer.from_text("héllo 🌍")
    tokenizer.save(tmp_path / "t.json")
    assert CharTokenizer.load(tmp_path / "t.json").characters == tokenizer.characters == " hlo\xe9\U0001f30d"


def test_tokenizer_refusals() -> None:
    tokenizer = CharTokenizer.from_text("abc")
    for text, shown in (("abx", "'x' at position 2"), ("🌍", "at position 0")):
        with pytest.raises(DataError, match=shown):
            tokenizer.encode(text)
    with pytest.raises(DataError, match=r"whole numbers in \[0, 2\], got 3\. "):
        tokenizer.decode([3])
    with pytest.raises(DataError, match="empty vocabulary"):
        CharTokenizer("")
    with pytest.raises(DataError, match="kind must be one of bpe, char, sentencepiece, wordpiece"):
        load_tokenizer({"kind": "morse"})


def test_batches_are_windows_and_repeat() -> None:
    data = TokenBatches(np.arange(1000, dtype=np.int32), context=16, batch=8, seed=3)
    x, y = data.get("train", 5)
    assert x.shape == y.shape == (8, 16)
    assert x.dtype == y.dtype == np.int32
    np.testing.assert_array_equal(y, x + 1)
    np.testing.assert_array_equal(np.diff(x, axis=1), 1)
    again = TokenBatches(np.arange(1000, dtype=np.int32), context=16, batch=8, seed=3)
    np.testing.assert_array_equal(x, again.get("train", 5)[0])
    assert not np.array_equal(x, data.get("train", 6)[0])
    assert data.get("val", 0)[0].min() >= 900
    assert max(data.get("train", i)[1].max() for i in range(50)) < 900


def test_batches_reach_every_window() -> None:
    data = TokenBatches(np.arange(50, dtype=np.int32), context=4, batch=16)
    starts = np.concatenate([data.get("train", i)[0][:, 0] for i in range(60)])
    assert set(starts.tolist()) == set(range(45 - 4))
    with pytest.raises(DataError, match="more than 10 tokens"):
        TokenBatches(np.arange(50, dtype=np.int32), context=10, batch=1)


def test_python_documentation_is_text_enough() -> None:
    text = load_text()
    assert len(text.content) > 300_000
    assert CharTokenizer.from_text(text.content).vocab_size < 200


@pytest.mark.parametrize(("content", "message"), [
    (b"\xff\xfe\x00abc" * 500, "must be UTF-8 text, but byte 0"),
    (b"abc\0def" * 500, "looks like a binary file"),
    (b"too short", "at least 1000 characters, got 9")])
def test_files_that_are_no_text(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_text(str(path))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"one of pydoc, shakespeare, .*, got 'nowhere', which does not exist"):
        load_text("nowhere")
    with pytest.raises(DataError, match="got the folder"):
        load_text(str(tmp_path))


def test_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(("\ufeff" + "Grüße\r\n" * 200).encode())
    text = load_text(str(path))
    assert text.content == "Grüße\n" * 200
    assert text.name == "notes.txt"


class Reply:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def __enter__(self) -> Reply:
        return self

    def __exit__(self, *_: object) -> None: ...

    def read(self, size: int = -1) -> bytes:
        found, self.data = self.data[:size], self.data[size:]
        return found


def test_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = b"To be, or not to be. " * 60
    entry = sources.Download("Play", "https://example.org/play.txt", hashlib.sha256(good).hexdigest())
    monkeypatch.setenv("DUALML_CACHE", str(tmp_path))
    monkeypatch.setitem(sources.DOWNLOADS, "shakespeare", entry)

    def serve(reply: Any) -> None:
        def answer(*_: object, **__: object) -> Reply:
            if isinstance(reply, Exception):
                raise reply
            return Reply(reply)
        monkeypatch.setattr(urllib.request, "urlopen", answer)

    serve(urllib.error.URLError("no network"))
    with pytest.raises(DataError, match=r"could not be downloaded.*no network.*--text FILE"):
        load_text("shakespeare")
    serve(b"<html>log in first</html>")
    with pytest.raises(DataError, match="must have SHA-256"):
        load_text("shakespeare")
    assert not list(tmp_path.rglob("*.txt"))
    serve(good)
    assert load_text("shakespeare").content == good.decode()
    serve(urllib.error.URLError("no network"))
    assert load_text("shakespeare").content == good.decode()  # from the cache
    assert [p.name for p in (tmp_path / "texts").iterdir()] == ["shakespeare.txt"]
    (tmp_path / "texts" / "shakespeare.txt").write_bytes(b"cut off")
    with pytest.raises(DataError, match="could not be downloaded"):  # a damaged copy is not used
        load_text("shakespeare")
