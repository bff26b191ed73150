"""Conversations to learn from: files of one JSON object a line, and batches that hold whole conversations.

    {"messages": [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hello. What is it?"}]}
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError

BUILTIN = "builtin"
IGNORED = -100  # a target that asks for nothing
_TOLD = 8       # broken lines that an error shows
Messages = list[dict[str, str]]
Tokens = tuple[np.ndarray, np.ndarray]  # ids int32 [T], and bool [T]: where the assistant wrote


@dataclass(frozen=True)
class Dialogues:
    """Conversations with the name they are shown by and the word that loads them again."""

    name: str
    source: str
    sha256: str
    content: list[Messages]

    def texts(self) -> list[str]:
        return [message["content"] for messages in self.content for message in messages]


# ---- reading --------------------------------------------------------------------------------------------------------

def load_dialogues(source: str = BUILTIN) -> Dialogues:
    """The conversations of a .jsonl file, or with "builtin" the small set that comes with dualml.

    Raises:
        DataError: the file is missing or empty, or lines are no conversations; each is named, and what was expected.
    """
    if source == BUILTIN:
        data = files(__package__).joinpath("builtin/dialogues.jsonl").read_bytes()
        return _parse(data, "dualml's own dialogues", source)
    path = Path(source).expanduser()
    if not path.is_file():
        raise DataError(f"[chat] expected a .jsonl file or {BUILTIN}, got {str(path)!r}, which is no file.")
    try:
        return _parse(path.read_bytes(), str(path), str(path.resolve()))
    except OSError as error:
        raise DataError(f"[chat] {path} cannot be read: {error.strerror}.") from None


def _parse(data: bytes, name: str, source: str) -> Dialogues:
    found: list[Messages] = []
    broken: list[str] = []
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            found.append(_messages(line))
        except DataError as error:
            broken.append(f"{name}, line {number}: {error}")
    if broken:
        more = [f"and {len(broken) - _TOLD} lines more"] if len(broken) > _TOLD else []
        raise DataError("\n  ".join(["[chat] each line must be a conversation, as in {\"messages\": [{\"role\": "
                                     "\"user\", \"content\": \"Hello!\"}, {\"role\": \"assistant\", \"content\": "
                                     "\"Hello.\"}]}:", *broken[:_TOLD], *more]))
    if not found:
        raise DataError(f"[chat] {name} must have at least one conversation, got none.")
    return Dialogues(name, source, hashlib.sha256(data).hexdigest(), found)


def _messages(line: bytes) -> Messages:
    """A line's messages. Raises DataError for what the line should have been."""
    try:
        read = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise DataError(f"expected UTF-8, but byte {error.start} is not.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"expected JSON, got {_short(line.decode())} ({error}).") from None
    if not isinstance(read, dict) or not isinstance(read.get("messages"), list):
        raise DataError(f"expected an object with a list \"messages\", got {_short(read)}.")
    messages = [_message(number, value) for number, value in enumerate(read["messages"], 1)]
    turns = messages[1:] if messages and messages[0]["role"] == "system" else messages
    for place, message in enumerate(turns):
        wanted = "user" if place % 2 == 0 else "assistant"
        if message["role"] != wanted:
            raise DataError(f"expected message {place + 1 + len(messages) - len(turns)} to be the {wanted}'s, got "
                            f"{message['role']!r}. User and assistant take turns, after at most one system message.")
    if not turns or len(turns) % 2:
        raise DataError(f"expected the last message to be the assistant's, got {len(turns)} messages of user and "
                        "assistant.")
    return messages


def _message(number: int, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or value.get("role") not in ("system", "user", "assistant"):
        got = value.get("role") if isinstance(value, dict) else value
        raise DataError(f"expected message {number} to have the role user, assistant or system, got {_short(got)}.")
    content = value.get("content")
    if not isinstance(content, str) or not content.strip():
        raise DataError(f"expected message {number} to have a text as content, got {_short(content)}.")
    if any("\ud800" <= character <= "\udfff" for character in content):
        raise DataError(f"expected the content of message {number} to be Unicode, got half a character (a lone "
                        "surrogate).")
    return {"role": value["role"], "content": content}


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


# ---- batches --------------------------------------------------------------------------------------------------------

class DialogueBatches:
    """Rows of conversations, one after another, as a chat goes on from question to question; in each epoch in another
    order. Rows are full: the last conversation may be cut off, and begins the next row. Every other row begins within
    its first one, so that no place in a row is the place of an answer. Which rows a step sees follows from the seed and
    the step alone.

    Args:
        parts: "train" and "val", each a list of conversations of at most context + 1 tokens.
        context: length T of a row.
        batch: rows B in a batch.
    """

    def __init__(self, parts: dict[str, list[Tokens]], context: int, batch: int, seed: int = 0) -> None:
        self.parts, self.context, self.batch, self.seed = parts, context, batch, seed
        for name, part in parts.items():
            longest = max((len(ids) for ids, _ in part), default=0)
            if not 0 < longest <= context + 1:
                raise DataError(f"[data] {name} must have conversations of 1 to {context + 1} tokens, got {longest}.")
        self._ends: dict[str, list[int]] = {name: [0] for name in parts}  # rows up to the end of each epoch
        self._packed: dict[tuple[str, int], list[list[int]]] = {}

    def steps(self, epochs: int, rows: int) -> int:
        """Steps of so many rows in which every conversation comes `epochs` times."""
        ends = self._ends["train"]
        while len(ends) <= epochs:
            ends.append(ends[-1] + len(self._epoch("train", len(ends) - 1)))
        return -(-ends[epochs] // rows)

    def batches(self, part: str) -> int:
        """Batches in which every conversation of a part is seen once."""
        return -(-len(self._epoch(part, 0)) // self.batch)

    def get(self, part: str, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets, int32 [B,T] each, of batch number `index`; targets that the assistant did not write are
        IGNORED."""
        made = [self._row(part, row) for row in range(index * self.batch, (index + 1) * self.batch)]
        return np.stack([tokens for tokens, _ in made]), np.stack([targets for _, targets in made])

    def _epoch(self, part: str, epoch: int) -> list[list[int]]:
        """An epoch's rows, as numbers of conversations: filled in the order in which these come."""
        known = self._packed.get((part, epoch))
        if known is not None:
            return known
        order, room = np.arange(len(self.parts[part])), 0
        rows: list[list[int]] = []
        if part == "train":
            np.random.Generator(np.random.Philox(key=[self.seed, epoch])).shuffle(order)
        for number in order.tolist():
            length = len(self.parts[part][number][0])
            if length > room:
                rows.append([])
                room = self.context + 1
            rows[-1].append(number)
            room -= length
        if len(self._packed) > 5:  # neighbouring epochs are read together
            self._packed.clear()
        self._packed[part, epoch] = rows
        return rows

    def _numbers(self, part: str, row: int) -> list[int]:
        ends = self._ends[part]
        while ends[-1] <= row:
            ends.append(ends[-1] + len(self._epoch(part, len(ends) - 1)))
        epoch = bisect_right(ends, row) - 1
        return self._epoch(part, epoch)[row - ends[epoch]]

    def _row(self, part: str, row: int) -> Tokens:
        """Inputs and targets of a row; where room is left, the next row's conversations begin in it already."""
        chosen = [self.parts[part][n] for n in (*self._numbers(part, row), *self._numbers(part, row + 1))]
        first = self._first(part, row, len(chosen[0][0]))  # even its last token leaves room for the next's first answer
        ids, written = (np.concatenate(both)[first:first + self.context + 1] for both in zip(*chosen, strict=True))
        tokens, targets = np.zeros(self.context, np.int32), np.full(self.context, IGNORED, np.int32)
        tokens[:len(ids)] = ids[:self.context]
        targets[:len(ids) - 1] = np.where(written[1:], ids[1:], IGNORED)
        return tokens, targets

    def _first(self, part: str, row: int, length: int) -> int:
        """At which token a row begins: in every other row somewhere within its first conversation."""
        if part != "train" or row % 2 == 0:
            return 0
        drawn = int(np.random.Philox(key=[self.seed, 0], counter=[0, 0, 0, row]).random_raw(1)[0])
        return (drawn >> 32) * length >> 32
