"""Training a language model: settings, the loop, its display, and runs on disk."""

from .config import RECIPES, TrainConfig, recipe
from .evaluation import Evaluation
from .plan import Plan, learning_rate
from .report import PlainReporter, Reporter, RichReporter, make_reporter
from .run import MAY_CHANGE, Run, latest_run, load_for_evaluation, load_for_sampling, prepare, resume
from .trainer import Trainer

__all__ = [
           "MAY_CHANGE",
           "RECIPES",
           "Evaluation",
           "PlainReporter",
           "Plan",
           "Reporter",
           "RichReporter",
           "Run",
           "TrainConfig",
           "Trainer",
           "latest_run",
           "learning_rate",
           "load_for_evaluation",
           "load_for_sampling",
           "make_reporter",
           "prepare",
           "recipe",
           "resume",
]
