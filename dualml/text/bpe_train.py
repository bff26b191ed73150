"""Learning the merges: the most frequent pair becomes a token, again and again.

Equal words are counted once. A merge touches only the words that have its pair, and changes only the counts of pairs
beside it; a heap whose entries may be out of date finds the next. Ties go to the lower pair of ids, as in Hugging
Face's trainer, whose merges these are.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import regex

from ..errors import DataError
from .chunks import chunks
from .patterns import BYTE_TO_CHAR
from .pretokenize import PreTokenizer

_ORDER = sorted(BYTE_TO_CHAR)  # the first 256 tokens, as Hugging Face numbers them
_BYTE_TO_ID = bytes(_ORDER.index(char) for char in BYTE_TO_CHAR)
Progress = Callable[[int, int], None]


def learn(texts: Iterable[str], size: int, pre_tokenizer: PreTokenizer, special: tuple[str, ...] = (),
          progress: Progress | None = None) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges for `size` tokens. Raises DataError for fewer than 256, or a text without words."""
    refuse_size(size + len(special), len(special))
    counted = count_words(texts, pre_tokenizer, special)
    if not counted:
        raise DataError("[train] text must have at least one word, got none.")
    words = [word.translate(_BYTE_TO_ID).decode("latin-1") for word in counted]
    spelled = list(_ORDER)
    merges = [(spelled[a], spelled[b]) for a, b in _merge(words, list(counted.values()), size, spelled, progress)]
    return {token: number for number, token in enumerate(spelled)}, merges


def refuse_size(vocab_size: int, special: int) -> None:
    """Raises DataError for a size that has no room for all bytes and so many special tokens, or more than there are
    characters."""
    if not 256 + special <= vocab_size <= 0x10FFFF + special:
        raise DataError(f"[train] vocab_size must be from 256, and one more per special token, to {0x10FFFF:,}, got "
                        f"{vocab_size}.")


def count_words(texts: Iterable[str], pre_tokenizer: PreTokenizer, special: tuple[str, ...] = ()) -> Counter[bytes]:
    """How often each word occurs, as bytes, in order of first sight. Special tokens are no words."""
    found: Counter[bytes] = Counter()
    total: Counter[bytes] = Counter()
    for text in _plain(texts, special):
        if pre_tokenizer.prefix_space and not text.startswith(" "):
            text = " " + text
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"[train] text must be Unicode, got a lone surrogate at {error.start}.") from None
        if pre_tokenizer.chunked:
            for block in chunks(data):
                found.update(block)
        else:
            total.update(word.encode() for word in pre_tokenizer.words(text))
    for chunk, count in found.items():
        for word in pre_tokenizer.words(chunk.decode()):
            total[word.encode()] += count
    return total


def _plain(texts: Iterable[str], special: tuple[str, ...]) -> Iterator[str]:
    if not special:
        yield from texts
        return
    between = regex.compile("|".join(map(regex.escape, sorted(special, key=len, reverse=True))))
    for text in texts:
        yield from filter(None, between.split(text))


def _pairs(words: list[str], counts: list[int]) -> tuple[dict[str, int], dict[str, list[int]]]:
    """Counts of the pairs, and the words that have them."""
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    data = np.frombuffer("".join(words).encode("latin-1"), np.uint8).astype(np.uint16)
    owner = np.repeat(np.arange(len(words)), lengths)
    inside = owner[1:] == owner[:-1]
    keys, owner = ((data[:-1] << 8) | data[1:])[inside], owner[1:][inside]
    weights = np.bincount(keys, np.asarray(counts, np.float64)[owner], 65536)  # exact up to 2^53
    order = np.argsort(keys, kind="stable")
    present, begins = np.unique(keys[order], return_index=True)
    names = [chr(key >> 8) + chr(key & 255) for key in present.tolist()]
    places = [part.tolist() for part in np.split(owner[order], begins[1:])]
    return dict(zip(names, map(int, weights[present]), strict=True)), dict(zip(names, places, strict=True))


def _merge(words: list[str], counts: list[int], size: int, spelled: list[str],
           progress: Progress | None) -> Iterator[tuple[int, int]]:
    """Merges until there are `size` tokens or no pairs; appends each new token to `spelled`."""
    pairs, where = _pairs(words, counts) if words else ({}, {})
    heap = [(-count, pair) for pair, count in pairs.items()]
    heapq.heapify(heap)
    known = {token: number for number, token in enumerate(spelled)}
    while heap and len(spelled) < size:
        count, pair = heap[0]
        now = pairs.get(pair, 0)
        if now != -count:
            if now > 0:
                heapq.heapreplace(heap, (-now, pair))
            else:
                heapq.heappop(heap)
            continue
        heapq.heappop(heap)
        left, right = map(ord, pair)
        token = spelled[left] + spelled[right]
        number = known.setdefault(token, len(spelled))
        if number == len(spelled):
            spelled.append(token)
        changed = _replace(words, counts, pair, chr(number), pairs, where)
        for other in changed:
            heapq.heappush(heap, (-pairs[other], other))
        yield left, right
        if progress is not None and (len(spelled) % 256 == 0 or len(spelled) == size):
            progress(len(spelled) - 256, size - 256)


def _replace(words: list[str], counts: list[int], pair: str, new: str, pairs: dict[str, int],
             where: dict[str, list[int]]) -> set[str]:
    """Merges one pair in all its words. Returns the pairs that became more frequent."""
    left, right = pair[0], pair[1]
    more: defaultdict[str, int] = defaultdict(int)
    for index in where.pop(pair):
        parts = words[index].split(pair)
        if len(parts) == 1:
            continue  # merged otherwise since
        count = counts[index]
        words[index] = new.join(parts)
        last = len(parts) - 1
        for i, part in enumerate(parts):
            if part:
                if i:
                    pairs[right + part[0]] -= count
                    key = new + part[0]
                    more[key] += count
                    where.setdefault(key, []).append(index)
                if i < last:
                    pairs[part[-1] + left] -= count
                    key = part[-1] + new
                    more[key] += count
                    where.setdefault(key, []).append(index)
            elif 0 < i < last:
                pairs[right + left] -= count
                more[new + new] += count
                where.setdefault(new + new, []).append(index)
    pairs.pop(pair, None)
    for key, count in more.items():
        pairs[key] = pairs.get(key, 0) + count
    return set(more)
