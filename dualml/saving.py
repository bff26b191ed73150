"""dm.save and dm.load: nested state, such as state_dicts, as one safetensors file.

Tensors are stored under the path that leads to them, "model.blocks.0.weight", where other programs find them too. How
they are nested, and the numbers and texts between them, is JSON in the file's metadata under "dualml":

    number, text, true, null     themselves, but for floats that JSON has no word for: {"float": "inf"}
    {"tensor": "name"}           a tensor; one that comes twice is stored once
    {"list": [...]}, {"tuple": [...]}, {"dict": [[key, value], ...]}
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from .creation import tensor
from .errors import CheckpointError
from .safe_files import PICKLES, flush, load_tensors, read_metadata, save_tensors, writing
from .tensor import Tensor

MAX_DEPTH = 64
_WHERE = "Save state_dict() of a model or an optimizer, and plain numbers and texts."


def save(obj: Any, path: str | Path) -> None:
    """Writes tensors, plain numbers and texts, and dicts, lists and tuples of them as one safetensors file. It is there
    whole or not at all: a file that was there before stays until then.

    Args:
        obj: such as {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 100}.
        path: the file, NAME.safetensors. The names of pickle files (.pt, .bin) are refused, since load refuses them.
    Raises:
        CheckpointError: obj holds something else, named by its place, or the file cannot be written.
    """
    target, writer = Path(path), _Writer()
    if target.suffix in PICKLES:
        raise CheckpointError(f"[save] path must not end in {target.suffix}, which is for pickle files, got {target}. "
                              f"This is a safetensors file: {target.stem}.safetensors.")
    structure = json.dumps(writer.node(obj, "", 0))
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    with writing(target, "A file that was there before is untouched. Free some space, or choose another folder."):
        try:
            save_tensors(partial, writer.arrays, {"dualml": structure})
            os.replace(partial, target)
            flush(target.resolve().parent)
        finally:
            partial.unlink(missing_ok=True)


def load(path: str | Path, backend: str | None = None) -> Any:
    """What save wrote; of any other safetensors file a dict of its tensors.

    Args:
        path: the file. Pickles (.pt, .bin) are refused, because loading one runs whatever code is in it.
        backend: where tensors are made; the current one by default. Integers narrow to int32.
    Raises:
        CheckpointError: the file is missing, a pickle, or damaged; the message says which.
    """
    place = Path(path)
    arrays = load_tensors(place)
    text = read_metadata(place).get("dualml")
    if text is None:
        return {name: tensor(array, backend=backend) for name, array in arrays.items()}
    try:
        node = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"[load] {place} must hold JSON in its metadata: {error}. Use another copy.") from None
    return _Reader(place, arrays, backend).value(node, 0)


class _Writer:
    """Turns an object into JSON values, and keeps its tensors' values by name."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self._known: dict[tuple[Any, ...], str] = {}

    def node(self, value: Any, path: str, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise CheckpointError(f"[save] obj must nest at most {MAX_DEPTH} deep, got more at {path!r}. {_WHERE}")
        if isinstance(value, Tensor):
            return {"tensor": self._name(value, path)}
        if isinstance(value, np.generic) and value.ndim == 0:
            value = value.item()
        if value is None or isinstance(value, (bool, int, str)):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"float": repr(value)}
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, (str, int)):
                    raise self._refused(f"{path}'s keys", "texts or integers", key)
            return {"dict": [[k, self.node(v, self._below(path, k), depth + 1)] for k, v in value.items()]}
        if type(value) in (list, tuple):
            items = [self.node(v, self._below(path, i), depth + 1) for i, v in enumerate(value)]
            return {type(value).__name__: items}
        raise self._refused(path or "obj", "a tensor, number, text, or dict, list or tuple of them", value)

    @staticmethod
    def _below(path: str, key: str | int) -> str:
        return f"{path}.{key}" if path else str(key)

    @staticmethod
    def _refused(where: str, must: str, value: Any) -> CheckpointError:
        return CheckpointError(f"[save] {where} must be {must}, got {type(value).__name__}. {_WHERE}")

    def _name(self, value: Tensor, path: str) -> str:
        """The name a tensor is stored under: its path, or that of the same memory seen before."""
        array = value._array
        key = (id(array.buffer), array.offset, array.shape, array.dtype)
        if key not in self._known:
            name, number = path or "tensor", 1
            while name in self.arrays or name == "__metadata__":
                number += 1
                name = f"{path}#{number}"
            self._known[key], self.arrays[name] = name, array.numpy()
        return self._known[key]


class _Reader:
    """Builds the object from JSON values, none of which is believed."""

    def __init__(self, path: Path, arrays: dict[str, np.ndarray], backend: str | None) -> None:
        self.path, self.arrays, self.backend = path, arrays, backend
        self._made: dict[str, Tensor] = {}

    def _wrong(self, what: str) -> CheckpointError:
        return CheckpointError(f"[load] {self.path} {what}. Use another copy of it.")

    def value(self, node: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise self._wrong(f"nests more than {MAX_DEPTH} deep")
        if node is None or isinstance(node, (bool, int, float, str)):
            return node
        if not isinstance(node, dict) or len(node) != 1:
            raise self._wrong(f"describes its content by {str(node)[:80]}, which is nothing that save writes")
        (kind, content), = node.items()
        if kind == "tensor" and isinstance(content, str):
            return self._tensor(content)
        if kind == "float" and content in ("inf", "-inf", "nan"):
            return float(content)
        if kind in ("list", "tuple") and isinstance(content, list):
            items = [self.value(v, depth + 1) for v in content]
            return items if kind == "list" else tuple(items)
        if kind == "dict" and isinstance(content, list) and all(map(_is_pair, content)):
            return {k: self.value(v, depth + 1) for k, v in content}
        raise self._wrong(f"describes its content by {str(node)[:80]}, which is nothing that save writes")

    def _tensor(self, name: str) -> Tensor:
        if name not in self.arrays:
            raise self._wrong(f"must hold a tensor {name[:80]!r}, as its metadata says, but does not")
        if name not in self._made:
            self._made[name] = tensor(self.arrays[name], backend=self.backend)
        return self._made[name]


def _is_pair(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 2 and isinstance(item[0], (str, int))
