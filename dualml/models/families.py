"""Which models of Hugging Face there are here: how each config.json and each tensor name maps to ours.

A Family reads a config.json into our config (refusing what our model would compute otherwise), lists for every
parameter of ours the tensors of the file that it is made of, and writes a config.json back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import CheckpointError
from ..nn import Module
from .bert import Bert, BertConfig
from .gpt import GPT, GPTConfig
from .llama import Llama, LlamaConfig
from .rotary import Rotary

Shape = tuple[int, ...]
Config = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """One parameter of ours: tensors of the file, one after another along the first dimension. `transposed`: the file
    has [in, out], as GPT-2's Conv1D does."""

    name: str
    parts: tuple[tuple[str, Shape], ...]
    transposed: bool = False


@dataclass(frozen=True)
class Family:
    """One architecture. `prefix` may stand before all tensors but the head's; `unused` are patterns of tensors that
    older files hold and no model reads; `tied` is the head's name, which a tied model may repeat."""

    architecture: str
    model_type: str
    config: Callable[[Config], Any]
    make: Callable[[Any], Module]
    entries: Callable[[Any], Iterator[Entry]]
    to_hf: Callable[[Any], dict[str, Any]]
    prefix: str = ""
    unused: tuple[str, ...] = ()
    tied: str = "lm_head.weight"
    adapt: Callable[[Any, Collection[str]], Any] = lambda config, names: config  # to which tensors there are


# ---- reading a config.json ------------------------------------------------------------------------------------------

def _int(hf: Config, name: str, default: int | None = None) -> int:
    value = hf.get(name)
    value = default if value is None else value
    if type(value) is not int or not 0 < value < 2**31:
        raise CheckpointError(f"[config.json] {name} must be an integer above 0, got {value!r}.")
    return value


def _float(hf: Config, name: str, default: float) -> float:
    value = hf.get(name)
    value = default if value is None else value
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise CheckpointError(f"[config.json] {name} must be a number from 0 on, got {value!r}.")
    return float(value)


def _bool(hf: Config, name: str) -> bool:
    value = hf.get(name) or False
    if value is not False and value is not True:
        raise CheckpointError(f"[config.json] {name} must be true or false, got {value!r}.")
    return value


def _must(hf: Config, name: str, *allowed: Any) -> None:
    """Refuses a setting that our model has not; the first value is the one of a file that says nothing."""
    value = hf.get(name, allowed[0])
    if value not in allowed or type(value) not in map(type, allowed):  # 0 is not False, nor 1 True
        raise CheckpointError(f"[config.json] {name} must be {' or '.join(map(repr, allowed))}, got {value!r}: this "
                              "model computes nothing else.")


# ---- GPT-2 ----------------------------------------------------------------------------------------------------------

_TANH = ("gelu_new", "gelu_pytorch_tanh")


def _gpt2_config(hf: Config) -> GPTConfig:
    width = _int(hf, "n_embd", 768)
    _must(hf, "activation_function", *_TANH)
    _must(hf, "scale_attn_weights", True)
    _must(hf, "scale_attn_by_inverse_layer_idx", False)
    _must(hf, "add_cross_attention", False)
    _must(hf, "tie_word_embeddings", True)
    _must(hf, "n_inner", None, 4 * width)
    _must(hf, "layer_norm_epsilon", 1e-5)
    return GPTConfig(vocab_size=_int(hf, "vocab_size"), context=_int(hf, "n_positions", 1024),
                     layers=_int(hf, "n_layer", 12), heads=_int(hf, "n_head", 12), width=width,
                     dropout=_float(hf, "resid_pdrop", 0.1))


def _gpt2_entries(c: GPTConfig) -> Iterator[Entry]:
    yield Entry("wte.weight", (("wte.weight", (c.vocab_size, c.width)),))
    yield Entry("wpe.weight", (("wpe.weight", (c.context, c.width)),))
    linear = {"attn.qkv": ("attn.c_attn", c.width, 3 * c.width), "attn.proj": ("attn.c_proj", c.width, c.width),
              "mlp.fc": ("mlp.c_fc", c.width, 4 * c.width), "mlp.proj": ("mlp.c_proj", 4 * c.width, c.width)}
    for i in range(c.layers):
        yield from _vectors(f"h.{i}.ln_1", f"h.{i}.ln_1", c.width)
        yield from _vectors(f"h.{i}.ln_2", f"h.{i}.ln_2", c.width)
        for ours, (theirs, inside, outside) in linear.items():
            yield Entry(f"h.{i}.{ours}.weight", ((f"h.{i}.{theirs}.weight", (inside, outside)),), transposed=True)
            yield Entry(f"h.{i}.{ours}.bias", ((f"h.{i}.{theirs}.bias", (outside,)),))
    yield from _vectors("ln_f", "ln_f", c.width)


def _gpt2_to_hf(c: GPTConfig) -> dict[str, Any]:
    if c.head_bias:
        raise CheckpointError("[save_pretrained] head_bias must be False: GPT-2 of Hugging Face has no bias at the "
                              "head, and would give other logits. Train with head_bias=False.")
    return {"vocab_size": c.vocab_size, "n_positions": c.context, "n_ctx": c.context, "n_embd": c.width,
            "n_layer": c.layers, "n_head": c.heads, "resid_pdrop": c.dropout, "embd_pdrop": c.dropout,
            "attn_pdrop": 0.0, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": True}


def _vectors(ours: str, theirs: str, width: int, *kinds: str) -> Iterator[Entry]:
    for kind in kinds or ("weight", "bias"):
        yield Entry(f"{ours}.{kind}", ((f"{theirs}.{kind}", (width,)),))


# ---- Llama, Qwen2, Qwen3 --------------------------------------------------------------------------------------------

def _llama_config(hf: Config, **more: Any) -> LlamaConfig:
    _must(hf, "hidden_act", "silu", "swish")
    _must(hf, "use_sliding_window", False, None)
    _must(hf, "rope_interleaved", False, None)
    _must(hf, "partial_rotary_factor", None, 1.0, 1)
    kinds = hf.get("layer_types") or []
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        raise CheckpointError(f"[config.json] layer_types must be all 'full_attention', got {str(kinds)[:80]}: sliding "
                              "windows are not supported.")
    rope = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
    if not isinstance(rope, dict) or any(isinstance(v, dict) for v in rope.values()):
        raise CheckpointError(f"[config.json] rope_scaling must be one flat table, got {str(rope)[:80]}.")
    rope = dict(rope)
    theta = _float({"rope_theta": rope.pop("rope_theta", None) or hf.get("rope_theta")}, "rope_theta", 10_000.0)
    width, heads = _int(hf, "hidden_size"), _int(hf, "num_attention_heads")
    bias = _bool(hf, "attention_bias")
    config = LlamaConfig(
        vocab_size=_int(hf, "vocab_size"), context=_int(hf, "max_position_embeddings", 2048),
        layers=_int(hf, "num_hidden_layers"), heads=heads, kv_heads=_int(hf, "num_key_value_heads", heads),
        width=width, hidden=_int(hf, "intermediate_size"), head_size=_int(hf, "head_dim", max(1, width // heads)),
        eps=_float(hf, "rms_norm_eps", 1e-6), rope_theta=theta, rope_scaling=rope or None,
        tied=_bool(hf, "tie_word_embeddings"),
        **{"qkv_bias": bias, "out_bias": bias, "mlp_bias": _bool(hf, "mlp_bias"), **more})
    Rotary(config.head_size, config.context, theta, rope)  # refuses a scaling that it does not know
    return config


def _qwen2_config(hf: Config) -> LlamaConfig:
    return _llama_config(hf, qkv_bias=True, out_bias=False, mlp_bias=False)


def _qwen3_config(hf: Config) -> LlamaConfig:
    return _llama_config({"head_dim": 128, **hf}, qk_norm=True, mlp_bias=False)


def _llama_entries(c: LlamaConfig) -> Iterator[Entry]:
    q, kv = c.heads * c.head_size, c.kv_heads * c.head_size
    yield Entry("wte.weight", (("embed_tokens.weight", (c.vocab_size, c.width)),))
    for i in range(c.layers):
        at, mlp = f"layers.{i}.self_attn", f"layers.{i}.mlp"
        yield from _vectors(f"h.{i}.norm_1", f"layers.{i}.input_layernorm", c.width, "weight")
        yield from _vectors(f"h.{i}.norm_2", f"layers.{i}.post_attention_layernorm", c.width, "weight")
        yield from _linear(f"h.{i}.attn.qkv", {f"{at}.q_proj": q, f"{at}.k_proj": kv, f"{at}.v_proj": kv}, c.width,
                           c.qkv_bias)
        yield from _linear(f"h.{i}.attn.proj", {f"{at}.o_proj": c.width}, q, c.out_bias)
        if c.qk_norm:
            yield from _vectors(f"h.{i}.attn.q_norm", f"{at}.q_norm", c.head_size, "weight")
            yield from _vectors(f"h.{i}.attn.k_norm", f"{at}.k_norm", c.head_size, "weight")
        yield from _linear(f"h.{i}.gate_up", {f"{mlp}.gate_proj": c.hidden, f"{mlp}.up_proj": c.hidden}, c.width,
                           c.mlp_bias)
        yield from _linear(f"h.{i}.down", {f"{mlp}.down_proj": c.width}, c.hidden, c.mlp_bias)
    yield from _vectors("norm", "norm", c.width, "weight")
    if not c.tied:
        yield Entry("lm_head.weight", (("lm_head.weight", (c.vocab_size, c.width)),))


def _linear(ours: str, parts: Mapping[str, int], inside: int, bias: bool) -> Iterator[Entry]:
    """A linear layer of ours that is several of theirs, whose outputs it gives one after another."""
    yield Entry(f"{ours}.weight", tuple((f"{n}.weight", (rows, inside)) for n, rows in parts.items()))
    if bias:
        yield Entry(f"{ours}.bias", tuple((f"{n}.bias", (rows,)) for n, rows in parts.items()))


def _llama_to_hf(c: LlamaConfig) -> dict[str, Any]:
    scaling = dict(c.rope_scaling) if c.rope_scaling else None
    return {"vocab_size": c.vocab_size, "max_position_embeddings": c.context, "num_hidden_layers": c.layers,
            "num_attention_heads": c.heads, "num_key_value_heads": c.kv_heads, "hidden_size": c.width,
            "intermediate_size": c.hidden, "head_dim": c.head_size, "rms_norm_eps": c.eps, "hidden_act": "silu",
            "rope_theta": c.rope_theta, "rope_scaling": scaling, "tie_word_embeddings": c.tied,
            "attention_bias": c.out_bias, "mlp_bias": c.mlp_bias, "use_sliding_window": False}


# ---- BERT -----------------------------------------------------------------------------------------------------------

def _bert_config(hf: Config) -> BertConfig:
    _must(hf, "hidden_act", "gelu")
    _must(hf, "position_embedding_type", "absolute")
    _must(hf, "is_decoder", False)
    _must(hf, "add_cross_attention", False)
    return BertConfig(
        vocab_size=_int(hf, "vocab_size", 30_522), context=_int(hf, "max_position_embeddings", 512),
        layers=_int(hf, "num_hidden_layers", 12), heads=_int(hf, "num_attention_heads", 12),
        width=_int(hf, "hidden_size", 768), hidden=_int(hf, "intermediate_size", 3072),
        types=_int(hf, "type_vocab_size", 2), eps=_float(hf, "layer_norm_eps", 1e-12))


def _bert_entries(c: BertConfig) -> Iterator[Entry]:
    for ours, (theirs, rows) in {"wte": ("word", c.vocab_size), "wpe": ("position", c.context),
                                 "types": ("token_type", c.types)}.items():
        yield Entry(f"{ours}.weight", ((f"embeddings.{theirs}_embeddings.weight", (rows, c.width)),))
    yield from _vectors("norm", "embeddings.LayerNorm", c.width)
    for i in range(c.layers):
        there = f"encoder.layer.{i}"
        own = f"{there}.attention.self"
        yield from _linear(f"h.{i}.attn.qkv", {f"{own}.query": c.width, f"{own}.key": c.width, f"{own}.value": c.width},
                           c.width, True)
        yield from _linear(f"h.{i}.attn.proj", {f"{there}.attention.output.dense": c.width}, c.width, True)
        yield from _vectors(f"h.{i}.norm_1", f"{there}.attention.output.LayerNorm", c.width)
        yield from _linear(f"h.{i}.fc", {f"{there}.intermediate.dense": c.hidden}, c.width, True)
        yield from _linear(f"h.{i}.proj", {f"{there}.output.dense": c.width}, c.hidden, True)
        yield from _vectors(f"h.{i}.norm_2", f"{there}.output.LayerNorm", c.width)
    if c.pooler:
        yield from _linear("pooler", {"pooler.dense": c.width}, c.width, True)


def _bert_to_hf(c: BertConfig) -> dict[str, Any]:
    return {"vocab_size": c.vocab_size, "max_position_embeddings": c.context, "num_hidden_layers": c.layers,
            "num_attention_heads": c.heads, "hidden_size": c.width, "intermediate_size": c.hidden,
            "type_vocab_size": c.types, "layer_norm_eps": c.eps, "hidden_act": "gelu",
            "position_embedding_type": "absolute"}


# ---- which there are ------------------------------------------------------------------------------------------------

_MASKS = (r"h\.\d+\.attn\.(bias|masked_bias)",)
_ANGLES = (r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",)
_QWEN3 = Family("Qwen3ForCausalLM", "qwen3", _qwen3_config, Llama, _llama_entries, _llama_to_hf, "model.", _ANGLES)
FAMILIES = {f.architecture: f for f in (
    Family("GPT2LMHeadModel", "gpt2", _gpt2_config, GPT, _gpt2_entries, _gpt2_to_hf, "transformer.", _MASKS),
    replace(_QWEN3, architecture="LlamaForCausalLM", model_type="llama", config=_llama_config),
    replace(_QWEN3, architecture="Qwen2ForCausalLM", model_type="qwen2", config=_qwen2_config),
    _QWEN3,
    Family("BertModel", "bert", _bert_config, Bert, _bert_entries, _bert_to_hf, "bert.", (r"embeddings\.position_ids",),
           tied=""))}


def family_of(hf: Config) -> Family:
    """The family of a config.json. Raises CheckpointError that names the architecture and those there are."""
    named = hf.get("architectures")
    wanted = named[0] if isinstance(named, list) and named else None
    by_type = {f.model_type: f for f in FAMILIES.values()}
    found = FAMILIES.get(str(wanted)) if wanted else by_type.get(str(hf.get("model_type")))
    if found is None:
        raise CheckpointError(f"[from_pretrained] architecture must be one of {', '.join(FAMILIES)}, got "
                              f"{str(wanted or hf.get('model_type'))[:80]!r}.")
    if hf.get("quantization_config"):
        raise CheckpointError("[from_pretrained] the model's weights are quantised (quantization_config in "
                              "config.json), which is not supported. Take the version in float32, bfloat16 or float16.")
    return found


def family_for(model: Module) -> Family:
    """The family that a model of ours is saved as."""
    config = getattr(model, "config", None)
    if isinstance(config, GPTConfig):
        return FAMILIES["GPT2LMHeadModel"]
    if isinstance(config, BertConfig):
        return FAMILIES["BertModel"]
    if isinstance(config, LlamaConfig):
        if config.qk_norm:
            name, fits = "Qwen3ForCausalLM", config.qkv_bias == config.out_bias and not config.mlp_bias
        elif config.qkv_bias and not config.out_bias:
            name, fits = "Qwen2ForCausalLM", not config.mlp_bias and config.head_size * config.heads == config.width
        else:
            name, fits = "LlamaForCausalLM", config.qkv_bias == config.out_bias
        if fits:
            return FAMILIES[name]
    raise CheckpointError(f"[save_pretrained] model must be one that Hugging Face has ({', '.join(FAMILIES)}), got "
                          f"{type(model).__name__} with {config}.")
