"""A run from beginning to end: text, tokenizer, model and trainer from settings or from a checkpoint, and what is left
in its folder when it is over (checkpoints, metrics.jsonl, loss.png, sample.txt)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import checkpoints, random, runtime
from ..data import Text, TokenBatches, load_text
from ..errors import CheckpointError, DataError
from ..models import GPT, GPTConfig
from ..safe_files import writing
from ..text import BPETokenizer, CharTokenizer, Tokenizer, load_tokenizer
from . import plot
from .config import TrainConfig
from .lock import FolderLock
from .report import Reporter
from .tensorboard import Board
from .trainer import SAMPLE_SECONDS, Trainer

MAY_CHANGE = ("lr", "min_lr", "precision")  # in the middle of a run: what gets one on that has broken


@dataclass
class Run:
    """A trainer with the text it reads. `execute` does the whole of it."""

    trainer: Trainer
    text: Text
    resumed: bool = False
    lock: FolderLock | None = None  # on the folder, until the run is over

    @property
    def folder(self) -> Path:
        if self.trainer.folder is None:
            raise CheckpointError("[train] this run keeps nothing on disk.")
        return self.trainer.folder

    def describe(self) -> tuple[str, list[str]]:
        """A title, and lines that say what is trained, on what, with which settings."""
        trainer, config, device = self.trainer, self.trainer.config, self.trainer.backend.device
        sizes, data = trainer.model.config, trainer.data
        title = f"{config.preset} · {trainer.model.num_parameters():,} parameters"
        bound = f"{config.minutes:g} min" if config.minutes else f"{config.steps:,} steps"
        lines = [f"text: {self.text.name}, {len(self.text.content):,} characters, vocabulary {sizes.vocab_size}, "
                 f"{len(data.parts['train']):,} tokens to train on, {len(data.parts['val']):,} to validate",
                 f"model: {sizes.layers} layers, {sizes.heads} heads, width {sizes.width}, context {sizes.context}",
                 f"training: {bound}, {config.tokens_per_step:,} tokens a step, lr {config.lr:g}, seed {config.seed}",
                 f"folder: {self.folder}" + (f", going on after step {trainer.step:,}" if self.resumed else ""),
                 f"{trainer.backend.name}: {device.name} ({device.driver})"]
        return title, lines

    def execute(self) -> bool:
        """Trains, then leaves picture and sample. Returns False where Ctrl-C ended it sooner (it is saved then too)."""
        trainer, reporter = self.trainer, self.trainer.reporter
        reporter.start(*self.describe())
        try:
            finished = trainer.train()
            self._picture()
            text = ""
            if finished and trainer.config.sample_tokens:
                text = trainer.sample(3 * trainer.config.sample_tokens, 5 * SAMPLE_SECONDS)
                self._leave("sample.txt", lambda path: path.write_text(text, encoding="utf-8"))
        finally:
            self.close()
            reporter.close()
        if text:
            reporter.sample(trainer.step, text)
        return finished

    def close(self) -> None:
        """Lets other trainers have the folder."""
        if self.lock is not None:
            self.lock.release()
        if self.trainer.metrics.board is not None:
            self.trainer.metrics.board.close()

    def _leave(self, name: str, write: Callable[[Path], object]) -> None:
        """A file of the run's folder, there whole or not at all."""
        partial = self.folder / f"partial-{name}"
        with writing(self.folder / name, "The run itself is saved."):
            write(partial)
            os.replace(partial, self.folder / name)

    def _picture(self) -> None:
        metrics, sizes = self.trainer.metrics, self.trainer.config
        if plot.available():
            title = f"{sizes.preset} on {self.text.name}, {self.trainer.backend.name}"
            self._leave("loss.png", lambda path: plot.loss_curve(path, metrics.losses, metrics.validations, title))
        else:
            self.trainer.reporter.note(f"No loss.png: matplotlib is not installed. Get it with {plot.HOW_TO_GET}.")


def build(config: TrainConfig, backend: str, tokenizer: Tokenizer, text: Text, folder: Path | None,
          reporter: Reporter | None = None, model: GPTConfig | None = None) -> Trainer:
    """Model and trainer on a backend. The model is the preset's for this vocabulary, unless its sizes are given."""
    from ..models import PRESETS
    if model is None:
        model = GPTConfig(**{**PRESETS[config.preset], "vocab_size": tokenizer.vocab_size, "context": config.context,
                             "dropout": config.dropout})
    data = TokenBatches(tokenizer.encode(text.content), model.context, config.batch, config.seed)
    about = {"text": {"source": text.source, "sha256": text.sha256}}
    with runtime.use_backend(backend):
        random.manual_seed(config.seed)
        return Trainer(GPT(model), data, tokenizer, config, folder, reporter, about)


def prepare(config: TrainConfig, backend: str = "auto", out: str | Path | None = None,
            reporter: Reporter | None = None, tensorboard: bool = False) -> Run:
    """A new run. Raises DataError where `out` already holds one, CheckpointError where another trainer is at work."""
    text = load_text(config.text)
    _refuse_used(out)
    folder = Path(out) if out is not None else _free_folder(Path("runs"), config)
    trainer = build(config, backend, make_tokenizer(config.tokenizer, text.content), text, folder, reporter)
    lock = FolderLock(folder)
    _refuse_used(folder)  # by who had it until now
    trainer.metrics.rewind(-1)  # of a run that was killed before its first checkpoint
    if tensorboard:
        trainer.metrics.board = Board(folder / "tensorboard")
    return Run(trainer, text, lock=lock)


def make_tokenizer(wanted: str, text: str) -> Tokenizer:
    """The tokenizer that a setting names: "char" or "bpe:N", made for the text, or a tokenizer.json.

    Raises:
        DataError: it is none of these, or the text is too short for N tokens.
    """
    if wanted == "char":
        return CharTokenizer.from_text(text)
    kind, _, size = wanted.partition(":")
    if kind == "bpe" and size.isdecimal():
        made = BPETokenizer.train(text, int(size))
        if made.vocab_size < int(size):
            raise DataError(f"[tokenizer] bpe:{size} needs a longer text: this one has pairs for {made.vocab_size} "
                            f"tokens. Use bpe:{made.vocab_size} or fewer.")
        return made
    if not Path(wanted).expanduser().is_file():
        raise DataError(f"[tokenizer] expected char, bpe:N such as bpe:4096, or a tokenizer.json, got {wanted!r}.")
    return BPETokenizer.load(Path(wanted).expanduser())


def _refuse_used(out: str | Path | None) -> None:
    if out is not None and checkpoints.steps(Path(out) / "checkpoints"):
        raise DataError(f"[train] {out} already holds a run. Go on with it (--resume --out {out}) or name another "
                        "--out.")


def resume(out: str | Path | None = None, backend: str | None = None, reporter: Reporter | None = None,
           steps: int | None = None, minutes: float | None = None, root: Path = Path("runs"),
           tensorboard: bool = False, **changes: Any) -> Run:
    """The run of a folder (by default the newest below `root`), ready to go on exactly where it stopped.

    Args:
        backend: another one than before, if wished.
        steps, minutes: a new end. The learning rate goes on as in a run that had it from the beginning.
        changes: of the settings in MAY_CHANGE, from here on.
    Raises:
        CheckpointError: there is no run, another trainer is at work on it, or the text is no longer what it was
            trained on.
    """
    folder = Path(out) if out is not None else latest_run(root)
    if not checkpoints.steps(folder / "checkpoints"):
        checkpoints.latest(folder / "checkpoints")  # says what is wrong
    lock = FolderLock(folder)
    try:
        trainer, text = _restored(folder, backend, reporter or Reporter(), steps, minutes, changes)
        if tensorboard or (folder / "tensorboard").is_dir():
            trainer.metrics.board = Board(folder / "tensorboard", trainer.step)
    except BaseException:
        lock.release()
        raise
    return Run(trainer, text, resumed=True, lock=lock)


def _restored(folder: Path, backend: str | None, reporter: Reporter, steps: int | None, minutes: float | None,
              changes: Mapping[str, Any]) -> tuple[Trainer, Text]:
    """A trainer that stands where the newest whole checkpoint was written, and its text."""
    path = checkpoints.latest(folder / "checkpoints", reporter.note)
    state = checkpoints.read_state(path)
    with checkpoints.reading(path):
        config = TrainConfig.from_dict(state["config"]).changed(**changes)
        if steps is not None or minutes is not None:
            config = TrainConfig.from_dict(config.to_dict() | {"steps": steps or 10**7, "minutes": minutes})
        text = load_text(state["text"]["source"])
        if text.sha256 != state["text"]["sha256"]:
            raise CheckpointError(f"[resume] the text {text.source} is not the one {folder} was trained on: it has "
                                  "changed since. Restore it, or start a new run.")
        tokenizer, model = load_tokenizer(state["tokenizer"]), _sizes(path, state["model"])
        trainer = build(config, backend or state["backend"], tokenizer, text, folder, reporter, model)
        trainer.restore(path)
    return trainer, text


def load_for_sampling(out: str | Path | None = None, backend: str = "auto", step: int | None = None,
                      root: Path = Path("runs")) -> tuple[GPT, Tokenizer, Path]:
    """Model and tokenizer of a run's newest checkpoint, or of the one at `step`."""
    folder = Path(out) if out is not None else latest_run(root)
    kept = folder / "checkpoints"
    path = checkpoints.latest(kept) if step is None else checkpoints.find(kept, step)
    state = checkpoints.read_state(path)
    with checkpoints.reading(path), runtime.use_backend(backend):
        model = GPT(_sizes(path, state["model"]))
        checkpoints.load_model(path, model)
        return model, load_tokenizer(state["tokenizer"]), path


def load_for_evaluation(out: str | Path | None = None, backend: str = "auto", step: int | None = None,
                        text: str | None = None, batches: int | None = None,
                        root: Path = Path("runs")) -> tuple[Trainer, Text, Path]:
    """A trainer with the weights of a run's newest checkpoint, or of the one at `step`, that keeps nothing on disk.

    Args:
        text: another text than the run's; its last tenth is evaluated.
        batches: validation batches; as many as in training by default.
    """
    folder = Path(out) if out is not None else latest_run(root)
    kept = folder / "checkpoints"
    path = checkpoints.latest(kept) if step is None else checkpoints.find(kept, step)
    state = checkpoints.read_state(path)
    with checkpoints.reading(path):
        config = TrainConfig.from_dict(state["config"]).changed(eval_batches=batches)
        found = load_text(text or state["text"]["source"])
        if text is None and found.sha256 != state["text"]["sha256"]:
            raise CheckpointError(f"[eval] the text {found.source} has changed since {folder} was trained on it. "
                                  "Restore it, or name a text with --text.")
        tokenizer, model = load_tokenizer(state["tokenizer"]), _sizes(path, state["model"])
        trainer = build(config, backend, tokenizer, found, None, None, model)
        checkpoints.load_model(path, trainer.model)
        trainer.step = state["step"]
    return trainer, found, path


def _sizes(path: Path, saved: Mapping[str, Any]) -> GPTConfig:
    """A checkpoint's model sizes, which must fit the file with its weights: a model is not built on a file's word."""
    sizes = GPTConfig(**saved)
    needed = 4 * sizes.width * (sizes.vocab_size + 12 * sizes.layers * sizes.width)
    have = (path / "model.safetensors").stat().st_size
    if needed > have:
        raise CheckpointError(f"[checkpoint] {path}/state.json describes a model of at least {needed:,} bytes, but "
                              f"model.safetensors has {have:,}.")
    return sizes


def runs(root: Path) -> Sequence[Path]:
    """Folders below root that hold a checkpoint, the one last written to at the end."""
    found: list[tuple[float, Path]] = []
    for folder in root.iterdir() if root.is_dir() else ():
        kept = checkpoints.steps(folder / "checkpoints")
        if kept:
            found.append(((kept[-1] / "state.json").stat().st_mtime, folder))
    return [path for _, path in sorted(found)]


def latest_run(root: Path) -> Path:
    """The run below root that was saved last. Raises CheckpointError where there is none."""
    found = runs(root)
    if not found:
        raise CheckpointError(f"[run] no run was found in {root.resolve()}. Train one with `dualml train`, or name its "
                              "folder with --out.")
    return found[-1]


def _free_folder(root: Path, config: TrainConfig) -> Path:
    """runs/<preset>-<text>, with a number where that is taken: an earlier run is never overwritten."""
    text = re.sub(r"[^\w.-]+", "-", Path(config.text).stem)
    name, number = f"{config.preset}-{text}", 1
    while (root / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return root / (name if number == 1 else f"{name}-{number}")


