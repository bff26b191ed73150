"""Texts to train on, data folders made of them, and batches from both."""

from .batches import Batches, TokenBatches, WindowBatches
from .corpus import Corpus, ShardCorpus, TextCorpus, open_corpus, same_corpus
from .documents import Source, find_sources
from .manifest import Manifest
from .on_device import DeviceBatches, placed, why_on_host
from .prefetch import Prefetch
from .preparation import PrepareSettings, prepare
from .shard_writer import write_shards
from .shards import ShardedTokens
from .sources import Text, load_text

__all__ = ["Batches", "Corpus", "DeviceBatches", "Manifest", "Prefetch", "PrepareSettings", "ShardCorpus",
           "ShardedTokens", "Source", "Text", "TextCorpus", "TokenBatches", "WindowBatches", "find_sources",
           "load_text", "open_corpus", "placed", "prepare", "same_corpus", "why_on_host", "write_shards"]
