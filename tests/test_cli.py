"""The command line as a user meets it: processes, signals, exit codes, one-line errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from dualml.cli.main import main
from dualml.config import config
from dualml.errors import DataError

TEXT = "Now is the winter of our discontent made glorious summer by this sun of York.\n" * 40
QUICK = ["--plain", "--backend", "cpu", "--batch", "2", "--context", "8", "--eval-batches", "1",
         "--sample-tokens", "10"]


def environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parent.parent)
    return os.environ | {"PYTHONPATH": root, "OPENBLAS_NUM_THREADS": "1", "NO_COLOR": "1", "DUALML_DEBUG": "0"}


def process(*words: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "dualml", *words], cwd=folder, env=environment(), text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@dataclass
class Told:
    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Told]


@pytest.fixture
def dualml(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line within this process, which has imported everything already."""
    def call(*words: str, folder: Path) -> Told:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("COLUMNS", "160")
        monkeypatch.setattr(sys, "argv", ["dualml", *words])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return Told(code, *capsys.readouterr())
    return call


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a short run was trained."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    training = process("train", "--text", "text.txt", "--steps", "6", *QUICK, folder=folder)
    output, errors = training.communicate(timeout=120)
    assert training.returncode == 0, errors
    assert "validation loss" in output
    assert "Done: 6 steps" in output
    return folder


def test_train_leaves_a_run(run: Path) -> None:
    folder = run / "runs" / "gpt-nano-text"
    assert {p.name for p in folder.iterdir()} >= {"checkpoints", "metrics.jsonl", "sample.txt"}


def test_sample(dualml: Command, run: Path) -> None:
    words = ("sample", "--prompt", "Now ", "--tokens", "20", "--backend", "cpu", "--seed", "3")
    first, again = (dualml(*words, folder=run) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("Now ")
    assert len(first.stdout) == 4 + 20 + 1
    assert first.stdout == again.stdout
    assert "step-000006" in first.stderr


@pytest.mark.parametrize("options", [
    ("--top-p", "0.9", "--min-p", "0.01", "--repetition-penalty", "1.2", "--cache", "int8"), ("--beams", "3")])
def test_ways_of_sampling(dualml: Command, run: Path, options: tuple[str, ...]) -> None:
    words = ("sample", "--prompt", "Now ", "--tokens", "4", "--backend", "cpu", *options)
    text = dualml(*words, folder=run).stdout
    assert len(text) == len("Now ") + 4 + 1
    stop = text[6:8]
    assert dualml(*words, "--stop", repr(stop)[1:-1], folder=run).stdout == text[:text.index(stop, 4)] + "\n"


def test_sampling_with_a_draft(dualml: Command, run: Path) -> None:
    words = ("sample", "--prompt", "Now ", "--tokens", "4", "--backend", "cpu", "--temperature", "0")
    assert dualml(*words, "--draft", "runs/gpt-nano-text", folder=run).stdout == dualml(*words, folder=run).stdout



def test_resume_trains_on(dualml: Command, run: Path) -> None:
    finished = dualml("train", "--resume", "--plain", folder=run)
    assert (finished.returncode, "is finished after step 6" in finished.stderr) == (1, True)
    refused = dualml("train", "--resume", "--seed", "1", folder=run)
    assert (refused.returncode, "--seed cannot change in the middle of a run" in refused.stderr) == (1, True)
    longer = dualml("train", "--resume", "--steps", "8", "--plain", folder=run)
    assert longer.returncode == 0, longer.stderr
    assert "going on after step 6" in longer.stdout
    assert "Done: 8 steps" in longer.stdout


@pytest.mark.parametrize(("words", "message"), [
    (["train", "--text", "nowhere.txt"], "dualml: [text] expected a file or one of pydoc, shakespeare"),
    (["train", "--preset", "gpt-5"], "dualml: [train] preset must be one of gpt-nano"),
    (["train", "--backend", "abacus"], "dualml: [backend] expected auto or one of cpu, webgpu, cuda"),
    (["train", "--steps", "0"], "dualml: [train] steps must be above 0"),
    (["train", "--resume"], "dualml: [run] no run was found in"),
    (["sample", "--out", "nowhere"], "dualml: [checkpoint] nowhere/checkpoints holds no checkpoint")])
def test_errors_are_one_line(dualml: Command, tmp_path: Path, words: list[str], message: str) -> None:
    failed = dualml(*words, folder=tmp_path)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith(message)
    assert "Traceback" not in failed.stderr


def test_debug_shows_the_traceback(dualml: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "debug", 1)
    with pytest.raises(DataError, match="nowhere"):
        dualml("train", "--text", "nowhere.txt", folder=tmp_path)


def test_unknown_options_and_help(dualml: Command, tmp_path: Path) -> None:
    assert dualml("train", "--speed", "9", folder=tmp_path).returncode == 2
    for words, shown in ((["--help"], "devices"), (["train", "--help"], "dualml train --resume"),
                         (["sample", "-h"], "--temperature"), (["devices", "--help"], "--no-check")):
        told = dualml(*words, folder=tmp_path)
        assert told.returncode == 0
        assert shown in told.stdout
    assert dualml("--version", folder=tmp_path).stdout.startswith("dualml ")


@pytest.mark.parametrize("command", ["", "train", "tune", "chat", "sample", "eval", "attention", "inspect", "devices",
                                     "data", "tokenizer"])
def test_examples_stand_apart(dualml: Command, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a narrow window too: the first line of each is set in."""
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    shown = dualml(*command.split(), "--help", folder=tmp_path).stdout.splitlines()
    begins = [line for line in shown if line.strip().startswith("dualml ")]
    assert [line for line in begins if line.startswith("   dualml ")]
    assert sum(line.startswith("   dualml ") for line in begins) >= 2


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send to one process")
def test_ctrl_c_saves_and_resume_goes_on(dualml: Command, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    words = ["train", "--text", "text.txt", "--steps", "3000", "--eval-every", "3000", *QUICK]
    training = process(*words, folder=tmp_path)
    assert training.stdout is not None
    for line in training.stdout:
        if line.startswith("step ") and "tokens/s" in line:
            break
    training.send_signal(signal.SIGINT)
    output, errors = training.communicate(timeout=60)
    assert training.returncode == 130, errors
    assert "and saved. Go on with:\n  python -m dualml train --resume --out runs/gpt-nano-text" in output
    folder = tmp_path / "runs" / "gpt-nano-text"
    (checkpoint,) = (folder / "checkpoints").iterdir()
    stopped = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))["step"]
    assert 0 < stopped < 3000
    assert dualml("train", "--resume", "--steps", str(stopped + 5), "--plain", folder=tmp_path).returncode == 0
    lines = [json.loads(t) for t in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, stopped + 6))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send to one process")
@pytest.mark.parametrize("words", ["data prepare text.txt --out made", "tune", "sample", "train --text text.txt"])
def test_ctrl_c_is_answered(dualml: Command, run: Path, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of whatever a command does, where nobody else says a word."""
    def interrupted(*args: object, **named: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    for work in ("data.prepare", "train.tune.prepare", "train.load_for_sampling", "train.prepare"):
        monkeypatch.setattr(f"dualml.{work}", interrupted)
    ended = dualml(*words.split(), folder=run)
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (130, "dualml: interrupted")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send to one process")
def test_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    """The second one must work while the first one's save hangs."""
    code = ("import time\nfrom dualml.train.report import PlainReporter\nfrom dualml.train.stop import StopRequest\n"
            "with StopRequest(PlainReporter()) as stop:\n print('ready', flush=True)\n time.sleep(60)\n time.sleep(60)")
    waiting = subprocess.Popen([sys.executable, "-c", code], env=environment(), text=True, stdout=subprocess.PIPE)
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "ready\n"
    time.sleep(0.5)  # a signal in the middle of that print could not print its own line
    waiting.send_signal(signal.SIGINT)
    assert "Ctrl-C again ends at once" in waiting.stdout.readline()
    started = time.monotonic()
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(timeout=30) == -signal.SIGINT
    assert time.monotonic() - started < 20
    waiting.stdout.close()


def test_devices(dualml: Command, tmp_path: Path) -> None:
    told = dualml("devices", folder=tmp_path)
    assert told.returncode == 0, told.stdout + told.stderr
    for word in ("Backends", "cpu", "webgpu", "cuda", "auto chooses", "Self-check", "attention, causal"):
        assert word in told.stdout
    short = dualml("devices", "--no-check", folder=tmp_path)
    assert "Self-check" not in short.stdout


def test_benchmark_of_the_training_step(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parent.parent
    words = ["--backends", "cpu", "--no-rivals", "--rounds", "1", "--seconds", "0.05", "--batch", "1", "--json",
             "b.json"]
    done = subprocess.run([sys.executable, str(root / "benchmarks" / "train_step.py"), *words], cwd=tmp_path, text=True,
                          env=environment(), capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))["results"]["small"]["cpu"]
    assert figures["tokens_per_second"] > 0
    assert figures["parameters"] == 867_072
