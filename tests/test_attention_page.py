"""The probabilities of attention against PyTorch's, and the page that shows them."""

from __future__ import annotations

import base64
import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml.cli.attention import make_page, spelled, summary
from dualml.cli.main import main
from dualml.data import TokenBatches
from dualml.errors import DataError
from dualml.models import GPT, GPTConfig, from_pretrained
from dualml.models.attention_maps import attention_maps
from dualml.text import BPETokenizer, CharTokenizer
from dualml.train import Trainer, recipe

TOKENS = [5, 1, 8, 8, 2, 0, 11, 3, 7]
EVIL = 'a</script><script>alert(1)</script><!--<script>\u2028{{DATA}}{{ROWS}}"\'&\n\t<b>'


def test_it_is_softmax_of_q_and_k(fast_backend: str) -> None:
    """Of each layer, against torch, from weights and hidden states alone."""
    torch = pytest.importorskip("torch")
    dm.manual_seed(1)
    model = GPT(GPTConfig(12, context=16, layers=2, heads=3, width=24)).eval()
    model.load_state_dict({n: p.detach() * 6.0 if p.ndim > 1 else p for n, p in model.state_dict().items()})
    maps = attention_maps(model, TOKENS)
    w = {n: torch.tensor(p.detach().numpy()) for n, p in model.state_dict().items()}
    x = w["wte.weight"][TOKENS] + w["wpe.weight"][:len(TOKENS)]
    norm = torch.nn.functional.layer_norm
    for layer in range(2):
        p = {n.removeprefix(f"h.{layer}."): t for n, t in w.items() if n.startswith(f"h.{layer}.")}
        y = norm(x, (24,), p["ln_1.weight"], p["ln_1.bias"])
        q, k, v = (y @ p["attn.qkv.weight"].T + p["attn.qkv.bias"]).view(len(TOKENS), 3, 3, 8).permute(1, 2, 0, 3)
        scores = (q @ k.transpose(1, 2) / 8 ** 0.5).masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf)
        wanted = scores.softmax(-1)
        assert maps[layer].shape == (3, 9, 9)
        assert wanted.std() > 0.1  # no even spread, which anything would give
        np.testing.assert_allclose(maps[layer], wanted.numpy(), atol=2e-5)
        np.testing.assert_allclose(maps[layer].sum(-1), 1, atol=1e-5)
        assert not np.triu(maps[layer], 1).any()
        x = x + (wanted @ v).permute(1, 0, 2).reshape(9, 24) @ p["attn.proj.weight"].T + p["attn.proj.bias"]
        y = norm(x, (24,), p["ln_2.weight"], p["ln_2.bias"])
        y = torch.nn.functional.gelu(y @ p["mlp.fc.weight"].T + p["mlp.fc.bias"], approximate="tanh")
        x = x + y @ p["mlp.proj.weight"].T + p["mlp.proj.bias"]


@pytest.mark.parametrize("name", ["gpt2", "llama", "llama_yarn", "qwen3"])
def test_loaded_models(name: str, tmp_path: Path, cpu: None) -> None:
    """Rope, grouped heads and normed heads, against what transformers says of itself."""
    hf = pytest.importorskip("tests.hf_models")
    torch = hf.torch
    theirs = copy.deepcopy(hf.theirs(name))  # others compare with it as it is
    theirs.set_attn_implementation("eager")
    with torch.no_grad():
        wanted = theirs(torch.tensor([TOKENS]), output_attentions=True).attentions
    maps = attention_maps(from_pretrained(hf.folder(name, tmp_path), "cpu")[0], TOKENS)
    assert len(maps) == len(wanted)
    for ours, other in zip(maps, wanted, strict=True):
        np.testing.assert_allclose(ours, other[0].numpy(), atol=2e-5)


def test_model_is_left_as_it_was(cpu: None) -> None:
    model = GPT(GPTConfig(12, context=16, layers=1, heads=2, width=16, dropout=0.5)).train()
    first, again = (attention_maps(model, TOKENS)[0] for _ in range(2))
    assert np.array_equal(first, again)
    assert model.training
    assert not [h for h in dm.runtime.hooks if type(h).__module__.endswith("attention_maps")]
    assert np.array_equal(attention_maps(model, TOKENS[:1])[0], np.ones((2, 1, 1)))
    for tokens in ([], [0] * 17):
        with pytest.raises(DataError, match="the text must have 1 to 16 tokens"):
            attention_maps(model, tokens)


# ---- the page -------------------------------------------------------------------------------------------------------

class Elements(HTMLParser):
    """Tags with attributes, and the texts within them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)


def random_maps(layers: int, heads: int, count: int) -> list[np.ndarray]:
    weights = np.tril(np.random.default_rng(0).random((layers, heads, count, count))) + np.eye(count) * 1e-3
    return list(weights / weights.sum(-1, keepdims=True))


def test_page_holds_what_it_shows() -> None:
    maps = random_maps(2, 3, 5)
    page = make_page("a b", list("a b c"), maps, "a model")
    found = Elements(page)
    data = json.loads(found.texts["script"][0])
    assert data["tokens"] == list("a b c")
    for layer, heads in enumerate(data["maps"]):
        for head, text in enumerate(heads):
            values = np.frombuffer(base64.b64decode(text), np.uint8)
            np.testing.assert_allclose(values / 255, maps[layer][head][np.tril_indices(5)], atol=0.5 / 255 + 1e-9)
    assert len(re.findall(r"<tr><td>\d</td><td>\d</td><td>itself ", page)) == 6
    assert summary(np.eye(3)) == "itself 100%, the token before 0%, the first token 33%"
    assert not re.search(r"""(?:src|href)\s*=|https?://|@import|url\(|fetch|XMLHttp""", page)
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page
    with pytest.raises(DataError, match="maps must be"):
        make_page("a", ["a"], maps, "a model")


def test_no_text_leaves_its_place() -> None:
    clean, evil = (Elements(make_page(text, [text, "b"], random_maps(1, 1, 2), text)) for text in ("a", EVIL))
    assert evil.tags == clean.tags
    assert json.loads(evil.texts["script"][0])["tokens"] == [EVIL, "b"]
    assert "".join(evil.texts["pre"]).startswith(EVIL)
    raw = make_page(EVIL, [EVIL, "b"], random_maps(1, 1, 2), EVIL)
    assert raw.count("<script") == raw.count("</script>") == 2


def test_tokens_are_spelled() -> None:
    tokenizer = BPETokenizer.blank()
    assert [spelled(tokenizer, t) for t in tokenizer.encode("aé")] == ["a", "<c3>", "<a9>"]
    assert spelled(CharTokenizer("é"), 0) == "é"


STUB = """
const fs = require("fs"), page = fs.readFileSync(process.argv[2], "utf8");
const script = page.split("<script>")[1].split("</script>")[0];
const json = page.split('id="data">')[1].split("</script>")[0];
const made = [], paint = new Proxy({}, {get: (t, n) => n === "createImageData" ? (w, h) =>
  ({data: new Uint8ClampedArray(4 * w * h)}) : t[n] ?? (() => undefined), set: (t, n, v) => (t[n] = v, true)});
function element(tag) {
  const e = {tag, children: [], style: {}, dataset: {}, listeners: {}, attributes: {}, textContent: "",
    append(...all) { e.children.push(...all); }, getContext: () => paint,
    setAttribute(n, v) { e.attributes[n] = String(v); }, addEventListener(n, f) { e.listeners[n] = f; },
    querySelectorAll: () => e.children.filter((c) => c.tag === "button"),
    getBoundingClientRect: () => ({top: 0, height: e.height})};
  made.push(e);
  return e;
}
const named = {}, byId = (id) => named[id] ??= element(id);
byId("data").textContent = json;
globalThis.document = {getElementById: byId, createElement: element, documentElement: {}};
globalThis.getComputedStyle = () => ({getPropertyValue: () => " #1553c0"});
globalThis.matchMedia = () => ({addEventListener() {}});
new Function(script)();
const told = [byId("told").textContent];
byId("grid").children.filter((e) => e.tag === "button").at(-1).listeners.click();
byId("tokens").children[1].listeners.focus();
told.push(byId("which").textContent, byId("told").textContent);
byId("large").listeners.keydown({key: "ArrowUp", preventDefault() {}});
told.push(byId("told").textContent);
console.log(JSON.stringify(told));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node runs the page's script")
def test_script_runs(tmp_path: Path) -> None:
    """In node, with as little of a browser as it asks for."""
    maps = random_maps(2, 2, 3)
    maps[1][1] = np.array([[1, 0, 0], [0.2, 0.8, 0], [0.5, 0.25, 0.25]])
    (tmp_path / "page.html").write_text(make_page("x y", ["x", " ", "\n"], maps, "m"), encoding="utf-8")
    (tmp_path / "stub.js").write_text(STUB, encoding="utf-8")
    done = subprocess.run(["node", str(tmp_path / "stub.js"), str(tmp_path / "page.html")], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told[0].startswith("Token 3, “↵”, takes from ")
    assert told[1:] == ["Layer 2, head 2", "Token 2, “·”, takes from 2 “·” 80%, 1 “x” 20%.",
                        "Token 1, “x”, takes from 1 “x” 100%."]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    with dm.use_backend("cpu"):
        tokenizer = CharTokenizer("abc </script>")
        model = GPT(GPTConfig(tokenizer.vocab_size, 8, layers=2, heads=2, width=16))
        config = recipe("gpt-nano", steps=1, context=8)
        Trainer(model, TokenBatches(np.zeros(200, np.int32), 8, 2), tokenizer, config, tmp_path / "runs" / "a",
                about={"text": {}}).save()
        yield tmp_path


def test_command(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*words: Any) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["dualml", "attention", *map(str, words)])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0), capsys.readouterr().err
        return 0, capsys.readouterr().err
    monkeypatch.chdir(run)
    code, told = call("a b", "--backend", "cpu")
    assert (code, "2 layers of 2 heads on 3 tokens" in told) == (0, True), told
    assert json.loads(Elements((run / "attention.html").read_text()).texts["script"][0])["tokens"] == ["a", " ", "b"]
    assert call("</ab>", "--run", run / "runs" / "a", "--out", run / "x.html")[0] == 0
    assert sorted(p.name for p in run.iterdir()) == ["attention.html", "runs", "x.html"]
    for words, message in ((["abcabcabc"], "the text must have 1 to 8 tokens, got 9"), (["x"], "got 'x'"),
                           ([""], "1 to 8 tokens, got 0"), (["a", "--model", "m", "--run", "r"], "cannot be combined"),
                           (["a", "--out", run / "no" / "x.html"], "Name another file with --out")):
        code, told = call(*words)
        assert (code, message in told, "Traceback" in told) == (1, True, False), told
