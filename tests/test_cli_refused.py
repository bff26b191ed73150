"""What the command line refuses, before the work, where an option would otherwise have no effect or a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from dualml.cli.main import app
from dualml.errors import DualmlError
from dualml.safe_files import replacing
from dualml.text import CharTokenizer
from dualml.train.evaluation import Evaluation
from tests.test_cli import QUICK, TEXT

RUN = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text, a run, a data folder, a tokenizer of characters."""
    made = tmp_path_factory.mktemp("refused")
    (made / "text").write_text(TEXT, encoding="utf-8")
    (made / "empty").touch()
    (made / "short").write_text("short", encoding="utf-8")
    CharTokenizer(TEXT, ["<|endoftext|>"]).save(made / "char.json")
    words = ["--text", str(made / "text"), "--out", str(made / "run"), "--steps", "7", "--eval-every", "1"]
    done = RUN.invoke(app, ["train", *QUICK, *words, "--keep", "3", "--clip", "0.5", "--beta2", "0.9",
                            "--weight-decay", "0"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (made / "altered").write_text(TEXT.replace("N", "M"), encoding="utf-8")
    words = ["--text", str(made / "altered"), "--out", str(made / "other-run"), "--steps", "1"]
    RUN.invoke(app, ["train", *QUICK, *words], catch_exceptions=False)
    RUN.invoke(app, ["data", "prepare", str(made / "text"), "--out", str(made / "data"), "--tokenizer", "char"],
               catch_exceptions=False)
    return made


@pytest.mark.parametrize(("words", "message"), [
    ("tokenizer train text empty", "FILES must have some text, got none in .*empty"),
    ("tokenizer train text --out text/x.json", "--out must be a file in a folder that exists"),
    ("tokenizer train text --out .", "--out must be a file in a folder"),
    ("tokenizer train text --special a --vocab-size 300", "special tokens must be texts of their own"),
    ("data prepare text empty --out other", "FILES must have some text, got none in .*empty"),
    ("inspect text", "text is no safetensors file: .* Name a .safetensors file"),
    ("train --text text --tokenizer none.json", "none.json does not exist. Give char, bpe:N"),
    ("train --text text --tokenizer word", "expected char, bpe:N .* got 'word'"),
    ("tokenizer decode 9999 --tokenizer char.json", r"tokens must be whole numbers in \[0, \d+\], got 9999\. "),
    ("eval --out run --text short", "short must have at least 1000 characters.* or to measure a model with"),
    ("inspect data", "data is a data folder and has no model"),
    ("train --text text --seed 99999999999999999999", "seed must be below 2"),
    ("train --text text --lr inf", "lr must be finite"),
    ("train --text text --beta1 1", r"beta1 must be in \[0, 1\)"),
    ("train --text text --keep 0", "keep must be above 0"),
    ("train --text text --layers 0", "layers must be above 0"),
    ("train --text text --heads 3 --out none --plain", "embed_dim must be a multiple of num_heads=3"),
    ("train --resume --out run --clip 2", "--clip cannot change in the middle of a run"),
    ("sample --out run --beams 2 --top-k 3 --draft run", "--draft, --top-k cannot be combined with --beams"),
    ("sample --out run --beams 2 --repetition-penalty 2", "--repetition-penalty cannot be combined with --beams"),
    ("sample --out run --draft run --cache int8", "--cache cannot be combined with --draft"),
    ("sample --out run --draft other-run", "--draft must have the model's tokenizer, got another one in other-run"),
])
def test_refused(folder: Path, words: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    with pytest.raises(DualmlError, match=message):
        RUN.invoke(app, words.split(), catch_exceptions=False)
    assert sorted(folder.iterdir()) == before


def test_so_many_checkpoints_stay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    kept = [int(path.name[5:]) for path in (folder / "run" / "checkpoints").iterdir()]
    assert {5, 6, 7} <= set(kept)
    assert len(kept) <= 4, "and the best one"
    RUN.invoke(app, ["train", "--resume", "--out", "run", "--steps", "8", "--keep", "1", "--plain"],
               catch_exceptions=False)
    kept = [int(path.name[5:]) for path in (folder / "run" / "checkpoints").iterdir()]
    assert 8 in kept
    assert len(kept) <= 2


def test_sizes_of_ones_own(folder: Path, tmp_path: Path) -> None:
    done = RUN.invoke(app, ["train", *QUICK, "--text", str(folder / "text"), "--out", str(tmp_path / "own"), "--steps",
                            "1", "--layers", "1", "--heads", "2", "--width", "16"], catch_exceptions=False)
    assert "model: 1 layer, 2 heads, width 16, context 8" in done.output
    more = RUN.invoke(app, ["train", "--resume", "--out", str(tmp_path / "own"), "--steps", "2", "--plain"],
                      catch_exceptions=False)
    assert "model: 1 layer, 2 heads, width 16, context 8" in more.output


def test_a_tokenizer_of_characters_is_shown(folder: Path) -> None:
    file = ["--tokenizer", str(folder / "char.json")]
    shown = RUN.invoke(app, ["tokenizer", "show", "Now is<|endoftext|>", *file], catch_exceptions=False).output
    assert "7 tokens" in shown
    ids = RUN.invoke(app, ["tokenizer", "encode", "Now is", *file], catch_exceptions=False).output.split()
    assert RUN.invoke(app, ["tokenizer", "decode", *ids, *file], catch_exceptions=False).output == "Now is"


def test_a_small_text_is_told(folder: Path, tmp_path: Path) -> None:
    done = RUN.invoke(app, ["tokenizer", "train", str(folder / "text"), "--out", str(tmp_path / "t.json")],
                      catch_exceptions=False)
    assert done.exit_code == 0
    assert "no pairs for more of the 4,096" in done.output


def test_replacing_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("before")

    def write() -> None:
        with replacing(tmp_path / "a", "Free some.") as partial:
            partial.write_text("half")
            raise OSError(28, "No space left on device")
    with pytest.raises(DualmlError, match=r"a cannot be written: No space left on device. Free some."):
        write()
    with replacing(tmp_path / "b", "") as partial:
        partial.write_text("whole")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "before", "b": "whole"}


def test_a_loss_that_has_diverged_fits_on_a_line() -> None:
    assert str(Evaluation(2.4e13, 10, 10)) == "2.40e+13 (perplexity 1.01e+304, 3.46e+13 bits per byte)"
    assert str(Evaluation(1.0, 10, 10)) == "1.0000 (perplexity 2.72, 1.443 bits per byte)"
