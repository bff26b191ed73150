"""The training loop. It never waits for the device between two readings of the loss, about one second apart."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from .. import checkpoints, creation, functional, optim, runtime
from ..data import TokenBatches
from ..errors import TrainingError
from ..models import GPT
from ..tape import no_grad
from ..tensor import Tensor
from ..text import Tokenizer
from .config import TrainConfig
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


class Trainer:
    """Trains a GPT on batches and keeps its run folder: checkpoints, metrics.jsonl.

    Args:
        about: JSON values that a later process needs to rebuild model and data, put into every checkpoint.
        folder: the run's folder; None keeps nothing on disk.
    """

    def __init__(self, model: GPT, data: TokenBatches, tokenizer: Tokenizer, config: TrainConfig,
                 folder: Path | None = None, reporter: Reporter | None = None,
                 about: Mapping[str, Any] | None = None) -> None:
        self.model, self.data, self.tokenizer, self.config = model, data, tokenizer, config
        self.folder, self.reporter, self.about = folder, reporter or Reporter(), dict(about or {})
        self.backend = runtime.get(model.wte.weight.backend)
        self.optimizer = make_optimizer(model, config)
        self.metrics = Metrics(folder / "metrics.jsonl" if folder else None)
        self.plan, self.clock = Plan.start(config), Clock()
        self.step = 0
        self.spent = 0.0  # seconds in this and earlier processes
        self.best: dict[str, float] = {}  # step and loss of the best validation
        self._saved = -1  # step of the last checkpoint
        self._unread: list[tuple[int, float, list[Tensor]]] = []  # step, rate, losses and gradient norm

    # ---- one step ---------------------------------------------------------------------------------------------------

    def forward(self, part: str, index: int) -> Tensor:
        """The loss of a batch, a scalar on the device."""
        tokens, targets = (creation.tensor(a, backend=self.backend.name) for a in self.data.get(part, index))
        loss: Tensor = self.model(tokens, targets)[1]
        return loss

    def train_step(self) -> None:
        """Forward and backward of each micro-batch, clipping, one AdamW step. Waits for nothing."""
        config, rate = self.config, learning_rate(self.config, self.plan, self.step)
        losses = []
        for micro in range(config.accumulation):
            loss = self.forward("train", self.step * config.accumulation + micro)
            (loss if config.accumulation == 1 else loss * (1.0 / config.accumulation)).backward()
            losses.append(loss.detach())
        norm = optim.clip_grad_norm_(self.model.parameters(), config.clip or 1e30)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._unread.append((self.step, rate, [*losses, norm]))
        self.step += 1

    def read_losses(self) -> None:
        """Brings the losses of all steps since the last reading to the host, in one transfer.

        Raises:
            TrainingError: a loss is not a finite number.
        """
        if not self._unread:
            return
        unread, self._unread = self._unread, []
        values = functional.stack([t.reshape(()) for _, _, kept in unread for t in kept]).numpy()
        for (step, rate, _), row in zip(unread, values.reshape(len(unread), -1), strict=True):
            loss, norm = float(row[:-1].mean()), float(row[-1])
            if not math.isfinite(loss):
                raise TrainingError(f"[train] the loss became {loss} at step {step + 1}. Use a lower --lr (it was "
                                    f"{rate:.1e}) or go back to the last checkpoint with --resume.")
            self.metrics.step(step + 1, loss, rate, norm, self.spent)
        self.metrics.flush()

    # ---- pauses -----------------------------------------------------------------------------------------------------

    def evaluate(self) -> float:
        """Mean loss over the same `eval_batches` validation batches every time."""
        self.model.eval()
        try:
            with no_grad():
                losses = [self.forward("val", index) for index in range(self.config.eval_batches)]
                mean = float(functional.stack([loss.reshape(()) for loss in losses]).numpy().mean(dtype=np.float64))
        finally:
            self.model.train()
        if not self.best or mean < self.best["loss"]:
            self.best = {"step": self.step, "loss": mean}
        self.metrics.validation(self.step, mean, self.spent)
        return mean

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
                 "spent": self.spent, "backend": self.backend.name}
        protect = (int(self.best["step"]),) if self.best else ()
        self.metrics.flush()
        self._saved = self.step
        folder = self.folder / "checkpoints"
        return checkpoints.save(folder, self.step, self.model, self.optimizer, state, protect=protect)

    def restore(self, path: Path) -> None:
        """Goes on from a checkpoint as if there had been no break."""
        state = checkpoints.load(path, self.model, self.optimizer)
        self.step, self.spent, self.best = state["step"], state["spent"], state["best"]
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
