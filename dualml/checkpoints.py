"""Checkpoints: a folder of safetensors and JSON that is there whole or not at all.

    step-000200/model.safetensors       state_dict of the model
                optimizer.safetensors   the optimizer's state tensors, as <parameter name>.<state name>
                state.json              step, settings, random state: all else a run needs to go on exactly
                commit.json             sizes and SHA-256 of the three, written last: the mark that they are whole

A folder is written under a temporary name, flushed to disk, and renamed, so that a crash at any moment leaves the
checkpoint before it. Who reads takes the newest whose files are what commit.json says.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from . import random
from .dtypes import from_numpy_dtype
from .errors import CheckpointError, DualmlError
from .nn import Module
from .optim import Optimizer
from .safe_files import flush, load_tensors, read_json, save_tensors, sha256, write_json, writing
from .tensor import Tensor

FORMAT = 2
COMMIT = "commit.json"
_FOLDER = re.compile(r"step-(\d+)(\.old)?")  # .old: a step about to be replaced by itself, written again
_FULL = "The checkpoint before it is untouched. Free some space, or see to the folder's permissions, and go on from it."

# ---- writing --------------------------------------------------------------------------------------------------------


def save(folder: Path, step: int, model: Module, optimizer: Optimizer, state: Mapping[str, Any], keep: int = 2,
         protect: Collection[int] = ()) -> Path:
    """Writes `folder/step-<step>` and drops all but the newest `keep`.

    Args:
        state: whatever else the run needs, as JSON values. The random generator's state is added.
        protect: steps whose checkpoints stay, such as the best one's.
    Returns:
        The new checkpoint's folder.
    Raises:
        CheckpointError: the disk is full or not writable; the checkpoints there are stay as they were.
    """
    target, partial = folder / f"step-{step:06d}", folder / f"partial-{os.getpid()}"
    with writing(target, _FULL):
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("partial-*"):  # of a run that was killed while saving
            shutil.rmtree(left, ignore_errors=True)
        partial.mkdir()
        try:
            _write(partial, step, model, optimizer, state)
            _put(partial, target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        past = [p for p in steps(folder) if number(p) <= step]  # later ones are broken, and were skipped
        _drop([p for p in past[:-keep] if number(p) not in protect])
    return target


def _write(partial: Path, step: int, model: Module, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """All files of a checkpoint, the commit mark last."""
    tensors, settings = _optimizer_state(model, optimizer)
    save_tensors(partial / "model.safetensors", _values(model.state_dict()))
    save_tensors(partial / "optimizer.safetensors", _values(tensors))
    write_json(partial / "state.json", {"format": FORMAT, "step": step, "random": random.get_state(),
                                        "optimizer": settings, **state})
    files = {p.name: {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in sorted(partial.iterdir())}
    write_json(partial / COMMIT, {"format": FORMAT, "step": step, "files": files})
    flush(partial)


def _put(partial: Path, target: Path) -> None:
    """Gives a whole checkpoint its name. One of that name (the same step again, after a resume) is kept under another
    until then, so that there is no moment without either."""
    old = target.with_name(f"{target.name}.old")
    if target.exists():
        _drop([old] if old.exists() else [])
        os.replace(target, old)
    os.replace(partial, target)
    flush(target.parent)
    _drop([old] if old.exists() else [])


def _drop(unwanted: Collection[Path]) -> None:
    """Removes checkpoints, renamed first: half a folder must not look like a damaged one."""
    for path in unwanted:
        going = path.with_name(f"partial-{path.name}")
        shutil.rmtree(going, ignore_errors=True)
        os.replace(path, going)
        shutil.rmtree(going, ignore_errors=True)


def _values(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {n: t.detach().numpy() for n, t in tensors.items()}


# ---- which there are ------------------------------------------------------------------------------------------------

def steps(folder: Path) -> list[Path]:
    """Checkpoints of a folder that bear the commit mark, oldest first."""
    found = [p for p in folder.iterdir() if _FOLDER.fullmatch(p.name)] if folder.is_dir() else []
    return sorted((p for p in found if (p / COMMIT).exists()), key=lambda p: (number(p), p.suffix != ".old"))


def number(path: Path) -> int:
    """The step of a checkpoint's folder."""
    found = _FOLDER.fullmatch(path.name)
    if found is None:
        raise CheckpointError(f"[checkpoint] {path} must be a folder named step-<number>.")
    return int(found[1])


def verify(path: Path) -> None:
    """Raises CheckpointError that says which file of a checkpoint is not what commit.json says, if any."""
    commit = read_json(path / COMMIT)
    if commit.get("format") != FORMAT:
        raise CheckpointError(f"[checkpoint] {path} must be of format {FORMAT}, got {commit.get('format')!r}. Use the "
                              "version of dualml that wrote it.")
    files = commit.get("files")
    if not isinstance(files, dict) or not files.keys() >= {"model.safetensors", "optimizer.safetensors", "state.json"}:
        raise CheckpointError(f"[checkpoint] {path}/{COMMIT} does not list a checkpoint's files.")
    for name, wanted in files.items():
        file = path / name
        if Path(name).name != name or not isinstance(wanted, dict):
            raise CheckpointError(f"[checkpoint] {path}/{COMMIT} lists {name!r}, which is no file of a checkpoint.")
        if not file.is_file():
            raise CheckpointError(f"[checkpoint] {file} is missing.")
        if file.stat().st_size != wanted.get("bytes"):
            raise CheckpointError(f"[checkpoint] {file} must have {wanted.get('bytes')} bytes, got "
                                  f"{file.stat().st_size}: it was cut short or changed.")
        if sha256(file) != wanted.get("sha256"):
            raise CheckpointError(f"[checkpoint] {file} is not what was written: its SHA-256 differs.")


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=3)


def latest(folder: Path, say: Callable[[str], None] = _warn) -> Path:
    """The newest whole checkpoint of a folder.

    Args:
        say: is told of each newer one that is broken, and why.
    Raises:
        CheckpointError: there is none.
    """
    broken = []
    for path in reversed(steps(folder)):
        try:
            verify(path)
        except CheckpointError as error:
            broken.append(f"{path.name} is skipped: {error}")
            say(broken[-1])
        else:
            return path
    fix = "Train first, or name another folder." if not broken else "None of its checkpoints is whole."
    raise CheckpointError(f"[checkpoint] {folder} holds no checkpoint. {fix}")


def find(folder: Path, step: int) -> Path:
    """The checkpoint of a step. Raises CheckpointError that says which there are, or what is wrong with it."""
    found = {number(p): p for p in steps(folder)}
    if step not in found:
        raise CheckpointError(f"[checkpoint] step must be one of {', '.join(map(str, found)) or 'none'} (what {folder} "
                              f"kept), got {step}.")
    verify(found[step])
    return found[step]


# ---- reading --------------------------------------------------------------------------------------------------------

@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns errors of Python over values of a wrong type or name into a CheckpointError that names the file."""
    try:
        yield
    except DualmlError:
        raise
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"[checkpoint] {path}/state.json does not hold what a run needs: "
                              f"{type(error).__name__}: {error}. Use an earlier checkpoint.") from error


def read_state(path: Path) -> dict[str, Any]:
    """A checkpoint's state.json. Raises CheckpointError where it is missing, damaged, or of another format."""
    state = read_json(path / "state.json")
    if state.get("format") != FORMAT:
        raise CheckpointError(f"[checkpoint] {path} must be of format {FORMAT}, got {state.get('format')!r}. Use the "
                              "version of dualml that wrote it.")
    wanted = {"step": int, "random": dict, "optimizer": dict}
    for name, kind in wanted.items():
        if type(state.get(name)) is not kind:
            raise CheckpointError(f"[checkpoint] {name} in {path}/state.json must be of type {kind.__name__}, got "
                                  f"{str(state.get(name))[:40]!r}.")
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
    names = _names(model, optimizer)
    numbers = {name: i for i, name in enumerate(names)}
    whole = dict(state["optimizer"], state={i: {} for i in range(len(names))})
    like = next(model.parameters())
    for key, array in saved.items():
        name, _, kind = key.rpartition(".")
        if name not in numbers:
            raise CheckpointError(f"[checkpoint] {path} has optimizer state for {name}, which this model has not.")
        whole["state"][numbers[name]][kind] = _on(like, array)
    try:
        with reading(path):
            optimizer.load_state_dict(whole)
            random.set_state(state["random"])
    except CheckpointError:
        raise
    except DualmlError as error:
        raise CheckpointError(f"[checkpoint] {path} does not fit this optimizer. {error}") from None
    return state


def _on(like: Tensor, values: np.ndarray) -> Tensor:
    """Saved values on a tensor's backend; in float32 where that has not their dtype, as WebGPU has no bfloat16."""
    from .creation import tensor
    known = from_numpy_dtype(values.dtype) in like._array.backend.dtypes
    return tensor(values if known else values.astype(np.float32), backend=like.backend)


def _names(model: Module, optimizer: Optimizer) -> list[str]:
    """Names of the optimizer's parameters in the order it numbers them."""
    by_id = {id(p): n for n, p in model.named_parameters()}
    return [by_id[id(p)] for group in optimizer.param_groups for p in group["params"]]


def _optimizer_state(model: Module, optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    names, state = _names(model, optimizer), optimizer.state_dict()
    tensors = {f"{names[i]}.{kind}": t for i, kinds in state["state"].items() for kind, t in kinds.items()}
    return tensors, {k: v for k, v in state.items() if k != "state"}
