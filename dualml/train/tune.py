"""Teaching a trained model to chat: it goes on from a run's checkpoint, on conversations, and only what the assistant
says counts for the loss."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from .. import checkpoints, creation, random, runtime
from ..data.dialogues import BUILTIN, DialogueBatches, Dialogues, Messages, Tokens, load_dialogues
from ..errors import CheckpointError, DataError
from ..models import GPT
from ..models.chat import answers
from ..nn import init
from ..text import load_tokenizer
from ..text.chat import ChatTemplate, with_chat_tokens
from ..words import counted
from .config import TrainConfig
from .lock import FolderLock
from .report import Reporter
from .run import load_for_sampling, model_sizes, runs
from .trainer import Trainer

STEPS = 2400         # where nothing else is said
BATCH = 2            # rows: many small steps learn a few conversations faster than a few large ones
CONTEXT = 128        # at least: a chat needs room for what was said before
ASKING_SECONDS = 20  # for questions after the training
_RATE = 2 / 3        # of the run's learning rate
_SHOWN = 3           # conversations in a sample
_OF_TRAINER = {"format", "step", "random", "optimizer", "config", "model", "tokenizer", "plan", "best", "spent",
               "backend", "scaler"}


class ChatTrainer(Trainer):
    """A trainer whose samples are answers to questions that it learns from."""

    dialogues: Sequence[Messages] = ()

    def sample(self, tokens: int, seconds: float, prompt: str = "", temperature: float = 0.0) -> str:
        """Some conversations, other ones at each step, with the model's likeliest answers."""
        start, lines = time.monotonic(), []
        for messages in islice(_turned(self.dialogues, self.step), _SHOWN):
            for question, _, found in answers(self.model, self.tokenizer, messages):
                lines.append(f"> {question}\n{found}")
                if time.monotonic() - start > seconds:
                    return "\n".join(lines)
        return "\n".join(lines)

    def ask(self, seconds: float) -> tuple[int, int]:
        """How many answers are word for word what was taught, and of how many: as many as come in so many seconds."""
        start, right, asked = time.monotonic(), 0, 0
        order = np.random.Generator(np.random.Philox(key=self.config.seed)).permutation(len(self.dialogues))
        for number in order.tolist():
            for _, wanted, found in answers(self.model, self.tokenizer, self.dialogues[number]):
                right, asked = right + (found == wanted), asked + 1
            if time.monotonic() - start > seconds:
                break
        return right, asked


def _turned(dialogues: Sequence[Messages], first: int) -> Iterable[Messages]:
    return (dialogues[(first + i) % len(dialogues)] for i in range(len(dialogues)))


@dataclass
class Tuning:
    """A trainer with the conversations it reads and the checkpoint that it began with. `execute` does the whole of
    it."""

    trainer: ChatTrainer
    data: DialogueBatches
    dialogues: Dialogues
    began: Path
    lock: FolderLock
    notes: list[str] = field(default_factory=list)
    right: tuple[int, int] = (0, 0)  # answers as they were taught, of so many

    @property
    def folder(self) -> Path:
        return self.began if self.trainer.folder is None else self.trainer.folder

    def describe(self) -> tuple[str, list[str]]:
        """A title, and lines that say what is taught, to which model, with which settings."""
        trainer, config, device = self.trainer, self.trainer.config, self.trainer.backend.device
        sizes, parts = trainer.model.config, self.data.parts
        bound = f"{config.minutes:g} min" if config.minutes else counted(config.steps, "step")
        held = f"{len(parts['val']):,} held out" if parts["val"] is not parts["train"] else "validated on the same ones"
        lines = [f"start: {self.began}",
                 f"conversations: {self.dialogues.name}, {len(parts['train']):,} to learn, {held}",
                 f"model: {counted(sizes.layers, 'layer')}, {counted(sizes.heads, 'head')}, width {sizes.width}, "
                 f"context {sizes.context}, vocabulary {sizes.vocab_size}",
                 f"training: {bound}, {config.tokens_per_step:,} tokens a step, lr {config.lr:g}, seed {config.seed}",
                 f"folder: {self.folder}" + (f", going on after step {trainer.step:,}" if trainer.step else ""),
                 f"{trainer.backend.name}: {device.name} ({device.driver})"]
        return f"tune · {trainer.model.num_parameters():,} parameters", lines

    def execute(self) -> bool:
        """Trains, then asks what was taught. Returns False where Ctrl-C ended it sooner (it is saved then too)."""
        trainer, reporter = self.trainer, self.trainer.reporter
        reporter.start(*self.describe())
        try:
            for note in self.notes:
                reporter.note(note)
            finished = trainer.train()
            if finished:
                reporter.note(f"Asking what it was taught, for at most {ASKING_SECONDS} s ...")
                self.right = trainer.ask(ASKING_SECONDS)
        finally:
            self.lock.release()
            reporter.close()
        return finished


def prepare(run: str | Path | None = None, chat: str = BUILTIN, out: str | Path | None = None, backend: str = "auto",
            step: int | None = None, reporter: Reporter | None = None, *, epochs: int | None = None,
            steps: int | None = None, minutes: float | None = None, context: int | None = None, held_out: float = 0.0,
            root: Path = Path("runs"), **changes: Any) -> Tuning:
    """A tuning that is ready to go.

    Args:
        run: folder of a run; by default the newest below `root` that was not tuned itself.
        chat: a .jsonl file, or "builtin".
        out: the new run's folder; <run>-chat by default.
        step: the checkpoint of this step instead of the newest.
        epochs, steps, minutes: how long; the first to be reached ends it.
        context: tokens the model sees at once; the run's, but at least 128, by default.
        held_out: share of the conversations to validate with; 0 learns from all and validates with the same.
        changes: of the run's other settings, such as lr, batch and seed.
    Raises:
        DataError: the conversations are no such, too long, or `out` is taken.
        CheckpointError: there is no run.
    """
    dialogues = load_dialogues(chat)
    source = Path(run) if run is not None else newest(root, tuned=False)
    model, base, began = load_for_sampling(source, backend, step)
    saved = checkpoints.read_state(began)
    tokenizer = with_chat_tokens(base, dialogues.texts())
    context = context or max(model.config.context, CONTEXT)
    parts, kept, notes = _split(dialogues, ChatTemplate(tokenizer), context, held_out)
    config, data = _settings(saved, parts, context, epochs, steps, minutes, changes)
    folder = Path(out) if out is not None else _free_folder(root, source.name)
    if checkpoints.steps(folder / "checkpoints"):
        raise DataError(f"[tune] {folder} already holds a run. Name another --out.")
    about = {name: value for name, value in saved.items() if name not in _OF_TRAINER}
    about["chat"] = {"source": dialogues.source, "sha256": dialogues.sha256, "began": str(began), "held_out": held_out}
    lock = FolderLock(folder)
    with runtime.use_backend(backend):
        random.manual_seed(config.seed)
        taught = grown(model, base.vocab_size, tokenizer.vocab_size, context, config.dropout, config.seed)
        trainer = ChatTrainer(taught, data, tokenizer, config, folder, reporter, about)
    trainer.dialogues = kept
    trainer.metrics.rewind(-1)  # of a run that was killed before its first checkpoint
    return Tuning(trainer, data, dialogues, began, lock, notes)


def resume(run: str | Path | None = None, backend: str | None = None, reporter: Reporter | None = None,
           root: Path = Path("runs")) -> Tuning:
    """A tuning that was interrupted, ready to go on exactly where it stopped.

    Args:
        run: the tuned run's folder; by default the newest below `root`.
        backend: another one than before, if wished.
    Raises:
        CheckpointError: it was not tuned, is being trained, or its conversations have changed.
        DataError: it is finished.
    """
    folder, reporter = Path(run) if run is not None else newest(root, tuned=True), reporter or Reporter()
    if not checkpoints.steps(folder / "checkpoints"):
        checkpoints.latest(folder / "checkpoints")  # says what is wrong
    lock = FolderLock(folder)
    try:
        return _restored(folder, lock, backend, reporter)
    except BaseException:
        lock.release()
        raise


def _restored(folder: Path, lock: FolderLock, backend: str | None, reporter: Reporter) -> Tuning:
    path = checkpoints.latest(folder / "checkpoints", reporter.note)
    state = checkpoints.read_state(path)
    if "chat" not in state:
        raise CheckpointError(f"[tune] {folder} was not tuned. Go on with it by `dualml train --resume`, or name a "
                              "tuned run.")
    with checkpoints.reading(path):
        config, chat = TrainConfig.from_dict(state["config"]), state["chat"]
        dialogues = load_dialogues(chat["source"])
        if dialogues.sha256 != chat["sha256"]:
            raise CheckpointError(f"[tune] the conversations in {chat['source']} are not those that the run was tuned "
                                  "on: they have changed since. Restore them, or tune anew.")
        tokenizer, sizes = load_tokenizer(state["tokenizer"]), model_sizes(path, state["model"])
        parts, kept, notes = _split(dialogues, ChatTemplate(tokenizer), sizes.context, chat.get("held_out", 0.0))
        data = DialogueBatches(parts, sizes.context, config.batch, config.seed)
        about = {name: value for name, value in state.items() if name not in _OF_TRAINER}
        with runtime.use_backend(backend or state["backend"]):
            random.manual_seed(config.seed)
            trainer = ChatTrainer(GPT(sizes), data, tokenizer, config, folder, reporter, about)
        trainer.dialogues = kept
        trainer.restore(path)
    if trainer.step >= trainer.plan.total:
        raise DataError(f"[tune] {folder} is finished after step {trainer.step:,}. Teach it more without --resume.")
    return Tuning(trainer, data, dialogues, Path(chat["began"]), lock, notes)


def _settings(saved: Mapping[str, Any], parts: dict[str, list[Tokens]], context: int, epochs: int | None,
              steps: int | None, minutes: float | None, changes: Mapping[str, Any]
              ) -> tuple[TrainConfig, DialogueBatches]:
    """The run's settings, made those of a tuning: a lower learning rate, small batches, and another length."""
    before = TrainConfig.from_dict(saved["config"])
    lr = changes.get("lr") or _RATE * before.lr
    open_end = 10**7 if minutes is not None or epochs is not None else STEPS
    config = replace(before, steps=open_end if steps is None else steps, minutes=minutes, context=context, batch=BATCH,
                     accumulation=1, warmup=10, eval_every=0, lr=lr, min_lr=lr / 10).changed(**changes)
    data = DialogueBatches(parts, context, config.batch, config.seed)
    if epochs is not None:
        if epochs < 1:
            raise DataError(f"[tune] epochs must be at least 1, got {epochs}.")
        config = replace(config, steps=min(config.steps, data.steps(epochs, config.batch * config.accumulation)))
    return replace(config, eval_batches=min(config.eval_batches, data.batches("val"))), data


def _split(dialogues: Dialogues, template: ChatTemplate, context: int, held_out: float
           ) -> tuple[dict[str, list[Tokens]], list[Messages], list[str]]:
    """Conversations to train on and to validate with, what is left of all to train on, and what there is to tell."""
    if not 0 <= held_out < 1:
        raise DataError(f"[tune] val must be a share from 0 to below 1, got {held_out}.")
    fitted = [fit(messages, template, context + 1) for messages in dialogues.content]
    cut = sum(0 < len(new) < len(old) for new, old in zip(fitted, dialogues.content, strict=True))
    kept = [messages for messages in fitted if messages]
    gone, notes = len(fitted) - len(kept), []
    if cut:
        notes.append(f"{cut:,} conversations were cut after a turn: they have more than {context} tokens (--context).")
    if gone:
        notes.append(f"{gone:,} were left out: their first answer ends after {context} tokens (--context).")
    count = round(held_out * len(kept))
    if not kept or count == len(kept):
        raise DataError(f"[tune] at least one conversation must be there to learn, got none of {len(fitted):,} that "
                        f"fits into {context} tokens and is not held out. Raise --context or lower --val.")
    order = np.random.Generator(np.random.Philox(key=0)).permutation(len(kept)).tolist()
    chosen = [kept[number] for number in sorted(order[count:])]
    train = [template.render(messages) for messages in chosen]
    val = [template.render(kept[number]) for number in sorted(order[:count])]
    return {"train": train, "val": val or train}, chosen, notes


def fit(messages: Messages, template: ChatTemplate, most: int) -> Messages:
    """The conversation up to the last answer that ends within so many tokens; [] where there is none."""
    total, kept = 0, 0
    for number, message in enumerate(messages, 1):
        total += len(template.render([message])[0])
        if total > most:
            break
        if message["role"] == "assistant":
            kept = number
    return messages[:kept]


def grown(model: GPT, known: int, vocab_size: int, context: int, dropout: float, seed: int) -> GPT:
    """The model for a larger vocabulary and another context, with its weights.

    Args:
        known: tokens that have been trained. Rows of later ones begin as the mean of theirs with a little noise.
        context: of positions beyond the model's, rows repeat the known ones.
    """
    size = max(vocab_size, model.config.vocab_size)
    config = replace(model.config, vocab_size=size, context=context, dropout=dropout)
    state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    rng = np.random.Generator(np.random.Philox(key=seed))
    for name in ("wte.weight", "head_bias"):
        if name in state:
            state[name] = _more_rows(state[name], known, vocab_size, size, rng)
    state["wpe.weight"] = np.resize(state["wpe.weight"], (context, config.width))
    with init.skipped():
        made = GPT(config)
    made.load_state_dict({name: creation.tensor(values) for name, values in state.items()})
    return made


def _more_rows(table: np.ndarray, known: int, wanted: int, size: int, rng: np.random.Generator) -> np.ndarray:
    old = table[:known]
    new = old.mean(0) + 0.1 * old.std(0) * rng.standard_normal((max(0, wanted - known), *table.shape[1:]))
    made = np.concatenate([old, new.astype(table.dtype)])
    return np.concatenate([made, table[len(made):size]])


def newest(root: Path, tuned: bool) -> Path:
    """The run below root that was saved last, of those that were tuned, or of those that were not."""
    for folder in reversed(runs(root)):
        path = checkpoints.steps(folder / "checkpoints")[-1]
        if ("chat" in checkpoints.read_state(path)) == tuned:
            return folder
    what, how = ("run that can chat", "tune") if tuned else ("run", "train")
    raise CheckpointError(f"[{'chat' if tuned else 'tune'}] no {what} was found in {root.resolve()}. Make one with "
                          f"`dualml {how}`, or name a run's folder.")


def _free_folder(root: Path, name: str) -> Path:
    """root/<name>-chat, with a number where that is taken."""
    name = re.sub(r"(-chat(-\d+)?)?$", "-chat", name, count=1)
    number = 1
    while (root / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return root / (name if number == 1 else f"{name}-{number}")
