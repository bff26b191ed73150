"""Tokenizers: text to integers and back."""

from .bpe import BPETokenizer
from .char import CharTokenizer
from .decoder import Decoder, decode_stream
from .files import end_of_text, load_tokenizer_json, make_tokenizer, read_tokenizer
from .sentencepiece import SentencePieceTokenizer
from .stream import encode_file, encode_texts
from .tokenizer import Tokenizer, load_tokenizer
from .wordpiece import WordPieceTokenizer

__all__ = ["BPETokenizer", "CharTokenizer", "Decoder", "SentencePieceTokenizer", "Tokenizer", "WordPieceTokenizer",
           "decode_stream", "encode_file", "encode_texts", "end_of_text", "load_tokenizer", "load_tokenizer_json",
           "make_tokenizer", "read_tokenizer"]
