"""What from_pretrained and save_pretrained refuse, by name, and what they put up with."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml.errors import CheckpointError, DualmlError
from dualml.models import GPT, BertConfig, GPTConfig, Llama, LlamaConfig, from_pretrained, save_pretrained
from dualml.safe_files import load_folder, save_tensors

GPT_CONFIG = GPTConfig(vocab_size=11, context=8, layers=2, heads=2, width=8)
LLAMA_CONFIG = LlamaConfig(vocab_size=11, context=8, layers=2, heads=2, kv_heads=1, width=8, hidden=12)
pytestmark = pytest.mark.usefixtures("cpu")


def write(path: Path, kind: str = "llama", shards: int = 0) -> Path:
    dm.manual_seed(0)
    model: Any = Llama(LLAMA_CONFIG) if kind == "llama" else GPT(GPT_CONFIG)
    return save_pretrained(model, path / "model", max_shard=shards or 1 << 30)


def rewrite(path: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> Path:
    tensors = {n: np.array(a) for n, a in load_folder(path).items()}
    change(tensors)
    save_tensors(path / "model.safetensors", tensors)
    return path


def configure(path: Path, **changes: Any) -> Path:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({k: v for k, v in (config | changes).items() if v is not ...}))
    return path


def logits(path: Path) -> np.ndarray:
    with dm.no_grad():
        return from_pretrained(path)[0](dm.tensor([[1, 2, 3]]))[0].numpy()


# ---- tensors --------------------------------------------------------------------------------------------------------

Q = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(("change", "message"), [
    (lambda t: t.pop(Q), r"missing layers\.1\.self_attn\.q_proj\.weight\."),
    (lambda t: t.pop("lm_head.weight"), r"missing lm_head\.weight\."),
    (lambda t: t.update(extra=np.zeros(3, np.float32)), r"unexpected extra\."),
    (lambda t: t.update({Q: t[Q][:4]}), r"q_proj\.weight must have shape \(8, 8\), got \(4, 8\)"),
    (lambda t: t.update({Q: t[Q].astype(np.int8)}), "must be of floats of 16, 32 or 64 bits, got int8"),
    (lambda t: t.update({Q.removeprefix("model."): t[Q]}), "is in the file with and without 'model.'"),
    (lambda t: [t.pop(n) for n in list(t) if "layers.1" in n], "missing .*; and 1 more"),
    (lambda t: t.clear(), "must hold the weights of 2 layers, as config.json says, got 0 tensors"),
])
def test_tensors_that_do_not_fit(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        from_pretrained(rewrite(write(tmp_path), change))


def test_what_older_files_have(tmp_path: Path) -> None:
    """Names without the prefix, masks and angles that no model reads, a tied head written out."""
    path = write(tmp_path, "gpt")
    before = logits(path)

    def old(t: dict[str, np.ndarray]) -> None:
        for name in list(t):
            t[name.removeprefix("transformer.")] = t.pop(name)
        t.update({"h.0.attn.bias": np.ones((1, 1, 8, 8), np.bool_), "h.1.attn.masked_bias": np.zeros((), np.float32),
                  "lm_head.weight": t["wte.weight"]})
    np.testing.assert_array_equal(logits(rewrite(path, old)), before)
    rewrite(path, lambda t: t.update({"lm_head.weight": t["wte.weight"] + 1}))
    with pytest.raises(CheckpointError, match=r"unexpected lm_head.weight"):
        from_pretrained(path)
    path = write(tmp_path / "llama")
    before = logits(path)
    rewrite(path, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32)}))
    np.testing.assert_array_equal(logits(path), before)


# ---- configurations -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("changes", "message"), [
    ({"architectures": ["MambaForCausalLM"]}, "must be one of GPT2LMHeadModel, .*BertModel, got 'MambaForCausalLM'"),
    ({"architectures": ..., "model_type": "phi3"}, "got 'phi3'"),
    ({"architectures": ..., "model_type": ...}, "got 'None'"),
    ({"quantization_config": {"bits": 4}}, "the model's weights are quantised"),
    ({"use_sliding_window": True}, "use_sliding_window must be False or None, got True"),
    ({"layer_types": ["sliding_attention", "full_attention"]}, "layer_types must be all 'full_attention'"),
    ({"hidden_act": "relu"}, "hidden_act must be 'silu' or 'swish', got 'relu'"),
    ({"rope_scaling": {"rope_type": "longrope"}}, "rope_type must be one of default, linear, dynamic, yarn, llama3"),
    ({"rope_scaling": {"rope_type": "linear"}}, "linear scaling needs factor, a number above 0, got None"),
    ({"rope_scaling": {"rope_type": "linear", "factor": "2"}}, "needs factor, a number above 0, got '2'"),
    ({"rope_scaling": {"full_attention": {"rope_type": "linear"}}}, "rope_scaling must be one flat table"),
    ({"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor must be 1"),
    ({"partial_rotary_factor": 0.25}, "partial_rotary_factor must be None or 1.0 or 1, got 0.25"),
    ({"rope_interleaved": True}, "rope_interleaved must be False or None, got True"),
    ({"hidden_size": "8"}, "hidden_size must be an integer above 0, got '8'"),
    ({"hidden_size": ...}, "hidden_size must be an integer above 0, got None"),
    ({"vocab_size": 2**40}, "vocab_size must be an integer above 0"),
    ({"vocab_size": 2**30}, r"embed_tokens.weight must have shape \(1073741824, 8\), got \(11, 8\)"),
    ({"num_hidden_layers": 2**30}, "must hold the weights of 1073741824 layers"),
    ({"num_hidden_layers": 1}, "unexpected layers.1"),
    ({"num_key_value_heads": 3}, "heads must be a multiple of kv_heads=3"),
    ({"attention_bias": True}, "missing layers.0.self_attn.q_proj.bias"),
    ({"attention_bias": "yes"}, "attention_bias must be true or false, got 'yes'"),
    ({"rms_norm_eps": -1}, "rms_norm_eps must be a number from 0 on"),
    ({"tie_word_embeddings": True}, "unexpected lm_head.weight"),
])
def test_configurations_that_are_not_ours(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DualmlError, match=message):
        from_pretrained(configure(write(tmp_path), **changes))


@pytest.mark.parametrize(("changes", "message"), [
    ({"activation_function": "relu"}, "activation_function must be"), ({"n_inner": 9}, "n_inner must be None or 32"),
    ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx must be False"),
    ({"tie_word_embeddings": False}, "tie_word_embeddings must be True"),
    ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon must be 1e-05")])
def test_gpt2s_that_are_not_ours(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DualmlError, match=message):
        from_pretrained(configure(write(tmp_path, "gpt"), **changes))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
        from_pretrained(tmp_path)
    path = write(tmp_path)
    (path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors does not exist"):
        from_pretrained(path)
    (path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json must hold JSON"):
        from_pretrained(path)


# ---- hostile folders ------------------------------------------------------------------------------------------------

class Trap:
    """Pickled, it would make a file where it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.safetensors"])
def test_pickles_are_not_loaded(tmp_path: Path, name: str) -> None:
    path = write(tmp_path)
    (path / "model.safetensors").unlink()
    (path / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(CheckpointError, match="is a pickle file"):
        from_pretrained(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("shard", ["../elsewhere.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "x.bin", 7])
def test_shards_elsewhere(tmp_path: Path, shard: Any) -> None:
    path = write(tmp_path, shards=500)
    index = json.loads((path / "model.safetensors.index.json").read_text())
    shutil.copy(path / index["weight_map"][Q], tmp_path / "elsewhere.safetensors")
    index["weight_map"][Q] = shard
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"must name a .safetensors file of its own folder for"):
        from_pretrained(path)


def test_links(tmp_path: Path) -> None:
    """A shard that is a link to elsewhere is refused; the hub's cache, which is made of links, is not."""
    path = write(tmp_path, shards=500)
    before = logits(path)
    shard = path / json.loads((path / "model.safetensors.index.json").read_text())["weight_map"][Q]
    os.replace(shard, tmp_path / "elsewhere.safetensors")
    shard.symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(CheckpointError, match=r"is a link to .*outside of its folder"):
        from_pretrained(path)
    (tmp_path / "cache" / "blobs").mkdir(parents=True)
    (tmp_path / "cache" / "snapshots").mkdir()
    os.replace(tmp_path / "elsewhere.safetensors", tmp_path / "cache" / "blobs" / "12ab")
    os.replace(path, tmp_path / "cache" / "snapshots" / "main")
    moved = tmp_path / "cache" / "snapshots" / "main"
    (moved / shard.name).unlink()
    (moved / shard.name).symlink_to(Path("../../blobs/12ab"))
    np.testing.assert_array_equal(logits(moved), before)


def test_shards_that_do_not_hold_what_the_index_says(tmp_path: Path) -> None:
    path = write(tmp_path, shards=500)
    index = json.loads((path / "model.safetensors.index.json").read_text())
    index["weight_map"][Q] = next(s for n, s in index["weight_map"].items() if s != index["weight_map"][Q])
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=f"must hold '{Q}'"):
        from_pretrained(path)


def test_a_header_whose_length_begins_like_a_pickle(tmp_path: Path) -> None:
    for length in (0x280, 0x380, 0x480, 0x580):
        save_tensors(tmp_path / "model.safetensors", {"x" * (length - 120): np.ones(1, np.float32)})
        found = int.from_bytes((tmp_path / "model.safetensors").read_bytes()[:8], "little")
        name = "x" * (length - 120 + length - found)
        save_tensors(tmp_path / "model.safetensors", {name: np.ones(1, np.float32)})
        assert (tmp_path / "model.safetensors").read_bytes()[:2] == length.to_bytes(2, "little")
        assert list(load_folder(tmp_path)) == [name]


# ---- the hub --------------------------------------------------------------------------------------------------------

def test_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, asked = write(tmp_path), []

    def snapshot_download(repo: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo, revision))
        assert not any("bin" in p for p in allow_patterns)
        if repo == "away/model":
            raise ConnectionError("no route to the hub\nand more")
        return str(path)

    monkeypatch.setitem(sys.modules, "huggingface_hub",
                        SimpleNamespace(snapshot_download=snapshot_download))  # type: ignore[arg-type]
    assert from_pretrained("someone/model", revision="v1")[0].config == LLAMA_CONFIG
    assert asked == [("someone/model", "v1")]
    with pytest.raises(CheckpointError, match=r"away/model is no local folder and cannot be had .*no route to the hub"):
        from_pretrained("away/model")
    for wrong in ("./missing", "a/b/c", "../up", "runs/my model"):
        with pytest.raises(CheckpointError, match="must be a folder that exists or a repository"):
            from_pretrained(wrong)
    assert len(asked) == 2


def test_hub_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    missing: ModuleType | None = None
    monkeypatch.setitem(sys.modules, "huggingface_hub", missing)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"needs huggingface_hub\. Install it: pip install 'dualml\[hub\]'"):
        from_pretrained("someone/model")


# ---- saving ---------------------------------------------------------------------------------------------------------

def test_saving_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Llama(LLAMA_CONFIG)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    with pytest.raises(CheckpointError, match="folder must not exist or be empty"):
        save_pretrained(model, tmp_path / "full")
    monkeypatch.setattr("dualml.models.pretrained.write_json", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(CheckpointError, match=r"model cannot be written: full. Free some space"):
        save_pretrained(model, tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["full"]


@pytest.mark.parametrize(("make", "message"), [
    (lambda: GPT(GPTConfig(11, 8, 1, 2, 8, head_bias=True)), "head_bias must be False"),
    (lambda: Llama(LlamaConfig(11, 8, 1, 2, 2, 8, 12, qkv_bias=True, mlp_bias=True)), "model must be one that Hugging"),
    (lambda: dm.nn.Linear(2, 2), "got Linear with None")])
def test_what_is_not_saved(tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        save_pretrained(make(), tmp_path / "model")


def test_memory_of_loading(tmp_path: Path) -> None:
    """Peaks at the model and one tensor, though the file's numbers are of another size."""
    config = LlamaConfig(vocab_size=64, context=8, layers=6, heads=4, kv_heads=4, width=256, hidden=512)
    path = save_pretrained(Llama(config), tmp_path / "model")
    tensors = {n: a.astype(np.float16) for n, a in load_folder(path).items()}
    save_tensors(path / "model.safetensors", tensors)
    total, largest = sum(4 * a.size for a in tensors.values()), 4 * 3 * 256 * 512
    tracemalloc.start()
    try:
        model = from_pretrained(path)[0]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert model.num_parameters() * 4 == total
    assert total > 5 * largest
    assert peak < total + 2 * largest


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    for kind in ("llama", "gpt"):
        path = write(tmp_path / kind, kind)
        dm.manual_seed(5)
        before = dm.randn(3).numpy()
        dm.manual_seed(5)
        from_pretrained(path)
        np.testing.assert_array_equal(dm.randn(3).numpy(), before)
        assert not dm.nn.init.skipping()


def test_bad_sizes_of_our_own() -> None:
    for make, message in ((lambda: LlamaConfig(11, heads=3, kv_heads=2), "heads must be a multiple of kv_heads=2"),
                          (lambda: LlamaConfig(0), "vocab_size must be at least 1"),
                          (lambda: BertConfig(11, pooling="max"), "pooling must be one of mean, cls"),
                          (lambda: BertConfig(11, layers=0), "layers must be at least 1")):
        with pytest.raises(DualmlError, match=message):
            make()
