"""Tokenizers: text to integers and back."""

from .char import CharTokenizer
from .tokenizer import Tokenizer, load_tokenizer

__all__ = ["CharTokenizer", "Tokenizer", "load_tokenizer"]
