"""The training loop. It never waits for the device between two readings of the loss, about one second apart."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from .. import amp, checkpoints, creation, functional, optim, random, runtime
from ..data import Batches, DeviceBatches
from ..errors import CheckpointError, TrainingError
from ..models import GPT
from ..programs import capture
from ..tensor import Tensor
from ..text import Tokenizer
from .config import TrainConfig
from .diagnose import diagnose
from .evaluation import Evaluation, evaluate, text_size
from .metrics import Metrics
from .plan import MOST_PAUSES, Clock, Plan, learning_rate
from .report import Progress, Reporter
from .stop import StopRequest

_READ_SECONDS = 1.0   # between two readings of the loss
_MOST_UNREAD = 50     # steps, so that a fast device is not left far ahead of the display
_PAUSE_SHARE = 0.25   # of a bounded time, for validations
SAMPLE_SECONDS = 4.0  # a slow device is given no more for a sample


def make_optimizer(model: GPT, config: TrainConfig) -> optim.AdamW:
    """AdamW that decays matrices only: biases and norms have no scale to keep small."""
    parameters = list(model.parameters())
    groups = [{"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
              {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}]
    return optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2))


@dataclass(frozen=True)
class _Unread:
    """A step whose losses and gradient norm are still on the device, and where the random stream stood before it."""

    step: int
    rate: float
    random: dict[str, int]
    values: list[Tensor]


class Trainer:
    """Trains a GPT on batches and keeps its run folder: checkpoints, metrics.jsonl.

    Args:
        data: batches, from the host or drawn on the model's device; the losses are the same.
        about: JSON values that a later process needs to rebuild model and data, put into every checkpoint.
        folder: the run's folder; None keeps nothing on disk.
    """

    def __init__(self, model: GPT, data: Batches | DeviceBatches, tokenizer: Tokenizer, config: TrainConfig,
                 folder: Path | None = None, reporter: Reporter | None = None,
                 about: Mapping[str, Any] | None = None) -> None:
        self.model, self.data, self.tokenizer, self.config = model, data, tokenizer, config
        self.folder, self.reporter, self.about = folder, reporter or Reporter(), dict(about or {})
        self.backend = runtime.get(model.wte.weight.backend)
        self.precision = amp.check(config.precision, self.backend.name)
        if config.precision in amp.SHORT_WEIGHTS:
            model.to(self.precision)
        self.scaler = amp.LossScaler(self.precision, self.backend.name)
        self.optimizer = make_optimizer(model, config)
        self._replayed = capture(self._work)
        self.metrics = Metrics(folder / "metrics.jsonl" if folder else None)
        self.plan, self.clock = Plan.start(config), Clock()
        self.step = 0
        self.spent = 0.0  # seconds in this and earlier processes
        self.best: dict[str, float] = {}  # step and loss of the best validation
        self._saved = -1  # step of the last checkpoint
        self._next: int | None = None  # the batch that the device draws next, where it is known
        self._unread: list[_Unread] = []
        self._val_size: tuple[int, int] | None = None  # tokens and bytes of a validation

    # ---- one step ---------------------------------------------------------------------------------------------------

    def forward(self, part: str, index: int) -> Tensor:
        """The loss of a batch, a scalar on the device."""
        return self.loss(*self.data.get(part, index))

    def loss(self, tokens: np.ndarray | Tensor, targets: np.ndarray | Tensor) -> Tensor:
        """The loss of tokens and targets, int32 [B,T] each."""
        placed = [a if isinstance(a, Tensor) else creation.tensor(a, backend=self.backend.name)
                  for a in (tokens, targets)]
        with amp.forward_pass(self.config.precision):
            loss: Tensor = self.model(*placed)[1]
        return loss

    def _passes(self, step: int) -> Iterator[Tensor]:
        """The losses of a step's micro-batches, each computed when it is asked for."""
        count = self.config.accumulation
        return (self.forward("train", step * count + micro) for micro in range(count))

    def train_step(self) -> None:
        """Forward and backward of each micro-batch, clipping, one AdamW step, which changes nothing where a gradient is
        not finite; from the third step on it is replayed. Waits for nothing, but in float16 for whether the step was
        done: a skipped one must not count."""
        rate, start = learning_rate(self.config, self.plan, self.step), random.get_state()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batches = self._batches()
        with runtime.use_backend(self.backend.name):
            values, factor = self._replayed(batches)
        if self.scaler.dynamic and not float(factor):
            self.optimizer.uncount()
        self.optimizer.zero_grad()
        self._unread.append(_Unread(self.step, rate, start, values))
        self.step += 1
        self._next = self.step * self.config.accumulation

    def _batches(self) -> list[Any] | None:
        """The step's batches from the host; None where the device draws them, and stands at the first of them."""
        first, count = self.step * self.config.accumulation, self.config.accumulation
        if not isinstance(self.data, DeviceBatches):
            return [self.data.get("train", first + micro) for micro in range(count)]
        if self._next != first:
            self.data.seek("train", first)
        self._next = None  # until the step is done
        return None

    def _drawn(self) -> Iterator[tuple[Tensor, Tensor]]:
        """As many batches as a step takes, each drawn on the device when it is asked for."""
        data = self.data
        assert isinstance(data, DeviceBatches)
        return (data.next("train") for _ in range(self.config.accumulation))

    def _work(self, batches: list[Any] | None) -> tuple[list[Tensor], Tensor]:
        """What a step does to the device. Returns losses and gradient norm, and what gradients were multiplied by."""
        seed, losses = self.scaler.seed(self.config.accumulation), []
        for tokens, targets in self._drawn() if batches is None else batches:
            loss = self.loss(tokens, targets)
            loss.backward(seed)
            losses.append(loss.detach())
        factor, norm = self.scaler.factor(optim.grad_squares(self.model.parameters()), self.config.clip)
        self.optimizer.step(factor)
        return [*losses, norm], factor

    def read_losses(self) -> None:
        """Brings the losses of all steps since the last reading to the host, in one transfer.

        Raises:
            TrainingError: a loss or gradient is not finite, and it is no overflow that a loss scale can mend. The
                message has a diagnosis.
        """
        if not self._unread:
            return
        unread, self._unread = self._unread, []
        values = functional.stack([t.reshape(()) for u in unread for t in u.values]).numpy()
        read = [(u, float(row[:-1].mean()), float(row[-1]))
                for u, row in zip(unread, values.reshape(len(unread), -1), strict=True)]
        bad = [found for found in read if not math.isfinite(sum(found[1:]))]
        broken = None
        if bad and not self.scaler.dynamic:
            broken = bad[0]
        elif bad and self.scaler.state_dict()["stopped"]:
            broken = bad[-1]  # earlier ones may have been skipped; the weights are still those of this one
        for step, loss, norm in read if broken is None else read[:read.index(broken)]:
            self.metrics.step(step.step + 1, loss, step.rate, norm, self.spent)
        self.metrics.flush()
        if broken is not None:
            raise self._failure(*broken)

    def _failure(self, unread: _Unread, loss: float, norm: float) -> TrainingError:
        """What happened in a step whose loss or gradients are not finite, what is kept, and what to try."""
        what = f"loss became {loss}" if not math.isfinite(loss) else f"gradient norm became {norm}"
        said = diagnose(self.model.named_parameters(), lambda: self._passes(unread.step),
                        self.scaler.seed(self.config.accumulation), unread.random)
        short = "" if self.precision.name == "float32" else " or --precision float32"
        try:
            kept = checkpoints.latest(self.folder / "checkpoints" if self.folder else Path(), say=lambda text: None)
            said.append(f"Kept: {kept}. As it was, the run would come to this step again: go on with --resume and a "
                        f"lower --lr (it was {self.config.lr:g}){short}.")
        except CheckpointError:
            said.append(f"There was no checkpoint yet. Try a lower --lr (it was {self.config.lr:g}), a longer --warmup"
                        f"{short}.")
        return TrainingError("\n  ".join([f"[train] the {what} at step {unread.step + 1}.", *said]))

    # ---- pauses -----------------------------------------------------------------------------------------------------

    def evaluate(self) -> Evaluation:
        """Over the same `eval_batches` validation batches every time."""
        batches = self.config.eval_batches
        if self._val_size is None:
            self._val_size = text_size(self.data, self.tokenizer, batches)
        found = evaluate(self.model, self.forward, batches, *self._val_size)
        if not self.best or found.loss < self.best["loss"]:
            self.best = {"step": self.step, "loss": found.loss}
        self.metrics.validation(self.step, found, self.spent)
        return found

    def sample(self, tokens: int, seconds: float, prompt: str = "\n", temperature: float = 0.8) -> str:
        """Text the model writes now: so many tokens, or as many as come in so many seconds."""
        found: list[int] = []
        start = time.monotonic()
        try:
            begin = self.tokenizer.encode(prompt)
        except ValueError:  # a text without line breaks
            begin = np.zeros(1, np.int32)
        for token in islice(self.model.stream(begin, temperature, seed=self.config.seed), tokens):
            found.append(token)
            if time.monotonic() - start > seconds:
                break
        return self.tokenizer.decode(found)

    def save(self) -> Path | None:
        """Writes a checkpoint of this very step. Returns its folder."""
        self.read_losses()
        if self.folder is None:
            return None
        state = {**self.about, "config": self.config.to_dict(), "model": self.model.config.to_dict(),
                 "tokenizer": self.tokenizer.to_dict(), "plan": self.plan.to_dict(), "best": self.best,
                 "spent": self.spent, "backend": self.backend.name, "scaler": self.scaler.state_dict()}
        protect = (int(self.best["step"]),) if self.best else ()
        self.metrics.flush(sync=True)  # a checkpoint's losses must not be lost where it is not
        self._saved = self.step
        folder = self.folder / "checkpoints"
        return checkpoints.save(folder, self.step, self.model, self.optimizer, state, self.config.keep, protect)

    def restore(self, path: Path) -> None:
        """Goes on from a checkpoint as if there had been no break."""
        state = checkpoints.load(path, self.model, self.optimizer)
        with checkpoints.reading(path):
            self.step, self.spent, self.best = state["step"], float(state["spent"]), dict(state["best"])
            scale = dict(state["scaler"])
            if state["config"]["precision"] == self.config.precision:
                self.scaler.load_state_dict(scale)
            if state["config"]["steps"] == self.config.steps and state["config"]["minutes"] == self.config.minutes:
                self.plan = Plan(**state["plan"])
        self.metrics.rewind(self.step)

    # ---- the loop ---------------------------------------------------------------------------------------------------

    def train(self) -> bool:
        """Trains to the end of the plan. Returns False where Ctrl-C ended it sooner; either way it is saved."""
        began, before = time.monotonic(), self.spent
        with StopRequest(self.reporter) as stop:
            if self.step == 0:
                self._pause(sample=False)
            mark, first = time.monotonic(), self.step
            while self.step < self.plan.total and not stop.requested:
                self.train_step()
                due = self._pause_due()
                if due or self._reading_due(first):
                    self.read_losses()
                    now = time.monotonic()
                    self.clock.stepped(now - mark, self.step - first)
                    self.spent = before + now - began
                    self._replan()
                    self._report()
                    if due and not stop.requested:
                        self._pause()
                        self.spent = before + time.monotonic() - began
                    mark, first = time.monotonic(), self.step
            self.spent = before + time.monotonic() - began
            if self._saved != self.step:
                self.save()
        return self.step >= self.plan.total

    def _reading_due(self, first: int) -> bool:
        """The first steps compile kernels and measure the speed: they are read one by one."""
        clock, unread = self.clock, self.step - first
        if not clock.trusted or self.step >= self.plan.total:
            return True
        return unread >= min(_MOST_UNREAD, _READ_SECONDS / clock.step_seconds)

    def _pause_due(self) -> bool:
        every = self.config.eval_every
        if every:
            return self.step % every == 0 or self.step == self.plan.total
        pauses, total = self.plan.pauses, self.plan.total
        return self.step * pauses // total != (self.step - 1) * pauses // total

    def _pauses_left(self) -> int:
        if self.config.eval_every:
            return -(-(self.plan.total - self.step) // self.config.eval_every)
        return self.plan.pauses - self.step * self.plan.pauses // self.plan.total

    def _pause(self, sample: bool = True) -> None:
        """Validates, shows a sample, saves."""
        start = time.monotonic()
        self.reporter.evaluated(self.step, self.evaluate())
        if sample and self.config.sample_tokens and self.step < self.plan.total:  # the end has a longer one
            self.reporter.sample(self.step, self.sample(self.config.sample_tokens, SAMPLE_SECONDS))
        if self.step:
            self.save()
        self.clock.paused(time.monotonic() - start)

    def _replan(self) -> None:
        """Moves the end where the time is bounded and the measured speed leads elsewhere by more than a tenth."""
        plan, minutes = self.plan, self.config.minutes
        if minutes is None or not self.clock.trusted or self.step >= plan.total:
            return
        each = self.clock.pause_estimate(self.config.eval_batches)
        if not plan.known:
            plan.pauses = max(2, min(MOST_PAUSES, int(_PAUSE_SHARE * minutes * 60 / each)))
        pauses = self._pauses_left() if plan.known else plan.pauses
        left = minutes * 60 - self.spent - pauses * each
        total = min(self.config.steps, self.step + max(1, int(left / self.clock.step_seconds)))
        off = abs(total - plan.total)
        if not plan.known:
            self.reporter.planned(total, minutes, self.config.tokens_per_step / self.clock.step_seconds)
        if not plan.known or off > max(5, 0.1 * (plan.total - self.step)):
            plan.move(self.step, total)

    def _report(self) -> None:
        step_seconds, left = self.clock.step_seconds, None
        if step_seconds and self.plan.known:
            pauses = self._pauses_left() * self.clock.pause_estimate(self.config.eval_batches)
            left = (self.plan.total - self.step) * step_seconds + pauses
        self.reporter.progress(Progress(
            step=self.step, total=self.plan.total if self.plan.known else None, loss=self.metrics.smooth,
            history=self.metrics.curve(), rate=self.metrics.rate, seconds_left=left, spent=self.spent,
            tokens_per_second=self.config.tokens_per_step / step_seconds if step_seconds else 0.0))
