"""Data folders in use: training from one, resuming bit for bit, the command line, downloads that break off."""

from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dualml import checkpoints
from dualml.cli.main import main
from dualml.data import (
    Prefetch,
    PrepareSettings,
    ShardCorpus,
    ShardedTokens,
    Source,
    WindowBatches,
    download,
    find_sources,
    load_text,
    prepare as prepare_data,
    sources,
)
from dualml.data.download import Download, fetch
from dualml.errors import CheckpointError, DataError
from dualml.safe_files import load_tensors
from dualml.text import BPETokenizer, CharTokenizer
from dualml.train import Reporter, Run, TrainConfig, load_for_evaluation, prepare, resume
from dualml.train.metrics import read

TEXT = "Now is the winter of our discontent made glorious summer by this sun of York.\n\n" * 60
CONFIG = TrainConfig(steps=8, batch=2, accumulation=2, context=8, dropout=0.1, lr=1e-2, warmup=2, eval_every=4,
                     eval_batches=2, sample_tokens=0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    prepare_data([Source("text.txt", folder / "text.txt", "blank-line")], folder / "york",
                 PrepareSettings("bpe:290", shard_tokens=500))
    return folder / "york"


@pytest.fixture
def data(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "york"))


def begin(data: Path, folder: Path) -> Run:
    return prepare(CONFIG.changed(data=str(data)), "cpu", folder, Reporter())


def steps(run: Run, count: int) -> None:
    for _ in range(count):
        run.trainer.train_step()
    run.trainer.read_losses()


def measured(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read(folder / "metrics.jsonl")]


# ---- training -------------------------------------------------------------------------------------------------------

def test_a_resumed_run_goes_the_way_of_an_unbroken_one(data: Path, tmp_path: Path) -> None:
    """Bit for bit, after a break in the middle and with the folder elsewhere."""
    first = begin(data, tmp_path / "unbroken")
    assert isinstance(first.trainer.data, Prefetch)
    assert first.execute()
    broken = begin(data, tmp_path / "broken")
    broken.trainer._pause(sample=False)
    steps(broken, 3)
    broken.trainer.save()
    steps(broken, 2)  # lost
    broken.close()
    data.rename(tmp_path / "moved")
    with pytest.raises(DataError, match="york is no folder"):
        resume(tmp_path / "broken")
    again = resume(tmp_path / "broken", data=tmp_path / "moved")
    assert (again.trainer.step, again.resumed) == (3, True)
    assert again.execute()
    assert measured(tmp_path / "broken") == measured(tmp_path / "unbroken")
    assert len(measured(tmp_path / "broken")) == 8 + 3
    one, other = (load_tensors(checkpoints.latest(tmp_path / name / "checkpoints") / "model.safetensors")
                  for name in ("broken", "unbroken"))
    assert all((one[name] == other[name]).all() for name in other)


def test_training_with_and_without_prefetching(data: Path, tmp_path: Path) -> None:
    losses = []
    for ahead in (True, False):
        run = begin(data, tmp_path / str(ahead))
        ready = run.trainer.data
        assert isinstance(ready, Prefetch)
        asked: list[int] = []

        def get(part: str, index: int, real: Any = ready.get if ahead else ready.batches.get,
                seen: list[int] = asked) -> tuple[np.ndarray, np.ndarray]:
            seen.append(index)
            found: tuple[np.ndarray, np.ndarray] = real(part, index)
            return found
        ready.get = get  # type: ignore[method-assign]
        steps(run, 5)
        run.close()
        assert asked == list(range(10))
        losses.append([loss for _, loss in run.trainer.metrics.losses])
    assert losses[0] == losses[1]


def test_the_thread_ends_with_the_run(data: Path, tmp_path: Path) -> None:
    run = begin(data, tmp_path / "run")
    steps(run, 1)
    assert any(t.name.startswith("dualml-batches") for t in threading.enumerate())
    run.close()
    assert not any(t.name.startswith("dualml-batches") for t in threading.enumerate())


def test_other_data_is_refused_at_a_resume(data: Path, tmp_path: Path) -> None:
    run = begin(data, tmp_path / "run")
    steps(run, 1)
    run.trainer.save()
    run.close()
    (tmp_path / "b.txt").write_text(TEXT.upper())
    prepare_data(find_sources([str(tmp_path / "b.txt")]), tmp_path / "other", PrepareSettings("bpe:280"))
    with pytest.raises(CheckpointError, match="other is not what the run was trained on: it has changed since"):
        resume(tmp_path / "run", data=tmp_path / "other")
    shard = data / "train-00001.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"train-00001.bin must have 1,000 bytes, got 998"):
        resume(tmp_path / "run")
    shutil.rmtree(data)
    shutil.copytree(tmp_path / "other", data)
    for load in (resume, load_for_evaluation):
        with pytest.raises(CheckpointError, match="york is not what the run was trained on"):
            load(tmp_path / "run")
    text = prepare(CONFIG, "cpu", tmp_path / "text", Reporter())
    text.trainer.save()
    text.close()
    with pytest.raises(CheckpointError, match="--data cannot replace the text that a run was trained on"):
        resume(tmp_path / "text", data=data)


def test_data_of_another_tokenizer(whole: Path, tmp_path: Path) -> None:
    corpus = ShardCorpus(ShardedTokens(whole))
    assert corpus.size == "60 documents"
    ours = corpus.make_tokenizer("char")
    saved = ours.to_dict()
    model = saved["tokenizer"]
    added = [*model["added_tokens"], {"id": 290, "content": "<|user|>", "special": True}]
    more = BPETokenizer.from_dict({"tokenizer": {**model, "added_tokens": added}})
    for fits in (ours, more):
        corpus.batches(fits, 8, 2, 0)
    for other in (CharTokenizer(TEXT), BPETokenizer.train(TEXT.upper(), 290), BPETokenizer.blank()):
        with pytest.raises(DataError, match="york must be made with the model's tokenizer"):
            corpus.batches(other, 8, 2, 0)
    corpus.close()
    with pytest.raises(DataError, match=r"more than 4000 tokens \(the context\) for (validation|training), got"):
        corpus.batches(ours, 4000, 2, 0)


def test_evaluation_reads_the_validation_split(data: Path, tmp_path: Path) -> None:
    run = begin(data, tmp_path / "run")
    assert run.execute()
    trainer, corpus, _ = load_for_evaluation(tmp_path / "run", "cpu")
    assert corpus.name == "york"
    assert trainer.evaluate().loss == run.trainer.evaluate().loss
    assert isinstance(trainer.data, Prefetch)
    tokens = trainer.data.parts["val"]
    assert isinstance(trainer.data.batches, WindowBatches)
    assert len(tokens) == ShardedTokens(data).manifest.splits["val"].tokens
    corpus.close()


# ---- the command line -----------------------------------------------------------------------------------------------

@pytest.fixture
def dualml(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
           tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Exit code, output and errors of a command in tmp_path."""
    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", "160")
        monkeypatch.setattr(sys, "argv", ["dualml", *words])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()
    return call


Command = Callable[..., tuple[int, str, str]]


def test_from_text_to_a_trained_model(dualml: Command, tmp_path: Path) -> None:
    for name, season in (("a", "winter"), ("b", "summer")):
        (tmp_path / f"{name}.txt").write_text("".join(f"Now is the {season} of the year {i}.\n\n" for i in range(60)))
    code, output, errors = dualml("data", "prepare", "a.txt", "b.txt", "--out", "york", "--tokenizer", "bpe:300",
                                  "--documents", "blank-line", "--shard-tokens", "1000")
    assert code == 0, errors
    shown = {line.split()[0]: line.split()[1:] for line in output.splitlines()}
    assert int(shown["training"][0]) + int(shown["validation"][0]) == 120
    assert "bpe, 300 tokens" in output
    assert "a.txt (2,090 bytes), b.txt (2,090 bytes)" in output
    assert "encoding" in errors
    assert dualml("data", "info", "york")[1] == output
    assert "all as they were written" in dualml("data", "verify", "york")[1]
    quick = ["--plain", "--backend", "cpu", "--batch", "2", "--context", "8", "--eval-batches", "1",
             "--sample-tokens", "0"]
    code, output, errors = dualml("train", "--data", "york", "--steps", "3", *quick)
    assert code == 0, errors
    assert "data: york, 120 documents, vocabulary 300" in output
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {"gpt-nano-york"}
    code, output, errors = dualml("train", "--resume", "--steps", "5", "--plain")
    assert (code, "going on after step 3" in output) == (0, True), errors
    code, output, errors = dualml("eval", "--backend", "cpu", "--json")
    assert (code, json.loads(output)["text"]) == (0, "york"), errors
    assert dualml("eval", "--backend", "cpu", "--data", "york")[0] == 0
    assert dualml("sample", "--backend", "cpu", "--tokens", "3")[0] == 0


def test_verify_says_which_shard_is_broken(dualml: Command, data: Path) -> None:
    shard = data / "train-00001.bin"
    shard.write_bytes(bytes([shard.read_bytes()[0] ^ 1]) + shard.read_bytes()[1:])
    code, output, errors = dualml("data", "verify", "york")
    assert (code, output) == (1, "")
    assert "train-00001.bin is not what was written: its SHA-256 differs" in errors
    assert "train-00000.bin is" not in errors


@pytest.mark.parametrize(("words", "message"), [
    (["data", "info", "nowhere"], "dualml: [data] nowhere is no folder"),
    (["data", "verify", "."], "is no data folder: it has no manifest.json"),
    (["data", "prepare", "nowhere.txt", "--out", "d"], "dualml: [text] expected a file or one of pydoc, shakespeare"),
    (["data", "prepare", "pydoc", "--out", "york"], "dualml: [data] york is there already"),
    (["data", "prepare", "pydoc", "--out", "d", "--val", "2"], "dualml: [data] val must be in (0, 1), got 2.0"),
    (["train", "--data", "nowhere"], "dualml: [data] nowhere is no folder"),
    (["train", "--data", "york", "--text", "pydoc"], "dualml: [train] --data brings its text and its tokenizer"),
    (["train", "--data", "york", "--tokenizer", "char"], "dualml: [train] --data brings its text"),
    (["train", "--text", "tinystories"], "dualml: [text] tinystories must have at most"),
    (["eval", "--data", "york", "--text", "pydoc"], "dualml: [eval] --text and --data exclude each other")])
def test_errors_are_one_line(dualml: Command, data: Path, words: list[str], message: str) -> None:
    code, _, errors = dualml(*words)
    assert code == 1
    assert message in errors.splitlines()[-1]
    assert "Traceback" not in errors


def test_help_teaches(dualml: Command) -> None:
    for words, shown in ((["data", "--help"], "dualml train --data stories"), (["data", "prepare", "-h"], "--val-file"),
                         (["train", "--help"], "--data")):
        code, output, _ = dualml(*words)
        assert (code, shown in output) == (0, True)


# ---- downloads ------------------------------------------------------------------------------------------------------

class Server(http.server.BaseHTTPRequestHandler):
    """Sends `content`; `ranges`: from where it is asked to; `breaks`: ends after so many bytes of the file."""

    content = bytes(range(256)) * 4000
    ranges, breaks = True, 0
    asked: list[str | None]

    def do_GET(self) -> None:
        begin, wanted = 0, self.headers.get("Range")
        self.asked.append(wanted)
        if wanted and self.ranges:
            begin = int(wanted.removeprefix("bytes=").rstrip("-"))
            if begin >= len(self.content):
                self.send_error(416)
                return
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(self.content) - begin))
        self.end_headers()
        self.wfile.write(self.content[begin:self.breaks or None])

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    monkeypatch.setenv("DUALML_CACHE", str(tmp_path))
    handler = type("Handler", (Server,), {"asked": []})
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
    thread.start()
    handler.url = f"http://127.0.0.1:{listening.server_port}/f.txt"  # type: ignore[attr-defined]
    yield handler
    listening.shutdown()
    thread.join()
    listening.server_close()


def wanted(server: Any, size: bool = True) -> Download:
    return Download("File", server.url, hashlib.sha256(Server.content).hexdigest(),
                    len(Server.content) if size else None)


@pytest.mark.parametrize(("ranges", "size"), [(True, True), (False, True), (True, False)])
def test_a_download_goes_on_where_it_broke_off(server: Any, ranges: bool, size: bool, tmp_path: Path) -> None:
    server.breaks, server.ranges = 700_000, ranges
    seen: list[tuple[int, int]] = []
    with pytest.raises(DataError, match=r"broke off after 700,000 of 1,024,000 bytes, which are kept"):
        fetch("f", wanted(server, size), lambda *now: seen.append(now))
    assert [p.name for p in (tmp_path / "texts").iterdir()] == ["f.txt.part"]
    server.breaks = 0
    path = fetch("f", wanted(server, size), lambda *now: seen.append(now))
    assert path.read_bytes() == Server.content
    assert server.asked == [None, "bytes=700000-"]
    assert seen[-1] == (1_024_000, 1_024_000)
    assert [p.name for p in (tmp_path / "texts").iterdir()] == ["f.txt"]
    fetch("f", wanted(server))
    assert len(server.asked) == 2  # from the cache


def test_what_is_left_of_another_file(server: Any, tmp_path: Path) -> None:
    """A whole part is renamed without the network; a wrong one is found out and dropped; the next try is right."""
    partial = tmp_path / "texts" / "f.txt.part"
    partial.parent.mkdir()
    partial.write_bytes(Server.content)
    assert fetch("f", wanted(server)).read_bytes() == Server.content
    assert server.asked == []
    (tmp_path / "texts" / "f.txt").write_bytes(b"damaged")
    for left in (b"x" * 1000, b"x" * 1_024_000):
        partial.write_bytes(left)
        with pytest.raises(DataError, match=r"must have SHA-256 .* Try again"):
            fetch("f", wanted(server))
        assert not partial.exists()
    partial.write_bytes(b"x" * 2_000_000)  # longer than the file: the server has nothing behind it
    assert fetch("f", wanted(server)).read_bytes() == Server.content


def test_a_server_that_never_ends(server: Any, tmp_path: Path) -> None:
    too_long = Download("File", server.url, "0" * 64, 1000)
    with pytest.raises(DataError, match="must have SHA-256 0000"):
        fetch("f", too_long)
    assert list((tmp_path / "texts").iterdir()) == []


def test_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUALML_CACHE", str(tmp_path))
    monkeypatch.setattr(download, "_ask", lambda *_: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(DataError, match=r"not be downloaded .*no network.* Pass files you have, or put the file at"):
        find_sources(["tinystories-valid"])
    with pytest.raises(DataError, match="leave --text away for Python's documentation, or put the file at"):
        load_text("tinystories-valid")
    assert {name: (d.sha256[:8], d.size) for name, d in sources.DOWNLOADS.items() if "tiny" in name} == {
        "tinystories": ("6418d412", 2_227_753_162), "tinystories-valid": ("6874bae9", 22_502_601)}
