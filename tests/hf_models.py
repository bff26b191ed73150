"""Small random models of each family as transformers has them: the truth that ours are compared with."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

transformers = pytest.importorskip("transformers", reason="what loaded models are compared with")
torch = pytest.importorskip("torch")

V = 96
SIZES: dict[str, Any] = dict(vocab_size=V, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                             num_attention_heads=4, max_position_embeddings=32, bos_token_id=1, eos_token_id=None)
GROUPED = SIZES | dict(num_key_value_heads=2)


def _rope(kind: str, **options: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 10_000.0, **options}


def _llama(**changes: Any) -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**GROUPED | changes))


def _gpt2(**changes: Any) -> Any:
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**dict(
        vocab_size=V, n_embd=32, n_layer=2, n_head=4, n_positions=32, bos_token_id=1, eos_token_id=None) | changes))


def _qwen2() -> Any:
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**GROUPED))


def _qwen3() -> Any:  # heads * head_dim is not the width
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**GROUPED, head_dim=16))


def _bert() -> Any:
    return transformers.BertModel(transformers.BertConfig(**SIZES))


MAKERS = {
    "gpt2": _gpt2,
    "llama": _llama,
    "llama_linear": lambda: _llama(rope_parameters=_rope("linear", factor=2.5)),
    "llama_dynamic": lambda: _llama(rope_parameters=_rope("dynamic", factor=2.5), max_position_embeddings=12),
    "llama_yarn": lambda: _llama(rope_parameters=_rope("yarn", factor=2.0, original_max_position_embeddings=16)),
    "llama_3": lambda: _llama(rope_parameters=_rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                                    original_max_position_embeddings=16)),
    "smollm": lambda: _llama(tie_word_embeddings=True),
    "llama_biases": lambda: _llama(attention_bias=True, mlp_bias=True),
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "bert": _bert,
}
DECODERS = [name for name in MAKERS if name != "bert"]


@cache
def theirs(name: str) -> Any:
    """transformers' model, with weights large enough that nothing hides, biases and norms among them."""
    torch.manual_seed(len(name))
    model = MAKERS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.1))
    return model


@cache
def folder(name: str, root: Path) -> Path:
    """A folder that transformers wrote the model to."""
    path = root / name
    theirs(name).save_pretrained(path)
    return path


def tokens(steps: int = 24, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, V, (2, steps)).astype(np.int32)


def outputs(model: Any, x: np.ndarray) -> np.ndarray:
    """Logits, or the hidden states of a BERT."""
    with torch.no_grad():
        found = model(torch.tensor(x, dtype=torch.long))
    return (found.logits if hasattr(found, "logits") else found.last_hidden_state).numpy()
