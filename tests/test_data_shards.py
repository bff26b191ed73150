"""Data folders: what was written comes back, windows lie inside, and what is damaged or hostile is refused by name."""

from __future__ import annotations

import copy
import gc
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dualml.data import Manifest, Prefetch, ShardedTokens, TokenBatches, WindowBatches, write_shards
from dualml.data.shards import ShardStream
from dualml.errors import CheckpointError, DataError
from dualml.safe_files import sha256
from dualml.text import BPETokenizer, CharTokenizer, read_tokenizer

EOT = "<|endoftext|>"
BPE = BPETokenizer.train("the quick brown fox jumps over the lazy dog. " * 3, 280)


def folder(path: Path, train: int = 1000, val: int = 200, shard_tokens: int = 300, vocab: int = 280) -> Path:
    """Tokens 0, 1, 2 ... modulo the vocabulary in each split, in parts of 70."""
    parts = [(name, (np.arange(start, min(start + 70, size)) % vocab).astype(np.int32), 1)
             for name, size in (("train", train), ("val", val)) for start in range(0, size, 70)]
    write_shards(path, parts, BPE, [("text.txt", 5000)], shard_tokens)
    return path


# ---- round trip -----------------------------------------------------------------------------------------------------

def test_what_was_written_comes_back(tmp_path: Path) -> None:
    found = ShardedTokens(folder(tmp_path / "data"))
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == [
        "manifest.json", "tokenizer.json", "train-00000.bin", "train-00001.bin", "train-00002.bin", "train-00003.bin",
        "val-00000.bin"]
    assert [p.name for p in tmp_path.iterdir()] == ["data"]
    assert found.manifest == Manifest.read(tmp_path / "data")
    assert (found.manifest.dtype, found.manifest.end_of_text) == ("u16", BPE.special_tokens[EOT])
    assert [s.tokens for s in found.manifest.splits["train"].shards] == [300, 300, 300, 100]
    assert found.manifest.splits["val"].documents == 3
    assert found.manifest.sources == (("text.txt", 5000),)
    assert found.tokenizer.to_dict() == BPE.to_dict()
    assert found.verify() == []
    for name, size in (("train", 1000), ("val", 200)):
        stream = found.parts[name]
        assert len(stream) == size
        np.testing.assert_array_equal(stream.windows(np.array([0]), size)[0], np.arange(size) % 280)


def test_large_vocabularies_have_wider_tokens(tmp_path: Path) -> None:
    tokenizer = CharTokenizer(map(chr, [*range(0x20, 0xD800), *range(0xE000, 0x1_2800)]), [EOT])
    assert tokenizer.vocab_size > 1 << 16
    last = tokenizer.special_tokens[EOT]
    write_shards(tmp_path / "d", [("train", np.array([last, 3]), 1), ("val", np.array([5]), 1)], tokenizer)
    found = ShardedTokens(tmp_path / "d")
    assert found.manifest.dtype == "u32"
    assert (tmp_path / "d" / "train-00000.bin").stat().st_size == 8
    assert found.parts["train"].windows(np.array([0]), 2).tolist() == [[last, 3]]
    assert found.tokenizer.encode("aé").tolist() == tokenizer.encode("aé").tolist()


def test_windows_over_shard_boundaries(tmp_path: Path) -> None:
    stream = ShardedTokens(folder(tmp_path / "d", shard_tokens=7)).parts["train"]
    assert len(stream.shards) == 143
    for start in range(60):
        for length in (1, 6, 7, 8, 40):
            assert stream.windows(np.array([start]), length)[0].tolist() == [
                i % 280 for i in range(start, start + length)]
    assert stream.windows(np.array([960, 0, 13]), 40).dtype == np.int32


def test_batches_are_those_of_the_same_tokens_in_memory(tmp_path: Path) -> None:
    found = ShardedTokens(folder(tmp_path / "d", 1800, 200))
    shards = WindowBatches(found.parts, context=16, batch=8, seed=3)
    memory = TokenBatches(np.concatenate([np.arange(1800) % 280, np.arange(200)]), context=16, batch=8, seed=3)
    for part in ("train", "val"):
        for index in (0, 1, 77):
            for one, other in zip(shards.get(part, index), memory.get(part, index), strict=True):
                assert (one.dtype, one.shape) == (np.int32, (8, 16))
                np.testing.assert_array_equal(one, other)


def test_windows_of_two_epochs_lie_inside(tmp_path: Path) -> None:
    """Each token is the one at its place, none is from beyond the end, and every window is drawn sooner or later."""
    stream = ShardStream(280, [("a", np.arange(90, dtype=np.uint16)), ("b", np.arange(90, 160, dtype=np.uint16))])
    data = WindowBatches({"train": stream, "val": stream}, context=8, batch=16, seed=1)
    epoch = 160 // (16 * 8)
    starts = set()
    for index in range(2 * epoch * 60):
        x, y = data.get("train", index)
        np.testing.assert_array_equal(np.diff(x, axis=1), 1)
        np.testing.assert_array_equal(y, x + 1)
        assert y.max() < 160
        starts |= set(x[:, 0].tolist())
    assert starts == set(range(160 - 8))


def test_streams_of_more_than_four_billion_tokens() -> None:
    class Endless:
        def __len__(self) -> int:
            return 1 << 40

        def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
            assert (starts >= 0).all()
            assert (starts < (1 << 40) - length + 1).all()
            self.starts = starts
            return np.zeros((len(starts), length), np.int32)
    stream = Endless()
    WindowBatches({"train": stream, "val": stream}, 8, 4000).get("train", 0)
    assert stream.starts.max() > 1 << 39
    assert len(set(stream.starts.tolist())) == 4000
    assert abs(stream.starts.mean() / 2 ** 39 - 1) < 0.05


# ---- ahead ----------------------------------------------------------------------------------------------------------

def test_prefetched_batches_are_the_same() -> None:
    data = TokenBatches(np.arange(1000), context=4, batch=3, seed=5)
    ahead = Prefetch(data, 3)
    for part, index in [("train", 0), ("train", 1), ("val", 0), ("train", 2), ("val", 1), ("train", 9), ("train", 3),
                        ("train", 3), ("train", 4)]:
        for one, other in zip(ahead.get(part, index), data.get(part, index), strict=True):
            np.testing.assert_array_equal(one, other)
        assert {i for p, i in ahead._waiting if p == part} == {index + 1, index + 2, index + 3}
        assert len(ahead._waiting) <= 2 * 3
    assert ahead.parts is data.parts
    ahead.close()
    np.testing.assert_array_equal(ahead.get("train", 5)[0], data.get("train", 5)[0])
    assert not ahead._waiting


def _threads() -> int:
    return sum(t.name.startswith("dualml-batches") for t in threading.enumerate())


def test_a_prefetched_error_is_raised_where_the_batch_is_asked_for() -> None:
    class Broken(TokenBatches):
        def get(self, part: str, index: int) -> tuple[np.ndarray, np.ndarray]:
            if index == 2:
                raise DataError(f"batch {index}, in {threading.current_thread().name}")
            return super().get(part, index)
    ahead = Prefetch(Broken(np.arange(1000), context=4, batch=3))
    ahead.get("train", 0)
    ahead.get("train", 1)
    with pytest.raises(DataError, match="batch 2, in dualml-batches"):
        ahead.get("train", 2)
    ahead.get("train", 3)
    ahead.close()


def test_the_thread_ends_with_the_object() -> None:
    before = _threads()
    ahead = Prefetch(TokenBatches(np.arange(1000), context=4, batch=3))
    ahead.get("train", 0)
    thread = next(t for t in threading.enumerate() if t.name.startswith("dualml-batches"))
    del ahead
    gc.collect()
    thread.join(10)
    assert _threads() == before


# ---- writing refuses ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("parts", "message"), [
    ([("train", np.array([1]), 1)], "validation must have some text"),
    ([("val", np.array([1]), 1)], "training must have some text"),
    ([("test", np.array([1]), 1)], "parts must be of train or val, got 'test'"),
    ([("train", np.array([280]), 1)], r"tokens must be in \[0, 279\], got 280"),
    ([("train", np.array([3, -1]), 1)], "got -1 to 3")])
def test_what_is_no_data_is_not_written(tmp_path: Path, parts: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        write_shards(tmp_path / "d", parts, BPE)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    folder(tmp_path / "d")  # an empty folder is as good as none
    before = sha256(tmp_path / "d" / "manifest.json")
    (tmp_path / "file").write_text("mine")
    for name in ("d", "file"):
        with pytest.raises(DataError, match="is there already"):
            folder(tmp_path / name, 900)
    assert sha256(tmp_path / "d" / "manifest.json") == before
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("dualml.data.shard_writer.flush", full)
    with pytest.raises(CheckpointError, match="cannot be written: No space left on device"):
        folder(tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


def test_another_process_may_be_first(tmp_path: Path, whole: Path) -> None:
    def parts() -> Any:
        yield "train", np.array([1]), 1
        shutil.copytree(whole, tmp_path / "d")
        yield "val", np.array([1]), 1
    with pytest.raises(DataError, match="is there already"):
        write_shards(tmp_path / "d", parts(), BPE)
    assert ShardedTokens(tmp_path / "d").verify() == []
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


# ---- reading refuses ------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("whole") / "data")


@pytest.fixture
def data(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "data"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def turn_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def link_away(path: Path) -> None:
    target = path.parent.parent / "elsewhere"
    path.rename(target)
    path.symlink_to(target)


@pytest.mark.parametrize(("name", "harm", "message"), [
    ("manifest.json", Path.unlink, r"no data folder: it has no manifest.json. Make one with `dualml data prepare"),
    ("manifest.json", cut, "manifest.json must hold JSON"),
    ("manifest.json", lambda p: p.write_bytes(b""), "manifest.json must hold JSON"),
    ("manifest.json", lambda p: p.write_bytes(b"\xff\xfe"), "manifest.json must hold JSON"),
    ("manifest.json", lambda p: p.write_text("[1]"), "manifest.json must hold a JSON object"),
    ("manifest.json", lambda p: p.write_text("[" * 100_000), "manifest.json must hold JSON"),
    ("manifest.json", lambda p: p.write_text('{"format": 1, "format": 1}'), "a name comes twice"),
    ("train-00001.bin", Path.unlink, "train-00001.bin is missing"),
    ("train-00001.bin", cut, "train-00001.bin must have 600 bytes, got 599: it was cut short or changed"),
    ("val-00000.bin", lambda p: p.write_bytes(b""), "val-00000.bin must have 400 bytes, got 0"),
    ("val-00000.bin", lambda p: p.write_bytes(b"x" * 4000), "val-00000.bin must have 400 bytes, got 4,000"),
    ("train-00000.bin", link_away, "train-00000.bin is a link to .*elsewhere, outside of its folder"),
    ("tokenizer.json", Path.unlink, "tokenizer.json is missing"),
    ("tokenizer.json", turn_a_bit, "tokenizer.json is not the tokenizer that the data was made with"),
    ("tokenizer.json", link_away, "tokenizer.json is a link to")])
def test_damaged_files_are_refused(data: Path, name: str, harm: Callable[[Path], Any], message: str) -> None:
    harm(data / name)
    with pytest.raises(DataError, match=message):
        _ = ShardedTokens(data).tokenizer


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name in ("nowhere", "file"):
        with pytest.raises(DataError, match=f"{name} is no folder"):
            ShardedTokens(tmp_path / name)


def change(content: dict[str, Any], path: str, value: Any) -> None:
    *way, last = path.split(".")
    for step in way:
        content = content[int(step)] if isinstance(content, list) else content[step]
    if value is None:
        del content[last]
    else:
        content[int(last) if isinstance(content, list) else last] = value


FIRST = "splits.train.shards.0"
HOSTILE = [
    ("format", 2, "must be of format 1, got 2"), ("format", None, "must be of format 1, got None"),
    ("vocab_size", "280", "vocab_size .* must be a whole number"), ("vocab_size", -5, "vocab_size .* got -5"),
    ("vocab_size", 280.0, "vocab_size .* got 280.0"), ("vocab_size", True, "vocab_size .* got True"),
    ("vocab_size", 1 << 80, "vocab_size .* must be a whole number from 1"), ("vocab_size", 0, "vocab_size .* got 0"),
    ("vocab_size", 1 << 17, "dtype .* must be large enough for 131,072 tokens, got 'u16'"),
    ("vocab_size", 281, r"vocab_size .* must be the tokenizer's, 280, got 281"),
    ("dtype", "f32", "dtype .* must be u16 or u32, got 'f32'"), ("dtype", None, "dtype .* got None"),
    ("dtype", ["u16"], "dtype .* must be"),
    ("end_of_text", 280, "end_of_text .* must be a whole number from 0 to 279, got 280"),
    ("end_of_text", None, "end_of_text"), ("end_of_text", -1, "end_of_text"),
    ("tokenizer.name", "../../etc/passwd", r"name of the tokenizer .* must be tokenizer.json, got '../../etc"),
    ("tokenizer.name", "/etc/passwd", "name of the tokenizer"), ("tokenizer", "tokenizer.json", "tokenizer .* object"),
    ("tokenizer.sha256", "abc", "sha256 of the tokenizer .* must be 64 hexadecimal"),
    ("tokenizer.more", 1, "tokenizer .* must be an object of name, sha256"),
    ("splits", [], "splits .* must be an object of train, val, got"), ("splits.val", None, "splits .* object of train"),
    ("splits.val.shards", [], "shards of val .* must be a list of 1 to"), ("splits.val", 7, "val .* must be an object"),
    ("splits.val.shards", {"0": 1}, "shards of val"), ("splits.train.tokens", 999, "its shards, 1,000, got 999"),
    ("splits.train.documents", -1, "documents of train"), ("splits.train.documents", 1.5, "documents of train"),
    (FIRST, "train-00000.bin", "the shard train-00000.bin .* must be an object of name, tokens, sha256"),
    (f"{FIRST}.name", "../train-00000.bin", r"name of the shard train-00000.bin .* got '../train"),
    (f"{FIRST}.name", "/dev/zero", "name of the shard train-00000.bin .* must be train-00000.bin, got '/dev/zero'"),
    (f"{FIRST}.name", "train-00001.bin", "name of the shard train-00000.bin"),
    (f"{FIRST}.name", "train-00000.bin\n", "name of the shard"), (f"{FIRST}.name", 3, "name of the shard"),
    (f"{FIRST}.tokens", -300, "tokens of train-00000.bin .* got -300"), (f"{FIRST}.tokens", "300", "tokens of train"),
    (f"{FIRST}.tokens", 1 << 60, "tokens of train-00000.bin .* must be a whole number"),
    (f"{FIRST}.tokens", 10 ** 400, "tokens of train-00000.bin"), (f"{FIRST}.tokens", 0, "tokens of train-00000.bin"),
    (f"{FIRST}.sha256", "A" * 64, "sha256 of train-00000.bin"), (f"{FIRST}.sha256", None, "must be an object"),
    ("sources", "text.txt", "sources .* must be a list"), ("sources.0.bytes", -1, "bytes of a source"),
    ("sources.0", ["a", 1], "a source .* must be an object"), ("sources.0.name", 5, "name of a source"),
]


@pytest.mark.parametrize(("path", "value", "message"), HOSTILE, ids=[f"{p}={str(v)[:20]}" for p, v, _ in HOSTILE])
def test_hostile_manifests_are_refused(data: Path, path: str, value: Any, message: str) -> None:
    content = json.loads((data / "manifest.json").read_text())
    changed = copy.deepcopy(content)
    change(changed, path, value)
    (data / "manifest.json").write_text(json.dumps(changed))
    with pytest.raises(DataError, match=message):
        _ = ShardedTokens(data).tokenizer


def test_a_huge_claim_costs_nothing(data: Path) -> None:
    """A shard that is claimed to be a terabyte is compared with its file first."""
    content = json.loads((data / "manifest.json").read_text())
    change(content, f"{FIRST}.tokens", 1 << 40)
    change(content, "splits.train.tokens", (1 << 40) + 700)
    (data / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"train-00000.bin must have 2,199,023,255,552 bytes, got 600"):
        ShardedTokens(data)


def test_verify_names_what_is_broken(data: Path) -> None:
    turn_a_bit(data / "train-00002.bin")
    turn_a_bit(data / "tokenizer.json")
    read: list[int] = []
    wrong = ShardedTokens(data).verify(read.append)
    assert len(wrong) == 2
    assert "tokenizer.json is not the tokenizer" in wrong[0]
    assert "train-00002.bin is not what was written: its SHA-256 differs" in wrong[1]
    assert sum(read) == 2400


def test_tokens_beyond_the_vocabulary(data: Path) -> None:
    """Even with right checksums they never reach a model."""
    path = data / "train-00001.bin"
    tokens = np.fromfile(path, "<u2")
    tokens[10] = 40_000
    tokens.tofile(path)
    content = json.loads((data / "manifest.json").read_text())
    change(content, "splits.train.shards.1.sha256", sha256(path))
    (data / "manifest.json").write_text(json.dumps(content))
    found = ShardedTokens(data)
    assert found.parts["train"].windows(np.array([290]), 20).max() == 29
    with pytest.raises(DataError, match=r"train-00001.bin must have tokens below 280 \(vocab_size\), got 40,000."):
        found.parts["train"].windows(np.array([5, 290]), 21)
    (wrong,) = found.verify()
    assert "train-00001.bin must have tokens below 280 (vocab_size), got 40,000" in wrong


def test_tokenizer_files(tmp_path: Path) -> None:
    for content, message in (
            ("{}", "model must be an object"), ('{"kind": "char"}', r"characters must be a text.* Look into .*t\.json"),
            ('{"kind": "char", "characters": ["a"]}', "characters must"), ("[]", "must be an object"),
            ('{"kind": "char", "characters": "ab", "added": "<|e|>"}', "added a list of texts"),
            ('{"model": {"type": "WordPiece"}}', "model must be BPE, got 'WordPiece'")):
        (tmp_path / "t.json").write_text(content)
        with pytest.raises(DataError, match=message):
            read_tokenizer(tmp_path / "t.json")


@pytest.mark.parametrize("alone", ["\ud800", "a\udc80b"])
def test_half_a_surrogate_pair_survives_in_files(alone: str, tmp_path: Path) -> None:
    """It has no UTF-8; JSON has an escape for it."""
    blank = BPETokenizer.blank("gpt4", [EOT])
    vocab = blank.vocab | {alone: len(blank.vocab)}
    added = [copy.replace(t, id=len(vocab)) if hasattr(copy, "replace") else type(t)(len(vocab), t.content)
             for t in blank.added]
    odd = BPETokenizer(vocab, [], blank.pre_tokenizer.spec, added)
    odd.save(tmp_path / "t.json")
    (tmp_path / "t.json").read_bytes().decode()
    assert read_tokenizer(tmp_path / "t.json").to_dict() == odd.to_dict()
    chars = CharTokenizer(f"xyz{alone}")
    chars.save(tmp_path / "c.json")
    assert CharTokenizer.load(tmp_path / "c.json").characters == chars.characters
    write_shards(tmp_path / "d", [("train", np.array([1]), 1), ("val", np.array([1]), 1)], odd)
    assert ShardedTokens(tmp_path / "d").tokenizer.to_dict() == odd.to_dict()
