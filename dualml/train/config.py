"""Settings of a training run, and the recipe that each preset of dualml.models starts from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ..amp import PRECISIONS, SHORT_WEIGHTS
from ..errors import DataError
from ..models import PRESETS

_KINDS: dict[str, set[type]] = {"int": {int}, "float": {int, float}, "str": {str}, "bool": {bool}, "None": {type(None)}}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a run computes.

    Args:
        preset: the model, one of dualml.models.PRESETS.
        text: "pydoc", "shakespeare" or a file.
        data: a data folder, in place of `text` and `tokenizer`.
        tokenizer: "char", "bpe:N" to learn N byte pairs and tokens from the text, or a tokenizer.json.
        steps: optimizer steps at most.
        minutes: time at most; steps are planned from the measured speed. None trains exactly `steps`.
        batch: windows B in one forward; times `accumulation` in one step.
        lr, min_lr: the rate after `warmup` steps, and at the end of its cosine.
        weight_decay: on matrices only, as GPT-2's biases and norms are not decayed.
        clip: largest global gradient norm; 0 for none.
        eval_every: steps between validations, samples and checkpoints; 0 for six in a run.
        eval_batches: validation batches, the same ones each time.
        sample_tokens: in a sample on the way; three times as many at the end; 0 for none.
        precision: of matrix products and attention, one of dualml.amp.PRECISIONS; all else is float32. Or one of
            dualml.amp.SHORT_WEIGHTS: then weights, gradients and activations are of 16 bits.
        keep: checkpoints that stay on disk, the newest ones, and the best beside them.
        layers, heads, width: of the model, in place of the preset's.
    """

    preset: str = "gpt-nano"
    text: str = "pydoc"
    data: str | None = None
    tokenizer: str = "char"
    steps: int = 2000
    minutes: float | None = None
    batch: int = 12
    accumulation: int = 1
    context: int = 64
    dropout: float = 0.0
    lr: float = 1e-3
    min_lr: float = 1e-4
    warmup: int = 100
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.1
    clip: float = 1.0
    eval_every: int = 0
    eval_batches: int = 20
    sample_tokens: int = 160
    seed: int = 1337
    precision: str = "float32"
    keep: int = 2
    layers: int | None = None
    heads: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            kind = type(getattr(self, field.name))
            allowed = str(field.type).split(" | ")
            self._check(field.name, any(kind in _KINDS[name] for name in allowed), f"of type {field.type}")
        positive = ("steps", "batch", "accumulation", "context", "lr", "eval_batches", "keep")
        for name in positive:
            self._check(name, getattr(self, name) > 0, "above 0")
        for name in ("layers", "heads", "width"):
            self._check(name, getattr(self, name) is None or getattr(self, name) > 0, "above 0")
        for name in ("min_lr", "warmup", "weight_decay", "clip", "eval_every", "seed", "sample_tokens"):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        for name in ("dropout", "beta1", "beta2"):
            self._check(name, 0 <= getattr(self, name) < 1, "in [0, 1)")
        for name in ("lr", "min_lr", "weight_decay", "clip"):
            self._check(name, getattr(self, name) < math.inf, "finite")
        self._check("seed", self.seed < 1 << 63, "below 2^63")
        self._check("minutes", self.minutes is None or 0 < self.minutes < math.inf, "above 0")
        precisions = (*PRECISIONS, *SHORT_WEIGHTS)
        self._check("precision", self.precision in precisions, f"one of {', '.join(precisions)}")
        self._check("preset", self.preset in PRESETS, f"one of {', '.join(PRESETS)}")

    def _check(self, name: str, right: bool, expected: str) -> None:
        if not right:
            raise DataError(f"[train] {name.replace('_', '-')} must be {expected}, got {getattr(self, name)!r}.")

    @property
    def tokens_per_step(self) -> int:
        return self.batch * self.context * self.accumulation

    @property
    def sizes(self) -> dict[str, Any]:
        """What the model has of its own, of dualml.models.GPTConfig's fields."""
        own = {name: getattr(self, name) for name in ("layers", "heads", "width")}
        return {"context": self.context, "dropout": self.dropout, **{n: v for n, v in own.items() if v is not None}}

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> TrainConfig:
        """Settings from a checkpoint; ones this version does not know are refused."""
        unknown = sorted(saved.keys() - {f.name for f in fields(cls)})
        if unknown:
            raise DataError(f"[train] unknown settings: {', '.join(unknown)}. They are from a newer dualml.")
        return cls(**saved)

    def changed(self, **changes: Any) -> TrainConfig:
        """A copy with every change that is not None."""
        return replace(self, **{k: v for k, v in changes.items() if v is not None})


# Where a preset has a published recipe (nanoGPT's for the two Shakespeare models), it is that one. gpt-nano alone is
# bounded in time, with a higher rate and a shorter warm-up, so that two minutes on a laptop show something.
RECIPES: dict[str, TrainConfig] = {
    "gpt-nano": TrainConfig(lr=3e-3, min_lr=3e-4, warmup=30, minutes=2.0),
    "gpt-shakespeare": TrainConfig(preset="gpt-shakespeare", steps=5000, batch=64, context=256, dropout=0.2,
                                   eval_every=250),
    "gpt-12m": TrainConfig(preset="gpt-12m", tokenizer="bpe:4096", steps=7500, batch=8, accumulation=4, context=256,
                           dropout=0.1, lr=3e-4, min_lr=6e-5, warmup=200, beta2=0.95, eval_every=250),
    "gpt2": TrainConfig(preset="gpt2", steps=20000, batch=4, accumulation=8, context=1024, dropout=0.1, lr=6e-4,
                        min_lr=6e-5, warmup=700, beta2=0.95, eval_every=500),
}


def recipe(preset: str, *, steps: int | None = None, minutes: float | None = None, **changes: Any) -> TrainConfig:
    """A preset's settings with changes. `steps` alone trains exactly so many; `minutes` alone as many as fit in; with
    both, the first to be reached ends the run."""
    if preset not in RECIPES:
        raise DataError(f"[train] preset must be one of {', '.join(RECIPES)}, got {preset!r}.")
    base = RECIPES[preset].changed(**changes)
    if steps is None and minutes is None:
        return base
    return replace(base, steps=steps if steps is not None else 10**7, minutes=minutes)
