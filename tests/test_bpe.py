"""Byte-level BPE by itself: round trips, chunks, merges, streaming, several processes, the command line."""

from __future__ import annotations

import itertools
import os
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex
from hypothesis import given, settings, strategies as st
from typer.testing import CliRunner

from dualml.cli.main import app
from dualml.errors import DataError
from dualml.text import BPETokenizer, CharTokenizer, Decoder, Tokenizer, decode_stream, encode_file, load_tokenizer
from dualml.text.chunks import chunks
from dualml.text.merges import Merger
from dualml.text.patterns import PATTERNS
from dualml.text.pretokenize import PreTokenizer, describe
from dualml.text.stream import read_blocks

SOURCE = "\n".join(p.read_text(encoding="utf-8") for p in sorted(Path(__file__).parent.glob("test_*.py"))[:6])
BPE = BPETokenizer.train(SOURCE, 1000)
# Text whose tokens depend on what is beside them.
TRICKY = st.text(st.sampled_from(list("ab1'.\n\r\t _(/sTé\u0301\xa0\u3000漢\u017f\x1c\u2028👍")), max_size=40)
DIGITS = {"type": "Sequence", "pretokenizers": [
    {"type": "Digits", "individual_digits": True},
    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]}
SPLITS = {name: PreTokenizer(describe(pattern)) for name, pattern in PATTERNS.items()}
SPLITS["digits"] = PreTokenizer(DIGITS)


@settings(max_examples=300, deadline=None)
@given(st.text() | TRICKY)
def test_any_text_comes_back(text: str) -> None:
    tokens = BPE.encode(text)
    assert tokens.dtype == np.int32
    assert BPE.decode(tokens) == text
    assert "".join(decode_stream(BPE, tokens.tolist())) == text


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_come_back(data: bytes) -> None:
    tokens = BPE.encode_bytes(data)
    assert BPE.decode_bytes(tokens) == data
    assert "".join(decode_stream(BPE, tokens.tolist())) == BPE.decode(tokens) == data.decode("utf-8", "replace")


@pytest.mark.parametrize("name", SPLITS)
@settings(max_examples=400, deadline=None)
@given(text=TRICKY)
def test_chunks_are_cut_where_the_pattern_cuts(name: str, text: str) -> None:
    pre = SPLITS[name]
    assert pre.chunked
    cut = [c for block in chunks(text.encode()) for c in block]
    assert b"".join(cut).decode() == text
    assert [w for c in cut for w in pre.words(c.decode())] == pre.words(text)


def test_chunks_of_a_long_text() -> None:
    text = SOURCE * 3 + "x" * 600_000 + " " + "漢" * 100_000 + SOURCE
    assert [w for b in chunks(text.encode()) for c in b for w in SPLITS["gpt4"].words(c.decode())] == \
        SPLITS["gpt4"].words(text)


@settings(max_examples=200, deadline=None)
@given(TRICKY, st.integers(5, 30))
def test_safe_cuts(text: str, block: int) -> None:
    made = BPETokenizer(BPE.vocab, BPE.merges, BPE.pre_tokenizer.spec, BPE.added)
    data, tokens = (text + "<|endoftext|>" + text).encode(), []
    while data:
        cut = made.safe_cut(data[:block]) or len(data)
        tokens += made.encode(data[:cut].decode()).tolist()
        data = data[cut:]
    assert tokens == made.encode(text + "<|endoftext|>" + text).tolist()


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="abcd", max_size=120))
def test_both_mergers_agree(text: str) -> None:
    ids = {c: ord(c) for c in "abcd"} | {"ab": 200, "abc": 201, "cd": 202, "aa": 203, "aaaa": 204, "dab": 205}
    merger = Merger([(ids[a], ids[b], ids[a + b])
                     for a, b in (("a", "b"), ("ab", "c"), ("c", "d"), ("a", "a"), ("aa", "aa"), ("d", "ab"))])
    assert merger(text[:40]) == merger._by_heap(text[:40])


def test_training_merges_the_most_frequent_pair() -> None:
    """Against the definition, which counts anew after each merge."""
    text = SOURCE[:6000]
    words = Counter(regex.findall(PATTERNS["gpt2"], text))
    tokens = {w: [bytes([b]) for b in w.encode()] for w in words}
    made = BPETokenizer.train(text, 330, pattern="gpt2", special_tokens=())
    number = {made.decode_bytes([i]): i for i in range(330)}
    for left, right in made.merges:
        pairs: Counter[tuple[bytes, bytes]] = Counter()
        for word, parts in tokens.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += words[word]
        best = max(pairs, key=lambda p: (pairs[p], -number[p[0]], -number[p[1]]))
        assert best == (made.decode_bytes([made.vocab[left]]), made.decode_bytes([made.vocab[right]]))
        for parts in tokens.values():
            i = 0
            while i < len(parts) - 1:
                if (parts[i], parts[i + 1]) == best:
                    parts[i:i + 2] = [best[0] + best[1]]
                i += 1


def test_special_tokens() -> None:
    end = BPE.end_of_text
    assert (end, BPE.special_tokens, BPE.vocab_size) == (999, {"<|endoftext|>": 999}, 1000)
    assert BPE.encode("a<|endoftext|>b").tolist().count(end) == 1
    plain = BPE.encode("a<|endoftext|>b", allowed_special="none")
    assert end not in plain
    assert BPE.decode(plain) == "a<|endoftext|>b"
    assert end in BPE.encode("a<|endoftext|>b", allowed_special={"<|endoftext|>"})
    assert BPE.decode([end, 65, end], skip_special=True) == BPE.decode([65])
    with pytest.raises(DataError, match="names of special tokens"):
        BPE.encode("x", allowed_special={"<|other|>"})


@pytest.mark.parametrize("tokens", [[1000], [-1], [2**40], [1.5], [0, -5, 3]], ids=str)
def test_ids_outside_are_refused(tokens: list[int]) -> None:
    with pytest.raises(DataError, match=r"\[0, 999\]"):
        BPE.decode(tokens)


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(DataError, match=r"lone surrogate.*position 2"):
        BPE.encode("ab\ud800")
    with pytest.raises(DataError, match="surrogate"):
        BPETokenizer.train("ab\ud800", 300)


def test_training_refuses() -> None:
    for text, size in (("", 300), ("x", 200), ("x", 2**21)):
        with pytest.raises(DataError, match="train"):
            BPETokenizer.train(text, size)
    assert BPETokenizer.train("aaaa bbbb", 5000).vocab_size < 270


def test_protocol_and_copies() -> None:
    assert isinstance(BPE, Tokenizer)
    for again in (load_tokenizer(BPE.to_dict()), pickle.loads(pickle.dumps(BPE))):
        assert np.array_equal(again.encode(SOURCE), BPE.encode(SOURCE))


def test_decoder_holds_back_incomplete_characters() -> None:
    decoder = Decoder(BPETokenizer.blank("gpt2"))
    tokens = BPETokenizer.blank("gpt2").encode("é👍").tolist()
    assert [decoder.push(t) for t in tokens] == ["", "é", "", "", "", "👍"]
    assert [decoder.push(tokens[0]), decoder.flush(), decoder.flush()] == ["", "\ufffd", ""]


def test_several_processes(tmp_path: Path) -> None:
    path = tmp_path / "text"
    text = (SOURCE + "<|endoftext|> é\r\n") * 4
    path.write_bytes(text.encode())
    pieces = list(encode_file(path, BPE, workers=2, block=40_000))
    assert len(pieces) > 4
    assert np.array_equal(np.concatenate(pieces), BPE.encode(text))
    chars = CharTokenizer(text)
    assert np.array_equal(np.concatenate(list(encode_file(path, chars, workers=1, block=999))), chars.encode(text))


def test_processes_of_a_script_without_a_guard(tmp_path: Path) -> None:
    """They would import the script, which would start processes again: an error before any work, not a line of it in
    each of them."""
    BPETokenizer.train(SOURCE, 4096).save(tmp_path / "tokenizer.json")
    (tmp_path / "text").write_text(SOURCE, encoding="utf-8")
    script = tmp_path / "script.py"
    script.write_text("from dualml.text import BPETokenizer, encode_file\n"
                      "print(list(encode_file('text', BPETokenizer.load('tokenizer.json'), workers=2)))\n")
    root = str(Path(__file__).resolve().parents[1])
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, env=dict(os.environ, PYTHONPATH=root),
                          timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert '[encode] workers must be 1 in this script, got 2' in done.stderr
    assert '`if __name__ == "__main__":`. Or give workers=1.' in done.stderr


def test_blocks_stay_small(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text(SOURCE * 5, encoding="utf-8")
    assert max(size for size, _ in read_blocks(path, BPE.safe_cut, 10_000)) < 12_000


@pytest.mark.parametrize(("content", "message"), [(b"ab\xff", "0xff at position 2"), (b"ok \xc3", "position 3")])
def test_a_file_that_is_no_text(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(encode_file(tmp_path / "x", BPE))


def test_empty_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    assert list(encode_file(tmp_path / "x", BPE)) == []
    with pytest.raises(DataError, match="cannot be read"):
        list(encode_file(tmp_path / "y", BPE))


def test_saving_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "no" / "t.json", tmp_path / "file" / "t.json"):
        with pytest.raises(DataError, match="cannot be written"):
            BPE.save(place)


@pytest.mark.parametrize(("special", "message"), [
    ([""], "got ''"), (["<a>", "<b>", "<a>"], "got '<a>' again"), (["a"], "got 'a'. Name it otherwise, such as <|a|>"),
    (["Ġof"], "got 'Ġof'")])
def test_special_tokens_that_cannot_be_told_apart(special: list[str], message: str) -> None:
    with pytest.raises(DataError, match=regex.escape(message)):
        BPETokenizer.train("of of of of", 270, special_tokens=special)


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b"\xff", b"{}", b'{"kind": "bpe"}', b'{"kind": "char"}', b'{"kind": "char", "characters": ["a"]}',
    b'{"kind": "char", "characters": ""}', b'{"kind": "char", "characters": "ab", "added": "c"}',
    b'{"kind": "char", "characters": "ab", "added": ["a"]}', b'{"kind": "char", "characters": "ab", "added": [1]}'])
def test_damaged_files_of_characters(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(DataError):
        CharTokenizer.load(tmp_path / "t.json")


@pytest.mark.parametrize("tokens", [[-1], [3], [0.5], ["a"]])
def test_characters_of_ids_that_are_none(tokens: list[Any]) -> None:
    with pytest.raises(DataError, match="tokens must be whole numbers"):
        CharTokenizer("abc").decode(tokens)


def test_command_line(tmp_path: Path) -> None:
    run = CliRunner()
    (tmp_path / "text").write_text(SOURCE, encoding="utf-8")
    file = str(tmp_path / "t.json")
    done = run.invoke(app, ["tokenizer", "train", str(tmp_path / "text"), "--vocab-size", "1000", "--out", file])
    assert done.exit_code == 0, done.output
    assert "1,000 tokens" in done.output
    assert BPETokenizer.load(file).vocab == BPE.vocab
    ids = run.invoke(app, ["tokenizer", "encode", "def f(é)", "--tokenizer", file]).output.split()
    assert list(map(int, ids)) == BPE.encode("def f(é)").tolist()
    assert run.invoke(app, ["tokenizer", "decode", *ids, "--tokenizer", file]).output == "def f(é)"
    shown = run.invoke(app, ["tokenizer", "show", "def f(👍\x1b[31m)\n", "--tokenizer", file]).output
    assert all(part in shown for part in ("def", "⏎", "tokens", "characters"))
    assert "\x1b[31m" not in shown
    assert isinstance(run.invoke(app, ["tokenizer", "decode", "99999", "--tokenizer", file]).exception, DataError)
    assert isinstance(run.invoke(app, ["tokenizer", "decode", "--tokenizer", file], input="x").exception,
                      DataError)
