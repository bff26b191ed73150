"""The merging of pairs. A word is a string with one character, chr(id), per token: a merge is str.replace."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from typing import Any

LONG = 48  # tokens of a word from which a heap is faster than looking at all pairs each time
CACHED, CACHE_WORD = 1 << 20, 64  # most words that are remembered, and the longest in characters


class Merger:
    """Merges a word's pairs in the order of their ranks.

    Args:
        merges: (left id, right id, merged id), best first.
    """

    def __init__(self, merges: Sequence[tuple[int, int, int]]) -> None:
        self._rank: dict[str, int] = {}
        self._merged = [chr(merged) for _, _, merged in merges]
        for rank, (left, right, _) in enumerate(merges):
            self._rank[chr(left) + chr(right)] = rank  # of a pair that is there twice, the last counts
        self._ordered = _ordered(merges)

    def __call__(self, word: str) -> str:
        """The word with all merges done."""
        if len(word) > LONG or not self._ordered:
            return self._by_heap(word)
        rank, merged, none = self._rank.get, self._merged, len(self._merged)
        while len(word) > 1:
            best = min([rank(word[i:i + 2], none) for i in range(len(word) - 1)])
            if best == none:
                break
            new = merged[best]
            at = next(i for i in range(len(word) - 1) if rank(word[i:i + 2]) == best)
            word = word[:at] + word[at:].replace(word[at:at + 2], new)
        return word

    def _by_heap(self, word: str) -> str:
        """The same in O(n log n), the leftmost of equal pairs first, one at a time."""
        rank, end = self._rank, len(word)
        tokens: list[str] = list(word)
        before, after = list(range(-1, end - 1)), list(range(1, end + 1))
        heap = [(rank[pair], i, pair) for i in range(end - 1) if (pair := word[i:i + 2]) in rank]
        heapq.heapify(heap)
        while heap:
            best, i, pair = heapq.heappop(heap)
            j = after[i]
            if not tokens[i] or j == end or tokens[i] + tokens[j] != pair:
                continue  # one of the two was merged with another since
            tokens[i], tokens[j] = self._merged[best], ""
            after[i] = following = after[j]
            if following < end:
                before[following] = i
            for left, right in ((before[i], i), (i, following)):
                if left >= 0 and right < end:
                    new = tokens[left] + tokens[right]
                    if new in rank:
                        heapq.heappush(heap, (rank[new], left, new))
        return "".join(tokens)


def _ordered(merges: Sequence[tuple[int, int, int]]) -> bool:
    """Whether no merge needs a token that a later one makes: then all equal pairs may be merged at once."""
    last: dict[int, int] = {}
    for rank, (_, _, merged) in enumerate(merges):
        last[merged] = rank
    return all(last.get(left, -1) < rank and last.get(right, -1) < rank
               for rank, (left, right, _) in enumerate(merges))


def as_merger(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> Merger:
    """A merger from the spelled pairs of a file, of which all are in the vocabulary."""
    return Merger([(vocab[a], vocab[b], vocab[a + b]) for a, b in merges])


class WordCache(dict[Any, bytes]):
    """What a function gave for each word, so that C code alone finds it again."""

    def __init__(self, make: Callable[[Any], bytes]) -> None:
        self._make = make

    def __missing__(self, word: Any) -> bytes:
        made = self._make(word)
        if len(word) <= CACHE_WORD and len(self) < 2 * CACHED:
            self[word] = made
        return made

    def trim(self) -> None:
        """Starts anew when it is full, between texts."""
        if len(self) > CACHED:
            self.clear()


def pack(word: str) -> bytes:
    """Characters as int32, little-endian."""
    return word.encode("utf-32-le", "surrogatepass")
