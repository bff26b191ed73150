"""Tokenizers: text to integers and back."""

from .bpe import BPETokenizer
from .char import CharTokenizer
from .decoder import Decoder, decode_stream
from .stream import encode_file
from .tokenizer import Tokenizer, load_tokenizer
from .wordpiece import WordPieceTokenizer

__all__ = ["BPETokenizer", "CharTokenizer", "Decoder", "Tokenizer", "WordPieceTokenizer", "decode_stream",
           "encode_file", "load_tokenizer"]
