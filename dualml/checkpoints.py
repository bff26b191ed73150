"""Checkpoints: a folder of safetensors and JSON that is there whole or not at all.

    step-000200/model.safetensors       state_dict of the model
                optimizer.safetensors   the optimizer's state tensors, as <parameter name>.<state name>
                state.json              step, settings, random state: all else a run needs to go on exactly

A folder is written under a temporary name, flushed to disk, and renamed, so that a crash at any moment leaves the
checkpoint before it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from . import random
from .errors import CheckpointError, DualmlError
from .nn import Module
from .optim import Optimizer
from .tensor import Tensor

FORMAT = 1
_FOLDER = re.compile(r"step-\d+")


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors as one safetensors file and waits until it is on disk."""
    safetensors.numpy.save_file({n: np.ascontiguousarray(t.detach().numpy()) for n, t in tensors.items()}, path)
    _flush(path)


def load_tensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file. Raises CheckpointError where it is missing or damaged."""
    try:
        return safetensors.numpy.load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"[checkpoint] {path} does not exist.") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"[checkpoint] {path} cannot be read: {error}. Use an earlier checkpoint.") from None


def save(folder: Path, step: int, model: Module, optimizer: Optimizer, state: Mapping[str, Any], keep: int = 2,
         protect: Collection[int] = ()) -> Path:
    """Writes `folder/step-<step>` and drops all but the newest `keep`.

    Args:
        state: whatever else the run needs, as JSON values. The random generator's state is added.
        protect: steps whose checkpoints stay, such as the best one's.
    Returns:
        The new checkpoint's folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{step:06d}"
    for left in folder.glob("partial-*"):  # of a run that was killed while saving
        shutil.rmtree(left, ignore_errors=True)
    partial = folder / f"partial-{os.getpid()}"
    partial.mkdir()
    try:
        save_tensors(partial / "model.safetensors", model.state_dict())
        tensors, settings = _optimizer_state(model, optimizer)
        save_tensors(partial / "optimizer.safetensors", tensors)
        whole = {"format": FORMAT, "step": step, "random": random.get_state(), "optimizer": settings, **state}
        (partial / "state.json").write_text(json.dumps(whole, ensure_ascii=False, indent=1), encoding="utf-8")
        _flush(partial / "state.json")
        _flush(partial)
        if target.exists():  # the same step again, after a resume
            shutil.rmtree(target)
        os.replace(partial, target)
        _flush(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for old in steps(folder)[:-keep]:
        if _number(old) not in protect:
            shutil.rmtree(old, ignore_errors=True)
    return target


def steps(folder: Path) -> list[Path]:
    """Complete checkpoints of a folder, oldest first."""
    found = [p for p in folder.iterdir() if _FOLDER.fullmatch(p.name)] if folder.is_dir() else []
    return sorted((p for p in found if (p / "state.json").exists()), key=_number)


def _number(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def latest(folder: Path) -> Path:
    """The newest checkpoint of a folder. Raises CheckpointError where there is none."""
    found = steps(folder)
    if not found:
        raise CheckpointError(f"[checkpoint] {folder} holds no checkpoint. Train first, or name another folder.")
    return found[-1]


def read_state(path: Path) -> dict[str, Any]:
    """A checkpoint's state.json. Raises CheckpointError where it is missing, damaged, or of another format."""
    try:
        state: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"[checkpoint] {path}/state.json cannot be read: {error}.") from None
    if state.get("format") != FORMAT:
        raise CheckpointError(f"[checkpoint] {path} must be of format {FORMAT}, got {state.get('format')}. Use the "
                              "version of dualml that wrote it.")
    return state


def load_model(path: Path, model: Module) -> None:
    """Copies a checkpoint's weights into a model of the same configuration."""
    saved = load_tensors(path / "model.safetensors")
    try:
        model.load_state_dict({n: _on(next(model.parameters()), a) for n, a in saved.items()})
    except DualmlError as error:
        raise CheckpointError(f"[checkpoint] {path} does not fit this model. {error}") from None


def load(path: Path, model: Module, optimizer: Optimizer) -> dict[str, Any]:
    """Restores model, optimizer and random generator, and returns the rest of the state."""
    state = read_state(path)
    load_model(path, model)
    saved = load_tensors(path / "optimizer.safetensors")
    numbers = _names(model, optimizer)
    whole = dict(state["optimizer"], state={i: {} for i in range(len(numbers))})
    like = next(model.parameters())
    for key, array in saved.items():
        name, _, kind = key.rpartition(".")
        if name not in numbers:
            raise CheckpointError(f"[checkpoint] {path} has optimizer state for {name}, which this model has not.")
        whole["state"][numbers.index(name)][kind] = _on(like, array)
    try:
        optimizer.load_state_dict(whole)
    except DualmlError as error:
        raise CheckpointError(f"[checkpoint] {path} does not fit this optimizer. {error}") from None
    random.set_state(state["random"])
    return state


def _on(like: Tensor, values: np.ndarray) -> Tensor:
    from .creation import tensor
    return tensor(values, backend=like.backend)


def _names(model: Module, optimizer: Optimizer) -> list[str]:
    """Names of the optimizer's parameters in the order it numbers them."""
    by_id = {id(p): n for n, p in model.named_parameters()}
    return [by_id[id(p)] for group in optimizer.param_groups for p in group["params"]]


def _optimizer_state(model: Module, optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    names, state = _names(model, optimizer), optimizer.state_dict()
    tensors = {f"{names[i]}.{kind}": t for i, kinds in state["state"].items() for kind, t in kinds.items()}
    return tensors, {k: v for k, v in state.items() if k != "state"}


def _flush(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on disk. Windows flushes neither of folders."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
