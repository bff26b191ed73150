"""Byte-level BPE and WordPiece against Hugging Face's tokenizers, both ways, and files that are refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers as hf  # never skipped: without it there is no truth
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from dualml.errors import DataError
from dualml.text import BPETokenizer, WordPieceTokenizer, encode_file
from dualml.text.patterns import BYTE_TO_CHAR, GPT4, O200K, PATTERNS, QWEN

TEXTS = [
    "", " ", "  ", "\n", "\n\n\n  x", "a", " a", "it's IT'S don'T we'Ll '\u017f x'S",
    "hello world  foo   bar\t\tbaz\n\n  x",
    "x = foo(bar, 12345)  # 3.14e10\n\tdef f(self):\n        return 1\r\n\r\nend  ", "trailing   ",
    "tab\t x\n y\n  z \n\n",
    "日本語のテキスト、中文。 한국어 \u3000全角", "é e\u0301 A\u030a ﬁ ½ ² Ⅷ ١٢٣", "👨‍👩‍👧‍👦 🏳️‍🌈 👍🏽",
    "\x00\x01\x1c\x1d\x1f\x7f\x85\xa0\u180e\u200b\ufeff x",
    "<|endoftext|>", "a<|endoftext|>b  <|endoftext|>  c", "a <mask>  b<mask>", " tokWORD tok tok. TOK",
    "camelCaseHTTPServer's //x/\n/y",
    "1 2  3   4\n5 a1b2 12 345 6789", "aaaa" * 30, "()[]{}!!!???\n\n...  \n", "a\u2028b\u2029c\u202f d \u2003 e",
    "'s", " 's 'll", "Ünïcödé ÀÉÎ",
    "foo(bar) foo (bar)\n(x)\nx\n1\n'x\n  'y", "\U0001f600" * 20, "a  \n  \n  b", "word 1  2 a  1b   1\n 2",
]
LONG = " ".join(TEXTS) * 3 + "\n".join(TEXTS)
CORPUS = [*TEXTS, *(Path(p).read_text(encoding="utf-8") for p in sorted(Path(__file__).parent.glob("test_s*.py"))[:4])]


def split(pattern: str, behavior: str = "isolated", invert: bool = False) -> Any:
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(hf.Regex(pattern), behavior, invert),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


PRE = {
    "gpt2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "prefix": lambda: pre_tokenizers.ByteLevel(add_prefix_space=True),
    "gpt4": lambda: split(GPT4), "qwen": lambda: split(QWEN), "o200k": lambda: split(O200K),
    "removed": lambda: split(GPT4, "removed", True),
    "smollm": lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    "digits": lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=False),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    "own": lambda: split(r"[a-m]+|\d"),
    "whole": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    "prefix each": lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                    pre_tokenizers.ByteLevel(add_prefix_space=True)]),
}


def trained(pre: str = "gpt2", size: int = 700, **model: Any) -> Any:
    made = hf.Tokenizer(models.BPE(**model))
    made.pre_tokenizer = PRE[pre]()
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<|endoftext|>"],
        show_progress=False))
    return made


def same(theirs: Any, ours: BPETokenizer, add_special: bool = False) -> None:
    for text in [*TEXTS, LONG]:
        expected = theirs.encode(text, add_special_tokens=add_special).ids
        assert ours.encode(text, add_special=add_special).tolist() == expected, text[:80]


def load(theirs: Any) -> BPETokenizer:
    return BPETokenizer.from_dict({"tokenizer": json.loads(theirs.to_str())})


@pytest.mark.parametrize("pre", PRE)
def test_theirs_loads_here_and_back(pre: str, tmp_path: Path) -> None:
    theirs = trained(pre)
    ours = load(theirs)
    same(theirs, ours)
    ours.save(tmp_path / "tokenizer.json")
    same(hf.Tokenizer.from_file(str(tmp_path / "tokenizer.json")), ours)
    text = "x".join(TEXTS)
    if "prefix" not in pre:
        assert ours.decode(ours.encode(text)) == text


@pytest.mark.parametrize("pattern", PATTERNS)
def test_ours_loads_there(pattern: str, tmp_path: Path) -> None:
    ours = BPETokenizer.train(CORPUS, 600, pattern=pattern)
    ours.save(tmp_path / "t.json")
    theirs = hf.Tokenizer.from_file(str(tmp_path / "t.json"))
    same(theirs, ours)
    same(theirs, BPETokenizer.load(tmp_path / "t.json"))
    assert theirs.decode(ours.encode(LONG).tolist(), skip_special_tokens=False) == LONG


@pytest.mark.parametrize("pre", ["gpt2", "gpt4", "prefix", "own"])
def test_the_trainer_learns_the_same_merges(pre: str) -> None:
    from dualml.text.bpe_train import learn
    theirs = trained(pre, 900)
    saved = json.loads(theirs.to_str())
    _, merges = learn(CORPUS, 899, load(theirs).pre_tokenizer)
    assert merges == [tuple(m) for m in saved["model"]["merges"]]


def test_old_merges_options_and_flags() -> None:
    theirs = trained("gpt4", 700)
    theirs.normalizer = normalizers.NFC()
    theirs.add_tokens([hf.AddedToken("<mask>", lstrip=True, special=True), hf.AddedToken("tok", single_word=True),
                       hf.AddedToken("é e", normalized=True), hf.AddedToken("<r>", rstrip=True),
                       hf.AddedToken("TOK", normalized=False)])
    theirs.post_processor = processors.Sequence([processors.ByteLevel(), processors.TemplateProcessing(
        single="<|endoftext|> $A <mask>", special_tokens=[("<|endoftext|>", 0), ("<mask>", 700)])])
    same(theirs, load(theirs))
    same(theirs, load(theirs), add_special=True)
    old = json.loads(theirs.to_str())
    old["model"]["merges"] = [" ".join(m) for m in old["model"]["merges"]]
    del old["model"]["type"]
    same(theirs, BPETokenizer.from_dict({"tokenizer": old}))


@pytest.mark.parametrize("steps", [
    [normalizers.NFD()], [normalizers.NFKC(), normalizers.Lowercase()], [normalizers.Strip(), normalizers.NFKD()],
    [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()], [normalizers.Strip(True, False)],
    [normalizers.Replace("a", "e"), normalizers.Prepend("x ")]], ids=str)
@pytest.mark.parametrize("pre", ["gpt2", "gpt4", "prefix"])
def test_normalizers(steps: list[Any], pre: str, tmp_path: Path) -> None:
    theirs = trained(pre)
    theirs.normalizer = normalizers.Sequence(steps)
    theirs.add_tokens([hf.AddedToken("ÀÉ", normalized=True), hf.AddedToken("IT'S", normalized=False)])
    ours = load(theirs)
    same(theirs, ours)
    for text in ("ΟΔΟΣ ΣΑΣ Σ", "  x İI ﬁ²\u0301 ", "ÀÉ àé IT'S it's", "\u2003 a\u0300\u3000"):
        assert ours.encode(text).tolist() == theirs.encode(text).ids
    ours.save(tmp_path / "tokenizer.json")
    same(hf.Tokenizer.from_file(str(tmp_path / "tokenizer.json")), ours)
    assert ours.safe_cut(LONG.encode()) == 0


def test_added_tokens_that_normalization_takes_away() -> None:
    """They are nowhere, rather than between all characters, where Hugging Face cuts or panics."""
    theirs = trained("gpt2")
    theirs.normalizer = normalizers.Strip()
    plain = load(theirs)
    theirs.add_tokens([hf.AddedToken("  ", normalized=True)])
    for text in TEXTS:
        assert load(theirs).encode(text).tolist() == plain.encode(text).tolist()


def test_their_own_byte_level_class(tmp_path: Path) -> None:
    theirs = hf.ByteLevelBPETokenizer(lowercase=True, unicode_normalizer="nfkc", add_prefix_space=True)
    theirs.train_from_iterator(CORPUS, 500, show_progress=False)
    theirs.save(str(tmp_path / "tokenizer.json"))
    same(theirs, BPETokenizer.load(tmp_path / "tokenizer.json"))


def test_ignore_merges_and_odd_orders() -> None:
    """Vocabulary without merges, and a merge that needs what a later one makes."""
    vocab = {c: i for i, c in enumerate(BYTE_TO_CHAR)}
    for token in ("ab", "abc", "bc", "aba", "cab", "Ġhello", "Ġworld"):
        vocab[token] = len(vocab)
    merges = [("ab", "a"), ("b", "c"), ("a", "b"), ("a", "bc"), ("c", "ab"), ("ab", "c")]
    for ignore in (False, True):
        theirs = hf.Tokenizer(models.BPE(vocab, merges, ignore_merges=ignore))
        theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        ours = load(theirs)
        for text in ("abab", "ababcab", " hello world", "cababab" * 20, "abcabc", "aabbcc"):
            assert ours.encode(text).tolist() == theirs.encode(text).ids


def bert(lower: bool = True, strip: bool | None = None) -> Any:
    made = hf.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=lower, strip_accents=strip)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(CORPUS[:-1], trainers.WordPieceTrainer(vocab_size=500, special_tokens=special,
                                                                    show_progress=False))
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]",
    special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    made.decoder = hf.decoders.WordPiece()
    return made


@pytest.mark.parametrize(("lower", "strip"), [(True, None), (False, None), (True, False), (False, True)])
def test_wordpiece(lower: bool, strip: bool | None) -> None:
    theirs = bert(lower, strip)
    ours = WordPieceTokenizer(json.loads(theirs.to_str()))
    again = WordPieceTokenizer.from_dict(json.loads(json.dumps(ours.to_dict())))
    for text in [*TEXTS, LONG, "a [MASK] b[MASK]c", "ΑΣ İstanbul ẞ ŉ", "x" * 150, "Don't do not, it 's."]:
        ids = theirs.encode(text).ids
        assert ours.encode(text).tolist() == again.encode(text).tolist() == ids, text[:80]
        assert ours.encode(text, add_special=False).tolist() == theirs.encode(text, add_special_tokens=False).ids
        assert ours.decode(ids) == theirs.decode(ids)


@pytest.mark.parametrize("pre", ["gpt2", "prefix", "gpt4", "qwen", "o200k", "smollm", "own"])
def test_a_file_in_blocks_is_the_whole(pre: str, tmp_path: Path) -> None:
    ours = load(trained(pre))
    path = tmp_path / "text"
    text = "".join(CORPUS) + LONG
    path.write_bytes(text.encode())
    for block in (5, 17, 1000, 40_000):
        seen: list[tuple[int, int]] = []
        pieces = list(encode_file(path, ours, workers=1, block=block, progress=lambda *p, s=seen: s.append(p)))
        assert np.array_equal(np.concatenate(pieces), ours.encode(text))
        assert seen[-1] == (path.stat().st_size,) * 2
        if pre not in ("own", "prefix"):
            assert len(pieces) > len(text) / block / 20


BASE: dict[str, Any] = {"model": {"type": "BPE", "vocab": {c: i for i, c in enumerate(BYTE_TO_CHAR)} | {"ab": 256},
              "merges": [["a", "b"]]},
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}, "added_tokens": []}


def change(path: str, value: Any) -> Any:
    """The sound file with one value changed."""
    made = copy.deepcopy(BASE)
    *keys, last = path.split(".")
    place: Any = made
    for key in keys:
        place = place[key]
    place[last] = value
    return made


def _models() -> dict[str, Any]:
    return {"null": None, "list": [], "text": "x", "no model": {}, "model list": change("model", []),
            "unigram": change("model.type", "Unigram"), "vocab list": change("model.vocab", []),
            "vocab empty": change("model.vocab", {}) , "vocab float": change("model.vocab.a", 1.5),
            "vocab bool": change("model.vocab.a", True), "vocab text": change("model.vocab.a", "1"),
            "vocab null": change("model.vocab.a", None), "negative": change("model.vocab.ab", -1),
            "hole": change("model.vocab.ab", 300), "huge id": change("model.vocab.ab", 10**30),
            "duplicate id": change("model.vocab.ab", 5), "big id": change("model.vocab.ab", 2**31),
            "merges object": change("model.merges", {}), "merges missing": change("model.merges", None),
            "merge of one": change("model.merges", ["a"]), "merge of three": change("model.merges", ["a b c"]),
            "merge number": change("model.merges", [1]), "merge of numbers": change("model.merges", [[1, 2]]),
            "merge empty": change("model.merges", [["", "ab"]]), "merge absent": change("model.merges", [["zz", "b"]]),
            "merge result absent": change("model.merges", [["a", "c"]]), "self merge": change("model.merges", [["ab",
            "ab"]]),
            "dropout": change("model.dropout", 0.1), "prefix": change("model.continuing_subword_prefix", "##"),
            "suffix": change("model.end_of_word_suffix", "</w>"), "byte fallback": change("model.byte_fallback", True),
            "ignore_merges": change("model.ignore_merges", "yes")}


def _parts() -> dict[str, Any]:
    vocab = BASE["model"]["vocab"]
    deep: Any = {"type": "ByteLevel"}
    for _ in range(50):
        deep = {"type": "Sequence", "pretokenizers": [deep]}
    token = {"id": 257, "content": "<x>", "special": True}
    return {"normalizer": change("normalizer", {"type": "Precompiled"}),
            "strip": change("normalizer", {"type": "Strip", "strip_left": 1}),
            "normalizer text": change("normalizer", "NFC"), "no pre-tokenizer": change("pre_tokenizer", None),
            "metaspace": change("pre_tokenizer", {"type": "Metaspace"}), "deep": change("pre_tokenizer", deep),
            "pre list": change("pre_tokenizer", [1]),
            "sequence of nothing": change("pre_tokenizer", {"type": "Sequence"}),
            "bad flag": change("pre_tokenizer.use_regex", 1),
            "bad regex": change("pre_tokenizer", {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "(["}, "behavior": "Isolated"}, {"type": "ByteLevel"}]}),
            "bad behavior": change("pre_tokenizer", {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "x"}, "behavior": "MergedWithNext"}, {"type": "ByteLevel"}]}),
            "pattern list": change("pre_tokenizer", {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": [], "behavior": "Isolated"}, {"type": "ByteLevel"}]}),
            "added object": change("added_tokens", {}), "added number": change("added_tokens", [1]),
            "added id": change("added_tokens", [token | {"id": "1"}]),
            "added hole": change("added_tokens", [token | {"id": 999}]),
            "added negative": change("added_tokens", [token | {"id": -1}]),
            "added empty": change("added_tokens", [token | {"content": ""}]),
            "added flag": change("added_tokens", [token | {"lstrip": 1}]),
            "added taken": change("added_tokens", [token | {"id": 5}]),
            "added twice": change("added_tokens", [token, token | {"id": 258}]),
            "added other id": change("added_tokens", [token | {"content": "ab"}]),
            "post": change("post_processor", {"type": "Own"}), "post list": change("post_processor", []),
            "template": change("post_processor", {"type": "TemplateProcessing", "single": [1]}),
            "template without text": change("post_processor", {"type": "TemplateProcessing", "single": []}),
            "template id": change("post_processor", {"type": "TemplateProcessing", "single": [
                {"SpecialToken": {"id": "x"}}, {"Sequence": {}}], "special_tokens": {"x": {"ids": [-5]}}}),
            "template outside": change("post_processor", {"type": "TemplateProcessing", "single": [
                {"SpecialToken": {"id": "x"}}, {"Sequence": {}}], "special_tokens": {"x": {"ids": [5000]}}}),
            "roberta": change("post_processor", {"type": "RobertaProcessing"}),
            "surrogate": change("model.vocab", vocab | {"\ud800": 400})}


BROKEN = _models() | _parts()


@pytest.mark.parametrize("name", BROKEN)
def test_a_damaged_or_unsupported_file_is_refused(name: str) -> None:
    with pytest.raises(DataError):
        BPETokenizer.from_dict({"tokenizer": BROKEN[name]})
    with pytest.raises(DataError):
        WordPieceTokenizer(BROKEN[name])


FILES = [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"NaN", b"9" * 5000, b"\x80\x04pickle"]


@pytest.mark.parametrize("content", FILES, ids=range(len(FILES)))
def test_a_file_that_is_no_tokenizer(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(DataError):
        BPETokenizer.load(tmp_path / "t.json")


def test_hostile_files_are_counted() -> None:
    assert len(BROKEN) + len(FILES) >= 65
    with pytest.raises(DataError, match="cannot be read"):
        BPETokenizer.load("/nowhere/t.json")
