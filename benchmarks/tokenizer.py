"""Training and encoding against Hugging Face's tokenizers and tiktoken, in one run, on one core.

    python benchmarks/tokenizer.py [TEXT] [--megabytes 13]

Without TEXT, varied text found on this machine (sources and documentation, no file twice). Wall and CPU seconds: on a
busy machine the second is the fairer one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dualml.text import BPETokenizer
from dualml.text.patterns import GPT4, unprintable


def corpus(size: int) -> str:
    """Text of at least `size` bytes from this machine's libraries and documentation."""
    paths = sysconfig.get_paths()
    roots = {paths["stdlib"], paths["purelib"], "/usr/share/doc", "/usr/lib/python3", "/usr/share/perl"}
    files = sorted({f for r in roots for f in Path(r).rglob("*") if f.suffix in {".py", ".rst", ".txt", ".md", ".pod"}})
    random.Random(0).shuffle(files)
    texts: dict[str, None] = {}
    total = 0
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")[:60_000]
        except (OSError, UnicodeDecodeError):
            continue
        if text not in texts:
            texts[text] = None
            total += len(text.encode())
        if total >= size:
            break
    return "\n".join(texts)


def timed(what: Callable[[], Any]) -> tuple[float, float, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = what()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def optional(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError:
        print(f"(skipped {name}: not installed; pip install {name})")
        return None


def hf_train(hf: Any, pieces: list[str], size: int) -> Any:
    from tokenizers import models, pre_tokenizers, trainers
    made = hf.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(hf.Regex(GPT4), "isolated"),
                                                  pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    made.train_from_iterator(pieces, trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return made


def tik(tiktoken: Any, ours: BPETokenizer) -> Any:
    ranks = {unprintable(token): number for token, number in ours.vocab.items()}
    return tiktoken.Encoding("ours", pat_str=GPT4, mergeable_ranks=ranks, special_tokens={})


def parts(text: str, ours: BPETokenizer, size: int = 1 << 16) -> list[str]:
    """The text in pieces, which Hugging Face's encoder likes better than one long string."""
    data, found = text.encode(), []
    while data:
        cut = len(data) <= size or ours.safe_cut(data[:size])
        end = len(data) if cut is True or not cut else cut
        found.append(data[:end].decode())
        data = data[end:]
    return found


def rates(encode: Callable[[Any], Any], text: Any, size: int, runs: int = 3) -> tuple[str, Any]:
    """MB/s of the first run and the median of more, by CPU time."""
    _, cold, tokens = timed(lambda: encode(text))
    warm = statistics.median(timed(lambda: encode(text))[1] for _ in range(runs))
    return f"encode {size / cold / 1e6:5.1f} MB/s cold, {size / warm / 1e6:5.1f} warm", list(tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", nargs="?", type=Path)
    parser.add_argument("--megabytes", type=float, default=13)
    options = parser.parse_args()
    text = options.text.read_text(encoding="utf-8") if options.text else corpus(int(options.megabytes * 1e6))
    size = len(text.encode())
    print(f"{size:,} bytes; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    hf, tiktoken = optional("tokenizers"), optional("tiktoken")
    for vocab in (4096, 32_768):
        print(f"\nvocabulary {vocab:,}, GPT-4's split")
        wall, cpu, ours = timed(lambda v=vocab: BPETokenizer.train(text, v, special_tokens=()))
        speed, tokens = rates(ours.encode, text, size)
        print(f"  dualml      train {wall:5.2f} s wall, {cpu:5.2f} s CPU; {speed}; {len(tokens):,} tokens")
        if hf:
            pieces = parts(text, ours)
            wall, cpu, theirs = timed(lambda v=vocab, p=pieces: hf_train(hf, p, v))
            with tempfile.TemporaryDirectory() as folder:
                ours.save(Path(folder) / "t.json")
                loaded = hf.Tokenizer.from_file(f"{folder}/t.json")
            speed, found = rates(lambda ts, hf=loaded: [i for t in ts for i in hf.encode(t).ids], pieces, size, 1)
            merges = [tuple(m) for m in json.loads(theirs.to_str())["model"]["merges"]]
            print(f"  tokenizers  train {wall:5.2f} s wall, {cpu:5.2f} s CPU; {speed}; same ids {found == tokens}, "
                  f"same merges {merges == ours.merges}")
        if tiktoken:
            encoding = tik(tiktoken, ours)
            speed, found = rates(encoding.encode_ordinary, text, size)
            print(f"  tiktoken                                     {speed}; same ids {found == tokens}")


if __name__ == "__main__":
    main()
