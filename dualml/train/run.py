"""A run from beginning to end: text, tokenizer, model and trainer from settings or from a checkpoint, and what is left
in its folder when it is over (checkpoints, metrics.jsonl, loss.png, sample.txt)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import checkpoints, random, runtime
from ..data import Text, TokenBatches, load_text
from ..errors import CheckpointError, DataError
from ..models import GPT, GPTConfig
from ..text import CharTokenizer, Tokenizer, load_tokenizer
from . import plot
from .config import TrainConfig
from .report import Reporter
from .trainer import SAMPLE_SECONDS, Trainer


@dataclass
class Run:
    """A trainer with the text it reads. `execute` does the whole of it."""

    trainer: Trainer
    text: Text
    resumed: bool = False

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
                (self.folder / "sample.txt").write_text(text, encoding="utf-8")
        finally:
            reporter.close()
        if text:
            reporter.sample(trainer.step, text)
        return finished

    def _picture(self) -> None:
        metrics, sizes = self.trainer.metrics, self.trainer.config
        if plot.available():
            plot.loss_curve(self.folder / "loss.png", metrics.losses, metrics.validations,
                            f"{sizes.preset} on {self.text.name}, {self.trainer.backend.name}")
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
            reporter: Reporter | None = None) -> Run:
    """A new run. Raises DataError where `out` already holds one."""
    text = load_text(config.text)
    if out is not None and checkpoints.steps(Path(out) / "checkpoints"):
        raise DataError(f"[train] {out} already holds a run. Go on with it (--resume --out {out}) or name another "
                        "--out.")
    folder = Path(out) if out is not None else _free_folder(Path("runs"), config)
    trainer = build(config, backend, CharTokenizer.from_text(text.content), text, folder, reporter)
    return Run(trainer, text)


def resume(out: str | Path | None = None, backend: str | None = None, reporter: Reporter | None = None,
           steps: int | None = None, minutes: float | None = None, root: Path = Path("runs")) -> Run:
    """The run of a folder (by default the newest below `root`), ready to go on exactly where it stopped.

    Args:
        backend: another one than before, if wished.
        steps, minutes: a new end. The learning rate goes on as in a run that had it from the beginning.
    Raises:
        CheckpointError: there is no run, or the text is no longer what it was trained on.
    """
    folder = Path(out) if out is not None else latest_run(root)
    path = checkpoints.latest(folder / "checkpoints")
    state = checkpoints.read_state(path)
    config = TrainConfig.from_dict(state["config"])
    if steps is not None or minutes is not None:
        config = TrainConfig.from_dict(config.to_dict() | {"steps": steps or 10**7, "minutes": minutes})
    text = load_text(state["text"]["source"])
    if text.sha256 != state["text"]["sha256"]:
        raise CheckpointError(f"[resume] the text {text.source} is not the one {folder} was trained on: it has changed "
                              "since. Restore it, or start a new run.")
    tokenizer = load_tokenizer(state["tokenizer"])
    trainer = build(config, backend or state["backend"], tokenizer, text, folder, reporter, GPTConfig(**state["model"]))
    trainer.restore(path)
    return Run(trainer, text, resumed=True)


def load_for_sampling(out: str | Path | None = None, backend: str = "auto", step: int | None = None,
                      root: Path = Path("runs")) -> tuple[GPT, Tokenizer, Path]:
    """Model and tokenizer of a run's newest checkpoint, or of the one at `step`."""
    folder = Path(out) if out is not None else latest_run(root)
    path = checkpoints.latest(folder / "checkpoints")
    if step is not None:
        path = folder / "checkpoints" / f"step-{step:06d}"
        if not path.exists():
            have = ", ".join(str(int(p.name.removeprefix("step-"))) for p in checkpoints.steps(folder / "checkpoints"))
            raise CheckpointError(f"[sample] step must be one of {have} (what {folder} kept), got {step}.")
    state = checkpoints.read_state(path)
    with runtime.use_backend(backend):
        model = GPT(GPTConfig(**state["model"]))
        checkpoints.load_model(path, model)
    return model, load_tokenizer(state["tokenizer"]), path


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


