"""Tokenizers of the SentencePiece kind against Hugging Face's tokenizers: ids, text, streams; files to refuse."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import textwrap
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers as hf  # never skipped: without it there is no truth
from hypothesis import given, settings, strategies as st
from tokenizers import models, pre_tokenizers, trainers

from dualml.errors import DataError
from dualml.text import (
    Decoder,
    SentencePieceTokenizer,
    WordPieceTokenizer,
    decode_stream,
    encode_file,
    load_tokenizer,
    load_tokenizer_json,
    read_tokenizer,
)

MARK = "\u2581"
TEXTS = [
    "", " ", "  ", " " * 17, "\n", "\n\n\n  x", "a", " a", "  a", "a ", "a  b   c    d ", "trailing   ", "\t",
    "hello world  foo   bar\t\tbaz\n\n  x", "def f(self):\n        return 1\r\n\r\nend  ", "it's IT'S", "a b",
    "日本語のテキスト、中文。 한국어 \u3000全角", "é e\u0301 A\u030a ﬁ ½ ² Ⅷ ١٢٣", "👨‍👩‍👧‍👦 🏳️‍🌈 👍🏽",
    "\x00\x01\x1c\x7f\x85\xa0\u180e\u200b\ufeff x \x00", MARK, f"a{MARK}b", f" {MARK} {MARK}{MARK}x", "<0x41>",
    " \t x\ny ", "<0x0A> <0xZZ>", "x" * 70, "\U0001f600" * 20, "aaaa" * 30, "tok tokx xtok tok.", "<s",
    "ab<mask>  c  <mask>", "<s>", "</s>", "<s>a", "a<s>", " <s> a </s> ", "<s><s>  x</s>\n", "<s> ", "<unk>",
    "a <unk>b", " <mask>", "<late>", "a <late> b<late>c", "<s><late>", "x<s> <late>", "<right>  a <right>\n b",
]
SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
CORPUS = [inspect.getsource(module) for module in (textwrap, json.decoder)] + TEXTS[:24] * 3


@cache
def learned(split: bool, size: int = 700) -> list[tuple[str, str]]:
    """Merges of words that begin with a mark, or of whole lines, whose tokens have marks inside too."""
    made = hf.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Metaspace(split=split)
    lines = [line for text in CORPUS for line in text.splitlines()]
    alphabet = [MARK, *map(chr, range(33, 127))]
    made.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=size, show_progress=False, limit_alphabet=110,
                                                        initial_alphabet=alphabet))
    merges = [tuple(pair) for pair in json.loads(made.to_str())["model"]["merges"]]
    runs = [(MARK, MARK), (MARK * 2, MARK * 2), (MARK * 4, MARK * 4)]
    return merges + [run for run in runs if run not in merges]


def content(normalizer: Any, pre: Any, *, split: bool = True, fallback: bool = True, **model: Any) -> dict[str, Any]:
    """A file as Llama 2 has it, with other parts."""
    merges = learned(split)
    whole = [left + right for left, right in merges]
    single = sorted({char for token in whole for char in token} | {MARK, "\n", *map(chr, range(33, 127))})
    tokens = dict.fromkeys([*SPECIAL, *(BYTES if fallback else []), *single, *whole])
    return {"version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [added(i, text) for i, text in enumerate(SPECIAL)],
            "normalizer": normalizer, "pre_tokenizer": pre, "post_processor": BOS, "decoder": decoder(),
            "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": fallback,
                      "vocab": {token: i for i, token in enumerate(tokens)},
                      "merges": [" ".join(pair) for pair in merges]} | model}


def added(number: int, text: str, **flags: bool) -> dict[str, Any]:
    return {"id": number, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True} | flags


def decoder(strip: bool = True) -> dict[str, Any]:
    return {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": MARK}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if strip else [])]}


def metaspace(scheme: str, split: bool) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": MARK, "prepend_scheme": scheme, "split": split}


BOS = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                                                {"Sequence": {"id": "A", "type_id": 0}}],
       "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
       "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
PREPEND = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": MARK}, REPLACE]}
SPACES = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}


def more_tokens(made: dict[str, Any]) -> dict[str, Any]:
    """With added tokens of every flag, found in the text as it is or as it is normalized."""
    n = len(made["model"]["vocab"])
    flags: list[tuple[str, dict[str, bool]]] = [
        ("<mask>", {"lstrip": True}), ("<right>", {"rstrip": True}), ("<late>", {"normalized": True, "special": False}),
        ("tok", {"single_word": True, "special": False}), ("xx x", {"normalized": True, "special": False}),
        ("<both>", {"lstrip": True, "rstrip": True, "normalized": True, "special": False})]
    made["added_tokens"] += [added(n + i, text, **given) for i, (text, given) in enumerate(flags)]
    return made


def without_runs(made: dict[str, Any]) -> dict[str, Any]:
    """Decoded by Metaspace, which is for tokens with one mark at most."""
    model = made["model"]
    model["merges"] = [pair for pair in model["merges"] if pair.count(MARK) < 2]
    kept = [token for token in model["vocab"] if token.count(MARK) < 2]
    return made | {"decoder": metaspace("always", True),
                   "model": model | {"vocab": {token: i for i, token in enumerate(kept)}}}


def unmerged(made: dict[str, Any]) -> dict[str, Any]:
    """With tokens that no merge makes: only a whole text may be one of them."""
    vocab = made["model"]["vocab"]
    for token in (f"{MARK}a{MARK}b", f"{MARK}a", f"{MARK}b", "<late>", f"{MARK}{MARK}a"):
        vocab.setdefault(token, len(vocab))
    return made


MAKERS = {
    "llama": lambda: content(PREPEND, None),
    "llama lines": lambda: content(PREPEND, None, split=False),
    "llama tokens": lambda: more_tokens(content(PREPEND, None)),
    "llama normalized": lambda: content(PREPEND, None) | {
        "added_tokens": [added(i, text, normalized=True) for i, text in enumerate(SPECIAL)]},
    "gemma": lambda: content(REPLACE, SPACES) | {"decoder": decoder(strip=False)},
    "spaces": lambda: content(None, SPACES),
    "ignore merges": lambda: unmerged(content(PREPEND, None, ignore_merges=True)),
    "ignore merges, words": lambda: content(None, metaspace("first", True), ignore_merges=True),
    "metaspace tokens": lambda: more_tokens(content(None, metaspace("first", False))),
    "unknown": lambda: content(PREPEND, None, fallback=False),
    "unknown, each": lambda: content(None, metaspace("always", True), fallback=False, fuse_unk=False),
    "unknown, lines": lambda: content(None, metaspace("first", False), fallback=False, split=False),
    "nfkc": lambda: without_runs(content({"type": "NFKC"}, metaspace("always", True), fallback=False)),
    "no mark": lambda: content(REPLACE, None, fallback=False) | {"model": {
        "unk_token": "<unk>", "fuse_unk": True, "vocab": dict(zip([*SPECIAL, "a", "x", "ax"], range(6), strict=True)),
        "merges": ["a x"]}},
    "unknown character": lambda: content(PREPEND, None, fallback=False, unk_token="?"),
} | {f"metaspace {scheme} {split}": lambda scheme=scheme, split=split: content(
        None, metaspace(scheme, split)) | {"decoder": decoder(strip=scheme != "never")}
     for scheme in ("always", "first", "never") for split in (True, False)}


@cache
def pair(name: str) -> tuple[Any, SentencePieceTokenizer]:
    made = MAKERS[name]()
    return hf.Tokenizer.from_str(json.dumps(made)), SentencePieceTokenizer(copy.deepcopy(made))


def same(theirs: Any, ours: SentencePieceTokenizer, text: str) -> None:
    """Ids, with and without <s>, and what they decode to, at once and as a stream."""
    ids = theirs.encode(text, add_special_tokens=False).ids
    assert ours.encode(text).tolist() == ids, text[:80]
    begun = ours.encode(text, add_special=True).tolist()
    assert begun == theirs.encode(text).ids, text[:80]
    special = {token.id: token.normalized for token in ours.added if token.special}
    for listed in (ids, begun):
        kept = [token for token in listed if token not in special]
        for skip in (True, False):
            decoded = theirs.decode(kept if skip else listed, skip_special_tokens=False)
            assert ours.decode(listed, skip) == decoded, text[:80]
            assert "".join(decode_stream(ours, listed, skip)) == decoded, text[:80]
            if skip and not any(special.values()):  # which tokenizers 0.23 does not skip
                assert theirs.decode(listed) == decoded


@pytest.mark.parametrize("name", MAKERS)
def test_as_theirs(name: str) -> None:
    theirs, ours = pair(name)
    for text in [*TEXTS, "".join(TEXTS), " ".join(TEXTS), CORPUS[0]]:
        same(theirs, ours, text)


PIECES = st.lists(st.sampled_from([
    " ", "  ", "\n", MARK, "<s>", "</s>", "<unk>", "<mask>", "<right>", "<late>", "<both>", "tok", "xx x", "a", "the",
    "x", ".", "é", "漢", "👍", "\u0301", "<0x41>", "?", "ﬁ", "self", "return", "\x00", "\xa0",
    "\u2028"]), max_size=14).map("".join)


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=30) | PIECES)
def test_any_text_as_theirs(name: str, text: str) -> None:
    same(*pair(name), text)


@settings(max_examples=300, deadline=None)
@given(tokens=st.lists(st.integers(0, 300) | st.sampled_from([3 + b for b in "\u00e9\u6f22\U0001f44d ".encode()]),
                       max_size=20))
def test_a_stream_is_the_whole(tokens: list[int]) -> None:
    """Of any ids, byte tokens in any order among them, and none of its pieces is a part of a character."""
    _, ours = pair("llama")
    whole = ours.decode(tokens)
    assert "".join(decode_stream(ours, tokens)) == whole
    assert "".join(decode_stream(ours, tokens, begin=False)) == ours.decode_bytes(tokens).decode("utf-8", "replace")
    assert b"".join(ours.decode_bytes([token]) for token in tokens) == ours.decode_bytes(tokens)


def test_characters_come_whole() -> None:
    _, ours = pair("llama")
    text = "a \u6f22\U0001f44d\u00e9 b"
    pieces = list(decode_stream(ours, ours.encode(text).tolist()))
    assert "".join(pieces) == text
    assert [piece for piece in pieces if not piece.isascii()] == ["\u6f22", "\U0001f44d", "\u00e9"]
    decoder = Decoder(ours)
    begun = [decoder.push(token) for token in ours.encode("\U0001f44d")[:-1].tolist()]
    assert (begun, decoder.flush()) == (["", "", "", ""], "\ufffd")
    assert "".join(decode_stream(ours, ours.encode("the x").tolist(), begin=False)) == " the x"


def test_what_strangers_write_is_text() -> None:
    theirs, ours = pair("llama")
    text = "a</s> <s>b"
    ids = ours.encode(text, allowed_special="none")
    assert not {0, 1, 2} & {*ids.tolist()}
    assert ours.decode(ids, skip_special=True) == text
    theirs.encode_special_tokens = True
    assert ids.tolist() == theirs.encode(text, add_special_tokens=False).ids
    theirs.encode_special_tokens = False
    assert ours.encode(text, {"</s>"}).tolist().count(2) == 1
    assert (ours.special_tokens, ours.end_of_text) == ({"<unk>": 0, "<s>": 1, "</s>": 2}, 2)
    with pytest.raises(DataError, match="allowed_special must be 'all', 'none' or names of special tokens"):
        ours.encode(text, "<x>")
    with pytest.raises(DataError, match=r"lone surrogate '\\ud800' at position 1"):
        ours.encode("a\ud800")
    with pytest.raises(DataError, match="whole numbers in"):
        ours.decode([ours.vocab_size])


@pytest.mark.parametrize("name", MAKERS)
def test_saved_and_read_again(name: str, tmp_path: Path) -> None:
    ours = pair(name)[1]
    ours.save(tmp_path / "tokenizer.json")
    again = load_tokenizer_json(tmp_path / "tokenizer.json")
    assert isinstance(again, SentencePieceTokenizer)
    others = [again, pickle.loads(pickle.dumps(ours)), load_tokenizer(json.loads(json.dumps(ours.to_dict())))]
    back = hf.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("".join(TEXTS), *TEXTS[:12]):
        ids = ours.encode(text).tolist()
        assert all(other.encode(text).tolist() == ids for other in others)
        assert back.encode(text, add_special_tokens=False).ids == ids
        assert all(other.decode(ids) == ours.decode(ids) == back.decode(ids, False) for other in others)
    (tmp_path / "text").write_text("".join(TEXTS), encoding="utf-8", newline="")
    whole = np.concatenate(list(encode_file(tmp_path / "text", ours, workers=1, block=50)))
    assert whole.tolist() == ours.encode("".join(TEXTS)).tolist()
    with pytest.raises(DataError, match="must be of byte-level BPE for data and training"):
        read_tokenizer(tmp_path / "tokenizer.json")


LONG = {"spaces": " " * 100_000, "a letter": "a" * 100_000, "bytes": "\u6f22\u5b57" * 50_000, "lines": "\n" * 100_000,
        "words": "the self x " * 9_100, "no spaces": "abcdefgh.xyz" * 8_400}


@pytest.mark.parametrize("name", ["llama", "llama lines", "metaspace first True", "ignore merges"])
def test_long_texts(name: str) -> None:
    theirs, ours = pair(name)
    for text in LONG.values():
        start = time.perf_counter()
        ids = ours.encode(text)
        assert time.perf_counter() - start < 20  # about 0.4; what is quadratic takes minutes
        assert ids.tolist() == theirs.encode(text, add_special_tokens=False).ids
        assert ours.decode(ids) == theirs.decode(ids.tolist(), skip_special_tokens=False)


def test_old_and_odd_forms() -> None:
    """Metaspace as older files have it, pairs of a list, a pair that is there twice, merges of byte tokens."""
    made = content(None, {"type": "Metaspace", "replacement": MARK, "str_rep": MARK, "add_prefix_space": True})
    del made["model"]["type"]
    vocab, merges = made["model"]["vocab"], [pair.split(" ") for pair in made["model"]["merges"]]
    vocab["<0xE2><0x96>"] = len(vocab)
    vocab[f"<0x82>{MARK}"] = len(vocab)
    made["model"]["merges"] = [*merges, ["<0xE2>", "<0x96>"], ["<0x82>", MARK], *merges[:40]]
    theirs, ours = hf.Tokenizer.from_str(json.dumps(made)), SentencePieceTokenizer(made)
    for text in [*TEXTS, CORPUS[0], "\u2582 \u2582"]:
        assert ours.encode(text).tolist() == theirs.encode(text, add_special_tokens=False).ids
    whole = made | {"pre_tokenizer": None, "normalizer": PREPEND}
    theirs, ours = hf.Tokenizer.from_str(json.dumps(whole)), SentencePieceTokenizer(whole)
    for text in [*TEXTS, "\u2582 \u2582 x"]:
        assert ours.encode(text).tolist() == theirs.encode(text, add_special_tokens=False).ids


def change(path: str, value: Any) -> Any:
    """Llama's file with one value changed; DELETE takes it out."""
    made = copy.deepcopy(content(PREPEND, None))
    *keys, last = path.split("/")
    place: Any = made
    for key in keys:
        place = place[int(key)] if isinstance(place, list) else place[key]
    place[last] = value
    if value is DELETE:
        del place[last]
    return made


def deep(part: str, depth: int) -> Any:
    made: Any = {"type": "Fuse"}
    for _ in range(depth):
        made = {"type": "Sequence", part: [made]}
    return made


def steps(*found: Any) -> dict[str, Any]:
    return {"type": "Sequence", "decoders": list(found)}


DELETE = object()
MODEL: dict[str, Any] = content(PREPEND, None)["model"]
RENAMED = {token if token != "<0x41>" else "\u6f22 other": number for token, number in MODEL["vocab"].items()}
FALLBACK = {"type": "ByteFallback"}
DAMAGED: dict[str, tuple[str, Any, str]] = {
    "unigram": ("model/type", "Unigram", "model.type Unigram .* not supported"),
    "dropout": ("model/dropout", 0.1, "dropout of the model must be empty"),
    "suffix": ("model/end_of_word_suffix", "</w>", "end_of_word_suffix of the model must be empty"),
    "flag": ("model/byte_fallback", 1, "byte_fallback must be true or false"),
    "byte missing": ("model/vocab", RENAMED, "needs the tokens <0x00> to <0xFF>, but <0x41> and 0 more"),
    "no unknown": ("model", MODEL | {"byte_fallback": False, "unk_token": None}, "unk_token must be in the vocabulary"),
    "unknown absent": ("model", MODEL | {"byte_fallback": False, "unk_token": "<u>"}, "unk_token must be in"),
    "vocab": ("model/vocab", [], "vocab must be an object"),
    "vocab missing": ("model/vocab", DELETE, "vocab must be an object"),
    "id text": ("model/vocab/a", "1", "an id must be a whole number"),
    "id twice": ("model/vocab/a", 5, "each token must have its own id, got 5"),
    "huge id": ("model/vocab/a", 10**9, "an id must be a whole number"),
    "hole": ("model/vocab/a", 5000, "without a hole"),
    "merges": ("model/merges", "a b", "merges must be a list"),
    "merge of three": ("model/merges", ["a b c"], "merge 0 must be a pair of tokens"),
    "merge absent": ("model/merges", [["a", "\u6f22"]], "merge 0 must be of tokens in the vocabulary"),
    "merge result": ("model/merges", [["\n", "a"]], "merge 0 must be of tokens in the vocabulary"),
    "merge number": ("model/merges", [7], "merge 0 must be a pair"),
    "post id": ("post_processor/special_tokens/<s>/ids", [99_999], "post_processor must name ids below"),
    "post kind": ("post_processor", {"type": "Own"}, "post_processor 'Own' is not supported"),
    "added": ("added_tokens/0/content", "other", "must have an id of its own"),
    "normalizer": ("normalizer", {"type": "Precompiled"}, "normalizer 'Precompiled' is not supported .* Supported"),
    "normalizer text": ("normalizer", "NFC", "normalizer must be an object with a type"),
    "prepend": ("normalizer", {"type": "Prepend"}, "prepend must be a text of at most 64"),
    "long prepend": ("normalizer", {"type": "Prepend", "prepend": "x" * 65}, "prepend must be a text of at most 64"),
    "longer": ("normalizer", REPLACE | {"content": "xx"}, "content must not be longer than its pattern"),
    "nothing": ("normalizer", REPLACE | {"pattern": {"String": ""}, "content": ""}, "must not be longer"),
    "expression": ("normalizer", REPLACE | {"pattern": {"Regex": " +"}}, "pattern must be a String, got .*Regex"),
    "many": ("normalizer", {"type": "Sequence", "normalizers": [REPLACE] * 65}, "a list of at most 64 steps"),
    "no list": ("normalizer", {"type": "Sequence"}, "normalizers must be a list"),
    "deep": ("normalizer", deep("normalizers", 300), "at most 8 deep"),
    "pre": ("pre_tokenizer", {"type": "Whitespace"}, "pre_tokenizer 'Whitespace' is not supported"),
    "two": ("pre_tokenizer", {"type": "Sequence", "pretokenizers": [SPACES, SPACES]}, "'Split and Split' is not"),
    "split": ("pre_tokenizer", SPACES | {"behavior": "Removed"}, "Split must be at ' '"),
    "mark": ("pre_tokenizer", metaspace("first", True) | {"replacement": "]"}, "replacement must be one character"),
    "scheme": ("pre_tokenizer", metaspace("last", True), "prepend_scheme must be always, first or never, got 'last'"),
    "prefix": ("pre_tokenizer", metaspace("first", True) | {"add_prefix_space": False}, "add_prefix_space must be"),
    "split flag": ("pre_tokenizer", metaspace("first", 1), "split must be true or false"),  # type: ignore[arg-type]
    "no decoder": ("decoder", None, "decoder 'none' is not supported"),
    "decoder": ("decoder", {"type": "CTC"}, "decoder 'CTC' is not supported"),
    "order": ("decoder", steps({"type": "Fuse"}, FALLBACK), "decoder 'Fuse and ByteFallback' is not supported"),
    "strip each": ("decoder", steps(decoder()["decoders"][-1]), "decoder 'Strip' is not"),
    "strip": ("decoder", steps({"type": "Fuse"}, decoder()["decoders"][-1] | {"stop": 1}), "Strip must take one"),
    "marks inside": ("decoder", metaspace("always", True), "decoder Metaspace is supported where"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_refused_by_name(name: str) -> None:
    path, value, message = DAMAGED[name]
    with pytest.raises(DataError, match=message):
        SentencePieceTokenizer(change(path, value))


def test_no_file_of_this_kind(tmp_path: Path) -> None:
    for wrong in (None, [], {}, {"model": []}, {"model": None}):
        with pytest.raises(DataError):
            SentencePieceTokenizer(wrong)
    file = tmp_path / "tokenizer.json"
    for damaged in ("", "{", "[" * 100_000, '{"model": ' * 900 + "1" + "}" * 900, '{"model": {"byte_fallback": true}}'):
        file.write_text(damaged)
        with pytest.raises(DataError):
            load_tokenizer_json(file)
    file.write_text(json.dumps({"model": {"type": "WordPiece", "vocab": {"[UNK]": 0}}, "normalizer": {
        "type": "BertNormalizer"}, "pre_tokenizer": {"type": "BertPreTokenizer"}}))
    assert isinstance(load_tokenizer_json(file), WordPieceTokenizer)
