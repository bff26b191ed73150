"""Texts to data folders: documents, where they go, tokens that are those of the whole text, memory that is bounded."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, strategies as st

from dualml.data import PrepareSettings, ShardedTokens, Source, documents as module, find_sources, preparation, prepare
from dualml.data.documents import pieces, read_text
from dualml.data.sources import END_OF_TEXT, python_topics
from dualml.errors import DataError
from dualml.text import BPETokenizer, CharTokenizer

TEXT = "the quick brown fox jumps over the lazy dog and runs away, 12 times; it's done. Ünïcödé 東京 🙂"
WORDS = TEXT.split()


def anywhere(data: bytes) -> int:
    return CharTokenizer("x").safe_cut(data)


def text(words: int, seed: int = 0) -> str:
    """Words in lines."""
    rng = np.random.default_rng(seed)
    drawn = rng.choice(WORDS, words).tolist()
    return "".join(w + ("\n" if i % 9 == 8 else " ") for i, w in enumerate(drawn))


def source(path: Path, content: str, documents: str = "file", split: str | None = None) -> Source:
    path.write_text(content, encoding="utf-8", newline="")
    return Source(path.name, path, documents, split)


def streams(folder: Path) -> dict[str, list[int]]:
    found = ShardedTokens(folder)
    assert found.verify() == []
    return {name: np.concatenate([np.asarray(tokens) for _, tokens in part.shards]).tolist()
            for name, part in found.parts.items()}


# ---- documents ------------------------------------------------------------------------------------------------------

def joined(found: Any) -> list[str]:
    """Documents of their pieces."""
    documents, open_ = [""], False
    for piece, last in found:
        documents[-1] += piece
        open_ = not last
        if last:
            documents.append("")
    assert not open_
    return documents[:-1]


@pytest.mark.parametrize(("how", "content", "expected"), [
    ("file", "a\n\nb\n", ["a\n\nb\n"]), ("file", " \n ", []), ("file", "", []),
    ("line", "a\n\nb c\n\n\n d", ["a", "b c", " d"]), ("line", "\n \n", []), ("line", "a", ["a"]),
    ("blank-line", "a\nb\n\nc\n\n\n\nd\n", ["a\nb", "c", "d"]), ("blank-line", "\n\n\n", []),
    ("<|endoftext|>", "one\n<|endoftext|>\ntwo\n\nthree\n<|endoftext|>", ["one", "two\n\nthree"]),
    ("--", "a--b----c-d", ["a", "b", "c-d"])])
def test_documents(how: str, content: str, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for block in (1, 2, 5, 100):
        monkeypatch.setattr(module, "BLOCK", block)
        blocks = [content[i:i + block] for i in range(0, len(content), block)]
        assert [d for d in joined(pieces(blocks, how, anywhere)) if d.strip()] == expected, block


@example("a\n\n\n\n\n\n--b", "--", 4)
@given(st.text("ab\n-é"), st.sampled_from(["file", "line", "blank-line", "--"]), st.integers(1, 9))
def test_pieces_are_the_documents(content: str, how: str, block: int) -> None:
    """However a text comes in, its documents are the same."""
    blocks = [content[i:i + block] for i in range(0, len(content), block)]
    whole = joined(pieces([content], how, lambda _: 0))
    old, module.BLOCK = module.BLOCK, 2
    try:
        found = list(pieces(blocks, how, anywhere))
    finally:
        module.BLOCK = old
    assert [d for d in joined(found) if d.strip()] == whole
    assert how == "file" or not any(d != d.strip("\n") for d in whole)


def test_long_documents_come_in_pieces(tmp_path: Path) -> None:
    content = text(400_000)
    found = list(source(tmp_path / "t", content).read(None, BPETokenizer.blank().safe_cut))
    assert len(found) > 1
    assert max(len(piece) for piece, _ in found) <= 2 * module.BLOCK
    assert "".join(piece for piece, _ in found) == content
    assert [last for _, last in found] == [False] * (len(found) - 1) + [True]


def test_a_document_without_a_place_to_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 10)
    monkeypatch.setattr(module, "LONGEST", 1000)
    with pytest.raises(DataError, match="must have a place to cut in 1,000 characters"):
        list(pieces(["x" * 100] * 30, "file", lambda _: 0))
    assert list(pieces(["x" * 100] * 5, "file", lambda _: 0)) == [("x" * 500, True)]


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1000])
def test_files_in_blocks(block: int, tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes("\ufeffGrüße\r\n🙂\r\r\n\ufeffx\r".encode())
    assert "".join(read_text(path, block)) == "Grüße\n🙂\r\n\ufeffx\r"
    path.write_bytes(b"")
    assert "".join(read_text(path, block)) == ""
    path.write_bytes("äö".encode() + b"abc\xff")
    with pytest.raises(DataError, match="t must be UTF-8 text, but byte 7 is not"):
        list(read_text(path, block))
    path.write_bytes("äö🙂".encode()[:-1])
    with pytest.raises(DataError, match="but byte 4 is not"):
        list(read_text(path, block))
    path.write_bytes(b"ab\0c")
    with pytest.raises(DataError, match="zero bytes: it looks like a binary file"):
        list(read_text(path, block))


# ---- tokens ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("tokenizer", ["char", "bpe:300"])
def test_one_document_is_the_whole_text_encoded(tokenizer: str, tmp_path: Path) -> None:
    """The last tenth is for validation; each part ends with the end-of-text token."""
    content = text(5000)
    prepare([source(tmp_path / "t", content)], tmp_path / "d", PrepareSettings(tokenizer, shard_tokens=1000))
    found = ShardedTokens(tmp_path / "d").tokenizer
    assert isinstance(found, BPETokenizer | CharTokenizer)
    end = found.special_tokens[END_OF_TEXT]
    place = int(len(content) * 0.9)
    tokens = streams(tmp_path / "d")
    assert tokens["train"] == [*found.encode(content[:place]).tolist(), end]
    assert tokens["val"] == [*found.encode(content[place:]).tolist(), end]


def test_a_long_text_in_pieces_is_the_whole_text_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 700)
    monkeypatch.setattr(preparation, "BLOCK", 2000)
    contents = [text(4000, 1), text(3000, 2)]
    sources = [source(tmp_path / f"{i}", content) for i, content in enumerate(contents)]
    prepare(sources, tmp_path / "d", PrepareSettings("bpe:330", val=0.2))
    folder = ShardedTokens(tmp_path / "d")
    end, place = folder.manifest.end_of_text, int(sum(map(len, contents)) * 0.8) - len(contents[0])
    wanted = [contents[0], contents[1][:place], contents[1][place:]]
    first, second, third = ([*folder.tokenizer.encode(part).tolist(), end] for part in wanted)
    assert streams(tmp_path / "d") == {"train": first + second, "val": third}
    assert {n: s.documents for n, s in folder.manifest.splits.items()} == {"train": 2, "val": 1}


def test_documents_by_their_content(tmp_path: Path) -> None:
    """A tenth of them, equal ones in the same place, in their order; another seed chooses others."""
    lines = [text(12, i).replace("\n", " ").strip() for i in range(500)]
    where = source(tmp_path / "t", "\n".join(lines + lines[:100]))
    found = []
    for seed in (0, 0, 1):
        folder = tmp_path / f"d{len(found)}"
        prepare([where], folder, PrepareSettings("bpe:300", documents="line", seed=seed))
        opened = ShardedTokens(folder)
        split = {name: opened.tokenizer.decode(tokens).split(END_OF_TEXT)
                 for name, tokens in streams(folder).items()}
        assert {name: len(parts) - 1 for name, parts in split.items()} == {
            name: s.documents for name, s in opened.manifest.splits.items()}
        assert all(parts[-1] == "" for parts in split.values())
        train, val = split["train"][:-1], split["val"][:-1]
        assert not set(train) & set(val)
        assert sorted(train + val) == sorted(lines + lines[:100])
        assert train == [line for line in lines + lines[:100] if line in set(train)]
        assert 0.06 < len(val) / 600 < 0.15
        found.append((folder, val))
    for file in found[0][0].iterdir():  # the same bytes again
        assert file.read_bytes() == (found[1][0] / file.name).read_bytes()
    assert found[0][1] != found[2][1]


def test_a_long_document_goes_to_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 60)
    documents = [text(100, i).strip() for i in range(120)]
    prepare([source(tmp_path / "t", "--".join(documents))], tmp_path / "d", PrepareSettings("char", documents="--"))
    decode = ShardedTokens(tmp_path / "d").tokenizer.decode
    found = [decode(tokens).split(END_OF_TEXT)[:-1] for tokens in streams(tmp_path / "d").values()]
    assert sorted(found[0] + found[1]) == sorted(documents)


def test_what_a_text_spells_out_is_no_special_token(tmp_path: Path) -> None:
    content = f"a {END_OF_TEXT} b\n" * 60
    where = source(tmp_path / "t", content, "line")
    for tokenizer in ("char", "bpe:258"):
        prepare([where], tmp_path / tokenizer[:3], PrepareSettings(tokenizer))
        folder = ShardedTokens(tmp_path / tokenizer[:3])
        tokens = [token for part in streams(tmp_path / tokenizer[:3]).values() for token in part]
        assert tokens.count(folder.manifest.end_of_text) == 60
        assert folder.tokenizer.decode(tokens).count(END_OF_TEXT) == 2 * 60


def test_several_processes_give_the_same(tmp_path: Path) -> None:
    where = source(tmp_path / "t", text(30_000), "line")
    for workers in (1, 2):
        prepare([where], tmp_path / f"d{workers}", PrepareSettings("bpe:300", workers=workers))
    assert streams(tmp_path / "d1") == streams(tmp_path / "d2")


@pytest.mark.parametrize(("begin", "reads"), [("", 0), ("# no __name__\n", 1)])
def test_a_script_without_a_guard_reads_nothing_twice(begin: str, reads: int, tmp_path: Path) -> None:
    """Its processes would import it and prepare again. Where its text has the guard's name, they notice it."""
    source(tmp_path / "t", text(200))
    script = tmp_path / "script.py"
    script.write_text(f"{begin}from dualml.data import PrepareSettings, find_sources, prepare\n"
                      "def told(what, done, total):\n    if done == total: print(what)\n"
                      "prepare(find_sources(['t']), 'd', PrepareSettings('char', workers=2), told)\n", encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run([sys.executable, str(script)], env=environment, cwd=tmp_path, timeout=120,
                          capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("reading")) == (1, reads)
    assert done.stderr.rstrip().endswith('`if __name__ == "__main__":`. Or give workers=1.')
    assert {p.name for p in tmp_path.iterdir()} == {"t", "script.py"}


def test_texts_that_say_where_they_go(tmp_path: Path) -> None:
    first = source(tmp_path / "a", text(300, 1))
    second = source(tmp_path / "b", text(100, 2), split="val")
    prepare([second, first], tmp_path / "d", PrepareSettings("char"))
    found = ShardedTokens(tmp_path / "d")
    tokens = streams(tmp_path / "d")
    assert found.tokenizer.decode(tokens["train"]) == text(300, 1) + END_OF_TEXT
    assert found.tokenizer.decode(tokens["val"]) == text(100, 2) + END_OF_TEXT
    with pytest.raises(DataError, match=r"FILES must have some text, got none in .*c"):
        prepare([first, source(tmp_path / "c", "", split="val")], tmp_path / "e", PrepareSettings("char"))


def test_a_tokenizer_of_a_file(tmp_path: Path) -> None:
    where = source(tmp_path / "t", text(2000))
    BPETokenizer.train(text(2000), 290, special_tokens=["<|pad|>", "<|endoftext|>"]).save(tmp_path / "t.json")
    prepare([where], tmp_path / "d", PrepareSettings(str(tmp_path / "t.json")))
    prepare([where], tmp_path / "e", PrepareSettings(str(tmp_path / "d" / "tokenizer.json")))
    assert streams(tmp_path / "d") == streams(tmp_path / "e")
    assert ShardedTokens(tmp_path / "d").manifest.end_of_text == 289
    BPETokenizer.train(text(2000), 290, special_tokens=[]).save(tmp_path / "none.json")
    CharTokenizer(text(2000)).save(tmp_path / "char.json")
    for name in ("none.json", "char.json"):
        with pytest.raises(DataError, match=r"must have an end-of-text token, such as <\|endoftext\|>"):
            prepare([where], tmp_path / "f", PrepareSettings(str(tmp_path / name)))
    CharTokenizer("abc", [END_OF_TEXT]).save(tmp_path / "char.json")
    with pytest.raises(DataError, match="text must consist of the 4 characters"):
        prepare([where], tmp_path / "f", PrepareSettings(str(tmp_path / "char.json")))
    assert not [p.name for p in tmp_path.iterdir() if "partial" in p.name or p.name == "f"]


def test_a_tokenizer_learns_from_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learned: list[str] = []
    real = BPETokenizer.train

    def train(texts: Any, *words: Any, **named: Any) -> BPETokenizer:
        learned.extend(texts)
        return real(learned, *words, **named)
    monkeypatch.setattr(BPETokenizer, "train", train)
    monkeypatch.setattr(preparation, "SAMPLE", 20_000)
    content = text(20_000)
    prepare([source(tmp_path / "t", content, "line")], tmp_path / "d", PrepareSettings("bpe:300"))
    assert 20_000 <= sum(map(len, learned)) < 20_200
    assert learned[0] in content[:100]
    assert learned[-1] in content[-2000:]


@pytest.mark.parametrize(("settings", "message"), [
    ({"val": 0.0}, r"val must be in \(0, 1\), got 0.0"), ({"val": 1.0}, "got 1.0"), ({"val": float("nan")}, "got nan"),
    ({"workers": 0}, "workers must be at least 1"), ({"seed": -1}, "seed must be"), ({"documents": ""}, "got an empty"),
    ({"tokenizer": "bpe:9000"}, "bpe:9000 needs a longer text"), ({"tokenizer": "bpe:9"}, "vocab_size must be from"),
    ({"tokenizer": "gpt5"}, "expected char, bpe:N"), ({"shard_tokens": 0}, "shard-tokens must be at least 1")])
def test_settings_that_cannot_be(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    where = source(tmp_path / "t", "abc abc " * 200)
    with pytest.raises(DataError, match=message):
        prepare([where], tmp_path / "d", PrepareSettings(**{"tokenizer": "char"} | settings))
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def test_a_tokenizer_that_cannot_be_is_refused_before_texts_are_read(tmp_path: Path) -> None:
    BPETokenizer.train(text(2000), 290, special_tokens=[]).save(tmp_path / "none.json")
    for wanted in ("bpe:9", "gpt5", str(tmp_path / "none.json")):
        with pytest.raises(DataError, match=r"tokenizer|vocab_size"):
            prepare([Source("t", tmp_path / "not there")], tmp_path / "d", PrepareSettings(wanted))


def test_texts_that_cannot_be(tmp_path: Path) -> None:
    whole = source(tmp_path / "whole", text(100))
    for content in ("", "\n\n"):
        for others in ([], [whole]):
            with pytest.raises(DataError, match=r"FILES must have some text, got none in .*t\. Leave away"):
                prepare([*others, source(tmp_path / "t", content)], tmp_path / "d", PrepareSettings("char"))
    with pytest.raises(DataError, match="training must have some text"):
        prepare([source(tmp_path / "t", "x")], tmp_path / "d", PrepareSettings("char"))
    with pytest.raises(DataError, match="'nowhere', which does not exist"):
        find_sources(["nowhere"])
    with pytest.raises(DataError, match="got the folder"):
        find_sources([str(tmp_path)])


def test_python_documentation_by_topic(tmp_path: Path) -> None:
    prepare(find_sources(["pydoc"]), tmp_path / "d", PrepareSettings("char"))
    found = ShardedTokens(tmp_path / "d")
    tokens = streams(tmp_path / "d")
    texts = found.tokenizer.decode(tokens["train"] + tokens["val"]).split(END_OF_TEXT)
    assert len(texts) - 1 in (len(python_topics()), len(python_topics()) + 1)
    assert texts[0] == python_topics()[0].strip("\n")


# ---- memory, death --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("documents", "size"), [("blank-line", 5), ("file", 20)])
def test_memory_is_bounded(documents: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes by the blocks, not by the text's megabytes, whether that is one document or many."""
    for place in (module, preparation):
        monkeypatch.setattr(place, "BLOCK", 1 << 16)
    block = "".join(f"{text(200, i)}\n\n" for i in range(200)).encode()
    (tmp_path / "t").write_bytes(block * (size * 10 ** 6 // len(block)))
    tracemalloc.start()
    try:
        prepare([Source("t", tmp_path / "t", documents)], tmp_path / "d", PrepareSettings("char", workers=1))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 80 * module.BLOCK, f"{peak:,}"


KILLED = """
import os, signal, sys
from dualml.data import prepare, PrepareSettings, Source
from pathlib import Path
left = int(sys.argv[2])
def around(name):
    real = getattr(os, name)
    def call(*words):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*words)
    setattr(os, name, call)
around('fsync')
around('rename')
folder = Path(sys.argv[1])
prepare([Source('t', folder / 't')], folder / 'd', PrepareSettings('char', shard_tokens=500))
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
@pytest.mark.parametrize("moment", [1, 3, 6, 7])
def test_a_killed_prepare_leaves_nothing_that_looks_whole(moment: int, tmp_path: Path) -> None:
    """Killed before the n-th of its calls of fsync and rename; the next one cleans up."""
    where = source(tmp_path / "t", text(200))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(moment)], env=environment, timeout=60)
    assert done.returncode == -9
    left = {p.name for p in tmp_path.iterdir()}
    assert "d" not in left
    assert len(left) == 2
    prepare([where], tmp_path / "d", PrepareSettings("char", shard_tokens=500))
    assert {p.name for p in tmp_path.iterdir()} == {"t", "d"}
    assert ShardedTokens(tmp_path / "d").verify() == []
