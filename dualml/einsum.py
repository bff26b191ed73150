"""einsum: sums of products by the letters of an equation, as permutes, reshapes and one matrix product."""

from __future__ import annotations

import math

from .errors import ShapeError
from .tensor import Tensor
from .tensor_methods import required


def _parsed(equation: str, count: int) -> tuple[list[str], str]:
    """The letters of each operand and of the result."""
    text = equation.replace(" ", "")
    left, arrow, out = text.partition("->")
    letters = left.split(",")
    if "." in text:
        raise ShapeError(f"[einsum] equation must name every dimension, got {equation!r} with an ellipsis. Name them, "
                         "or use matmul, which broadcasts.")
    if not all(part.isalpha() or not part for part in [*letters, out]):
        raise ShapeError(f"[einsum] equation must read like 'ij,jk->ik', got {equation!r}.")
    if len(letters) != count or count not in (1, 2):
        raise ShapeError(f"[einsum] equation must name the letters of one or two tensors, got {equation!r} for {count}."
                         " Multiply more than two one after another.")
    for part in [*letters, out]:
        if len(set(part)) != len(part):
            raise ShapeError(f"[einsum] a letter must come once in each term, got {part!r} in {equation!r}. Diagonals "
                             "are not supported: multiply by dm.eye(n) and sum.")
    if not arrow:
        joined = "".join(letters)
        out = "".join(sorted(c for c in set(joined) if joined.count(c) == 1))
    if not set(out) <= set("".join(letters)):
        raise ShapeError(f"[einsum] letters of the result must be in an operand, got {equation!r}.")
    return letters, out


def _ordered(x: Tensor, letters: str, wanted: str) -> Tensor:
    """x with its dimensions, named by letters, in the wanted order."""
    return x if letters == wanted else x.permute(*[letters.index(c) for c in wanted])


def _summed(x: Tensor, letters: str, kept: set[str]) -> tuple[Tensor, str]:
    """x summed over the letters that are not kept."""
    gone = tuple(d for d, c in enumerate(letters) if c not in kept)
    return (x.sum(gone), "".join(c for c in letters if c in kept)) if gone else (x, letters)


def einsum(equation: str, *operands: Tensor) -> Tensor:
    """The sum of products that the equation says, of one or two tensors: "bij,bjk->bik" is a batched matrix product.

    A letter in the operands but not behind -> is summed over; without -> the letters that come once are kept, in
    alphabetical order. An ellipsis and a letter twice in one operand are not supported.

    Raises:
        ShapeError: an equation that is none, or does not fit the tensors; the message says where.
    """
    names, out = _parsed(equation, len(operands))
    sizes: dict[str, int] = {}
    for letters, x in zip(names, operands, strict=True):
        if len(letters) != required("einsum", x, "every operand").ndim:
            raise ShapeError(f"[einsum] {letters!r} names {len(letters)} dimensions, got a tensor of shape {x.shape}.")
        for letter, size in zip(letters, x.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise ShapeError(f"[einsum] {letter!r} must be one size in {equation!r}, got {sizes[letter]} "
                                 f"and {size}.")
    if len(operands) == 1:
        single, letters = _summed(operands[0], names[0], set(out))
        return _ordered(single, letters, out)
    a, left = _summed(operands[0], names[0], set(out) | set(names[1]))
    b, right = _summed(operands[1], names[1], set(out) | set(names[0]))
    batch = "".join(c for c in left if c in right and c in out)
    inner = "".join(c for c in left if c in right and c not in out)
    rows, columns = "".join(c for c in left if c not in right), "".join(c for c in right if c not in left)
    count = [math.prod(sizes[c] for c in part) for part in (batch, rows, inner, columns)]
    lead = count[:1] if batch else []
    product = _ordered(a, left, batch + rows + inner).reshape(*lead, count[1], count[2]) @ \
        _ordered(b, right, batch + inner + columns).reshape(*lead, count[2], count[3])
    made = product.reshape(*[sizes[c] for c in batch + rows + columns])
    return _ordered(made, batch + rows + columns, out)
