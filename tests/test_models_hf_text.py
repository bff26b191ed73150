"""From text to vectors and tokens: model and tokenizer of one folder, against transformers' own pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import dualml as dm
from dualml.cli.main import app
from dualml.errors import CheckpointError, DataError
from dualml.models import from_pretrained, save_pretrained
from dualml.text import BPETokenizer, CharTokenizer, WordPieceTokenizer
from tests import hf_models
from tests.hf_models import theirs

torch, transformers = hf_models.torch, hf_models.transformers
TEXTS = ["The cat sat.", "A dog, a cat and the dog!", "", "sat sat sat sat sat sat sat", "Unknown w\u00f6rds; the cat"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "a", "dog", "and", ".", ",", "!", "##s", "c", "##at"]
WORDPIECE: dict[str, Any] = {
    "version": "1.0", "truncation": None, "padding": None,
    "added_tokens": [{"id": i, "content": WORDS[i], "single_word": False, "lstrip": False, "rstrip": False,
                      "normalized": False, "special": True} for i in range(4)],
    "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                   "lowercase": True},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {"type": "TemplateProcessing",
                       "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                                  {"Sequence": {"id": "A", "type_id": 0}},
                                  {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
                       "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                       "special_tokens": {t: {"id": t, "ids": [WORDS.index(t)], "tokens": [t]}
                                          for t in ("[CLS]", "[SEP]")}},
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
              "max_input_chars_per_word": 100, "vocab": {w: i for i, w in enumerate(WORDS)}}}
pytestmark = [pytest.mark.usefixtures("cpu"), pytest.mark.xdist_group("transformers")]


@pytest.fixture
def minilm(tmp_path: Path) -> Path:
    """A folder as sentence-transformers writes it."""
    path = tmp_path / "minilm"
    theirs("bert").save_pretrained(path)
    (path / "tokenizer.json").write_text(json.dumps(WORDPIECE))
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text(json.dumps(
        {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}))
    (path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 9, "do_lower_case": False}))
    return path


def embeddings(path: Path) -> np.ndarray:
    """transformers' way: a padded batch, a mask, the mean of what counts."""
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path / "tokenizer.json"), pad_token="[PAD]")
    batch = tokenizer(TEXTS, padding=True, truncation=True, max_length=9, return_tensors="pt")
    with torch.no_grad():
        x = theirs("bert")(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    kept = batch["attention_mask"][..., None]
    mean = ((x * kept).sum(1) / kept.sum(1)).numpy()
    unit: np.ndarray = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return unit


def test_sentences(minilm: Path, tmp_path: Path) -> None:
    model, tokenizer = from_pretrained(minilm)
    assert isinstance(tokenizer, WordPieceTokenizer)
    assert (model.config.longest, model.config.pooling) == (9, "mean")
    np.testing.assert_allclose(model.encode(TEXTS), embeddings(minilm), atol=1e-5)
    again, _ = from_pretrained(save_pretrained(model, tmp_path / "again", tokenizer))
    np.testing.assert_allclose(again.encode(TEXTS[:2]), model.encode(TEXTS[:2]), atol=1e-6)
    bare, _ = from_pretrained(minilm, tokenizer=False)
    with pytest.raises(DataError, match="this model has no tokenizer"):
        bare.encode(["text"])
    with pytest.raises(DataError, match=r"a text must be of tokens from 0 to 95, at least one, got \[96\]"):
        bare.encode([[96]])


def test_pooling(minilm: Path) -> None:
    tokens = [[2, 4, 5, 3]]
    settings = minilm / "1_Pooling" / "config.json"
    settings.write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    with torch.no_grad():
        first = theirs("bert")(torch.tensor(tokens)).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(from_pretrained(minilm)[0].encode(tokens, normalize=False), first, atol=1e-5)
    both = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
    for wrong in ({"pooling_mode_max_tokens": True}, both):
        settings.write_text(json.dumps(wrong))
        with pytest.raises(CheckpointError, match=r"must choose one of pooling_mode_mean_tokens, pooling_mode_cls_to"):
            from_pretrained(minilm)


def test_text_through_a_decoder(tmp_path: Path) -> None:
    """Our tokenizer, our files: transformers reads both, and writes the same text."""
    tokenizer = BPETokenizer.train("the cat sat on the mat and the dog sat on the cat. " * 3, 290)
    config = dm.models.LlamaConfig(tokenizer.vocab_size, 32, 1, 2, 1, 16, 24)
    path = save_pretrained(dm.models.Llama(config), tmp_path / "model", tokenizer)
    model, back = from_pretrained(path)
    other = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path / "tokenizer.json"))
    prompt = "the dog and the cat"
    ids = back.encode(prompt)
    assert ids.tolist() == tokenizer.encode(prompt).tolist() == other(prompt)["input_ids"]
    there = transformers.AutoModelForCausalLM.from_pretrained(path).eval()
    with torch.no_grad():
        want = there(torch.tensor(ids[None], dtype=torch.long)).logits.numpy()
        got = model(dm.tensor(ids[None]))[0].detach().numpy()
    assert np.abs(got - want).max() < 1e-5


def test_sample_command(minilm: Path, tmp_path: Path) -> None:
    def run(*arguments: Any) -> str:
        result = CliRunner().invoke(app, ["sample", "--backend", "cpu", *map(str, arguments)])
        if result.exception is not None:
            raise result.exception
        return result.stdout

    tokenizer = BPETokenizer.train("the cat sat on the mat and the dog sat on the cat. " * 3, 290)
    dm.manual_seed(0)
    model = dm.models.Llama(dm.models.LlamaConfig(tokenizer.vocab_size, 32, 1, 2, 1, 16, 24))
    path = save_pretrained(model, tmp_path / "model", tokenizer)
    begin = tokenizer.encode("the dog")
    wanted = model.generate(begin, 12, temperature=0)
    arguments = ("--model", path, "--prompt", "the dog", "--tokens", 12, "--temperature", 0)
    assert run(*arguments) == "the dog" + tokenizer.decode(wanted, skip_special=True) + "\n"
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"eos_token_id": [wanted[3]]}))
    shown = tokenizer.decode(wanted[:wanted.index(wanted[3])], skip_special=True)
    assert run(*arguments) == f"the dog{shown}\n"
    for wrong, message in ((("--model", minilm), "must be a model that writes text, got a Bert"),
                           (("--model", path, "--step", 3), "cannot be combined with --out or --step")):
        with pytest.raises(DataError, match=message):
            run(*wrong)
    (path / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"has no tokenizer\.json"):
        run(*arguments)


def test_tokenizers_that_do_not_fit(minilm: Path, tmp_path: Path) -> None:
    kept = json.loads((minilm / "tokenizer.json").read_text())
    for content, message in (
            (kept | {"normalizer": {"type": "Lowercase"}}, r"normalizer must be BertNormalizer.*tokenizer=False"),
            (kept | {"model": {"type": "Unigram"}}, r"model must be BPE, got 'Unigram'.*tokenizer=False"),
            (kept | {"model": kept["model"] | {"vocab": {f"{w}{i}" if i > 15 else w: i for i, w in
                                                        enumerate([*WORDS, *["x"] * 90])}}}, "must have at most 96")):
        (minilm / "tokenizer.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match=message):
            from_pretrained(minilm)
    model = from_pretrained(minilm, tokenizer=False)[0]
    with pytest.raises(CheckpointError, match="tokenizer must be a BPETokenizer, SentencePieceTokenizer or Wor"):
        save_pretrained(model, tmp_path / "saved", CharTokenizer("abc"))
    assert not (tmp_path / "saved").exists()
