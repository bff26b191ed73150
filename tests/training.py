"""The training step that tests capture, replay and compare: forward, backward, clipping and an optimizer."""

from __future__ import annotations

from collections.abc import Callable

import dualml as dm
from dualml import amp, optim
from dualml.models import GPT

Step = Callable[[dm.Tensor, dm.Tensor], dm.Tensor]


def training_step(model: GPT, optimizer: optim.Optimizer, precision: str = "float32") -> Step:
    """A function of tokens and targets, int32 [B,T] each, that trains the model and returns the loss."""
    def step(tokens: dm.Tensor, targets: dm.Tensor) -> dm.Tensor:
        with amp.autocast(precision):
            loss = model(tokens, targets)[1]
        assert loss is not None
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss
    return step
