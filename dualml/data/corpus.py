"""What a model is trained on, whether it is a text in memory or a data folder: one interface for the trainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import CheckpointError, DataError
from ..text import Tokenizer, make_tokenizer
from .batches import Batches, TokenBatches, WindowBatches
from .prefetch import Prefetch
from .shards import ShardedTokens
from .sources import Text, load_text


class Corpus(Protocol):
    """Something to train on."""

    @property
    def name(self) -> str:
        """What it is shown by."""

    @property
    def kind(self) -> str:
        """Under which name its `reference` stands in a checkpoint."""

    @property
    def reference(self) -> dict[str, str]:
        """Where to find it again, and its SHA-256, as JSON values."""

    @property
    def size(self) -> str:
        """How large it is, for people."""

    def make_tokenizer(self, wanted: str) -> Tokenizer:
        """The tokenizer for a new run.

        Args:
            wanted: as in dualml.text.make_tokenizer.
        """

    def batches(self, tokenizer: Tokenizer, context: int, batch: int, seed: int, ahead: int = 2) -> Batches:
        """What a trainer reads.

        Args:
            tokenizer: the model's. Raises DataError where the corpus does not go with it.
            ahead: batches to gather while others are worked on.
        """

    def close(self) -> None:
        """Ends what works in the background."""


@dataclass
class TextCorpus:
    """A text in memory; its last tenth is for validation."""

    text: Text
    kind: str = "text"

    @property
    def name(self) -> str:
        return self.text.name

    @property
    def reference(self) -> dict[str, str]:
        return {"source": self.text.source, "sha256": self.text.sha256}

    @property
    def size(self) -> str:
        return f"{len(self.text.content):,} characters"

    def make_tokenizer(self, wanted: str) -> Tokenizer:
        return make_tokenizer(wanted, self.text.content)

    def batches(self, tokenizer: Tokenizer, context: int, batch: int, seed: int, ahead: int = 2) -> Batches:
        return TokenBatches(tokenizer.encode(self.text.content), context, batch, seed)

    def close(self) -> None: ...


@dataclass
class ShardCorpus:
    """A data folder, which brings its tokenizer and says itself what is for validation."""

    shards: ShardedTokens
    kind: str = "data"
    _reading: Prefetch | None = None

    @property
    def name(self) -> str:
        return self.shards.folder.resolve().name

    @property
    def reference(self) -> dict[str, str]:
        return {"source": str(self.shards.folder.resolve()), "sha256": self.shards.fingerprint}

    @property
    def size(self) -> str:
        count = sum(split.documents for split in self.shards.manifest.splits.values())
        return f"{count:,} document{'s' if count != 1 else ''}"

    def make_tokenizer(self, wanted: str) -> Tokenizer:
        return self.shards.tokenizer

    def batches(self, tokenizer: Tokenizer, context: int, batch: int, seed: int, ahead: int = 2) -> Batches:
        if not agree(self.shards.tokenizer, tokenizer):
            raise DataError(f"[data] {self.shards.folder} must be made with the model's tokenizer, got another one's "
                            "tokens, which mean other text. Prepare it with --tokenizer FILE, the tokenizer.json of "
                            "the data that the model was trained on.")
        self.close()
        self._reading = Prefetch(WindowBatches(self.shards.parts, context, batch, seed), ahead)
        return self._reading

    def close(self) -> None:
        if self._reading is not None:
            self._reading.close()


def agree(ours: Tokenizer, models: Tokenizer) -> bool:
    """Whether each of our tokens means the same to a model, which may know more, such as those of a chat."""
    if models.vocab_size < ours.vocab_size:
        return False
    mine, theirs = (getattr(t, "decode_bytes", lambda ids, t=t: t.decode(ids)) for t in (ours, models))
    return all(mine([token]) == theirs([token]) for token in range(ours.vocab_size))


def open_corpus(text: str, data: str | None = None) -> Corpus:
    """The data folder, or else the text that a word or path stands for. Raises DataError where it cannot be used."""
    return ShardCorpus(ShardedTokens(data)) if data is not None else TextCorpus(load_text(text))


def same_corpus(saved: Mapping[str, Any], moved: str | None = None) -> Corpus:
    """The corpus of a checkpoint.

    Args:
        saved: the checkpoint's state.
        moved: where its data folder is now.
    Raises:
        CheckpointError: it is no longer the same.
        DataError: it cannot be used.
    """
    kind = "data" if "data" in saved else "text"
    if moved is not None and kind == "text":
        raise CheckpointError("[data] --data cannot replace the text that a run was trained on.")
    source = moved or saved[kind]["source"]
    found = open_corpus(source, source if kind == "data" else None)
    if found.reference["sha256"] != saved[kind]["sha256"]:
        raise CheckpointError(f"[data] the {kind} {source} is not what the run was trained on: it has changed since. "
                              "Restore it, or start a new run.")
    return found
