"""What a launch costs by its sizes alone: bytes that it must move, operations that it must do."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence

from ..kernel import Arg, Scalar, Spec

Dims = Mapping[str, Scalar]

# Operations of the kernels that compute more than they move, as multiply-adds count two. Causal attention skips half.
_FLOPS: dict[str, Callable[[Dims], float]] = {
    "matmul": lambda d: 2.0 * d.get("B", 1) * d["M"] * d["N"] * d["K"],
    "matmul_pair": lambda d: 2.0 * (d["M"] * d["N"] * d["K"] + d["M2"] * d["N2"] * d["K2"]),
    "attention_forward": lambda d: 4.0 * _scores(d) * d["D"],
    "attention_backward": lambda d: 10.0 * _scores(d) * d["D"],
    "attention_varlen_forward": lambda d: 4.0 * _scores(d) * d["D"],
    "attention_varlen_backward": lambda d: 10.0 * _scores(d) * d["D"],
}


def _new_keys(d: Dims) -> float:
    return d["B"] * d["T"] * d["KVH"] * d["D"]


def _embedded(d: Dims) -> float:
    return d["N"] * d["C"]


def _selected(d: Dims) -> float:
    return d["A"] * d["K"] * d["B"]


# Elements that a kernel touches of arguments which it does not touch the whole of, such as tables that it picks from.
_TOUCHED: dict[str, dict[str, Callable[[Dims], float]]] = {
    "cache_append": {"rows": lambda d: 2 * _new_keys(d), "keys": _new_keys, "values": _new_keys},
    "cache_append_int8": {"rows": lambda d: 2 * _new_keys(d), "keys": lambda d: _new_keys(d) / 4,
                          "values": lambda d: _new_keys(d) / 4, "scales": lambda d: 2 * _new_keys(d) / d["D"]},
    "embedding_accumulate": {"dweight": _embedded},
    "embedding_add_forward": {"weight": _embedded},
    "embedding_forward": {"weight": _embedded},
    "gather_forward": {"x": _selected},
    "index_select_forward": {"x": _selected},
    "mark_seen": {"seen": lambda d: d["B"] * d["T"]},
    "scatter_add_forward": {"x": _selected},
    "strided_gather": {"x": lambda d: math.prod(d[f"n{i}"] for i in range(6))},
    "strided_write": {"out": lambda d: d["K"] * d["V"]},
    "token_windows": {"tokens": lambda d: d["B"] * d["T"]},
}
_ONLY_WRITE = {"cache_append", "cache_append_int8", "mark_seen", "strided_write"}  # what they update, they do not read


def _scores(d: Dims) -> float:
    """Of packed sequences, whose lengths only the device knows, as many as they have where all are of one length, which
    are the fewest."""
    whole = float(d["B"]) * d["H"] * d["TQ"] * d["TK"] / max(1, d.get("S", 2) - 1)
    return whole if d["offset"] >= d["TK"] else whole / 2


def operations(spec: Spec, dims: Dims) -> float:
    """Of products and attention; 0 for kernels whose time is that of their bytes."""
    count = _FLOPS.get(spec.kernel.name, _FLOPS.get(spec.kernel.source))
    return count(dims) if count else 0.0


def touched(spec: Spec, dims: Dims, arg: Arg, nbytes: int) -> int:
    """Bytes that a launch touches of an argument of so many."""
    elements = _TOUCHED.get(spec.kernel.name, {}).get(arg.name)
    return nbytes if elements is None else min(nbytes, int(elements(dims) * spec.dtype(arg).host.itemsize))


def times(spec: Spec, arg: Arg) -> int:
    """How often a byte that is touched moves: twice where it is read and written."""
    return 2 if arg.access == "update" and spec.kernel.name not in _ONLY_WRITE else 1


def moved(spec: Spec, dims: Dims, places: Sequence[tuple[Hashable, int]]) -> int:
    """Bytes, from a name of each argument's place and its bytes: what is updated in place is read and written, what is
    given twice, such as in place of a bias that there is not, is read once."""
    read: dict[Hashable, int] = {}
    total = 0
    for arg, (name, nbytes) in zip(spec.kernel.args, places, strict=True):
        size = touched(spec, dims, arg, nbytes)
        if arg.access == "read":
            read[name] = max(size, read.get(name, 0))
        else:
            total += times(spec, arg) * size
    return total + sum(read.values())
