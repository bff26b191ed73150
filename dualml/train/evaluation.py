"""What a model is worth on text that it was not trained on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from .. import functional
from ..data import Batches, DeviceBatches
from ..errors import TrainingError
from ..models import GPT
from ..tape import no_grad
from ..tensor import Tensor
from ..text import Tokenizer


@dataclass(frozen=True)
class Evaluation:
    """Of so many tokens, which stand for so many bytes of UTF-8.

    Args:
        loss: mean cross entropy of a token, in nats.
    """

    loss: float
    tokens: int
    bytes: int

    @property
    def perplexity(self) -> float:
        """exp(loss): among how many equally likely tokens the model still chooses."""
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float:
        """What the model needs for a byte of the text. Unlike the loss, it compares models of different tokenizers."""
        return self.loss * self.tokens / (math.log(2) * max(1, self.bytes))

    def to_dict(self) -> dict[str, float]:
        return {**asdict(self), "perplexity": self.perplexity, "bits_per_byte": self.bits_per_byte}

    def __str__(self) -> str:
        bits = figure(self.bits_per_byte, 3)
        return f"{figure(self.loss, 4)} (perplexity {figure(self.perplexity)}, {bits} bits per byte)"


def figure(value: float, digits: int = 2) -> str:
    """A number for people; of what has diverged not all digits."""
    return f"{value:.{digits}f}" if value < 1e6 else f"{value:.2e}"


def evaluate(model: GPT, forward: Callable[[str, int], Tensor], batches: int, tokens: int, nbytes: int) -> Evaluation:
    """Over validation batches 0 to `batches`, the same ones each time, without dropout.

    Args:
        forward: the loss of a batch of a part, by its number.
        tokens, nbytes: how much text these are.
    Raises:
        TrainingError: the loss is not a finite number.
    """
    was_training = model.training
    model.eval()
    try:
        with no_grad():
            losses = [forward("val", index).reshape(()) for index in range(batches)]
            loss = float(functional.stack(losses).numpy().mean(dtype=np.float64))
    finally:
        model.train(was_training)
    if not math.isfinite(loss):
        raise TrainingError(f"[eval] the validation loss is {loss}. Look at the weights with an earlier checkpoint, or "
                            "train with a lower --lr.")
    return Evaluation(loss, tokens, nbytes)


def text_size(data: Batches | DeviceBatches, tokenizer: Tokenizer, batches: int) -> tuple[int, int]:
    """Tokens that validation batches ask the model for, and the bytes they stand for."""
    exact = getattr(tokenizer, "decode_bytes", None)
    tokens = nbytes = 0
    for index in range(batches):
        for row in np.asarray(data.get("val", index)[1]):
            row = row[row >= 0]  # others are ignored
            tokens += row.size
            nbytes += len(exact(row, skip_special=True)) if exact else byte_count(tokenizer.decode(row.tolist()))
    return tokens, nbytes


def byte_count(text: str) -> int:
    """Bytes of UTF-8. What was cut out of the middle of a character decodes to U+FFFD at the ends: a byte each."""
    inner = text.strip("\ufffd")
    return len(inner.encode("utf-8", "surrogatepass")) + len(text) - len(inner)
