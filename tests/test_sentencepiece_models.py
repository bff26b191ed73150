"""Models whose tokenizer is of the SentencePiece kind: from_pretrained, save_pretrained and the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import dualml as dm
from dualml.cli.main import app
from dualml.errors import DataError
from dualml.models import from_pretrained, save_pretrained
from dualml.text import SentencePieceTokenizer
from tests import hf_models
from tests.test_sentencepiece import PREPEND, TEXTS, content

torch, transformers = hf_models.torch, hf_models.transformers
pytestmark = [pytest.mark.usefixtures("cpu"), pytest.mark.xdist_group("transformers")]
TOKENIZER = content(PREPEND, None)


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A folder with a small random Llama and a tokenizer as Llama 2 has it."""
    torch.manual_seed(0)
    sizes = hf_models.GROUPED | {"vocab_size": len(TOKENIZER["model"]["vocab"])}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, pad_token_id=None)).eval()
    model.save_pretrained(tmp_path / "llama")
    (tmp_path / "llama" / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    return tmp_path / "llama"


def run(*arguments: Any, text: str | None = None) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)], input=text)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_a_folder(llama: Path, tmp_path: Path) -> None:
    model, tokenizer = from_pretrained(llama)
    assert isinstance(tokenizer, SentencePieceTokenizer)
    there = transformers.AutoModelForCausalLM.from_pretrained(llama).eval()
    other = transformers.PreTrainedTokenizerFast(tokenizer_file=str(llama / "tokenizer.json"))
    ids = tokenizer.encode("the self \u6f22", add_special=True)
    assert ids.tolist() == other("the self \u6f22")["input_ids"]
    with torch.no_grad():
        want = there(torch.tensor(ids[None], dtype=torch.long)).logits.numpy()
    assert np.abs(model(dm.tensor(ids[None]))[0].detach().numpy() - want).max() < 1e-4
    _, again = from_pretrained(save_pretrained(model, tmp_path / "again", tokenizer))
    assert again.to_dict() == tokenizer.to_dict()


def test_the_file_that_transformers_writes(tmp_path: Path) -> None:
    """Its LlamaTokenizer, given the same vocabulary: Metaspace instead of a normalizer."""
    merges = [tuple(pair.split(" ")) for pair in TOKENIZER["model"]["merges"]]
    made = transformers.LlamaTokenizer(vocab=TOKENIZER["model"]["vocab"], merges=merges)
    made.save_pretrained(tmp_path)
    ours = SentencePieceTokenizer.load(tmp_path / "tokenizer.json")
    for text in TEXTS:
        assert ours.encode(text, add_special=True).tolist() == made(text)["input_ids"], text
        assert ours.decode(ours.encode(text), True) == made.decode(made(text)["input_ids"], skip_special_tokens=True)


def test_commands(llama: Path) -> None:
    model, tokenizer = from_pretrained(llama)
    for prompt in map(chr, range(97, 123)):  # until one goes on with a space
        wanted = model.generate(tokenizer.encode(prompt, add_special=True), 5, temperature=0)
        shown = tokenizer.decode_bytes(wanted, skip_special=True).decode("utf-8", "replace")
        if shown.startswith(" "):
            break
    assert shown.startswith(" ")
    sampled = run("sample", "--backend", "cpu", "--model", llama, "--prompt", prompt, "--tokens", 5,
                  "--temperature", 0)
    assert sampled == f"{prompt}{shown}\n"
    file = ("--tokenizer", llama / "tokenizer.json")
    ids = run("tokenizer", "encode", "the self \U0001f44d", *file).split()
    assert [*map(int, ids)] == tokenizer.encode("the self \U0001f44d").tolist()
    assert run("tokenizer", "decode", *file, text=" ".join(ids)) == "the self \U0001f44d"
    assert "\\xf0" in run("tokenizer", "show", "the \U0001f44d", *file)


def test_what_does_not_fit(llama: Path) -> None:
    file = llama / "tokenizer.json"
    for changed, message in (({"normalizer": {"type": "Precompiled"}}, "normalizer 'Precompiled' is not .*izer=False"),
                             ({"model": {"type": "Unigram"}}, "model.type Unigram .*tokenizer=False"),
                             ({"added_tokens": [{"id": len(TOKENIZER["model"]["vocab"]), "content": "<pad>"}]},
                              "must have at most")):
        file.write_text(json.dumps(TOKENIZER | changed))
        with pytest.raises(DataError, match=message):
            from_pretrained(llama)
    assert from_pretrained(llama, tokenizer=False)[1] is None
