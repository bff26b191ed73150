"""Files from outside, and files that a crash may cut short: read with every claim checked, written and waited for.

A safetensors file is 8 bytes with the length of a header, the header, and the data of all tensors without gaps:

    {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ..., "__metadata__": {"text": "text"}}

Nothing is allocated on a file's word: each size it claims is compared with the file's own size first. Pickle files
(.pt, .bin) are refused, since loading one runs whatever code it brings.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from .errors import CheckpointError

MAX_HEADER = 100_000_000  # bytes, as in the safetensors library
MAX_JSON = 256 << 20      # the largest tokenizers are a tenth of it
MAX_DIMENSIONS = 32
_DTYPES: dict[str, Any] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64,
    "I32": np.int32, "I16": np.int16, "I8": np.int8, "U64": np.uint64, "U32": np.uint32, "U16": np.uint16,
    "U8": np.uint8, "BOOL": np.bool_, "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}
PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"}
_PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")  # a zip holds one in .pt files
_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors")


def _wrong(path: Path, what: str, fix: str = "Use another copy of it.") -> CheckpointError:
    return CheckpointError(f"[file] {path} {what}. {fix}")


# ---- reading --------------------------------------------------------------------------------------------------------

def load_tensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, read-only and mapped: what is not touched is not read from disk.

    Raises:
        CheckpointError: the file is missing, a pickle, cut short, or claims what cannot be; the message says which.
    """
    refuse_pickle(path)
    start, header, _ = _header(path)
    if not header:
        return {}
    data = np.memmap(path, np.uint8, "r", start) if path.stat().st_size > start else np.empty(0, np.uint8)
    found = {}
    for name, (dtype, shape, begin, end) in header.items():
        flat = np.asarray(data[begin:end])
        found[name] = (flat != 0 if dtype == np.bool_ else flat.view(dtype)).reshape(shape)
    return found


def read_metadata(path: Path) -> dict[str, str]:
    """The texts in a safetensors file's __metadata__. Raises CheckpointError as load_tensors."""
    refuse_pickle(path)
    return _header(path)[2]


def _header(path: Path) -> tuple[int, dict[str, tuple[np.dtype, tuple[int, ...], int, int]], dict[str, str]]:
    """Where the data begins; of each tensor dtype, shape, and first and last byte after there; and the metadata."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(9)
            length = int.from_bytes(first[:8], "little")
            if len(first) < 8:
                raise _wrong(path, f"must be a safetensors file of at least 8 bytes, got {size}")
            if length > min(MAX_HEADER, size - 8):
                if first[8:] != b"{":
                    raise _wrong(path, "is no safetensors file: that has a header of JSON behind its first 8 bytes",
                                 "Name a .safetensors file.")
                raise _wrong(path, f"claims a header of {length:,} bytes, but the file has {size:,} and a header at "
                                   f"most {MAX_HEADER:,}")
            file.seek(8)
            text = file.read(length)
    except OSError as error:
        raise _unreadable(path, error) from None
    header = _parse(path, text)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _wrong(path, "must map text to text in __metadata__")
    entries = {name: _entry(path, name, value, size - 8 - length) for name, value in header.items()}
    place = 0
    for name, (_, _, begin, end) in sorted(entries.items(), key=lambda e: e[1][2:]):
        if begin != place:
            raise _wrong(path, f"must hold its tensors one after another, but {name!r} begins at byte {begin:,} where "
                               f"{place:,} was expected")
        place = end
    if place != size - 8 - length:
        raise _wrong(path, f"must end with its last tensor, but {size - 8 - length - place:,} bytes follow")
    return 8 + length, entries, metadata


def _entry(path: Path, name: str, value: Any, room: int) -> tuple[np.dtype, tuple[int, ...], int, int]:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise _wrong(path, f"must describe {name!r} by dtype, shape and data_offsets, got {str(value)[:80]}")
    kind, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise _wrong(path, f"has {name!r} in dtype {str(kind)[:40]!r}, which must be one of {', '.join(_DTYPES)}")
    if not _whole(shape) or len(shape) > MAX_DIMENSIONS:
        raise _wrong(path, f"must give {name!r} a shape of at most {MAX_DIMENSIONS} sizes, got {str(shape)[:80]}")
    if not _whole(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= room:
        raise _wrong(path, f"has {name!r} at bytes {str(offsets)[:80]}, but there are {room:,}: it is cut short or "
                           "damaged")
    dtype = np.dtype(_DTYPES[kind])
    need = math.prod(shape) * dtype.itemsize
    if need != offsets[1] - offsets[0]:
        raise _wrong(path, f"has {name!r} of shape {str(shape)[:80]} in {kind}, which is {need:,} bytes, in "
                           f"{offsets[1] - offsets[0]:,}")
    return dtype, tuple(shape), offsets[0], offsets[1]


def _whole(values: Any) -> bool:
    """Whether it is a list of numbers from 0 on."""
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    """A JSON object whose every name comes once."""
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name comes twice")
        return found
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _wrong(path, f"must hold JSON: {error}") from None
    if not isinstance(value, dict):
        raise _wrong(path, f"must hold a JSON object, got a {type(value).__name__}")
    return value


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file. Raises CheckpointError where it is missing, too large, or something else."""
    try:
        size = path.stat().st_size
        if size > MAX_JSON:
            raise _wrong(path, f"must be at most {MAX_JSON:,} bytes, got {size:,}")
        return _parse(path, path.read_bytes())
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    if isinstance(error, FileNotFoundError):
        return CheckpointError(f"[file] {path} does not exist.")
    return _wrong(path, f"cannot be read: {error.strerror or error}", "Look at its permissions and its disk.")


def refuse_pickle(path: Path) -> None:
    """Raises CheckpointError for a file whose name or first bytes are those of a pickle."""
    start = b""
    if path.suffix not in PICKLES and path.is_file():
        with path.open("rb") as file:
            start = file.read(9)
    if start[8:] == b"{":  # a header of JSON, whose length may begin like a pickle: 640 bytes are 80 02
        return
    if path.suffix in PICKLES or start.startswith(_PICKLE_STARTS):
        raise _wrong(path, "is a pickle file, which runs whatever code is in it when loaded. It was not opened",
                     "Take the model's .safetensors files, or convert it where you trust it: "
                     "safetensors.torch.save_file(torch.load(path, weights_only=True), 'model.safetensors').")


def load_folder(folder: Path, name: str = "model") -> dict[str, np.ndarray]:
    """The tensors of a model's folder in Hugging Face's form: NAME.safetensors, or the shards that
    NAME.safetensors.index.json lists. A shard is a plain file name in the same folder; whatever leads elsewhere is
    refused."""
    single, index = folder / f"{name}.safetensors", folder / f"{name}.safetensors.index.json"
    if single.exists() or not index.exists():
        for other in () if single.exists() else sorted(folder.glob("*")):
            refuse_pickle(other)
        return load_tensors(single)
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise _wrong(index, "must map tensors to files in weight_map")
    for tensor, shard in where.items():
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard):
            raise _wrong(index, f"must name a .safetensors file of its own folder for {tensor!r}, got "
                                f"{str(shard)[:80]!r}", "Do not use a model that does this.")
    found: dict[str, np.ndarray] = {}
    for shard in sorted(set(where.values())):
        _stays_inside(folder, folder / shard)
        held = load_tensors(folder / shard)
        missing = [t for t, s in where.items() if s == shard and t not in held]
        if missing:
            raise _wrong(folder / shard, f"must hold {missing[0]!r}, as {index.name} says, but does not")
        found |= {t: a for t, a in held.items() if where.get(t) == shard}
    return found


def _stays_inside(folder: Path, file: Path) -> None:
    """Refuses a link to a file elsewhere, but for those of the hub's cache, which keeps all files in blobs/."""
    home = folder.resolve()
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if file.resolve().parent not in (home, blobs):
        raise _wrong(file, f"is a link to {file.resolve()}, outside of its folder", "Put the file itself there.")


# ---- writing --------------------------------------------------------------------------------------------------------

@contextmanager
def writing(path: Path, fix: str) -> Iterator[None]:
    """Turns what the system says against writing a file (disk full, read-only) into a CheckpointError that names it."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"[file] {path} cannot be written: {error.strerror or error}. {fix}") from error


@contextmanager
def replacing(path: Path, fix: str) -> Iterator[Path]:
    """A path to write to, which becomes `path` at the end: the file is there whole or as it was before. Raises
    CheckpointError where the system refuses."""
    partial = path.with_name(f"partial-{path.name}")
    with writing(path, fix):
        try:
            yield partial
            os.replace(partial, path)
        finally:
            with suppress(OSError):
                partial.unlink()


def save_tensors(path: Path, arrays: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Writes arrays as one safetensors file and waits until it is on disk. Raises OSError where it cannot."""
    import safetensors.numpy
    path.touch()
    mode = path.stat().st_mode
    try:
        safetensors.numpy.save_file({n: np.asarray(a, order="C") for n, a in arrays.items()}, path, metadata)
    except safetensors.SafetensorError as error:  # it says what the system said: "... (os error 28) ..."
        number = re.search(r"os error (\d+)", str(error))
        raise (OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))) from None
    path.chmod(mode)  # the library makes files that only their owner can read
    flush(path)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes an object and waits until it is on disk. Half a surrogate pair is written as JSON's escape of it."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    path.write_text(text, encoding="utf-8", errors="backslashreplace")
    flush(path)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on disk. Windows flushes neither of folders."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
