"""Models in Hugging Face's form, read and written: a folder of config.json, safetensors and tokenizer.json.

Files are mapped, and each parameter is converted by itself: memory peaks at the model and its largest tensor. All
names and shapes are compared with what the configuration says before anything is allocated.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from .. import runtime
from ..errors import CheckpointError, DataError
from ..nn import Module, init
from ..safe_files import flush, load_folder, read_json, save_tensors, write_json, writing
from ..text import BPETokenizer, SentencePieceTokenizer, WordPieceTokenizer, load_tokenizer_json
from .bert import Bert, BertConfig
from .families import Entry, Family, family_for, family_of
from .hub import download

_FLOATS = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float64))
MAX_SHARD = 4 << 30  # bytes


# ---- reading --------------------------------------------------------------------------------------------------------

def from_pretrained(path: str | Path, backend: str | None = None, revision: str | None = None,
                    tokenizer: bool = True) -> tuple[Any, Any]:
    """A model with its weights, in eval mode, and its tokenizer (None where the folder has none).

    Args:
        path: a folder with config.json and model.safetensors (or shards), or a repository of the Hugging Face hub.
        backend: where the weights go; the current one by default.
        revision: of the hub's repository.
        tokenizer: whether to read tokenizer.json.
    Raises:
        DataError: tokenizer.json is damaged, or of a kind that is not supported.
        CheckpointError: the architecture is not supported, or a file or tensor is missing, too many, or of another
            shape; the message names it.
    """
    folder = Path(path)
    if not folder.is_dir():
        folder = download(str(path), revision)
    if (folder / "checkpoints").is_dir() and not (folder / "config.json").exists():
        raise CheckpointError(f"[from_pretrained] {folder} is a run of dualml, not a folder in Hugging Face's form. "
                              "On the command line --out names a run; in Python, dualml.train.load_for_sampling loads "
                              "it.")
    hf = read_json(folder / "config.json")
    family = family_of(hf)
    tensors = _named(family, load_folder(folder))
    config = family.adapt(family.config(hf), tensors)
    if isinstance(config, BertConfig):
        config = _pooling(folder, config)
    entries = _checked(family, config, tensors)
    with runtime.use_backend(backend or runtime.current().name), init.skipped():
        model = family.make(config)
        parameters = dict(model.named_parameters())
        for entry in entries:
            parameters[entry.name]._array.write(_joined(entry, tensors))
    model.source_config = hf  # type: ignore[attr-defined]
    text = _tokenizer(folder, config.vocab_size) if tokenizer else None
    if isinstance(model, Bert):
        model.tokenizer = text
    return model.eval(), text


def _tokenizer(folder: Path, vocab_size: int) -> Any:
    """The tokenizer of tokenizer.json, None where there is no such file."""
    path = folder / "tokenizer.json"
    if not path.exists():
        return None
    try:
        found = load_tokenizer_json(path)
        if found.vocab_size > vocab_size:
            raise DataError(f"[tokenizer] {path} must have at most {vocab_size} tokens, as the model, got "
                            f"{found.vocab_size}.")
    except DataError as error:
        raise DataError(f"{error} from_pretrained(..., tokenizer=False) loads the weights alone.") from None
    return found


def _named(family: Family, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors without the prefix that a file may have and without what no model reads."""
    drop = re.compile("|".join(family.unused) or "$.")
    short = {name.removeprefix(family.prefix): name for name in tensors}
    if len(short) != len(tensors):
        twice = sorted(n for n in tensors if n.startswith(family.prefix) and n.removeprefix(family.prefix) in tensors)
        raise CheckpointError(f"[from_pretrained] {twice[0]} is in the file with and without {family.prefix!r}.")
    return {name: tensors[long] for name, long in short.items() if not drop.fullmatch(name)}


def _checked(family: Family, config: Any, tensors: Mapping[str, np.ndarray]) -> list[Entry]:
    """What the parameters are made of. Raises CheckpointError that tells all tensors that do not fit."""
    if config.layers > len(tensors):
        raise CheckpointError(f"[from_pretrained] the file must hold the weights of {config.layers} layers, as "
                              f"config.json says, got {len(tensors)} tensors.")
    entries = list(family.entries(config))
    wanted = {name: shape for entry in entries for name, shape in entry.parts}
    extra = set(tensors) - wanted.keys()
    table = next(iter(wanted))
    if family.tied in extra and np.array_equal(tensors[family.tied], tensors.get(table, np.empty(0))):
        extra.remove(family.tied)  # a tied head, written a second time
    problems = [f"missing {n}" for n in wanted if n not in tensors]
    problems += [f"unexpected {n}" for n in sorted(extra)]
    for name, shape in wanted.items():
        found = tensors.get(name)
        if found is not None and found.shape != shape:
            problems.append(f"{name} must have shape {shape}, got {found.shape}")
        elif found is not None and found.dtype not in _FLOATS:
            problems.append(f"{name} must be of floats of 16, 32 or 64 bits, got {found.dtype}")
    if problems:
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise CheckpointError(f"[from_pretrained] the tensors are not those of {family.architecture} as config.json "
                              f"describes it: {'; '.join(problems[:8])}{more}.")
    return entries


def _joined(entry: Entry, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """A parameter's values in float32."""
    parts = [tensors[name].T if entry.transposed else tensors[name] for name, _ in entry.parts]
    rows = [len(part) for part in parts]
    made = np.empty((sum(rows), *parts[0].shape[1:]), np.float32)
    for end, part in zip(np.cumsum(rows), parts, strict=True):
        made[end - len(part):end] = part
    return made


def _pooling(folder: Path, config: BertConfig) -> BertConfig:
    """What sentence-transformers' files say of pooling, where there are such."""
    pooling, reads = folder / "1_Pooling" / "config.json", folder / "sentence_bert_config.json"
    if pooling.exists():
        modes = {name for name, on in read_json(pooling).items() if name.startswith("pooling_mode_") and on is True}
        known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
        if len(modes) != 1 or not modes <= known.keys():
            raise CheckpointError(f"[from_pretrained] {pooling} must choose one of {', '.join(known)}, got "
                                  f"{', '.join(sorted(modes)) or 'none'}.")
        config = replace(config, pooling=known[modes.pop()])
    longest = read_json(reads).get("max_seq_length") if reads.exists() else None
    return replace(config, longest=longest) if type(longest) is int and longest > 2 else config


def _save_pooling(config: BertConfig, folder: Path) -> None:
    """The files that _pooling reads."""
    (folder / "1_Pooling").mkdir()
    write_json(folder / "1_Pooling" / "config.json", {
        "word_embedding_dimension": config.width, "pooling_mode_cls_token": config.pooling == "cls",
        "pooling_mode_mean_tokens": config.pooling == "mean"})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": config.longest, "do_lower_case": False})


# ---- writing --------------------------------------------------------------------------------------------------------

def save_pretrained(model: Module, folder: str | Path, tokenizer: Any = None, max_shard: int = MAX_SHARD) -> Path:
    """Writes a model in Hugging Face's form, in float32, which transformers loads with the same logits.

    Args:
        folder: must not exist, or be empty. It appears whole or not at all.
        tokenizer: is written beside it, as tokenizer.json.
        max_shard: bytes of a file; of larger models there are several, and an index.
    Raises:
        CheckpointError: Hugging Face has no such model, or the folder is not empty or cannot be written.
    """
    target, family = Path(folder), family_for(model)
    config = family.to_hf(model.config)  # type: ignore[attr-defined]
    with writing(target, "Free some space, or see to the folder's permissions."):
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise CheckpointError(f"[save_pretrained] folder must not exist or be empty, got {target}. Name another.")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}-{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            _write_shards(family, model, partial, max_shard)
            if tokenizer is not None:
                _save_tokenizer(tokenizer, partial / "tokenizer.json")
            known = {k: v for k, v in getattr(model, "source_config", {}).items() if k not in _REPLACED}
            write_json(partial / "config.json", {**known, **config, "architectures": [family.architecture],
                                                 "model_type": family.model_type, "dtype": "float32"})
            if isinstance(model, Bert):
                _save_pooling(model.config, partial)
            flush(partial)
            os.replace(partial, target)
            flush(target.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def _save_tokenizer(tokenizer: Any, path: Path) -> None:
    if isinstance(tokenizer, WordPieceTokenizer):
        write_json(path, tokenizer.to_dict()["tokenizer"])
    elif isinstance(tokenizer, BPETokenizer | SentencePieceTokenizer):
        tokenizer.save(path)
    else:
        raise CheckpointError("[save_pretrained] tokenizer must be a BPETokenizer, SentencePieceTokenizer or "
                              f"WordPieceTokenizer, which have a tokenizer.json, got {type(tokenizer).__name__}.")


_REPLACED = ("torch_dtype", "rope_parameters", "auto_map", "_name_or_path", "transformers_version")


def _write_shards(family: Family, model: Module, folder: Path, max_shard: int) -> None:
    """The tensors, in as many files as their bytes ask for, and an index where it is more than one."""
    groups: list[list[Entry]] = [[]]
    size = total = 0
    for entry in family.entries(model.config):  # type: ignore[attr-defined]
        nbytes = 4 * sum(math.prod(shape) for _, shape in entry.parts)
        if size + nbytes > max_shard and groups[-1]:
            groups.append([])
            size = 0
        groups[-1].append(entry)
        size, total = size + nbytes, total + nbytes
    parameters = dict(model.named_parameters())
    where: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        name = "model.safetensors" if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        arrays = {_long(family, n): a for entry in group
                  for n, a in _split(entry, parameters[entry.name].detach().numpy())}
        save_tensors(folder / name, arrays, {"format": "pt"})
        where |= dict.fromkeys(arrays, name)
    if len(groups) > 1:
        write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})


def _long(family: Family, name: str) -> str:
    """The name in Hugging Face's files; BertModel has its tensors without a prefix."""
    return name if name == family.tied or family.model_type == "bert" else family.prefix + name


def _split(entry: Entry, values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors that a parameter was made of."""
    start = 0
    for name, shape in entry.parts:
        rows = shape[-1] if entry.transposed else shape[0]
        part = values[start:start + rows]
        yield name, part.T if entry.transposed else part
        start += rows
