"""A run from beginning to end: corpus, tokenizer, model and trainer from settings or from a checkpoint, and what is
left in its folder when it is over (checkpoints, metrics.jsonl, loss.png, sample.txt)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import amp, checkpoints, random, runtime
from ..data import Corpus, DeviceBatches, open_corpus, placed, same_corpus, why_on_host
from ..errors import CheckpointError, DataError
from ..models import GPT, GPTConfig
from ..safe_files import replacing
from ..text import Tokenizer, load_tokenizer
from ..words import counted
from . import plot
from .config import TrainConfig
from .lock import FolderLock
from .report import Reporter
from .tensorboard import Board
from .trainer import SAMPLE_SECONDS, Trainer

MAY_CHANGE = ("lr", "min_lr", "precision", "keep")  # in the middle of a run: what gets one on that has broken


@dataclass
class Run:
    """A trainer with the corpus it reads. `execute` does the whole of it."""

    trainer: Trainer
    corpus: Corpus
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
        bound = f"{config.minutes:g} min" if config.minutes else counted(config.steps, "step")
        lines = [f"{self.corpus.kind}: {self.corpus.name}, {self.corpus.size}, vocabulary {sizes.vocab_size}, "
                 f"{len(data.parts['train']):,} tokens to train on, {len(data.parts['val']):,} to validate",
                 f"model: {counted(sizes.layers, 'layer')}, {counted(sizes.heads, 'head')}, width {sizes.width}, "
                 f"context {sizes.context}",
                 f"training: {bound}, {config.tokens_per_step:,} tokens a step, lr {config.lr:g}, seed {config.seed}",
                 f"batches: {self._where()}",
                 f"folder: {self.folder}" + (f", going on after step {trainer.step:,}" if self.resumed else ""),
                 f"{trainer.backend.name}: {device.name} ({device.driver})"]
        return title, lines

    def _where(self) -> str:
        """Who draws the batches: that was decided when the run was built, and stays so."""
        data, backend = self.trainer.data, self.trainer.backend.name
        if isinstance(data, DeviceBatches):
            return f"drawn on the device, from {data.nbytes / 2**20:,.1f} MiB of tokens there"
        return f"gathered on the host, {why_on_host(data, backend) or 'as was asked for'}"

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
        """Lets other trainers have the folder, and the corpus go."""
        self.corpus.close()
        if self.lock is not None:
            self.lock.release()
        if self.trainer.metrics.board is not None:
            self.trainer.metrics.board.close()

    def _leave(self, name: str, write: Callable[[Path], object]) -> None:
        """A file of the run's folder, there whole or not at all."""
        with replacing(self.folder / name, "The run itself is saved.") as partial:
            write(partial)

    def _picture(self) -> None:
        metrics, sizes = self.trainer.metrics, self.trainer.config
        if plot.available():
            title = f"{sizes.preset} on {self.corpus.name}, {self.trainer.backend.name}"
            self._leave("loss.png", lambda path: plot.loss_curve(path, metrics.losses, metrics.validations, title))
        else:
            self.trainer.reporter.note(f"No loss.png: matplotlib is not installed. Get it with {plot.HOW_TO_GET}.")


def build(config: TrainConfig, backend: str, tokenizer: Tokenizer, corpus: Corpus, folder: Path | None,
          reporter: Reporter | None = None, model: GPTConfig | None = None) -> Trainer:
    """Model and trainer on a backend. The model is the preset's for this vocabulary, unless its sizes are given."""
    from ..models import PRESETS
    if model is None:
        model = GPTConfig(**{**PRESETS[config.preset], "vocab_size": tokenizer.vocab_size, **config.sizes})
    ahead = max(2, config.accumulation)
    data = corpus.batches(tokenizer, model.context, config.batch, config.seed, ahead)
    about = {corpus.kind: corpus.reference}
    with runtime.use_backend(backend):
        random.manual_seed(config.seed)
        return Trainer(GPT(model), placed(data, runtime.get_backend()), tokenizer, config, folder, reporter, about)


def prepare(config: TrainConfig, backend: str = "auto", out: str | Path | None = None,
            reporter: Reporter | None = None, tensorboard: bool = False) -> Run:
    """A new run. Raises DataError where `out` already holds one, CheckpointError where another trainer is at work."""
    corpus = open_corpus(config.text, config.data)
    _refuse_used(out)
    folder = Path(out) if out is not None else _free_folder(Path("runs"), config)
    trainer = build(config, backend, corpus.make_tokenizer(config.tokenizer), corpus, folder, reporter)
    lock = FolderLock(folder)
    _refuse_used(folder)  # by who had it until now
    trainer.metrics.rewind(-1)  # of a run that was killed before its first checkpoint
    if tensorboard:
        trainer.metrics.board = Board(folder / "tensorboard")
    return Run(trainer, corpus, lock=lock)


def _refuse_used(out: str | Path | None) -> None:
    if out is not None and checkpoints.steps(Path(out) / "checkpoints"):
        raise DataError(f"[train] {out} already holds a run. Go on with it (--resume --out {out}) or name another "
                        "--out.")


def resume(out: str | Path | None = None, backend: str | None = None, reporter: Reporter | None = None,
           steps: int | None = None, minutes: float | None = None, root: Path = Path("runs"),
           tensorboard: bool = False, data: str | Path | None = None, **changes: Any) -> Run:
    """The run of a folder (by default the newest below `root`), ready to go on exactly where it stopped.

    Args:
        backend: another one than before, if wished.
        steps, minutes: a new end. The learning rate goes on as in a run that had it from the beginning.
        data: where the run's data folder is now, if it was moved.
        changes: of the settings in MAY_CHANGE, from here on.
    Raises:
        CheckpointError: there is no run, another trainer is at work on it, or the corpus is no longer what it was
            trained on.
    """
    folder = Path(out) if out is not None else latest_run(root)
    if not checkpoints.steps(folder / "checkpoints"):
        checkpoints.latest(folder / "checkpoints")  # says what is wrong
    lock = FolderLock(folder)
    try:
        if data is not None:
            changes["data"] = str(data)
        trainer, corpus = _restored(folder, backend, reporter or Reporter(), steps, minutes, changes)
        if tensorboard or (folder / "tensorboard").is_dir():
            trainer.metrics.board = Board(folder / "tensorboard", trainer.step)
    except BaseException:
        lock.release()
        raise
    return Run(trainer, corpus, resumed=True, lock=lock)


def _restored(folder: Path, backend: str | None, reporter: Reporter, steps: int | None, minutes: float | None,
              changes: Mapping[str, Any]) -> tuple[Trainer, Corpus]:
    """A trainer that stands where the newest whole checkpoint was written, and its corpus."""
    path = checkpoints.latest(folder / "checkpoints", reporter.note)
    state = checkpoints.read_state(path)
    if "chat" in state:
        raise CheckpointError(f"[resume] {folder} was tuned on conversations, and its text would undo that. Go on "
                              "with `dualml tune --resume`, or name the run that it began with.")
    with checkpoints.reading(path):
        config = TrainConfig.from_dict(state["config"]).changed(**changes)
        if steps is not None or minutes is not None:
            config = TrainConfig.from_dict(config.to_dict() | {"steps": steps or 10**7, "minutes": minutes})
        corpus = same_corpus(state, changes.get("data"))
        tokenizer, model = load_tokenizer(state["tokenizer"]), model_sizes(path, state["model"])
        trainer = build(config, backend or state["backend"], tokenizer, corpus, folder, reporter, model)
        trainer.restore(path)
    return trainer, corpus


def load_for_sampling(out: str | Path | None = None, backend: str = "auto", step: int | None = None,
                      root: Path = Path("runs")) -> tuple[GPT, Tokenizer, Path]:
    """Model and tokenizer of a run's newest checkpoint, or of the one at `step`."""
    folder = Path(out) if out is not None else latest_run(root)
    kept = folder / "checkpoints"
    path = checkpoints.latest(kept) if step is None else checkpoints.find(kept, step)
    state = checkpoints.read_state(path)
    with checkpoints.reading(path), runtime.use_backend(backend):
        model = GPT(model_sizes(path, state["model"]))
        short = amp.SHORT_WEIGHTS.get(state["config"]["precision"])
        if short is not None and short in runtime.current().dtypes:  # else float32, which holds the same values
            model.to(short)
        checkpoints.load_model(path, model)
        return model, load_tokenizer(state["tokenizer"]), path


def load_for_evaluation(out: str | Path | None = None, backend: str = "auto", step: int | None = None,
                        text: str | None = None, batches: int | None = None, root: Path = Path("runs"),
                        data: str | None = None) -> tuple[Trainer, Corpus, Path]:
    """A trainer with the weights of a run's newest checkpoint, or of the one at `step`, that keeps nothing on disk.

    Args:
        text, data: another text or data folder than the run's; the last tenth of the one is evaluated, what is for
            validation of the other.
        batches: validation batches; as many as in training by default.
    """
    folder = Path(out) if out is not None else latest_run(root)
    kept = folder / "checkpoints"
    path = checkpoints.latest(kept) if step is None else checkpoints.find(kept, step)
    state = checkpoints.read_state(path)
    with checkpoints.reading(path):
        config = TrainConfig.from_dict(state["config"]).changed(eval_batches=batches)
        if amp.dtype_of(config.precision) not in runtime.get(backend).dtypes:
            config = config.changed(precision="float32")  # which is no worse
        found = open_corpus(text or "", data) if text or data else same_corpus(state)
        tokenizer, model = load_tokenizer(state["tokenizer"]), model_sizes(path, state["model"])
        trainer = build(config, backend, tokenizer, found, None, None, model)
        checkpoints.load_model(path, trainer.model)
        trainer.step = state["step"]
    return trainer, found, path


def model_sizes(path: Path, saved: Mapping[str, Any]) -> GPTConfig:
    """A checkpoint's model sizes, which must fit the file with its weights: a model is not built on a file's word."""
    sizes = GPTConfig(**saved)
    needed = 2 * sizes.width * (sizes.vocab_size + 12 * sizes.layers * sizes.width)
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
    text = Path(config.text).stem if config.data is None else Path(config.data).resolve().name
    text = re.sub(r"[^\w.-]+", "-", text)
    name, number = f"{config.preset}-{text}", 1
    while (root / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return root / (name if number == 1 else f"{name}-{number}")


