"""From conversations to answers: tuning, the chat, and their commands."""

from __future__ import annotations

import io
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml.cli.chat import _Talk
from dualml.cli.main import main
from dualml.data import TokenBatches
from dualml.data.dialogues import load_dialogues
from dualml.data.sources import load_text
from dualml.errors import CheckpointError, DataError
from dualml.models import GPT, GPTConfig, SamplingOptions
from dualml.models.chat import Chat, answers
from dualml.text import CharTokenizer, Tokenizer
from dualml.text.chat import ASSISTANT, END, USER, with_chat_tokens
from dualml.train import Trainer, load_for_evaluation, load_for_sampling, recipe, resume, tune
from tests.test_chat_data import LETTERS, line, said

TAUGHT = {"Hello!": "Hi.", "How many?": "Two.", "Who?": "A cat.", "What colour?": "Blue.", "Where?": "At home.",
          "When?": "On Monday.", "Why?": "I forgot."}


# ---- a grown model --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("head_bias", [False, True])
def test_a_grown_model_is_the_same(cpu: None, head_bias: bool) -> None:
    model = GPT(GPTConfig(20, context=8, layers=1, heads=2, width=16, head_bias=head_bias)).eval()
    model.load_state_dict({n: p + 1.0 if n == "wte.weight" else p for n, p in model.state_dict().items()})
    made = tune.grown(model, 20, 23, 12, 0.0, seed=1).eval()
    assert (made.config.vocab_size, made.config.context) == (23, 12)
    tokens = dm.tensor(np.arange(8, dtype=np.int32)[None])
    before, after = (m(tokens)[0].detach().numpy() for m in (model, made))
    np.testing.assert_allclose(after[..., :20], before, atol=1e-5)
    old, new = (m.wte.weight.detach().numpy() for m in (model, made))
    assert np.array_equal(new[:20], old)
    assert 0 < np.abs(new[20:] - old.mean(0)).max() < old.std() < 0.5 < old.mean()
    assert np.array_equal(*(m.wpe.weight.detach().numpy()[first:first + 4] for m, first in ((made, 8), (model, 0))))
    assert tune.grown(made, 23, 23, 4, 0.1, seed=1).config.context == 4


# ---- tuning ---------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/base, a tiny model that has read little, and chat.jsonl."""
    folder = tmp_path_factory.mktemp("chat")
    (folder / "text.txt").write_text(LETTERS * 30, encoding="utf-8")
    with dm.use_backend("cpu"):
        dm.manual_seed(0)
        tokenizer = CharTokenizer(LETTERS)
        config = recipe("gpt-nano", steps=1, text=str(folder / "text.txt"), context=32, sample_tokens=0)
        model = GPT(GPTConfig(tokenizer.vocab_size, 32, layers=2, heads=2, width=48))
        data = TokenBatches(tokenizer.encode(LETTERS * 30), 32, 2)
        about = {"text": {"source": config.text, "sha256": load_text(config.text).sha256}}
        Trainer(model, data, tokenizer, config, folder / "runs" / "base", about=about).save()
    talks = [said(*pair) for pair in TAUGHT.items()] + [said("Who?", "A cat.", "How many?", "Three.")]
    (folder / "chat.jsonl").write_text("\n".join(map(line, talks)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def tuned(run: Path) -> Path:
    made = tune.prepare(run / "runs" / "base", str(run / "chat.jsonl"), run / "runs" / "taught", "cpu", steps=220,
                        context=48, lr=4e-3, batch=3)
    assert made.execute()
    assert made.right == (9, 9)
    return made.folder


def test_it_answers_what_it_was_taught(run: Path, tuned: Path) -> None:
    model, tokenizer, path = load_for_sampling(tuned, "cpu")
    assert (path.name, model.config.context, model.config.vocab_size) == ("step-000220", 48, len(LETTERS) + 3)
    for messages in load_dialogues(str(run / "chat.jsonl")).content:
        for _, wanted, found in answers(model, tokenizer, messages):
            assert found == wanted
    chat = Chat(model, tokenizer)
    assert ["".join(chat.answer(question)) for question in ("Who?", "How many?")] == ["A cat.", "Three."]
    chat.reset()
    assert "".join(chat.answer("How many?")) == TAUGHT["How many?"]


def test_a_tuned_run_is_a_run(run: Path, tuned: Path) -> None:
    trainer, _, _ = load_for_evaluation(tuned, "cpu", batches=1)  # on what it had read before
    assert trainer.evaluate().loss > 0
    assert tune.newest(run / "runs", tuned=True) == tuned
    assert tune.newest(run / "runs", tuned=False) == run / "runs" / "base"
    with pytest.raises(DataError, match="already holds a run"):
        tune.prepare(tuned, str(run / "chat.jsonl"), tuned, "cpu")
    with pytest.raises(CheckpointError, match="was tuned on conversations, and its text would undo that"):
        resume(tuned, "cpu")
    more = tune.prepare(tuned, str(run / "chat.jsonl"), run / "more", "cpu", epochs=2, held_out=0.3)
    assert (more.trainer.model.config, more.trainer.tokenizer.vocab_size) == (
        tune.grown(trainer.model, 1, len(LETTERS) + 3, 128, 0.0, 0).config, len(LETTERS) + 3)
    assert {name: len(part) for name, part in more.data.parts.items()} == {"train": 6, "val": 2}
    assert 0 < more.trainer.config.steps < 5
    assert "2 held out" in more.describe()[1][1]


def test_refusals(run: Path, tmp_path: Path) -> None:
    chat = str(run / "chat.jsonl")
    with pytest.raises(CheckpointError, match="no run that can chat was found"):
        tune.newest(tmp_path, tuned=True)
    with pytest.raises(DataError, match="val must be a share"):
        tune.prepare(run / "runs" / "base", chat, tmp_path / "x", "cpu", held_out=1.5)
    with pytest.raises(DataError, match="Raise --context or lower --val"):
        tune.prepare(run / "runs" / "base", chat, tmp_path / "x", "cpu", context=4)
    with pytest.raises(DataError, match="epochs must be at least 1"):
        tune.prepare(run / "runs" / "base", chat, tmp_path / "x", "cpu", epochs=0)
    with pytest.raises(DataError, match="not taught to chat"):
        Chat(*load_for_sampling(run / "runs" / "base", "cpu")[:2])


# ---- the chat -------------------------------------------------------------------------------------------------------

class Parrot:
    """Writes what it is told to, and keeps what it was asked."""

    def __init__(self, context: int, tokenizer: Tokenizer, text: str) -> None:
        self.config = GPTConfig(tokenizer.vocab_size, context)
        self.tokenizer, self.text, self.asked = tokenizer, text, list[str]()

    def writer(self) -> Parrot:
        return self

    def write(self, tokens: list[int], options: SamplingOptions, seed: int = 0) -> Iterator[int]:
        self.asked.append(self.tokenizer.decode(tokens))
        assert len(tokens) < self.config.context
        while True:
            yield from self.tokenizer.encode(self.text).tolist()


def parrot(context: int, text: str, **options: Any) -> tuple[Chat, list[str]]:
    tokenizer = with_chat_tokens(CharTokenizer(LETTERS))
    model = Parrot(context, tokenizer, text)
    return Chat(model, tokenizer, **options), model.asked  # type: ignore[arg-type]


def test_a_turn_reads_what_is_new(cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = with_chat_tokens(CharTokenizer(LETTERS))
    dm.manual_seed(3)
    model = GPT(GPTConfig(tokenizer.vocab_size, 64, layers=1, heads=2, width=16)).eval()
    chat, read = Chat(model, tokenizer, "s", max_tokens=7), list[int]()
    hidden = model.hidden
    monkeypatch.setattr(model, "hidden", lambda x, cache: (read.append(x.shape[1]), hidden(x, cache))[1])
    options = {"temperature": 1.0, "seed": 5}
    texts = [list(chat.answer(question, **options)) for question in ("ab", "cd", "ab")]  # type: ignore[arg-type]
    assert read.pop(0) == 2 + 4 + 1, "system text, question, and who is next"
    assert max(read) <= 1 + 1 + 5, "the last answer's last token, its end, and the question"
    chat.reset()
    assert [list(chat.answer(question, **options)) for question in ("ab", "cd", "ab")] == texts  # type: ignore[arg-type]
    fresh, turns = model.stream, Chat(model, tokenizer, "s", max_tokens=7)
    turns._turns = chat._turns[:1]
    prompt, room = turns._fitted(np.append(turns._encode("user", "cd"), np.int32(turns.template.assistant)))
    ids = list(islice(fresh(prompt, 1.0, seed=5), room))
    assert "".join(texts[1]) == tokenizer.decode(ids[:next((i for i, t in enumerate(ids) if t in turns.template.stops),
                                                           room)])


def test_history_and_its_end() -> None:
    chat, asked = parrot(32, f"yes{END}", system="s")
    for question in ("a", "b", "c"):
        assert list(chat.answer(question)) == ["y", "e", "s"]
    turn = f"{USER}%s{END}{ASSISTANT}yes{END}"
    assert asked == [f"s{END}{USER}a{END}{ASSISTANT}", f"s{END}{turn % 'a'}{USER}b{END}{ASSISTANT}",
                     f"s{END}{turn % 'a'}{turn % 'b'}{USER}c{END}{ASSISTANT}"]
    assert chat.forgotten == 0
    list(chat.answer("dd"))  # a token too long for two turns
    assert asked[-1] == f"s{END}{turn % 'c'}{USER}dd{END}{ASSISTANT}"
    assert chat.forgotten == 2
    chat.reset()
    list(chat.answer("e"))
    assert asked[-1] == f"s{END}{USER}e{END}{ASSISTANT}"
    with pytest.raises(DataError, match="the question must have at most 20 tokens, got 28"):
        list(chat.answer("x" * 25))
    with pytest.raises(DataError, match="got 'ß'"):
        list(chat.answer("ß"))


def test_answers_end() -> None:
    chat, asked = parrot(64, "abc", max_tokens=5)
    assert "".join(chat.answer("q")) == "abcab"
    assert chat.cut
    chat, _ = parrot(16, "abc")
    assert len("".join(chat.answer("q"))) == 12
    assert chat.cut
    chat, asked = parrot(64, f"ab{USER}cd{END}")
    assert "".join(chat.answer("q")) == "ab"
    assert not chat.cut
    pieces = chat.answer("r")
    assert next(pieces) == "a"
    pieces.close()  # type: ignore[attr-defined]
    list(chat.answer("s"))
    assert f"{USER}r{END}{ASSISTANT}a{END}{USER}s{END}{ASSISTANT}" in asked[-1]
    with pytest.raises(DataError, match="max_tokens must be at least 1"):
        parrot(64, "x", max_tokens=0)


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def dualml(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run: Path) -> Command:
    def call(*words: str, typed: str = "") -> tuple[int, str, str]:
        monkeypatch.chdir(run)
        monkeypatch.setattr(sys, "argv", ["dualml", *words])
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        told = capsys.readouterr()
        return code, told.out, told.err
    return call


def test_command(dualml: Command, tuned: Path) -> None:
    typed = "Hello!\n\n  Who?  \nHow many?\n/reset\nHow many?\n/nothing\nwas ist süß?\n/quit\nHello!\n"
    code, out, err = dualml("chat", "--backend", "cpu", typed=typed)
    assert (code, out.splitlines()) == (0, ["Hi.", "A cat.", "Three.", "Two."])
    assert "step-000220" in err
    assert "(Forgotten.)" in err
    assert "/nothing is no command." in err
    assert "got 'ü'" in err
    assert dualml("chat", str(tuned), "--once", "Who?")[:2] == (0, "A cat.\n")
    code, out, err = dualml("chat", str(tuned), "--once", "Who?", "--max-tokens", "3")
    assert (out, "answer is cut" in err) == ("A c\n", True)
    code, out, err = dualml("chat", "runs/base", "--once", "Who?")
    assert (code, out, err.startswith("dualml: [chat] the tokenizer must have")) == (1, "", True)
    code, out, _ = dualml("sample", "--out", str(tuned), "--prompt", f"{USER}Who?{END}{ASSISTANT}", "--temperature",
                          "0", "--tokens", "6")
    assert (code, out) == (0, f"{USER}Who?{END}{ASSISTANT}A cat.\n")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send to one process")
def test_ctrl_c_ends_an_answer_and_not_the_chat(capsys: pytest.CaptureFixture[str]) -> None:
    made, asked = parrot(64, "abc")
    endless, before = made.model.write, signal.getsignal(signal.SIGINT)

    def stream(*words: Any, **options: Any) -> Iterator[int]:
        for count, token in enumerate(endless(*words, **options)):
            if count == 4:
                os.kill(os.getpid(), signal.SIGINT)
            yield token
    made.model.write = stream  # type: ignore[attr-defined]
    _Talk(made, {}).answer("q")
    told = capsys.readouterr()
    assert (told.out, told.err) == ("abcab\n", "(Stopped.)\n")
    list(islice(made.answer("r"), 1))
    assert f"{ASSISTANT}abcab{END}{USER}r{END}" in asked[-1]
    assert signal.getsignal(signal.SIGINT) is before


def test_tune_command(dualml: Command, run: Path) -> None:
    words = ("tune", "runs/base", "--chat", "chat.jsonl", "--steps", "3", "--plain", "--backend", "cpu")
    code, out, err = dualml(*words, "--out", "runs/short")
    assert code == 0, err
    assert "Done: 3 steps" in out
    assert "Of 9 answers it was taught, it gives" in out
    assert "chat runs/short" in out
    code, _, err = dualml(*words, "--out", "runs/short")
    assert (code, "already holds a run" in err) == (1, True)
    (run / "wrong.jsonl").write_text("{}")
    code, _, err = dualml("tune", "runs/base", "--chat", "wrong.jsonl")
    assert (code, "wrong.jsonl, line 1: expected" in err) == (1, True)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals in Python")
def test_a_terminal(run: Path, tuned: Path) -> None:
    """Prompts, and a way out, where a person sits."""
    import pty
    mine, theirs = pty.openpty()
    root = str(Path(__file__).resolve().parent.parent)
    environment = os.environ | {"PYTHONPATH": root, "TERM": "dumb", "DUALML_DEBUG": "0"}
    process = subprocess.Popen([sys.executable, "-m", "dualml", "chat", str(tuned), "--backend", "cpu"], cwd=run,
                               stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True)
    os.close(theirs)
    shown = _Shown(mine)
    for typed, awaited in (("Who?\n", "A cat."), ("/help\n", "/reset"), ("", "/quit leaves."), ("\x04", "")):
        shown.until("> ")
        if typed:
            os.write(mine, typed.encode())
        else:
            time.sleep(0.5)  # readline shows its prompt before it listens to signals
            process.send_signal(signal.SIGINT)
        if awaited:
            shown.until(awaited)
    assert process.wait(60) == 0
    os.close(mine)


class _Shown:
    """What a terminal shows, read from one awaited text to the next."""

    def __init__(self, file: int) -> None:
        self.file, self.unread = file, ""

    def until(self, text: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while text not in self.unread:
            ready, _, _ = select.select([self.file], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"no {text!r} in {self.unread!r}"
            self.unread += os.read(self.file, 4096).decode()
        assert "Traceback" not in self.unread
        self.unread = self.unread.partition(text)[2]


@pytest.mark.parametrize("held_out", [0.0, 0.3])
def test_an_interrupted_tuning_goes_on_exactly(run: Path, tmp_path: Path, held_out: float) -> None:
    words = dict(backend="cpu", steps=9, context=48, held_out=held_out, eval_every=4, dropout=0.1)
    whole = tune.prepare(run / "runs" / "base", str(run / "chat.jsonl"), tmp_path / "whole", **words)  # type: ignore[arg-type]
    assert whole.execute()
    broken = tune.prepare(run / "runs" / "base", str(run / "chat.jsonl"), tmp_path / "broken", **words)  # type: ignore[arg-type]
    trainer = broken.trainer
    save, trainer.save = trainer.save, lambda: (save(), os.kill(os.getpid(), signal.SIGINT))[0]  # type: ignore[method-assign]
    assert not broken.execute()
    assert trainer.step < 9
    more = tune.resume(tmp_path / "broken")
    assert (more.trainer.step, more.data.parts.keys()) == (trainer.step, {"train", "val"})
    with pytest.raises(CheckpointError, match="is being trained by process"):
        tune.resume(tmp_path / "broken")
    assert more.execute()
    assert more.trainer.metrics.losses == whole.trainer.metrics.losses
    assert more.trainer.metrics.validations == whole.trainer.metrics.validations
    states = [m.trainer.model.state_dict() for m in (more, whole)]
    assert all(np.array_equal(states[0][n].numpy(), states[1][n].numpy()) for n in states[0])
    with pytest.raises(DataError, match="is finished after step 9"):
        tune.resume(tmp_path / "broken")


def test_tunings_that_cannot_go_on(dualml: Command, run: Path, tuned: Path, tmp_path: Path) -> None:
    code, _, err = dualml("tune", "runs/base", "--resume")
    assert (code, "was not tuned. Go on with it by `dualml train --resume`" in err) == (1, True)
    code, _, err = dualml("tune", str(tuned), "--resume", "--chat", "chat.jsonl", "--lr", "1")
    assert (code, "--chat, --lr cannot change" in err) == (1, True)
    code, _, err = dualml("tune", str(tuned), "--resume")
    assert (code, "is finished after step 220" in err) == (1, True)
    content = (run / "chat.jsonl").read_text(encoding="utf-8")
    (run / "chat.jsonl").write_text(f"{content}\n{line(said('New?', 'Yes.'))}", encoding="utf-8")
    try:
        code, _, err = dualml("tune", str(tuned), "--resume")
    finally:
        (run / "chat.jsonl").write_text(content, encoding="utf-8")
    assert (code, "they have changed since" in err) == (1, True)
