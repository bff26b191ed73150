"""Fusion against random little language models: embeddings, layers, losses and optimizers as a seed draws them.

Captured fused, captured unfused and eager must leave the same bits: of losses and gradients, and of weights after
several optimizers' steps. What is drawn is what the passes look for, and what stands in their way: tables that are tied
or repeated, positions of any shape, ignored targets, losses that are scaled, squared or taken twice, logits that are
returned, gradients that add up over passes and calls, 16 bits, recomputed layers, no rows at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml import amp, nn, optim, runtime
from dualml.programs import fuse
from tests.parity.modes import PRESENT

F = nn.functional
SIZES = ((1, 1), (1, 3), (2, 4), (2, 5), (4, 16), (0, 3))  # texts and tokens of each
Layer = Callable[[dm.Tensor], dm.Tensor]


class Model:
    """Weights, and choices of a seed that are all in `at`."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.at: dict[str, int] = {name: int(rng.integers(1000)) for name in (
            "positions", "tied", "bias", "halved", "reduction", "smoothing", "ignored", "scaling", "extra", "half",
            "passes", "sums", "clipped", "optimizers", "stateful")}
        self.batch, self.time = SIZES[rng.integers(len(SIZES))]
        self.width, self.classes = (int(rng.choice(sizes)) for sizes in ((4, 6, 8, 12, 64), (1, 5, 12, 64, 67)))
        shapes = [(self.classes, self.width)] * 2 + [(3, self.width), (self.time + 2, self.width), (self.classes,),
                                                    (self.batch, self.time, self.width)]
        shapes += [(self.width, self.width)] * 3 + [(self.width,)] * 3
        self.weights = [nn.Parameter(dm.tensor((rng.standard_normal(s) * 0.3).astype(np.float32))) for s in shapes]
        self.table, self.head, self.other, self.positions, self.bias, self.whole, *rest = self.weights
        self.matrices, self.rows = rest[:3], rest[3:]
        for weight in self.weights[2:]:
            weight.requires_grad = bool(rng.random() < 0.9)
        self.trained = [w for w in self.weights if w.requires_grad]
        cut = self.at["optimizers"] % len(self.trained) if self.at["optimizers"] % 3 == 0 else 0
        self.optimizers = [optim.SGD(ws, 0.05, momentum=0.9) if self.at["stateful"] % 2 else optim.AdamW(ws, 0.01)
                           for ws in (self.trained[:cut], self.trained[cut:]) if ws]
        self.layers = [self.layer(*(int(n) for n in rng.integers(1000, size=3))) for _ in range(rng.integers(0, 5))]
        self.ignored = (-100, -100, 0)[self.at["ignored"] % 3]

    def layer(self, kind: int, one: int, again: int) -> Layer:
        a, b, row = self.matrices[one % 3], self.matrices[(one + 1) % 3], self.rows[one % 3]
        made: Layer = [
            lambda h: F.linear(h, a, row), lambda h: h + F.linear(h.tanh(), a), lambda h: h @ a,
            lambda h: F.layer_norm(h, (self.width,), row, self.rows[(one + 1) % 3]),
            lambda h: h + F.linear(F.gelu(F.linear(F.rms_norm(h, (self.width,), row), a)), b),
            lambda h: F.dropout(h, 0.2, training=True) + h, lambda h: h * row + h.mean(-1, keepdim=True),
            lambda h: F.linear(h, a) * F.linear(h, b)][kind % 8]
        return made if again % 4 else lambda h: dm.checkpoint(made, h)

    def logits(self, tokens: dm.Tensor) -> tuple[dm.Tensor, dm.Tensor]:
        """With what the last layer made."""
        h = F.embedding(tokens, self.table)
        kind = self.at["positions"] % 14
        if kind < 12:
            added = [lambda: self.positions[:self.time], lambda: self.whole, lambda: self.rows[0],
                     lambda: F.embedding(tokens.clamp(0, 2), self.other),
                     lambda: F.embedding(dm.arange(self.time), self.positions),
                     lambda: self.whole.mean(-1, keepdim=True)][kind // 2]()
            h = h + added if kind % 2 else added + h
        for layer in self.layers:
            h = layer(h)
        made = F.linear(h, self.table if self.at["tied"] % 2 else self.head, self.bias if self.at["bias"] % 2 else None)
        made = made.reshape(self.batch * self.time, self.classes)
        return made if self.at["halved"] % 4 else made * 0.5, h

    def loss(self, tokens: dm.Tensor, targets: dm.Tensor, scale: dm.Tensor) -> tuple[dm.Tensor, dm.Tensor]:
        reduction = ("mean", "mean", "mean", "sum", "none")[self.at["reduction"] % 5]
        options: dict[str, Any] = {"reduction": reduction, "ignore_index": self.ignored}
        extra, flat = self.at["extra"] % 7, targets.reshape(self.batch * self.time)
        logits, h = self.logits(tokens)
        loss = F.cross_entropy(logits, flat, label_smoothing=(0.0, 0.0, 0.1)[self.at["smoothing"] % 3], **options)
        if extra == 1:
            loss = loss + F.cross_entropy(logits, flat, label_smoothing=0.2, ignore_index=self.ignored)
        elif extra == 2:
            loss = loss + (h * h).mean()
        elif extra == 3:
            loss = loss + F.cross_entropy(self.logits(tokens)[0], flat, **options)
        if reduction == "none":
            loss = (loss * scale).mean() if extra == 4 else (loss * 0.25).sum()
        return loss, logits

    def add_gradients(self, tokens: dm.Tensor, targets: dm.Tensor, scale: dm.Tensor) -> list[dm.Tensor]:
        """Of one pass."""
        with amp.autocast("float16" if self.at["half"] % 4 == 0 else "float32"):
            loss, logits = self.loss(tokens, targets, scale)
        kind = self.at["scaling"] % 8
        loss = [loss, loss / 2, loss * scale, loss * loss, loss, loss + loss * scale, loss, loss][kind]
        loss.backward(scale.reshape(*loss.shape) * 0.5 if kind == 4 else None)
        if kind == 7:  # weights that change between two passes
            with dm.no_grad():
                for weight in self.trained:
                    weight.mul_(0.9)
        extra = self.at["extra"] % 7
        return [loss.detach(), *([logits.detach()] if extra == 5 else []), *([logits.argmax(-1)] if extra == 6 else [])]

    def update(self) -> list[dm.Tensor]:
        found = [optim.clip_grad_norm_(self.trained, 1.0)] if self.at["clipped"] % 2 else []
        for optimizer in self.optimizers:
            optimizer.step()
        return found

    def clear(self, in_place: bool = False) -> None:
        with dm.no_grad():
            for weight in self.trained:
                if in_place and weight.grad is not None:
                    weight.grad.zero_()
                elif not in_place:
                    weight.grad = None

    def step(self, tokens: dm.Tensor, targets: dm.Tensor, scale: dm.Tensor) -> list[dm.Tensor]:
        sums = self.at["sums"] % 4  # over calls where it is 3
        if sums < 2:
            self.clear()
        found = [t for k in range(1 + self.at["passes"] % 2) for t in self.add_gradients(tokens[k], targets[k], scale)]
        found += self.update() if sums < 3 else []
        if sums == 2:
            self.clear()
        return found

    def later(self) -> list[dm.Tensor]:
        """The update of a step that leaves it to others."""
        found = self.update()
        self.clear(in_place=True)
        return found


def outcome(seed: int, way: str) -> list[np.ndarray]:
    """All that ten calls returned, and the weights and gradients that they left."""
    rng = np.random.default_rng(seed + 10_000)
    model = Model(rng)
    dm.manual_seed(seed)
    step, later = ((f if way == "eager" else dm.capture(f, fusion=way == "fused")) for f in (model.step, model.later))
    found: list[dm.Tensor] = []
    for call in range(10):
        tokens, targets = rng.integers(0, model.classes, (2, 2, model.batch, model.time)).astype(np.int32)
        targets[rng.random(targets.shape) < (1.0 if call == 4 else 0.25)] = model.ignored
        tokens[rng.random(tokens.shape) < (0.1 if call == 9 else 0.0)] = -1
        found += step(*map(dm.tensor, (tokens, targets, rng.standard_normal(1).astype(np.float32))))
        if model.at["sums"] % 4 == 3 and call % 2:
            found += later()
        for optimizer in model.optimizers:
            optimizer.param_groups[0]["lr"] = 0.05 / (call + 2)
    found += [t for w in model.weights for t in (w, w.grad) if t is not None]
    return [np.array(t.detach().numpy()) for t in found]


def check(seed: int, *ways: str) -> None:
    """NaN is NaN, whichever bits it has."""
    first, *others = (outcome(seed, way) for way in ways)
    for way, other in zip(ways[1:], others, strict=True):
        for number, (one, two) in enumerate(zip(first, other, strict=True)):
            assert np.array_equal(one, two, equal_nan=one.dtype.kind == "f"), f"seed {seed}: {way} differs at {number}"


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_random_models(cpu: None, first: int) -> None:
    for seed in range(first, first + 10):
        check(seed, "eager", "plain", "fused")


def test_random_models_on_webgpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the pass for elementwise work, whose products and sums the driver may round once."""
    if "webgpu" not in PRESENT or not runtime.get("webgpu").device.software:
        pytest.skip("no software driver of WebGPU")
    monkeypatch.setattr(fuse, "PASSES", tuple(p for p in fuse.PASSES if p is not fuse.fuse_elementwise))
    with dm.use_backend("webgpu"):
        for seed in range(12):
            check(seed, "plain", "fused")
