"""Training a language model: settings, the loop, its display, and runs on disk."""

from .config import RECIPES, TrainConfig, recipe
from .plan import Plan, learning_rate
from .report import PlainReporter, Reporter, RichReporter, make_reporter
from .run import Run, latest_run, load_for_sampling, prepare, resume
from .trainer import Trainer

__all__ = [
           "RECIPES",
           "PlainReporter",
           "Plan",
           "Reporter",
           "RichReporter",
           "Run",
           "TrainConfig",
           "Trainer",
           "latest_run",
           "learning_rate",
           "load_for_sampling",
           "make_reporter",
           "prepare",
           "recipe",
           "resume",
]
