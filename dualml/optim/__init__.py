"""Optimizers that keep all parameters of a group in one flat arena, so that a step is one launch."""

from . import lr_scheduler
from .adam import Adam, AdamW
from .clip import clip_grad_norm_, grad_norm, grad_squares
from .optimizer import Optimizer
from .schedules import LRScheduler, warmup_cosine, warmup_linear
from .sgd import SGD

__all__ = [
    "SGD", "Adam", "AdamW", "LRScheduler", "Optimizer", "clip_grad_norm_", "grad_norm", "grad_squares",
    "lr_scheduler", "warmup_cosine", "warmup_linear",
]
