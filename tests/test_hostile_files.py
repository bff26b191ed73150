"""Files that lie, files that were cut short, disks that are full: each gets an error that says so, and nothing else
happens. The last test counts them."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml import checkpoints, safe_files
from dualml.errors import CheckpointError, DualmlError
from dualml.safe_files import load_folder, load_tensors, read_json, sha256
from dualml.train import prepare, recipe, resume
from dualml.train.lock import FolderLock

TEXT = "the quick brown fox jumps over the lazy dog and runs away. " * 60


def packed(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file, right or wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape,
            "data_offsets": list(offsets) if isinstance(offsets, tuple) else offsets}


def one(**changes: Any) -> bytes:
    return packed({"x": entry(**changes)}, bytes(8))


TENSOR_FILES: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "at least 8 bytes, got 0"),
    "seven bytes": (b"\1" * 7, "at least 8 bytes, got 7"),
    "header larger than the file": (packed({}, length=1000), "header of 1,000 bytes, but the file has 10"),
    "header of 2**63": (packed({}, length=2**63), "claims a header of 9,223,372,036,854,775,808 bytes"),
    "header of 2**64 - 1": (packed({}, length=2**64 - 1), "claims a header of 18,446"),
    "header is not text": (packed(b"\xff\xfe\xfd"), "must hold JSON"),
    "header is not JSON": (packed(b"{'x': 1}"), "must hold JSON"),
    "header is cut short": (packed(b'{"x": {"dtype": "F3'), "must hold JSON"),
    "header is a list": (packed([1, 2]), "must hold a JSON object, got a list"),
    "header is nested without end": (packed(b"[" * 200_000), "must hold JSON"),
    "name twice": (packed(b'{"x": 1, "x": 2}'), "a name comes twice"),
    "metadata is a list": (packed({"__metadata__": [1]}), "text to text in __metadata__"),
    "metadata has numbers": (packed({"__metadata__": {"a": 1}}), "text to text in __metadata__"),
    "entry is a number": (packed({"x": 5}), "describe 'x' by dtype, shape and data_offsets"),
    "entry without shape": (packed({"x": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)), "describe 'x'"),
    "entry with more": (packed({"x": entry() | {"code": "import os"}}, bytes(8)), "describe 'x'"),
    "unknown dtype": (one(dtype="F33"), "in dtype 'F33', which must be one of"),
    "dtype is a list": (one(dtype=["F32"]), "in dtype"),
    "negative size": (one(shape=(-2,)), "a shape of at most"),
    "size is a fraction": (one(shape=(2.0,)), "a shape of at most"),
    "size is true": (one(shape=(True, 2)), "a shape of at most"),
    "shape is text": (one(shape="22"), "a shape of at most"),
    "a thousand dimensions": (one(shape=(1,) * 1000), "a shape of at most 32"),
    "shape overflows 64 bits": (one(shape=(2**32, 2**32, 2**32)), "which is 316,912,650,"),
    "size of 2**80": (one(shape=(2**80,)), "a shape of at most"),
    "an exabyte": (one(shape=(2**58,), offsets=(0, 2**60)), "but there are 8: it is cut short"),
    "data cut short": (packed({"x": entry()}, bytes(7)), "but there are 7: it is cut short"),
    "no data": (packed({"x": entry()}), "but there are 0: it is cut short"),
    "shape larger than the data": (one(shape=(3,)), r"shape \[3\] in F32, which is 12 bytes, in 8"),
    "shape smaller than the data": (one(shape=(1,)), "which is 4 bytes, in 8"),
    "offsets backwards": (one(offsets=(8, 0)), "at bytes"),
    "negative offset": (one(offsets=(-8, 0)), "at bytes"),
    "one offset": (one(offsets=(8,)), "at bytes"),
    "offsets are text": (one(offsets=("0", "8")), "at bytes"),
    "overlap": (packed({"x": entry(), "y": entry(offsets=(4, 12))}, bytes(12)), "'y' begins at byte 4 where 8"),
    "hole": (packed({"x": entry(), "y": entry(offsets=(12, 20))}, bytes(20)), "'y' begins at byte 12 where 8"),
    "more than the tensors": (packed({"x": entry()}, bytes(9)), "but 1 bytes follow"),
    "data without tensors": (packed({}, bytes(100)), "but 100 bytes follow"),
}
PICKLES: dict[str, tuple[str, bytes]] = {
    "a .pt file": ("model.pt", b"anything"), "a .pth file": ("model.pth", b""),
    "pytorch_model.bin": ("pytorch_model.bin", b"PK\3\4"), "a .ckpt file": ("last.ckpt", b"x" * 99),
    "a .pkl file": ("x.pkl", b"x"), "a pickle under another name": ("model.safetensors", b""),
    "a zip under another name": ("model.safetensors", b"PK\3\4" + b"x" * 60)}
SHARDS: dict[str, Any] = {
    "one folder up": "../model.safetensors", "absolute": "/etc/passwd", "two folders up": "a/../../model.safetensors",
    "backslashes": "..\\model.safetensors", "a drive": "C:model.safetensors", "a URL": "https://example.org/x.safetensors",
    "a zero byte": "model\0.safetensors", "a folder": "sub/model.safetensors", "hidden": ".safetensors", "empty": "",
    "a number": 7, "a list": ["model.safetensors"], "a pickle": "model.bin", "a line break": "model.safetensors\n",
    "home": "~/model.safetensors"}
INDEXES: dict[str, tuple[bytes, str]] = {
    "no map": (b"{}", "must map tensors to files"), "map is a list": (b'{"weight_map": []}', "must map tensors"),
    "index is a list": (b"[]", "must hold a JSON object"), "index is cut short": (b'{"weight', "must hold JSON"),
    "a shard is missing": (b'{"weight_map": {"x": "lost.safetensors"}}', "lost.safetensors does not exist"),
    "a tensor is missing": (b'{"weight_map": {"y": "part.safetensors"}}', "must hold 'y'")}


class Runs:
    """What a pickle that is loaded would do."""

    def __reduce__(self) -> Any:
        return os.abort, ()


@pytest.mark.parametrize("name", TENSOR_FILES)
def test_tensor_file(name: str, tmp_path: Path) -> None:
    content, message = TENSOR_FILES[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_tensors(path)


def test_every_way_to_cut_a_file_short(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safe_files.save_tensors(path, {"x": np.ones((2, 3), np.float32), "y": np.zeros(5, np.int32)})
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            load_tensors(path)


def test_a_flipped_bit_is_an_error_or_other_numbers(tmp_path: Path) -> None:
    """Never anything else: no crash, no tensor outside of the file, no allocation on its word."""
    path = tmp_path / "model.safetensors"
    safe_files.save_tensors(path, {"x": np.ones((2, 3), np.float32), "yy": np.zeros(5, np.int32)})
    whole = bytearray(path.read_bytes())
    for place in range(len(whole)):
        for bit in range(8):
            changed = whole.copy()
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            try:
                assert sum(a.nbytes for a in load_tensors(path).values()) <= len(whole)
            except CheckpointError:
                continue


@pytest.mark.parametrize("name", PICKLES)
def test_pickle(name: str, tmp_path: Path) -> None:
    file, content = PICKLES[name]
    path = tmp_path / file
    path.write_bytes(content or pickle.dumps(Runs()))
    with pytest.raises(CheckpointError, match=r"is a pickle file, which runs .* not opened"):
        load_tensors(path)
    with pytest.raises(CheckpointError, match="is a pickle file"):
        load_folder(tmp_path)


@pytest.mark.parametrize("name", SHARDS)
def test_path_in_a_shard_index(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    safe_files.save_tensors(tmp_path / "model.safetensors", {"x": np.ones(1, np.float32)})  # what "../" would reach
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": SHARDS[name]}}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"must name a \.safetensors file of its own folder for 'x'"):
        load_folder(folder)


@pytest.mark.parametrize("name", INDEXES)
def test_shard_index(name: str, tmp_path: Path) -> None:
    content, message = INDEXES[name]
    (tmp_path / "model.safetensors.index.json").write_bytes(content)
    safe_files.save_tensors(tmp_path / "part.safetensors", {"x": np.ones(1, np.float32)})
    with pytest.raises(CheckpointError, match=message):
        load_folder(tmp_path)


def test_right_files_are_read(tmp_path: Path) -> None:
    """All dtypes, shards, no tensors at all; as the safetensors library writes and reads them."""
    import safetensors.numpy
    rng = np.random.default_rng(0)
    arrays = {name: np.asarray(rng.integers(0, 2, (3, 5)), kind) for name, kind in safe_files._DTYPES.items()}
    arrays |= {"scalar": np.array(7, np.float32), "none": np.empty((0, 4), np.float32)}
    safetensors.numpy.save_file({n: a for n, a in arrays.items() if "F8" not in n}, tmp_path / "a.safetensors",
                                {"format": "pt"})
    read = load_tensors(tmp_path / "a.safetensors")
    assert len(read) == len(arrays) - 2
    for name, array in read.items():
        assert array.dtype == arrays[name].dtype
        np.testing.assert_array_equal(array, arrays[name])
    safe_files.save_tensors(tmp_path / "b.safetensors", {"other": arrays["F16"]})
    (tmp_path / "text").write_text("a file like any other")
    assert (tmp_path / "b.safetensors").stat().st_mode == (tmp_path / "text").stat().st_mode
    weights = dict.fromkeys(read, "a.safetensors") | {"other": "b.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    assert load_folder(tmp_path).keys() == weights.keys()
    (tmp_path / "c.safetensors").write_bytes(packed({}))
    assert load_tensors(tmp_path / "c.safetensors") == {}
    odd = packed(json.dumps({"x": entry()}).encode() + b" ", np.array([1, 2], np.float32).tobytes())  # not aligned
    (tmp_path / "d.safetensors").write_bytes(odd)
    assert load_tensors(tmp_path / "d.safetensors")["x"].tolist() == [1, 2]


# ---- JSON and checkpoints -----------------------------------------------------------------------------------------

JSON_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "must hold JSON"), "binary": (b"\x93\x00\xff", "must hold JSON"), "a list": (b"[1]", "got a list"),
    "null": (b"null", "got a NoneType"), "deep": (b'{"a":' * 100_000, "must hold JSON"),
    "a number of a million digits": (b'{"a": ' + b"9" * 1_000_000 + b"}", "must hold JSON")}


@pytest.mark.parametrize("name", JSON_FILES)
def test_json(name: str, tmp_path: Path) -> None:
    content, message = JSON_FILES[name]
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_json(tmp_path / "state.json")


def test_a_json_that_is_too_large(tmp_path: Path) -> None:
    with (tmp_path / "state.json").open("wb") as file:
        file.truncate(safe_files.MAX_JSON + 1)  # takes no room on disk
    with pytest.raises(CheckpointError, match="must be at most"):
        read_json(tmp_path / "state.json")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two steps."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    config = recipe("gpt-nano", text=str(folder / "text.txt"), steps=2, batch=2, context=8, eval_batches=1,
                    sample_tokens=0)
    assert prepare(config, "cpu", folder / "run").execute()
    return folder / "run"


def rewritten(trained: Path, target: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A run whose newest state.json was changed by someone who set the checksums right."""
    import shutil
    shutil.copytree(trained, target)
    path = checkpoints.latest(target / "checkpoints")
    state = read_json(path / "state.json")
    change(state)
    (path / "state.json").write_text(json.dumps(state), encoding="utf-8")
    commit = read_json(path / "commit.json")
    commit["files"]["state.json"] = {"bytes": (path / "state.json").stat().st_size,
                                     "sha256": sha256(path / "state.json")}
    (path / "commit.json").write_text(json.dumps(commit), encoding="utf-8")
    return target


STATES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "unknown format": lambda s: s.update(format=99), "format is text": lambda s: s.update(format="2"),
    "no format": lambda s: s.pop("format"), "step is text": lambda s: s.update(step="2"),
    "step is missing": lambda s: s.pop("step"), "random is a list": lambda s: s.update(random=[1]),
    "random without a seed": lambda s: s.update(random={}), "seed is text": lambda s: s["random"].update(seed="x"),
    "optimizer is null": lambda s: s.update(optimizer=None), "no groups": lambda s: s["optimizer"].pop("param_groups"),
    "groups of numbers": lambda s: s["optimizer"].update(param_groups=[1, 2]),
    "steps of text": lambda s: s["optimizer"].update(steps=["a"] * 99), "few steps": lambda s: s["optimizer"].update(
        steps=[]), "config is a list": lambda s: s.update(config=[]), "no config": lambda s: s.pop("config"),
    "lr is text": lambda s: s["config"].update(lr="fast"), "steps is null": lambda s: s["config"].update(steps=None),
    "batch is a list": lambda s: s["config"].update(batch=[2]), "seed is true": lambda s: s["config"].update(seed=True),
    "unknown setting": lambda s: s["config"].update(rate=1), "model is text": lambda s: s.update(model="gpt"),
    "width is text": lambda s: s["model"].update(width="128"), "no vocabulary": lambda s: s["model"].pop("vocab_size"),
    "another width": lambda s: s["model"].update(width=64), "negative layers": lambda s: s["model"].update(layers=-1),
    "a trillion tokens": lambda s: s["model"].update(vocab_size=10**12),
    "a billion layers": lambda s: s["model"].update(layers=10**9),
    "tokenizer is null": lambda s: s.update(tokenizer=None),
    "tokenizer of numbers": lambda s: s["tokenizer"].update(characters=7),
    "unknown tokenizer": lambda s: s["tokenizer"].update(kind="pickle"),
    "text is a number": lambda s: s.update(text=5), "text elsewhere": lambda s: s["text"].update(source="/dev/null"),
    "plan is a list": lambda s: s.update(plan=[]), "plan of other things": lambda s: s.update(plan={"x": 1}),
    "scaler is missing": lambda s: s.pop("scaler"), "scaler of text": lambda s: s["scaler"].update(scale="big"),
    "scaler is a list": lambda s: s.update(scaler=[1]), "unknown precision": lambda s: s["config"].update(
        precision="float8"),
    "spent is text": lambda s: s.update(spent="long"), "best is a number": lambda s: s.update(best=3),
    "backend is a number": lambda s: s.update(backend=7), "backend is a module": lambda s: s.update(backend="os")}


@pytest.mark.parametrize("name", STATES)
def test_state(name: str, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(DualmlError) as told:
        resume(rewritten(trained, tmp_path / "run", STATES[name])).trainer.train()
    assert str(told.value).startswith("[")
    FolderLock(tmp_path / "run").release()  # the refused one has let it go


def test_commit_that_names_other_files(trained: Path, tmp_path: Path) -> None:
    run = rewritten(trained, tmp_path / "run", lambda s: None)
    path = checkpoints.latest(run / "checkpoints")
    for name in ("../../../text.txt", "/etc/passwd", "sub/x"):
        commit = read_json(path / "commit.json")
        commit["files"][name] = {"bytes": 1, "sha256": "0"}
        (path / "commit.json").write_text(json.dumps(commit), encoding="utf-8")
        with pytest.raises(CheckpointError, match="which is no file of a checkpoint"):
            checkpoints.verify(path)


# ---- disks and folders ----------------------------------------------------------------------------------------------

def small() -> tuple[dm.nn.Module, dm.optim.AdamW]:
    model = dm.nn.Linear(64, 64)
    return model, dm.optim.AdamW(model.parameters())


REFUSALS = {"disk full": (errno.ENOSPC, "No space left on device"),
            "read-only": (errno.EROFS, "Read-only file system"),
            "no permission": (errno.EACCES, "Permission denied"), "quota": (errno.EDQUOT, "quota exceeded")}
CALLS = ("save_tensors", "write_json", "flush")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", REFUSALS)
def test_disk(name: str, call: str, cpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = small()
    first = checkpoints.save(tmp_path, 1, model, optimizer, {})
    number, message = REFUSALS[name]

    def refuse(*given: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(checkpoints, call, refuse)
    with pytest.raises(CheckpointError, match=f"step-000002 cannot be written: .*{message}.*Free some space"):
        checkpoints.save(tmp_path, 2, model, optimizer, {})
    assert list(tmp_path.iterdir()) == [first]
    checkpoints.verify(first)


def test_a_disk_that_is_really_full(cpu: None, tmp_path: Path) -> None:
    """The system refuses to write more than so much into one file."""
    import signal
    model, optimizer = small()
    first = checkpoints.save(tmp_path, 1, model, optimizer, {})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
        with pytest.raises(CheckpointError, match="cannot be written: File too large"):
            checkpoints.save(tmp_path, 2, model, optimizer, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == [first]
    checkpoints.verify(first)


def test_a_folder_that_is_a_file(cpu: None, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(CheckpointError, match="lock cannot be written: File exists"):
        FolderLock(tmp_path / "run")
    with pytest.raises(CheckpointError, match="cannot be written"):
        checkpoints.save(tmp_path / "run", 1, *small(), {})


def test_metrics_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dualml.train.metrics import Metrics
    metrics = Metrics(Path("/dev/full"))
    metrics.step(1, 1.0, 1.0, 1.0, 1.0)
    with pytest.raises(CheckpointError, match="/dev/full cannot be written: No space left"):
        metrics.flush()


def test_metrics_of_others(tmp_path: Path) -> None:
    from dualml.train.metrics import read
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'7\n"x"\n[]\n{"step": "a", "loss": 1}\n{"step": 1}\n\xff\xfe\n' + b"[" * 100_000
                     + b'\n{"step": 1, "loss": 2}\n')
    assert read(path) == [{"step": 1, "loss": 2}]


def test_how_many_there_are() -> None:
    count = sum(map(len, (TENSOR_FILES, PICKLES, SHARDS, INDEXES, JSON_FILES, STATES))) + len(REFUSALS) * len(CALLS)
    assert count >= 120, f"{count} hostile inputs"
