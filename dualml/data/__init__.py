"""Texts to train on, and batches from them."""

from .batches import TokenBatches
from .sources import Text, load_text

__all__ = ["Text", "TokenBatches", "load_text"]
